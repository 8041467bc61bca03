"""Run, edit, continue and fold a loaded model: the face of Cutaway's engine.

model = cutaway.load()                              the bundled model
run = model.run("some text", capture=["attn_out"])  one forward pass
run["blocks.3.attn_out"], run.stack("attn_out"), run.logits
with model.edited({"blocks.3.mlp_out": 0.0}): ...   undone on leaving, whatever happens
model.predict(["The people of the United"]), print(model), model.sites()
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.errors import InputError, TokenizerError
from cutaway.model.architectures import Architecture, architecture_of
from cutaway.model.architectures.families import Config, Weights
from cutaway.model.generate import Generated, Sampling, generate
from cutaway.model.inputs import Inputs, as_tokens, check
from cutaway.model.modes import gradients, lasting, plainly
from cutaway.model.passes import Logits, forward, run_pass, unembed
from cutaway.model.products import keep_pages
from cutaway.model.taps import edits as editing
from cutaway.model.taps import tap
from cutaway.model.taps.captures import Run
from cutaway.model.taps.edits import Edited
from cutaway.model.taps.sites import Site, Sites
from cutaway.model.taps.tap import Edit, Watcher
from cutaway.model.weights import fold
from cutaway.model.weights.anatomy import Part, parts, show
from cutaway.model.weights.fingerprint import Fingerprint, fingerprint
from cutaway.model.weights.parameters import checked, named, replaced
from cutaway.text.tokens import Tokenizer, Tokens

if TYPE_CHECKING:
    from cutaway.analyses.predictions.result import NextTokens


class Model:
    """A language model whose every internal state can be captured and edited."""

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
        self.config = replace(config, tied=weights.W_U is weights.W_E)
        self.weights = weights
        self.name = name
        self.origin = origin  # the Python that made it
        self.bundled = bundled  # its weights are those that ship with Cutaway, folded or not
        self._tokenizer = tokenizer
        self._fingerprint = Fingerprint()
        self._ends = tuple(ends)
        if self.device.type == "cpu":
            keep_pages()

    # --- what it is ---

    @property
    def architecture(self) -> Architecture:
        """Return the model's family: its forward pass, site names and tensor names."""
        return architecture_of(self.config)

    @property
    def device(self) -> torch.device:
        """Return the device that the weights are on."""
        return self.weights.W_E.device

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the weights, in which the model computes."""
        return self.weights.W_E.dtype

    @property
    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer. Raises TokenizerError if the checkpoint has none."""
        if self._tokenizer is None:
            raise TokenizerError(
                f"the checkpoint {self.name!r} has no tokenizer: pass token ids [batch, pos] instead of text, or put "
                "tokenizer.json (or vocab.json and merges.txt) into its folder"
            )
        return self._tokenizer

    @property
    def has_tokenizer(self) -> bool:
        """Return whether there is a tokenizer."""
        return self._tokenizer is not None

    @property
    def ends(self) -> tuple[int, ...]:
        """Return the ids that end a text: those of the checkpoint's eos_token_id, else its tokenizer's end of text."""
        own = self._tokenizer.end_of_text if self._tokenizer is not None else None
        declared = tuple(index for index in self._ends if index < self.config.d_vocab)
        return declared or (() if own is None else (own,))

    @cached_property
    def _sites(self) -> Sites:
        return Sites(self.architecture.SITES, self.config)

    def sites(self) -> Sites:
        """Return every site with its shape, its names in the three vocabularies and its meaning; prints as a table."""
        return self._sites

    def parameters(self) -> dict[str, Tensor]:
        """Return every weight once by a dotted name, such as "blocks.0.W_O"; a tied head is the embedding "W_E"."""
        return named(self.weights)

    @property
    def tied(self) -> bool:
        """Return whether the unembedding is the embedding matrix: the same tensor, not a copy."""
        return self.weights.W_U is self.weights.W_E

    @property
    def n_parameters(self) -> int:
        """Return the number of parameters; a tied head counts once."""
        return sum(tensor.numel() for tensor in self.parameters().values())

    def parts(self) -> list[Part]:
        """Return the parameters by part, in forward order; they sum to n_parameters."""
        return parts(self.architecture, self.parameters())

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of configuration and weights, 16 hexadecimal digits: equal only if the numbers are.

        It is computed again if a weight was written to or put in another's place, and if any of some 100 numbers of
        each weight has changed, however that was done. `fresh_fingerprint()` reads every number.
        """
        return self._fingerprint(self.config, self.parameters())

    def fresh_fingerprint(self) -> str:
        """Return the fingerprint, from every number of the weights as they are now."""
        return fingerprint(self.config, self.parameters())

    def __str__(self) -> str:
        return show(self.name, self.config, self.weights, self._tokenizer, self.fingerprint)

    def __repr__(self) -> str:
        return str(self)

    # --- what it reads ---

    @plainly
    def tokens(self, inputs: Inputs, *, bos: bool = False) -> Tokens:
        """Return text, Tokens or ids [batch, pos] as a checked, right-padded batch of its own on the model's device.

        Raises:
            InputError: an empty or too long text, ids outside the vocabulary, a mask that is not right padding.
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
        """Run the model once and keep what was asked for.

        Args:
            inputs: a text, texts, Tokens, or integer ids [batch, pos]. Mixed lengths are padded on the right, and
                each row gets the same values as in a batch of its own.
            capture: site patterns (model.sites() lists the sites).
            edits: site pattern -> a number (fills), a tensor (replaces; broadcasts), or a function `(value, ctx)`
                that returns the new value, or None for the value as the function left it. They apply after the edits
                of `edited(...)`, in the order given; captures see the edited values. The name may be that of a
                component: "head 3.1" (its attn.z, [batch, pos, d_head]: its output before W_O), "mlp 2" (mlp_out),
                "neuron 3.712" (its mlp.post, [batch, pos]), "heads" or "mlps" (each of them).
            watch: site pattern -> a function `(value, ctx)` that sees the value as it arises. Nothing is kept, so any
                number of sites costs no memory. Writing into the value is an EditError.
            logits: "all"; "last" for each row's final position only, [batch, 1, d_vocab] (if texts differ in length,
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
            watched = editing.grouped(self._sites, (watch or {}).items())
            wanted = sorted({*sites, *edited, *watched}, key=lambda site: self._sites.order[site.name])
            if logits is None and not wanted:
                raise InputError("nothing was asked for: name sites in capture=[...] or leave logits='all'")
            return run_pass(
                self._sites,
                tokens,
                lambda tap, last: forward(self.weights, self.config, tokens.ids, tap, last),
                capture=sites,
                edits=edited,
                watch=watched,
                stop_after=wanted[-1] if logits is None else None,
                logits=logits,
                grad=grad,
                described=[*self.active_edits, *([tap.described(edits)] if edits else [])],
            )

    def edits_by_site(self, edits: Mapping[str, Edit]) -> dict[Site, list[Edit]]:
        """Return the edits in force, then these, by site and in order. Raises SiteError and EditError as run() does."""
        return editing.by_site(self._sites, [*editing.in_force(self), edits])

    @plainly
    def unembed(self, states: Tensor, *, normed: bool = False) -> Tensor:
        """Return the logits of states of the residual stream: the final norm, then the unembedding.

        For the stream that leaves the last block these are the model's own logits; for an earlier one, what the model
        would say if it ended there (the logit lens).

        Args:
            states: [..., d_model], in the model's dtype and on its device.
            normed: the states have been through the final norm already, as at the site ln_final.out.

        Returns [..., d_vocab]. Raises InputError for states of another width, dtype or device.
        """
        return unembed(self.weights, self.config, states, normed)

    def edited(self, edits: Mapping[str, Edit]) -> Edited[Model]:
        """Edit every run inside the `with`; undone on leaving, also after an error. Such blocks nest.

        The edits are the running thread's or task's own: another thread's runs are not edited, and neither is a copy of
        the model, pickled or not.

        Raises SiteError or EditError for a pattern that matches nothing or a value that cannot be an edit.
        """
        self.edits_by_site(edits)  # a bad edit fails here, not at the first run
        return Edited(self, dict(edits))

    @property
    def active_edits(self) -> list[dict[str, str]]:
        """Return the edits in force in words, for a result's meta: one mapping a block, outermost first."""
        return list(map(tap.described, editing.in_force(self)))

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
        """Continue each text. The result prints as the texts; `.continuations` holds the added parts.

        Args:
            max_new_tokens: how many tokens to add at most.
            temperature: logits are divided by it; 0 takes the most likely token at each step.
            top_k: choose among this many most likely tokens only.
            top_p: choose among the most likely tokens that together reach this probability.
            seed: equal seeds give equal texts.
            stop: end a text at one of `model.ends`: the checkpoint's eos_token_id, else the end-of-text token.
            capture: site patterns; `.run` then holds them for the finished texts.
            edits: as in run(); in force at every step, like the edits of `edited(...)`.

        Raises:
            InputError: an argument out of its range, or more tokens than the context holds.
        """
        sampling = Sampling(temperature, top_k, top_p, seed, stop)
        return generate(self, inputs, max_new_tokens, sampling, capture=capture, edits=edits, bos=bos)

    def fold(
        self,
        *,
        layer_norm: bool = False,
        center_unembed: bool = False,
        center_writing: bool = False,
        value_biases: bool = False,
    ) -> Model:
        """Return a new model with processed weights and the same log-probabilities; this one is untouched.

        Args:
            layer_norm: move each LayerNorm's weight and bias into what reads it (unties the head, adds b_U).
            center_unembed: take the mean over the vocabulary out of the unembedding; logits move by a constant.
            center_writing: take the mean over d_model out of all that writes to the residual stream.
            value_biases: move value biases into the output bias.

        Raises InputError if no step was asked for.
        """
        asked = (layer_norm, center_unembed, center_writing, value_biases)
        wanted = [name for name, yes in zip(fold.STEPS, asked, strict=True) if yes]
        if not wanted:
            raise InputError("fold() was asked for nothing: try fold(layer_norm=True, center_unembed=True)")
        weights = self.weights
        for name in wanted:
            weights = fold.STEPS[name](weights, self.config)
        origin = f"{self.origin}.fold({', '.join(f'{name}=True' for name in wanted)})"
        return self._remade(weights, f"{self.name} (folded)", origin, self.bundled)

    def with_weights(
        self, weights: Mapping[str, Tensor], *, name: str | None = None, origin: str | None = None
    ) -> Model:
        """Return a new model with some weights replaced; it shares the others, and this one is untouched.

        Args:
            weights: by the names of parameters(): tensors of the same shape, dtype and device. A tied head follows a
                new W_E; a W_U of its own unties it. A bias that is absent ("b_U", "ln_final.b") may be given, too.
            name: of the new model; None for "NAME (edited)".
            origin: the Python that makes it, for its results' calls; None for this model's and `.with_weights(...)`.

        Raises InputError for no weights, a name that is not a weight, or a value of another shape or kind.
        """
        new = checked(self.weights, self.config, weights)
        made = ", ".join(f"{each!r}: ..." for each in new)
        origin = f"{self.origin}.with_weights({{{made}}})" if origin is None else origin
        return self._remade(replaced(self.weights, new), f"{self.name} (edited)" if name is None else name, origin)

    def _remade(self, weights: Weights, name: str, origin: str, bundled: bool = False) -> Model:
        """Return a model with other weights, and this one's configuration, tokenizer and end of text."""
        return Model(self.config, weights, self._tokenizer, name=name, origin=origin, ends=self._ends, bundled=bundled)

    def predict(self, prompts: str | Sequence[str] | Tokens, top: int = 10, *, bos: bool = False) -> NextTokens:
        """Return the most likely next tokens after each prompt: `cutaway.predictions.next_tokens`."""
        from cutaway.analyses import predictions

        return predictions.next_tokens(self, prompts, top=top, bos=bos)
