"""Send answers for as long as the client waits for them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Hashable
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cutaway.app.queue import CLOSING, Job, JobQueue
from cutaway.errors import CutawayError

EVENTS = "text/event-stream"
FAULT = "something went wrong inside the workbench; its terminal says what"

log = logging.getLogger("cutaway.app")


async def disconnected(receive: Receive) -> None:
    """Return when the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(receive: Receive, answer: Awaitable[bytes]) -> bytes:
    """Await an answer while the client waits for it. Raises ClientDisconnect where the client leaves."""
    task, left = asyncio.ensure_future(answer), asyncio.create_task(disconnected(receive))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        left.cancel()
        task.cancel()


class Events(Response):
    """Send a job's events as they come, and cancel the job where the client leaves; cache a stream that is complete."""

    def __init__(self, queue: JobQueue, job: Job, key: Hashable) -> None:
        super().__init__(media_type=EVENTS, headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self.queue, self.job, self.key = queue, job, key

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send the whole stream."""
        left = asyncio.create_task(disconnected(receive))
        kept: list[bytes] = []
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for name, data in self._events(left):
                chunk = f"event: {name}\ndata: {json.dumps(data, allow_nan=False)}\n\n".encode()
                if name != "queued":
                    kept.append(chunk)
                if name == "done":
                    self.queue.cache.put(self.key, b"".join(kept))
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if not left.done():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            left.cancel()
            self.queue.cancel(self.job)

    async def _events(self, left: asyncio.Task[None]) -> AsyncIterator[tuple[str, Any]]:
        """Yield the job's events, and its error at the end, until the client has left."""
        while True:
            waiting = asyncio.create_task(self.job.events.get())
            await asyncio.wait({waiting, left}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                waiting.cancel()
                return
            event = waiting.result()
            if event is None:
                break
            yield event
        if self.job.result.cancelled():
            yield "error", {"error": CLOSING}
        elif error := self.job.result.exception():
            if not isinstance(error, CutawayError):
                log.error("a job failed", exc_info=error)
            yield "error", {"error": " ".join(str(error).split()) if isinstance(error, CutawayError) else FAULT}
