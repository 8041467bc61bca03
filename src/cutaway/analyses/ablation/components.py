"""Name the components that an ablation replaces: heads, MLPs, layers and sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutaway.errors import InputError

if TYPE_CHECKING:
    from cutaway.model.model import Model

COMPONENTS = ("heads", "mlps", "layers")
SHAPES = ("B P D", "B P 1", "B P H K", "B P M", "B P H D")  # of sites that can be ablated
EMBEDDINGS = ("embed", "pos_embed")  # the sites before the first block


@dataclass(frozen=True, slots=True)
class Ablated:
    """A head, MLP, layer or site that is replaced by itself, the rest of the model left whole."""

    kind: str  # "head", "mlp", "layer" or "site"
    layer: int | None
    head: int | None
    sites: tuple[str, ...]  # the sites to replace, canonical names

    @property
    def name(self) -> str:
        """Return "head 3.1", "mlp 2", "layer 2" or the site's name."""
        if self.kind == "site":
            return self.sites[0]
        return f"{self.kind} {self.layer}" + ("" if self.head is None else f".{self.head}")

    def first_block(self, n_layers: int) -> int:
        """Return the first block that the ablation changes: n_layers where it changes none."""
        if self.layer is None:
            return 0 if self.sites[0] in EMBEDDINGS else n_layers
        return self.layer


def find_components(model: Model, names: Sequence[str]) -> list[Ablated]:
    """Return what "heads", "mlps", "layers" and site patterns stand for, each component once, in the order given.

    Raises SiteError for a pattern that matches nothing, InputError for no names and for sites of other shapes.
    """
    layers, heads = range(model.config.n_layers), range(model.config.n_heads)
    components: list[Ablated] = []
    for name in names:
        match name:
            case "heads":
                components += [Ablated("head", i, h, (f"blocks.{i}.attn.z",)) for i in layers for h in heads]
            case "mlps":
                components += [Ablated("mlp", i, None, (f"blocks.{i}.mlp_out",)) for i in layers]
            case "layers":
                components += [
                    Ablated("layer", i, None, (f"blocks.{i}.attn_out", f"blocks.{i}.mlp_out")) for i in layers
                ]
            case _:
                components += _sites(model, name)
    if not components:
        raise InputError(f"components are {', '.join(COMPONENTS)} or site patterns: at least one was expected")
    return list(dict.fromkeys(components))


def _sites(model: Model, pattern: str) -> list[Ablated]:
    """Return each site that a pattern matches, as a component of its own."""
    sites = model.sites().match(pattern)
    for site in sites:
        if site.shape not in SHAPES:
            raise InputError(
                f"{site.name!r} is {site.shape}: heads, mlps, layers and sites [batch, pos, ...] before the logits can "
                "be ablated"
            )
    return [Ablated("site", site.layer, None, (site.name,)) for site in sites]
