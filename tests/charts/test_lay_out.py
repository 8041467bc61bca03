"""Where the tokens of a text stand: each in its place, none on another."""

import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from cutaway.charts.marks import lay_out
from cutaway.text.display import show

tokens = st.lists(st.text(min_size=0, max_size=12).map(show), max_size=60)


def wide(text):
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


@given(tokens, st.integers(2, 40))
@example(["a" * 50, "b"], 10)
@example(["東京" * 30], 10)
@example(["↵", "↵", "a↵", "b"], 10)
@example([""], 2)
def test_tokens_stand_in_order_within_the_lines_and_never_overlap(display, columns):
    places = lay_out(display, columns)
    assert len(places) == len(display)
    end = (0, 0)  # line, column
    for token, (column, line, width) in zip(display, places, strict=True):
        assert (line, column) >= end  # after the one before
        assert column == 0 or (line, column) == end  # with no gap but a line's end
        assert 1 <= width <= columns
        assert column + width <= columns
        assert width == min(columns, max(1, wide(token)))
        end = (line, column + width)


@given(tokens, st.integers(2, 40))
def test_a_newline_ends_its_line(display, columns):
    places = lay_out(display, columns)
    for token, (_, line, _), (column, following, _) in zip(display, places, places[1:], strict=False):
        if token.endswith("↵"):
            assert (column, following) == (0, line + 1)
        else:
            assert following in (line, line + 1)


def test_lines_break_where_the_next_token_would_not_fit():
    assert lay_out(["abcd", "ef", "g", "hi"], 6) == [(0, 0, 4), (4, 0, 2), (0, 1, 1), (1, 1, 2)]
