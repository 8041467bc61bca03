"""A prompt whose subject is hidden by noise: which tokens are the subject, how much noise, and the noise itself.

    prompt = read(model, "The Eiffel Tower is in", "Eiffel Tower", answer=" Paris")
    level(model, prompt, 3.0, None)          three standard deviations of the token embeddings
    draw("gaussian", seed, samples, positions, width)

Meng et al. 2022, Locating and Editing Factual Associations in GPT, section 2.1 and appendix B.1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cutaway.arguments import is_whole, shown
from cutaway.errors import InputError
from cutaway.results.call import call_input
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model

Subject: TypeAlias = str | tuple[int, int] | range
Answer: TypeAlias = str | int | Sequence[int] | None


@dataclass(frozen=True)
class Prompt:
    """A prompt, the tokens of it that are the subject, and the answer asked for."""

    tokens: Tokens  # one row
    text: str  # as a call may spell it
    subject: range  # positions
    answer: list[int]  # ids; empty for the model's own first choice

    @property
    def ids(self) -> list[int]:
        return self.tokens.rows()[0]

    def forced(self, answer: list[int]) -> list[int]:
        """The ids that are read when the answer is asked for token by token: all of its tokens but the last."""
        return [*self.ids, *answer[:-1]]


def read(
    model: Model, prompt: Inputs, subject: Subject, answer: Answer, occurrence: int | None = None, *, bos: bool = False
) -> Prompt:
    """Check and find what trace() was given. Raises InputError or TokenizerError, one line each."""
    tokens = model.tokens(prompt, bos=bos)
    if len(tokens) != 1:
        raise InputError(f"{len(tokens)} prompts were given: trace them one by one, then average([...])")
    text = prompt if isinstance(prompt, str) else (tokens.texts[0] if tokens.texts else None)
    n, front = len(tokens.rows()[0]), int(bos)
    found = _positions(tokens, text, subject, occurrence)
    if found.start <= front and found.stop == n:
        raise InputError(f"the subject is the whole prompt ({n - front} tokens): a part of it was expected")
    return Prompt(tokens, call_input(model, prompt, tokens.rows()), found, answer_ids(model, answer))


def _positions(tokens: Tokens, text: str | None, subject: Subject, occurrence: int | None) -> range:
    """The subject's tokens: all that share a character with it."""
    n = len(tokens.rows()[0])
    if isinstance(subject, range):
        if subject.step != 1 or not 0 <= subject.start < subject.stop <= n:
            raise InputError(f"subject={subject!r}: positions of tokens within range(0, {n}) were expected")
        return subject
    if text is None or tokens.offsets is None:
        raise InputError("the prompt was given as token ids: give the subject's positions, such as range(1, 4)")
    start, end = _characters(text, subject, occurrence)
    touched = [i for i, (a, b) in enumerate(tokens.offsets[0]) if a < end and b > start]
    if not touched or touched[-1] >= n:
        raise InputError(f"the subject at characters {start} to {end} is not among the prompt's tokens")
    return range(touched[0], touched[-1] + 1)


def _characters(text: str, subject: str | tuple[int, int], occurrence: int | None) -> tuple[int, int]:
    """Where the subject stands in the text. Words are looked for whole first, then inside others."""
    if not isinstance(subject, str):
        start, end = _pair(subject)
        if not 0 <= start < end <= len(text):
            raise InputError(f"subject=({start}, {end}): characters (start, end) within 0 to {len(text)} were expected")
        return start, end
    words = subject.strip()
    if not words:
        raise InputError("the subject is empty: some words of the prompt were expected")
    every = [found.span() for found in re.finditer(re.escape(words), text)]
    places = [
        (a, b) for a, b in every if not (_one_word(text[a - 1 : a + 1]) or _one_word(text[b - 1 : b + 1]))
    ] or every
    if not places:
        raise InputError(f"the subject {words!r} is not in the prompt {_short(text)}: give words as they stand there")
    if occurrence is None and len(places) > 1:
        at = ", ".join(str(start) for start, _ in places[:5])
        raise InputError(
            f"the subject {words!r} is {len(places)} times in the prompt (at characters {at}): "
            f"say which with occurrence=0 to {len(places) - 1}, or give characters (start, end)"
        )
    which = 0 if occurrence is None else occurrence
    if not is_whole(which) or not -len(places) <= which < len(places):
        times = f"is {len(places)} time{'s' * (len(places) > 1)} in the prompt"
        raise InputError(
            f"occurrence={shown(which)}: the subject {words!r} {times}, 0 to {len(places) - 1} were expected"
        )
    return places[int(which)]


def _one_word(pair: str) -> bool:
    """Whether two neighbouring characters are of one word. Scripts without case are mostly written without spaces."""
    return len(pair) == 2 and all(c.isdigit() or c.islower() or c.isupper() for c in pair)


def _pair(subject: Any) -> tuple[int, int]:
    try:
        start, end = subject
        return int(start), int(end)
    except (TypeError, ValueError):
        kinds = "words, characters (start, end) or a range of token positions"
        raise InputError(f"subject={subject!r}: {kinds} were expected") from None


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:28]}…{text[-28:]}")


def answer_ids(model: Model, answer: Answer) -> list[int]:
    """The answer's token ids; none for None."""
    if answer is None:
        return []
    given = model.tokenizer.encode([answer])[0][0] if isinstance(answer, str) else np.atleast_1d(answer)
    ids = [int(i) for i in given]
    if not ids:
        raise InputError("the answer is empty: a text such as ' Paris' was expected, or None for the model's own")
    if wrong := [i for i in ids if not 0 <= i < model.config.d_vocab]:
        last = model.config.d_vocab - 1
        raise InputError(f"token id {wrong[0]} of the answer is outside the vocabulary: 0 to {last} were expected")
    return ids
