"""Continuing a text, one token at a time.

    generated = model.generate("The people", max_new_tokens=40, temperature=0.8, top_p=0.9, seed=1)
    print(generated); generated.texts; generated.tokens; generated.run["blocks.3.attn_out"]
    for step in steps(model, "The people"): step.ids           the same, token by token

Keys and values of what was read are kept, so that each step computes one position. While edits are in force every
step reads the whole text again instead: an edit may reach any position, and what it does to earlier ones must hold.

Fan et al. 2018 (top-k sampling); Holtzman et al. 2020, The Curious Case of Neural Text Degeneration, section 3.1
(top-p, nucleus sampling).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cutaway.arguments import seed_of, whole
from cutaway.errors import InputError
from cutaway.model.architectures import gpt2
from cutaway.model.modes import plainly
from cutaway.model.taps.tap import Edit, Tap
from cutaway.progress import track
from cutaway.text.display import visible
from cutaway.text.tokens import Tokenizer, Tokens

if TYPE_CHECKING:
    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model
    from cutaway.model.taps.captures import Run
    from cutaway.model.taps.sites import Site


@dataclass(frozen=True, eq=False)
class Generated:
    """Texts with their continuations. Prints as the texts, control characters made visible."""

    tokens: Tokens  # prompts and continuations
    prompt_lengths: list[int]  # tokens of each prompt, BOS included
    run: Run | None = field(default=None, repr=False)  # one pass over the finished texts, where captures were asked for
    ends: tuple[int, ...] = field(default=(), repr=False)  # the ids that end a text

    @property
    def texts(self) -> list[str]:
        """Each prompt with its continuation, without BOS and the tokens that end a text."""
        return [self._decode(row) for row in self.tokens.rows()]

    @property
    def continuations(self) -> list[str]:
        """What was added to each prompt."""
        return [self._decode(row[n:]) for row, n in zip(self.tokens.rows(), self.prompt_lengths, strict=True)]

    def _decode(self, row: list[int]) -> str:
        return read_text(self.tokens.need_tokenizer(), row, self.ends)

    def __str__(self) -> str:
        return visible("\n\n".join(self.texts))


def read_text(tokenizer: Tokenizer, ids: Iterable[int], ends: Iterable[int]) -> str:
    """Return the text of ids without BOS and the tokens that end a text."""
    unread = {*ends, *tokenizer.boundary_ids}
    return tokenizer.decode([index for index in ids if index not in unread])


def generate(
    model: Model,
    inputs: Inputs,
    max_new_tokens: int,
    *,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    stop: bool,
    capture: str | Site | Iterable[str | Site],
    edits: Mapping[str, Edit] | None,
    bos: bool,
) -> Generated:
    """Model.generate, where the arguments are described."""
    max_new_tokens = whole("max_new_tokens", max_new_tokens, 1)
    sites = [site.name for site in model.sites().match(capture)]  # a wrong name fails here, not at the end
    sampling: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed, "stop": stop}
    tokens = model.tokens(inputs, bos=bos)
    made, rows = steps(model, tokens, max_new_tokens, **sampling, edits=edits), tokens.rows()
    for step in track(made, "generating", max_new_tokens):
        rows = [row if token is None else [*row, token] for row, token in zip(rows, step.ids, strict=True)]
    finished = model.tokens(Tokens.from_lists(rows, tokenizer=tokens.tokenizer))
    run = model.run(finished, capture=sites, edits=edits, logits=None) if sites else None
    return Generated(finished, tokens.lengths.tolist(), run, model.ends)


@dataclass(frozen=True, eq=False)
class Step:
    """One more token of each text."""

    ids: list[int | None]  # None for a text that has ended
    logits: Tensor  # batch V; that it was chosen from

    def probabilities(self) -> list[float | None]:
        """What the model gave each, over the whole vocabulary, whatever the sampling."""
        log_p = self.logits.double().log_softmax(-1)
        return [None if token is None else log_p[i, token].exp().item() for i, token in enumerate(self.ids)]


def steps(
    model: Model,
    inputs: Inputs,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: bool = True,
    edits: Mapping[str, Edit] | None = None,
    bos: bool = False,
) -> Iterator[Step]:
    """What Model.generate does, token by token, until every text has ended. Raises as that does, at once."""
    _check(temperature, top_p)
    max_new_tokens, seed = whole("max_new_tokens", max_new_tokens, 1), seed_of(seed)
    top_k = None if top_k is None else whole("top_k", top_k, 1)
    tokens = model.tokens(inputs, bos=bos)
    longest, context = int(tokens.lengths.max()), model.config.n_ctx
    if longest + max_new_tokens > context:
        room = f"at most {context - longest} new tokens fit" if longest < context else "none fits"
        raise InputError(f"{longest} tokens and {max_new_tokens} new ones exceed the context of {context}: {room}")
    ends = model.ends if stop else ()
    generator = torch.Generator().manual_seed(seed)
    sample = partial(choose, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
    return _steps(model, tokens, max_new_tokens, edits, sample, ends)


def _steps(
    model: Model,
    tokens: Tokens,
    max_new_tokens: int,
    edits: Mapping[str, Edit] | None,
    sample: Callable[[Tensor], Tensor],
    ends: tuple[int, ...],
) -> Iterator[Step]:
    whole = bool(edits or model.active_edits)
    reader = _Whole(model, edits) if whole else _Cached(model, tokens, max_new_tokens)
    rows = tokens.rows()
    done = [False] * len(rows)
    for _ in range(max_new_tokens):
        logits = reader.next_logits(rows)
        ids = [None if ended else token for ended, token in zip(done, sample(logits).tolist(), strict=True)]
        rows = [row if token is None else [*row, token] for row, token in zip(rows, ids, strict=True)]
        yield Step(ids, logits)
        done = [ended or token in ends for ended, token in zip(done, ids, strict=True)]
        if all(done):
            return


def choose(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator
) -> Tensor:
    """Logits [batch, V] -> token ids [batch]. Temperature 0 takes the most likely, the lowest id among equals.

    top_p keeps the most likely tokens up to and including the one with which their probability reaches top_p.

    Raises InputError for logits without a largest number: weights or edits that overflow.
    """
    logits = logits.double().cpu()
    highest = logits.amax(-1, keepdim=True)
    if not highest.isfinite().all():
        raise InputError("the logits hold NaN or infinity, so no token can be chosen: look at the edits and the dtype")
    if temperature == 0:
        return logits.argmax(-1)
    logits = (logits - highest) / temperature  # at most 0, so that no temperature overflows
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None:
        ordered, index = logits.sort(descending=True, stable=True)
        p = ordered.softmax(-1)
        cut = p.cumsum(-1) - p >= top_p  # the probability before this token already reaches top_p
        logits = logits.scatter(-1, index, ordered.masked_fill(cut, -torch.inf))
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


class _Whole:
    """Reads every text from its start at each step, edits in force."""

    def __init__(self, model: Model, edits: Mapping[str, Edit] | None) -> None:
        self.model, self.edits = model, edits

    def next_logits(self, rows: list[list[int]]) -> Tensor:
        return self.model.run(Tokens.from_lists(rows), edits=self.edits, logits="last").logits[:, 0]  # B V


class _Cached:
    """Reads the prompts once and then one token of each row at a time."""

    @plainly
    def __init__(self, model: Model, prompts: Tokens, room: int) -> None:
        self.model, self.prompts = model, prompts
        width = prompts.ids.shape[1] + room
        self.cache = gpt2.Cache(model.config, len(prompts), width, model.device, model.dtype)

    @plainly
    def next_logits(self, rows: list[list[int]]) -> Tensor:
        model, cache = self.model, self.cache
        if cache.lengths is None:
            ids, positions, last = self.prompts.ids, self.prompts.positions, self.prompts.lengths - 1
        else:
            # A row that has ended reads its last token again; what follows from it is not used.
            ids = torch.tensor([[row[-1]] for row in rows], device=model.device)
            positions, last = cache.lengths[:, None], None
        tap = Tap(tokens=ids, mask=torch.ones_like(ids), positions=positions)
        logits = gpt2.forward(model.weights, model.config, ids, positions, tap, last, cache)
        cache.advance(self.prompts.lengths)
        return logits[:, -1]  # B V


def _check(temperature: float, top_p: float | None) -> None:
    def fail(name: str, value: object, expected: str) -> None:
        raise InputError(f"{name}={value!r}: {expected} was expected")

    def number(value: object) -> bool:
        return isinstance(value, Real) and not isinstance(value, bool)

    if not number(temperature) or not 0 <= temperature < float("inf"):
        fail("temperature", temperature, "a number of at least 0 (0 takes the most likely token)")
    if top_p is not None and (not number(top_p) or not 0 < top_p <= 1):
        fail("top_p", top_p, "a number above 0 and at most 1")
