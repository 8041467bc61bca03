"""Name the weights of a model one by one, and make weights from names.

named(weights)                     {"W_E": ..., "blocks.0.W_QKV": ..., "ln_final.w": ...}
replaced(weights, {name: tensor})  the same weights with some replaced; the others are shared
assemble(architecture, config, get)    weights from a checkpoint's tensors
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from cutaway.arguments import shown
from cutaway.errors import InputError
from cutaway.model.architectures.architecture import Architecture
from cutaway.model.architectures.families import Config, Weights
from cutaway.model.modes import lasting


def named(weights: Weights) -> dict[str, Tensor]:
    """Return every weight once, by a dotted name. A tied unembedding is the embedding, and has no name of its own."""
    found = {name: value for name, value in _walk(weights, "") if value is not None}
    head = found.pop("W_U")
    return found if head is weights.W_E else found | {"W_U": head}


def _walk(value: Any, name: str) -> Iterator[tuple[str, Tensor | None]]:
    """Yield the tensors inside lists and dataclasses by dotted names; None for an optional one that is absent."""
    inside: Iterator[tuple[object, Any]]
    if isinstance(value, list):
        inside = iter(enumerate(value))
    elif is_dataclass(value):
        inside = ((field.name, getattr(value, field.name)) for field in fields(value))
    else:
        yield name, value
        return
    for key, each in inside:
        yield from _walk(each, f"{name}.{key}" if name else str(key))


def replaced(weights: Weights, changes: Mapping[str, Tensor]) -> Weights:
    """Return the weights with some replaced, by the names of `named`; the others are shared.

    Without a W_U of its own, a tied head follows a new W_E.
    """
    if weights.W_U is weights.W_E and "W_E" in changes:
        changes = {"W_U": changes["W_E"], **changes}
    new: Weights = _rebuilt(weights, changes, "")
    return new


def _rebuilt(value: Any, changes: Mapping[str, Tensor], name: str) -> Any:
    """Return a tensor, list or dataclass with the changes to everything inside."""
    if name in changes:
        return changes[name]
    if isinstance(value, list):
        return [_rebuilt(each, changes, f"{name}.{i}") for i, each in enumerate(value)]
    if not is_dataclass(value) or isinstance(value, type):
        return value
    inner = {f.name: f"{name}.{f.name}" if name else f.name for f in fields(value)}
    return replace(value, **{key: _rebuilt(getattr(value, key), changes, full) for key, full in inner.items()})


def checked(weights: Weights, config: Config, changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return new values of weights as a model can hold them. Raises InputError for a name, shape or kind that is wrong.

    An absent bias or gain (None, as folding leaves them) may be given as well.
    """
    if not isinstance(changes, Mapping) or not changes:
        raise InputError(f"{shown(changes)} was given as weights: names and tensors were expected, {{'ln_final.b': b}}")
    known = {name: None if value is None else value.shape for name, value in _walk(weights, "")}
    for name, value in changes.items():
        if name not in known:
            raise InputError(f"{name!r} is not a weight of this model: model.parameters() lists their names")
        shape = known[name] or ((config.d_vocab,) if name == "b_U" else (config.d_model,))
        if not isinstance(value, Tensor) or value.shape != shape:
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"the weight {name!r} is {got}: a tensor {list(shape)} was expected")
        kind, own = (value.dtype, value.device), (weights.W_E.dtype, weights.W_E.device)
        if kind != own:
            raise InputError(f"the weight {name!r} is {kind[0]} on {kind[1]}: {own[0]} on {own[1]} was expected")
    return {name: lasting(value.detach().contiguous()) for name, value in changes.items()}


def assemble(architecture: Architecture, config: Config, get: Callable[[str], Tensor]) -> Weights:
    """Return weights made of a checkpoint's tensors, each taken once by get(its plain name)."""
    table = architecture.TENSORS
    blocks = []
    for i in range(config.n_layers):
        values = {field: get(f"{table.blocks}.{i}.{name}") for name, (field, _) in table.block.items()}
        blocks.append(architecture.Block(**_nested(architecture, values)))
    values = {field: get(name) for name, (field, _) in {**table.before, **table.after}.items()}
    head = values["W_E"] if config.tied else get(table.head)
    weights: Weights = architecture.Weights(**_nested(architecture, values), blocks=blocks, W_U=head)
    return weights


def _nested(architecture: Architecture, values: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return fields with "ln1.w" and "ln1.b" joined to one norm, "ln1"."""
    found: dict[str, Any] = {}
    norms: dict[str, dict[str, Tensor]] = {}
    for field, value in values.items():
        name, _, part = field.partition(".")
        if part:
            norms.setdefault(name, {})[part] = value
        else:
            found[name] = value
    return found | {name: architecture.Norm(**given) for name, given in norms.items()}
