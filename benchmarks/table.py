"""Results: kept as JSON, shown as a table, written between two markers of the README."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.timing import Row

START, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
HEAD = ["| | Cutaway | | beside | ratio (spread) | goal |", "|---|---:|---:|---|---|---|"]


def line(row: Row) -> str:
    """One row of the table."""
    unit = "x faster" if row.kind == "faster" else "x the time" if row.unit == "s" else "x the memory"
    ratio = f"**{row.ratio:.2f} {unit}** ({row.low:.2f} to {row.high:.2f})"
    bound = "" if row.kind == "faster" else "at most "
    goal = "" if row.goal is None else f"{bound}{row.goal:g} x: {'met' if row.met else 'missed'}"
    ours, theirs = amount(row.ours, row.unit), amount(row.theirs, row.unit)
    return f"| {row.what} | {ours} | {theirs} | {row.peer} | {ratio} | {goal} |"


def amount(value: float, unit: str) -> str:
    if unit == "MB":
        return f"{value:,.0f} MB"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.0f} ms"


def table(rows: Iterable[Row]) -> str:
    return "\n".join([*HEAD, *map(line, rows)])


def page(results: Mapping[str, Any]) -> str:
    """Every topic's table. What most of them ran on stands once, at the end; that of another below its table."""
    captions = [caption(topic) for topic in results.values()]
    usual = max(captions, key=captions.count)
    parts = []
    for topic, text in zip(results.values(), captions, strict=True):
        parts.append(table(Row(**row) for row in topic["rows"]))
        if text != usual:
            parts.append(text)
    return "\n\n".join([*parts, usual if captions.count(usual) == len(captions) else f"All others: {usual}"])


def caption(topic: Mapping[str, Any]) -> str:
    m = topic["machine"]
    versions = ", ".join(f"{name} {m[name]}" for name in ("torch", "transformers", "transformer-lens", "nnsight"))
    return (
        f"Medians of {topic['rounds']} interleaved rounds, with the lowest and the highest; float32, {m['threads']} "
        f"threads of {m['cpu']}; {versions}; {m['date']}."
    )


def save(path: Path, topic: str, rows: Iterable[Row], machine: Mapping[str, str], rounds: int) -> dict[str, Any]:
    """Put one topic's rows into the results at `path`, beside the other topics'; return all of them."""
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    results[topic] = {"machine": dict(machine), "rounds": rounds, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


def between_markers(text: str, block: str) -> str | None:
    """`text` with what stands between the markers replaced by `block`; None where it has no markers."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    return f"{before}{start}\n\n{block}\n\n{end}{after}" if start and end else None
