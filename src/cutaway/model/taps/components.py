"""Address a component of a model: "head 3.1", "mlp 2", "neuron 3.712" or "layer 2".

    find("head -1.3", sizes)            [Address("head", 11, 3)]; negative layers count from the end
    find("heads", sizes)                every head; "mlps" and "layers" likewise
    find("attn_out", sizes)             None: a pattern of sites, which Sites.match reads
    str(Address("head", 3, 1))          "head 3.1"

A head is addressed at attn.z, its output before W_O; a neuron at mlp.post, after the activation; an MLP at mlp_out.
"head 3.1 q" (or k, or v) is a head's queries, keys or values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cutaway.errors import SiteError

if TYPE_CHECKING:
    from cutaway.model.architectures.sizes import Sizes

SITES: Mapping[str, str] = {"head": "attn.z", "neuron": "mlp.post", "mlp": "mlp_out"}  # a layer has several
KINDS = (*SITES, "layer")
INDEXED: Mapping[str, Callable[[Sizes], int]] = {"head": lambda c: c.n_heads, "neuron": lambda c: c.d_mlp}
ALL = {"heads": "head", "mlps": "mlp", "layers": "layer"}

NUMBER = "-?[0-9]+"
WRITTEN = re.compile(rf"(?P<kind>head|neuron|mlp|layer) (?P<layer>{NUMBER})(\.(?P<index>[0-9]+))?( (?P<part>[qkv]))?")
MEANT = re.compile(r"\s*(?:(?:head|neuron|mlp|layer)s?[\s\d-].*|[la]?\d+[.h]+\d+\s*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Address:
    """One component. `str()` writes it as `find` reads it."""

    kind: str  # one of KINDS
    layer: int
    index: int | None = None  # of the head or neuron
    part: str | None = None  # "q", "k" or "v" of a head

    def __str__(self) -> str:
        index = "" if self.index is None else f".{self.index}"
        return f"{self.kind} {self.layer}{index}" + ("" if self.part is None else f" {self.part}")

    @property
    def site(self) -> str:
        """Return the site that a head, neuron or MLP is at. Raises SiteError for a layer, which has several."""
        if self.kind not in SITES:
            raise SiteError(not_one_site(str(self), [self]))
        return f"blocks.{self.layer}." + (SITES[self.kind] if self.part is None else f"attn.{self.part}")


def find(written: str, sizes: Sizes) -> list[Address] | None:
    """Return the components that an address means, layers ascending; None for a pattern of sites.

    Raises SiteError for what is written like an address and means no component of this model.
    """
    if written in ALL:
        return list(_every(ALL[written], sizes))
    if match := WRITTEN.fullmatch(written):
        index = None if match["index"] is None else _number(match["index"])
        found = Address(match["kind"], _number(match["layer"]), index, match["part"])
        if found.layer < 0:
            found = replace(found, layer=found.layer + sizes.n_layers)
        if _clamped(found, sizes) == found:
            return [found]
    elif not MEANT.fullmatch(written):
        return None
    raise SiteError(_missing(written, sizes))


def not_one_site(written: str, found: list[Address]) -> str:
    """Return the message for an address where whole sites were expected: which site to name instead."""
    first = found[0]
    if first.kind == "layer":
        at = f"blocks.{first.layer}." if len(found) == 1 else ""
        return f"{written!r} is several sites: name '{at}attn_out' and '{at}mlp_out', or '{at}resid_post'"
    if len(found) == 1:
        return f"{written!r} is a part of a site: name {first.site!r}, where it is [:, :, {first.index}]"
    return f"{written!r} are parts of sites: name {SITES[first.kind]!r}, where each is [:, :, {first.kind}]"


def _every(kind: str, sizes: Sizes) -> Iterator[Address]:
    """Yield all components of a kind, layers ascending."""
    indices: range | list[None] = range(INDEXED[kind](sizes)) if kind in INDEXED else [None]
    return (Address(kind, layer, index) for layer in range(sizes.n_layers) for index in indices)


def _number(digits: str) -> int:
    """Return digits as a number. A longer one is out of range too, and int() refuses thousands of digits."""
    return int(digits[:20])


def _clamped(address: Address, sizes: Sizes) -> Address:
    """Return the nearest component that the model has."""
    layer = min(max(address.layer, 0), sizes.n_layers - 1)
    if address.kind not in INDEXED:
        return Address(address.kind, layer)
    index = min(max(address.index or 0, 0), INDEXED[address.kind](sizes) - 1)
    return Address(address.kind, layer, index, address.part if address.kind == "head" else None)


def _missing(written: str, sizes: Sizes) -> str:
    """Return the message for an address of nothing: what the model has, and the nearest component."""
    kind = next((kind for kind in KINDS if kind in written.lower()), "head")
    layer, index, *_ = [*map(_number, re.findall(NUMBER, written)), 0, 0]
    near = _clamped(Address(kind, layer + sizes.n_layers if layer < 0 else layer, abs(index)), sizes)
    has = f"layers 0..{sizes.n_layers - 1}"
    if kind in INDEXED:
        has += f" with {kind}s 0..{INDEXED[kind](sizes) - 1}"
    shown = written if len(written) <= 60 else f"{written[:59]}…"
    return f"no component is called {shown!r}: this model has {has}; near: {str(near)!r}"
