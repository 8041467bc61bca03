"""Timing that survives a machine whose speed drifts.

    times = interleaved({"ours": run_ours, "theirs": run_theirs}, rounds=7)
    row = faster("forward, 1 x 1024", times, "ours", "theirs", goal=1.1)

Every job runs once in every round, in one process, and a ratio is taken within each round, where both sides met the
same machine; what is reported is the median of those ratios, with the lowest and the highest round as its spread. A
job's first run is not counted, nor is the time it takes to free what it returned.
"""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib import metadata
from pathlib import Path
from statistics import median
from time import perf_counter

Job = Callable[[], object]
Times = Mapping[str, Sequence[float]]  # seconds, one a round


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison. `ratio` is a speed-up (theirs / ours) for kind "faster", a cost (ours / theirs) for "cost"."""

    what: str
    ours: float  # median seconds
    peer: str
    theirs: float  # median seconds
    kind: str  # "faster" or "cost"
    ratio: float  # median over rounds
    low: float  # the lowest round
    high: float  # the highest round
    goal: float | None  # at least this for "faster", at most this for "cost"
    unit: str = "s"  # or "MB", where both sides are memory

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.ratio >= self.goal if self.kind == "faster" else self.ratio <= self.goal


def interleaved(jobs: Mapping[str, Job], rounds: int) -> dict[str, list[float]]:
    """Seconds of every job in every round. Each round starts at another job, so that none always goes first."""
    for job in jobs.values():
        job()
    names, times = list(jobs), {name: [] for name in jobs}
    for i in range(rounds):
        first = i % len(names)
        gc.collect()
        for name in names[first:] + names[:first]:
            start = perf_counter()
            result = jobs[name]()
            times[name].append(perf_counter() - start)
            del result
    return times


def faster(what: str, times: Times, ours: str, theirs: str, *, goal: float | None = None) -> Row:
    """How many times faster ours is; the goal is met from `goal` upwards."""
    return _row(what, times, ours, theirs, "faster", goal)


def cost(what: str, times: Times, ours: str, theirs: str, *, goal: float | None = None, unit: str = "s") -> Row:
    """How many times as long (or as much memory) ours takes; the goal is met up to `goal`."""
    return replace(_row(what, times, ours, theirs, "cost", goal), unit=unit)


def _row(what: str, times: Times, ours: str, theirs: str, kind: str, goal: float | None) -> Row:
    pairs = list(zip(times[ours], times[theirs], strict=True))
    ratios = [b / a if kind == "faster" else a / b for a, b in pairs]
    return Row(
        what=what,
        ours=median(times[ours]),
        peer=theirs,
        theirs=median(times[theirs]),
        kind=kind,
        ratio=median(ratios),
        low=min(ratios),
        high=max(ratios),
        goal=goal,
    )


def machine() -> dict[str, str]:
    """Where and with what these times were taken."""
    import torch

    packages = ("torch", "transformers", "transformer-lens", "nnsight")
    return {
        "cpu": f"{_cpu()}, {os.cpu_count()} cores",
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "date": date.today().isoformat(),
        **{package: metadata.version(package) for package in packages},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
