"""Models and results survive pickling, copying, forked and spawned processes."""

import copy
import multiprocessing
import pickle

import pytest
import torch

import cutaway
from cutaway.errors import Interrupted
from tests import results

TEXT = "The people of the United States"
PATIENCE = 300  # seconds that a process may take on a slow machine


@pytest.mark.parametrize("again", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_model(bundled, again):
    other = again(bundled)
    assert other.tied
    assert other.fingerprint == bundled.fingerprint
    assert (other.name, other.origin) == (bundled.name, bundled.origin)
    assert torch.equal(other.run(TEXT).logits, bundled.run(TEXT).logits)
    assert other.tokens(TEXT).strings == bundled.tokens(TEXT).strings
    other.weights.W_E.zero_()
    assert bundled.weights.W_E.abs().max() > 0


def test_a_pickle_holds_a_tied_head_once(bundled):
    size = sum(weight.numel() * weight.element_size() for weight in bundled.parameters().values())
    assert len(pickle.dumps(bundled)) < 1.1 * size


@pytest.mark.slow
@pytest.mark.parametrize("name", results.NAMES)
@pytest.mark.parametrize("again", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_result(bundled, name, again):
    result = results.make(bundled)[name]
    other = again(result)
    assert type(other) is type(result)
    assert other.summary() == result.summary()
    assert other.to_dict() == result.to_dict()


def test_runs_and_generated_texts(bundled):
    run = pickle.loads(pickle.dumps(bundled.run(TEXT, capture="attn_out")))
    assert torch.equal(run["blocks.1.attn_out"], bundled.run(TEXT, capture="attn_out")["blocks.1.attn_out"])
    assert run.tokens.strings == bundled.tokens(TEXT).strings
    made = bundled.generate(TEXT, 3)
    assert pickle.loads(pickle.dumps(made)).texts == made.texts


@pytest.mark.slow
def test_an_interruption_keeps_what_was_done(bundled):
    stopped = pickle.loads(pickle.dumps(Interrupted(results.make(bundled)["anatomy.read"], "interrupted")))
    assert str(stopped) == "interrupted"
    assert stopped.result.summary() == cutaway.anatomy.read(bundled).summary()


def answer(queue, model):
    queue.put((model.run(TEXT * 20, logits="last").logits[0, 0].tolist(), model.tied, model.fingerprint))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_another_process(bundled, method):
    """A fork inherits OpenMP's pool without its threads: torch waits for them for ever where nothing is done."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    want = bundled.run(TEXT * 20, logits="last").logits[0, 0]  # the parent has used all its threads
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=answer, args=(queue, bundled))
    process.start()
    try:
        logits, tied, fingerprint = queue.get(timeout=PATIENCE)
    finally:
        process.kill()
        process.join()
    torch.testing.assert_close(torch.tensor(logits), want, atol=1e-4, rtol=1e-4)
    assert (tied, fingerprint) == (True, bundled.fingerprint)
