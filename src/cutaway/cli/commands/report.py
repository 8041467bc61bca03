"""`cutaway report`: write a page about a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cutaway.cli.inputs import at_most_one, load, read_corpus, read_documents, read_text
from cutaway.cli.options import CorpusOption, DeviceOption, DtypeOption, FieldOption, ModelOption, TextOption, ending_in
from cutaway.cli.output import print_path
from cutaway.text.display import visible


def report(
    model: ModelOption = None,
    text: TextOption = None,
    corpus: CorpusOption = None,
    field: FieldOption = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The page to write.", callback=ending_in(".html", ".htm"))
    ] = Path("report.html"),
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Write a report on a model: one HTML page that needs no network."""
    from cutaway.pages.first_look import standard
    from cutaway.pages.report import facts
    from cutaway.pages.report import report as write_report
    from cutaway.progress import track
    from cutaway.text.corpus import bundled

    at_most_one(text, corpus)
    source = read_corpus(corpus, field)
    documents = [] if source is None else read_documents(source)
    loaded = load(model, device, dtype)
    if text is None and not corpus:
        if loaded.has_tokenizer:
            documents = bundled()
        else:
            print(f"{loaded.name} has no tokenizer: the report shows what needs no text", file=sys.stderr)
    results = list(track(standard(loaded, None if text is None else read_text(text), documents), "looking inside"))
    write_report(results, output)
    print_path(output)
    main_facts = facts(results)
    width = max(len(name) for name, _ in main_facts) + 2
    for name, value in main_facts:
        print(visible(f"  {name:<{width}}{value}"))
