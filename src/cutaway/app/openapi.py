"""The API, described: OpenAPI 3.1, its request bodies the very schemas that requests are checked with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutaway import __version__
from cutaway.app import schemas
from cutaway.app.streaming import EVENTS

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
Schema = dict[str, Any]


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _lists(of: Schema, depth: int = 1) -> Schema:
    return _lists({"type": "array", "items": of}, depth - 1) if depth else of


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


TEXT, WHOLE, YES = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
NUMBER = {"type": "number", "minimum": 0}
SHARE = {"type": "number", "minimum": 0, "maximum": 1.00001}
CANDIDATE = _object(id=WHOLE, display=TEXT, text=TEXT, p=SHARE)
VIEW = {
    "text": TEXT,
    "tokens": _lists(_object(id=WHOLE, text=TEXT, display=TEXT, start=_or_null(WHOLE), end=_or_null(WHOLE))),
    "next": _or_null(
        _lists(
            _object(
                entropy=NUMBER,
                top=_lists(CANDIDATE),
                actual=_or_null(_object(id=WHOLE, display=TEXT, text=TEXT, p=SHARE, rank=WHOLE, loss=NUMBER)),
            )
        )
    ),
    "lens": _or_null(
        _object(
            sites=_lists(TEXT),
            layers=_lists(WHOLE),
            entropy=_lists(NUMBER, 2),
            kl=_lists(NUMBER, 2),
            loss=_lists(_or_null(NUMBER), 2),
            rank=_lists(_or_null(WHOLE), 2),
            top=_lists(WHOLE, 3),
            p=_lists(SHARE, 3),
            names={"type": "object", "additionalProperties": TEXT},
        )
    ),
    "heads": _or_null(_object(size=WHOLE, patterns=TEXT)),
    "call": _object(next=_or_null(TEXT), lens=_or_null(TEXT), attention=_or_null(TEXT)),
    "ms": NUMBER,
}
LINE = _object(error=TEXT)
SITE = ("name", "shape", "transformer_lens", "hugging_face", "meaning")
MODEL = dict.fromkeys(("n_layers", "n_heads", "n_ctx", "d_vocab"), WHOLE)
ANSWERS: dict[str, Schema] = {
    "/api/view": _object(**VIEW),
    "/api/rank": _object(
        id=WHOLE,
        display=TEXT,
        text=TEXT,
        sites=_lists(TEXT),
        layers=_lists(WHOLE),
        rank=_lists(WHOLE, 2),
        p=_lists(SHARE, 2),
        call=TEXT,
    ),
    "/api/start": _object(
        model=_object(name=TEXT, fingerprint=TEXT, has_tokenizer=YES, **MODEL),
        limits=_object(characters=WHOLE, tokens=WHOLE, new_tokens=WHOLE, top=WHOLE),
        version=TEXT,
        examples=_lists(_object(name=TEXT, text=TEXT)),
        view=_or_null(_object(**VIEW)),
        token_needed=YES,
    ),
    "/api/anatomy": _object(
        summary=TEXT,
        config={"type": "object"},
        parts=_lists(_object(name=TEXT, parameters=WHOLE, of=TEXT)),
        sites=_lists(_object(**dict.fromkeys(SITE, TEXT))),
        call=TEXT,
    ),
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
    content = {kind: {"schema": ANSWERS.get(path, {}) if kind == JSON else {}} for kind in types}
    refused = {status: {"description": said, "content": {JSON: {"schema": LINE}}} for status, said in REFUSALS.items()}
    return {
        "operationId": path.removeprefix("/api/").replace(".json", ""),
        "summary": what,
        "responses": {"200": {"description": what, "content": content}, **refused},
    }
