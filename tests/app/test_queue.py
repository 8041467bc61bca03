"""The queue runs one job at a time, clients in turn, only while they wait; the cache is bounded."""

import asyncio
import contextlib
import threading

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cutaway.app.queue import AnswerCache, BusyError, JobQueue
from cutaway.errors import InputError
from cutaway.model.architectures import gpt2
from cutaway.stopping import Stopped, stop_point, stoppable
from tests.app.client import Served, read_events
from tests.patience import LONG, wait_until


def run(scenario):
    """Run a scenario with a queue of its own."""

    async def main():
        queue = JobQueue()
        try:
            return await asyncio.wait_for(scenario(queue), LONG)
        finally:
            queue.close()

    return asyncio.run(main())


def in_turns(clients):
    """Return the order of jobs by a plain loop: clients in turn, in the order of their first waiting job."""
    lines, order = {}, []
    for i, client in enumerate(clients):
        lines.setdefault(client, []).append(i)
    while lines:
        for client in list(lines):
            order.append(lines[client].pop(0))
            if not lines[client]:
                del lines[client]
    return order


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=24).filter(lambda c: all(c.count(x) <= 8 for x in "abcd")), st.data())
def test_clients_take_turns_and_are_told_how_many_come_first(clients, data):
    leaving = set(data.draw(st.lists(st.sampled_from(range(len(clients))), unique=True))) if clients else set()

    async def scenario(queue):
        gate, done = threading.Event(), []
        with contextlib.ExitStack() as at_end:
            at_end.callback(gate.set)  # so that a failure is told at once
            first = queue.submit("first", lambda _: gate.wait(LONG))
            jobs = [queue.submit(client, lambda _, i=i: done.append(i)) for i, client in enumerate(clients)]
            told = [queue.ahead(job) for job in jobs]
            order = in_turns(clients)
            assert told == [order.index(i) + 1 for i in range(len(clients))]
            for i in leaving:
                queue.cancel(jobs[i])
            stay = [job for i, job in enumerate(jobs) if i not in leaving]
            ahead = [queue.ahead(job) for job in stay]
            gate.set()
            await first.result
            await asyncio.gather(*(job.result for job in stay))
            assert [jobs[i].result.cancelled() for i in sorted(leaving)] == [True] * len(leaving)
            assert sorted(done) == sorted(set(range(len(clients))) - leaving)
            assert [done.index(i) + 1 for i in range(len(clients)) if i not in leaving] == ahead
            assert (len(queue), queue.running) == (0, None)

    run(scenario)


def test_one_at_a_time():
    async def scenario(queue):
        running, most, lock = [0], [0], threading.Lock()

        def job(_):
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            threading.Event().wait(0.002)
            with lock:
                running[0] -= 1

        await asyncio.gather(*(queue.submit(str(i), job).result for i in range(20)))
        assert most == [1]

    run(scenario)


def test_too_much_is_refused():
    async def scenario(queue):
        gate = threading.Event()
        queue.submit("first", lambda _: gate.wait(LONG))
        for _ in range(queue.most_of_one):
            queue.submit("a", lambda _: None)
        with pytest.raises(BusyError, match="8 requests of this page"):
            queue.submit("a", lambda _: None)
        for i in range(queue.most - len(queue)):
            queue.submit(f"b{i}", lambda _: None)
        with pytest.raises(BusyError, match="32 requests are waiting"):
            queue.submit("c", lambda _: None)
        gate.set()

    run(scenario)


def test_results_and_errors_reach_who_waits():
    async def scenario(queue):
        assert await queue.submit("a", lambda _: 3).result == 3

        def fail(_):
            raise InputError("no")

        with pytest.raises(InputError):
            await queue.submit("a", fail).result
        assert await queue.submit("a", lambda _: 4).result == 4

    run(scenario)


def test_a_job_that_runs_is_stopped_and_the_next_begins():
    async def scenario(queue):
        begun = threading.Event()

        def forever(job):
            begun.set()
            while True:
                stop_point()

        job, after = queue.submit("a", forever), queue.submit("b", lambda _: "next")
        await asyncio.to_thread(begun.wait, LONG)
        assert not job.result.done()
        queue.cancel(job)
        assert await after.result == "next"
        assert job.result.cancelled()

    run(scenario)


def test_a_forward_pass_is_stopped_inside_itself(bundled):
    seen = []

    def left():
        return len(seen) >= 2

    def watch(value, context):
        seen.append(context.layer)

    with pytest.raises(Stopped), stoppable(left):
        bundled.run("The people", watch={"resid_post": watch})
    assert seen == [0, 1]
    assert bundled.run("The people").logits.shape == (1, 2, 8192)  # outside, nothing is stopped


def test_closing_drops_what_waits():
    async def scenario(queue):
        begun = threading.Event()

        def forever(job):
            begun.set()
            while True:
                job.check()

        jobs = [queue.submit("a", forever), queue.submit("a", lambda _: None)]
        await asyncio.to_thread(begun.wait, LONG)
        queue.close()
        for job in jobs:
            with pytest.raises(asyncio.CancelledError):
                await job.result

    run(scenario)


KEYS = st.sampled_from("abcdefghij")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(KEYS, st.sampled_from([0, 7, 19, 25, 26]), KEYS), max_size=40))
@example([("a", 25, "a"), ("b", 25, "b"), ("c", 25, "c"), ("d", 25, "a"), ("e", 25, "a")])
def test_the_cache_is_bounded_and_keeps_what_was_used_last(puts):
    cache, used = AnswerCache(100), {}
    for key, size, asked in puts:
        cache.put(key, b"x" * size)
        if size <= 25:
            used.pop(key, None)
            used[key] = size
            while sum(used.values()) > 100:
                del used[next(iter(used))]
        assert cache.size == sum(used.values()) <= 100
        assert len(cache) == len(used)
        assert (cache.get(asked) is None) == (asked not in used)
        if asked in used:
            used[asked] = used.pop(asked)


# --- with a real server ---


@pytest.fixture
def slow(monkeypatch):
    """Every block of a forward pass waits for its turn; `steps` counts the passes through one."""
    gate, steps = threading.Semaphore(0), []
    whole = gpt2.attention

    def attention(*args, **kwargs):
        steps.append(1)
        while not gate.acquire(timeout=0.01):
            stop_point()
        return whole(*args, **kwargs)

    monkeypatch.setattr(gpt2, "attention", attention)
    yield gate, steps
    gate.release(10_000)


@pytest.mark.parametrize("path", ["/api/view", "/api/generate", "/api/verify", "/api/save"])
def test_a_client_that_leaves_in_the_middle_frees_its_slot(served, slow, path):
    gate, steps = slow
    served.bench.queue.cache = AnswerCache()  # nothing is known yet
    bodies = {"/api/verify": {}, "/api/save": {"what": "lens", "format": "csv", "text": "somebody leaves"}}
    queue = served.bench.queue
    with served.waiting(path, bodies.get(path, {"text": f"somebody leaves {path}"})):
        gate.release(2)
        wait_until(lambda: len(steps) == 3)  # inside the third block
        job = queue.running
        assert job is not None
    wait_until(lambda: job.result.cancelled())
    assert len(steps) == 3
    gate.release(10_000)
    assert served.post("/api/view", {"text": f"and another is served after {path}"})["tokens"]


def test_a_client_that_leaves_the_line_is_taken_out_of_it(served, slow):
    gate, steps = slow
    queue = served.bench.queue
    with served.waiting("/api/view", {"text": "the first in line"}):
        wait_until(lambda: steps)
        with served.waiting("/api/view", {"text": "the second in line"}, client="b"), contextlib.ExitStack() as stack:
            stack.enter_context(served.waiting("/api/generate", {"text": "the third in line"}, client="c"))
            wait_until(lambda: len(queue) == 2)
        wait_until(lambda: len(queue) == 0)
        assert queue.running is not None
        gate.release(10_000)


def test_who_waits_is_told_how_many_come_first(served, slow):
    gate, steps = slow
    with served.waiting("/api/view", {"text": "long work"}) as first:
        wait_until(lambda: steps)
        with served.waiting("/api/generate", {"text": "soon"}, client="b") as second:
            text = b""
            while b"queued" not in text:
                text += second.recv(1000)
            gate.release(10_000)
            while b"event: done" not in text:
                text += second.recv(10_000)
        assert first.recv(10).startswith(b"HTTP/1.1")
    assert b'event: queued\ndata: {"ahead": 1}' in text


def test_a_full_queue_says_so(served, slow):
    gate, steps = slow
    with contextlib.ExitStack() as stack:
        stack.enter_context(served.waiting("/api/view", {"text": "busy"}))
        wait_until(lambda: steps)
        for i in range(8):
            stack.enter_context(served.waiting("/api/view", {"text": f"busy {i}"}, client="me"))
        wait_until(lambda: len(served.bench.queue) == 8)
        status, line = served.refused("/api/view", {"text": "one more"}, X_Cutaway_Client="me")
        assert (status, "8 requests of this page are waiting" in line) == (429, True)
        status, headers, _ = served.ask("POST", "/api/generate", {"text": "one more"}, X_Cutaway_Client="me")
        assert (status, headers["Retry-After"]) == (429, "1")
        gate.release(10_000)
        assert served.post("/api/view", {"text": "another page"}, X_Cutaway_Client="you")["tokens"]
    wait_until(lambda: len(served.bench.queue) == 0)


def test_at_the_end_who_listens_hears_of_it_wherever_the_work_is(bundled, monkeypatch):
    """The server waits for its clients, and they wait for the queue: the queue is told to stop first."""
    server = Served(bundled)
    inside, gate, whole = threading.Event(), threading.Event(), gpt2.attention

    def attention(*args, **kwargs):
        inside.set()
        gate.wait(LONG)
        return whole(*args, **kwargs)

    monkeypatch.setattr(gpt2, "attention", attention)
    with (
        server.waiting("/api/generate", {"text": "long work"}) as first,
        server.waiting("/api/generate", {"text": "next in line"}, client="b") as second,
    ):
        assert inside.wait(LONG)
        wait_until(lambda: len(server.bench.queue) == 1)
        server.server.should_exit = True
        for connection in (first, second):
            answer = b"".join(iter(lambda: connection.recv(10_000), b""))  # noqa: B023 - read at once
            assert b'event: error\ndata: {"error": "the workbench is closing"}' in answer
        assert not gate.is_set()
        gate.set()
    server.close()


def test_events_are_framed(served):
    _, _, content = served.ask("POST", "/api/generate", {"text": "New\nlines", "max_new_tokens": 3, "top_k": 1})
    assert [name for name, _ in read_events(content.decode())][-4:] == ["token", "token", "token", "done"]


def test_a_workbench_opened_inside_edits_shows_the_edited_model(bundled):
    with bundled.edited({"blocks.0.mlp_out": 0.0}):
        server = Served(bundled)
        try:
            *_, (_, done) = server.events(
                "/api/generate", {"text": "The people", "max_new_tokens": 5, "temperature": 0}
            )
            want = bundled.generate("The people", 5, temperature=0).continuations[0]
        finally:
            server.close()
    assert done["text"] == want != bundled.generate("The people", 5, temperature=0).continuations[0]
