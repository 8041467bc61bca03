"""Add up the metrics of a lens by document: the sink of logit_lens.average."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from cutaway.analyses.logit_lens.metrics import lens_metrics
from cutaway.surveys.sinks import PerDocument, Seen

MEANS = ("loss", "entropy", "kl", "js", "tv", "right", "agrees")


class LensSums(PerDocument):
    """A sink of sums by document: tokens that have a next one, then the metrics in MEANS at each site."""

    def __init__(self, at: Sequence[str], final: str) -> None:
        super().__init__()
        self._at, self._final = list(at), final

    @property
    def sites(self) -> Sequence[str]:
        """Return the sites that are read, and the site after the last block."""
        return list(dict.fromkeys([self._final, *self._at]))

    def settings(self) -> dict[str, Any]:
        """Return the sites that are read, and the site after the last block."""
        return {"at": self._at, "final": self._final}

    def parts(self, seen: Seen) -> Iterator[tuple[int, Tensor]]:
        """Yield what one batch adds, a few positions at a time."""
        if seen.run is None:
            return
        numbers = torch.tensor([row.number for row in seen.batch.rows for _ in row.ids])
        done, no_targets = 0, torch.empty(0, dtype=torch.long, device=seen.model.device)
        for part in lens_metrics(seen.model, seen.run, self._at, 1, no_targets):
            first = part["top_ids"][..., 0]
            shares = {"right": (part["rank"] == 1).double(), "agrees": (first == part["own_top"]).double()}
            values = torch.stack([shares.get(name, part.get(name, first)) for name in MEANS], -1)
            counted = part["rank"][0] > 0  # tokens that have a next one
            of_part = numbers[done : done + first.shape[1]]
            done += first.shape[1]
            for number in sorted(set(of_part[counted].tolist())):
                chosen = counted & (of_part == number)
                yield number, torch.cat([chosen.sum()[None], values[:, chosen].sum(1).flatten()])
