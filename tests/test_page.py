"""Pages in a real browser, without a network: they draw, they answer, and hostile text stays text."""

import pytest

import cutaway
from cutaway.pages.page import figure, page
from tests import results as all_results

pytestmark = [pytest.mark.browser, pytest.mark.slow]
TEXT = "The people of the United States, in order to form\n a more perfect Union \u6771"


@pytest.fixture(scope="module")
def report(bundled, tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "report.html"
    cutaway.report(all_results.make(bundled).values(), path, title=all_results.EVIL)
    return path


@pytest.fixture(scope="module")
def along(bundled):
    return cutaway.predictions.along(bundled, TEXT, top=4)


@pytest.fixture(scope="module")
def along_page(along, tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "along.html"
    along.save(path)
    return path


# --- every chart ---

CUT_OFF = """() => [...document.querySelectorAll(".chart svg.marks")].flatMap((svg) => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter((text) => {
    const box = text.getBoundingClientRect();
    const wide = box.left < frame.left - 1 || box.right > frame.right + 1;
    return text.textContent && box.width && (wide || box.top < frame.top - 1 || box.bottom > frame.bottom + 1);
  }).map((text) => text.textContent);
})"""
COLOURS = """() => ["h1", "h2", "figcaption", ".summary", ".made", ".copy", "dt", "footer", "nav a"].map((name) => {
  const element = document.querySelector(name);
  let behind = element;
  while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
  return [name, getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
})"""


def contrast(one, other):
    """WCAG 2.1's contrast ratio of two CSS colours."""

    def luminance(colour):
        channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_a_report_draws_every_chart(visit, report, bundled, scheme, width):
    page = visit(report, scheme, width)
    assert page.locator(".problem").count() == 0
    assert page.locator(".chart svg.marks").count() == len(all_results.make(bundled))
    assert page.evaluate(CUT_OFF) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.dataset.theme") == page.get_attribute("body", "data-drawn") == scheme
    for name, ink, paper in page.evaluate(COLOURS):
        assert contrast(ink, paper) >= 4.5, (name, ink, paper)
    papers = page.evaluate("[...document.querySelectorAll('svg.marks')].map((svg) => svg.style.backgroundColor)")
    assert set(papers) == {page.evaluate("getComputedStyle(document.body).backgroundColor")}


def test_hostile_text_makes_no_element_and_is_shown(visit, report):
    page = visit(report)
    assert page.locator("img").count() == 0
    assert page.locator("h1").inner_text() == page.title() == all_results.EVIL
    written = page.locator("svg.marks text").all_text_contents()
    assert any(all_results.EVIL in text for text in written)
    losses = page.locator("section", has_text="How well does it predict?")
    losses.locator(".mark-symbol path").nth(1).hover()  # the document of that name
    assert all_results.EVIL in page.locator("#vg-tooltip-element").inner_text()
    assert page.locator("img").count() == 0


def test_a_page_in_a_notebook_draws_in_its_frame(visit, along, tmp_path):
    html = along._repr_mimebundle_()["text/html"]
    (tmp_path / "notebook.html").write_text(f"<!doctype html><body data-drawn>{html}</body>", encoding="utf-8")
    page = visit(tmp_path / "notebook.html")
    frame = page.frame_locator("iframe")
    frame.locator("body[data-drawn]").wait_for()
    assert "Expected after" in "".join(frame.locator("svg.marks text").all_text_contents())


def test_a_chart_that_cannot_be_drawn_says_so(visit, tmp_path, bundled):
    drawn = figure(all_results.make(bundled)["anatomy.read"])
    broken = {**drawn, "spec": {**drawn["spec"], "layer": 1}}
    (tmp_path / "broken.html").write_text(page("A page", [broken, drawn]), encoding="utf-8")
    shown = visit(tmp_path / "broken.html")
    assert shown.locator(".problem").inner_text().startswith("This chart could not be drawn")
    assert shown.locator(".chart svg.marks").count() == 1


# --- the slider of a text ---


def expected_after(result, prefix):
    """What the bars say after a prefix: title, tokens and numbers, from the result alone."""
    i = prefix - 1
    came = result.ids[prefix] if prefix < len(result.ids) else None
    rows = [
        (*row, came == token)
        for token, *row in zip(
            result.top_ids[i].tolist(), result.top_display[i], result.top_probabilities[i].tolist(), strict=True
        )
    ]
    ranks = list(range(1, len(rows) + 1))
    if came is not None and came not in result.top_ids[i].tolist():
        rows.append((result.display[prefix], result.next_probability[i].item(), True))
        ranks.append(result.next_rank[i].item())
    notes = [
        ("under 0.1%" if p < 0.0005 else f"{p:.1%}") + (f" (came, rank {rank:,})" if here else "")
        for (_, p, here), rank in zip(rows, ranks, strict=True)
    ]
    title = f"Expected after {prefix} token{'s' * (prefix > 1)}"
    return title, [token for token, *_ in rows], notes


def holds(written, part):
    return any(written[i : i + len(part)] == part for i in range(len(written)))


def assert_shows(page, result, prefix):
    title, tokens, notes = expected_after(result, prefix)
    page.locator("svg.marks text", has_text=title).first.wait_for()
    assert page.locator("input[type=range]").input_value() == str(prefix)
    written = page.locator("svg.marks text").all_text_contents()
    assert holds(written, tokens), (tokens, written)
    assert holds(written, notes), (notes, written)


def test_the_slider_moves_the_bars_to_the_results_numbers(visit, along, along_page):
    page = visit(along_page)
    n = len(along.ids)
    slider = page.locator("input[type=range]")
    assert (slider.get_attribute("min"), slider.get_attribute("max")) == ("1", str(n))
    assert_shows(page, along, n // 4)
    for prefix in (1, 2, n - 1, n, 5):
        slider.fill(str(prefix))
        assert_shows(page, along, prefix)


def test_arrow_keys_move_it_by_one(visit, along, along_page):
    page = visit(along_page)
    slider = page.locator("input[type=range]")
    slider.fill("3")
    slider.focus()
    for key, prefix in [("ArrowRight", 4), ("ArrowUp", 5), ("ArrowLeft", 4), ("End", len(along.ids)), ("Home", 1)]:
        page.keyboard.press(key)
        assert_shows(page, along, prefix)


def click_token(page, result, i):
    written = page.locator("svg.marks text").all_text_contents()
    start = next(k for k in range(len(written)) if written[k : k + len(result.display)] == result.display)
    page.locator("svg.marks text").nth(start + i).click()


def test_a_click_on_a_token_reads_up_to_it(visit, along, along_page):
    page = visit(along_page)
    for i in (6, 0, len(along.ids) - 1):
        click_token(page, along, i)
        assert_shows(page, along, i + 1)


def test_the_theme_button_redraws_and_keeps_the_place(visit, along, along_page):
    page = visit(along_page, "light")
    page.locator("input[type=range]").fill("7")
    for theme in ("dark", "light"):
        page.locator("#theme").click()
        page.wait_for_selector(f"body[data-drawn={theme}]")
        assert page.evaluate("document.documentElement.dataset.theme") == theme
        assert_shows(page, along, 7)
        assert page.locator("input[type=range]").count() == 1
    click_token(page, along, 2)  # the new drawing answers too
    assert_shows(page, along, 3)


def test_redrawing_leaves_the_reader_where_they_are(visit, report):
    page = visit(report)
    page.evaluate("document.querySelector('#s5 figcaption').scrollIntoView()")
    before = page.evaluate("scrollY")
    seen = page.evaluate("""() => new Promise((done) => {
      const places = [];
      const watch = () => {
        places.push(document.querySelector("#s5 figcaption").getBoundingClientRect().top);
        document.body.dataset.drawn === "dark" ? done(places) : requestAnimationFrame(watch);
      };
      document.getElementById("theme").click();
      watch();
    })""")
    assert max(seen) - min(seen) < 2
    assert page.evaluate("scrollY") == before > 500


def test_the_systems_theme_is_followed(visit, along_page):
    page = visit(along_page, "dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 27, 34)"
    page.emulate_media(color_scheme="light")
    page.wait_for_selector("body[data-drawn=light]")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


# --- the call ---


@pytest.mark.parametrize("allowed", [True, False])
def test_the_call_can_be_copied(visit, along, along_page, allowed):
    page = visit(along_page, permissions=["clipboard-read", "clipboard-write"] if allowed else ["geolocation"])
    page.locator("details", has=page.locator(".copy")).locator("summary").click()
    page.locator(".copy").click()
    code = f"import cutaway\n\n{along.meta['call']}"
    if allowed:
        page.locator(".copy", has_text="Copied").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == code
    else:  # as in a notebook's frame: it is selected, ready for the keyboard
        page.locator(".copy", has_text="Selected").wait_for()
        assert page.evaluate("getSelection().toString()") == code
    page.locator(".copy", has_text="Copy").wait_for()
