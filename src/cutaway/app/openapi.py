"""Describe the API in OpenAPI 3.1; requests are described by the schemas that check them."""

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
GETS = {  # path: a description of the answer
    "/api/start": "The data that a page begins with: the model, the limits, examples, and the view of the first one.",
    "/api/anatomy": "Sizes, parameters by part, sites.",
    "/api/openapi.json": "This description.",
}
POSTS = {  # path: a description of the answer, and its media types
    "/api/view": (
        "Everything that follows the cursor: tokens, next tokens, lens, a small picture of every head.",
        [JSON],
    ),
    "/api/attention": ("One head's pattern [query, key]: float32, little-endian.", [BYTES]),
    "/api/rank": ("One token's rank and probability at every layer and position.", [JSON]),
    "/api/generate": ("A continuation, token by token. Events: queued, token, done, error.", [EVENTS]),
    "/api/verify": ("Facts measured about the model. Events: queued, progress, check, done, error.", [EVENTS]),
    "/api/save": ("A result as a file.", list(FILES.values())),
}
REFUSALS = {
    "400": "the request cannot be answered: one line says what was expected",
    "401": "the token is missing or wrong",
    "403": "a foreign Host, or a request from another site",
    "413": "the body is too long",
    "415": "the body is not JSON",
    "429": "too many requests are waiting: try again",
}
CLIENT = {
    "name": "X-Cutaway-Client",
    "in": "header",
    "description": "a random name of the page: pages take turns by it",
    "schema": {"type": "string", "maxLength": 64, "pattern": "^[0-9A-Za-z-]*$"},
}
Schema = dict[str, Any]


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _lists(item: Schema, depth: int = 1) -> Schema:
    """Return the schema of lists inside lists of an item, `depth` deep."""
    return _lists({"type": "array", "items": item}, depth - 1) if depth else item


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


TEXT, WHOLE, BOOLEAN = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
NUMBER = {"type": "number", "minimum": 0}
PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1.00001}
CANDIDATE = _object(id=WHOLE, display=TEXT, text=TEXT, p=PROBABILITY)
VIEW = {
    "text": TEXT,
    "tokens": _lists(_object(id=WHOLE, text=TEXT, display=TEXT, start=_or_null(WHOLE), end=_or_null(WHOLE))),
    "next": _or_null(
        _lists(
            _object(
                entropy=NUMBER,
                top=_lists(CANDIDATE),
                actual=_or_null(_object(id=WHOLE, display=TEXT, text=TEXT, p=PROBABILITY, rank=WHOLE, loss=NUMBER)),
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
            p=_lists(PROBABILITY, 3),
            names={"type": "object", "additionalProperties": TEXT},
        )
    ),
    "heads": _or_null(_object(size=WHOLE, patterns=TEXT)),
    "call": _object(next=_or_null(TEXT), lens=_or_null(TEXT), attention=_or_null(TEXT)),
    "ms": NUMBER,
}
ERROR = _object(error=TEXT)
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
        p=_lists(PROBABILITY, 2),
        call=TEXT,
    ),
    "/api/start": _object(
        model=_object(name=TEXT, fingerprint=TEXT, has_tokenizer=BOOLEAN, **MODEL),
        limits=_object(characters=WHOLE, tokens=WHOLE, new_tokens=WHOLE, top=WHOLE),
        version=TEXT,
        examples=_lists(_object(name=TEXT, text=TEXT)),
        view=_or_null(_object(**VIEW)),
        token_needed=BOOLEAN,
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
    """Return the description of the whole API; with `token` it says that requests need one."""
    paths: dict[str, Any] = {path: {"get": _operation(path, answer, [JSON])} for path, answer in GETS.items()}
    for path, body in schemas.requests(model).items():
        answer, types = POSTS[path]
        request = {"required": True, "content": {JSON: {"schema": body}}}
        paths[path] = {"post": _operation(path, answer, types) | {"parameters": [CLIENT], "requestBody": request}}
    description: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Cutaway workbench", "version": __version__},
        "paths": paths,
    }
    if token:
        scheme = {"type": "apiKey", "in": "header", "name": "X-Cutaway-Token"}
        description |= {"components": {"securitySchemes": {"token": scheme}}, "security": [{"token": []}]}
    return description


def _operation(path: str, answer: str, types: list[str]) -> dict[str, Any]:
    """Return the description of one path."""
    content = {kind: {"schema": ANSWERS.get(path, {}) if kind == JSON else {}} for kind in types}
    refusals = {
        status: {"description": reason, "content": {JSON: {"schema": ERROR}}} for status, reason in REFUSALS.items()
    }
    return {
        "operationId": path.removeprefix("/api/").replace(".json", ""),
        "summary": answer,
        "responses": {"200": {"description": answer, "content": content}, **refusals},
    }
