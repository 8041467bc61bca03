"""Show what the model and its input are made of.

read(model)             sizes, and parameters by part
tokens(model, text)     the text as the model's tokens
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cutaway.errors import InputError
from cutaway.results.call import analysis, meta_of
from cutaway.results.result import Result
from cutaway.text.corpus import refuse_path

if TYPE_CHECKING:
    import pandas as pd

    from cutaway.model.architectures import Sizes
    from cutaway.model.model import Model
    from cutaway.model.weights.anatomy import Part
    from cutaway.text.tokens import Tokens


@dataclass(frozen=True, eq=False, repr=False)
class Anatomy(Result):
    """The sizes of a model and its parameters by part."""

    analysis: ClassVar[str] = "anatomy.read"
    title: ClassVar[str] = "What is it made of?"

    text: str  # what print(model) shows
    parts: list[Part]
    config: Sizes

    def table(self) -> pd.DataFrame:
        """Return one row a part: part, parameters, share (of all parameters), of (the tensors)."""
        import pandas as pd

        total = sum(part.parameters for part in self.parts)
        rows = [(p.name, p.parameters, p.parameters / total, p.of) for p in self.parts]
        return pd.DataFrame(rows, columns=["part", "parameters", "share", "of"])

    def summary(self) -> str:
        return self.text

    def facts(self) -> list[tuple[str, str]]:
        total = sum(part.parameters for part in self.parts)
        c = self.config
        shape = f"{c.n_layers} × {c.n_heads}"
        return [("parameters", f"{total:,}"), ("layers × heads", shape), ("vocabulary", f"{c.d_vocab:,}")]

    def caption(self) -> str:
        return (
            "Number of parameters in each part of the model. A tied unembedding is the embedding matrix itself and "
            "adds none."
        )


@dataclass(frozen=True, eq=False, repr=False)
class TextTokens(Result):
    """A text cut into the model's tokens."""

    analysis: ClassVar[str] = "anatomy.tokens"
    title: ClassVar[str] = "How does the model see the text?"

    ids: list[int]
    tokens: list[str]
    display: list[str]
    offsets: list[tuple[int, int]]  # characters: start, end
    text: str

    def table(self) -> pd.DataFrame:
        """Return one row a token: position, token_id, token, display, start, end (characters of the text)."""
        import pandas as pd

        starts, ends = [a for a, _ in self.offsets], [b for _, b in self.offsets]
        columns = {"token_id": self.ids, "token": self.tokens, "display": self.display, "start": starts, "end": ends}
        return pd.DataFrame({"position": range(len(self.ids)), **columns})

    def summary(self) -> str:
        n, characters = len(self.ids), len(self.text)
        return f"{n:,} tokens, {characters:,} characters ({characters / n:.2f} a token)\n{' | '.join(self.display)}"

    def caption(self) -> str:
        return (
            "The text as tokens; hover for each token's id and characters. A dot (·) stands for a space, ↵ for a "
            "newline."
        )


@analysis("anatomy.read")
def read(model: Model) -> Anatomy:
    """Return a model's sizes, parameters by part, tokenizer, dtype and device."""
    return Anatomy(meta_of(model, None), str(model), model.parts(), model.config)


@analysis("anatomy.tokens")
def tokens(model: Model, text: str | Tokens, *, bos: bool = False) -> TextTokens:
    """Return a text as the model's tokens: ids, strings, display strings and character offsets.

    The text may be longer than the model's context. Raises InputError for an empty text, TokenizerError where the
    checkpoint has no tokenizer.
    """
    refuse_path(text)
    as_tokens = model.tokenizer.tokens(text, bos) if isinstance(text, str) else text
    if len(as_tokens) != 1 or as_tokens.offsets is None or as_tokens.texts is None or not as_tokens.offsets[0]:
        raise InputError("anatomy.tokens reads one text that is not empty")
    [offsets] = as_tokens.offsets
    read = as_tokens.texts[0][: offsets[-1][1]]  # Tokens may be less than the whole of their text
    meta = meta_of(model, read)
    return TextTokens(meta, as_tokens.rows()[0], as_tokens.strings[0], as_tokens.display[0], offsets, read)
