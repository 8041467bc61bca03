"""Edits in force belong to the thread or task that set them, end when their block ends, and are no part of a copy."""

import asyncio
import contextlib
import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cutaway.errors import CutawayWarning, SiteError

TEXT = "The people of the United States"


def run_alone(coroutine):
    """What a coroutine returns, run in a thread of its own: this one's loop may be a browser's."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def last(model, **options):
    return model.run(TEXT, logits="last", **options).logits[0, 0]


@pytest.fixture(scope="module")
def plain(bundled):
    return last(bundled)


@pytest.fixture(scope="module")
def wanted(bundled):
    """The logits under each of several edits, each alone."""
    return {i: last(bundled, edits={f"blocks.{i % 4}.mlp_out": float(i)}) for i in range(8)}


def test_two_hundred_jobs_in_a_pool_of_four(bundled, plain, wanted):
    def job(i):
        if i % 9 == 8:
            return i, last(bundled)
        with bundled.edited({f"blocks.{i % 9 % 4}.mlp_out": float(i % 9)}):
            return i, last(bundled)

    with ThreadPoolExecutor(4) as pool:
        for i, found in pool.map(job, range(200)):
            torch.testing.assert_close(found, plain if i % 9 == 8 else wanted[i % 9], atol=1e-5, rtol=1e-5)
    assert bundled.active_edits == []


def test_another_thread_is_not_edited(bundled, plain):
    found = {}

    def other():
        found["edits"], found["logits"] = bundled.active_edits, last(bundled)

    with bundled.edited({"mlp_out": 0.0}):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert bundled.active_edits == [{"mlp_out": "0.0"}]
        assert not torch.allclose(last(bundled), plain, atol=0.1)
    assert found["edits"] == []
    torch.testing.assert_close(found["logits"], plain)


def test_tasks_that_take_turns(bundled, wanted):
    async def task(i):
        with bundled.edited({f"blocks.{i % 4}.mlp_out": float(i)}):
            await asyncio.sleep(0)  # here the others begin, and further on they end, in another order
            found = last(bundled)
            await asyncio.sleep(0)
            return found, len(bundled.active_edits)

    async def together():
        return await asyncio.gather(*map(task, wanted))

    for (found, blocks), want in zip(run_alone(together()), wanted.values(), strict=True):
        assert blocks == 1
        torch.testing.assert_close(found, want)
    assert bundled.active_edits == []


def test_a_task_starts_with_its_makers_edits_and_loses_them_with_it(bundled):
    seen = []

    async def child(go):
        seen.append(bundled.active_edits)
        await go.wait()
        seen.append(bundled.active_edits)

    async def parent():
        go = asyncio.Event()
        with bundled.edited({"mlp_out": 0.0}):
            task = asyncio.create_task(child(go))
            await asyncio.sleep(0)
        go.set()
        await task

    run_alone(parent())
    assert seen == [[{"mlp_out": "0.0"}], []]


def test_blocks_that_end_in_another_order(bundled, plain, wanted):
    first, second = bundled.edited({"blocks.1.mlp_out": 1.0}), bundled.edited({"blocks.2.mlp_out": 2.0})
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert bundled.active_edits == [{"blocks.2.mlp_out": "2.0"}]
    torch.testing.assert_close(last(bundled), wanted[2])
    second.__exit__(None, None, None)
    assert bundled.active_edits == []
    torch.testing.assert_close(last(bundled), plain)


def test_a_block_that_ends_in_another_thread(bundled, plain):
    block = bundled.edited({"mlp_out": 0.0})
    block.__enter__()
    thread = threading.Thread(target=block.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    assert bundled.active_edits == []
    torch.testing.assert_close(last(bundled), plain)


def test_edits_of_two_models_at_once(bundled, odd):
    with contextlib.ExitStack() as stack:
        stack.enter_context(bundled.edited({"mlp_out": 0.0}))
        stack.enter_context(odd.edited({"attn_out": 1.0}))
        assert bundled.active_edits == [{"mlp_out": "0.0"}]
        assert odd.active_edits == [{"attn_out": "1.0"}]


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_not_edited(bundled, plain, make):
    with bundled.edited({"mlp_out": 0.0}):
        other = make(bundled)
        assert other.active_edits == []
        torch.testing.assert_close(last(other), plain)


def test_edits_that_are_never_put_in_force_say_so(bundled, plain):
    with pytest.warns(CutawayWarning, match=r"edits were made and never put in force: write `with model.edited"):
        bundled.edited({"mlp_out": 0.0})
    torch.testing.assert_close(last(bundled), plain)
    block = bundled.edited({"mlp_out": 0.0})
    assert "not in force yet" in repr(block)
    with block:
        pass


def test_one_block_again_and_inside_itself(bundled, plain):
    block = bundled.edited({"blocks.1.mlp_out": 1.0})
    for _ in range(2):
        with block, block:
            assert bundled.active_edits == [{"blocks.1.mlp_out": "1.0"}] * 2
        assert bundled.active_edits == []
    torch.testing.assert_close(last(bundled), plain)


def test_a_decorated_function_runs_edited(bundled, wanted, plain):
    @bundled.edited({"blocks.1.mlp_out": 1.0})
    def answer():
        return last(bundled)

    torch.testing.assert_close(answer(), wanted[1])
    torch.testing.assert_close(last(bundled), plain)


def test_bad_edits_are_named_before_a_block_begins(bundled):
    with pytest.raises(SiteError, match="no site matches 'mlp_uot'"):
        bundled.edited({"mlp_uot": 0.0})
