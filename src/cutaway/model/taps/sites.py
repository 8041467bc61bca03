"""Sites: the names of every tensor in the forward pass, and the patterns that pick them.

    sites = Sites(config)
    sites.match("attn_out")                        every layer's attn_out, in forward order
    sites.match("blocks.{0,-1}.attn.*")            q, k, v, scores, ... of the first and the last block
    sites.match("transformer.h.3.mlp")             Hugging Face's and TransformerLens's names mean the same sites

One block, with its sites (names after `blocks.i.`):

    resid_pre ─┬─ attn_in ─ q_input, k_input, v_input (one stream a head)
               │
               ├─ ln1.scale ─ ln1.normalized ─ ln1.out ─┬─ attn.q ─┬─ attn.scores ─ attn.pattern ─┐
               │                                        ├─ attn.k ─┘                              ├─ attn.z
               │                                        └─ attn.v ────────────────────────────────┘    │
               + ◄─────────────────────────────────────────────────────── attn_out ◄── attn.result ◄───┘
               │
    resid_mid ─┼─ mlp_in ─ ln2.scale ─ ln2.normalized ─ ln2.out ─ mlp.pre ─ mlp.post ─┐
               │                                                                      │
               + ◄─────────────────────────────────────────────────────── mlp_out ◄───┘
               │
    resid_post ┘

Letters: B batch, P position, H heads, D d_model, K d_head, M d_mlp, V d_vocab.
"""

from __future__ import annotations

import difflib
import html
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from cutaway.errors import SiteError
from cutaway.model.architectures.config import Config

if TYPE_CHECKING:
    import pandas as pd

# (name, shape, TransformerLens name, Hugging Face module, meaning), in forward order
BEFORE = [
    ("embed", "B P D", "hook_embed", "transformer.wte", "token embedding"),
    ("pos_embed", "B P D", "hook_pos_embed", "transformer.wpe", "position embedding"),
]
BLOCK = [
    ("resid_pre", "B P D", "hook_resid_pre", None, "residual stream that enters the block"),
    ("attn_in", "B P H D", "hook_attn_in", None, "resid_pre once for each head, before ln1"),
    ("q_input", "B P H D", "hook_q_input", None, "what each head's queries read, before ln1"),
    ("k_input", "B P H D", "hook_k_input", None, "what each head's keys read, before ln1"),
    ("v_input", "B P H D", "hook_v_input", None, "what each head's values read, before ln1"),
    ("ln1.scale", "B P 1", "ln1.hook_scale", None, "standard deviation that ln1 divides by"),
    ("ln1.normalized", "B P D", "ln1.hook_normalized", None, "ln1 before its weight and bias"),
    ("ln1.out", "B P D", "ln1.hook_out", "ln_1", "what attention reads"),
    ("attn.q", "B P H K", "attn.hook_q", None, "queries"),
    ("attn.k", "B P H K", "attn.hook_k", None, "keys"),
    ("attn.v", "B P H K", "attn.hook_v", None, "values"),
    ("attn.scores", "B H P P", "attn.hook_attn_scores", None, "attention scores; masked ones are -inf"),
    ("attn.pattern", "B H P P", "attn.hook_pattern", None, "attention probabilities, query by key"),
    ("attn.z", "B P H K", "attn.hook_z", None, "values averaged under the pattern"),
    ("attn.result", "B P H D", "attn.hook_result", None, "what each head writes (sum + b_O = attn_out)"),
    ("attn_out", "B P D", "hook_attn_out", "attn", "what attention adds to the stream"),
    ("resid_mid", "B P D", "hook_resid_mid", None, "residual stream between attention and MLP"),
    ("mlp_in", "B P D", "hook_mlp_in", None, "resid_mid as the MLP reads it, before ln2"),
    ("ln2.scale", "B P 1", "ln2.hook_scale", None, "standard deviation that ln2 divides by"),
    ("ln2.normalized", "B P D", "ln2.hook_normalized", None, "ln2 before its weight and bias"),
    ("ln2.out", "B P D", "ln2.hook_out", "ln_2", "what the MLP's first matrix reads"),
    ("mlp.pre", "B P M", "mlp.hook_pre", None, "neurons before the activation function"),
    ("mlp.post", "B P M", "mlp.hook_post", None, "neurons after the activation function"),
    ("mlp_out", "B P D", "hook_mlp_out", "mlp", "what the MLP adds to the stream"),
    ("resid_post", "B P D", "hook_resid_post", "", "residual stream that leaves the block"),
]
AFTER = [
    ("ln_final.scale", "B P 1", "ln_final.hook_scale", None, "standard deviation that ln_final divides by"),
    ("ln_final.normalized", "B P D", "ln_final.hook_normalized", None, "ln_final before its weight and bias"),
    ("ln_final.out", "B P D", "ln_final.hook_out", "transformer.ln_f", "what the unembedding reads"),
    ("logits", "B P V", None, "lm_head", "unnormalized log-probabilities of the next token"),
]

WILD = {"*": "[^.]*", "**": ".*"}
LAYER = re.compile(r"(blocks|transformer\.h)\.(-?\d+)(?=\.|$)")


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

    @property
    def aliases(self) -> tuple[str, ...]:
        return tuple(a for a in (self.transformer_lens, self.hugging_face) if a)

    def spellings(self) -> Iterator[str]:
        """Everything that names this site: full names, and what follows the layer in each of them."""
        for name in (self.name, *self.aliases):
            yield name
            bare = LAYER.sub("", name).lstrip(".")
            if self.layer is not None and bare:
                yield bare


class Sites(Sequence[Site]):
    """All sites of a model in forward order; prints as a table, picks by pattern."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._all: list[Site] = [Site(n, n, None, s, tl, hf, m) for n, s, tl, hf, m in BEFORE]
        for i, (n, s, tl, hf, m) in itertools.product(range(config.n_layers), BLOCK):
            module = None if hf is None else f"transformer.h.{i}.{hf}".rstrip(".")
            self._all.append(Site(f"blocks.{i}.{n}", n, i, s, f"blocks.{i}.{tl}", module, m))
        self._all += [Site(n, n, None, s, tl, hf, m) for n, s, tl, hf, m in AFTER]
        self.order = {site.name: i for i, site in enumerate(self._all)}
        self._named: dict[str, list[Site]] = {}
        for site in self._all:
            for spelling in site.spellings():
                self._named.setdefault(spelling, []).append(site)
        self._matched: dict[str, list[Site]] = {}

    @overload
    def __getitem__(self, index: int) -> Site: ...
    @overload
    def __getitem__(self, index: slice) -> list[Site]: ...
    def __getitem__(self, index: int | slice) -> Site | list[Site]:
        return self._all[index]

    def __len__(self) -> int:
        return len(self._all)

    def match(self, patterns: str | Site | Iterable[str | Site]) -> list[Site]:
        """The sites that any of the patterns names, each once, in forward order.

        A pattern is a Site, or a name in any of the three vocabularies, whole or from behind the layer (`attn_out`:
        every layer's). `*` stands for anything and `{a,b}` for either, inside one dotted segment, and `**` for anything
        in any number of them; `*` alone is every site. A negative layer counts from the last. Raises SiteError for a
        pattern, or one reading of its braces, that matches nothing.
        """
        if isinstance(patterns, Mapping):
            kind = type(patterns).__name__
            raise SiteError(f"sites are a pattern or a list of patterns; got a {kind}: give the names alone")
        found: dict[str, Site] = {}
        for pattern in patterns if isinstance(patterns, Iterable) and not isinstance(patterns, str) else [patterns]:
            name = pattern.name if isinstance(pattern, Site) else pattern
            if not isinstance(name, str):
                hint = ": call it here, [s for s in model.sites() if wanted(s.name)]" if callable(name) else ""
                raise SiteError(f"a site pattern is a string, such as 'attn_out'; got {type(name).__name__}{hint}")
            found |= {site.name: site for site in self._match(name)}
        return sorted(found.values(), key=lambda site: self.order[site.name])

    def _match(self, pattern: str) -> list[Site]:
        if pattern not in self._matched:
            self._matched[pattern] = [s for reading in _braces(pattern) for s in self._match_reading(reading, pattern)]
        return self._matched[pattern]

    def _match_reading(self, reading: str, pattern: str) -> list[Site]:
        name = LAYER.sub(lambda m: f"{m[1]}.{self._from_first(m[2])}", reading)
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
        """A layer as written, counted from the first; negative where it lies before that."""
        i = int(layer[:20])  # any longer one lies beyond as well, and int() refuses thousands of digits
        return i + self.config.n_layers if i < 0 else i

    def _nothing(self, reading: str, pattern: str) -> str:
        last = self.config.n_layers - 1
        text = f"no site matches {reading!r}" + (f" (of {pattern!r})" if reading != pattern else "")
        clamped = LAYER.sub(lambda m: f"{m[1]}.{min(max(self._from_first(m[2]), 0), last)}", reading)
        if layer := LAYER.search(reading):
            text += f": this model has blocks 0..{last}"
            candidates = [n for n in self._named if f".{LAYER.search(clamped)[2]}." in f"{n}."]  # type: ignore[index]
            near = [clamped] if clamped in self._named and clamped != layer.string else []
        else:
            candidates = [n for n in self._named if not LAYER.search(n)]
            near = [n for n in candidates if n.endswith(f".{clamped}")][:3]  # 'q' alone is no name of 'attn.q'
        near = near or difflib.get_close_matches(clamped, candidates, n=3, cutoff=0.5)
        return f"{text}; near: {', '.join(map(repr, near))}" if near else f"{text}; model.sites() lists them all"

    def rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        """One row a kind: name, shape in numbers, the two other names, meaning."""
        c = self.config
        numbers = {"D": c.d_model, "H": c.n_heads, "K": c.d_head, "M": c.d_mlp, "V": c.d_vocab}
        for site in self._all:
            if not site.layer:
                shape = " ".join(str(numbers.get(letter, letter)) for letter in site.shape.split())
                row = (site.name, site.transformer_lens or "", site.hugging_face or "")
                name, lens, module = (re.sub(r"(blocks|\.h)\.0", r"\1.i", n) for n in row)
                yield name, shape, lens, module, site.meaning

    def table(self) -> pd.DataFrame:
        """One row a site: name, layer, kind, shape, the two other vocabularies, meaning."""
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


def _braces(pattern: str) -> list[str]:
    """Every reading of a pattern's braces: 'a.{b,c}' -> 'a.b', 'a.c'."""
    parts = re.split(r"\{([^{}.]*)\}", pattern)
    if any(c in part for part in parts[::2] for c in "{}"):
        hint = "write 'blocks.{0,-1}.attn_out'"
        raise SiteError(f"the braces of {pattern!r} do not close inside one dotted segment: {hint}")
    options = [[p] if i % 2 == 0 else [o.strip() for o in p.split(",")] for i, p in enumerate(parts)]
    return ["".join(reading) for reading in itertools.product(*options)]
