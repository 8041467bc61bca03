"""Open corpora: files, objects in memory and Hugging Face datasets as documents.

    corpus = open_corpus("notes/*.txt")                    files, folders, globs
    corpus = open_corpus("wiki.parquet", field="body")     the field that holds the text, or token ids
    corpus = open_corpus(["one text", "another"])          texts, records, a mapping from ids to texts, a DataFrame, ...
    corpus = open_corpus([Path("a.txt"), Path("b.md")])    several paths
    corpus = open_corpus("hf:wikitext/wikitext-103-raw-v1:train")    a Hugging Face dataset (extra: corpora)
    corpus = open_corpus()                                 the ten documents that ship with the package

Documents are read one at a time. Records that hold no text are left out, counted and named in `corpus.problems` (with
`strict=True` the first one is an error). docs/corpora.md lists everything that a corpus may be.
"""

from __future__ import annotations

from cutaway.text.corpus.documents import NAMED, Corpus, Document, Problems
from cutaway.text.corpus.opening import Source, bundled, open_corpus
from cutaway.text.corpus.paths import Typed, files, names_files, refuse_path

__all__ = [
    "NAMED",
    "Corpus",
    "Document",
    "Problems",
    "Source",
    "Typed",
    "bundled",
    "files",
    "names_files",
    "open_corpus",
    "refuse_path",
]
