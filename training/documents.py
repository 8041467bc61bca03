"""The text: which documents are held out, the tokenizer, the exact counts, and the windows of an epoch.

    corpus = prepare(folder, hold_out=10, entries=8192)
    corpus.tokenizer, corpus.counts                        as tokenizer.json and train_counts.npy hold them
    for batch in batches(corpus.train, context=512, size=8, seed=0): ...       without end

Byte-level BPE: Radford et al. 2019, Language Models are Unsupervised Multitask Learners; section 2.2.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor

from cutaway.errors import InputError
from cutaway.text.tokens import END_OF_TEXT, Tokenizer

SMALLEST_VOCABULARY = 256 + 1  # every byte, and <|endoftext|>


@dataclass(frozen=True)
class Corpus:
    tokenizer: tokenizers.Tokenizer
    counts: Tensor  # int64 [entries]: how often each id stands in what is trained on
    train: list[Tensor]  # ids of each document, <|endoftext|> first
    held_out: list[str]  # the file names of those never trained on, sorted
    unseen: Tensor  # their ids, joined, <|endoftext|> before each


def prepare(folder: Path, hold_out: int, entries: int) -> Corpus:
    """Read a folder of *.txt, hold `hold_out` of them out, and learn a vocabulary of `entries` from the others."""
    texts = read(folder)
    apart = held_out(list(texts), hold_out)
    known = [content for name, content in texts.items() if name not in apart]
    tokenizer = train_tokenizer(known, entries)
    train = encode(tokenizer, known)
    unseen = torch.cat(encode(tokenizer, [texts[name] for name in apart]))
    return Corpus(tokenizer, counts(train, tokenizer.get_vocab_size()), train, apart, unseen)


def read(folder: Path) -> dict[str, str]:
    """Every *.txt of a folder, sorted by name, without the white space around it: file name -> text.

    Line ends read as `\\n`. Raises InputError, naming the file, for text that is not UTF-8.
    """
    texts = {}
    for path in sorted(folder.glob("*.txt")):
        try:
            texts[path.name] = path.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 at byte {error.start}: convert it") from None
    return texts


def held_out(names: Sequence[str], how_many: int) -> list[str]:
    """The names that are never trained on, sorted. The seed is fixed: the same documents whatever else changes."""
    return sorted(names[i] for i in random.Random(0).sample(range(len(names)), how_many))


def train_tokenizer(texts: Iterable[str], entries: int) -> tokenizers.Tokenizer:
    """Byte-level BPE of `entries` - 1 entries with GPT-2's pre-tokenizer, then <|endoftext|> as the last id.

    A short text runs out of pairs to merge before that: then there are fewer entries.
    """
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=entries - 1, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([END_OF_TEXT])
    Tokenizer(backend)  # sets the post-processor that Cutaway reads every tokenizer with, so the file says it too
    return backend


def encode(backend: tokenizers.Tokenizer, texts: Iterable[str]) -> list[Tensor]:
    """Each text's ids, int64, with <|endoftext|> before them."""
    end = backend.token_to_id(END_OF_TEXT)
    return [torch.tensor([end, *backend.encode(text).ids]) for text in texts]


def counts(documents: Iterable[Tensor], entries: int) -> Tensor:
    """How often each id stands in the documents: int64 [entries]."""
    total = torch.zeros(entries, dtype=torch.int64)
    for ids in documents:
        total += torch.bincount(ids, minlength=entries)
    return total


def windows(ids: Tensor, context: int) -> Tensor:
    """Whole windows [windows, context + 1]; what is left over at the end is dropped.

    Each window begins with the last id of the one before: read inputs from [:, :-1] and targets from [:, 1:], and
    every id is an input once and a target once.
    """
    return ids.unfold(0, context + 1, context)


def epoch(documents: Sequence[Tensor], context: int, rng: random.Random) -> Tensor:
    """One epoch's windows: the documents in a new order, joined, cut from a random offset below `context` on.

    The windows come in random order: eight in a row are mostly of one document, a far worse sample than eight of all.
    """
    joined = torch.cat(rng.sample(documents, len(documents)))
    cut = windows(joined[rng.randrange(context) :], context)
    return cut[torch.tensor(rng.sample(range(len(cut)), len(cut)), device=cut.device)]


def batches(documents: Sequence[Tensor], context: int, size: int, seed: int) -> Iterator[Tensor]:
    """Batches [size, context + 1], without end. An epoch's last windows wait for the next epoch's to fill a batch."""
    rng = random.Random(seed)
    waiting = torch.empty(0, context + 1, dtype=torch.int64, device=documents[0].device)
    while True:
        waiting = torch.cat([waiting, epoch(documents, context, rng)])
        whole = len(waiting) // size * size
        for i in range(0, whole, size):
            yield waiting[i : i + size]
        waiting = waiting[whole:]
