"""Name what a causal trace restores, and group what can be computed together.

restorations("mlp_out", n_layers, window)         one a layer
group_by_start(numbers, restorations)             groups of one kind that begin in one layer
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

KINDS = ("resid_post", "mlp_out", "attn_out")


@dataclass(frozen=True)
class Restoration:
    """One kind of clean state, put back in layers first .. end - 1 and shown at `layer`; at any position."""

    kind: str
    layer: int
    first: int
    end: int


def restorations(kind: str, n_layers: int, window: int) -> list[Restoration]:
    """Return one restoration a layer. Windows begin at layer - window // 2 and are clipped to the model's layers."""
    return [
        Restoration(kind, i, max(0, i - window // 2), min(n_layers, i + (window + 1) // 2)) for i in range(n_layers)
    ]


@dataclass(frozen=True)
class Group:
    """Restorations of one kind that begin in the same layer, and so share one row until the first of them ends."""

    kind: str
    first: int
    numbers: list[int]  # which restorations
    rows: int  # how many rows they are in the last block


def group_by_start(numbers: Sequence[int], chosen: Sequence[Restoration]) -> Iterator[Group]:
    """Yield the restorations with these numbers, grouped by kind and first layer."""
    grouped: dict[tuple[str, int], list[int]] = {}
    for i in numbers:
        grouped.setdefault((chosen[i].kind, chosen[i].first), []).append(i)
    for (kind, first), members in grouped.items():
        yield Group(kind, first, members, len({chosen[i].end for i in members}))


@dataclass
class SharedRow:
    """One row of the growing batch, shared by all restorations whose states are still identical."""

    kind: str
    numbers: list[int]  # which restorations
    ends: list[int]

    def restores(self, layer: int) -> bool:
        """Return whether some of the row's restorations still go on in a layer."""
        return max(self.ends) > layer

    def split(self, layer: int) -> SharedRow:
        """Split off the restorations whose window ends before `layer` into a new row and return it."""
        done = [i for i, end in enumerate(self.ends) if end <= layer]
        new = SharedRow(self.kind, [self.numbers[i] for i in done], [self.ends[i] for i in done])
        self.numbers = [number for i, number in enumerate(self.numbers) if i not in done]
        self.ends = [end for i, end in enumerate(self.ends) if i not in done]
        return new
