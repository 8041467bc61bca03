"""Keep of each site's states, in one pass, a sample and moments, and the contexts of the sample."""

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

BEFORE = 10  # tokens of a context up to the sampled one, which is the last
PROJECTIONS = 64


def state_sinks(model: Model, sites: list[Site], sample: int, seed: int) -> dict[str, Any]:
    """Return sinks by name: "contexts", and for each site "SITE states" and "SITE projected"."""
    project = Projection(model.config.d_model, seed, str(model.device))
    sinks: dict[str, Any] = {"contexts": ContextSample(sample, seed)}
    for site in sites:
        kept = [Sample(sample, seed), Covariance(), Moments(4)]
        sinks[f"{site.name} states"] = SiteStatistics(site.name, kept, first=False)
        sinks[f"{site.name} projected"] = SiteStatistics(site.name, [Moments(4)], of=project, first=False)
    return sinks


class Projection:
    """A function from states to their coordinates along random directions of length 1."""

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
class ContextSample:
    """A sink of the contexts of sampled tokens: the ids up to the token and the id after it, -1 outside the window."""

    size: int
    seed: int
    count: int = field(default=0, init=False, repr=False)

    sites: ClassVar[Sequence[str]] = ()

    def __post_init__(self) -> None:
        self.sample = Sample(self.size, self.seed)

    def settings(self) -> dict[str, Any]:
        """Return the size and the seed of the sample."""
        return {"size": self.size, "seed": self.seed}

    def add(self, seen: Seen) -> None:
        """Sample from one batch."""
        ids = seen.batch.tokens.ids.masked_fill(seen.batch.tokens.mask == 0, -1)
        padded = torch.nn.functional.pad(ids, (BEFORE - 1, 1), value=-1)
        self.sample.add(padded.unfold(1, BEFORE + 1, 1), seen.later.cpu(), seen.later_keys)
        self.count += len(seen.later_keys)

    def merge(self, other: ContextSample) -> None:
        """Add what another sink has seen. Raises InputError for one with other settings."""
        self.sample.merge(other.sample)
        self.count += other.count

    def empty(self) -> ContextSample:
        """Return a new sink with the same settings that has seen nothing."""
        return ContextSample(self.size, self.seed)

    def state(self) -> State:
        """Return the count and the sample, as plain arrays."""
        return {"count": np.array(self.count), **self.sample.state()}

    def load_state(self, state: State) -> None:
        """Replace count and sample by a state that state() returned."""
        self.count = int(state["count"])
        self.sample.load_state({name: array for name, array in state.items() if name != "count"})


def context_text(model: Model, ids: list[int]) -> str:
    """Return a context as text, with the token after the sampled one in brackets, <END> where there is none."""
    *before, after = ids
    read = [i for i in before if i >= 0]
    if not model.has_tokenizer:
        following = "<END>" if after < 0 else f" then {token_labels(model, [after])[0]}"
        return "".join(token_labels(model, read)) + following
    following = "<END>" if after < 0 else f"[{model.tokenizer.decode([after])}]"
    return model.tokenizer.decode(read) + following
