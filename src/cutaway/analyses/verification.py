"""Check facts about a loaded model by measuring them.

verify(model)                            is the head tied, does each output depend only on its past, ...
verify(model, reference=hf_model)        ... and do logits and ids of texts equal those of transformers?
facts(model)                             the same facts one by one, as they are measured
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from cutaway.arguments import seed_of
from cutaway.errors import InputError, TokenizerError
from cutaway.results.call import analysis, describe
from cutaway.results.result import Result
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    import pandas as pd
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerBase

    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model

TEXTS = (  # on which tokenizers differ
    "The people of the United States, in order to form a more perfect union",
    " a space in front",
    "two  spaces,\ttabs\n\nand lines\r\n",
    "It's they'll DON'T; 3.14159 and 1,234,567 (2020)",
    "Grüße, naïve café; e\u0301, 東京へ行く 🤖 ½ ﬁ Ωμέγα \u00a0\u200b",
)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 0.1, torch.bfloat16: 0.5}


@dataclass(frozen=True, slots=True)
class Fact:
    """A measured fact: the largest difference measured, and the largest that would still count as none."""

    claim: str
    measured: float  # largest absolute difference
    allowed: float
    holds: bool
    unit: str  # of the difference


@dataclass(frozen=True, eq=False, repr=False)
class Verification(Result):
    """Facts about a model, each with the largest difference measured."""

    analysis: ClassVar[str] = "verify"
    title: ClassVar[str] = "What is certain about it?"

    items: list[Fact]

    @property
    def holds(self) -> bool:
        """Return whether every fact holds."""
        return all(item.holds for item in self.items)

    def table(self) -> pd.DataFrame:
        """Return one row a fact: claim, measured (largest absolute difference), allowed, unit, holds."""
        import pandas as pd

        rows = [(i.claim, i.measured, i.allowed, i.unit, i.holds) for i in self.items]
        return pd.DataFrame(rows, columns=["claim", "measured", "allowed", "unit", "holds"])

    def summary(self) -> str:
        return "\n".join(
            f"{'yes' if i.holds else 'NO':<4}{i.claim}: {i.measured:.2g} {i.unit} (allowed {i.allowed:g})"
            for i in self.items
        )

    def caption(self) -> str:
        return (
            "The largest difference measured for each claim, beside the difference that floating-point arithmetic "
            "explains (the tick). An exact zero is at the left edge."
        )


@analysis("verify")
def verify(
    model: Model, reference: GPT2LMHeadModel | None = None, *, text: Inputs | None = None, seed: int = 0
) -> Verification:
    """Measure what should be true of the model.

    Output i depends only on tokens 0..i: every later token is changed, for several i; no output up to i may change, and
    the output after it must. A text in a padded batch gets the same output as by itself. The head is the embedding
    (tied), or a matrix of its own. With a transformers model as `reference`: the largest difference of logits and
    log-probabilities, and the number of texts whose ids differ from those of the reference's own tokenizer, if there is
    one beside it in its folder or in the hub's cache. Each added token occurs in one of the texts.

    Args:
        text: the text or ids to run on; by default 64 token ids drawn with `seed`.

    Raises InputError for a text of one token, or a reference with another vocabulary.
    """
    return verification(model, list(facts(model, reference, text=text, seed=seed)), reference, text=text, seed=seed)


def facts(
    model: Model, reference: GPT2LMHeadModel | None = None, *, text: Inputs | None = None, seed: int = 0
) -> Iterator[Fact]:
    """Yield the facts that verify measures, each as soon as it is measured."""
    tokens = _default_tokens(model, seed) if text is None else model.tokens(text)
    ids = tokens.ids[:1, : int(tokens.lengths[0])]
    if ids.shape[1] < 2:
        raise InputError("verify needs a text of at least two tokens")
    allowed = TOLERANCE[model.dtype]
    yield _tied(model)
    yield from _causal(model, ids, seed, allowed)
    yield _padded(model, ids, allowed)
    if reference is not None:
        yield from _equal(model, ids, reference, allowed)
        yield from _same_ids(model, reference, text)


def verification(
    model: Model,
    items: list[Fact],
    reference: GPT2LMHeadModel | None = None,
    *,
    text: Inputs | None = None,
    seed: int = 0,
) -> Verification:
    """Return the result made of facts, given the arguments that `facts(...)` was called with."""
    given = {"text": text} if isinstance(text, str) else {}
    meta = describe(model, "verify", None, **given, seed=seed) | {"input": given.get("text")}
    if reference is not None:
        meta["call"] = meta["call"].replace("verify(model", "verify(model, hf_model")
    return Verification(meta, items)


def _default_tokens(model: Model, seed: int) -> Tokens:
    """Draw token ids to run on."""
    generator = torch.Generator().manual_seed(seed_of(seed))
    ids = torch.randint(model.config.d_vocab, (1, min(64, model.config.n_ctx)), generator=generator)
    return model.tokens(ids)


def _tied(model: Model) -> Fact:
    """Measure the difference of head and embedding."""
    difference = (model.weights.W_U - model.weights.W_E).abs().max().item()
    if model.tied:
        return Fact("the head is the embedding matrix itself (tied)", difference, 0.0, difference == 0, "weight")
    return Fact("the head is a matrix of its own (untied)", difference, 0.0, difference > 0, "weight")


def _causal(model: Model, ids: Tensor, seed: int, allowed: float) -> list[Fact]:
    """Measure how outputs move when all tokens after one are changed."""
    n = ids.shape[1]
    generator = torch.Generator().manual_seed(seed)
    ends = sorted({min(end, n - 2) for end in (0, n // 4, n // 2, 3 * n // 4, n)})
    changed = ids.repeat(len(ends), 1)
    for row, end in zip(changed, ends, strict=True):  # each token by another id, never by its own
        shift = torch.randint(1, model.config.d_vocab, (n - end - 1,), generator=generator).to(row.device)
        row[end + 1 :] = (row[end + 1 :] + shift) % model.config.d_vocab
    whole = model.run(ids.repeat(len(ends), 1)).logits
    moved = (model.run(changed).logits - whole).abs().amax(-1)  # end, pos
    after_end = torch.arange(n, device=moved.device) - torch.tensor(ends, device=moved.device)[:, None]  # end, pos
    # max and min of torch, since they return NaN where there is one.
    before, after = moved[after_end <= 0].max().item(), moved[after_end == 1].min().item()
    return [
        Fact("changing later tokens changes no earlier output", before, allowed, before <= allowed, "logit"),
        Fact("changing a token changes the output at it", after, allowed, after > allowed, "logit"),
    ]


def _padded(model: Model, ids: Tensor, allowed: float) -> Fact:
    """Measure the difference that padding in a batch makes to a text."""
    short = max(1, ids.shape[1] // 2)
    [row] = ids.tolist()
    batch = model.run(Tokens.from_lists([row, row[:short]])).logits[1, :short]
    alone = model.run(ids[:, :short]).logits[0]
    difference = (batch - alone).abs().max().item()
    claim = "a text padded in a batch gets what it gets alone"
    return Fact(claim, difference, allowed, difference <= allowed, "logit")


def _equal(model: Model, ids: Tensor, reference: Any, allowed: float) -> list[Fact]:
    """Measure the difference from the reference's logits and log-probabilities."""
    entries = reference.config.vocab_size
    if entries != model.config.d_vocab:
        raise InputError(f"the reference has {entries:,} vocabulary entries, this model has {model.config.d_vocab:,}")
    if reference.training:
        raise InputError("the reference is in training mode, where dropout changes its logits: call .eval() on it")
    ids = ids[:, : reference.config.n_positions]
    with torch.no_grad():
        theirs = reference(ids.to(reference.device)).logits.to(model.device).double()
    ours = model.run(ids).logits.double()
    logit = (ours - theirs).abs().max().item()
    log_p = (ours.log_softmax(-1) - theirs.log_softmax(-1)).abs().max().item()
    return [
        Fact("logits equal the reference's", logit, allowed, logit <= allowed, "logit"),
        Fact("log-probabilities equal the reference's", log_p, allowed, log_p <= allowed, "nat"),
    ]


def _same_ids(model: Model, reference: Any, text: Inputs | None) -> Iterator[Fact]:
    """Count the texts whose ids differ from those of the reference's tokenizer, where both have one."""
    theirs = _tokenizer_of(reference)
    if theirs is None or not model.has_tokenizer:
        return
    added = dict.fromkeys([*theirs.get_added_vocab(), *model.tokenizer.added])
    texts = [*TEXTS, *([text] if isinstance(text, str) else []), *(f"a{token}b {token} c" for token in added)]
    differ = sum(_ids(model, one) != theirs.encode(one, add_special_tokens=False, verbose=False) for one in texts)
    yield Fact("ids equal those of the reference's tokenizer", differ, 0, differ == 0, f"of {len(texts)} texts")


def _ids(model: Model, text: str) -> list[int] | None:
    """Return a text's ids, or None where the tokenizer refuses it."""
    try:
        return model.tokenizer.encode([text])[0][0]
    except TokenizerError:
        return None


def _tokenizer_of(reference: Any) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer beside a transformers model, or None; it uses no network."""
    from transformers import AutoTokenizer

    origin = getattr(reference, "name_or_path", "")
    try:
        tokenizer = AutoTokenizer.from_pretrained(origin, local_files_only=True) if origin else None
    except Exception:  # there is none, or none that transformers can read
        return None
    # Where there are no files, transformers makes an empty tokenizer.
    return tokenizer if tokenizer is not None and tokenizer.vocab_size else None
