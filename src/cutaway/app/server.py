"""The workbench's routes, and the server that runs them.

Every request that needs the model becomes a job of the queue (work.py) and is watched while it waits: where the
client goes, the job goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import hashlib
import json
import logging
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cutaway import __version__
from cutaway.analyses.result import describe
from cutaway.analyses.verification import facts, verification
from cutaway.app import examples, guard, openapi, schemas, views
from cutaway.app.work import BusyError, Job, Work
from cutaway.charts.render import script_safe
from cutaway.errors import CutawayError, InputError, TokenizerError
from cutaway.model.generate import steps

if TYPE_CHECKING:
    from cutaway.model.model import Model

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".svg": "image/svg+xml",
}
FIRST_PAINT = 10.0  # seconds that the page waits for its first example
JSON, EVENTS = openapi.JSON, openapi.EVENTS

log = logging.getLogger("cutaway.app")


def create(model: Model, *, host: str = "127.0.0.1", token: str | None = None) -> Starlette:
    """The application. `token` is asked for where it is given.

    Raises TokenizerError for a model without a tokenizer.
    """
    if not model.has_tokenizer:
        raise TokenizerError(
            f"{model.name} has no tokenizer, and the workbench reads text: put tokenizer.json (or vocab.json and "
            "merges.txt) into its folder"
        )
    bench = Bench(model, host, token)
    routes = [
        Route("/", bench.page),
        Route("/static/{path:path}", bench.static),
        Route("/api/start", bench.start),
        Route("/api/anatomy", bench.anatomy),
        Route("/api/openapi.json", bench.description),
        *(Route(f"/api/{name}", bench.post(name), methods=["POST"]) for name in bench.posts),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(guard.Guard, host=host, token=token)],
        exception_handlers={
            HTTPException: _http_error,
            CutawayError: _mistake,
            ClientDisconnect: _nobody,
            Exception: _fault,
        },
        lifespan=bench.lifespan,
    )


class Bench:
    """One model, its queue, and an answer to each request."""

    def __init__(self, model: Model, host: str, token: str | None) -> None:
        self.model, self.work = model, Work()
        self.guard = guard.Guard(_nothing, host, token)
        self.schemas = schemas.requests(model)
        self.limits = schemas.limits(model)
        self.examples = examples.of(model)
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
        """The page, with all that its first paint needs inside."""
        allowed = self.guard.allows(request.query_params.get("token"))
        start = await self._start(request) if allowed else {"token_needed": True}
        html = (STATIC / "index.html").read_text(encoding="utf-8")
        tag = '<script type="application/json" id="start">'
        return Response(
            html.replace(tag, tag + script_safe(start), 1),
            headers={"Cache-Control": "no-store"},
            media_type="text/html",
        )

    async def static(self, request: Request) -> Response:
        """A file of the page."""
        path = request.path_params["path"]
        found = _static_files().get(path)
        if found is None:
            raise HTTPException(404)
        content, tag = found.read_bytes(), None
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
        c = self.model.config
        view = None
        with contextlib.suppress(asyncio.TimeoutError):
            first = self.compute(_client(request), *self._view(self.examples[0]["text"]))
            view = json.loads(await asyncio.wait_for(_while_here(request, first), FIRST_PAINT))
        return {
            "model": {
                "name": self.model.name,
                "fingerprint": self.model.fingerprint,
                "n_layers": c.n_layers,
                "n_heads": c.n_heads,
                "n_ctx": c.n_ctx,
                "d_vocab": c.d_vocab,
                "has_tokenizer": self.model.has_tokenizer,
            },
            "limits": self.limits,
            "version": __version__,
            "examples": self.examples,
            "view": view,
            "token_needed": self.guard.token is not None,
        }

    async def anatomy(self, _: Request) -> Response:
        """Sizes and sites."""
        return _json(views.parts(self.model))

    async def description(self, _: Request) -> Response:
        """The OpenAPI description."""
        return _json(openapi.describe(self.model, self.guard.token is not None))

    # --- what needs the model ---

    def post(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        """A route that checks the body before anything else happens."""
        schema, answer = self.schemas[f"/api/{name}"], self.posts[name]

        async def route(request: Request) -> Response:
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
                return guard.error("the request is no JSON: Content-Type: application/json was expected", 415)
            body = await _body(request)
            if body is None:
                return guard.error(f"the request is too long: at most {schemas.BODY // 1024} KB were expected", 413)
            return await answer(request, schemas.check(schema, schemas.parse(body)))

        return route

    async def view(self, request: Request, body: dict[str, Any]) -> Response:
        return await self._answer(request, *self._view(**body))

    def _view(self, text: str, bos: bool = False, top: int = 10) -> tuple[Any, Callable[[Job], bytes]]:
        def compute(_: Job) -> bytes:
            begun = time.perf_counter()
            found = views.view(self.model, text, bos, top, self.limits["tokens"])
            return _dumps(found | {"ms": round((time.perf_counter() - begun) * 1000, 1)})

        return ("view", text, bos, top), compute

    async def rank(self, request: Request, body: dict[str, Any]) -> Response:
        most = self.limits["tokens"]
        return await self._answer(
            request, ("rank", *body.values()), lambda _: _dumps(views.rank(self.model, **body, most=most))
        )

    async def attention(self, request: Request, body: dict[str, Any]) -> Response:
        most = self.limits["tokens"]
        return await self._answer(
            request,
            ("attention", *body.values()),
            lambda _: views.head(self.model, **body, most=most),
            openapi.BYTES,
        )

    async def save(self, request: Request, body: dict[str, Any]) -> Response:
        what, ending = body["what"], body["format"]
        at = {name: body[name] for name in ("layer", "head", "position") if body[name] is not None}

        def compute(job: Job) -> bytes:
            found = views.result(self.model, what, body["text"], body["bos"], self.limits["tokens"])
            job.check()
            return views.saved(found, ending, at)

        answer = await self._answer(request, ("save", *body.values()), compute, openapi.FILES[ending])
        answer.headers["Content-Disposition"] = f'attachment; filename="cutaway-{what}.{ending}"'
        return answer

    async def generate(self, request: Request, body: dict[str, Any]) -> Response:
        def compute(job: Job) -> None:
            tokenizer, text, sampling = self.model.tokenizer, body["text"], dict(body)
            tokens = views.read(self.model, sampling.pop("text"), sampling.pop("bos"), self.limits["tokens"])
            [ids], n = tokens.rows(), int(tokens.lengths[0])
            for step in steps(self.model, tokens, **sampling):
                [token], [p] = step.ids, step.probabilities()
                if token is not None:
                    ids.append(token)
                    shown = {"display": tokenizer.display(token), "text": tokenizer.string(token)}
                    job.emit("token", {"id": token, **shown, "p": p})
            meta = describe(self.model, "generate", text, **{name: body[name] for name in body if name != "text"})
            call = meta["call"].replace("cutaway.generate(model, ", "model.generate(")
            added = tokenizer.decode([i for i in ids[n:] if i != tokenizer.end_of_text])
            job.emit("done", {"text": added, "call": call})

        return self._stream(request, compute)

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

        return self._stream(request, compute)

    async def _answer(
        self, request: Request, key: Any, function: Callable[[Job], bytes], media_type: str = JSON
    ) -> Response:
        return Response(
            await _while_here(request, self.compute(_client(request), key, function)), media_type=media_type
        )

    async def compute(self, client: str, key: Any, function: Callable[[Job], bytes]) -> bytes:
        """Bytes by content: from the cache, or by a job that goes when this is cancelled."""
        kept = self.work.cache.get(key)
        if kept is not None:
            return kept

        # Another may compute the same before this job's turn comes.
        job = self.work.submit(client, lambda job: self.work.cache.get(key) or function(job))
        try:
            found: bytes = await job.done()
        except asyncio.CancelledError:
            self.work.leave(job)
            raise
        self.work.cache.put(key, found)
        return found

    def _stream(self, request: Request, function: Callable[[Job], None]) -> Response:
        return Events(self.work, self.work.submit(_client(request), function))


class Events(Response):
    """A job's events as they come; ends, and ends the job, where the client goes."""

    def __init__(self, work: Work, job: Job) -> None:
        super().__init__(media_type=EVENTS, headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self.work, self.job = work, job

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_gone(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for name, data in self._events(gone):
                chunk = f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if not gone.done():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            self.work.leave(self.job)

    async def _events(self, gone: asyncio.Task[None]) -> AsyncIterator[tuple[str, Any]]:
        while True:
            event = asyncio.create_task(self.job.events.get())
            await asyncio.wait({event, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not event.done():
                event.cancel()
                return
            found = event.result()
            if found is None:
                break
            yield found
        if self.job.result.cancelled():
            yield "error", {"error": "the server is stopping"}
        elif error := self.job.result.exception():
            known = isinstance(error, CutawayError)
            if not known:
                log.error("a job failed", exc_info=error)
            yield "error", {"error": " ".join(str(error).split()) if known else FAULT}


FAULT = "something went wrong inside the workbench; its terminal says what"


async def _gone(receive: Receive) -> None:
    """Ends when the client does."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _while_here(request: Request, answer: Awaitable[bytes]) -> bytes:
    """An answer, for as long as somebody waits for it. Raises ClientDisconnect where nobody does."""
    task, gone = asyncio.ensure_future(answer), asyncio.create_task(_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()


async def _body(request: Request) -> bytes | None:
    """The body; None for one that is too long, of which no more than that is read."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > schemas.BODY:
            return None
        parts.append(part)
    return b"".join(parts)


def _client(request: Request) -> str:
    """The name under which a page waits: its own random one, apart for each machine."""
    peer = request.client.host if request.client else ""
    return f"{peer} {request.headers.get('x-cutaway-client', '')[:64]}"


def _dumps(data: Any) -> bytes:
    return json.dumps(data, allow_nan=False, separators=(",", ":")).encode()


def _json(data: Any) -> Response:
    return Response(_dumps(data), media_type=JSON)


@functools.cache
def _static_files() -> dict[str, Path]:
    """The files that may be had, by their names; no other path leads anywhere."""
    found = (path for path in STATIC.rglob("*") if path.suffix in TYPES and path.is_file())
    return {path.relative_to(STATIC).as_posix(): path for path in found}


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 400
    said = {404: f"there is nothing at {request.url.path[:80]!a}", 405: "this address takes another method"}
    headers = getattr(error, "headers", None) or {}
    return guard.error(said.get(status, "the request cannot be answered"), status, **headers)


async def _mistake(_: Request, error: Exception) -> Response:
    if isinstance(error, BusyError):
        return guard.error(str(error), 429, **{"Retry-After": "1"})
    return guard.error(str(error), 400)


async def _nobody(*_: Any) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _fault(*_: Any) -> Response:
    return guard.error(FAULT, 500)


async def _nothing(*_: Any) -> None:
    pass


def serve(model: Model, *, host: str = "127.0.0.1", port: int = 8765, ready: Callable[[str], object]) -> None:
    """Serve until Ctrl-C. `ready` is called with the address; beyond loopback that holds the token which is asked for.

    Raises InputError for a port or host that cannot be had.
    """
    import uvicorn

    token = None if guard.is_loopback(host) else secrets.token_urlsafe(16)
    app = create(model, host=host, token=token)
    listener = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else "")
    config = uvicorn.Config(
        app, log_level="error", access_log=False, server_header=False, timeout_graceful_shutdown=2, lifespan="on"
    )
    ready(address)
    with listener:
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError:
            listener.close()
            raise
        return listener
    except (OSError, OverflowError, UnicodeError) as problem:
        taken = getattr(problem, "errno", None) == errno.EADDRINUSE
        reason = "is in use already" if taken else f"cannot be had ({getattr(problem, 'strerror', None) or problem})"
        hint = "give another --port, or --port 0 for any that is free" if taken else "give another --host or --port"
        raise InputError(f"port {port} on {host} {reason}: {hint}") from None
