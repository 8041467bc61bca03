"""Find the subject in a prompt, and read the answer that is asked for.

prompt = read_prompt(model, "The Eiffel Tower is in", "Eiffel Tower", answer=" Paris")
prompt.ids, prompt.subject, prompt.answer
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

Subject: TypeAlias = str | tuple[int, int] | range  # words, characters or token positions
AnswerLike: TypeAlias = str | int | Sequence[int] | None  # a text, or token ids


@dataclass(frozen=True)
class Prompt:
    """A prompt, the tokens in it that are the subject, and the answer asked for."""

    tokens: Tokens  # one row
    text: str  # as a result's call shows it
    subject: range  # positions
    answer: list[int]  # ids; empty for the model's own first choice

    @property
    def ids(self) -> list[int]:
        """Return the prompt's token ids."""
        return self.tokens.rows()[0]

    @property
    def ids_to_read(self) -> list[int]:
        """Return the prompt's ids followed by the answer's, without its last one, which is only predicted."""
        return [*self.ids, *self.answer[:-1]]


def read_prompt(
    model: Model,
    prompt: Inputs,
    subject: Subject,
    answer: AnswerLike,
    occurrence: int | None = None,
    *,
    bos: bool = False,
) -> Prompt:
    """Return a prompt with its subject found. The arguments are as in `trace`.

    Raises InputError or TokenizerError, one line each, for anything that cannot be traced.
    """
    tokens = model.tokens(prompt, bos=bos)
    if len(tokens) != 1:
        raise InputError(f"{len(tokens)} prompts were given: trace them one by one, then average([...])")
    text = prompt if isinstance(prompt, str) else (tokens.texts[0] if tokens.texts else None)
    n, front = len(tokens.rows()[0]), int(bos)
    positions = _subject_positions(tokens, text, subject, occurrence)
    if positions.start <= front and positions.stop == n:
        raise InputError(f"the subject is the whole prompt ({n - front} tokens): a part of it was expected")
    return Prompt(tokens, call_input(model, prompt, tokens.rows()), positions, _answer_ids(model, answer))


def _subject_positions(tokens: Tokens, text: str | None, subject: Subject, occurrence: int | None) -> range:
    """Return the positions of the tokens that share a character with the subject."""
    n = len(tokens.rows()[0])
    if isinstance(subject, range):
        if subject.step != 1 or not 0 <= subject.start < subject.stop <= n:
            raise InputError(f"subject={subject!r}: positions of tokens within range(0, {n}) were expected")
        return subject
    if text is None or tokens.offsets is None:
        raise InputError("the prompt was given as token ids: give the subject's positions, such as range(1, 4)")
    start, end = _subject_characters(text, subject, occurrence)
    touched = [i for i, (a, b) in enumerate(tokens.offsets[0]) if a < end and b > start]
    if not touched or touched[-1] >= n:
        raise InputError(f"the subject at characters {start} to {end} is not among the prompt's tokens")
    return range(touched[0], touched[-1] + 1)


def _subject_characters(text: str, subject: str | tuple[int, int], occurrence: int | None) -> tuple[int, int]:
    """Return the characters (start, end) of the subject in the text."""
    if not isinstance(subject, str):
        start, end = _pair(subject)
        if not 0 <= start < end <= len(text):
            raise InputError(f"subject=({start}, {end}): characters (start, end) within 0 to {len(text)} were expected")
        return start, end
    words = subject.strip()
    if not words:
        raise InputError("the subject is empty: some words of the prompt were expected")
    places = _occurrences(text, words)
    if not places:
        raise InputError(f"the subject {words!r} is not in the prompt {_short(text)}: give words as they stand there")
    if occurrence is None and len(places) > 1:
        starts = ", ".join(str(start) for start, _ in places[:5])
        raise InputError(
            f"the subject {words!r} is {len(places)} times in the prompt (at characters {starts}): "
            f"say which with occurrence=0 to {len(places) - 1}, or give characters (start, end)"
        )
    number = 0 if occurrence is None else occurrence
    if not is_whole(number) or not -len(places) <= number < len(places):
        times = f"is {len(places)} time{'s' * (len(places) > 1)} in the prompt"
        raise InputError(
            f"occurrence={shown(number)}: the subject {words!r} {times}, 0 to {len(places) - 1} were expected"
        )
    return places[int(number)]


def _occurrences(text: str, words: str) -> list[tuple[int, int]]:
    """Return the characters (start, end) of each occurrence of the words.

    Occurrences inside longer words count only where there are no others.
    """
    every = [match.span() for match in re.finditer(re.escape(words), text)]
    whole_words = [
        (a, b) for a, b in every if not (_is_inside_word(text[a - 1 : a + 1]) or _is_inside_word(text[b - 1 : b + 1]))
    ]
    return whole_words or every


def _is_inside_word(pair: str) -> bool:
    """Return whether two neighbouring characters are of one word.

    Letters without case never are: their scripts are mostly written without spaces.
    """
    return len(pair) == 2 and all(c.isdigit() or c.islower() or c.isupper() for c in pair)


def _pair(subject: Any) -> tuple[int, int]:
    """Return a subject that is not words as characters (start, end). Raises InputError where it is not a pair."""
    try:
        start, end = subject
        return int(start), int(end)
    except (TypeError, ValueError):
        kinds = "words, characters (start, end) or a range of token positions"
        raise InputError(f"subject={subject!r}: {kinds} were expected") from None


def _short(text: str) -> str:
    """Return a text as a message shows it, in at most about 60 characters."""
    return repr(text if len(text) <= 60 else f"{text[:28]}…{text[-28:]}")


def _answer_ids(model: Model, answer: AnswerLike) -> list[int]:
    """Return the answer's token ids: none where the model's own first choice is asked for."""
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
