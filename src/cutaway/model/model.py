"""The face of a loaded model.

model = cutaway.load()                              the bundled model
run = model.run("some text", capture=["attn_out"])  one forward pass
run["blocks.3.attn_out"], run.stack("attn_out"), run.logits
with model.edited({"blocks.3.mlp_out": 0.0}): ...   undone on leaving, whatever happens
model.predict(["The people of the United"]), print(model), model.sites()
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

from cutaway.errors import EditError, InputError, TokenizerError
from cutaway.model import fold
from cutaway.model.architectures import gpt2
from cutaway.model.architectures.config import Config
from cutaway.model.architectures.gpt2 import Weights
from cutaway.model.generate import Generated, generate
from cutaway.model.inputs import Inputs, as_tokens, check
from cutaway.model.memory import keep_pages
from cutaway.model.modes import gradients, lasting, plainly
from cutaway.model.taps import edits as editing
from cutaway.model.taps import tap
from cutaway.model.taps.captures import Run
from cutaway.model.taps.edits import Edited
from cutaway.model.taps.sites import Site, Sites
from cutaway.model.taps.tap import Edit, Tap, Watcher
from cutaway.text.tokens import Tokenizer, Tokens

if TYPE_CHECKING:
    from cutaway.analyses.predictions.result import NextTokens

Logits: TypeAlias = Literal["all", "last"] | None


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a model, for its anatomy."""

    name: str
    parameters: int
    of: str  # the tensors it consists of


class Model:
    """A GPT-2 whose every internal state can be captured and edited."""

    def __init__(
        self,
        config: Config,
        weights: Weights,
        tokenizer: Tokenizer | None,
        *,
        name: str,
        origin: str = "...",
        ends: Sequence[int] = (),
        bundled: bool = False,
    ) -> None:
        self.config = config
        self.weights = weights
        self.name = name
        self.origin = origin  # the Python that made it
        self.bundled = bundled  # the very weights that ship with Cutaway, folded or not
        self._tokenizer = tokenizer
        self._fingerprint: tuple[object, str] | None = None  # what the weights looked like, and their hash
        self._ends = tuple(ends)
        if self.device.type == "cpu":
            keep_pages()

    # --- what it is ---

    @property
    def device(self) -> torch.device:
        return self.weights.W_E.device

    @property
    def dtype(self) -> torch.dtype:
        return self.weights.W_E.dtype

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises TokenizerError where the checkpoint has none."""
        if self._tokenizer is None:
            raise TokenizerError(
                f"the checkpoint {self.name!r} has no tokenizer: pass token ids [batch, pos] instead of text, or put "
                "tokenizer.json (or vocab.json and merges.txt) into its folder"
            )
        return self._tokenizer

    @property
    def has_tokenizer(self) -> bool:
        return self._tokenizer is not None

    @property
    def ends(self) -> tuple[int, ...]:
        """The ids that end a text: those the checkpoint declares (eos_token_id), else its tokenizer's end of text."""
        own = self._tokenizer.end_of_text if self._tokenizer is not None else None
        declared = tuple(index for index in self._ends if index < self.config.d_vocab)
        return declared or (() if own is None else (own,))

    @cached_property
    def _sites(self) -> Sites:
        return Sites(self.config)

    def sites(self) -> Sites:
        """Every site with its shape, its names in the three vocabularies and its meaning; prints as a table."""
        return self._sites

    def parameters(self) -> dict[str, Tensor]:
        """Every weight once (a tied head is the embedding), by a dotted name."""
        w = self.weights
        named: dict[str, Tensor | None] = {"W_E": w.W_E, "W_pos": w.W_pos}
        for i, block in enumerate(w.blocks):
            for field in block.__dataclass_fields__:
                value = getattr(block, field)
                parts = {f".{p}": getattr(value, p) for p in "wb"} if isinstance(value, gpt2.LayerNorm) else {"": value}
                named |= {f"blocks.{i}.{field}{suffix}": tensor for suffix, tensor in parts.items()}
        named |= {"ln_final.w": w.ln_final.w, "ln_final.b": w.ln_final.b, "b_U": w.b_U}
        if not self.tied:
            named["W_U"] = w.W_U
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @property
    def tied(self) -> bool:
        """Whether the unembedding is the embedding matrix: the same tensor, not a copy."""
        return self.weights.W_U is self.weights.W_E

    @property
    def n_parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.parameters().values())

    def parts(self) -> list[Part]:
        """The parameters by part, in forward order; they sum to n_parameters."""
        groups = [
            ("token embedding", r"W_E", "W_E"),
            ("position embedding", r"W_pos", "W_pos"),
            ("attention", r"blocks\..*_(QKV|O)", "W_Q, W_K, W_V, W_O, biases"),
            ("MLP", r"blocks\..*_(in|out)", "W_in, W_out, biases"),
            ("LayerNorms", r".*ln(1|2|_final)\..", "ln1, ln2, ln_final"),
            ("unembedding", r"[Wb]_U", "W_U is W_E (tied)" if self.tied else "W_U, b_U"),
        ]
        sizes = {name: tensor.numel() for name, tensor in self.parameters().items()}
        return [
            Part(part, sum(size for name, size in sizes.items() if re.fullmatch(regex, name)), of)
            for part, regex, of in groups
        ]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of configuration and weights, 16 hexadecimal digits: equal only where the numbers are.

        It is worked out again when a weight was written to or put in another's place, and when any of some 100 numbers
        of each weight has changed, however that was done. `fresh_fingerprint()` reads every number.
        """
        seen = self._glance()
        if self._fingerprint is None or self._fingerprint[0] != seen:
            self._fingerprint = (seen, self.fresh_fingerprint())
        return self._fingerprint[1]

    def _glance(self) -> object:
        """Return what tells cheaply that weights changed: version counters, addresses, and some of their numbers."""
        weights = [tensor.detach() for tensor in self.parameters().values()]
        counters = [(w.data_ptr(), -1 if w.is_inference() else w._version, w.dtype) for w in weights]
        steps = ([slice(None, None, max(1, n // (100 if w.dim() == 1 else 10))) for n in w.shape] for w in weights)
        some = torch.cat([w[tuple(step)].flatten() for w, step in zip(weights, steps, strict=True)])
        return counters, some.double().cpu().numpy().tobytes()

    def fresh_fingerprint(self) -> str:
        """Return the fingerprint, from every number of the weights as they are now."""

        def digest(item: tuple[str, Tensor]) -> str:
            name, tensor = item
            raw: Any = tensor.detach().cpu().contiguous().view(torch.uint8).numpy()
            return f"{name} {tensor.dtype} {list(tensor.shape)} {hashlib.sha256(raw).hexdigest()}"

        with ThreadPoolExecutor() as pool:
            lines = [str(self.config), *pool.map(digest, self.parameters().items())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        c, total = self.config, self.n_parameters
        head = "the embedding itself (tied)" if self.tied else "a matrix of its own (untied)"
        entries = f"{len(self.tokenizer):,} entries" if self.has_tokenizer else "none: runs on token ids only"
        weights = f"{str(self.dtype).removeprefix('torch.')} on {self.device}, fingerprint {self.fingerprint}"
        lines = [
            f"{self.name}: GPT-2, {total:,} parameters",
            "",
            f"  layers {c.n_layers}   heads {c.n_heads}   d_model {c.d_model}   d_head {c.d_head}   d_mlp {c.d_mlp}",
            f"  d_vocab {c.d_vocab:,}   context {c.n_ctx:,} tokens   activation {c.activation}   eps {c.eps:g}",
            "",
            *(f"  {p.name:<20}{p.parameters:>13,}  {p.parameters / total:6.1%}   {p.of}" for p in self.parts()),
            "",
            f"  unembedding   {head}",
            f"  tokenizer     {entries}",
            f"  weights       {weights}",
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    # --- what it reads ---

    @plainly
    def tokens(self, inputs: Inputs, *, bos: bool = False) -> Tokens:
        """Text, Tokens or ids [batch, pos] -> a checked, right-padded batch of its own, on the model's device.

        Raises:
            InputError: an empty or too long text, ids outside the vocabulary, a mask that is no right padding.
            TokenizerError: text, and the checkpoint has no tokenizer.
        """
        tokens = as_tokens(inputs, bos, self)
        check(tokens, bos, self.config)
        ids, mask = (lasting(t).to(self.device, torch.long, copy=True) for t in (tokens.ids, tokens.mask))
        return Tokens(ids, mask, tokens.tokenizer, tokens.texts, tokens.offsets)

    # --- what it does ---

    def run(
        self,
        inputs: Inputs,
        *,
        capture: str | Site | Iterable[str | Site] = (),
        edits: Mapping[str, Edit] | None = None,
        watch: Mapping[str, Watcher] | None = None,
        logits: Logits = "all",
        bos: bool = False,
        grad: bool = False,
    ) -> Run:
        """One forward pass.

        Args:
            inputs: a text, texts, Tokens, or integer ids [batch, pos]. Mixed lengths are padded on the right, and
                each row gets what it would get alone.
            capture: site patterns (model.sites() lists the sites).
            edits: site pattern -> a number (fills), a tensor (replaces; broadcasts), or a function `(value, ctx)`
                that returns the new value, or None: the value as the function left it. They apply after those of
                `edited(...)`, in the order given; captures see the edited values.
            watch: site pattern -> a function `(value, ctx)` that sees the value as it arises. Nothing is kept, so any
                number of sites costs no memory. Writing into the value is an EditError.
            logits: "all"; "last" for each row's final position only, [batch, 1, d_vocab] (of texts of several lengths
                `logits[:, -1]` is padding); None for none: the pass then ends after the last site that was asked for.
            bos: put the checkpoint's BOS (GPT-2's is the end-of-text token) in front of each text.
            grad: let gradients flow to the captured tensors, whatever torch's modes are: after `loss.backward()` each
                has its `.grad`.

        Raises:
            SiteError, EditError, InputError, TokenizerError: each names the site or input and what was expected.
        """
        if logits not in ("all", "last", None):
            raise InputError(f"logits={logits!r} is unknown: 'all', 'last' or None was expected")
        with gradients(grad):
            tokens = self.tokens(inputs, bos=bos)
            sites = self._sites.match(capture)
            edited = self.edits_by_site(edits or {})
            watched: dict[Site, list[Watcher]] = {}
            for pattern, watcher in (watch or {}).items():
                for site in self._sites.match(pattern):
                    watched.setdefault(site, []).append(watcher)
            wanted = sorted({*sites, *edited, *watched}, key=lambda site: self._sites.order[site.name])
            if logits is None and not wanted:
                raise InputError("nothing was asked for: name sites in capture=[...] or leave logits='all'")
            a_tap = Tap(
                sites,
                edited,
                watched,
                tokens=tokens.ids,
                mask=tokens.mask,
                positions=tokens.positions,
                stop_after=wanted[-1].name if logits is None else None,
                grad=grad,
            )
            last = tokens.lengths - 1 if logits == "last" else None
            result = None
            try:
                result = gpt2.forward(self.weights, self.config, tokens.ids, tokens.positions, a_tap, last)
            except tap.Stop:
                result = a_tap.captured.get("logits")
        known = [*self.active_edits, *([tap.described(edits)] if edits else [])]
        return Run(tokens, self._sites, a_tap.captured, result, known)

    def edits_by_site(self, edits: Mapping[str, Edit]) -> dict[Site, list[Edit]]:
        """Those in force and these, by site and in order. Raises SiteError and EditError as run() does."""
        by_site: dict[Site, list[Edit]] = {}
        if not isinstance(edits, Mapping):
            kind = type(edits).__name__
            raise EditError(f"edits are a mapping from site patterns to values, such as {{'mlp_out': 0.0}}; got {kind}")
        for pattern, edit in (item for each in [*editing.of(self), edits] for item in each.items()):
            tap.check(edit, pattern)
            for site in self._sites.match(pattern):
                by_site.setdefault(site, []).append(edit)
        return by_site

    def edited(self, edits: Mapping[str, Edit]) -> Edited:
        """Edits for every run inside the `with`; undone on leaving, also after an error. They nest.

        They are the running thread's or task's own: another thread's runs are not edited, and neither is a copy of the
        model, pickled or not.

        Raises SiteError or EditError for a pattern that matches nothing or a value that can be no edit.
        """
        self.edits_by_site(edits)  # bad ones fail here, not at the first run
        return Edited(self, dict(edits))

    @property
    def active_edits(self) -> list[dict[str, str]]:
        """The edits in force, described, for a result's meta: one mapping for each `edited(...)`, outermost first."""
        return list(map(tap.described, editing.of(self)))

    def generate(
        self,
        inputs: Inputs,
        max_new_tokens: int = 40,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop: bool = True,
        capture: str | Site | Iterable[str | Site] = (),
        edits: Mapping[str, Edit] | None = None,
        bos: bool = False,
    ) -> Generated:
        """Continue each text. The result prints as the texts; `.continuations` are what was added.

        Args:
            max_new_tokens: how many tokens to add at most.
            temperature: logits are divided by it; 0 takes the most likely token at each step.
            top_k: choose among this many most likely tokens only.
            top_p: choose among the most likely tokens that together reach this probability.
            seed: equal seeds give equal texts.
            stop: end a text at one of `model.ends`: the checkpoint's eos_token_id, else the end-of-text token.
            capture: site patterns; `.run` then holds them for the finished texts.
            edits: as in run(); in force at every step, as those of `edited(...)` are.

        Raises:
            InputError: an argument out of its range, or more tokens than the context holds.
        """
        return generate(
            self,
            inputs,
            max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=stop,
            capture=capture,
            edits=edits,
            bos=bos,
        )

    def fold(
        self,
        *,
        layer_norm: bool = False,
        center_unembed: bool = False,
        center_writing: bool = False,
        value_biases: bool = False,
    ) -> Model:
        """A new model with processed weights and the same log-probabilities; this one is untouched.

        Args:
            layer_norm: each LayerNorm's weight and bias into what reads its output (unties the head, adds b_U).
            center_unembed: the mean over the vocabulary out of the unembedding; logits move by a constant.
            center_writing: the mean over d_model out of all that writes to the residual stream.
            value_biases: value biases into the output bias.

        Raises InputError where nothing was asked for.
        """
        asked = {
            "layer_norm": layer_norm,
            "center_unembed": center_unembed,
            "center_writing": center_writing,
            "value_biases": value_biases,
        }
        wanted = [name for name, yes in asked.items() if yes]
        if not wanted:
            raise InputError("fold() was asked for nothing: try fold(layer_norm=True, center_unembed=True)")
        weights, config = self.weights, self.config
        for name in wanted:
            weights, config = fold.STEPS[name](weights, config)
        origin = f"{self.origin}.fold({', '.join(f'{name}=True' for name in wanted)})"
        name, ends = f"{self.name} (folded)", self._ends
        return Model(config, weights, self._tokenizer, name=name, origin=origin, ends=ends, bundled=self.bundled)

    def predict(self, prompts: str | Sequence[str] | Tokens, top: int = 10, *, bos: bool = False) -> NextTokens:
        """The most likely next tokens after each prompt: `cutaway.predictions.next_tokens`."""
        from cutaway.analyses import predictions

        return predictions.next_tokens(self, prompts, top=top, bos=bos)
