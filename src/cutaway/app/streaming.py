"""Answers that watch whether anybody still waits for them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Hashable
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cutaway.app.queue import CLOSING, Job, Work
from cutaway.errors import CutawayError

EVENTS = "text/event-stream"
FAULT = "something went wrong inside the workbench; its terminal says what"

log = logging.getLogger("cutaway.app")


async def gone(receive: Receive) -> None:
    """Ends when the client does."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_here(receive: Receive, answer: Awaitable[bytes]) -> bytes:
    """An answer, for as long as somebody waits for it. Raises ClientDisconnect where nobody does."""
    task, left = asyncio.ensure_future(answer), asyncio.create_task(gone(receive))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        left.cancel()
        task.cancel()


class Events(Response):
    """A job's events as they come; where the client goes, the job goes. A stream that ends well is kept by its key."""

    def __init__(self, work: Work, job: Job, key: Hashable) -> None:
        super().__init__(media_type=EVENTS, headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self.work, self.job, self.key = work, job, key

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        left = asyncio.create_task(gone(receive))
        kept: list[bytes] = []
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for name, data in self._events(left):
                chunk = f"event: {name}\ndata: {json.dumps(data, allow_nan=False)}\n\n".encode()
                if name != "queued":
                    kept.append(chunk)
                if name == "done":
                    self.work.cache.put(self.key, b"".join(kept))
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if not left.done():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            left.cancel()
            self.work.leave(self.job)

    async def _events(self, left: asyncio.Task[None]) -> AsyncIterator[tuple[str, Any]]:
        while True:
            event = asyncio.create_task(self.job.events.get())
            await asyncio.wait({event, left}, return_when=asyncio.FIRST_COMPLETED)
            if not event.done():
                event.cancel()
                return
            found = event.result()
            if found is None:
                break
            yield found
        if self.job.result.cancelled():
            yield "error", {"error": CLOSING}
        elif error := self.job.result.exception():
            if not isinstance(error, CutawayError):
                log.error("a job failed", exc_info=error)
            yield "error", {"error": " ".join(str(error).split()) if isinstance(error, CutawayError) else FAULT}
