"""Draw what the final bias alone says, and how close it is to the unigram distribution."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import altair as alt

from cutaway.charts.marks import Layers, values
from cutaway.charts.theme import BLUE, MONO, ORANGE

if TYPE_CHECKING:
    from cutaway.analyses.unigram.readout import Comparison, ReadOut

ROW = 21  # height of a bar, pixels
DOTS = 9000  # tokens drawn as dots; of a larger vocabulary the most frequent, and all that are looked for
NAMED = 8  # tokens with their names written beside them, where there is room
LISTED = 9  # tokens found that are listed
SCATTER = (470, 400)  # pixels
FOUND = "indexof(datum.token, replace(search, /\\s/g, '·')) >= 0"


def read(result: ReadOut) -> alt.TopLevelMixin:
    """Draw bars of probability, the tokens of `also` in orange below the others, and a line at 1 / d_vocab."""
    rows = [
        {
            "k": k + 1,
            "token": token,
            "id": index,
            "probability": p,
            "rank": rank,
            "kind": "asked for" if asked else "likeliest",
        }
        for k, (token, index, p, rank, asked) in enumerate(
            zip(result.display, result.ids, result.probabilities, result.ranks, result.asked, strict=True)
        )
    ]
    even, highest = 1 / result.d_vocab, max([*result.probabilities, 1 / result.d_vocab])
    data = alt.Chart(values(rows))
    y = alt.Y("k:O", axis=None)
    x = alt.X(
        "probability:Q",
        title="Probability under the bias alone",
        scale=alt.Scale(domain=[-0.22 * highest, 1.14 * highest], nice=False),
        axis=alt.Axis(values=_ticks(highest), format=".0e", grid=True, domain=False),
    )
    tooltip = [
        alt.Tooltip("token:N", title="Token"),
        alt.Tooltip("id:Q", title="Token id"),
        alt.Tooltip("probability:Q", title="Probability", format=".3~e"),
        alt.Tooltip("rank:Q", title="Rank", format=","),
    ]
    colour = alt.condition("datum.kind == 'asked for'", alt.value(ORANGE), alt.value(BLUE))
    bars = data.mark_bar(height=ROW - 7, cornerRadiusEnd=2)
    bars = bars.encode(x=x, x2=alt.datum(0), y=y, color=colour, tooltip=tooltip)
    names = data.mark_text(align="right", dx=-6, font=MONO, fontSize=12, limit=100)
    names = names.encode(x=alt.datum(0), y=y, text="token:N", tooltip=tooltip)
    numbers = data.transform_calculate(
        note="format(datum.probability, '.2e') + "
        "(datum.kind == 'asked for' ? '   rank ' + format(datum.rank, ',') : '')"
    )
    numbers = numbers.mark_text(align="left", dx=4, fontSize=11).encode(x=x, y=y, text="note:N")
    rule = alt.Chart(values([{"even": even}])).mark_rule(strokeDash=[4, 3]).encode(x="even:Q")
    return alt.layer(bars, rule, names, numbers).properties(width=620, height=ROW * len(rows))


def _ticks(highest: float) -> list[float]:
    """Return round numbers from 0 to the longest bar."""
    step = 10 ** math.floor(math.log10(highest))
    step = step if highest / step >= 3 else step / 2 if highest / step >= 1.5 else step / 5
    return [step * i for i in range(int(highest / step) + 1)]


def compare(result: Comparison) -> alt.TopLevelMixin:
    """Draw the scatter with a box to find tokens, and the divergences beside it."""
    search = alt.param(name="search", value=" war", bind=alt.binding(input="search", name="Find a token "))
    data = alt.Chart(values(_dots(result)))
    right = alt.vconcat(_yardsticks(result), _matches(data), spacing=30)
    return alt.hconcat(_scatter(result, data), right, spacing=40).add_params(search)


def _dots(result: Comparison) -> list[dict[str, Any]]:
    """Return a record for each token."""
    log_p, order = result.p.log(), result.counts.argsort(descending=True, stable=True).tolist()
    rank = [0] * len(order)
    for place, index in enumerate(order):
        rank[index] = place + 1
    return [
        {"token": token, "u": round(u, 4), "p": round(p, 4), "n": n, "rank": place}
        for token, u, p, n, place in zip(
            result.display, result.u.tolist(), log_p.tolist(), result.counts.tolist(), rank, strict=True
        )
    ]


def _scatter(result: Comparison, data: alt.Chart) -> Layers:
    u, p = [round(v, 4) for v in result.u.tolist()], [round(v, 4) for v in result.p.log().tolist()]
    x = alt.X("u:Q", title="Logit from the final bias", scale=alt.Scale(domain=_span(u), nice=False))
    y = alt.Y("p:Q", title="Natural logarithm of p", scale=alt.Scale(domain=_span(p), nice=False))
    tooltip = [
        alt.Tooltip("token:N", title="Token"),
        alt.Tooltip("n:Q", title="Occurs", format=","),
        alt.Tooltip("p:Q", title="log p", format=".2f"),
        alt.Tooltip("u:Q", title="Logit from the bias", format=".3f"),
    ]
    dots = data.transform_filter(f"datum.rank <= {DOTS}").mark_circle(size=12, opacity=0.35, clip=True)
    dots = dots.encode(x=x, y=y, tooltip=tooltip)
    # One line of slope 1: where softmax(u) would be p.
    shift = float(result.u.logsumexp(0))
    ends = [{"u": value, "p": value - shift} for value in _span(u)]
    line = alt.Chart(values(ends)).mark_line(strokeDash=[5, 4], strokeWidth=1.2, color="#9ca3af", clip=True)
    line = line.encode(x=x, y=y)
    frequent = data.transform_filter(f"indexof({_apart(result, u, p)}, datum.rank) >= 0 && !(search && {FOUND})")
    names = frequent.mark_text(align="left", dx=6, font=MONO, fontSize=10).encode(x=x, y=y, text="token:N")
    found = data.transform_filter(f"search && {FOUND}")
    hits = found.mark_circle(size=46, color=ORANGE, opacity=0.95).encode(x=x, y=y, tooltip=tooltip)
    labels = found.transform_window(place="row_number()", sort=[alt.SortField("rank")])
    labels = labels.transform_filter("datum.place == 1")
    labels = labels.mark_text(align="left", dx=7, dy=-6, font=MONO, fontSize=11, color=ORANGE, fontWeight="bold")
    labels = labels.encode(x=x, y=y, text="token:N")
    return alt.layer(dots, line, names, hits, labels).properties(width=SCATTER[0], height=SCATTER[1])


def _apart(result: Comparison, u: list[float], p: list[float]) -> list[int]:
    """Return ranks of the most frequent tokens whose names fit beside their dots without touching each other."""
    scales = [length / (high - low) for length, (low, high) in zip(SCATTER, (_span(u), _span(p)), strict=True)]
    kept: list[tuple[int, float, float, float]] = []  # rank, left, right, height
    for rank, i in enumerate(result.counts.argsort(descending=True, stable=True).tolist()[:NAMED], 1):
        left, height = u[i] * scales[0], p[i] * scales[1]
        right = left + 12 + 6.5 * len(result.display[i])
        if all(abs(height - h) > 12 or left > r or right < x for _, x, r, h in kept):
            kept.append((rank, left, right, height))
    return [rank for rank, *_ in kept]


def _matches(data: alt.Chart) -> Layers:
    """Draw the tokens that the search finds as a list, the most frequent first."""
    rows = data.transform_filter(f"search && {FOUND}").transform_window(
        place="row_number()", total="count()", sort=[alt.SortField("rank")], frame=[None, None]
    )
    first = rows.transform_filter(f"datum.place <= {LISTED}")
    y = alt.Y("place:O", axis=None, scale=alt.Scale(domain=list(range(1, LISTED + 1))))
    name = first.mark_text(align="left", font=MONO, fontSize=11).encode(x=alt.value(0), y=y, text="token:N")
    numbers = first.transform_calculate(note="format(datum.n, ',') + ' times, rank ' + format(datum.rank, ',')")
    numbers = numbers.mark_text(align="left", fontSize=11, opacity=0.75).encode(x=alt.value(105), y=y, text="note:N")
    return alt.layer(name, numbers).properties(
        width=250, height=17 * LISTED, title=alt.Title("Found", subtitle=f"the {LISTED} most frequent")
    )


def _span(numbers: list[float]) -> list[float]:
    room = 0.05 * (max(numbers) - min(numbers))
    return [min(numbers) - room, max(numbers) + 2 * room]


def _yardsticks(result: Comparison) -> Layers:
    rows: list[dict[str, Any]] = [
        {"name": name, "kl": kl, "explained": result.explained[name], "own": name == "final bias"}
        for name, kl in sorted(result.kl.items(), key=lambda item: item[1])
    ]
    data = alt.Chart(values(rows))
    x = alt.X(
        "kl:Q",
        title="KL from p (nats)",
        axis=alt.Axis(tickCount=4),
        scale=alt.Scale(domainMin=0, domainMax=1.45 * max(result.kl.values())),
    )
    y = alt.Y("name:N", sort=None, title=None)
    y = y.axis(labelLimit=170, ticks=False, domain=False, labelPadding=6)
    tooltip = [
        alt.Tooltip("name:N", title="Distribution"),
        alt.Tooltip("kl:Q", title="KL (nats)", format=".4f"),
        alt.Tooltip("explained:Q", title="Explained", format=".1%"),
    ]
    colour = alt.condition("datum.own", alt.value(ORANGE), alt.value(BLUE))
    bars = data.mark_bar(height=16, cornerRadiusEnd=2).encode(x=x, y=y, color=colour, tooltip=tooltip)
    numbers = data.transform_calculate(note="format(datum.kl, '.3f') + '  (' + format(datum.explained, '.0%') + ')'")
    numbers = numbers.mark_text(align="left", dx=4, fontSize=11).encode(x=x, y=y, text="note:N")
    return alt.layer(bars, numbers).properties(
        width=190, height=150, title=alt.Title("Divergence", subtitle="and the share explained")
    )
