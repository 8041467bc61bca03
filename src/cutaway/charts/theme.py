"""Set how charts look: one palette, and a light and a dark configuration of Vega-Lite.

Marks use colours that read on both backgrounds; text, axes and grids take theirs from the configuration, so that a
page can switch between light and dark.
"""

from __future__ import annotations

from typing import Any

# Okabe and Ito's palette, safe for colour-blind readers, without its black and yellow.
BLUE, ORANGE, GREEN, PINK, SKY = "#3b82c4", "#e07b28", "#1a9e77", "#cc79a7", "#56b4e9"
PALETTE = [BLUE, ORANGE, GREEN, PINK, SKY]

SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"


def _config(text: str, quiet: str, grid: str, background: str) -> dict[str, Any]:
    """Return a configuration of Vega-Lite in these four colours."""
    return {
        "background": background,
        "font": SANS,
        "view": {"stroke": None},
        "axis": {
            "labelColor": quiet,
            "titleColor": text,
            "titleFontWeight": "normal",
            "labelFontSize": 11,
            "titleFontSize": 12,
            "domainColor": grid,
            "tickColor": grid,
            "gridColor": grid,
            "gridOpacity": 0.6,
            "titlePadding": 8,
        },
        "legend": {"labelColor": text, "titleColor": text, "titleFontWeight": "normal", "titleFontSize": 11},
        "title": {"color": text, "subtitleColor": quiet, "anchor": "start", "fontSize": 13, "fontWeight": 600},
        "header": {"labelColor": text, "titleColor": text},
        "text": {"color": text},
        "rule": {"color": quiet},
        "tick": {"color": text},
        "range": {"category": PALETTE},
        "bar": {"color": BLUE},
        "point": {"color": BLUE},
        "circle": {"color": BLUE},
        "line": {"color": BLUE},
        "style": {"frame": {"stroke": text}},
    }


LIGHT = _config(text="#1f2937", quiet="#6b7280", grid="#d8dce3", background="#ffffff")
DARK = _config(text="#e5e7eb", quiet="#9ca3af", grid="#3b4252", background="#161b22")
