"""The algebra of unigram statistics against SciPy's optimisers, torch.linalg.lstsq and plain loops."""

import numpy as np
import pytest
import torch
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp, rel_entr, softmax

from cutaway.analyses.unigram import counts, directions, head
from cutaway.analyses.unigram.contexts import EVALUATIONS, Contexts, match
from cutaway.errors import InputError

QUICK = settings(max_examples=15, deadline=None, derandomize=True)


def random_head(seed, V=40, D=6, n=25, scale=0.7):
    """An unembedding with a common direction, as real ones have, and the states of some contexts."""
    generator = torch.Generator().manual_seed(seed)
    W = scale * torch.randn(V, D, generator=generator, dtype=torch.float64)
    W = W + 0.5 * torch.randn(D, generator=generator, dtype=torch.float64)
    return W, 1.5 * torch.randn(n, D, generator=generator, dtype=torch.float64)


def frequencies(seed, V=40):
    return counts.smoothed(torch.randint(0, 900, (V,), generator=torch.Generator().manual_seed(seed)) ** 2)


def plain(W, states, delta=0.0, c=0.0):
    """log q of every context [n, V], with NumPy."""
    return log_softmax((states.numpy() + np.asarray(delta)) @ W.numpy().T + c, axis=1)


def naive_metric(W, states):
    """E_x Cov_q(w) and E_x m_x, one context at a time."""
    total, mean = np.zeros((W.shape[1],) * 2), np.zeros(W.shape[1])
    for q in np.exp(plain(W, states)):
        m = q @ W.numpy()
        total += sum(q[v] * np.outer(W[v].numpy() - m, W[v].numpy() - m) for v in range(len(W)))
        mean += m
    return total / len(states), mean / len(states)


@pytest.mark.parametrize("with_c", [False, True])
def test_value_gradient_and_hessian_are_those_of_a_plain_loop(with_c, monkeypatch):
    W, states = random_head(0, n=37)
    c = torch.linspace(-1, 1, len(W), dtype=torch.float64) if with_c else None
    monkeypatch.setattr("cutaway.analyses.logits.ELEMENTS", 40 * 16)  # several chunks
    beta = torch.linspace(-0.5, 0.5, W.shape[1], dtype=torch.float64)
    found = Contexts(W, states, c).log_partition(beta, metric=True)
    logits = (states + beta).numpy() @ W.numpy().T + (0 if c is None else c.numpy())
    q = softmax(logits, axis=1)
    assert found.value == pytest.approx(logsumexp(logits, axis=1).mean(), rel=1e-13)
    np.testing.assert_allclose(found.q, q.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.mean, (q @ W.numpy()).mean(0), rtol=1e-11)
    if c is None:
        metric, _ = naive_metric(W, states + beta)
        np.testing.assert_allclose(found.metric, metric, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_best_bias_is_scipys(seed):
    W, _ = random_head(seed)
    p = frequencies(seed)
    found = match(Contexts(W, torch.zeros(1, W.shape[1], dtype=torch.float64)), W.T @ p)

    def kl(b):
        return rel_entr(p.numpy(), softmax(W.numpy() @ b)).sum()

    theirs = minimize(
        kl,
        np.zeros(W.shape[1]),
        method="Nelder-Mead",
        options={"maxiter": 30000, "xatol": 1e-9, "fatol": 1e-14, "maxfev": 30000, "adaptive": True},
    )
    theirs = minimize(kl, theirs.x, method="BFGS", options={"gtol": 1e-10})
    assert kl(found.beta.numpy()) == pytest.approx(theirs.fun, abs=1e-9)
    np.testing.assert_allclose(softmax(W.numpy() @ found.beta.numpy()), softmax(W.numpy() @ theirs.x), atol=1e-6)
    assert float(counts.divergence(p, W @ found.beta)) == pytest.approx(theirs.fun, abs=1e-9)
    assert found.evaluations <= EVALUATIONS
    assert found.gradient <= 1e-8


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_the_best_bias_of_the_bundled_model_converges(bundled64, scale):
    from cutaway import unigram

    W = scale * bundled64.weights.W_U
    p = counts.smoothed(torch.as_tensor(unigram.training_counts()))
    found = match(Contexts(W, torch.zeros(1, 256, dtype=torch.float64)), W.T @ p)
    assert found.evaluations <= 60
    assert float((W.T @ ((W @ found.beta).softmax(0) - p)).abs().max()) <= 1e-8


def test_the_bias_with_the_lowest_loss_is_scipys():
    W, states = random_head(5, n=60)
    came = torch.randint(0, len(W), (60,), generator=torch.Generator().manual_seed(1))

    def loss(b):
        return -plain(W, states, b)[np.arange(60), came.numpy()].mean()

    found = match(Contexts(W, states), W[came].mean(0))
    theirs = minimize(loss, np.zeros(6), method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(found.beta, theirs.x, atol=1e-5)
    assert loss(found.beta.numpy()) <= theirs.fun + 1e-12
    again = match(Contexts(W, states), W[came].mean(0), start=found.beta + 0.1)
    np.testing.assert_allclose(again.beta, found.beta, atol=1e-7)


def test_an_unembedding_that_is_wider_than_the_vocabulary_still_has_a_best_bias():
    W, _ = random_head(2, V=5, D=9)
    p = frequencies(2, V=5)
    found = match(Contexts(W, torch.zeros(1, 9, dtype=torch.float64)), W.T @ p)
    torch.testing.assert_close((W @ found.beta).softmax(0), p, rtol=1e-6, atol=1e-9)


def narrow(condition, seed=0, rows=300, D=8):
    """Rows [rows, D] with a known condition: singular values 1 to 1/condition."""
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(rows, D, generator=generator, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64)).Q
    return (Q * torch.logspace(0, -np.log10(condition), D, dtype=torch.float64)) @ V.T


@pytest.mark.parametrize("rows", [300, 5])
def test_least_squares_keep_the_digits_that_normal_equations_lose(rows):
    """At a condition of 1e5 the normal equations have six digits left, and an orthogonal factorization eleven."""
    X = narrow(1e5)[:rows]
    wanted = torch.linspace(-1, 2, 8, dtype=torch.float64) * 10
    fitted = X @ wanted
    theirs = np.linalg.lstsq(X.numpy(), fitted.numpy(), rcond=1e-6)[0]
    np.testing.assert_allclose(head.closest(X, fitted), theirs, rtol=1e-9)
    if rows > 8:
        np.testing.assert_allclose(head.closest(X, fitted), wanted, rtol=1e-9)


def test_leverages_keep_their_digits_too():
    X = narrow(1e5)
    found = head.Factor.of_products(X.split(70))
    Q = np.linalg.qr(X.numpy())[0]
    np.testing.assert_allclose(found.lengths(X), (Q**2).sum(1), rtol=1e-9)
    np.testing.assert_allclose(X @ found.solve(X[3]), Q @ Q[3], atol=1e-10)


# --- edits ---


@pytest.mark.slow
def test_least_squares_is_the_notes(bundled64):
    w = bundled64.weights
    for token, tweak in ((5, 2.0), (262, -1.0), (8000, 10.0)):
        unigrams = w.W_U @ w.ln_final.b
        unigrams[token] += tweak
        theirs = torch.linalg.lstsq(w.W_U, unigrams[:, None]).solution[:, 0]
        delta = directions.least_squares(bundled64, [token], torch.tensor([tweak], dtype=torch.float64))
        torch.testing.assert_close(w.ln_final.b + delta, theirs, rtol=0, atol=1e-8)
        share = (w.W_U[token] @ delta / tweak).item()
        assert directions.leverage(bundled64, [token]).item() == pytest.approx(share, rel=1e-9)


def test_fishers_edit_is_the_formula_with_naive_moments():
    W, states = random_head(3)
    S, m = naive_metric(W, states)
    contexts = Contexts(W, states)
    for tokens, nats in (([4], [0.7]), ([4, 9], [0.7, -0.3])):
        G = (W[tokens].numpy() - m).T
        lifted = np.linalg.solve(S, G)
        expected = lifted @ np.linalg.solve(G.T @ lifted, nats)
        found = directions.fisher(contexts, tokens, torch.tensor(nats, dtype=torch.float64))
        np.testing.assert_allclose(found, expected, rtol=1e-8)


def collateral(W, states, delta):
    q, moved = plain(W, states), plain(W, states, delta)
    return rel_entr(np.exp(q), np.exp(moved)).sum(1).mean()


@pytest.mark.parametrize(("tokens", "nats"), [([3], [0.8]), ([3], [-0.8]), ([3, 8], [0.5, 0.4]), ([3, 8], [0.5, -0.4])])
def test_the_exact_edit_is_scipys_constrained_minimum(tokens, nats):
    W, states = random_head(7)
    delta = directions.exact(Contexts(W, states), tokens, torch.tensor(nats, dtype=torch.float64)).numpy()

    def off(d):
        return (plain(W, states, d) - plain(W, states))[:, tokens].mean(0) - nats

    np.testing.assert_allclose(off(delta), 0, atol=1e-9)
    theirs = minimize(
        lambda d: collateral(W, states, d),
        np.zeros(6),
        method="SLSQP",
        constraints={"type": "eq", "fun": off},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert theirs.success
    assert collateral(W, states, delta) == pytest.approx(theirs.fun, abs=1e-7)
    np.testing.assert_allclose(delta, theirs.x, atol=1e-4)


def test_what_a_change_does_is_measured_as_a_plain_loop_does():
    W, states = random_head(8)
    delta = torch.linspace(-0.3, 0.4, 6, dtype=torch.float64)
    found = Contexts(W, states).change(delta)
    assert found.collateral == pytest.approx(collateral(W, states, delta.numpy()), rel=1e-10)
    moved = (plain(W, states, delta.numpy()) - plain(W, states)).mean(0)
    np.testing.assert_allclose(found.log_probability, moved, atol=1e-12)


class Bare:
    """What the algebra needs of a model, for least squares."""

    def __init__(self, W):
        from types import SimpleNamespace

        self.weights, self.config = SimpleNamespace(W_U=W), SimpleNamespace(d_model=W.shape[1])


HEADS = {"seed": st.integers(0, 10**6), "V": st.integers(12, 60), "D": st.integers(2, 8), "token": st.integers(0, 11)}


@QUICK
@given(**HEADS, asked=st.floats(0.05, 6.0))
def test_the_exact_edit_achieves_its_target_and_costs_no_more_than_least_squares(seed, V, D, token, asked):
    W, states = random_head(seed, V, D)
    contexts = Contexts(W, states)
    squares = directions.least_squares(Bare(W), [token], torch.tensor([asked], dtype=torch.float64))
    done = contexts.change(squares)
    achieved = done.log_probability[token]
    event("least squares: right sign" if achieved > 0 else "least squares: wrong sign")
    assume(achieved > 1e-6)
    delta = directions.exact(contexts, [token], achieved[None])
    change = contexts.change(delta)
    assert abs(float(change.log_probability[token] - achieved)) <= 1e-6
    assert change.collateral <= done.collateral + 1e-9


@QUICK
@given(**HEADS, nats=st.floats(0.005, 0.1))
def test_fishers_edit_costs_no_more_than_least_squares_up_to_a_tenth_of_a_nat(seed, V, D, token, nats):
    W, states = random_head(seed, V, D)
    contexts, one = Contexts(W, states), torch.ones(1, dtype=torch.float64)
    [squares] = directions.reach(contexts, directions.least_squares(Bare(W), [token], one), token, [nats])
    [ours] = directions.reach(contexts, directions.fisher(contexts, [token], one), token, [nats])
    event("least squares reaches it" if squares is not None else "least squares: wrong sign, or not far enough")
    assume(squares is not None and ours is not None)
    ours, theirs = contexts.change(ours), contexts.change(squares)
    assert abs(float(ours.log_probability[token]) - nats) <= 1e-8
    assert ours.collateral <= 1.01 * theirs.collateral + 1e-12


@pytest.mark.parametrize("lowered", [False, True])
@QUICK
@given(**HEADS, nats=st.floats(0.1, 0.9))
def test_moderate_targets_are_met_both_ways(lowered, seed, V, D, token, nats):
    W, states = random_head(seed, V, D)
    contexts = Contexts(W, states)
    wanted = -nats if lowered else nats
    try:
        delta = directions.exact(contexts, [token], torch.tensor([wanted], dtype=torch.float64))
    except InputError:  # it says how far it got; SciPy gets no further
        best = minimize(lambda d: -(plain(W, states, d)[:, token] - plain(W, states)[:, token]).mean(), np.zeros(D))
        assert not lowered
        assert -best.fun < wanted
        return
    assert abs(float(contexts.change(delta).log_probability[token]) - wanted) <= 1e-6


def test_what_cannot_be_reached_is_an_error():
    """A token in the middle of the others can be raised only so far; no token above probability 1."""
    W = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1], [0.05, 0]], dtype=torch.float64)
    contexts = Contexts(W, torch.zeros(1, 2, dtype=torch.float64))
    with pytest.raises(InputError, match=r"no change of the final bias moves these tokens so far: .* were reached"):
        directions.exact(contexts, [4], torch.tensor([1.5], dtype=torch.float64))
    with pytest.raises(InputError, match=r"cannot pass 1: these tokens can be raised by less than 1\.61 nats"):
        directions.exact(contexts, [0], torch.tensor([3.0], dtype=torch.float64))
    assert list(directions.reach(contexts, torch.tensor([-1.0, 0.0], dtype=torch.float64), 0, [0.5, 0.6])) == [None]
    same = Contexts(W[[0, 0, 1, 2]], torch.zeros(1, 2, dtype=torch.float64))
    with pytest.raises(InputError, match="cannot be moved by these amounts together"):
        directions.fisher(same, [0, 1], torch.tensor([1.0, -1.0], dtype=torch.float64))
