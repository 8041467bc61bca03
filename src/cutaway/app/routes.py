"""The workbench's routes.

Every request that needs the model becomes a job of the queue (work.py) and is watched while it waits (answers.py):
where the client goes, the job goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from cutaway import __version__
from cutaway.analyses.verification import facts, verification
from cutaway.app import examples, guard, openapi, schemas
from cutaway.app.guard import Guard
from cutaway.app.queue import CLOSING, BusyError, Job, Work
from cutaway.app.streaming import EVENTS, FAULT, Events, while_here
from cutaway.errors import CutawayError, TokenizerError
from cutaway.model.generate import steps
from cutaway.pages.page import script_safe
from cutaway.panels import payloads as views
from cutaway.results.saving import plain

if TYPE_CHECKING:
    from cutaway.model.model import Model

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".svg": "image/svg+xml",
}
FIRST_PAINT = 4.0  # seconds that a page waits for its first example; then it comes without, and asks for it
JSON = openapi.JSON
Compute: TypeAlias = Callable[[Job], bytes]


def create(model: Model, *, host: str = "127.0.0.1", token: str | None = None) -> Guard:
    """The application. `host` is where it listens; `token` is asked for where it is given.

    Raises TokenizerError for a model without a tokenizer.
    """
    return application(Bench(model, token), host)


def application(bench: Bench, host: str) -> Guard:
    """Return the routes of a bench behind their guard."""
    routes = [
        Route("/", bench.page),
        Route("/static/{path:path}", bench.static),
        Route("/api/start", bench.start),
        Route("/api/anatomy", bench.anatomy),
        Route("/api/openapi.json", bench.description),
        *(Route(f"/api/{name}", bench.post(name), methods=["POST"]) for name in bench.posts),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: _http_error,
        CutawayError: _mistake,
        ClientDisconnect: _nobody,
        Exception: _fault,
    }
    # Around everything, Starlette's own page for faults included.
    return Guard(Starlette(routes=routes, exception_handlers=handlers, lifespan=bench.lifespan), host, bench.token)


class Bench:
    """One model, its queue, and an answer to each request."""

    def __init__(self, model: Model, token: str | None) -> None:
        if not model.has_tokenizer:
            raise TokenizerError(
                f"{model.name} has no tokenizer, and the workbench reads text: put tokenizer.json (or vocab.json and "
                "merges.txt) into its folder"
            )
        self.model, self.token, self.work = model, token, Work()
        self.schemas, self.limits = schemas.requests(model), schemas.limits(model)
        self.examples = examples.of(model, self.limits["tokens"])
        self.about = {
            "model": {
                "name": model.name,
                "fingerprint": model.fingerprint,
                "has_tokenizer": model.has_tokenizer,
                **{name: getattr(model.config, name) for name in ("n_layers", "n_heads", "n_ctx", "d_vocab")},
            },
            "limits": self.limits,
            "version": __version__,
            "examples": self.examples,
            "token_needed": token is not None,
        }
        self.posts: dict[str, Callable[[Request, dict[str, Any]], Awaitable[Response]]] = {
            "view": self.view,
            "attention": self.attention,
            "rank": self.rank,
            "generate": self.generate,
            "verify": self.verify,
            "save": self.save,
        }

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """The examples are read before anybody asks for them."""
        warm = asyncio.create_task(self._warm())
        try:
            yield
        finally:
            warm.cancel()
            self.work.close()

    async def _warm(self) -> None:
        for example in self.examples:
            with contextlib.suppress(CutawayError):
                await self.compute("", *self._view(example["text"]))

    # --- pages and files ---

    async def page(self, request: Request) -> Response:
        """The page, with all that its first paint needs inside; without the token's, nothing about the model."""
        allowed = guard.same(request.query_params.get("token"), self.token)
        start = await self._start(request) if allowed else {"token_needed": True}
        html = (STATIC / "index.html").read_text(encoding="utf-8")
        tag = '<script type="application/json" id="start">'
        return Response(
            html.replace(tag, tag + script_safe(start), 1),
            headers={"Cache-Control": "no-store", "Content-Type": TYPES[".html"]},
        )

    async def static(self, request: Request) -> Response:
        """A file of the page."""
        found = _static_files().get(request.path_params["path"])
        if found is None:
            raise HTTPException(404)
        content = found.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache", "Content-Type": TYPES[found.suffix]}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers)

    # --- what the model is ---

    async def start(self, request: Request) -> Response:
        """What a page begins with."""
        return _json(await self._start(request))

    async def _start(self, request: Request) -> dict[str, Any]:
        first = self.compute(_client(request), *self._view(self.examples[0]["text"]))
        view = None
        with contextlib.suppress(asyncio.TimeoutError, CutawayError):  # the page then asks for it by itself
            view = json.loads(await asyncio.wait_for(while_here(request.receive, first), FIRST_PAINT))
        return self.about | {"view": view}

    async def anatomy(self, _: Request) -> Response:
        """Sizes and sites."""
        return _json(views.parts(self.model))

    async def description(self, _: Request) -> Response:
        """The OpenAPI description."""
        return _json(openapi.describe(self.model, self.token is not None))

    # --- what needs the model ---

    def post(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        """A route that checks the body before anything else happens."""
        schema, answer = self.schemas[f"/api/{name}"], self.posts[name]

        async def route(request: Request) -> Response:
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
                return guard.error("the request is no JSON: Content-Type: application/json was expected", 415)
            body = await _body(request)
            if body is None:
                return guard.error(guard.TOO_LONG, 413)
            return await answer(request, schemas.check(schema, schemas.parse(body)))

        return route

    async def view(self, request: Request, body: dict[str, Any]) -> Response:
        return await self._answer(request, *self._view(**body))

    def _view(
        self, text: str, bos: bool = False, top: int = 10, next: bool = True, lens: bool = True, heads: bool = True
    ) -> tuple[Hashable, Compute]:
        def compute(_: Job) -> bytes:
            begun = time.perf_counter()
            found = views.view(self.model, text, bos, top, next, lens, heads, self.limits["tokens"])
            return _dumps(found | {"ms": round((time.perf_counter() - begun) * 1000, 1)})

        return ("view", text, bos, top, next, lens, heads), compute

    async def rank(self, request: Request, body: dict[str, Any]) -> Response:
        key, most = ("rank", *body.values()), self.limits["tokens"]
        return await self._answer(request, key, lambda _: _dumps(views.rank(self.model, **body, most=most)))

    async def attention(self, request: Request, body: dict[str, Any]) -> Response:
        key, most = ("attention", *body.values()), self.limits["tokens"]
        return await self._answer(request, key, lambda _: views.head(self.model, **body, most=most), openapi.BYTES)

    async def save(self, request: Request, body: dict[str, Any]) -> Response:
        what, ending = body["what"], body["format"]
        at = views.sliders(**{name: body[name] for name in ("layer", "head", "position", "metric")})

        def compute(job: Job) -> bytes:
            found = views.result(self.model, what, body["text"], body["bos"], self.limits["tokens"])
            job.check()
            return views.saved(found, ending, at)

        answer = await self._answer(request, ("save", *body.values()), compute, openapi.FILES[ending])
        answer.headers["Content-Disposition"] = f'attachment; filename="cutaway-{what}.{ending}"'
        return answer

    async def generate(self, request: Request, body: dict[str, Any]) -> Response:
        tokenizer, sampling = self.model.tokenizer, dict(body)
        tokens = views.read(self.model, sampling.pop("text"), sampling.pop("bos"), self.limits["tokens"])
        made = steps(self.model, tokens, **sampling)  # a wrong request ends here, before the stream begins

        def compute(job: Job) -> None:
            added = []
            for step in made:
                [token], [p] = step.ids, step.probabilities()
                if token is not None:
                    added.append(token)
                    shown = {"display": tokenizer.display(token), "text": tokenizer.string(token)}
                    job.emit("token", {"id": token, **shown, "p": p})
            job.emit(
                "done", {"text": views.continuation(self.model, added), "call": views.generating(self.model, body)}
            )

        return self._stream(request, ("generate", *body.values()), compute)

    async def verify(self, request: Request, _: dict[str, Any]) -> Response:
        def compute(job: Job) -> None:
            found = []
            job.emit("progress", {"done": 0, "of": views.FACTS})
            for fact in facts(self.model):
                found.append(fact)
                job.emit("check", views.fact(fact))
                job.emit("progress", {"done": len(found), "of": views.FACTS})
            result = verification(self.model, found)
            job.emit("done", {"summary": result.summary(), "call": result.meta["call"], "holds": result.holds})

        return self._stream(request, ("verify",), compute)

    async def _answer(self, request: Request, key: Hashable, function: Compute, media_type: str = JSON) -> Response:
        found = await while_here(request.receive, self.compute(_client(request), key, function))
        return Response(found, headers={"Content-Type": media_type, "Cache-Control": "no-store"})

    def _stream(self, request: Request, key: Hashable, function: Callable[[Job], None]) -> Response:
        kept = self.work.cache.get(key)
        if kept is not None:
            return Response(kept, media_type=EVENTS, headers={"Cache-Control": "no-store"})
        return Events(self.work, self.work.submit(_client(request), function), key)

    async def compute(self, client: str, key: Hashable, function: Compute) -> bytes:
        """Bytes by content: from the cache, or by a job that goes when this is cancelled."""
        kept = self.work.cache.get(key)
        if kept is not None:
            return kept
        # Another may have computed the same when this job's turn comes.
        job = self.work.submit(client, lambda job: self.work.cache.get(key) or function(job))
        try:
            found: bytes = await job.result
        except asyncio.CancelledError:
            self.work.leave(job)
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            raise BusyError(CLOSING) from None
        self.work.cache.put(key, found)
        return found


async def _body(request: Request) -> bytes | None:
    """The body; None for one that is too long, of which no more than that is kept."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > 4 * schemas.BODY:
            return None
        if size <= schemas.BODY:
            parts.append(part)
    return b"".join(parts) if size <= schemas.BODY else None


def _client(request: Request) -> str:
    """The name under which a page waits: its own random one, apart for each machine."""
    peer = request.client.host if request.client else ""
    return f"{peer} {request.headers.get('x-cutaway-client', '')[:64]}"


def _dumps(data: Any) -> bytes:
    try:
        return json.dumps(data, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:  # numbers that are none, of weights that overflow
        return json.dumps(plain(data), separators=(",", ":")).encode()


def _json(data: Any) -> Response:
    return Response(_dumps(data), headers={"Content-Type": JSON, "Cache-Control": "no-store"})


@functools.cache
def _static_files() -> dict[str, Path]:
    """The files that may be had, by their names; no other path leads anywhere."""
    found = (path for path in STATIC.rglob("*") if path.suffix in TYPES and path.is_file())
    return {path.relative_to(STATIC).as_posix(): path for path in found}


async def _http_error(request: Request, error: HTTPException) -> Response:
    said = {404: f"there is nothing at {request.url.path[:80]!a}", 405: "this address takes another method"}
    message = said.get(error.status_code, "the request cannot be answered")
    return guard.error(message, error.status_code, **(error.headers or {}))


async def _mistake(_: Request, error: Exception) -> Response:
    busy = isinstance(error, BusyError)
    return guard.error(str(error), 429 if busy else 400, **({"Retry-After": "1"} if busy else {}))


async def _nobody(*_: Any) -> Response:
    return Response(status_code=499)  # that nobody reads


async def _fault(*_: Any) -> Response:
    return guard.error(FAULT, 500)
