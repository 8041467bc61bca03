"""Charts: one Altair chart per analysis, found by the analysis' own name.

draw(result)             the chart
save(result, path)       .html (interactive, offline), .png or .svg
notebook(result)         HTML for a notebook cell; needs no network
figure(result)           the parts of a page that shows it (report/ puts several into one)
"""

from __future__ import annotations

from cutaway.charts.render import draw, figure, notebook, page, save

__all__ = ["draw", "figure", "notebook", "page", "save"]
