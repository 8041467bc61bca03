"""Define what may be asked: a JSON Schema for each request, which checks it and describes it in openapi.json.

These keywords of JSON Schema are supported: type, enum, minimum, maximum, exclusiveMinimum, maxLength, minLength,
default, anyOf.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cutaway.analyses.logit_lens.metrics import METRICS
from cutaway.errors import InputError

if TYPE_CHECKING:
    from cutaway.model.model import Model

CHARACTERS = 16_000
TOKENS = 512
NEW_TOKENS = 200
TOP = 50
BODY_BYTES = 256 * 1024
SAFE = 2**53 - 1  # the largest whole number that a browser holds exactly

Schema = dict[str, Any]


def limits(model: Model) -> dict[str, int]:
    """Return the most that a page may ask, by name."""
    return {
        "characters": CHARACTERS,
        "tokens": min(TOKENS, model.config.n_ctx),
        "new_tokens": max(1, min(NEW_TOKENS, model.config.n_ctx - 1)),
        "top": min(TOP, model.config.d_vocab),
    }


def requests(model: Model) -> dict[str, Schema]:
    """Return the schema of the body of each POST, by its path."""
    bound, c = limits(model), model.config
    text = {"type": "string", "maxLength": bound["characters"], "description": "the text that the model reads"}
    bos = {"type": "boolean", "default": False, "description": "the end-of-text token in front"}
    layer = {"type": "integer", "minimum": 0, "maximum": c.n_layers - 1}
    head = {"type": "integer", "minimum": 0, "maximum": c.n_heads - 1}
    read = {"text": text, "bos": bos}
    entry = {"type": "integer", "minimum": 0, "maximum": c.d_vocab - 1}
    token = {"anyOf": [{"type": "string", "minLength": 1, "maxLength": 200}, entry]}
    optional = {"type": ["integer", "null"], "minimum": 1, "maximum": c.d_vocab, "default": None}
    share = {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1, "default": None}
    sampling: dict[str, Schema] = {
        "max_new_tokens": {
            "type": "integer",
            "minimum": 1,
            "maximum": bound["new_tokens"],
            "default": min(40, bound["new_tokens"]),
        },
        "temperature": {"type": "number", "minimum": 0, "maximum": 100, "default": 1.0},
        "top_k": optional,
        "top_p": share,
        "seed": {"type": "integer", "minimum": 0, "maximum": SAFE, "default": 0},
    }
    save: dict[str, Schema] = {
        "what": {"type": "string", "enum": ["next", "lens", "attention", "anatomy"]},
        "format": {"type": "string", "enum": ["png", "svg", "csv", "json", "html"]},
        "text": text | {"default": ""},
        "bos": bos,
        "metric": {"type": ["string", "null"], "enum": [*METRICS, None], "default": None},
        "layer": layer | {"type": ["integer", "null"], "default": None},
        "head": head | {"type": ["integer", "null"], "default": None},
        "position": {"type": ["integer", "null"], "minimum": 0, "maximum": bound["tokens"] - 1, "default": None},
    }
    top = {"type": "integer", "minimum": 1, "maximum": bound["top"], "default": 10}
    parts = {
        name: {"type": "boolean", "default": True, "description": f"with {what}"}
        for name, what in (("next", "the next tokens"), ("lens", "the lens"), ("heads", "every head's pattern, small"))
    }
    return {
        "/api/view": _object(read | {"top": top} | parts),
        "/api/attention": _object(read | {"layer": layer, "head": head}),
        "/api/rank": _object(read | {"token": token}),
        "/api/generate": _object(read | sampling),
        "/api/verify": _object({}),
        "/api/save": _object(save),
    }


def _object(properties: dict[str, Schema]) -> Schema:
    """Return the schema of an object, which needs every property without a default."""
    needed = [name for name, schema in properties.items() if "default" not in schema]
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | ({"required": needed} if needed else {})


def parse(body: bytes) -> Any:
    """Parse standard JSON. Raises InputError, also for nesting that is too deep and numbers that are too long."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    try:
        return json.loads(body.decode(), parse_constant=refuse)
    except (ValueError, RecursionError):
        raise InputError("the request's body is not JSON: a JSON object was expected") from None


def check(schema: Schema, body: Any) -> dict[str, Any]:
    """Return a body with its defaults filled in. Raises InputError, naming what is wrong and what was expected."""
    if not isinstance(body, Mapping):
        raise InputError(f"the request's body is a JSON {_kind(body)}: an object was expected")
    properties = schema["properties"]
    if unknown := [name for name in body if name not in properties]:
        raise InputError(f"{unknown[0][:40]!a} is unknown: {', '.join(properties) or 'nothing'} can be given")
    if missing := [name for name in schema.get("required", ()) if name not in body]:
        raise InputError(f"{missing[0]!r} is missing: {_expected(properties[missing[0]])} was expected")
    return {
        name: _value(name, each, body[name]) if name in body else each["default"] for name, each in properties.items()
    }


def _value(name: str, schema: Schema, value: Any) -> Any:
    """Return a value that its schema accepts, whole numbers as int. Raises InputError for another value."""
    for option in schema.get("anyOf", [schema]):
        if _fits(option, value):
            whole = "integer" in _types(option) and isinstance(value, float)
            return int(value) if whole else value
    raise InputError(f"{name!r}: {_expected(schema)} was expected")


def _fits(schema: Schema, value: Any) -> bool:
    """Return whether a schema without anyOf accepts a value."""
    kinds, kind = _types(schema), _kind(value)
    if kind not in kinds and not (kind == "integer" and "number" in kinds):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if kind == "string":
        return bool(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf))
    if kind in ("integer", "number"):
        low, above = schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf)
        return bool(low <= value <= schema.get("maximum", math.inf) and value > above)
    return True


def _types(schema: Schema) -> list[str]:
    """Return the types that a schema accepts."""
    types = schema["type"]
    return [types] if isinstance(types, str) else types


def _kind(value: Any) -> str:
    """Return JSON Schema's type of a value; there, 1.0 is an integer."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, float):
        return "integer" if value.is_integer() else "number"
    return {int: "integer", str: "string", list: "array", dict: "object"}[type(value)]


def _expected(schema: Schema) -> str:
    """Return a schema in words, for an error message."""
    if "anyOf" in schema:
        return " or ".join(map(_expected, schema["anyOf"]))
    if "enum" in schema:
        return f"one of {', '.join(filter(None, schema['enum']))}"
    words = {"string": "a text", "boolean": "true or false", "integer": "a whole number", "number": "a number"}
    text = " or ".join(words.get(kind, kind) for kind in _types(schema))
    if "minimum" in schema:
        text += f" from {schema['minimum']}"
    if "exclusiveMinimum" in schema:
        text += f" above {schema['exclusiveMinimum']}"
    if "maximum" in schema:
        text += f" to {schema['maximum']}"
    if "maxLength" in schema:
        text += f" of at most {schema['maxLength']:,} characters"
    return text
