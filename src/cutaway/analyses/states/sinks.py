"""TODO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from cutaway.results.labels import token_labels
from cutaway.stats import Covariance, Moments, Sample
from cutaway.stats.base import State
from cutaway.surveys.sinks import Seen, SiteStatistics

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.model.taps.sites import Site

BEFORE = 10  # tokens of a context, the sampled one last
PROJECTIONS = 64


def sinks_for(model: Model, sites: list[Site], sample: int, seed: int) -> dict[str, Any]:
    project = Projection(model.config.d_model, seed, str(model.device))
    sinks: dict[str, Any] = {"contexts": Contexts(sample, seed)}
    for site in sites:
        kept = [Sample(sample, seed), Covariance(), Moments(4)]
        sinks[f"{site.name} states"] = SiteStatistics(site.name, kept, first=False)
        sinks[f"{site.name} projected"] = SiteStatistics(site.name, [Moments(4)], of=project, first=False)
    return sinks


class Projection:
    """States -> their coordinates along random directions of length 1."""

    def __init__(self, width: int, seed: int, device: str) -> None:
        self.settings = (width, seed)
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(width, PROJECTIONS, generator=generator, dtype=torch.float32)
        self.directions = (directions / directions.norm(dim=0)).to(device)

    def __call__(self, values: Tensor) -> Tensor:
        projected: Tensor = values.float() @ self.directions
        return projected

    def __repr__(self) -> str:
        return f"Projection{self.settings}"


@dataclass
class Contexts:
    """A sink: of each sampled token the ids up to it and the one after it; -1 where the window has none."""

    size: int
    seed: int
    count: int = field(default=0, init=False, repr=False)

    sites: ClassVar[Sequence[str]] = ()

    def __post_init__(self) -> None:
        self.sample = Sample(self.size, self.seed)

    def add(self, seen: Seen) -> None:
        ids = seen.batch.tokens.ids.masked_fill(seen.batch.tokens.mask == 0, -1)
        padded = torch.nn.functional.pad(ids, (BEFORE - 1, 1), value=-1)
        self.sample.add(padded.unfold(1, BEFORE + 1, 1), seen.later.cpu(), seen.later_keys)
        self.count += len(seen.later_keys)

    def merge(self, other: Contexts) -> None:
        self.sample.merge(other.sample)
        self.count += other.count

    def empty(self) -> Contexts:
        return Contexts(self.size, self.seed)

    def state(self) -> State:
        return {"count": np.array(self.count), **self.sample.state()}

    def load_state(self, state: State) -> None:
        self.count = int(state["count"])
        self.sample.load_state({name: array for name, array in state.items() if name != "count"})


def context(model: Model, ids: list[int]) -> str:
    *before, after = ids
    read = [i for i in before if i >= 0]
    if not model.has_tokenizer:
        return "".join(token_labels(model, read)) + (
            "<END>" if after < 0 else f" then {token_labels(model, [after])[0]}"
        )
    following = "<END>" if after < 0 else f"[{model.tokenizer.decode([after])}]"
    return model.tokenizer.decode(read) + following
