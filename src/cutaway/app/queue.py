"""Decide when things are computed: one job at a time, clients in turn, and only while a client waits.

    queue = JobQueue()
    job = queue.submit(client, lambda job: ...)    raises BusyError where too many jobs wait already
    await job.result                               the function's result, or its error
    queue.cancel(job)                              nobody waits for it any more: it is taken out, or stopped

A running job is stopped at the next site of its forward pass, or the next step of its loop.
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

MOST_WAITING = 32  # jobs of all clients
MOST_OF_ONE = 8  # jobs of one client
CACHE_BYTES = 64 * 2**20
CLOSING = "the workbench is closing"


class BusyError(CutawayError):
    """Too many jobs are waiting already."""


class Job:
    """One computation: its result, and the events that it sends meanwhile."""

    def __init__(self, client: str, function: Callable[[Job], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.client, self.function, self._loop = client, function, loop
        self.cancelled = threading.Event()
        self.started = False
        self.result: asyncio.Future[Any] = loop.create_future()
        self.events: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()  # None marks the end

    def emit(self, name: str, data: Any) -> None:
        """Send an event, from the thread that computes. Raises Stopped where the job was cancelled."""
        self.check()
        self._loop.call_soon_threadsafe(self.events.put_nowait, (name, data))

    def check(self) -> None:
        """Raise Stopped where the job was cancelled."""
        if self.cancelled.is_set():
            raise Stopped


class JobQueue:
    """The queue of one model. Everything but the jobs themselves runs in the event loop's thread."""

    def __init__(self, most: int = MOST_WAITING, most_of_one: int = MOST_OF_ONE) -> None:
        self.most, self.most_of_one = most, most_of_one
        self.cache = AnswerCache()
        self.running: Job | None = None
        self.stopped = False
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()  # clients, in the order of their turns
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cutaway-work")
        self._context = contextvars.copy_context()  # the caller's, so that its edits hold in every job

    def __len__(self) -> int:
        """Return the number of waiting jobs."""
        return sum(map(len, self._waiting.values()))

    def submit(self, client: str, function: Callable[[Job], Any]) -> Job:
        """Put a job at the end of its client's line.

        Raises BusyError where that line or the whole queue is full, and where the queue was stopped.
        """
        if self.stopped:
            raise BusyError(CLOSING)
        if len(self._waiting.get(client, ())) >= self.most_of_one:
            raise BusyError(f"{self.most_of_one} requests of this page are waiting already: let them finish first")
        if len(self) >= self.most:
            raise BusyError(f"{self.most} requests are waiting already: try again in a moment")
        job = Job(client, function, asyncio.get_running_loop())
        self._waiting.setdefault(client, deque()).append(job)
        self._start_next()
        if not job.started:
            job.events.put_nowait(("queued", {"ahead": self.ahead(job)}))
        return job

    def ahead(self, job: Job) -> int:
        """Return the number of jobs that come before a waiting one, the running one included."""
        lines = [list(line) for line in self._waiting.values()]
        place = self._waiting[job.client].index(job)
        turn = list(self._waiting).index(job.client)
        before = sum(min(len(line), place + (i < turn)) for i, line in enumerate(lines) if i != turn)
        return place + before + (self.running is not None)

    def cancel(self, job: Job) -> None:
        """Take a job out of its line, or stop it where it runs."""
        job.cancelled.set()
        line = self._waiting.get(job.client)
        if line and job in line:
            line.remove(job)
            if not line:
                del self._waiting[job.client]
            self._finish(job)
            self._tell_places()

    def stop(self) -> None:
        """Take no more jobs, and cancel all that there are.

        Clients of the running job are told at once, however long its computation takes to stop.
        """
        self.stopped = True
        for line in list(self._waiting.values()):
            for job in list(line):
                self.cancel(job)
        if self.running:
            self.cancel(self.running)
            self._finish(self.running)

    def close(self) -> None:
        """Stop, and wait for the computing thread to end."""
        self.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _start_next(self) -> None:
        """Start the first job of the client whose turn it is, unless a job runs."""
        if self.running or not self._waiting:
            return
        client, line = self._waiting.popitem(last=False)
        job = line.popleft()
        if line:
            self._waiting[client] = line  # at the end: the other clients come first
        self.running, job.started = job, True
        task = asyncio.get_running_loop().run_in_executor(self._pool, self._context.copy().run, _run, job)
        task.add_done_callback(lambda task: self._ended(job, task))
        self._tell_places()

    def _ended(self, job: Job, task: asyncio.Future[tuple[Any, BaseException | None]]) -> None:
        """Hand out the result of the job that ran, and start the next."""
        self.running = None
        result, error = (None, None) if task.cancelled() else task.result()
        self._finish(job, result, error)
        self._start_next()

    def _finish(self, job: Job, result: Any = None, error: BaseException | None = None) -> None:
        """Set a job's result, unless it has one, and end its events."""
        if not job.result.done():
            if isinstance(error, Stopped) or (error is None and job.cancelled.is_set()):
                job.result.cancel()
            elif error is not None:
                job.result.set_exception(error)
                job.result.exception()  # mark it as seen, so that asyncio does not log it
            else:
                job.result.set_result(result)
        job.events.put_nowait(None)

    def _tell_places(self) -> None:
        """Tell every waiting job how many come before it."""
        for line in self._waiting.values():
            for job in line:
                job.events.put_nowait(("queued", {"ahead": self.ahead(job)}))


def _run(job: Job) -> tuple[Any, BaseException | None]:
    """Run a job's function; return its result and its error."""
    try:
        with stoppable(job.cancelled.is_set):
            job.check()
            return job.function(job), None
    except BaseException as error:  # of any kind: it is handed to the client
        return None, error


class AnswerCache:
    """Answers in bytes, by their requests; the least recently used are dropped beyond `limit` bytes."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit, self.size, self._lock = limit, 0, threading.Lock()
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> bytes | None:
        """Return the answer to a request, or None."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key]

    def put(self, key: Hashable, value: bytes) -> None:
        """Keep the answer to a request, unless it takes more than a quarter of the space."""
        if len(value) > self.limit // 4:
            return
        with self._lock:
            self.size += len(value) - len(self._kept.pop(key, b""))
            self._kept[key] = value
            while self.size > self.limit:
                _, dropped = self._kept.popitem(last=False)
                self.size -= len(dropped)
