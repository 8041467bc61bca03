"""The workbench's text, cursor, address and frame, in real Chromium."""

import json
import re

import pytest

import cutaway
from cutaway.app import examples
from tests.app.bench import percent
from tests.patience import turns
from tests.test_page import contrast

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PANELS = ["next", "lens", "attention", "generate", "anatomy"]
TEXT = "The people of the United States,\n\tin order to form  a more perfect Union"
ODD = 'a\tb  c\n\n"é" 你好 🙂 </script><img src=x onerror=alert(1)> <!-- & &amp; \u202e \x00 end'


def assert_next(visit, result, i):
    """The bars say what the result does after token i."""
    visit.settle()
    came = result.ids[i + 1] if i + 1 < len(result.ids) else None
    ids, p = result.top_ids[i].tolist(), result.top_probabilities[i].tolist()
    rows = [[f"{k + 1}", result.top_display[i][k], percent(p[k]), ids[k] == came] for k in range(len(ids))]
    if came is not None and came not in ids:
        rank = result.next_rank[i].item()
        rows.append([f"{rank:,}", result.display[i + 1], percent(result.next_probability[i].item()), True])
    found = visit.page.evaluate("""() => [...document.querySelectorAll(".next .bars .bar")].map((bar) =>
      [".rank", ".token", ".p"].map((name) => bar.querySelector(name).textContent)
      .concat(bar.classList.contains("came")))""")
    assert found == rows


@pytest.fixture(scope="module")
def along(bundled):
    return cutaway.predictions.along(bundled, TEXT)


def test_the_first_paint_asks_for_nothing(bench, bundled):
    visit = bench().open()
    text = examples.for_model(bundled, 512)[0]["text"]
    result = cutaway.predictions.along(bundled, text)
    assert_next(visit, result, len(result.ids) - 2)
    assert visit.page.locator("#strip").evaluate("(strip) => strip.textContent") == text
    assert visit.texts("#examples button") == [example["name"] for example in examples.for_model(bundled, 512)]
    for panel in ("lens", "generate"):
        visit.page.locator(f"#tab-{panel}").click()
        visit.page.wait_for_selector(f"body[data-drawn={panel}]")
    assert visit.api() == []


def test_a_page_without_its_first_view_asks_for_it(bench, bundled):
    """A large model's first text: the page comes first, and says that it reads."""
    visit, held = bench(), []

    def without(route):
        answer = route.fetch()
        before, tag, after = answer.text().partition('id="start">')
        start, end, after = after.partition("</script>")
        start = json.dumps(json.loads(start) | {"view": None}).replace("<", r"\u003c")
        route.fulfill(response=answer, body=before + tag + start + end + after)

    visit.page.route(f"{visit.address}/", without)
    visit.page.route("**/api/view", lambda route: held.append(route))
    visit.page.goto(f"{visit.address}/#panel=lens")
    visit.page.locator("#count", has_text="reading").wait_for()
    visit.settle()
    assert visit.page.get_by_role("tab", selected=True).all_inner_texts() == ["Lens"]
    for key in ("1", "ArrowLeft", "Escape", "5", "1"):
        visit.page.keyboard.press(key)
    visit.page.hover("#strip")
    held[0].continue_()
    visit.page.wait_for_selector("body[data-drawn=next]")
    result = cutaway.predictions.along(bundled, examples.for_model(bundled, 512)[0]["text"])
    assert_next(visit, result, len(result.ids) - 2)


def test_the_strip_shows_white_space_and_copies_the_text(bench):
    for text in (TEXT, ODD):
        visit = bench().open(text=text)
        visit.until("(n) => document.querySelectorAll('#strip .t').length >= n", 5)
        strip = visit.page.locator("#strip")
        strip.focus()
        visit.page.keyboard.press("End")
        visit.page.keyboard.press("Control+c")
        assert visit.page.evaluate("navigator.clipboard.readText()") == text.replace("\r", "")
        visit.page.evaluate("getSelection().selectAllChildren(document.getElementById('strip'))")
        visit.page.keyboard.press("Control+c")
        assert visit.page.evaluate("navigator.clipboard.readText()") == text
    marks = visit.page.evaluate("""() => ["space", "newline", "tab"].map((name) =>
      getComputedStyle(document.querySelector(`#strip .${name}`), "::before").content)""")
    assert marks == ['"·"', '"↵"', '"⇥"']


def test_a_prefix_is_copied_up_to_the_cursor(bench, bundled):
    visit = bench().open(text=ODD, cursor=20)
    visit.page.locator("#strip").focus()
    visit.page.keyboard.press("Control+c")
    end = bundled.tokens(ODD).offsets[0][20][1]
    assert visit.page.evaluate("navigator.clipboard.readText()") == ODD[:end]


def test_keys_move_the_cursor_without_a_request(bench, along):
    visit = bench().open(text=TEXT, cursor=3)
    asked, n = visit.api(), len(along.ids)
    visit.page.locator("#strip").focus()
    moves = [("ArrowRight", 4), ("ArrowRight", 5), ("ArrowLeft", 4), ("End", n - 1), ("ArrowRight", n - 1), ("Home", 0)]
    for key, i in [*moves, ("PageDown", 10), ("PageUp", 0)]:
        visit.page.keyboard.press(key)
        assert_next(visit, along, i)
        assert visit.cursor() == i
    assert visit.api() == asked == ["/api/view"]
    strip = visit.page.locator("#strip")
    assert strip.get_attribute("role") == "slider"
    assert strip.get_attribute("aria-valuemax") == str(n)
    assert strip.get_attribute("aria-valuetext").startswith(f"token 1 of {n}: The; next comes ·people, rank ")
    visit.page.evaluate("document.activeElement.blur()")
    visit.page.keyboard.press("ArrowRight")  # the page as a whole listens too
    assert_next(visit, along, 1)


def test_up_and_down_move_by_lines(bench):
    visit = bench().open(text="one two three\nfour five six\nseven eight nine", cursor=2)
    visit.page.locator("#strip").focus()
    tops = []
    for key in ("ArrowDown", "ArrowDown", "ArrowUp"):
        visit.page.keyboard.press(key)
        visit.settle()
        tops.append(visit.token(visit.cursor()).bounding_box()["y"])
    assert tops[0] < tops[1]
    assert tops[2] == pytest.approx(tops[0], abs=5)


def test_hover_looks_ahead_click_locks_escape_releases(bench, along):
    visit = bench().open(text=TEXT, cursor=3)
    asked = visit.api()
    visit.token(8).hover()
    assert_next(visit, along, 8)
    assert visit.cursor() == 3
    visit.page.mouse.move(900, 700)
    assert_next(visit, along, 3)
    visit.token(6).click()
    assert_next(visit, along, 6)
    assert visit.page.locator("#lock").is_visible()
    visit.token(9).hover()
    assert_next(visit, along, 6)
    assert "token 10 of" in visit.texts("#readout")[0]  # locked, it still tells what is under the pointer
    visit.page.mouse.move(900, 700)
    visit.settle()
    assert "token 7 of" in visit.texts("#readout")[0]
    visit.page.keyboard.press("Escape")
    visit.settle()
    assert not visit.page.locator("#lock").is_visible()
    visit.token(10).hover()
    assert_next(visit, along, 10)
    assert visit.cursor() == 6
    assert visit.api() == asked


def test_the_cursor_is_dragged(bench, along):
    visit = bench().open(text=TEXT, cursor=1)
    boxes = {i: visit.token(i).bounding_box() for i in (2, 5, 7)}

    def over(i):
        return boxes[i]["x"] + boxes[i]["width"] / 2, boxes[i]["y"] + boxes[i]["height"] / 2

    visit.page.mouse.move(*over(2))
    visit.page.mouse.down()
    assert_next(visit, along, 2)
    for i in (5, 7):
        visit.page.mouse.move(*over(i), steps=4)
        assert_next(visit, along, i)
    visit.page.mouse.up()
    assert visit.cursor() == 7
    visit.until("location.hash.includes('cursor=7')")
    visit.page.go_back()  # the whole drag is one step
    assert_next(visit, along, 1)


def test_a_finger_sets_it(bench, along):
    visit = bench(width=390, has_touch=True).open(text=TEXT, cursor=1)
    visit.token(6).tap()
    visit.until("document.getElementById('strip').getAttribute('aria-valuenow') === '7'")
    assert_next(visit, along, 6)
    visit.page.evaluate("scrollTo(0, 400)")
    visit.page.locator("#tab-lens").tap()  # at the foot, wherever the page is
    visit.page.wait_for_selector("body[data-drawn=lens]")
    assert visit.page.evaluate("scrollY") == 400
    strip, tabs = (visit.page.locator(name).bounding_box() for name in ("#strip", "#tabs"))
    assert strip["y"] == pytest.approx(48, abs=1)  # the text is in view
    assert strip["y"] + strip["height"] < tabs["y"] == pytest.approx(860 - tabs["height"], abs=1)


def test_the_chart_along_the_text_moves_it_too(bench, along):
    visit = bench().open(text=TEXT, cursor=1)
    box, n = visit.page.locator("svg.along").bounding_box(), len(along.ids)
    x = box["x"] + 34 + (9.5 / n) * (box["width"] - 34)
    visit.page.mouse.move(x, box["y"] + 50)
    assert_next(visit, along, 9)
    visit.page.mouse.click(x, box["y"] + 50)
    assert visit.cursor() == 9


# --- the address ---


def test_the_address_holds_the_whole_state(bench, bundled):
    visit = bench().open(text=ODD)
    pin = bundled.tokenizer.single(" people")
    visit.page.locator("#strip").focus()
    visit.page.keyboard.press("Home")
    visit.page.keyboard.press("ArrowRight")
    visit.page.locator("#bos").check()
    visit.page.wait_for_selector("#strip .special")
    visit.page.locator("#tab-lens").click()
    visit.page.get_by_role("radio", name="Entropy").click()
    visit.page.fill("#pin", "·people")
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_selector(".key.followed")
    visit.page.locator("#tab-attention").click()
    visit.page.get_by_role("radio", name="Layer 1, head 4").click()
    visit.page.locator("#tab-generate").click()
    for name, value in [("n", "7"), ("temperature", "0.5"), ("top_k", "9"), ("top_p", "0.9"), ("seed", "3")]:
        visit.page.fill(f"#g-{name}", value)
    visit.token(5).click()
    visit.until("location.hash.includes('seed=3')")
    address = visit.page.url
    assert all(ODD[:4] not in url for url in visit.requests)

    other = bench()
    other.page.goto(address)
    other.page.wait_for_selector("body[data-drawn=generate]")
    assert other.cursor() == 5
    assert other.page.locator("#text").input_value() == ODD
    assert other.page.locator("#bos").is_checked()
    assert [
        other.page.locator(f"#g-{name}").input_value() for name in ("n", "temperature", "top_k", "top_p", "seed")
    ] == [
        "7",
        "0.5",
        "9",
        "0.9",
        "3",
    ]
    other.page.locator("#tab-attention").click()
    other.page.get_by_role("heading", name="Layer 1, head 4").wait_for()
    other.page.locator("#tab-lens").click()
    other.page.wait_for_selector("body[data-drawn=lens]")
    assert other.page.get_by_role("radio", name="Entropy").get_attribute("aria-checked") == "true"
    other.page.locator(".key.followed", has_text="people").wait_for()
    assert f"pin={pin}" in other.page.url


def test_back_undoes_each_choice(bench, along):
    visit = bench().open(text=TEXT, cursor=2)
    visit.token(6).click()
    visit.page.locator("#tab-lens").click()
    visit.page.wait_for_selector("body[data-drawn=lens]")
    visit.page.locator("#examples button").nth(1).click()
    visit.until("document.getElementById('examples').children[1].ariaPressed === 'true'")
    asked = visit.api()
    visit.page.go_back()
    visit.until("(text) => document.getElementById('text').value === text", TEXT)
    visit.page.wait_for_selector("body[data-drawn=lens]")
    visit.page.go_back()
    visit.page.wait_for_selector("body[data-drawn=next]")
    assert_next(visit, along, 6)
    visit.page.go_back()
    visit.until("document.getElementById('strip').getAttribute('aria-valuenow') === '3'")
    assert_next(visit, along, 2)
    visit.page.go_forward()
    visit.until("document.getElementById('strip').getAttribute('aria-valuenow') === '7'")
    assert visit.api() == asked  # what was read is still here


def test_back_returns_to_where_the_keys_had_gone(bench):
    visit = bench().open(text=TEXT, cursor=2)
    visit.page.locator("#strip").evaluate("""(strip) => {
      const press = () => new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true });
      for (let k = 0; k < 4; k++) strip.dispatchEvent(press()); // all before the next frame
    }""")
    visit.page.keyboard.press("2")  # before the address has followed
    visit.page.wait_for_selector("body[data-drawn=lens]")
    visit.page.go_back()
    visit.page.wait_for_selector("body[data-drawn=next]")
    assert visit.cursor() == 6


WRONG = [
    "cursor=99999&layer=77&head=-4&panel=nothing&pin=1e9&seed=x&top_p=7",
    "%",
    "text=%00%ff&cursor=NaN",
    "=&&=#",
]


def test_a_wrong_address_is_no_error(bench):
    visit = bench()
    for fragment in WRONG:
        visit.page.goto("about:blank")
        visit.page.goto(f"{visit.address}/#{fragment}")
        visit.page.wait_for_selector("body[data-drawn=next]")
        assert visit.page.locator(".next .bars .bar").count() >= 10


def test_the_link_and_the_call_are_copied(bench, along):
    visit = bench().open(text=TEXT, cursor=4)
    visit.page.locator("#share").click()
    visit.page.locator("#share", has_text="Copied").wait_for()
    assert visit.page.evaluate("navigator.clipboard.readText()") == visit.page.url
    visit.page.locator(".python .copy").click()
    visit.page.locator(".python .copy", has_text="Copied").wait_for()
    code = visit.page.evaluate("navigator.clipboard.readText()")
    assert code.startswith("import cutaway\n\nmodel = cutaway.load(")
    found = {}
    exec(code.replace("\ncutaway.predictions", "\nresult = cutaway.predictions"), found)
    assert found["result"].table().equals(along.table())


# --- the text ---


def test_a_typed_text_is_read_and_older_requests_are_dropped(bench, bundled):
    visit = bench().open()
    failed = []
    visit.page.on("requestfailed", lambda request: failed.append(request.post_data_json["text"]))
    held = []
    slow = ("first", "first of all")
    visit.page.route(
        "**/api/view",
        lambda route: held.append(route) if route.request.post_data_json["text"] in slow else route.continue_(),
    )
    for k, text in enumerate(slow):
        visit.page.fill("#text", text)
        for _ in turns(visit.page):
            if len(held) > k:
                break
    visit.until("document.querySelector('.busy') !== null")
    visit.page.fill("#text", "second thoughts about the people of the United")
    visit.until("document.getElementById('strip').textContent.startsWith('second')")
    result = cutaway.predictions.along(bundled, "second thoughts about the people of the United")
    assert_next(visit, result, len(result.ids) - 1)
    assert failed == ["first", "first of all"]
    assert len(held) == 2
    visit.until("document.querySelector('.busy') === null")
    visit.page.go_back()  # typing in one go is one step
    visit.until("document.getElementById('strip').textContent.startsWith('Mr. Speaker')")


def test_a_text_that_cannot_be_read_says_why_beside_it(bench, along):
    visit = bench().open(text=TEXT, cursor=3)
    visit.expected = ("400 (Bad Request)",)
    visit.page.fill("#text", "word " * 600)
    problem = visit.page.locator("#text-problem")
    problem.wait_for()
    assert "at most 512" in problem.inner_text()
    assert "\n" not in problem.inner_text()
    assert visit.page.locator("#text").get_attribute("aria-invalid") == "true"
    assert_next(visit, along, 3)  # what was read stays
    visit.page.fill("#text", "")
    visit.page.locator("#text-problem", has_text="The text is empty").wait_for()
    visit.page.fill("#text", TEXT)
    visit.until("document.getElementById('text-problem').hidden")


def test_an_end_of_text_token_can_stand_in_front(bench, bundled):
    visit = bench().open(text=TEXT, cursor=0)
    visit.page.locator("#bos").check()
    visit.page.wait_for_selector("#strip .special")
    visit.page.locator("#strip").focus()
    result = cutaway.predictions.along(bundled, TEXT, bos=True)
    for key, i in [("Home", 0), ("End", len(result.ids) - 1)]:
        visit.page.keyboard.press(key)
        assert_next(visit, result, i)


def test_hostile_text_stays_text(bench):
    visit = bench().open(text=ODD, cursor=25)
    for panel in PANELS:
        visit.page.locator(f"#tab-{panel}").click()
        visit.page.wait_for_selector(f"body[data-drawn={panel}]")
        for i in (20, 25, 30):
            visit.token(i).click()
            visit.settle()
        assert visit.page.locator("img, #strip script, .panel script").count() == 0


def test_a_token_that_is_markup_is_shown(bench, bundled):
    word = next(i for i in range(bundled.config.d_vocab) if bundled.tokenizer.string(i) in ("<", " <", "</", "&", '"'))
    visit = bench().open(panel="lens", pin=word)
    visit.page.locator(".pinned", has_text=bundled.tokenizer.display(word)).wait_for()


# --- the frame ---


def test_the_tabs_are_tabs(bench):
    visit = bench().open()
    visit.page.locator("#tab-next").focus()
    for key, panel in [("ArrowRight", "lens"), ("End", "anatomy"), ("ArrowRight", "next"), ("ArrowLeft", "anatomy")]:
        visit.page.keyboard.press(key)
        visit.page.wait_for_selector(f"body[data-drawn={panel}]")
        assert visit.page.evaluate("document.activeElement.id") == f"tab-{panel}"
        assert visit.page.locator("[role=tab][aria-selected=true]").count() == 1
    visit.page.evaluate("document.activeElement.blur()")
    visit.page.keyboard.press("3")
    visit.page.wait_for_selector("body[data-drawn=attention]")
    assert visit.page.locator("#panel").get_attribute("aria-labelledby") == "tab-attention"


def test_no_page_scrolls_sideways(bench):
    visit = bench().open(text=ODD + " " + "incomprehensibilities-" * 12, cursor=8)
    for panel in PANELS:
        visit.page.locator(f"#tab-{panel}").click()
        visit.page.wait_for_selector(f"body[data-drawn={panel}]")
        if panel == "anatomy":
            visit.page.wait_for_selector(".sites tbody tr")
        for width in (360, 390, 768, 1280, 1920):
            visit.page.set_viewport_size({"width": width, "height": 800})
            visit.settle()
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= width, (panel, width)


SEEN = """() => [...document.querySelectorAll("body *")].filter((e) => {
  const own = [...e.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  const shown = e.getClientRects().length && getComputedStyle(e).visibility === "visible";
  return own && shown && !e.closest("svg, script, noscript, .hidden, .skip, [hidden]");
}).map((e) => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (...colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return `rgb(${[...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)]})`;
  };
  const layers = [];
  for (let b = e; b; b = b.parentElement) layers.unshift(getComputedStyle(b).backgroundColor);
  const faded = Number(getComputedStyle(e).opacity) < 1 || e.matches("i, .token i");
  return [e.className + " " + e.textContent.slice(0, 30), paint(getComputedStyle(e).color), paint(...layers), faded];
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("cursor", [20, 75], ids=["half unread", "all read"])
def test_every_word_can_be_read(bench, scheme, cursor):
    visit = bench(scheme).open(text=TEXT + ODD, cursor=cursor, bos=1)
    for panel in PANELS:
        visit.page.locator(f"#tab-{panel}").click()
        visit.page.wait_for_selector(f"body[data-drawn={panel}]")
        if panel == "generate":
            visit.page.fill("#g-n", "12")
            visit.page.get_by_role("button", name="Generate").click()
            visit.page.wait_for_selector(".after:not([hidden])")
        if panel == "anatomy":
            visit.page.wait_for_selector(".sites tbody tr")
        visit.settle()
        for name, ink, paper, faded in visit.page.evaluate(SEEN):
            if not faded:  # the marks of white space are pale on purpose
                ink, paper = re.sub(r"\s", "", ink), re.sub(r"\s", "", paper)
                assert contrast(ink, paper) >= 4.5, (panel, name, ink, paper)


def test_the_theme_follows_the_system_until_it_is_chosen(bench):
    visit = bench("dark").open()

    def paper():
        return visit.page.evaluate("getComputedStyle(document.body).backgroundColor")

    assert paper() == "rgb(20, 24, 30)"
    visit.page.emulate_media(color_scheme="light")
    assert paper() == "rgb(255, 255, 255)"
    visit.page.locator("#theme").click()
    assert paper() == "rgb(20, 24, 30)"
    visit.page.reload()
    visit.page.wait_for_selector("body[data-drawn]")
    assert paper() == "rgb(20, 24, 30)"


def test_the_page_says_when_the_server_is_gone(bench, along):
    visit = bench().open(text=TEXT, cursor=3)
    visit.expected = ("net::ERR_",)
    visit.page.route("**/*", lambda route: route.abort("connectionrefused"))
    visit.page.fill("#text", "a text that nobody reads")
    visit.page.locator("#gone", has_text="The server does not answer").wait_for()
    assert_next(visit, along, 3)
    visit.page.locator("#strip").focus()
    visit.page.keyboard.press("ArrowRight")  # what was read can still be walked through
    assert_next(visit, along, 4)
    visit.page.unroute("**/*")
    visit.until("document.getElementById('gone').hidden")
    visit.until("document.getElementById('strip').textContent.startsWith('a text')")


def test_without_its_token_the_page_says_what_to_open(bench):
    visit = bench()
    visit.page.route(
        f"{visit.address}/",
        lambda route: route.fulfill(
            response=(found := route.fetch()),
            body=re.sub(
                r'(<script type="application/json" id="start">).*?(</script>)',
                lambda match: match[1] + json.dumps({"token_needed": True}) + match[2],
                found.text(),
                flags=re.S,
            ),
        ),
    )
    visit.page.goto(visit.address + "/")
    visit.page.locator("#gone", has_text="?token=").wait_for()
