"""Each panel of the workbench shows the numbers that the Python API gives for the same input; in real Chromium."""

import csv
import io
import json
import math

import pytest

import cutaway
from cutaway.app import examples
from tests.app.bench import percent
from tests.app.test_workbench import assert_next
from tests.patience import turns

pytestmark = [pytest.mark.browser, pytest.mark.slow]
TEXT = "The people of the United States and the people of the United"
LONG = " ".join(["My fellow citizens, the state of the Union is strong because the people are strong."] * 6)


@pytest.fixture(scope="module")
def along(bundled):
    return cutaway.predictions.along(bundled, TEXT)


@pytest.fixture(scope="module")
def lens(bundled):
    return cutaway.logit_lens.read(bundled, TEXT, targets=[" people"])


@pytest.fixture(scope="module")
def attention(bundled):
    return cutaway.attention.read(bundled, TEXT)


# --- next token ---


def test_next_shows_every_prefix(bench, along, lens):
    visit = bench().open(text=TEXT, cursor=0)
    visit.page.locator("#strip").focus()
    visit.page.keyboard.press("Home")
    for i in range(len(along.ids)):
        assert_next(visit, along, i)
        facts = dict(zip(visit.texts(".next .facts dt"), visit.texts(".next .facts dd"), strict=True))
        assert facts["Read"] == f"{i + 1} of {len(along.ids)}"
        assert facts["Entropy"] == f"{lens.entropy[-1, i].item():.2f} nats"
        if i + 1 < len(along.ids):
            assert facts["Came"] == along.display[i + 1]
            assert facts["Rank"] == f"{along.next_rank[i].item():,}"
            assert facts["Surprise"] == f"{along.next_loss[i].item():.2f} nats"
        else:
            assert facts["Came"] == "the text ends here"
        visit.page.keyboard.press("ArrowRight")


def test_the_bars_are_as_long_as_they_say(bench, along):
    visit = bench().open(text=TEXT, cursor=3)
    visit.settle()
    end = float(visit.texts(".next .axis span")[-1].rstrip("%")) / 100
    fills, track = visit.page.evaluate("""() => [[...document.querySelectorAll(".next .bars .fill")].map((fill) =>
      fill.getBoundingClientRect().width),
      document.querySelector(".next .bars .track").getBoundingClientRect().width]""")
    for width, p in zip(fills, along.top_probabilities[3].tolist(), strict=False):
        assert width == pytest.approx(max(1, p / end * track), abs=0.6)


def test_a_click_continues_the_text_and_back_undoes_it(bench, bundled, along):
    visit = bench().open(text=TEXT, cursor=4)
    visit.page.locator(".next .bars button").nth(2).click()
    longer = TEXT[: len("The people of the United")] + along.top_tokens[4][2]
    visit.until("(text) => document.getElementById('strip').textContent === text", longer)
    result = cutaway.predictions.along(bundled, longer)
    assert_next(visit, result, len(result.ids) - 1)
    visit.page.go_back()
    visit.until("(text) => document.getElementById('strip').textContent === text", TEXT)
    assert_next(visit, along, 4)


def test_the_shade_is_the_surprise(bench, along):
    visit = bench().open(text=TEXT, cursor=4)
    visit.settle()
    shades = visit.page.evaluate(
        "[...document.querySelectorAll('#strip .t')].map((t) => Number(t.style.getPropertyValue('--v')))"
    )
    assert shades[0] == 0
    assert shades[1:] == pytest.approx([min(1, loss / 10) for loss in along.next_loss.tolist()], abs=0.003)


# --- lens ---

CELLS = """() => [...document.querySelectorAll(".heat .cell:not(.none)")].map((cell) =>
  [Number(cell.dataset.r), Number(cell.dataset.c), cell.textContent, cell.ariaLabel,
   Number(cell.style.getPropertyValue("--v"))])"""


def test_the_heatmap_holds_the_lens(bench, lens, bundled):
    visit = bench(width=1500).open(text=TEXT, cursor=4, panel="lens")
    n = len(lens.ids)
    for button, name in [("KL", "kl"), ("Entropy", "entropy"), ("Rank", "rank"), ("Loss", "loss")]:
        visit.page.locator(".segments button", has_text=button).click()
        visit.settle()
        values = getattr(lens, name).double()
        most = math.log(bundled.config.d_vocab) if name == "rank" else values.nan_to_num().max().item()
        cells = visit.page.evaluate(CELLS)
        assert len(cells) == len(lens.sites) * n
        for row, i, word, label, shade in cells:
            value = values[row, i].item()
            nothing = math.isnan(value) or (name == "rank" and value == 0)
            said = "–" if nothing else f"{int(value):,}" if name == "rank" else f"{abs(value):.2f} nats"
            assert word == lens.top_display[row][i][0]
            assert label.endswith(f" {said}"), (label, said)
            assert f"{percent(lens.top_probabilities[row, i, 0].item())}, " in label
            part = 0 if nothing else math.log(value) / most if name == "rank" else value / most
            assert shade == pytest.approx(max(part, 0), abs=0.002)


def cell_says(visit):
    rows = visit.page.evaluate("""() => [...document.querySelectorAll(".lens .bars .bar")].map((bar) =>
      [bar.querySelector(".token").textContent, bar.querySelector(".p").textContent])""")
    return visit.texts(".lens .card h3")[0], rows


def assert_cell(visit, lens, row, i):
    visit.settle()
    title, rows = cell_says(visit)
    output = ", the output" if row == len(lens.sites) - 1 else ""
    assert title == f"Layer {lens.layers[row]}{output}, after {lens.display[i]}"
    probabilities = lens.top_probabilities[row, i, :5].tolist()
    assert rows == [[token, percent(p)] for token, p in zip(lens.top_display[row][i][:5], probabilities, strict=True)]


def test_a_cell_shows_its_candidates_by_pointer_and_keys(bench, lens):
    visit = bench().open(text=TEXT, cursor=4, panel="lens")
    assert_cell(visit, lens, 3, 4)
    asked = visit.api()
    cell = visit.page.locator(".heat .cell[data-r='1'][data-c='2']")
    first = len(lens.ids) - visit.page.locator(".heat .cell[data-r='1']").count()  # one column may be out of view
    assert first in (0, 1)
    cell.hover()
    seen = int(visit.page.evaluate("document.querySelector('.heat .read.chosen').dataset.c"))
    assert_cell(visit, lens, 1, 2)
    assert seen == 2
    visit.page.mouse.move(5, 5)
    assert_cell(visit, lens, 3, 4)
    cell.click()
    assert visit.cursor() == 2
    assert "layer=1" in visit.page.url
    visit.page.locator(".heat").focus()
    for key, row, i in [("ArrowUp", 2, 2), ("ArrowRight", 2, 3), ("ArrowDown", 1, 3), ("ArrowLeft", 1, 2)]:
        visit.page.keyboard.press(key)
        assert_cell(visit, lens, row, i)
    assert visit.api() == asked


def ranks(visit, kind):
    visit.settle()
    return visit.page.locator(f".ranks text.{kind}").all_text_contents()


def test_a_token_is_followed_through_the_layers(bench, lens):
    visit = bench().open(text=TEXT, cursor=4, panel="lens")
    came = [f"{rank:,}" for rank in lens.rank[:, 4].long().tolist()]
    assert ranks(visit, "came") == came
    visit.page.fill("#pin", "·people")
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_selector(".key.followed")
    asked = visit.api()
    for i in (4, 6, 11):
        visit.token(i).click()
        assert ranks(visit, "followed") == [f"{rank:,}" for rank in lens.target_rank[:, i, 0].tolist()]
    assert visit.api() == asked
    visit.page.get_by_role("button", name="Stop following").click()
    assert ranks(visit, "followed") == []
    visit.page.locator(".lens .bars button").nth(1).click()
    visit.page.wait_for_selector(".key.followed")
    assert ranks(visit, "followed")[-1] == "2"
    visit.page.go_back()
    assert ranks(visit, "followed") == []


def test_what_is_no_token_is_said_beside_the_box(bench):
    visit = bench().open(text=TEXT, panel="lens")
    visit.expected = ("400 (Bad Request)",)
    visit.page.fill("#pin", "no single token this")
    visit.page.keyboard.press("Enter")
    problem = visit.page.locator(".lens .card .problem")
    problem.wait_for()
    assert "token" in problem.inner_text()


def test_ranks_that_come_late_are_not_another_texts(bench, bundled):
    visit = bench().open(text=TEXT, panel="lens")
    held = []
    visit.page.route("**/api/rank", lambda route: held.append(route) if not held else route.continue_())
    visit.page.fill("#pin", "·States")
    visit.page.keyboard.press("Enter")
    visit.page.locator(".examples .chip").nth(1).click()
    visit.until("() => document.querySelector('#strip').textContent.startsWith('The Secretary')")
    held[0].continue_()
    followed = visit.page.locator(".pinned .followed")
    followed.wait_for()
    text, at = examples.for_model(bundled, 512)[1]["text"], visit.cursor()
    lens = cutaway.logit_lens.read(bundled, text, targets=[" States"])
    values = visit.page.locator(".ranks text.followed").all_text_contents()
    assert values == [f"{rank:,}" for rank in lens.target_rank[:, at, 0].tolist()]


def test_rounding_is_not_coloured(bench):
    def nearly_nothing(route):
        found = route.fetch().json()
        found["lens"]["kl"] = [[1e-7 * i for i, _ in enumerate(row)] for row in found["lens"]["kl"]]
        route.fulfill(json=found)

    visit = bench()
    visit.page.route("**/api/view", nearly_nothing)
    visit.open(text=TEXT, panel="lens")
    shades = visit.page.locator(".heat .cell").evaluate_all(
        "cells => cells.map((c) => c.style.getPropertyValue('--v'))"
    )
    assert len(shades) > 20
    assert set(shades) == {"0.000"}
    assert visit.texts(".lens .scale")[0].endswith("0.01 nats")


def test_a_long_text_has_a_window_around_the_cursor(bench, bundled):
    lens = cutaway.logit_lens.read(bundled, LONG)
    visit = bench().open(text=LONG, cursor=40, panel="lens")
    assert_cell(visit, lens, 3, 40)
    assert visit.page.locator(".overview").is_visible()
    title = visit.texts(".lens h2")[0]
    first, last = (int(part) for part in title.removeprefix("What each layer would say after tokens ").split("–"))
    assert first <= 41 <= last < len(lens.ids)
    reads = visit.texts(".heat .read")
    assert reads == lens.display[first - 1 : last]
    box = visit.page.locator(".overview").bounding_box()
    visit.page.mouse.click(box["x"] + box["width"] * (10.5 / len(lens.ids)), box["y"] + 4)
    assert_cell(visit, lens, 3, 10)


# --- attention ---


def looks_at(visit):
    visit.settle()
    return visit.page.evaluate("""() => [...document.querySelectorAll(".attention .bars .bar")].map((bar) =>
      [".rank", ".token", ".p"].map((name) => bar.querySelector(name).textContent))""")


def assert_head(visit, attention, layer, head, i):
    visit.page.get_by_role("heading", name=f"Layer {layer}, head {head}").wait_for()
    weights = attention.patterns[layer, head, i, : i + 1].double()
    order = sorted(range(i + 1), key=lambda key: -weights[key].item())[:8]
    expected = [[f"{key + 1}", attention.display[key], percent(weights[key].item())] for key in order]
    visit.until("() => !document.querySelector('.attention .bars .p').textContent.startsWith('about')")
    assert looks_at(visit) == expected
    shades = visit.page.evaluate(
        "[...document.querySelectorAll('#strip .t')].map((t) => Number(t.style.getPropertyValue('--v')))"
    )
    lit = [math.sqrt(weight) for weight in weights.tolist()] + [0.0] * (len(attention.ids) - i - 1)
    assert shades == pytest.approx(lit, abs=0.003)


def test_attention_follows_the_cursor_and_the_head(bench, attention):
    visit = bench().open(text=TEXT, cursor=6, panel="attention", layer=2, head=5)
    assert_head(visit, attention, 2, 5, 6)
    asked = visit.api()
    for i in (9, 0, 11):
        visit.token(i).click()
        assert_head(visit, attention, 2, 5, i)
    assert visit.api() == asked
    visit.page.get_by_role("radio", name="Layer 1, head 3").click()
    assert_head(visit, attention, 1, 3, 11)
    moves = [("ArrowRight", 1, 4), ("ArrowUp", 2, 4), ("ArrowDown", 1, 4), ("End", 1, 7), ("Home", 1, 0)]
    for key, layer, head in moves:
        visit.page.keyboard.press(key)
        assert_head(visit, attention, layer, head, 11)
        assert visit.page.evaluate("document.activeElement.ariaLabel") == f"Layer {layer}, head {head}"
    visit.page.go_back()
    assert_head(visit, attention, 2, 5, 11)


def test_the_large_pattern_tells_each_weight(bench, attention):
    visit = bench().open(text=TEXT, cursor=6, panel="attention", layer=2, head=5)
    assert_head(visit, attention, 2, 5, 6)
    box, n = visit.page.locator("canvas.large").bounding_box(), len(attention.ids)
    cell = min(34, (min(520, visit.page.locator(".pattern").bounding_box()["width"]) - 92) / n)

    def place(query, key):
        return box["x"] + 84 + (key + 0.5) * cell, box["y"] + 2 + (query + 0.5) * cell

    for query, key in [(5, 4), (11, 0), (9, 9)]:
        visit.page.mouse.move(*place(query, key))
        visit.settle()
        said = visit.texts(".pattern .readout")[0]
        weight = attention.patterns[2, 5, query, key].item()
        assert said.split() == [attention.display[query], "→", attention.display[key], *percent(weight).split()]
    visit.page.mouse.click(*place(8, 2))
    assert_head(visit, attention, 2, 5, 8)


def test_every_head_is_drawn(bench, attention):
    visit = bench().open(text=TEXT, panel="attention")
    found = visit.page.evaluate("""() => [...document.querySelectorAll(".heads button")].map((button) => {
      const { width, height } = button.firstChild;
      const pixels = button.firstChild.getContext("2d").getImageData(0, 0, width, height).data;
      return [Number(button.dataset.layer), Number(button.dataset.head), [...pixels].filter((_, p) => p % 4 === 3)];
    })""")
    layers, heads = attention.patterns.shape[:2]
    assert len(found) == layers * heads
    for layer, head, alpha in found:
        expected = (attention.patterns[layer, head].sqrt() * 255).flatten().tolist()
        assert alpha == pytest.approx(expected, abs=0.51)


# --- generate ---


def made(visit):
    return visit.page.evaluate("""() => [...document.querySelectorAll(".made .chip")].map((chip) =>
      [chip.querySelector(".token").textContent, chip.querySelector("small").textContent])""")


def test_generate_gives_what_python_gives(bench, bundled):
    visit = bench().open(text=TEXT, cursor=5, panel="generate", n=12, temperature=0.7, top_k=50, top_p=0.9, seed=4)
    prompt = "The people of the United States"
    options = {"max_new_tokens": 12, "temperature": 0.7, "top_k": 50, "top_p": 0.9, "seed": 4}
    expected = bundled.generate(prompt, **options)
    [ids] = expected.tokens.rows()
    start = expected.prompt_lengths[0]
    result = cutaway.predictions.along(bundled, bundled.tokens(expected.tokens))
    p = result.next_probability.tolist()[start - 1 :]
    visit.page.get_by_role("button", name="Generate").click()
    visit.page.wait_for_selector(".after:not([hidden])")
    shown = [bundled.tokenizer.display(i) for i in ids[start:]]
    assert made(visit) == [[token, percent(each).replace("under ", "<")] for token, each in zip(shown, p, strict=True)]
    visit.page.get_by_role("button", name="Copy text").click()
    visit.page.get_by_role("button", name="Copied").wait_for()
    assert visit.page.evaluate("navigator.clipboard.readText()") == expected.texts[0]
    visit.page.locator(".python .copy").click()
    visit.page.locator(".python .copy", has_text="Copied").wait_for()
    found = {}
    exec(
        visit.page.evaluate("navigator.clipboard.readText()").replace("\nmodel.generate", "\ntext = model.generate"),
        found,
    )
    assert str(found["text"]) == expected.texts[0]
    visit.page.get_by_role("button", name="Use as text").click()
    visit.until("(text) => document.getElementById('strip').textContent === text", expected.texts[0])
    assert visit.cursor() == 5
    visit.page.go_back()
    visit.until("(text) => document.getElementById('strip').textContent === text", TEXT)


STOP = """() => new Promise((done) => {
  document.querySelector(".sampling").requestSubmit();
  const look = () => {
    if (!document.querySelector(".made .chip")) return requestAnimationFrame(look);
    document.querySelector(".sampling .stop").click();
    done();
  };
  look();
})"""


def test_generating_can_be_stopped(bench):
    visit = bench().open(text=TEXT, panel="generate", n=200)
    visit.page.evaluate(STOP)  # at once: a slow test must not let it end by itself
    visit.page.locator(".generate .status", has_text="stopped after").wait_for()
    tokens = len(made(visit))
    assert 0 < tokens < 200
    visit.page.wait_for_timeout(200)
    assert len(made(visit)) == tokens
    visit.page.get_by_role("button", name="Another").click()
    visit.page.wait_for_selector(".made .chip")
    assert visit.page.locator("#g-seed").input_value() == "1"


def test_a_wrong_sampling_says_why(bench):
    visit = bench().open(text=TEXT, panel="generate")
    visit.page.fill("#g-n", "4000")
    visit.page.get_by_role("button", name="Generate").click()
    assert visit.page.evaluate("document.activeElement.id") == "g-n"
    assert visit.page.locator("#g-n").evaluate("(input) => input.validationMessage")
    assert "/api/generate" not in visit.api()


def test_a_continuation_beyond_the_context_says_so(bench):
    visit = bench().open(text=" people" * 500, panel="generate", n=40)
    visit.expected = ("400 (Bad Request)",)
    visit.until("() => document.querySelectorAll('#strip .t').length === 500")
    visit.page.get_by_role("button", name="Generate").click()
    problem = visit.page.locator(".generate > .problem")
    problem.wait_for()
    assert "exceed the context of 512" in problem.inner_text()
    assert made(visit) == []


# --- anatomy ---


def test_anatomy_is_the_models(bench, bundled):
    visit = bench().open(panel="anatomy")
    visit.page.wait_for_selector(".sites tbody tr")
    facts = dict(zip(visit.texts(".anatomy .facts dt"), visit.texts(".anatomy .facts dd"), strict=True))
    config = bundled.config
    assert facts["Parameters"] == f"{sum(part.parameters for part in bundled.parts()):,}"
    assert (facts["Layers"], facts["Heads"]) == (str(config.n_layers), str(config.n_heads))
    assert (facts["Vocabulary"], facts["Context"]) == (f"{config.d_vocab:,}", f"{config.n_ctx:,}")
    assert visit.texts(".parts .part b") == [part.name for part in bundled.parts()]
    assert visit.texts(".parts .p") == [f"{part.parameters:,}" for part in bundled.parts()]
    rows = list(bundled.sites().rows())
    assert visit.texts(".sites tbody th") == [row[0] for row in rows]
    visit.page.fill("#filter", "ATTN query")
    wanted = [row[0] for row in rows if all(word in " ".join(map(str, row)).lower() for word in ("attn", "query"))]
    assert visit.texts(".sites tbody th") == wanted
    assert 0 < len(wanted) < len(rows)


def test_the_drawing_picks_sites(bench, bundled):
    visit = bench().open(panel="anatomy")
    visit.page.wait_for_selector(".sites tbody tr")
    names = [row[0] for row in bundled.sites().rows()]
    parts = visit.page.locator(".diagram .part")
    for k in range(parts.count()):
        words = parts.nth(k).get_attribute("data-words")
        parts.nth(k).click()
        found = visit.texts(".sites tbody th")
        assert set(found) >= {name for name in names if words in name} > set()
        assert parts.nth(k).get_attribute("aria-pressed") == "true"
    parts.first.focus()
    visit.page.keyboard.press("Enter")
    assert visit.page.locator("#filter").input_value() == "embed"
    visit.page.keyboard.press("Enter")
    assert visit.texts(".sites tbody th") == names


def test_the_facts_are_checked(bench, bundled):
    visit = bench().open(panel="anatomy")
    visit.page.get_by_role("button", name="Check now").click()
    visit.page.locator(".anatomy .status", has_text="all hold").wait_for()
    expected = cutaway.verify(bundled)
    assert visit.texts(".checks .claim") == [fact.claim for fact in expected.items]
    assert visit.page.locator(".checks .holds").count() == len(expected.items)
    numbers = [text.split()[0] for text in visit.texts(".checks .number:not(.allowed)")]
    for number, fact in zip(numbers, expected.items, strict=True):
        assert float(number) == pytest.approx(fact.measured, rel=0.06)


# --- files ---


@pytest.mark.parametrize("panel", ["next", "lens", "attention", "anatomy"])
def test_every_figure_is_saved(bench, bundled, along, attention, panel):
    result = {
        "next": lambda: along,
        "lens": lambda: cutaway.logit_lens.read(bundled, TEXT),
        "attention": lambda: attention,
        "anatomy": lambda: cutaway.anatomy.read(bundled),
    }[panel]()
    visit = bench().open(text=TEXT, panel=panel, layer=1, head=1, cursor=3)
    if panel == "anatomy":
        visit.page.wait_for_selector(".sites tbody tr")
    files = {}
    for ending in ("png", "svg", "csv", "json"):
        with visit.page.expect_download() as found:
            visit.page.locator(f".export [data-format={ending}]").first.click()
        assert found.value.suggested_filename == f"cutaway-{panel}.{ending}"
        files[ending] = found.value.path().read_bytes()
    assert files["png"].startswith(b"\x89PNG")
    assert b"<svg" in files["svg"]
    assert json.loads(files["json"])["data"] == json.loads(json.dumps(result.to_dict()["data"]))
    rows = list(csv.reader(io.StringIO(files["csv"].decode(), newline="")))
    assert rows[0] == list(result.table().columns)
    assert len(rows) == len(result.table()) + 1


def test_files_asked_for_at_once_all_come(bench):
    visit = bench().open(text=TEXT)
    names = []
    visit.page.on("download", lambda found: names.append(found.suggested_filename))
    endings = ("png", "svg", "csv", "json")
    for ending in endings:
        visit.page.locator(f".export [data-format={ending}]").click()
    for _ in turns(visit.page):
        if len(names) == len(endings):
            break
    assert sorted(names) == sorted(f"cutaway-next.{ending}" for ending in endings)


def test_the_python_makes_the_figure(bench, bundled, along, lens, attention):
    visit = bench().open(text=TEXT, layer=1, head=3, pin=bundled.tokenizer.single(" people"))
    made = {}
    for panel in ("next", "lens", "attention", "anatomy"):
        visit.page.locator(f"#tab-{panel}").click()
        visit.page.wait_for_selector(f"body[data-drawn={panel}]")
        if panel == "lens":
            visit.page.wait_for_selector(".key.followed")
        visit.page.locator(".python .call:visible").wait_for()
        visit.page.locator(".python .copy").click()
        visit.page.locator(".python .copy", has_text="Copied").wait_for()
        *lines, last = visit.page.evaluate("navigator.clipboard.readText()").split("\n")
        names = {}
        exec("\n".join([*lines, f"found = {last}"]), names)
        made[panel] = names["found"]
    assert made["next"].table().equals(along.table())
    assert made["lens"].target_rank.equal(lens.target_rank)
    assert made["attention"].equal(attention.patterns[1, 3])
    assert made["anatomy"].summary() == cutaway.anatomy.read(bundled).summary()


def test_what_was_generated_is_saved(bench):
    visit = bench().open(text=TEXT, panel="generate", n=3, temperature=0)
    visit.page.get_by_role("button", name="Generate").click()
    visit.page.wait_for_selector(".after:not([hidden])")
    with visit.page.expect_download() as found:
        visit.page.locator(".generate .export [data-format=json]").click()
    data = json.loads(found.value.path().read_text(encoding="utf-8"))
    assert data["prompt"] == TEXT
    assert [token["display"] for token in data["tokens"]] == [token for token, _ in made(visit)]
