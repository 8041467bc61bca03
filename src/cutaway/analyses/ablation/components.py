"""Name the components that an ablation replaces: heads, MLPs, neurons, layers and sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutaway.errors import InputError
from cutaway.model.taps.components import Address, find

if TYPE_CHECKING:
    from cutaway.model.model import Model

COMPONENTS = ("heads", "mlps", "layers")
SHAPES = ("B P D", "B P 1", "B P H K", "B P M", "B P H D")  # of sites that can be ablated
EMBEDDINGS = ("embed", "pos_embed")  # the sites before the first block


@dataclass(frozen=True, slots=True)
class Ablated:
    """A head, MLP, neuron, layer or site that is replaced by itself, the rest of the model left whole."""

    kind: str  # "head", "mlp", "neuron", "layer" or "site"
    layer: int | None
    head: int | None
    sites: tuple[str, ...]  # the sites to replace, canonical names
    neuron: int | None = None

    @property
    def index(self) -> int | None:
        """Return the head or neuron that is replaced; None where the whole site is."""
        return self.neuron if self.head is None else self.head

    @property
    def name(self) -> str:
        """Return the component's address ("head 3.1", "mlp 2", "neuron 3.712", "layer 2"), or the site's name."""
        if self.kind == "site" or self.layer is None:
            return self.sites[0]
        return str(Address(self.kind, self.layer, self.index))

    def first_block(self, n_layers: int) -> int:
        """Return the first block that the ablation changes: n_layers where it changes none."""
        if self.layer is None:
            return 0 if self.sites[0] in EMBEDDINGS else n_layers
        return self.layer


def find_components(model: Model, names: Sequence[str]) -> list[Ablated]:
    """Return what addresses, "heads", "mlps", "layers" and site patterns stand for, each once, in the order given.

    Raises SiteError for a pattern or address that matches nothing, InputError for no names and for sites of other
    shapes.
    """
    components: list[Ablated] = []
    for name in names:
        found = find(name, model.config) if isinstance(name, str) else None
        components += _sites(model, name) if found is None else map(_component, found)
    if not components:
        raise InputError(f"components are {', '.join(COMPONENTS)} or site patterns: at least one was expected")
    return list(dict.fromkeys(components))


def _component(at: Address) -> Ablated:
    """Return the component at an address; a layer is its attention and its MLP. Raises InputError for a part of one."""
    if at.part is not None:
        raise InputError(f"'{at}' is a part of a head: heads are ablated whole, as '{at.kind} {at.layer}.{at.index}'")
    head, neuron = (at.index if at.kind == kind else None for kind in ("head", "neuron"))
    block = f"blocks.{at.layer}"
    sites = (f"{block}.attn_out", f"{block}.mlp_out") if at.kind == "layer" else (at.site,)
    return Ablated(at.kind, at.layer, head, sites, neuron)


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
