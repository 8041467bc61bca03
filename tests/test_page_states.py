"""The page of the states' cosines in a real browser, without a network."""

import pytest

import cutaway
from cutaway.charts.states import _fit
from cutaway.text import corpus
from tests.patience import turns

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def states(bundled):
    texts = {document.id: document.text[:6000] for document in corpus.bundled()[:3]}
    return cutaway.states.measure(bundled, texts, sample=300, replicates=19, resamples=20)


@pytest.fixture(scope="module")
def path(states, tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "states.html"
    states.save(path)
    return path


def words(page):
    return page.locator("svg.marks text").all_text_contents()


def rule(page):
    """Where the rule stands, as a cosine; the histogram's x axis goes from -1 to 1."""
    left = page.locator(".mark-rule path, .mark-rule line").last.bounding_box()["x"]
    frame = page.locator(".concat_1_group .background, .concat_1_layer_0_group .background").first.bounding_box()
    return (left - frame["x"]) / frame["width"] * 2 - 1


def shows(page, states, site, quantile):
    cosine, first, second = states.pair(site, quantile)
    page.locator(
        "svg.marks text", has_text=f"Similarity {float(f'{cosine:.4g}'):.3f}".replace("-", "\u2212")
    ).wait_for()
    written = words(page)
    assert _fit(first) in written
    assert _fit(second) in written
    assert rule(page) == pytest.approx(cosine, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_quantile_slider_shows_the_pair_and_moves_the_rule(visit, states, path, scheme):
    page = visit(path, scheme)
    slider = page.locator("input[type=range]")
    shows(page, states, "blocks.2.resid_post", 0.5)
    for quantile in (0.0, 0.25, 0.995, 1.0):
        slider.fill(str(quantile))
        shows(page, states, "blocks.2.resid_post", quantile)
    slider.focus()
    page.keyboard.press("ArrowLeft")
    shows(page, states, "blocks.2.resid_post", 0.995)


def test_pickers_and_clicks_choose_the_site(visit, states, path):
    page = visit(path)
    kind, layer = page.locator("select").all()
    kind.select_option("mlp_out")
    shows(page, states, "blocks.2.mlp_out", 0.5)
    layer.select_option(label="0")
    shows(page, states, "blocks.0.mlp_out", 0.5)
    page.locator(".mark-symbol path").nth(1).click()  # a point of the first panel
    chosen = f"blocks.{layer.input_value()}.{kind.input_value()}"
    assert chosen != "blocks.0.mlp_out"
    shows(page, states, chosen, 0.5)


def test_the_baselines_slider(visit, tmp_path):
    cutaway.states.gaussian(200, samples=100).save(tmp_path / "gaussian.html")
    page = visit(tmp_path / "gaussian.html")
    for dimensions in (200, 2, 50):
        page.locator("input[type=range]").fill(str(dimensions))
        for _ in turns(page):
            [shown] = [text for text in words(page) if "of 200 dimensions" in text]
            if abs(int(shown.split()[0]) - dimensions) <= 3:
                break
        assert abs(int(shown.split()[0]) - dimensions) <= 3
