"""Answer the workbench's requests.

Every request that needs the model becomes a job of the queue (queue.py), which is cancelled where the client leaves
(streaming.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from cutaway import __version__
from cutaway.analyses.verification import facts, verification
from cutaway.app import examples, guard, openapi, schemas, static_files
from cutaway.app.guard import Guard
from cutaway.app.queue import CLOSING, BusyError, Job, JobQueue
from cutaway.app.streaming import EVENTS, FAULT, Events, while_connected
from cutaway.errors import CutawayError, TokenizerError
from cutaway.model.generate import steps
from cutaway.pages.page import script_safe
from cutaway.panels import payloads
from cutaway.results.saving import plain

if TYPE_CHECKING:
    from cutaway.model.model import Model

FIRST_VIEW_SECONDS = 4.0  # that a page waits for its first view; after that it is sent without, and asks for it
JSON = openapi.JSON
Compute: TypeAlias = Callable[[Job], bytes]


def create(model: Model, *, host: str = "127.0.0.1", token: str | None = None) -> Guard:
    """Return the ASGI application. `host` is where its server listens; requests need the `token`, where there is one.

    Raises TokenizerError for a model without a tokenizer.
    """
    return application(Bench(model, token), host)


def application(bench: Bench, host: str) -> Guard:
    """Return the application of a bench: its routes, behind the guard."""
    routes = [
        Route("/", bench.page),
        *static_files.mounts(),
        Route("/api/start", bench.start),
        Route("/api/anatomy", bench.anatomy),
        Route("/api/openapi.json", bench.description),
        *(Route(f"/api/{name}", bench.post(name), methods=["POST"]) for name in bench.posts),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: _http_error,
        CutawayError: _user_error,
        ClientDisconnect: _client_left,
        Exception: _fault,
    }
    # The guard stands around everything, Starlette's own answers to errors included.
    return Guard(Starlette(routes=routes, exception_handlers=handlers, lifespan=bench.lifespan), host, bench.token)


class Bench:
    """One model, its queue, and a method for each request."""

    def __init__(self, model: Model, token: str | None) -> None:
        if not model.has_tokenizer:
            raise TokenizerError(
                f"{model.name} has no tokenizer, and the workbench reads text: put tokenizer.json (or vocab.json and "
                "merges.txt) into its folder"
            )
        self.model, self.token, self.queue = model, token, JobQueue()
        self.schemas, self.limits = schemas.requests(model), schemas.limits(model)
        self.examples = examples.for_model(model, self.limits["tokens"])
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
        """Compute the views of the examples before a page asks for them; stop the queue at the end."""
        task = asyncio.create_task(self._view_examples())
        try:
            yield
        finally:
            task.cancel()
            self.queue.close()

    async def _view_examples(self) -> None:
        for example in self.examples:
            with contextlib.suppress(CutawayError):
                await self.compute("", *self._view(example["text"]))

    # --- the page ---

    async def page(self, request: Request) -> Response:
        """Answer with the page, and inside it all that it shows first; without the token, nothing about the model."""
        allowed = guard.token_matches(request.query_params.get("token"), self.token)
        start = await self._start(request) if allowed else {"token_needed": True}
        html = (static_files.STATIC / "index.html").read_text(encoding="utf-8")
        tag = '<script type="application/json" id="start">'
        return Response(
            html.replace(tag, tag + script_safe(start), 1),
            headers={"Cache-Control": "no-store", "Content-Type": static_files.TYPES[".html"]},
        )

    # --- what the model is ---

    async def start(self, request: Request) -> Response:
        """Answer with the data that a page begins with."""
        return _json(await self._start(request))

    async def _start(self, request: Request) -> dict[str, Any]:
        first = self.compute(_client(request), *self._view(self.examples[0]["text"]))
        view = None
        with contextlib.suppress(asyncio.TimeoutError, CutawayError):  # then the page asks for it
            view = json.loads(await asyncio.wait_for(while_connected(request.receive, first), FIRST_VIEW_SECONDS))
        return self.about | {"view": view}

    async def anatomy(self, _: Request) -> Response:
        """Answer with sizes, parameters by part, and sites."""
        return _json(payloads.parts(self.model))

    async def description(self, _: Request) -> Response:
        """Answer with the OpenAPI description."""
        return _json(openapi.describe(self.model, self.token is not None))

    # --- what needs the model ---

    def post(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        """Return the route of a POST request, which checks the body before anything else happens."""
        schema, answer = self.schemas[f"/api/{name}"], self.posts[name]

        async def route(request: Request) -> Response:
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
                return guard.error("the request is not JSON: Content-Type: application/json was expected", 415)
            body = await _body(request)
            if body is None:
                return guard.error(guard.TOO_LONG, 413)
            return await answer(request, schemas.check(schema, schemas.parse(body)))

        return route

    async def view(self, request: Request, body: dict[str, Any]) -> Response:
        """Answer with everything that follows the cursor of a text."""
        return await self._answer(request, *self._view(**body))

    def _view(
        self, text: str, bos: bool = False, top: int = 10, next: bool = True, lens: bool = True, heads: bool = True
    ) -> tuple[Hashable, Compute]:
        """Return the key of a view and the function that computes it."""

        def compute(_: Job) -> bytes:
            begun = time.perf_counter()
            view = payloads.view(self.model, text, bos, top, next, lens, heads, self.limits["tokens"])
            return _dumps(view | {"ms": round((time.perf_counter() - begun) * 1000, 1)})

        return ("view", text, bos, top, next, lens, heads), compute

    async def rank(self, request: Request, body: dict[str, Any]) -> Response:
        """Answer with one token's rank and probability at every layer and position."""
        key, most = ("rank", *body.values()), self.limits["tokens"]
        return await self._answer(request, key, lambda _: _dumps(payloads.rank(self.model, **body, most=most)))

    async def attention(self, request: Request, body: dict[str, Any]) -> Response:
        """Answer with one head's pattern, as bytes."""
        key, most = ("attention", *body.values()), self.limits["tokens"]
        return await self._answer(request, key, lambda _: payloads.head(self.model, **body, most=most), openapi.BYTES)

    async def save(self, request: Request, body: dict[str, Any]) -> Response:
        """Answer with a result as a file."""
        what, ending = body["what"], body["format"]
        at = payloads.sliders(**{name: body[name] for name in ("layer", "head", "position", "metric")})

        def compute(job: Job) -> bytes:
            result = payloads.result(self.model, what, body["text"], body["bos"], self.limits["tokens"])
            job.check()
            return payloads.saved(result, ending, at)

        answer = await self._answer(request, ("save", *body.values()), compute, openapi.FILES[ending])
        answer.headers["Content-Disposition"] = f'attachment; filename="cutaway-{what}.{ending}"'
        return answer

    async def generate(self, request: Request, body: dict[str, Any]) -> Response:
        """Answer with a continuation, token by token."""
        tokenizer, sampling = self.model.tokenizer, dict(body)
        tokens = payloads.read(self.model, sampling.pop("text"), sampling.pop("bos"), self.limits["tokens"])
        made = steps(self.model, tokens, **sampling)  # raises for a wrong request before the stream begins

        def compute(job: Job) -> None:
            added = []
            for step in made:
                [token], [p] = step.ids, step.probabilities()
                if token is not None:
                    added.append(token)
                    shown = {"display": tokenizer.display(token), "text": tokenizer.string(token)}
                    job.emit("token", {"id": token, **shown, "p": p})
            job.emit(
                "done",
                {"text": payloads.continuation(self.model, added), "call": payloads.generating(self.model, body)},
            )

        return self._stream(request, ("generate", *body.values()), compute)

    async def verify(self, request: Request, _: dict[str, Any]) -> Response:
        """Answer with facts about the model, one by one as they are measured."""

        def compute(job: Job) -> None:
            measured = []
            job.emit("progress", {"done": 0, "of": payloads.FACTS})
            for fact in facts(self.model):
                measured.append(fact)
                job.emit("check", payloads.fact(fact))
                job.emit("progress", {"done": len(measured), "of": payloads.FACTS})
            result = verification(self.model, measured)
            job.emit("done", {"summary": result.summary(), "call": result.meta["call"], "holds": result.holds})

        return self._stream(request, ("verify",), compute)

    async def _answer(self, request: Request, key: Hashable, function: Compute, media_type: str = JSON) -> Response:
        """Answer with the bytes that a job computes."""
        content = await while_connected(request.receive, self.compute(_client(request), key, function))
        return Response(content, headers={"Content-Type": media_type, "Cache-Control": "no-store"})

    def _stream(self, request: Request, key: Hashable, function: Callable[[Job], None]) -> Response:
        """Answer with the events that a job sends."""
        kept = self.queue.cache.get(key)
        if kept is not None:
            return Response(kept, media_type=EVENTS, headers={"Cache-Control": "no-store"})
        return Events(self.queue, self.queue.submit(_client(request), function), key)

    async def compute(self, client: str, key: Hashable, function: Compute) -> bytes:
        """Return an answer from the cache, or compute it in a job, which is cancelled where this call is."""
        kept = self.queue.cache.get(key)
        if kept is not None:
            return kept
        # Another job may have computed the same answer before this one's turn comes.
        job = self.queue.submit(client, lambda job: self.queue.cache.get(key) or function(job))
        try:
            content: bytes = await job.result
        except asyncio.CancelledError:
            self.queue.cancel(job)
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            raise BusyError(CLOSING) from None
        self.queue.cache.put(key, content)
        return content


async def _body(request: Request) -> bytes | None:
    """Return the body of a request; None for one that is too long, without keeping all of it."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > 4 * schemas.BODY_BYTES:
            return None
        if size <= schemas.BODY_BYTES:
            parts.append(part)
    return b"".join(parts) if size <= schemas.BODY_BYTES else None


def _client(request: Request) -> str:
    """Return the name by which pages take turns: the machine's address and the page's own random name."""
    peer = request.client.host if request.client else ""
    return f"{peer} {request.headers.get('x-cutaway-client', '')[:64]}"


def _dumps(data: Any) -> bytes:
    """Return data as JSON; NaN and infinities as null."""
    try:
        return json.dumps(data, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:  # NaN or infinities, such as those of weights that overflow
        return json.dumps(plain(data), separators=(",", ":")).encode()


def _json(data: Any) -> Response:
    return Response(_dumps(data), headers={"Content-Type": JSON, "Cache-Control": "no-store"})


async def _http_error(request: Request, error: HTTPException) -> Response:
    messages = {404: f"there is nothing at {request.url.path[:80]!a}", 405: "this address takes another method"}
    message = messages.get(error.status_code, "the request cannot be answered")
    return guard.error(message, error.status_code, **(error.headers or {}))


async def _user_error(_: Request, error: Exception) -> Response:
    busy = isinstance(error, BusyError)
    return guard.error(str(error), 429 if busy else 400, **({"Retry-After": "1"} if busy else {}))


async def _client_left(*_: Any) -> Response:
    return Response(status_code=499)  # for a client that is gone


async def _fault(*_: Any) -> Response:
    return guard.error(FAULT, 500)
