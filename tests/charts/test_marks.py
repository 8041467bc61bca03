"""The parts of charts: which sign has which colour, as it is drawn."""

import xml.etree.ElementTree as ElementTree

import altair as alt
import pytest
import vl_convert

from cutaway.charts.marks import diverging_scale, signed, values


def fills(chart):
    """The colours of a chart's bars, (red, green, blue) each, from its picture."""
    root = ElementTree.fromstring(vl_convert.vegalite_to_svg(chart.to_dict()))
    bars = [node for node in root.iter() if node.get("aria-roledescription") == "bar"]
    return [bar.get("fill") for bar in bars]


def bars(colour):
    rows = [{"name": name, "value": value} for name, value in (("a", 2.0), ("b", -2.0))]
    return alt.Chart(values(rows)).mark_bar().encode(x="value:Q", y="name:N", color=colour)


def rgb(colour):
    if colour.startswith("#"):
        return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return tuple(float(part) for part in colour.partition("(")[2].rstrip(")").split(",")[:3])


@pytest.mark.parametrize("colour", [signed(), alt.Color("value:Q", scale=diverging_scale(2.0), legend=None)])
def test_what_is_above_zero_is_orange_and_what_is_below_is_blue(colour):
    (red, _, blue), (other_red, _, other_blue) = map(rgb, fills(bars(colour)))
    assert red > 2 * blue
    assert other_blue > 2 * other_red
