"""What the workbench draws has the sizes and shades of its numbers; in real Chromium."""

import math

import pytest

import cutaway

pytestmark = [pytest.mark.browser, pytest.mark.slow]
TEXT = "The people of the United States and the people of the United"
LONG = " ".join(["My fellow citizens, the state of the Union is strong because the people are strong."] * 6)
PIXELS = """(places) => {
  const canvas = document.querySelector("canvas.large"), context = canvas.getContext("2d");
  const { width, data } = context.getImageData(0, 0, canvas.width, canvas.height), ratio = width / canvas.clientWidth;
  return places.map((place) => place.map((x) => Math.floor(x * ratio)))
    .map(([x, y]) => [...data.slice(4 * (y * width + x), 4 * (y * width + x) + 4)]);
}"""
OVERVIEW = """(layers) => {
  const canvas = document.querySelector(".overview"), context = canvas.getContext("2d");
  const n = Number(document.getElementById("strip").getAttribute("aria-valuemax"));
  const { width, height, data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const middle = (k, of, size) => Math.floor(((k + 0.5) / of) * size);
  return Array.from({ length: layers }, (_, r) => Array.from({ length: n }, (_, i) =>
    data[4 * (middle(r, layers, height) * width + middle(i, n, width)) + 3] / 255));
}"""


def test_the_large_pattern_is_shaded_by_its_weights(bench, bundled):
    patterns = cutaway.attention.read(bundled, TEXT).patterns[2, 5]
    visit, n = bench().open(text=TEXT, cursor=0, panel="attention", layer=2, head=5), len(patterns)
    visit.page.locator(".attention .bars .p", has_text="100.0%").wait_for()
    width = visit.page.locator(".pattern").evaluate("(box) => box.clientWidth")
    cell = min(34, (min(520, width) - 92) / n)
    places = [(query, key) for query in range(1, n) for key in range(n)]
    found = visit.page.evaluate(PIXELS, [[84 + (k + 0.5) * cell, 2 + (q + 0.5) * cell] for q, k in places])
    well, blue = 0xF5, 0x3B  # the red of both colours
    for (query, key), (red, _, _, alpha) in zip(places, found, strict=True):
        assert alpha == (255 if key <= query else 0)
        if key <= query:
            assert (well - red) / (well - blue) == pytest.approx(patterns[query, key].sqrt().item(), abs=0.02)


def test_until_the_weights_are_here_the_small_picture_tells(bench, bundled):
    result = cutaway.attention.read(bundled, TEXT)
    visit, held = bench(), []
    visit.page.route("**/api/attention", lambda route: held.append(route))
    visit.open(text=TEXT, cursor=8, panel="attention", layer=2, head=5)
    row = result.patterns[2, 5, 8, :9]
    order = row.argsort(descending=True)[:3].tolist()
    said = visit.texts(".attention .bars .p")
    assert [int(rank) - 1 for rank in visit.texts(".attention .bars .rank")[:3]] == order
    for text, key in zip(said, order, strict=False):
        assert text.startswith("about ")
        assert float(text.removeprefix("about ").rstrip("%")) == pytest.approx(100 * row[key].item(), abs=1)
    held[0].continue_()
    visit.page.locator(".attention .bars .p", has_text=f"{100 * row[order[0]].item():.1f}%").wait_for()


def test_the_overview_is_shaded_by_the_metric(bench, bundled):
    lens = cutaway.logit_lens.read(bundled, LONG)
    visit = bench().open(text=LONG, panel="lens", metric="kl")
    expected = (lens.kl / lens.kl.max()).flip(0).tolist()  # the last layer on top
    assert visit.page.evaluate(OVERVIEW, len(expected)) == [pytest.approx(row, abs=0.005) for row in expected]


def test_ranks_stand_on_a_logarithmic_scale(bench, bundled):
    lens = cutaway.logit_lens.read(bundled, TEXT)
    visit = bench().open(text=TEXT, cursor=0, panel="lens")
    visit.settle()
    points = visit.page.locator(".ranks polyline.came").get_attribute("points").split()
    found = [float(point.split(",")[1]) for point in points]
    logs = [math.log10(rank) for rank in lens.rank[:, 0].tolist()]
    assert max(logs) - min(logs) > 0.1
    assert found == pytest.approx([16 + log / math.log10(8192) * 116 for log in logs], abs=0.01)


def test_surprise_and_entropy_are_as_high_as_they_are(bench, bundled):
    along = cutaway.predictions.along(bundled, TEXT)
    visit = bench().open(text=TEXT)
    [_, half, end] = [float(text) for text in visit.page.locator(".along .tick").all_text_contents()[:3]]
    assert end == pytest.approx(2 * half)
    assert max(along.entropy.max(), along.next_loss.max()) <= end
    heights = [float(bar.get_attribute("height")) for bar in visit.page.locator(".along .loss").all()]
    assert heights == pytest.approx([max(0.5, loss / end * 96) for loss in along.next_loss.tolist()], abs=0.01)
    points = visit.page.locator(".along polyline.entropy").get_attribute("points").split()
    found = [102 - float(point.split(",")[1]) for point in points]
    assert found == pytest.approx([entropy / end * 96 for entropy in along.entropy.tolist()], abs=0.06)


def test_what_was_made_is_shaded_by_its_probability(bench):
    visit = bench().open(text=TEXT, panel="generate", n=6)
    visit.page.get_by_role("button", name="Generate").click()
    visit.page.wait_for_selector(".after:not([hidden])")
    chips = visit.page.locator(".made .chip")
    shades = chips.evaluate_all("all => all.map((chip) => Number(chip.style.getPropertyValue('--v')))")
    said = [float(chip.get_attribute("title").partition("%")[0]) / 100 for chip in chips.all()]
    assert len(said) == 6
    assert shades == pytest.approx([math.sqrt(p) for p in said], abs=0.01)
