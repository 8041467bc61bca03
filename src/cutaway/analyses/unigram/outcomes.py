"""Measure the loss and the predictions of a model when constants are added to its logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cutaway.analyses.logits import chunk_size, widen
from cutaway.analyses.unigram.texts import GROUPS, SITE, predicted_positions
from cutaway.stats.base import State, from_numpy, to_numpy
from cutaway.surveys.sinks import Seen, check_alike, digest

if TYPE_CHECKING:
    from cutaway.model.model import Model

FOLDS = 2


class Outcomes:
    """A sink of losses by group of documents, and of mean predictions, with constants [fold, K, V] added to the logits.

    exp(logits + z) is a product of exp(logits) and exp(z), so all constants take one softmax and two matrix products.
    """

    sites: Sequence[str] = (SITE,)

    def __init__(self, constants: Tensor) -> None:
        self.constants = constants
        K, V = constants.shape[1:]
        self.losses = torch.zeros(GROUPS, K, dtype=torch.float64, device=constants.device)
        self.predictions = torch.zeros(K, V, dtype=torch.float64, device=constants.device)
        self.count = torch.zeros(GROUPS, dtype=torch.float64, device=constants.device)

    def settings(self) -> dict[str, Any]:
        """Return a hash of the constants."""
        return {"constants": digest(self.constants)}

    def add(self, seen: Seen) -> None:
        """Count one batch's predicted positions."""
        if seen.run is None:
            return
        numbers, next_ids, chosen, _ = predicted_positions(seen)
        states = seen.run[SITE][chosen]  # n D
        for fold, constants in enumerate(self.constants):
            inside = numbers % FOLDS == fold
            highest = constants.amax(1)
            self._count(seen.model, states[inside], next_ids[inside], numbers[inside] % GROUPS, constants, highest)

    def _count(
        self, model: Model, states: Tensor, next_ids: Tensor, group: Tensor, constants: Tensor, highest: Tensor
    ) -> None:
        """Count one fold's predictions, given its states [n D], next tokens and groups [n], and constants [K V]."""

        factors = (constants - highest[:, None]).exp()  # K V
        step = chunk_size(model.config.d_vocab)
        for start in range(0, len(states), step):
            part = slice(start, start + step)
            logits = widen(model.unembed(states[part], normed=True)).double()  # n V
            log_q = logits.log_softmax(1)
            own = log_q.gather(1, next_ids[part, None])  # n 1
            q = log_q.exp_()
            total = q @ factors.T  # n K
            moved = constants[:, next_ids[part]].T - highest - total.log()  # n K; change of log-probability
            self.losses.index_add_(0, group[part], -(own + moved))
            self.predictions += factors * ((1 / total).T @ q)
            self.count += torch.bincount(group[part], minlength=GROUPS)

    def merge(self, other: Outcomes) -> None:
        """Add what another sink has counted. Raises InputError for one with other constants."""
        check_alike(self, other, "constants")
        self.losses, self.count = self.losses + other.losses, self.count + other.count
        self.predictions = self.predictions + other.predictions

    def empty(self) -> Outcomes:
        """Return a new sink with the same constants that has seen nothing."""
        return Outcomes(self.constants)

    def state(self) -> State:
        """Return everything counted, as plain arrays."""
        return {name: to_numpy(getattr(self, name)) for name in ("losses", "predictions", "count")}

    def load_state(self, state: State) -> None:
        """Replace what was counted by a state that state() returned."""
        for name, array in state.items():
            setattr(self, name, from_numpy(array).to(self.constants.device))
