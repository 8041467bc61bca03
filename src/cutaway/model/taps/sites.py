"""Name every tensor in the forward pass, and pick some by pattern.

    sites = model.sites()
    sites.match("attn_out")                        every layer's attn_out, in forward order
    sites.match("blocks.{0,-1}.attn.*")            q, k, v, scores, ... of the first and the last block
    sites.match("transformer.h.3.mlp")             Hugging Face's and TransformerLens's names mean the same sites

Each family has a table of its sites (architectures/); Sites makes a model's own of it.

Letters: B batch, P position, H heads, D d_model, K d_head, M d_mlp, V d_vocab.
"""

from __future__ import annotations

import difflib
import html
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Flag, auto
from typing import TYPE_CHECKING, NamedTuple, overload

from cutaway.errors import SiteError
from cutaway.model.taps import components

if TYPE_CHECKING:
    import pandas as pd

    from cutaway.model.architectures.sizes import Sizes

WILD = {"*": "[^.]*", "**": ".*"}


class Role(Flag):
    """The part that a site plays in its block; analyses go by it instead of by names. A site may have several."""

    NONE = 0
    STREAM = auto()  # the residual stream itself: all later computation follows from it
    ATTENDED = auto()  # later positions attend to it: a change at one position reaches them inside the same block
    PER_HEAD = auto()  # one stream for each head: as many times the stream's size
    MATRIX = auto()  # queries by keys, which attention writes out only if somebody asks


BY_SHAPE = {"B P H D": Role.PER_HEAD, "B H P P": Role.MATRIX}


class Row(NamedTuple):
    """One line of a table of sites."""

    name: str  # without `blocks.i.`
    shape: str
    transformer_lens: str | None  # without `blocks.i.`
    hugging_face: str | None  # without the name of the blocks and i
    meaning: str
    role: Role = Role.NONE


@dataclass(frozen=True)
class SiteTable:
    """A family's sites in forward order: before the blocks, in each block, after them."""

    before: Sequence[Row]
    block: Sequence[Row]
    after: Sequence[Row]
    hugging_face_blocks: str  # Hugging Face's name of the list of blocks, such as "transformer.h"


@dataclass(frozen=True, slots=True)
class Site:
    """A named place in the forward pass."""

    name: str  # canonical
    kind: str  # the name without `blocks.i.`
    layer: int | None
    shape: str  # letters, as in the module docstring
    transformer_lens: str | None
    hugging_face: str | None
    meaning: str
    role: Role = Role.NONE

    @property
    def aliases(self) -> tuple[str, ...]:
        """Return the site's names in the two other vocabularies."""
        return tuple(a for a in (self.transformer_lens, self.hugging_face) if a)


class Sites(Sequence[Site]):
    """All sites of a model in forward order; prints as a table, picks by pattern."""

    def __init__(self, table: SiteTable, config: Sizes) -> None:
        self.config = config
        modules = table.hugging_face_blocks
        self._layer = re.compile(rf"(blocks|{re.escape(modules)})\.(-?\d+)(?=\.|$)")
        self._all = [_site(row, None, row.transformer_lens, row.hugging_face) for row in table.before]
        for i, row in itertools.product(range(config.n_layers), table.block):
            module = None if row.hugging_face is None else f"{modules}.{i}.{row.hugging_face}".rstrip(".")
            self._all.append(_site(row, i, f"blocks.{i}.{row.transformer_lens}", module))
        self._all += [_site(row, None, row.transformer_lens, row.hugging_face) for row in table.after]
        self.order = {site.name: i for i, site in enumerate(self._all)}
        self._named: dict[str, list[Site]] = {}
        for site in self._all:
            for spelling in self._spellings(site):
                self._named.setdefault(spelling, []).append(site)
        self._matched: dict[str, list[Site]] = {}

    def _spellings(self, site: Site) -> Iterator[str]:
        """Yield everything that names a site: full names, and the part behind the layer of each of them."""
        for name in (site.name, *site.aliases):
            yield name
            bare = self._layer.sub("", name).lstrip(".")
            if site.layer is not None and bare:
                yield bare

    @overload
    def __getitem__(self, index: int) -> Site: ...
    @overload
    def __getitem__(self, index: slice) -> list[Site]: ...
    def __getitem__(self, index: int | slice) -> Site | list[Site]:
        return self._all[index]

    def __len__(self) -> int:
        return len(self._all)

    def match(self, patterns: str | Site | Iterable[str | Site]) -> list[Site]:
        """Return the sites that any of the patterns names, each once, in forward order.

        A pattern is a Site, or a name in any of the three vocabularies, either whole or without its layer (`attn_out`
        means every layer's). `*` stands for anything and `{a,b}` for either, inside one dotted segment, and `**` for
        anything in any number of segments; the pattern `*` is every site. A negative layer counts from the last.
        "mlp 2" is an MLP's output, and "mlps" every MLP's.

        Raises SiteError for a pattern, or one reading of its braces, that matches nothing, and for the address of a
        head, neuron or layer, which is not one site.
        """
        if isinstance(patterns, Mapping):
            kind = type(patterns).__name__
            raise SiteError(f"sites are a pattern or a list of patterns; got a {kind}: give only the names")
        found: dict[str, Site] = {}
        for pattern in patterns if isinstance(patterns, Iterable) and not isinstance(patterns, str) else [patterns]:
            name = pattern.name if isinstance(pattern, Site) else pattern
            if not isinstance(name, str):
                hint = ": call it here, [s for s in model.sites() if wanted(s.name)]" if callable(name) else ""
                raise SiteError(f"a site pattern is a string, such as 'attn_out'; got {type(name).__name__}{hint}")
            found |= {site.name: site for site in self._match(name)}
        return sorted(found.values(), key=lambda site: self.order[site.name])

    def _match(self, pattern: str) -> list[Site]:
        """Return the sites that one pattern names, in any order."""
        if pattern not in self._matched:
            found = components.find(pattern, self.config)
            if found is None:
                matched = [s for reading in _braces(pattern) for s in self._match_reading(reading, pattern)]
            elif found[0].kind == "mlp":
                matched = [s for each in found for s in self._named[each.site]]
            else:
                raise SiteError(components.not_one_site(pattern, found))
            self._matched[pattern] = matched
        return self._matched[pattern]

    def _match_reading(self, reading: str, pattern: str) -> list[Site]:
        """Return the sites of one reading of a pattern's braces. Raises SiteError if there are none."""
        name = self._layer.sub(lambda m: f"{m[1]}.{self._from_first(m[2])}", reading)
        if "*" not in name:
            found = self._named.get(name, [])
        else:
            parts = re.split(r"(\*+)", "**" if name == "*" else name)
            regex = re.compile("".join(WILD.get(part[:2]) or re.escape(part) for part in parts))
            found = [site for spelling, sites in self._named.items() if regex.fullmatch(spelling) for site in sites]
        if not found:
            raise SiteError(self._nothing(reading, pattern))
        return found

    def _from_first(self, layer: str) -> int:
        """Return a layer as written, counted from the first; negative if it lies before that."""
        i = int(layer[:20])  # a longer number is out of range too, and int() refuses thousands of digits
        return i + self.config.n_layers if i < 0 else i

    def _nothing(self, reading: str, pattern: str) -> str:
        """Return the message for a pattern that matches nothing, with the nearest names."""
        last = self.config.n_layers - 1
        text = f"no site matches {reading!r}" + (f" (of {pattern!r})" if reading != pattern else "")
        clamped = self._layer.sub(lambda m: f"{m[1]}.{min(max(self._from_first(m[2]), 0), last)}", reading)
        if layer := self._layer.search(reading):
            text += f": this model has blocks 0..{last}"
            inside = self._layer.search(clamped)[2]  # type: ignore[index]
            candidates = [n for n in self._named if f".{inside}." in f"{n}."]
            near = [clamped] if clamped in self._named and clamped != layer.string else []
        else:
            candidates = [n for n in self._named if not self._layer.search(n)]
            near = [n for n in candidates if n.endswith(f".{clamped}")][:3]  # 'q' is not a name of 'attn.q'
        near = near or difflib.get_close_matches(clamped, candidates, n=3, cutoff=0.5)
        return f"{text}; near: {', '.join(map(repr, near))}" if near else f"{text}; model.sites() lists them all"

    def rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        """Yield one row a kind: name, shape in numbers, the two other names, meaning."""
        numbers = self.config.letters()
        for site in self._all:
            if not site.layer:
                shape = " ".join(str(numbers.get(letter, letter)) for letter in site.shape.split())
                row = (site.name, site.transformer_lens or "", site.hugging_face or "")
                name, lens, module = (self._layer.sub(r"\1.i", n) for n in row)
                yield name, shape, lens, module, site.meaning

    def table(self) -> pd.DataFrame:
        """Return one row a site: name, layer, kind, shape, the two other vocabularies, meaning."""
        import pandas as pd

        columns = ["name", "layer", "kind", "shape", "transformer_lens", "hugging_face", "meaning"]
        frame = pd.DataFrame([[getattr(site, c) for c in columns] for site in self._all], columns=columns)
        return frame.astype({"layer": "Int64"})

    def __str__(self) -> str:
        head = ("site", "shape", "TransformerLens", "Hugging Face", "meaning")
        rows = [head, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join([*(f"{c:<{w}}" for c, w in zip(row, widths, strict=False)), row[4]]) for row in rows]
        note = f"i is a layer, 0..{self.config.n_layers - 1}; B batch, P position"
        return "\n".join([lines[0], "─" * len(lines[0]), *lines[1:], note])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        cells = (f"<tr>{''.join(f'<td>{html.escape(c)}</td>' for c in row)}</tr>" for row in self.rows())
        head = "<tr><th>site<th>shape<th>TransformerLens<th>Hugging Face<th>meaning</tr>"
        return f"<table><thead>{head}</thead><tbody>{''.join(cells)}</tbody></table>"


def _site(row: Row, layer: int | None, transformer_lens: str | None, hugging_face: str | None) -> Site:
    """Return the site that a row of a table is in one layer, or outside the blocks."""
    name = row.name if layer is None else f"blocks.{layer}.{row.name}"
    role = row.role | BY_SHAPE.get(row.shape, Role.NONE)
    return Site(name, row.name, layer, row.shape, transformer_lens, hugging_face, row.meaning, role)


def _braces(pattern: str) -> list[str]:
    """Return every reading of a pattern's braces: 'a.{b,c}' -> 'a.b', 'a.c'."""
    parts = re.split(r"\{([^{}.]*)\}", pattern)
    if any(c in part for part in parts[::2] for c in "{}"):
        hint = "write 'blocks.{0,-1}.attn_out'"
        raise SiteError(f"the braces of {pattern!r} do not close inside one dotted segment: {hint}")
    options = [[p] if i % 2 == 0 else [o.strip() for o in p.split(",")] for i, p in enumerate(parts)]
    return ["".join(reading) for reading in itertools.product(*options)]
