"""When things are computed: one at a time for a model, in turns over clients, and only while somebody waits.

    work = Work()
    job = work.submit(client, lambda job: ...)     raises BusyError where too much waits already
    await job.result                               what it returned, or its error
    work.leave(job)                                nobody waits any more: it is taken out, or stopped

A job that runs is stopped at the next site of its forward pass, or the next step of its loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cutaway.errors import CutawayError
from cutaway.stopping import Stopped, stoppable

MOST_WAITING = 32  # jobs in all
MOST_OF_ONE = 8  # jobs of one client
CACHE_BYTES = 64 * 2**20
CLOSING = "the workbench is closing"


class BusyError(CutawayError):
    """More is waiting than will be taken."""


class Job:
    """One computation, its listeners and its fate."""

    def __init__(self, client: str, function: Callable[[Job], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.client, self.function, self._loop = client, function, loop
        self.left = threading.Event()
        self.started = False
        self.result: asyncio.Future[Any] = loop.create_future()
        self.events: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()  # None: there will be no more

    def emit(self, name: str, data: Any) -> None:
        """Tell who listens; from the thread that computes."""
        self.check()
        self._loop.call_soon_threadsafe(self.events.put_nowait, (name, data))

    def check(self) -> None:
        """Raise Stopped where nobody waits any more."""
        if self.left.is_set():
            raise Stopped


class Work:
    """The queue of one model. Everything but the jobs themselves happens in the event loop's thread."""

    def __init__(self, most: int = MOST_WAITING, most_of_one: int = MOST_OF_ONE) -> None:
        self.most, self.most_of_one = most, most_of_one
        self.cache = Cache()
        self.running: Job | None = None
        self.stopped = False
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()  # clients in the order of their turns
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cutaway-work")
        self._context = contextvars.copy_context()  # of whoever opened the workbench: its edits hold in every job

    def __len__(self) -> int:
        """How many jobs wait."""
        return sum(map(len, self._waiting.values()))

    def submit(self, client: str, function: Callable[[Job], Any]) -> Job:
        """Put a job at the end of its client's line. Raises BusyError where that, or the whole, is too long, and where
        the work was stopped."""
        if self.stopped:
            raise BusyError(CLOSING)
        if len(self._waiting.get(client, ())) >= self.most_of_one:
            raise BusyError(f"{self.most_of_one} requests of this page are waiting already: let them finish first")
        if len(self) >= self.most:
            raise BusyError(f"{self.most} requests are waiting already: try again in a moment")
        job = Job(client, function, asyncio.get_running_loop())
        self._waiting.setdefault(client, deque()).append(job)
        self._next()
        if not job.started:
            job.events.put_nowait(("queued", {"ahead": self.ahead(job)}))
        return job

    def ahead(self, job: Job) -> int:
        """How many jobs come before a waiting one, the running one included."""
        lines = [list(line) for line in self._waiting.values()]
        place = self._waiting[job.client].index(job)
        turn = list(self._waiting).index(job.client)
        before = sum(min(len(line), place + (i < turn)) for i, line in enumerate(lines) if i != turn)
        return place + before + (self.running is not None)

    def leave(self, job: Job) -> None:
        """Nobody waits for a job any more."""
        job.left.set()
        line = self._waiting.get(job.client)
        if line and job in line:
            line.remove(job)
            if not line:
                del self._waiting[job.client]
            self._finish(job)
            self._tell()

    def stop(self) -> None:
        """Take no more jobs, drop what waits, and tell the job that runs to stop; who listens to it hears of its end at
        once, wherever its computation is."""
        self.stopped = True
        for line in list(self._waiting.values()):
            for job in list(line):
                self.leave(job)
        if self.running:
            self.leave(self.running)
            self._finish(self.running)

    def close(self) -> None:
        """Stop, and wait for the thread that computes."""
        self.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _next(self) -> None:
        if self.running or not self._waiting:
            return
        client, line = self._waiting.popitem(last=False)
        job = line.popleft()
        if line:
            self._waiting[client] = line  # at the end: the others come first
        self.running, job.started = job, True
        task = asyncio.get_running_loop().run_in_executor(self._pool, self._context.copy().run, _run, job)
        task.add_done_callback(lambda task: self._ended(job, task))
        self._tell()

    def _ended(self, job: Job, task: asyncio.Future[tuple[Any, BaseException | None]]) -> None:
        self.running = None
        result, error = (None, None) if task.cancelled() else task.result()
        self._finish(job, result, error)
        self._next()

    def _finish(self, job: Job, result: Any = None, error: BaseException | None = None) -> None:
        if not job.result.done():
            if isinstance(error, Stopped) or (error is None and job.left.is_set()):
                job.result.cancel()
            elif error is not None:
                job.result.set_exception(error)
                job.result.exception()  # seen, also where nobody waits
            else:
                job.result.set_result(result)
        job.events.put_nowait(None)

    def _tell(self) -> None:
        for line in self._waiting.values():
            for job in line:
                job.events.put_nowait(("queued", {"ahead": self.ahead(job)}))


def _run(job: Job) -> tuple[Any, BaseException | None]:
    try:
        with stoppable(job.left.is_set):
            job.check()
            return job.function(job), None
    except BaseException as error:  # goes to who waits, whatever it is
        return None, error


class Cache:
    """Bytes by content, the least lately used thrown out."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit, self.size, self._lock = limit, 0, threading.Lock()
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> bytes | None:
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key]

    def put(self, key: Hashable, value: bytes) -> None:
        if len(value) > self.limit // 4:  # one large thing does not push out all others
            return
        with self._lock:
            self.size += len(value) - len(self._kept.pop(key, b""))
            self._kept[key] = value
            while self.size > self.limit:
                _, dropped = self._kept.popitem(last=False)
                self.size -= len(dropped)
