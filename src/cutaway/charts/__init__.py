"""Draw results: one Altair chart for each analysis, found by the analysis' own name.

    draw(result)             the Altair chart
    save(result, path)       a picture of it, .png or .svg

The chart of the analysis "patching.path" is made by the function `path` of charts/patching. theme.py has colours and
type, marks.py what several charts share.
"""

from __future__ import annotations

from cutaway.charts.draw import draw, save

__all__ = ["draw", "save"]
