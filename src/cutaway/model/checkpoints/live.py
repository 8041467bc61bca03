"""Read a live transformers model: the GPT-2 inside it, if that computes what its weights and configuration say.

Its weights are read and its forward is not, so everything that visibly changes what its forward computes is refused by
name: hooks, replaced modules, a configuration that its modules do not follow, adapters that are not merged.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.errors import CheckpointError
from cutaway.model.architectures.gpt2_config import Config

INSIDE = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}
EXPECTED = "a folder, a hub id or a transformers GPT-2 (such as GPT2LMHeadModel) was expected"
HOOKS = ("_forward_pre_hooks", "_forward_hooks")
PEFT_HINT = "merge it first, cutaway.load(model.merge_and_unload())"


@dataclass(frozen=True)
class Live:
    """A live model's parts, as it holds them."""

    kind: str  # its class
    config: Config
    tensors: dict[str, Tensor]
    origin: str  # where it was read from, as transformers noted it
    ends: Any  # the ids that end a text: a number, a list or None
    tokenizer: Any  # transformers' own, which a pipeline has


def is_live(source: Any) -> bool:
    """Return whether this is a model in memory, or a transformers pipeline that holds one."""
    return isinstance(source, nn.Module) or _is_pipeline(source)


def read(source: Any) -> Live:
    """Return the configuration and tensors of a live model, which stays as it is.

    Raises CheckpointError for anything but a GPT-2, and for one that computes something else than its weights and
    configuration say.
    """
    tokenizer = None
    if _is_pipeline(source):
        source, tokenizer = source.model, getattr(source, "tokenizer", None)
    model = _unwrap(source)
    trunk, head = _parts(model)
    kind = type(model).__name__
    raw = trunk.config.to_dict() | {"model_type": "gpt2"}  # whatever a subclass calls itself
    config = Config.from_hf(raw, f"the {kind}'s configuration")
    config = replace(config, n_layers=len(trunk.h))  # as many as there are: people take some away
    for problem in _problems(source, model, trunk, head, config):
        raise CheckpointError(f"the {kind}: {problem}")
    tensors = {name: t.detach() for name, t in model.state_dict().items() if isinstance(t, Tensor)}
    origin = getattr(trunk.config, "name_or_path", "") or ""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = getattr(trunk.config, "eos_token_id", None) if ends is None else ends
    return Live(kind, config, tensors, origin, ends, tokenizer)


def _is_pipeline(source: Any) -> bool:
    """Return whether this is a transformers pipeline."""
    kinds = type(source).__mro__
    return any(kind.__name__ == "Pipeline" and kind.__module__.startswith("transformers.") for kind in kinds)


def _unwrap(model: Any) -> Any:
    """Return the model inside torch's wrappers, and inside TRL's value head."""
    if _is_peft(model):
        without = "to read the model without it give model.get_base_model()"
        hint = PEFT_HINT if hasattr(model, "merge_and_unload") else f"this kind cannot be merged; {without}"
        raise CheckpointError(f"a {type(model).__name__} has adapters beside its weights: {hint}")
    if _is_wrapper(model):
        return _unwrap(getattr(model, INSIDE[type(model).__name__]))
    if isinstance(inner := getattr(model, "pretrained_model", None), nn.Module) and hasattr(model, "v_head"):
        return _unwrap(inner)
    return model


def _is_wrapper(module: nn.Module) -> bool:
    """Return whether this is one of torch's wrappers."""
    return type(module).__name__ in INSIDE and type(module).__module__.startswith("torch.")


def _is_peft(module: object) -> bool:
    """Return whether this is an adapter's, or a model with adapters."""
    return any(kind.__module__.split(".")[0] in ("peft", "adapters") for kind in type(module).__mro__)


def _parts(model: Any) -> tuple[Any, Any]:
    """Return the GPT2Model and its language modelling head; None for the head if it has none."""
    theirs = sys.modules.get("transformers.models.gpt2.modeling_gpt2")
    if theirs is not None and isinstance(model, theirs.GPT2Model):
        return model, None
    trunk = getattr(model, "transformer", None)
    if theirs is None or not isinstance(model, theirs.GPT2PreTrainedModel) or not isinstance(trunk, theirs.GPT2Model):
        raise CheckpointError(f"a {type(model).__name__} was given: {EXPECTED}")
    return trunk, getattr(model, "lm_head", None)


def _problems(outer: nn.Module, model: Any, trunk: Any, head: Any, config: Config) -> Iterator[str]:
    """Yield everything that would make the model's own forward give other numbers, one line each."""
    yield from _forwards(outer, model)
    yield from _modules(trunk, head, config)
    yield from _norms_and_attention(trunk, config)


def _forwards(outer: nn.Module, model: Any) -> Iterator[str]:
    """Yield hooks, forwards written over, and a class of one's own with another forward."""
    everywhere = torch.nn.modules.module
    if everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
        yield "torch has a forward hook on every module, which Cutaway would not run: remove it first"
    for name, module in outer.named_modules():
        at = name or "it"
        if _is_peft(module):
            yield f"{at} is an adapter's {type(module).__name__}: {PEFT_HINT}"
        hooks = [hook for kind in HOOKS for hook in getattr(module, kind).values()]
        own = [hook for hook in hooks if not str(getattr(hook, "__module__", "")).startswith("transformers.")]
        if own:
            called = getattr(own[0], "__qualname__", type(own[0]).__name__)
            yield f"{at} has a forward hook ({called}), which Cutaway would not run: remove it first"
        if "forward" in vars(module) and not (_only_moves(module) or _is_wrapper(module)):
            yield f"{at} has a forward written over its class's, which Cutaway would not run: load the model again"
        if name and not _forward_module(type(module)).startswith(("transformers.", "torch.")):
            kind = type(module).__name__
            yield f"{at}'s class {kind} has a forward of its own, which Cutaway would not run: load the model again"
        if "parametrizations" in module._modules:
            hint = "torch.nn.utils.parametrize.remove_parametrizations makes them plain"
            yield f"{at} has parametrized weights, which are computed anew at each pass: {hint}"
    if not _forward_module(type(model)).startswith("transformers.models.gpt2."):
        hint = "to read the plain GPT-2 inside give its .transformer"
        yield f"its class {type(model).__name__} has a forward of its own, which Cutaway would not run: {hint}"


def _only_moves(module: nn.Module) -> bool:
    """Return whether a forward written over is accelerate's, which moves tensors and computes nothing."""
    hook, old = getattr(module, "_hf_hook", None), getattr(module, "_old_forward", None)
    return type(hook).__name__ == "AlignDevicesHook" and getattr(old, "__func__", None) is type(module).forward


def _owner(kind: type) -> type:
    """Return the class that wrote a class's forward."""
    return next(one for one in kind.__mro__ if "forward" in vars(one))


def _forward_module(kind: type) -> str:
    """Return the module that a class's forward was written in; a replaced one is not in its class's module."""
    return str(vars(_owner(kind))["forward"].__module__)


def _modules(trunk: Any, head: Any, config: Config) -> Iterator[str]:
    """Yield modules that are not those that transformers makes for this configuration."""
    theirs = sys.modules["transformers.models.gpt2.modeling_gpt2"]
    dropout = (nn.Dropout, nn.Identity)
    expected: dict[str, Any] = {"wte": nn.Embedding, "wpe": nn.Embedding, "drop": dropout, "ln_f": nn.LayerNorm}
    expected["h"] = nn.ModuleList
    for i in range(config.n_layers):
        expected |= {f"h.{i}": theirs.GPT2Block, f"h.{i}.attn": theirs.GPT2Attention, f"h.{i}.mlp": theirs.GPT2MLP}
        expected |= {f"h.{i}.{name}": nn.LayerNorm for name in ("ln_1", "ln_2")}
        matrices = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        expected |= {f"h.{i}.{name}": theirs.Conv1D for name in matrices}
        expected |= {f"h.{i}.{name}": dropout for name in ("attn.attn_dropout", "attn.resid_dropout", "mlp.dropout")}
        expected[f"h.{i}.mlp.act"] = type(theirs.ACT2FN[config.activation])
    found = dict(trunk.named_modules(remove_duplicate=False))
    for name in [name for name in found if name and name not in expected]:
        yield f"{name} is a module that a GPT-2 does not have ({_kind(found[name])})"
    for name, kinds in expected.items():
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        module = found.get(name)
        wanted = kinds[0].__name__
        if name.endswith(".act"):
            wanted += f" (activation_function = {trunk.config.activation_function!r})"
        if module is None:
            yield f"{name} is not a module: a {wanted} was expected"
        elif not isinstance(module, kinds) or _owner(type(module)) not in map(_owner, kinds):
            yield f"{name} is a {_kind(module)}: a {wanted} was expected, and Cutaway computes what one does"
        elif name.endswith(".act") and _settings(module) != _settings(theirs.ACT2FN[config.activation]):
            yield f"{name} has settings of its own: Cutaway computes what {config.activation!r} means"
        elif isinstance(module, nn.Embedding) and module.max_norm is not None:
            yield f"{name} has max_norm, which rescales its rows at each pass"
    if head is not None and (not isinstance(head, nn.Linear) or _owner(type(head)) is not nn.Linear):
        yield f"lm_head is a {_kind(head)}: a Linear was expected, and Cutaway computes what one does"
    elif head is not None and head.bias is not None:
        yield "lm_head has a bias, which a GPT-2 does not have"


def _kind(module: object) -> str:
    """Return the name of a module's class; with its place if it is not torch's own."""
    kind = type(module)
    return kind.__name__ if kind.__module__.startswith("torch.nn.modules.") else f"{kind.__module__}.{kind.__name__}"


def _settings(module: nn.Module) -> dict[str, object]:
    """Return the numbers and switches of an activation, such as a slope."""
    plain = {name: value for name, value in vars(module).items() if isinstance(value, (int, float, str))}
    return {name: value for name, value in plain.items() if name[0] != "_" and name not in ("training", "inplace")}


def _norms_and_attention(trunk: Any, config: Config) -> Iterator[str]:
    """Yield numbers that modules took from the configuration when they were made, and that differ from it now."""
    registries = {
        "ALL_ATTENTION_FUNCTIONS": sys.modules.get("transformers.modeling_utils"),
        "ALL_MASK_ATTENTION_FUNCTIONS": sys.modules.get("transformers.masking_utils"),
    }
    norms = {f"h.{i}.{name}": getattr(h, name) for i, h in enumerate(trunk.h) for name in ("ln_1", "ln_2")}
    for name, norm in (norms | {"ln_f": trunk.ln_f}).items():
        if norm.eps != config.eps:
            yield _differs(f"{name}.eps", norm.eps, "layer_norm_epsilon", config.eps)
    for i, block in enumerate(trunk.h):
        attn, at = block.attn, f"h.{i}.attn"
        if getattr(attn, "pruned_heads", None):
            yield f"{at} has heads pruned: Cutaway opens models whose layers are all alike"
        wanted = {
            "num_heads": ("n_head", config.n_heads),
            "scale_attn_weights": ("scale_attn_weights", config.scale_attn),
            "scale_attn_by_inverse_layer_idx": ("scale_attn_by_inverse_layer_idx", config.scale_attn_by_layer),
            "reorder_and_upcast_attn": ("reorder_and_upcast_attn", config.upcast_attn),
        }
        for name, (key, value) in wanted.items():
            if (has := getattr(attn, name, value)) != value:
                yield _differs(f"{at}.{name}", has, key, value)
        if abs((scaling := getattr(attn, "scaling", config.attn_scale(i))) - config.attn_scale(i)) > 1e-9:
            yield _differs(f"{at}.scaling", scaling, "n_embd, n_head and place", config.attn_scale(i))
        if not getattr(attn, "is_causal", True):
            yield f"{at}.is_causal is False: Cutaway opens causal models only"
        name = getattr(attn.config, "_attn_implementation", None) or "eager"
        functions = [getattr(module, kind, {}).get(name, None) for kind, module in registries.items()]
        if any(function and not function.__module__.startswith("transformers.") for function in functions):
            yield f"{at} has an attention of its own ({name!r}): set_attn_implementation('sdpa') gives transformers'"


def _differs(name: str, has: object, key: str, value: object) -> str:
    """Return the message for a number that is not the configuration's."""
    agree = "Cutaway computes what the configuration says, make them agree"
    return f"{name} is {has!r}, and the configuration's {key} makes it {value!r}: {agree}"
