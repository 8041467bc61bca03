"""What every statistic does.

    add(values, mask=None, keys=None)    values [..., *features]; mask [...] is 1 where an entry counts
    merge(other)                         as if what `other` saw had been added here; `other` stays as it was
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
    """Where rows come from: one document and one token offset in it for each."""

    documents: NDArray[np.str_]  # n
    offsets: NDArray[np.int64]  # n
    # What sample.py made of them, by seed: the samples of all sites share one batch's keys.
    hashes: dict[int, NDArray[np.uint64]] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, chosen: Any) -> Keys:
        return Keys(self.documents[chosen], self.offsets[chosen])

    def join(self, other: Keys) -> Keys:
        return Keys(np.concatenate([self.documents, other.documents]), np.concatenate([self.offsets, other.offsets]))

    @classmethod
    def none(cls) -> Keys:
        return cls(np.empty(0, dtype="U1"), np.empty(0, dtype=np.int64))


class Statistic(ABC):
    """One statistic. Subclasses are dataclasses whose fields are its settings; what it has seen is private."""

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

        Raises InputError for a mask that is no leading shape of the values, keys that are missing or of another
        number than the entries, or features of another shape than before.
        """
        rows = flatten(values.detach(), mask)
        if self.needs_keys and (keys is None or len(keys) != len(rows)):
            got = "none" if keys is None else len(keys)
            raise InputError(f"{self.kind} needs a key for each of {len(rows)} entries, got {got}")
        self._add(rows, keys or Keys.none())

    def merge(self, other: Statistic) -> None:
        """Count what another statistic of the same kind and settings has counted."""
        if self != other:
            raise InputError(f"{self} cannot take in {other}: kind and settings must be the same")
        self._merge(other)

    def empty(self) -> Self:
        """A new statistic with the same settings that has seen nothing."""
        return type(self)(**self.settings())

    def settings(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @abstractmethod
    def _add(self, rows: Tensor, keys: Keys) -> None:
        """Count rows [n, *features]."""

    @abstractmethod
    def _merge(self, other: Any) -> None: ...

    @abstractmethod
    def result(self) -> Any:
        """The statistic of everything counted. Raises InputError where nothing was."""

    @abstractmethod
    def state(self) -> State:
        """Everything it has seen, as plain arrays."""

    @abstractmethod
    def load_state(self, state: State) -> None:
        """Take over a state as state() gave it."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write settings and state as .npz, without pickle."""
        save_arrays(path, self.state(), {"kind": self.kind, "settings": self.settings()})

    def _nothing(self) -> InputError:
        return InputError(f"{self.kind}: nothing was counted yet")


def load(path: str | os.PathLike[str]) -> Statistic:
    """Read a statistic that save() wrote. Raises InputError for anything else."""
    state, about = load_arrays(path)
    if not isinstance(about, dict) or about.get("kind") not in Statistic.kinds:
        raise InputError(f"{path} holds no statistic: a file that Statistic.save wrote was expected")
    statistic = Statistic.kinds[about["kind"]](**about["settings"])
    statistic.load_state(state)
    return statistic


def save_arrays(path: str | os.PathLike[str], arrays: State, about: dict[str, Any]) -> None:
    """Arrays and a JSON note in one .npz without pickle, put in place whole."""
    note = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, about=note, **arrays)  # type: ignore[arg-type]


def load_arrays(path: str | os.PathLike[str]) -> tuple[State, dict[str, Any]]:
    """What save_arrays wrote. Raises InputError for a file that is not such a one."""
    place = expand_user(path)
    try:
        with place.open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise ValueError("it is no .npz file")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays.pop("about").tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read as saved statistics: {reason}") from None
    return arrays, about


def flatten(values: Tensor, mask: Tensor | None) -> Tensor:
    """The entries that count, in row-major order: [..., *features] -> [n, *features]."""
    if mask is None:
        return values.reshape(-1, *values.shape[-1:]) if values.dim() else values.reshape(1, 1)
    if mask.shape != values.shape[: mask.dim()]:
        raise InputError(f"a mask {list(mask.shape)} does not lead values {list(values.shape)}")
    chosen = mask.bool()
    rows = values.reshape(mask.numel(), *values.shape[mask.dim() :])
    return rows if bool(chosen.all()) else rows[chosen.reshape(-1)]


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy()


def from_numpy(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(array))
