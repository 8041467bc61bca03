"""Make white space and control characters visible, for people: the result never goes back into a model."""

from __future__ import annotations

import re

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # what could steer a terminal


def show(text: str | bytes) -> str:
    """Return a token's text with white space, control characters and partial UTF-8 made visible."""
    text = text if isinstance(text, str) else text.decode("utf-8", "backslashreplace")
    glyphs = {" ": "·", "\n": "↵", "\t": "⇥"}
    hidden = {c: c.encode("unicode_escape").decode() for c in set(text) if not c.isprintable()}
    return "".join(glyphs.get(c) or hidden.get(c, c) for c in text)


def visible(text: str) -> str:
    """Return text for a terminal or a page: control characters made visible, spaces, tabs and line ends kept.

    Characters that could steer a terminal (ESC, BEL, NUL, backspace, carriage return, the C1 controls) or turn the
    direction of a line are shown as `\\x1b`.
    """
    return CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
