"""Every endpoint of the workbench gives the numbers of the Python API."""

import base64
import csv
import io
import json
import math

import numpy as np
import pytest

import cutaway
from cutaway.app import examples, schemas
from cutaway.app.static_files import FOLDERS
from cutaway.charts.draw import draw
from cutaway.errors import TokenizerError
from cutaway.panels import payloads as views
from tests.app.client import Served, read_events
from tests.results import save_tiny

EVERY = [(name, getattr(examples, name)) for name in ("STORY", "REPEATED", "CODE", "ODD")]
TEXT = "The people of the United States, caf\u00e9 \U0001f642\n\n</script><img src=x onerror=alert(1)> of the people"
LONG = "We have been here before, and we shall come again to the Congress of the United States. " * 8


def same(found, expected):
    """Return whether JSON's numbers, None for NaN, equal a tensor's to the last bit."""
    np.testing.assert_array_equal(np.array(found, dtype=float), expected.numpy())


@pytest.mark.parametrize(("text", "bos"), [(TEXT, False), (TEXT, True), ("a", False), ("", True), (LONG, False)])
def test_view_has_the_numbers_of_the_python_api(served, bundled, text, bos):
    found = served.post("/api/view", {"text": text, "bos": bos})
    along = cutaway.predictions.along(bundled, text, bos=bos)
    lens = cutaway.logit_lens.read(bundled, text, top=5, bos=bos)
    tokenizer = bundled.tokenizer
    assert found["text"] == text
    assert [token["id"] for token in found["tokens"]] == along.ids
    for token in found["tokens"]:
        assert (token["text"], token["display"]) == (tokenizer.string(token["id"]), tokenizer.display(token["id"]))
        if token["start"] is not None and "\ufffd" not in token["text"]:
            assert text[token["start"] : token["end"]] == token["text"]
    assert [token["start"] for token in found["tokens"]].count(None) == bos

    n = len(along.ids)
    assert [[c["id"] for c in at["top"]] for at in found["next"]] == along.top_ids.tolist()
    same([[c["p"] for c in at["top"]] for at in found["next"]], along.top_probabilities)
    assert [[c["text"] for c in at["top"]] for at in found["next"]] == along.top_tokens
    same([at["entropy"] for at in found["next"]], along.entropy)
    actual = [at["actual"] for at in found["next"]]
    assert actual.pop() is None
    assert [came["id"] for came in actual] == along.ids[1:]
    assert [came["rank"] for came in actual] == along.next_rank.tolist()
    same([came["loss"] for came in actual], along.next_loss)
    same([came["p"] for came in actual], along.next_probability)

    assert found["lens"]["sites"] == lens.sites
    assert found["lens"]["layers"] == [0, 1, 2, 3]
    for name in ("entropy", "kl", "loss"):
        same(found["lens"][name], getattr(lens, name))
    assert found["lens"]["rank"] == [[rank or None for rank in row] for row in lens.rank.tolist()]
    top, names = found["lens"]["top"], found["lens"]["names"]
    assert top == lens.top_ids.tolist()
    same(found["lens"]["p"], lens.top_probabilities)
    assert [[[names[str(i)] for i in ids] for ids in row] for row in top] == lens.top_display

    size = found["heads"]["size"]
    assert size == min(n, 48)
    shades = np.frombuffer(base64.b64decode(found["heads"]["patterns"]), np.uint8).reshape(4, 8, size, size)
    patterns = cutaway.attention.read(bundled, text, bos=bos).patterns.numpy()
    if n <= 48:
        np.testing.assert_allclose(shades, np.sqrt(patterns) * 255, atol=0.501)
    else:  # means of blocks, each cell of the picture one
        for i, j in [(0, 0), (20, 3), (47, 46), (30, 30)]:
            cells = [slice(k * n // 48, math.ceil((k + 1) * n / 48)) for k in (i, j)]
            expected = np.sqrt(patterns[:, :, cells[0], cells[1]].mean((2, 3))) * 255
            np.testing.assert_allclose(shades[:, :, i, j], expected, atol=0.51)


def test_calls_are_python_that_gives_the_same(served, bundled):
    found = served.post("/api/view", {"text": TEXT})
    names = {"cutaway": cutaway}
    results = {}
    for name, call in found["call"].items():
        load, _, expression = call.partition("\n")
        exec(load, names)
        names["model"] = bundled  # on the CPU, as the server's is
        results[name] = eval(expression, names)
    same([[c["p"] for c in at["top"]] for at in found["next"]], results["next"].top_probabilities)
    same(found["lens"]["kl"], results["lens"].kl)
    assert results["attention"].ids == [token["id"] for token in found["tokens"]]


def test_a_view_in_parts_is_the_same(served):
    whole = served.post("/api/view", {"text": TEXT})
    part = served.post("/api/view", {"text": TEXT, "lens": False, "top": 3})
    assert part["lens"] is None
    assert part["call"]["lens"] is None
    assert all(len(at["top"]) == 3 for at in part["next"])
    for name in ("tokens", "heads", "text"):
        assert part[name] == whole[name]
    assert [at["actual"] for at in part["next"]] == [at["actual"] for at in whole["next"]]
    least = served.post("/api/view", {"text": TEXT, "lens": False, "heads": False})
    assert least["heads"] is None
    assert least["next"] == whole["next"]
    lens = served.post("/api/view", {"text": TEXT, "next": False, "heads": False})
    assert lens["next"] is None
    assert lens["lens"] == whole["lens"]
    assert served.post("/api/view", {"text": TEXT, "next": False, "lens": False})["heads"] == whole["heads"]
    nothing = served.post("/api/view", {"text": TEXT, "next": False, "lens": False, "heads": False})
    assert nothing["tokens"] == whole["tokens"]


@pytest.mark.parametrize(("layer", "head", "bos"), [(0, 0, False), (3, 7, True), (2, 5, False)])
def test_one_head_is_exactly_attention_reads(served, bundled, layer, head, bos):
    status, headers, content = served.ask(
        "POST", "/api/attention", {"text": TEXT, "layer": layer, "head": head, "bos": bos}
    )
    assert (status, headers["Content-Type"]) == (200, "application/octet-stream")
    expected = cutaway.attention.read(bundled, TEXT, bos=bos).patterns[layer, head].numpy()
    np.testing.assert_array_equal(np.frombuffer(content, "<f4").reshape(expected.shape), expected)


@pytest.mark.parametrize("token", [" States", 443, 8191, 200])
def test_the_rank_of_a_token(served, bundled, token):
    found = served.post("/api/rank", {"text": TEXT, "token": token})
    lens = cutaway.logit_lens.read(bundled, TEXT, targets=[token])
    assert found["rank"] == lens.target_rank[..., 0].tolist()
    assert found["p"] == lens.target_probability[..., 0].tolist()
    assert found["display"] == bundled.tokenizer.display(found["id"])
    if isinstance(token, str):
        same = served.post("/api/rank", {"text": TEXT, "token": found["id"]})
        assert (same["rank"], same["p"]) == (found["rank"], found["p"])


SAMPLING = [
    {"max_new_tokens": 12, "seed": 3},
    {"max_new_tokens": 5, "temperature": 0, "bos": True},
    {"max_new_tokens": 20, "temperature": 0.7, "top_k": 20, "top_p": 0.9, "seed": 2**53 - 1},
]


@pytest.mark.parametrize("sampling", SAMPLING)
def test_generation_is_model_generate_step_by_step(served, bundled, sampling):
    *steps, (last, done) = served.events("/api/generate", {"text": "The people of", **sampling})
    made = bundled.generate("The people of", **sampling)
    assert {name for name, _ in steps} <= {"token", "queued"}
    steps = [data for name, data in steps if name == "token"]
    n = made.prompt_lengths[0]
    assert [step["id"] for step in steps] == made.tokens.rows()[0][n:]
    assert (last, done["text"]) == ("done", made.continuations[0])
    along = cutaway.predictions.along(bundled, made.tokens)
    np.testing.assert_allclose([step["p"] for step in steps], along.next_probability[n - 1 :], rtol=1e-4)
    assert [step["text"] for step in steps] == along.tokens[n:]
    namespace = {"model": bundled}
    assert eval(done["call"].partition("\n")[2], namespace).continuations[0] == done["text"]


def test_anatomy(served, bundled):
    found, result = served.get("/api/anatomy"), cutaway.anatomy.read(bundled)
    assert found["summary"] == result.summary()
    assert [(p["name"], p["parameters"], p["of"]) for p in found["parts"]] == [
        (p.name, p.parameters, p.of) for p in result.parts
    ]
    assert found["config"]["d_vocab"] == 8192
    kinds = {site.kind for site in bundled.sites()}
    assert len(found["sites"]) == len(kinds)
    assert {site["name"].replace("blocks.i.", "") for site in found["sites"]} == kinds


def test_facts_come_one_by_one(served, bundled):
    events = served.events("/api/verify", {})
    result = cutaway.verify(bundled)
    checks = [data for name, data in events if name == "check"]
    assert [(check["claim"], check["holds"]) for check in checks] == [(i.claim, i.holds) for i in result.items]
    assert [check["measured"] for check in checks] == pytest.approx([i.measured for i in result.items], rel=1e-3)
    progress = [data for name, data in events if name == "progress"]
    assert progress == [{"done": i, "of": len(result.items)} for i in range(len(result.items) + 1)]
    assert events[-1][0] == "done"
    assert events[-1][1]["holds"] is True
    assert events[-1][1]["call"] == result.meta["call"]


@pytest.mark.parametrize("what", ["next", "lens", "attention", "anatomy"])
def test_data_is_what_result_save_writes(served, bundled, tmp_path, what):
    made = {
        "next": lambda: cutaway.predictions.along(bundled, TEXT),
        "lens": lambda: cutaway.logit_lens.read(bundled, TEXT),
        "attention": lambda: cutaway.attention.read(bundled, TEXT),
        "anatomy": lambda: cutaway.anatomy.read(bundled),
    }[what]()
    for ending, kind in (("csv", "text/csv"), ("json", "application/json")):
        body = {"what": what, "text": TEXT, "format": ending}
        status, headers, content = served.ask("POST", "/api/save", body)
        made.save(tmp_path / f"x.{ending}")
        assert status == 200
        assert content == (tmp_path / f"x.{ending}").read_bytes()
        assert headers["Content-Type"] == kind
        assert headers["Content-Disposition"] == f'attachment; filename="cutaway-{what}.{ending}"'
    assert json.loads(content)["analysis"] == made.analysis
    assert len(list(csv.reader(io.StringIO((tmp_path / "x.csv").read_text(encoding="utf-8"))))) == len(made.table()) + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "ending", "begins"),
    [
        ("next", "png", b"\x89PNG"),
        ("lens", "svg", b"<svg"),
        ("attention", "html", b"<!doctype html>"),
        ("anatomy", "svg", b"<svg"),
    ],
)
def test_pictures(served, what, ending, begins):
    body = {"what": what, "text": TEXT, "format": ending, "layer": 1, "head": 3, "position": 4, "metric": "entropy"}
    status, _, content = served.ask("POST", "/api/save", body)
    assert status == 200
    assert content.startswith(begins)


@pytest.mark.slow
def test_pictures_stand_where_the_page_does(served, bundled, monkeypatch):
    stood = []
    monkeypatch.setattr(
        "cutaway.panels.payloads.saved", lambda found, ending, at: stood.append((found.analysis, at)) or b""
    )
    for what in ("next", "lens", "attention"):
        at = {"layer": 2, "head": 5, "position": 20, "metric": "rank"}
        assert served.ask("POST", "/api/save", {"what": what, "text": LONG, "format": "svg", **at})[0] == 200
    assert [analysis for analysis, _ in stood] == ["predictions.along", "logit_lens.read", "attention.read"]
    at = stood[0][1]
    results = [
        cutaway.predictions.along(bundled, LONG),
        cutaway.logit_lens.read(bundled, LONG),
        cutaway.attention.read(bundled, LONG),
    ]
    found = {param["name"]: param["value"] for result in results for param in draw(result, at).to_dict()["params"]}
    wanted = {"prefix": 21, "first": 12, "layer": 2, "head": 5, "metric": "rank"}
    assert found | wanted == found
    ends = draw(results[1], views.sliders(None, None, 3, None)).to_dict()["params"]
    assert {param["name"]: param["value"] for param in ends} == {"metric": "kl", "first": 0}


def test_a_page_begins_with_its_first_example(served, bundled):
    start = served.get("/api/start")
    assert start["model"] == {
        "name": "sotu",
        "fingerprint": bundled.fingerprint,
        "has_tokenizer": True,
        "n_layers": 4,
        "n_heads": 8,
        "n_ctx": 512,
        "d_vocab": 8192,
    }
    assert start["limits"] == {"characters": 16_000, "tokens": 512, "new_tokens": 200, "top": 50}
    assert start["version"] == cutaway.__version__
    assert start["token_needed"] is False
    assert start["examples"] == examples.for_model(bundled, 512)
    assert start["view"] == served.post("/api/view", {"text": start["examples"][0]["text"]})
    for example in start["examples"]:
        assert served.post("/api/view", {"text": example["text"]})["lens"]


def test_the_page_holds_its_start(served):
    status, headers, content = served.ask("GET", "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    before, _, after = content.decode().partition('<script type="application/json" id="start">')
    data, _, _ = after.partition("</script>")
    assert json.loads(data) == served.get("/api/start")
    assert "<script type" not in before or 'type="module"' in before


def test_files_are_served_and_nothing_else(served):
    kinds = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
    for place, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix in kinds:
                address = f"{place}/{path.relative_to(folder).as_posix()}"
                status, headers, content = served.ask("GET", address)
                assert (status, content) == (200, path.read_bytes()), address
                assert (headers["Content-Type"], headers["Cache-Control"]) == (kinds[path.suffix], "no-cache")
                again, headers, nothing = served.ask("GET", address, If_None_Match=headers["ETag"])
                assert (again, nothing, headers["Cache-Control"]) == (304, b"", "no-cache")
    for wrong in (
        "../server.py",
        "..%2fserver.py",
        "%2e%2e/guard.py",
        "/etc/passwd",
        "nothing.js",
        "",
        "panels",
        "\x00",
    ):
        status, _, content = served.ask("GET", f"/static/{wrong}".replace("\x00", "%00"))
        assert status == 404, wrong
        assert json.loads(content)["error"].startswith("there is nothing at '/static/"), wrong


@pytest.mark.parametrize(
    ("path", "body", "line"),
    [
        ("/api/view", {"text": ""}, "is empty"),
        ("/api/view", {"text": "word " * 600}, "at most 512 were expected"),
        ("/api/view", {"text": "a" * 16_001}, "at most 16,000 characters"),
        ("/api/view", {"text": "\ud800"}, "half of a surrogate pair"),
        ("/api/view", {}, "'text' is missing"),
        ("/api/view", {"text": 3}, "'text': a text"),
        ("/api/view", {"text": "a", "bos": 1}, "'bos': true or false"),
        ("/api/view", {"text": "a", "top": 51}, "from 1 to 50"),
        ("/api/view", {"text": "a", "tops": 51}, "'tops' is unknown"),
        ("/api/view", {"text": "a", "\ud800\n": 51}, "is unknown"),
        ("/api/view", [], "an object was expected"),
        ("/api/view", b"{", "is not JSON"),
        ("/api/view", b'{"text": NaN}', "is not JSON"),
        ("/api/view", b"\xff", "is not JSON"),
        ("/api/view", b'{"text": "a", "top": ' + b"9" * 5000 + b"}", "is not JSON"),
        ("/api/view", b"[" * 100_000, "is not JSON"),
        ("/api/attention", {"text": "a", "layer": 4, "head": 0}, "from 0 to 3"),
        ("/api/attention", {"text": "a", "layer": -1, "head": 0}, "from 0 to 3"),
        ("/api/attention", {"text": "a", "layer": 0.5, "head": 0}, "a whole number"),
        ("/api/attention", {"text": "a", "layer": True, "head": 0}, "a whole number"),
        ("/api/rank", {"text": "a", "token": "two words"}, "exactly one was expected"),
        ("/api/rank", {"text": "a", "token": 8192}, "from 0 to 8191"),
        ("/api/rank", {"text": "a", "token": ""}, "'token'"),
        ("/api/generate", {"text": "a", "max_new_tokens": 201}, "from 1 to 200"),
        ("/api/generate", {"text": "a", "temperature": -1}, "from 0"),
        ("/api/generate", {"text": "a", "temperature": 10**400}, "from 0"),
        ("/api/generate", {"text": "a", "top_p": 0}, "above 0"),
        ("/api/generate", {"text": "a", "seed": 2**53}, "a whole number"),
        ("/api/generate", {"text": ""}, "is empty"),
        ("/api/generate", {"text": "word " * 400, "max_new_tokens": 200}, "exceed the context"),
        ("/api/verify", {"reference": "gpt2"}, "is unknown"),
        ("/api/save", {"what": "model", "format": "csv"}, "one of next, lens, attention, anatomy"),
        ("/api/save", {"what": "next", "format": "parquet"}, "one of png"),
        ("/api/save", {"what": "next", "format": "csv"}, "is empty"),
    ],
)
def test_what_cannot_be_is_named_in_a_line(served, path, body, line):
    status, said = served.refused(path, body)
    assert status == 400
    assert line in said


def test_whole_numbers_may_be_written_with_a_point(served):
    assert len(served.events("/api/generate", {"text": "a", "max_new_tokens": 2.0, "temperature": 1})) >= 3


def test_the_same_again_is_not_computed_again(served, bundled, monkeypatch):
    body = {"text": "A text that nobody has read before"}
    first = served.post("/api/view", body)
    said = served.events("/api/generate", body)
    facts = served.events("/api/verify", {})
    monkeypatch.setattr(type(bundled), "run", None)
    monkeypatch.setattr("cutaway.app.routes.steps", lambda *_, **__: None)
    assert served.post("/api/view", body) == first  # its ms included
    assert served.events("/api/generate", body) == [event for event in said if event[0] != "queued"]
    assert served.events("/api/verify", {}) == [event for event in facts if event[0] != "queued"]


def test_a_fault_of_ours_shows_no_trace(served, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("secret of /home/me")

    monkeypatch.setattr("cutaway.panels.payloads.view", fail)
    status, headers, content = served.ask("POST", "/api/view", {"text": "another new text"})
    assert status == 500
    assert list(json.loads(content)) == ["error"]
    assert b"secret" not in content
    assert b"Traceback" not in content
    assert headers["Content-Security-Policy"]
    monkeypatch.setattr("cutaway.panels.payloads.continuation", fail)
    status, _, content = served.ask("POST", "/api/generate", {"text": "another new text", "max_new_tokens": 1})
    [(name, data)] = [event for event in read_events(content.decode()) if event[0] not in ("token", "queued")]
    assert name == "error"
    assert "secret" not in str(data)
    monkeypatch.undo()
    assert served.post("/api/view", {"text": "another new text"})["tokens"]


def test_numbers_that_are_none_are_null(bundled):
    text = "Numbers that are none"
    with bundled.edited({"blocks.1.mlp_out": float("nan")}):
        server = Served(bundled)
        try:
            found = server.post("/api/view", {"text": text})
            assert server.post("/api/rank", {"text": text, "token": 3})["p"][3] == [None] * len(found["tokens"])
            *_, (last, data) = server.events("/api/generate", {"text": text})
            assert (last, "NaN or infinity" in data["error"]) == ("error", True)
            assert server.events("/api/verify", {})[-1][1]["holds"] is False
        finally:
            server.close()
    assert found["next"][0]["top"][0]["p"] is None
    assert found["lens"]["entropy"][0][0] > 0
    assert found["lens"]["entropy"][3][0] is None


def test_limits_of_a_page_are_those_that_are_checked(bundled):
    bound, asked = schemas.limits(bundled), schemas.requests(bundled)
    assert asked["/api/view"]["properties"]["text"]["maxLength"] == bound["characters"]
    assert asked["/api/generate"]["properties"]["max_new_tokens"]["maximum"] == bound["new_tokens"]
    assert asked["/api/view"]["properties"]["top"]["maximum"] == bound["top"]


# --- models that are unlike the bundled one ---


@pytest.fixture(params=[2, 8, 21, 64])
def narrow(request, tmp_path):
    """A workbench on a model with a short context."""
    server = Served(cutaway.load(save_tiny(tmp_path / "tiny", n_positions=request.param), device="cpu"))
    yield server
    server.close()


def test_a_short_context_opens_with_examples_that_fit(narrow):
    assert narrow.ask("GET", "/")[0] == 200
    start = narrow.get("/api/start")
    model = narrow.bench.model
    assert start["view"]["text"] == start["examples"][0]["text"]
    for example in start["examples"]:
        whole = next(text for _, text in EVERY if text.startswith(example["text"]))
        found = narrow.post("/api/view", {"text": example["text"]})
        assert len(found["tokens"]) == len(model.tokenizer.encode([example["text"]])[0][0])
        assert len(found["tokens"]) < model.config.n_ctx or len(found["tokens"]) == 1
        assert len(model.tokenizer.encode([whole])[0][0]) >= len(found["tokens"])
    names = [
        name for name, _ in narrow.events("/api/generate", {"text": start["examples"][0]["text"], "max_new_tokens": 1})
    ]
    assert names[-1] == "done"
    assert "at most" in narrow.refused("/api/view", {"text": EVERY[0][1]})[1]


def test_a_tokenizer_that_knows_few_words_opens_with_one_of_them(tmp_path, monkeypatch):
    """Without an unknown token, such a tokenizer refuses the others."""
    model = cutaway.load(save_tiny(tmp_path / "tiny", pieces=["[END]", "war", "peace"]), device="cpu")
    encode = type(model.tokenizer).encode

    def refusing(self, texts, *args, **kwargs):
        if any(word not in ("[END]", "war", "peace") for text in texts for word in text.split()):
            raise TokenizerError("the tokenizer has no token for a part of the text")
        return encode(self, texts, *args, **kwargs)

    monkeypatch.setattr(type(model.tokenizer), "encode", refusing)
    server = Served(model)
    try:
        assert examples.for_model(server.bench.model, 64) == [{"name": "A token", "text": "[END]"}]
        assert server.ask("GET", "/")[0] == 200
        status, line = server.refused("/api/view", {"text": "an unknown word"})
        assert (status, line) == (400, "the tokenizer has no token for a part of the text")
        assert server.post("/api/view", {"text": "war"})["tokens"][0]["id"] == 1
    finally:
        server.close()
