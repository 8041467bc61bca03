"""Read the sizes and switches of a GPT-2 from Hugging Face's config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cutaway.errors import CheckpointError
from cutaway.model.architectures.activations import ACTIVATION
from cutaway.model.architectures.sizes import Sizes

# The names that transformers gives the same sizes in every model; where a file has both, transformers takes these.
COMMON = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
}
NANOGPT = {"n_layer", "n_head", "n_embd", "vocab_size", "block_size", "bias", "dropout"}


@dataclass(frozen=True, slots=True)
class Config(Sizes):
    """All of a GPT-2's configuration that changes its computation."""

    architecture: ClassVar[str] = "gpt2"

    activation: str = "gelu_new"
    eps: float = 1e-5
    scale_attn: bool = True  # scores divided by sqrt(d_head)
    scale_attn_by_layer: bool = False  # ... and by layer + 1
    upcast_attn: bool = False  # scores and softmax in float32 where the model is in less
    tied: bool = True  # the unembedding is the embedding matrix itself

    def attn_scale(self, layer: int) -> float:
        """Return the factor that a layer's attention scores are multiplied by."""
        scale = float(self.d_head**-0.5) if self.scale_attn else 1.0
        return scale / (layer + 1) if self.scale_attn_by_layer else scale

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], where: str = "config.json") -> Config:
        """Read Hugging Face's GPT2Config fields, with its defaults for those left out.

        Raises:
            CheckpointError: a size that is not a positive whole number, heads that do not divide the width, an unknown
                activation, a LayerNorm epsilon that is not a small number, a switch that is neither true nor false,
                cross-attention, attention to later tokens, quantized weights, or layers that differ.
        """
        _check_plain(raw, where)

        def switch(key: str, default: bool) -> bool:
            value = raw.get(key, default)
            if not isinstance(value, bool):
                raise CheckpointError(f"{where} gives {key} = {value!r}: true or false was expected")
            return value

        if switch("add_cross_attention", False):
            raise CheckpointError(f"{where} asks for cross-attention (add_cross_attention), which Cutaway does not run")

        def size(key: str, default: int) -> int:
            return _size(key, raw.get(COMMON.get(key, key), raw.get(key, default)), where)

        d_model, n_heads = size("n_embd", 768), size("n_head", 12)
        if d_model % n_heads:
            raise CheckpointError(f"{where}: n_embd = {d_model} is not a multiple of n_head = {n_heads}")
        activation = raw.get("activation_function", "gelu_new")
        if not isinstance(activation, str) or activation not in ACTIVATION:
            known = ", ".join(ACTIVATION)
            raise CheckpointError(f"{where} gives activation_function = {activation!r}: known are {known}")
        eps = raw.get("layer_norm_epsilon", 1e-5)
        if not isinstance(eps, (int, float)) or not 0 < eps < 1:
            raise CheckpointError(f"{where} gives layer_norm_epsilon = {eps!r}: a number between 0 and 1 was expected")
        return cls(
            n_layers=size("n_layer", 12),
            n_heads=n_heads,
            d_model=d_model,
            d_mlp=4 * d_model if raw.get("n_inner") is None else size("n_inner", 4 * d_model),
            d_vocab=size("vocab_size", 50257),
            n_ctx=size("n_positions", raw.get("n_ctx", 1024)),
            activation=activation,
            eps=float(eps),
            scale_attn=switch("scale_attn_weights", True),
            scale_attn_by_layer=switch("scale_attn_by_inverse_layer_idx", False),
            upcast_attn=switch("reorder_and_upcast_attn", False),
            tied=switch("tie_word_embeddings", True),
        )

    @classmethod
    def from_nanogpt(cls, args: Mapping[str, Any], where: str) -> Config:
        """Read the `model_args` of nanoGPT's ckpt.pt; its MLP has the exact GELU.

        Raises CheckpointError for a fork's additions, which change the computation, and for values that are not sizes.
        """
        if unknown := sorted(set(map(str, args)) - NANOGPT):
            known = "those of nanoGPT's own model are"
            raise CheckpointError(f"{where} has model_args that change the model, {', '.join(unknown)}: {known} known")
        if missing := sorted(NANOGPT - {"bias", "dropout"} - set(args)):
            raise CheckpointError(f"{where} has model_args without {', '.join(missing)}: nanoGPT writes all of them")
        sizes = {key: _size(key, args[key], where) for key in NANOGPT - {"bias", "dropout"}}
        raw = sizes | {"n_positions": sizes["block_size"], "activation_function": "gelu"}
        return cls.from_hf(raw, where)


def _check_plain(raw: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError for a GPT-2 that is not a plain one."""
    quantized = raw.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method", "?") if isinstance(quantized, Mapping) else quantized
        raise CheckpointError(
            f"{where} says that the weights are quantized ({method}): Cutaway opens float weights, dequantize them"
        )
    if raw.get("is_causal", True) is not True:
        raise CheckpointError(f"{where} says is_causal {raw['is_causal']!r}: Cutaway opens causal models only")
    if raw.get("per_layer_config"):
        raise CheckpointError(f"{where} has a per_layer_config: Cutaway opens models whose layers are all alike")


def _size(key: str, value: Any, where: str) -> int:
    """Return a size. Raises CheckpointError if it is not a positive whole number."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{where} gives {key} = {value!r}: a whole number of at least 1 was expected")
    return value
