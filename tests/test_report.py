"""Results in one self-contained HTML file."""

import html.parser
import itertools
import json
import re
import sys

import pytest

import cutaway
from cutaway.errors import InputError, OutputError, TokenizerError
from cutaway.pages.first_look import MOST_LAYERS, _ablation, _opening, _spread, standard
from cutaway.pages.page import script_safe, vega_bundle
from cutaway.pages.report import facts
from cutaway.text import corpus
from tests import results as all_results

pytestmark = pytest.mark.slow


class Page(html.parser.HTMLParser):
    """The elements of a page, as a browser's parser finds them: [tag, attributes, text]."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        if tag not in ("meta", "link"):
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.open[-1][2] += data

    def all(self, tag):
        return [(attrs, text) for found, attrs, text in self.elements if found == tag]


@pytest.fixture(scope="module")
def path(bundled, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / f"{'new'}/report.html"
    cutaway.report(iter(all_results.make(bundled).values()), path, title=f"About {all_results.EVIL}")
    return path


@pytest.fixture(scope="module")
def source(path):
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def test_one_file_with_the_vega_bundle_once(path, source):
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    assert source.count(vega_bundle()) == 1
    assert path.stat().st_size - len(vega_bundle()) < 3_000_000  # one of every analysis
    assert path.stat().st_size <= 20 * 2**20


def test_nothing_in_it_points_to_the_network(page):
    for tag, attributes, _ in page.elements:
        assert tag not in ("iframe", "img", "object", "embed", "base")
        assert not {"src", "srcset", "action", "background"} & set(attributes), (tag, attributes)
        assert attributes.get("href", "#").startswith(("#", "data:,"))
    for _, style in page.all("style"):
        assert "@import" not in style
        assert "url(" not in style


def test_hostile_text_is_text(page, source):
    assert len(page.all("script")) == 4  # theme, Vega, data, script
    assert not page.all("b")
    assert page.all("h1")[0][1] == f"About {all_results.EVIL}"
    assert page.all("title")[0][1] == f"About {all_results.EVIL}"
    data = next(text for attributes, text in page.all("script") if attributes.get("id") == "data")
    assert not set("<>&\u2028\u2029") & set(data)
    rows = json.loads(data)["specs"]
    assert all_results.EVIL in json.dumps(rows, ensure_ascii=False)
    assert source.count("<!--") == vega_bundle().count("<!--") == 0


@pytest.mark.parametrize("value", ["</script><script>", "<!--", "a\u2028b\u2029c", "&lt;", '"\\', {"<k>": ["é"]}])
def test_data_in_a_script_read_back_equal(value):
    text = script_safe(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)


def test_each_result_is_a_section_with_its_words_and_its_call(page, bundled):
    results = all_results.make(bundled).values()
    assert [text.strip() for _, text in page.all("h2")] == [result.title for result in results]
    assert [text.strip() for _, text in page.all("figcaption")] == [result.caption() for result in results]
    codes = [
        code
        for result in results
        for code in (f"import cutaway\n\n{result.meta['call']}", result.meta["model"] and bundled.fingerprint)
    ]
    assert [text for _, text in page.all("code")] == [code for code in codes if code]
    summaries = [text for attributes, text in page.all("pre") if attributes.get("class") == "summary"]
    assert summaries == [result.summary() for result in results]
    assert [attrs["data-chart"] for attrs, _ in page.all("div") if "data-chart" in attrs] == [
        str(i) for i in range(len(results))
    ]
    sections = [attributes["id"] for attributes, _ in page.all("section")]
    assert [attributes["href"] for attributes, _ in page.all("a")] == [f"#{name}" for name in sections]


def test_headline_figures_are_there_once(page, bundled):
    results = list(all_results.make(bundled).values())
    names, values = (list(column) for column in zip(*facts([*results, *results]), strict=True))
    assert [text for _, text in page.all("dt")] == names
    assert [text for _, text in page.all("dd")] == values
    assert len(set(names)) == len(names)
    assert "5,387,776" in values


def test_edits_in_force_are_named(bundled, tmp_path):
    with bundled.edited({"blocks.0.attn_out": 0.25}):
        result = cutaway.predictions.next_tokens(bundled, "The")
    cutaway.report([result], tmp_path / "report.htm")
    page = Page((tmp_path / "report.htm").read_text(encoding="utf-8"))
    assert "blocks.0.attn_out = 0.25" in [text for _, text in page.all("code")]
    assert page.all("title")[0][1] == "Inside sotu"


@pytest.mark.parametrize(
    ("results", "name", "error", "message"),
    [
        (0, "report.html", InputError, "a report needs at least one result"),
        (1, "report.pdf", OutputError, r"report\.pdf ends in '\.pdf': one of \.html \.htm was expected"),
        (1, "report", OutputError, r"report has no ending"),
        (1, "file/report.html", OutputError, "a part of its path is a file"),
    ],
)
def test_mistakes_are_named(bundled, tmp_path, results, name, error, message):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(error, match=message):
        cutaway.report([all_results.make(bundled)["anatomy.read"]] * results, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_importing_the_package_leaves_the_function():
    import cutaway.pages.report

    assert cutaway.report is cutaway.pages.report.report


BARE = ["anatomy.read", "verify"]


def test_a_first_look_at_a_text(bundled):
    text = "The people of the United"
    results = list(standard(bundled, text))
    names = [result.analysis for result in results]
    assert names[:2] == BARE
    assert {"anatomy.tokens", "predictions.along", "predictions.next_tokens", "attribution.direct"} <= set(names)
    assert "ablation.run" in names
    assert {result.meta["input"] for result in results[2:]} == {text}
    assert names[-1] == "norms.measure"  # the text is too short for a regression


def test_a_first_look_at_documents(bundled, documents):
    found = [corpus.Document(name, text[:3000]) for name, text in list(documents.items())[:3]]
    results = {result.analysis: result for result in standard(bundled, documents=found)}
    assert list(results)[:2] == BARE
    assert results["predictions.next_tokens"].prompts[0] == "The people of the United"
    assert found[-1].text.startswith(results["predictions.along"].meta["input"])
    assert results["predictions.losses"].documents == [document.id for document in found]
    assert results["norms.regress"].documents == [document.id for document in found]


def test_ablations_are_as_many_as_there_is_time_for(bundled, monkeypatch, caplog):
    asked = []
    monkeypatch.setattr(cutaway.ablation, "run", lambda model, text, components: asked.append(components))
    work = 4 * bundled.n_parameters  # of the four tokens after the first, with one component
    for most in (36 * work + 1, 36 * work, 4 * work):
        monkeypatch.setattr(sys.modules["cutaway.pages.first_look"], "MOST_WORK", most)
        list(_ablation(bundled, "The people of the United"))
    assert asked == [("heads", "mlps"), "mlps"]
    assert "ablation is left out" in caplog.text
    assert not list(_ablation(bundled, "a"))


@pytest.mark.parametrize("layers", [13, 24, 25, 36, 48, 100])
def test_layers_of_a_deep_model_are_spread_from_the_first_to_the_last(layers):
    found = _spread(layers)
    assert (found[0], found[-1], len(found)) == (0, layers - 1, MOST_LAYERS)
    gaps = {later - earlier for earlier, later in itertools.pairwise(found)}
    assert max(gaps) - min(gaps) <= 1
    assert _spread(MOST_LAYERS) is None


def test_a_first_look_without_a_tokenizer_shows_what_it_can(tmp_path):
    all_results.save_wordless(tmp_path)
    model = cutaway.load(tmp_path, device="cpu")
    assert [result.analysis for result in standard(model)] == BARE
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        list(standard(model, "some text"))


@pytest.mark.parametrize("name", ["1983_ronald_reagan_r.txt", "1800_john_adams_f.txt"])
def test_an_opening_is_whole_words_and_reads_as_it_did_in_the_document(bundled, documents, name):
    text = documents[name]
    opening = _opening(bundled, text)
    assert text.startswith(opening)
    assert text[len(opening)].isspace()
    ids = bundled.tokenizer.encode([opening])[0][0]
    assert 150 < len(ids) <= 192
    assert ids == bundled.tokenizer.encode([text])[0][0][: len(ids)]


@pytest.mark.parametrize("text", ["One", "One short text.", "  two lines\n"])
def test_the_opening_of_a_short_text_is_all_of_it(bundled, text):
    assert _opening(bundled, text) == text


def test_what_is_no_result_is_named(bundled, tmp_path):
    result = cutaway.anatomy.read(bundled)
    run = bundled.run("The people", capture="embed")
    path = tmp_path / "report.html"
    wrong = {
        "report takes a list of results: give": result,
        "result 1 is a VConcatChart": [cutaway.attention.read(bundled, "The people").chart()],
        "result 2 is a Run": [result, run],
        "result 1 is a str": run,
        "'report.html' was given as results": "report.html",
        "None was given as results": None,
        "a Tensor of float32 [1, 2, 8192] was given as results": run.logits,
    }
    for line, given in wrong.items():
        with pytest.raises(InputError, match=re.escape(line)):
            cutaway.report(given, path)
    assert not path.exists()
