"""Define the interface of every statistic, and save statistics to files.

    add(values, mask=None, keys=None)    values [..., *features]; mask [...] is 1 where an entry counts
    merge(other)                         as if the entries of `other` had been added here; `other` is not changed
    result()                             the statistic
    state(), load_state(arrays)          plain NumPy arrays; save(path) and load(path) write them without pickle

Without a mask every dimension but the last is leading. Sums run in float64, on the device of the data. Merging is
associative and commutative up to rounding, so parts can be computed in any order, anywhere.
"""

from __future__ import annotations

import json
import os
import zipfile
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutaway.errors import InputError
from cutaway.files import expand_user, replacing

State: TypeAlias = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Keys:
    """The origins of rows: for each row a document and a token offset in it."""

    documents: NDArray[np.str_]  # n
    offsets: NDArray[np.int64]  # n
    # The hashes that sample.py made of the keys, by seed: the samples of all sites share one batch's keys.
    hashes: dict[int, NDArray[np.uint64]] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, chosen: Any) -> Keys:
        return Keys(self.documents[chosen], self.offsets[chosen])

    def join(self, other: Keys) -> Keys:
        """Return these keys followed by others."""
        return Keys(np.concatenate([self.documents, other.documents]), np.concatenate([self.offsets, other.offsets]))

    @classmethod
    def none(cls) -> Keys:
        """Return the keys of no rows."""
        return cls(np.empty(0, dtype="U1"), np.empty(0, dtype=np.int64))


class Statistic(ABC):
    """A statistic. Subclasses are dataclasses: their public fields are settings, their private ones hold the counts."""

    kind: ClassVar[str]
    needs_keys: ClassVar[bool] = False
    kinds: ClassVar[dict[str, type[Statistic]]] = {}

    def __init_subclass__(cls) -> None:
        Statistic.kinds[cls.kind] = cls

    def add(self, values: Tensor, mask: Tensor | None = None, keys: Keys | None = None) -> None:
        """Count the entries of `values`.

        Args:
            values: [..., *features]; features stay together, as one observation.
            mask: of the leading shape; 1 where an entry counts.
            keys: where the counted entries come from, in row-major order (for samples and extremes).

        Raises InputError for a mask that does not have the values' leading shape, keys that are missing or of another
        number than the entries, or features of another shape than before.
        """
        rows = flatten(values.detach(), mask)
        if self.needs_keys and (keys is None or len(keys) != len(rows)):
            got = "none" if keys is None else len(keys)
            raise InputError(f"{self.kind} needs a key for each of {len(rows)} entries, got {got}")
        self._add(rows, keys or Keys.none())

    def merge(self, other: Statistic) -> None:
        """Add the counts of another statistic. Raises InputError for one of another kind or with other settings."""
        if self != other:
            raise InputError(f"{self} cannot merge with {other}: kind and settings must be the same")
        self._merge(other)

    def empty(self) -> Self:
        """Return a new statistic with the same settings that has seen nothing."""
        return type(self)(**self.settings())

    def settings(self) -> dict[str, Any]:
        """Return the settings by name."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @abstractmethod
    def _add(self, rows: Tensor, keys: Keys) -> None:
        """Count rows [n, *features]."""

    @abstractmethod
    def _merge(self, other: Any) -> None:
        """Add the counts of a statistic of the same kind and settings."""

    @abstractmethod
    def result(self) -> Any:
        """Return the statistic of everything counted. Raises InputError where nothing was counted."""

    @abstractmethod
    def state(self) -> State:
        """Return everything counted, as plain arrays."""

    @abstractmethod
    def load_state(self, state: State) -> None:
        """Replace what was counted by a state that state() returned."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write settings and state to a .npz file, without pickle."""
        save_arrays(path, self.state(), {"kind": self.kind, "settings": self.settings()})

    def _nothing(self) -> InputError:
        """Return the error for a result of nothing."""
        return InputError(f"{self.kind}: nothing was counted yet")


def load(path: str | os.PathLike[str]) -> Statistic:
    """Read a statistic that save() wrote. Raises InputError for any other file."""
    state, note = load_arrays(path)
    if not isinstance(note, dict) or note.get("kind") not in Statistic.kinds:
        raise InputError(f"{path} holds no statistic: a file that Statistic.save wrote was expected")
    statistic = Statistic.kinds[note["kind"]](**note["settings"])
    statistic.load_state(state)
    return statistic


def save_arrays(path: str | os.PathLike[str], arrays: State, note: dict[str, Any]) -> None:
    """Write arrays and a JSON note to one .npz file without pickle; the file appears only when it is complete."""
    encoded = np.frombuffer(json.dumps(note).encode(), dtype=np.uint8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, about=encoded, **arrays)  # type: ignore[arg-type]


def load_arrays(path: str | os.PathLike[str]) -> tuple[State, dict[str, Any]]:
    """Read the arrays and the note that save_arrays wrote. Raises InputError for any other file."""
    place = expand_user(path)
    try:
        with place.open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise ValueError("it is not a .npz file")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        note = json.loads(arrays.pop("about").tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read as saved statistics: {reason}") from None
    return arrays, note


def flatten(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the entries that count, in row-major order: [..., *features] -> [n, *features].

    Raises InputError for a mask that does not have the values' leading shape.
    """
    if mask is None:
        return values.reshape(-1, *values.shape[-1:]) if values.dim() else values.reshape(1, 1)
    if mask.shape != values.shape[: mask.dim()]:
        raise InputError(
            f"a mask {list(mask.shape)} was given for values {list(values.shape)}: their leading shape was expected"
        )
    chosen = mask.bool()
    rows = values.reshape(mask.numel(), *values.shape[mask.dim() :])
    return rows if bool(chosen.all()) else rows[chosen.reshape(-1)]


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor as an array on the CPU."""
    return tensor.detach().cpu().numpy()


def from_numpy(array: NDArray[Any]) -> Tensor:
    """Return a copy of an array as a tensor."""
    return torch.from_numpy(np.array(array))
