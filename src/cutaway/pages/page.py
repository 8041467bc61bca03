"""Make self-contained HTML pages of results, which open from disk with no network.

    page(title, [figure(result), ...])     the whole page
    save(result, "trace.html")             one result's chart, as a page or a picture
    notebook(result)                       a page in a frame, for a notebook's output

A page carries the Vega bundle once, and each chart as JSON.
"""

from __future__ import annotations

import functools
import html
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway import charts
from cutaway.charts.draw import altairs_own
from cutaway.charts.theme import DARK, LIGHT
from cutaway.files import write_text
from cutaway.text.display import visible

if TYPE_CHECKING:
    from cutaway.results.result import Result

HERE = Path(__file__).parent


def figure(result: Result, at: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a page shows of a result: heading, summary, the chart's specification, caption and call."""
    with altairs_own():
        spec = charts.draw(result, at).to_dict()
    spec.pop("config")  # the page brings the one that fits its background
    return {
        "title": result.title,
        "summary": visible(result.summary()),
        "spec": spec,
        "caption": visible(result.caption()),
        "call": result.meta["call"],
        "model": result.meta["model"],
        "edits": result.meta["edits"],
    }


def save(result: Result, path: str | os.PathLike[str], at: Mapping[str, Any] | None = None) -> None:
    """Write a chart as .html (interactive, offline), .png or .svg; `at` sets sliders as charts.draw takes it."""
    if Path(path).suffix.lower() == ".html":
        write_text(path, page(result.title, [figure(result, at)]))
    else:
        charts.save(result, path, at)


def page(title: str, figures: list[dict[str, Any]], facts: list[tuple[str, str]] | None = None) -> str:
    """Return a self-contained HTML page. Anything in the data that could end a script element is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        title=visible(title),
        facts=[(name, visible(value)) for name, value in facts or []],
        figures=figures,
        style=_raw("page.css"),
        script=_raw("page.js"),
        vega=vega_bundle(),
        data=script_safe({"specs": [f["spec"] for f in figures], "themes": {"light": LIGHT, "dark": DARK}}),
    )


def notebook(result: Result) -> str:
    """Return a page inside a frame of its own, for a notebook's output; it needs no network."""
    document = html.escape(page(result.title, [figure(result)]), quote=True)
    style = "width:100%;height:640px;border:0"
    return f'<iframe srcdoc="{document}" style="{style}" title="{html.escape(result.title)}"></iframe>'


@functools.cache
def vega_bundle() -> str:
    """Return Vega, Vega-Lite and vega-embed in one script, as vl-convert carries them."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def script_safe(data: Any) -> str:
    """Return JSON that can stand inside a script element: without `<`, `>` and `&`."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _raw(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
