"""The API, described: OpenAPI 3.1, its request bodies the very schemas that requests are checked with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutaway import __version__
from cutaway.app import schemas
from cutaway.app.answers import EVENTS

if TYPE_CHECKING:
    from cutaway.model.model import Model

JSON, BYTES = "application/json", "application/octet-stream"
FILES = {
    "png": "image/png",
    "svg": "image/svg+xml",
    "csv": "text/csv",
    "json": JSON,
    "html": "text/html",
}
GETS = {  # path: what it answers
    "/api/start": "What a page begins with: the model, the limits, examples, and the first one's view.",
    "/api/anatomy": "Sizes, parameters by part, sites.",
    "/api/openapi.json": "This description.",
}
POSTS = {  # path: what it answers, and as what
    "/api/view": ("All that follows the cursor: tokens, next tokens, lens, every head small.", [JSON]),
    "/api/attention": ("One head's pattern [query, key]: float32, little-endian.", [BYTES]),
    "/api/rank": ("One token's rank and probability at every layer and position.", [JSON]),
    "/api/generate": ("A continuation, token by token. Events: queued, token, done, error.", [EVENTS]),
    "/api/verify": ("Facts about the model, measured. Events: queued, progress, check, done, error.", [EVENTS]),
    "/api/save": ("A result as a file.", list(FILES.values())),
}
REFUSALS = {
    "400": "what was asked cannot be: one line says what was expected",
    "401": "the token is missing or wrong",
    "403": "a foreign Host, or a request of another site",
    "413": "too long a body",
    "415": "a body that is no JSON",
    "429": "too much is waiting: try again",
}
CLIENT = {
    "name": "X-Cutaway-Client",
    "in": "header",
    "description": "a random name of the page, in whose turn it waits",
    "schema": {"type": "string", "maxLength": 64, "pattern": "^[0-9A-Za-z-]*$"},
}
VIEW = {
    "text": {"type": "string"},
    "tokens": {"type": "array"},
    "next": {"type": "array"},
    "lens": {"type": "object"},
    "heads": {"type": "object"},
    "call": {"type": "object"},
    "ms": {"type": "number"},
}
ANSWERS: dict[str, dict[str, Any]] = {
    "/api/view": VIEW,
    "/api/rank": {
        "id": {"type": "integer"},
        "display": {"type": "string"},
        "text": {"type": "string"},
        "sites": {"type": "array", "items": {"type": "string"}},
        "layers": {"type": "array", "items": {"type": "integer"}},
        "rank": {"type": "array", "items": {"type": "array", "items": {"type": "integer", "minimum": 1}}},
        "p": {"type": "array", "items": {"type": "array", "items": {"type": "number", "minimum": 0}}},
        "call": {"type": "string"},
    },
    "/api/start": {
        "model": {"type": "object"},
        "limits": {"type": "object", "additionalProperties": {"type": "integer"}},
        "version": {"type": "string"},
        "examples": {"type": "array", "items": {"type": "object"}},
        "view": {"type": ["object", "null"]},
        "token_needed": {"type": "boolean"},
    },
    "/api/anatomy": {
        "summary": {"type": "string"},
        "config": {"type": "object"},
        "parts": {"type": "array", "items": {"type": "object"}},
        "sites": {"type": "array", "items": {"type": "object"}},
        "call": {"type": "string"},
    },
}


def describe(model: Model, token: bool) -> dict[str, Any]:
    """The description of what this server answers."""
    paths: dict[str, Any] = {path: {"get": _operation(path, what, [JSON])} for path, what in GETS.items()}
    for path, body in schemas.requests(model).items():
        what, types = POSTS[path]
        asked = {"required": True, "content": {JSON: {"schema": body}}}
        paths[path] = {"post": _operation(path, what, types) | {"parameters": [CLIENT], "requestBody": asked}}
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Cutaway workbench", "version": __version__},
        "paths": paths,
    }
    if token:
        scheme = {"type": "apiKey", "in": "header", "name": "X-Cutaway-Token"}
        found |= {"components": {"securitySchemes": {"token": scheme}}, "security": [{"token": []}]}
    return found


def _operation(path: str, what: str, types: list[str]) -> dict[str, Any]:
    properties = ANSWERS.get(path)
    answer = {"type": "object", "properties": properties, "required": list(properties)} if properties else {}
    content = {kind: {"schema": answer if kind == JSON else {}} for kind in types}
    line = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    refused = {status: {"description": said, "content": {JSON: {"schema": line}}} for status, said in REFUSALS.items()}
    return {
        "operationId": path.removeprefix("/api/").replace(".json", ""),
        "summary": what,
        "responses": {"200": {"description": what, "content": content}, **refused},
    }
