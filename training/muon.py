"""Muon: momentum whose every step is orthogonalized.

    optimizer = Muon([{"params": matrices}, {"params": fused_qkv, "parts": 3}], lr=0.02)

A matrix's averaged gradient G = U S V^T is replaced by (nearly) U V^T, so that every direction it points in is
followed equally far. U V^T comes from a few Newton-Schulz steps: matrix products only, no decomposition.

Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks (kellerjordan.github.io/posts/muon), from
which the polynomial's three coefficients and the scale of a step are. Why the orthogonal step: Bernstein and Newhouse
2024, Old Optimizer, New Norm: An Anthology (arXiv 2409.20325); section 3.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a, b, c of p(s) = a s + b s^3 + c s^5


class Muon(torch.optim.Optimizer):
    """Muon for matrices stored [in, out], with Nesterov momentum.

    `parts` of a group: how many matrices stand side by side in each tensor (3 for a fused q, k, v), each
    orthogonalized on its own. The momentum, lr and number of Newton-Schulz steps are those of Jordan et al.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float = 0.02, momentum: float = 0.95, steps: int = 5):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "steps": steps, "parts": 1})

    @torch.no_grad()
    def step(self) -> None:
        """One step from the gradients at hand."""
        for group in self.param_groups:
            # Matrices of one shape go through Newton-Schulz together: on a GPU a launch costs more than a product.
            same_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                update = self._nesterov(weight, group["momentum"])
                pairs = zip(weight.chunk(group["parts"], 1), update.chunk(group["parts"], 1), strict=True)
                for piece, direction in pairs:
                    same_shape[piece.shape].append((piece, direction))
            for (rows, columns), pieces in same_shape.items():
                updates = orthogonalize(torch.stack([direction for _, direction in pieces]), group["steps"])
                scale = max(1.0, columns / rows) ** 0.5  # an output wider than its input moves as far, entry by entry
                for (piece, _), update in zip(pieces, updates, strict=True):
                    piece.sub_(update, alpha=group["lr"] * scale)

    def _nesterov(self, weight: Tensor, momentum: float) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        average: Tensor = state["momentum"].mul_(momentum).add_(weight.grad)
        return weight.grad + momentum * average


def orthogonalize(G: Tensor, steps: int = 5) -> Tensor:
    """[..., rows, columns] -> the same shape: singular vectors kept, singular values brought near 1 (0.68 to 1.21).

    Each step applies p(s) = a s + b s^3 + c s^5 to every singular value s at once. Its coefficients lift small values
    fast instead of settling at 1; values below 1/500 of the matrix's norm are still on their way up after five steps.
    In bfloat16 on a GPU.
    """
    a, b, c = NEWTON_SCHULZ
    wide = G.shape[-2] <= G.shape[-1]
    X = G if wide else G.mT
    X = X.bfloat16() if G.is_cuda else X
    X = X / (X.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # no singular value above 1
    for _ in range(steps):
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    return (X if wide else X.mT).to(G.dtype)
