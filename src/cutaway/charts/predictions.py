"""Draw what a model expects next: after prompts, along a text, and how well over documents."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import altair as alt

from cutaway.charts.marks import Layers, labels, lay_out, values
from cutaway.charts.theme import BLUE, MONO, ORANGE
from cutaway.text.display import visible

if TYPE_CHECKING:
    from cutaway.analyses.predictions.result import Along, Losses, NextTokens

COLUMNS = 62  # characters a line of the text strip
CHARACTER, LINE = 7.8, 22  # size of a character of the strip, pixels
ROW = 21  # height of a bar, pixels


def next_tokens(result: NextTokens) -> alt.TopLevelMixin:
    """Draw a small bar chart for each prompt, two side by side."""
    charts = []
    for i, prompt in enumerate(result.prompts):
        rows = [
            {"k": k + 1, "token": token, "id": token_id, "probability": probability}
            for k, (token, token_id, probability) in enumerate(
                zip(result.display[i], result.ids[i], result.probabilities[i], strict=True)
            )
        ]
        title = alt.Title(visible(prompt if len(prompt) <= 48 else f"…{prompt[-47:]}"), limit=370)
        charts.append(_bars(alt.Chart(values(rows)), len(rows), 350).properties(title=title))
    return alt.concat(*charts, columns=2, spacing={"row": 28, "column": 44})


def along(result: Along) -> alt.TopLevelMixin:
    """Draw the text shaded by surprise, with a slider for the prefix, and beside it what was expected next."""
    n = len(result.ids)
    prefix = alt.param(
        name="prefix",
        value=min(n - 1, max(1, n // 4)) if n > 1 else 1,
        bind=alt.binding_range(min=1, max=n, step=1, name="Tokens read "),
    )
    return alt.hconcat(_strip(result), _expected(result), spacing=36).add_params(prefix)


def losses(result: Losses) -> alt.TopLevelMixin:
    """Draw a dot for each document, the easiest on top, and the mean as a line."""
    mean = result.mean
    found = sorted(result.table().to_dict("records"), key=lambda row: (math.isnan(row["loss"]), row["loss"]))
    rows = [{**row, "k": k, "over": row["loss"] >= mean} for k, row in enumerate(found)]
    data = alt.Chart(values(rows))
    names = [str(row["document"]) for row in rows]
    axis = alt.Axis(
        # Of a path that is too long, its end says more.
        labelExpr=labels(name if len(name) <= 40 else f"…{name[-39:]}" for name in names),
        labelLimit=280,
        labelPadding=8,
        ticks=False,
        domain=False,
        grid=True,
        gridDash=[1, 4],
    )
    y = alt.Y("k:O", title=None, axis=axis)
    domain, middle = _around([loss for loss in result.loss if math.isfinite(loss)])
    scale = alt.Scale(domain=domain, zero=False)
    x = alt.X("loss:Q", title="Loss (nats a token)", scale=scale, axis=alt.Axis(tickCount=6))
    tooltip = [
        alt.Tooltip("document:N", title="Document"),
        alt.Tooltip("loss:Q", title="Loss (nats a token)", format=".3f"),
        alt.Tooltip("perplexity:Q", title="Perplexity", format=",.1f"),
        alt.Tooltip("first_choice:Q", title="First choice right", format=".1%"),
        alt.Tooltip("predicted:Q", title="Tokens predicted", format=","),
    ]
    dots = data.mark_circle(size=110, opacity=1).encode(x=x, y=y, tooltip=tooltip)
    numbers = data.mark_text(align=_where("datum.over", "left", "right"), dx=_where("datum.over", 9, -9), fontSize=11)
    numbers = numbers.encode(x=x, y=y, text=alt.Text("loss:Q", format=".2f"))
    of_all = alt.Chart(values([{"mean": mean}]))
    at = alt.X("mean:Q", scale=scale)
    rule = of_all.mark_rule(strokeDash=[4, 3]).encode(x=at)
    name = of_all.mark_text(align="left" if mean < middle else "right", dx=0, dy=-6, baseline="bottom", fontSize=11)
    name = name.encode(x=at, y=alt.value(0), text=alt.value(f"mean of all tokens {mean:.2f}"))
    return alt.layer(rule, dots, numbers, name).properties(width=640, height=26 * len(rows))


def _around(numbers: list[float]) -> tuple[list[float], float]:
    """Return the ends of an axis, with room for a dot and its number at each, and its middle."""
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    room = max(0.08 * (high - low), 0.25)
    return [low - room, high + room], (low + high) / 2


def _where(test: str, yes: Any, no: Any) -> Any:
    """Return a property of a mark that differs from datum to datum."""
    return alt.ExprRef(expr=f"{test} ? {yes!r} : {no!r}")


def _bars(data: alt.Chart, n: int, width: int) -> Layers:
    """Draw bars of probability, the most likely on top, with tokens written to the left of zero.

    Fields: k (the row), token, id, probability, and `came` with `rank` for the token that really came, in orange.
    """
    y = alt.Y("k:O", axis=None, scale=alt.Scale(domain=list(range(1, n + 1))))
    ticks = alt.Axis(
        values=[0, 0.25, 0.5, 0.75, 1], format="%", title="Probability", titleAnchor="end", grid=True, domain=False
    )
    left, right = -0.55, 1.15  # room for tokens, and for the number at the end of a whole bar
    x = alt.X("probability:Q", scale=alt.Scale(domain=[left, right], nice=False), axis=ticks)
    tooltip = [
        alt.Tooltip("token:N", title="Token"),
        alt.Tooltip("id:Q", title="Token id"),
        alt.Tooltip("probability:Q", title="Probability", format=".3%"),
    ]
    percent = "(datum.probability < 0.0005 ? 'under 0.1%' : format(datum.probability, '.1%'))"
    data = data.transform_calculate(
        note=f"{percent} + (datum.came ? ' (came, rank ' + format(datum.rank, ',') + ')' : '')"
    )
    colour = alt.condition("datum.came", alt.value(ORANGE), alt.value(BLUE))
    bars = data.mark_bar(height=ROW - 7, cornerRadiusEnd=2)
    bars = bars.encode(x=x, x2=alt.datum(0), y=y, color=colour, tooltip=tooltip)
    names = data.mark_text(align="right", dx=-6, font=MONO, fontSize=12, limit=-left / (right - left) * width - 8)
    names = names.encode(x=alt.datum(0), y=y, text="token:N", tooltip=tooltip)
    numbers = data.mark_text(align="left", dx=4, fontSize=11).encode(x=x, y=y, text="note:N")
    return alt.layer(bars, names, numbers).properties(width=width, height=ROW * n)


def _expected(result: Along) -> Layers:
    """Draw the top k after the chosen prefix; the token that came is orange, and gets a row of its own if needed."""
    came = result.ids[1:]
    k = result.top_ids.shape[1]
    probability, rank = result.next_probability.tolist(), result.next_rank.tolist()
    rows: list[dict[str, Any]] = []
    for i, (ids, probabilities) in enumerate(
        zip(result.top_ids.tolist(), result.top_probabilities.tolist(), strict=True)
    ):
        actual = came[i] if i < len(came) else None
        for j, (token_id, p) in enumerate(zip(ids, probabilities, strict=True)):
            display = result.top_display[i][j]
            rows.append(
                {"prefix": i + 1, "k": j + 1, "token": display, "id": token_id, "probability": p, "rank": j + 1}
            )
            rows[-1]["came"] = token_id == actual
        if actual is not None and actual not in ids:
            row = {"prefix": i + 1, "k": k + 1, "token": result.display[i + 1], "id": actual}
            rows.append({**row, "probability": probability[i], "rank": rank[i], "came": True})
    chosen = alt.Chart(values(rows)).transform_filter("datum.prefix == prefix")
    title = alt.Title(alt.expr("'Expected after ' + prefix + (prefix == 1 ? ' token' : ' tokens')"))
    return _bars(chosen, k + 1, 360).properties(title=title)


def _strip(result: Along) -> Layers:
    """Draw the text in lines of COLUMNS characters: what is not read yet is pale, the next token is framed."""
    loss, rank = [None, *result.next_loss.tolist()], [None, *result.next_rank.tolist()]
    first = [None, *(row[0] for row in result.top_display)]
    rows = []
    for i, (column, line, width) in enumerate(lay_out(result.display, COLUMNS)):
        place = {
            "x": column * CHARACTER,
            "x2": (column + width) * CHARACTER,
            "y": line * LINE,
            "y2": (line + 1) * LINE - 2,
        }
        about = {"loss": loss[i], "rank": rank[i], "expected": first[i] or ""}
        rows.append(
            {"i": i, "prefix": i + 1, "token": result.display[i], **place, "middle": (line + 0.5) * LINE - 1, **about}
        )
    height, room = rows[-1]["y2"], COLUMNS * CHARACTER
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, room], nice=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[height, 0], nice=False))
    tooltip = [
        alt.Tooltip("token:N", title="Token"),
        alt.Tooltip("loss:Q", title="Surprise (nats)", format=".2f"),
        alt.Tooltip("rank:Q", title="Rank", format=","),
        alt.Tooltip("expected:N", title="First choice was"),
    ]
    shade = alt.Color(
        "loss:Q",
        title="Surprise (nats)",
        scale=alt.Scale(domain=[0, 10], range=[f"{ORANGE}00", f"{ORANGE}99"], clamp=True),
        legend=alt.Legend(
            orient="top", titleOrient="left", values=[0, 2, 4, 6, 8, 10], gradientLength=180, gradientThickness=10
        ),
    )
    data = alt.Chart(values(rows))
    read = data.mark_rect(cornerRadius=2, cursor="pointer")
    read = read.encode(x=x, x2="x2:Q", y=y, y2="y2:Q", color=shade, tooltip=tooltip)
    frame = data.mark_rect(fill=None, style="frame", strokeWidth=1.6, cornerRadius=2)
    frame = frame.transform_filter("datum.i == prefix")
    frame = frame.encode(x=x, x2="x2:Q", y=y, y2="y2:Q")
    words = data.mark_text(align="left", baseline="middle", font=MONO, fontSize=13, cursor="pointer", limit=room)
    unread = alt.condition("datum.i < prefix", alt.value(1), alt.value(0.65))
    words = words.encode(x=x, y=alt.Y("middle:Q", axis=None), text="token:N", opacity=unread, tooltip=tooltip)
    return alt.layer(read, frame, words).properties(width=room, height=height)
