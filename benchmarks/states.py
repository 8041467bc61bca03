"""The cosines of 2,000 tokens' states at one layer, beside the steps of the notebook that began this."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

import cutaway
from benchmarks.timing import Row, faster, interleaved
from cutaway.analyses.states import cosines
from cutaway.analyses.states.site import QUANTILES
from cutaway.stats import Sample

SAMPLE, SITE = 2000, "blocks.2.resid_post"


def rows(rounds: int) -> Iterator[Row]:
    model = cutaway.load()
    result = cutaway.states.measure(model, kinds="resid_post", layers=[2], sample=SAMPLE, replicates=19, resamples=10)
    states = cutaway.survey(model, None, {SITE: [Sample(SAMPLE)]})[SITE]["sample"].result().values

    def numbers() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """From the states to the histogram and the 201 pairs of the slider."""
        found = cosines.halves(states)
        values, first, second = cosines.quantile_pairs(found, QUANTILES)
        density = result.density.copy()
        density[0, 0] = cosines.histogram(cosines.cdf(found))
        return density, values, np.stack([first, second + SAMPLE // 2], -1)[None]

    def ours() -> str:
        """The same and the whole chart, drawn: three panels by layer, the histogram under its nulls, the pair."""
        density, values, pairs = numbers()
        view = replace(result, density=density, quantile_cosines=values[None], quantile_pairs=pairs)
        buffer = io.StringIO()
        view.chart().save(buffer, format="svg")
        return buffer.getvalue()

    with TemporaryDirectory() as folder, torch.no_grad():
        jobs = {"ours": numbers, "the notebook's steps": lambda: counted(states)}
        yield faster(
            "2,000 states: the numbers of the first view",
            interleaved(jobs, rounds),
            "ours",
            "the notebook's steps",
            goal=3.0,
        )
        times = interleaved({"ours": ours, "the notebook's steps": lambda: notebook(states, result.contexts)}, rounds)
        yield faster("2,000 states: the first drawing", times, "ours", "the notebook's steps", goal=3.0)
        path = Path(folder) / "states.html"
        result.save(path)
        with page(path) as shown:
            jobs = {"ours": shown.move, "the notebook's steps": lambda: notebook(states, result.contexts)}
            times = interleaved(jobs, rounds)
        yield faster(
            "2,000 states: a move of the slider, in Chromium", times, "ours", "the notebook's steps", goal=20.0
        )


def pairs_of(states: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Cosines, a list of all pairs, a sort of all cosines: the cosines and the middle pair."""
    unit = states / states.norm(dim=1, keepdim=True)
    half = len(unit) // 2
    angles = unit[:half] @ unit[half:].t()
    pairs = [(x, y) for x in range(half) for y in range(half, len(unit))]
    _, order = angles.view(-1).sort(dim=0)
    return angles, pairs[int(order[len(order) // 2])]


def counted(states: Tensor) -> object:
    angles, pair = pairs_of(states)
    return pair, np.histogram(angles.view(-1).numpy(), bins=np.linspace(-1, 1, 200), density=True)


def notebook(states: Tensor, contexts: list[str]) -> tuple[bytes, str]:
    """All of that and the picture, by matplotlib's fastest backend: at the first drawing and at each move."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    angles, (x, y) = pairs_of(states)
    figure = Figure(figsize=(10, 3))
    axes = figure.add_subplot()
    axes.hist(angles.view(-1).numpy(), bins=np.linspace(-1, 1, 200), density=True)
    axes.axvline(float(angles[x, y - len(angles)]), color="red")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue(), f"{contexts[x]}\n{contexts[y]}"


class page:  # noqa: N801 - used as a function
    """The saved page in a real browser; move() draws it anew at another quantile."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 0

    def __enter__(self) -> page:
        from playwright.sync_api import sync_playwright

        self.driver = sync_playwright().start()
        self.browser = self.driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        self.page = self.browser.new_page()
        self.page.goto(self.path.as_uri())
        self.page.wait_for_selector("body[data-drawn]")
        return self

    def move(self) -> object:
        self.at = (self.at + 37) % (QUANTILES - 1)
        move = "async (q) => { const [view] = views.values(); await view.signal('quantile', q).runAsync(); }"
        return self.page.evaluate(move, self.at / (QUANTILES - 1))

    def __exit__(self, *_: Any) -> None:
        self.browser.close()
        self.driver.stop()
