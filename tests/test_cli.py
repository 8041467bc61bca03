"""The command line: what it prints and writes, how it says what went wrong, how it stops."""

import importlib.metadata as metadata
import io
import json
import os
import signal
import subprocess
import sys

import pandas as pd
import pytest
import typer

import cutaway
from cutaway import cli
from cutaway.analyses.causal_trace.engine import Tracer
from cutaway.errors import Interrupted
from tests.patience import LONG
from tests.results import save_wordless
from tests.terminal import Terminal

PROMPT = "The people of the United"
PAIR = ["The Soviet Union and the free", "The Indian Union and the free"]
QUICK = "the state of the Union " * 40


@pytest.fixture
def cutaway_(monkeypatch, capsys, tmp_path):
    """Run a command in this process, in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "argv", ["cutaway", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="ascii"))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return (stop.value.code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def wordless(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "wordless"
    save_wordless(folder)
    return folder


def program(*arguments, **options):
    """Start the command line in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "cutaway", *arguments], **options)


# --- what it prints ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "make"),
    [
        (["predict", PROMPT, " a", "--top", "3"], lambda m: cutaway.predictions.next_tokens(m, [PROMPT, " a"], 3)),
        (["predict", PROMPT, "--along", "--bos"], lambda m: cutaway.predictions.along(m, PROMPT, bos=True)),
        (["anatomy"], cutaway.anatomy.read),
        (["lens", PROMPT], lambda m: cutaway.logit_lens.read(m, PROMPT)),
        (
            ["attribute", PROMPT, "--target", " States", "--versus", " Nations", "--neurons", "3"],
            lambda m: cutaway.attribution.direct(m, PROMPT, " States", " Nations", neurons=3),
        ),
        (
            ["attribute", PROMPT, "--how", "gradient", "--site", "attn_out", "--position", "2"],
            lambda m: cutaway.attribution.gradient(m, PROMPT, sites="attn_out", position=2),
        ),
        (
            ["attribute", PROMPT, "--how", "integrated", "--steps", "8", "--baseline", "mean"],
            lambda m: cutaway.attribution.integrated(m, PROMPT, steps=8, baseline="mean"),
        ),
        (
            ["trace", PROMPT, "--subject", "people", "--samples", "2"],
            lambda m: cutaway.causal_trace.trace(m, PROMPT, "people", samples=2),
        ),
        (
            [
                *["trace", "--subject", "e", "--occurrence", "1", "--kind", "mlp_out", "--kind", "attn_out"],
                *["--window", "2", "--noise", "2", "--uniform", "--seed", "3", "--samples", "1", "--bos"],
                PROMPT,
                "--answer",
                " States of",
                "--noise-from",
                " war",
            ],
            lambda m: cutaway.causal_trace.trace(
                m,
                PROMPT,
                "e",
                " States of",
                ["mlp_out", "attn_out"],
                2,
                2.0,
                1,
                3,
                [" war"],
                distribution="uniform",
                occurrence=1,
                bos=True,
            ),
        ),
        (["patch", *PAIR], lambda m: cutaway.patching.run(m, *PAIR)),
        (
            [
                "patch",
                *PAIR,
                "--at",
                "attn_out",
                "--at",
                "attn.z",
                "--metric",
                "kl",
                "--direction",
                "corrupt",
                "--each",
            ],
            lambda m: cutaway.patching.run(m, *PAIR, ["attn_out", "attn.z"], "kl", "corrupt", together=False),
        ),
        (
            ["patch", *PAIR, "--at", "mlp.post", "--neurons", "3", "--gradients", "--layer", "-1", "--position", "5"],
            lambda m: cutaway.patching.attribution(
                m, *PAIR, "mlp.post", neurons=3, exact=True, layers=[-1], positions=[5]
            ),
        ),
        (
            ["patch", *PAIR, "--neurons", "3", "--layer", "0"],
            lambda m: cutaway.patching.run(m, *PAIR, "mlp.post", neurons=3, layers=[0]),
        ),
        (
            ["patch", *PAIR, "--sender", "heads", "--sender", "mlps", "--receiver", "head 3.1 q", "--through-mlps"],
            lambda m: cutaway.patching.path(m, *PAIR, ["heads", "mlps"], "head 3.1 q", through_mlps=True),
        ),
        (["attention", PROMPT, "--bos"], lambda m: cutaway.attention.read(m, PROMPT, bos=True)),
        (
            ["patch", *PAIR, "--at", "head 3.1", "--at", "neuron -1.7", "--at", "mlp 2"],
            lambda m: cutaway.patching.run(m, *PAIR, ["head 3.1", "neuron -1.7", "mlp 2"]),
        ),
        (
            ["ablate", PROMPT, "--components", "head 3.1", "--components", "neuron 3.712", "--how", "zero"],
            lambda m: cutaway.ablation.run(m, PROMPT, ["head 3.1", "neuron 3.712"], "zero"),
        ),
        (
            ["ablate", PROMPT, "--components", "mlps", "--components", "embed", "--how", "zero", "--metric", "kl"],
            lambda m: cutaway.ablation.run(m, PROMPT, ["mlps", "embed"], "zero", ["kl"]),
        ),
        (["norms", "--text", QUICK, "--of", "mlp_out"], lambda m: cutaway.norms.measure(m, QUICK, "mlp_out").regress()),
        (["norms", "--text", PROMPT, "--lags", "0", "--no-log"], lambda m: cutaway.norms.measure(m, PROMPT, log=False)),
        (["unigram", "--also", " war"], lambda m: cutaway.unigram.read(m, also=[" war"])),
        (
            ["unigram", "--compare", "--counts", "training"],
            lambda m: cutaway.unigram.compare(m, cutaway.unigram.training_counts()),
        ),
    ],
)
def test_a_command_prints_the_summary_or_the_json_of_its_analysis(cutaway_, bundled, arguments, make):
    expected = make(bundled)
    assert cutaway_(*arguments) == (0, expected.summary() + "\n", "")
    code, out, err = cutaway_(*arguments, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads(json.dumps(expected.to_dict()))


def test_tokens_prints_a_table(cutaway_, bundled):
    code, out, _ = cutaway_("tokens", "caf\u00e9 \u6771\n")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    table = cutaway.anatomy.tokens(bundled, "caf\u00e9 \u6771\n").table()
    assert rows[0] == ["position", "token_id", "display", "start", "end"]
    assert rows[1:] == [[str(value) for value in row] for row in table[rows[0]].itertuples(index=False)]
    assert json.loads(cutaway_("tokens", "a", "--json")[1])["analysis"] == "anatomy.tokens"


def test_sites_prints_all_or_those_of_a_pattern(cutaway_, bundled):
    assert cutaway_("sites") == (0, f"{bundled.sites()}\n", "")
    code, out, _ = cutaway_("sites", "blocks.0.attn.*")
    names = [line.split()[0] for line in out.splitlines()]
    assert code == 0
    assert names == ["name", *(site.name for site in bundled.sites().match("blocks.0.attn.*"))]
    found = json.loads(cutaway_("sites", "--json")[1])
    assert found["analysis"] == "sites"
    assert [record["name"] for record in found["data"]] == bundled.sites().table()["name"].tolist()


@pytest.mark.slow
def test_unigram_edits_and_claims_over_a_corpus(cutaway_, bundled, tmp_path, monkeypatch):
    texts = {f"{name}.txt": f"{PROMPT} States {name} at peace." for name in "ab"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    common = ["unigram", "--corpus", "*.txt"]
    made = cutaway.unigram.edit(bundled, {" the": 0.5, "=": -0.1}, texts, "exact")
    raised = ["--raise", " the=0.5", "--raise", "==-0.1", "--method", "exact"]
    assert cutaway_(*common, *raised) == (0, made.summary() + "\n", "")
    claimed = cutaway.unigram.claim(bundled, cutaway.text.corpus.open_corpus("*.txt"))
    assert cutaway_(*common, "--claim") == (0, claimed.summary() + "\n", "")
    assert cutaway_(*common, "--compare", "-o", "scatter.html")[0] == 0
    asked = []
    monkeypatch.setattr(cutaway.unigram, "edit_effects", lambda *given, bos: asked.append(given[1:]) or made)
    assert cutaway_(*common, "--raise", ".=0.4", "--generate")[0] == 0
    [(token, nats, source)] = asked
    assert (token, nats, {d.id: d.text for d in source}) == (".", (0.1, 0.2, 0.4), texts)


def test_generate_continues(cutaway_, bundled):
    made = bundled.generate([PROMPT], 5, seed=3)
    assert cutaway_("generate", PROMPT, "-n", "5", "--seed", "3") == (0, f"{made}\n", "")
    [record] = json.loads(cutaway_("generate", PROMPT, "-n", "5", "--seed", "3", "--json")[1])["data"]
    assert record == {"prompt": PROMPT, "continuation": made.continuations[0], "text": made.texts[0]}


def test_anatomy_can_be_measured(cutaway_):
    code, out, _ = cutaway_("anatomy", "--verify")
    assert code == 0
    assert all(line.startswith("yes ") for line in out.splitlines())
    assert "logits equal the reference's" in out


def test_versions_names_what_can_change_a_number(cutaway_):
    out = dict(line.split(maxsplit=1) for line in cutaway_("versions")[1].splitlines())
    assert out["torch"] == metadata.version("torch")
    assert out["cutaway"] == cutaway.__version__
    assert {"python", "altair", "machine", "CUDA"} <= set(out)


# --- what it writes ---


@pytest.mark.parametrize("ending", [".html", ".png", ".svg", ".json", ".csv", ".parquet"])
def test_output_is_written_by_its_ending(cutaway_, tmp_path, ending):
    path = tmp_path / f"new/out{ending}"
    assert cutaway_("predict", PROMPT, "-o", f"new/out{ending}") == (0, f"{path}\n", "")
    assert path.stat().st_size > 100
    if ending == ".json":
        assert path.read_text(encoding="utf-8") == cutaway_("predict", PROMPT, "--json")[1].rstrip("\n")


def test_sites_are_written_as_a_table(cutaway_, tmp_path, bundled):
    assert cutaway_("sites", "-o", "sites.csv")[0] == 0
    assert pd.read_csv(tmp_path / "sites.csv")["name"].tolist() == bundled.sites().table()["name"].tolist()


@pytest.mark.slow
def test_report_on_a_text_names_the_page_and_its_figures(cutaway_, tmp_path):
    code, out, err = cutaway_("report", "--text", PROMPT, "-o", "page.html")
    assert (code, err) == (0, "")
    first, *facts = out.splitlines()
    assert first == str(tmp_path / "page.html")
    assert "parameters 5,387,776" in [" ".join(fact.split()) for fact in facts]
    assert PROMPT in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_report_on_a_corpus_names_what_it_left_out(cutaway_, tmp_path):
    for name, text in {"a.txt": QUICK, "b.txt": QUICK[9:], "empty.txt": ""}.items():
        (tmp_path / name).write_text(text)
    code, out, err = cutaway_("report", "--corpus", "a.txt", "--corpus", "[be]*.txt")
    assert code == 0
    # And no progress: no terminal.
    assert err == "corpus a.txt, [be]*.txt: left out: empty.txt: empty document\n"
    assert out.splitlines()[0] == str(tmp_path / "report.html")
    assert "b.txt" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_report_without_a_tokenizer_shows_what_needs_none(cutaway_, tmp_path, wordless):
    code, out, err = cutaway_("report", "-m", str(wordless))
    assert (code, err) == (0, "wordless has no tokenizer: the report shows what needs no text\n")
    assert out.splitlines()[0] == str(tmp_path / "report.html")


def test_norms_of_a_corpus_take_its_options(cutaway_, tmp_path, bundled):
    texts = {"a.txt": QUICK, "b.txt": QUICK[9:]}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    options = ["--lags", "3", "--position", "--pooled", "--errors", "hac", "--shuffles", "5", "--seed", "2"]
    found = json.loads(cutaway_("norms", "--corpus", "*.txt", "--json", *options)[1])
    expected = cutaway.norms.regress(
        bundled, texts, lags=3, position=True, pooled=True, errors="hac", shuffles=5, seed=2
    ).to_dict()
    assert found["data"] == json.loads(json.dumps(expected["data"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "make"),
    [
        (["norms", "--lags", "0"], lambda m, c: cutaway.norms.measure(m, c)),
        (["attention"], lambda m, c: cutaway.attention.average(m, c)),
        (["lens"], lambda m, c: cutaway.logit_lens.average(m, c)),
        (["ablate", "--components", "mlps"], lambda m, c: cutaway.ablation.run(m, c, "mlps")),
        (["states", "--sample", "20"], lambda m, c: cutaway.states.measure(m, c, sample=20)),
        (["unigram", "--compare"], lambda m, c: cutaway.unigram.compare(m, c)),
    ],
)
def test_records_of_a_corpus_take_a_field(cutaway_, tmp_path, bundled, command, make):
    frame = pd.DataFrame({"title": ["a", "b"], "body": [QUICK[:200], f"{PROMPT} States " * 5], "n": [1, 2]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "b.parquet")
    for name in ("a.csv", "b.parquet"):
        texts = {f"{name}:{i}": text for i, text in enumerate(frame["body"])}
        found = json.loads(cutaway_(*command, "--corpus", name, "--field", "body", "--json")[1])
        assert found["data"] == json.loads(json.dumps(make(bundled, texts).to_dict()["data"]))
        code, out, err = cutaway_(*command, "--corpus", name)
        assert (code, out) == (2, "")
        assert err == f"cutaway: error: {name} has no field 'text': it has title, body, n; name one with field=\n"


@pytest.mark.slow
def test_a_report_takes_a_field_and_reads_no_ids(cutaway_, tmp_path):
    pd.DataFrame({"title": ["a"], "body": [QUICK], "n": [1]}).to_csv(tmp_path / "a.csv", index=False)
    assert cutaway_("report", "--corpus", "a.csv", "--field", "body", "-o", "page.html")[0] == 0
    assert "a.csv:0" in (tmp_path / "page.html").read_text(encoding="utf-8")
    (tmp_path / "ids.jsonl").write_text('{"input_ids": [1, 2, 3]}')
    code, out, err = cutaway_("report", "--corpus", "ids.jsonl")
    assert (code, out) == (2, "")
    assert err.startswith("cutaway: error: ids.jsonl:1 holds token ids, and report reads texts: ")


def test_ablations_of_a_corpus_take_a_reference(cutaway_, tmp_path, bundled):
    texts = {f"{name}.txt": f"{PROMPT} States {name} at peace." for name in "abc"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    options = ["--how", "resample", "--seed", "2", "--components", "mlps", "--budget", "1"]
    found = json.loads(cutaway_("ablate", "--corpus", "[ab].txt", "--reference", "c.txt", "--json", *options)[1])
    two = {name: texts[name] for name in ("a.txt", "b.txt")}
    made = cutaway.ablation.run(
        bundled, two, "mlps", "resample", reference={"c.txt": texts["c.txt"]}, seed=2, budget=1 << 20
    )
    assert found["data"] == json.loads(json.dumps(made.to_dict()["data"]))


@pytest.mark.parametrize(
    "command",
    [
        ["lens"],
        ["attention"],
        ["ablate", "--components", "mlps", "--how", "zero"],
        ["norms"],
        ["states", "--layer", "1", "--sample", "10", "--replicates", "19"],
        ["unigram", "--compare"],
        ["unigram", "--claim"],
    ],
    ids=" ".join,
)
def test_a_state_is_saved_and_read_back(cutaway_, tmp_path, monkeypatch, command):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(f"{PROMPT} States {name} at peace with all the world.")
    first = cutaway_(*command, "--corpus", "[abc].txt", "--state", "run.npz")
    assert first[0] == 0, first[2]
    assert (tmp_path / "run.npz").exists()
    monkeypatch.setattr("cutaway.surveys.survey.feed", None)  # nothing is computed again
    assert cutaway_(*command, "--corpus", "[abc].txt", "--state", "run.npz") == first
    code, _, err = cutaway_(*command, "--corpus", "[ab].txt", "--state", "run.npz")
    assert code == 2
    assert "is the state of another survey (another corpus" in err


def test_an_interrupted_ablation_shows_what_was_done(cutaway_, bundled, monkeypatch, tmp_path):
    found = cutaway.ablation.run(bundled, PROMPT, "mlps")

    def stop(*_, **__):
        raise Interrupted(found, "interrupted: 4 of 36 components, 5 tokens were done")

    monkeypatch.setattr(cutaway.ablation, "run", stop)
    assert cutaway_("ablate", PROMPT) == (
        130,
        found.summary() + "\n",
        "interrupted: 4 of 36 components, 5 tokens were done\n",
    )
    assert cutaway_("ablate", PROMPT, "-o", "found.csv")[0] == 130
    assert len(pd.read_csv(tmp_path / "found.csv")) == 4


# --- standard input ---


@pytest.mark.parametrize("stdin", [PROMPT, PROMPT + "\n"])
def test_a_dash_reads_standard_input_without_its_last_line_break(cutaway_, stdin):
    assert cutaway_("predict", "-", stdin=stdin.encode()) == cutaway_("predict", PROMPT)


def test_standard_input_is_utf8_whatever_the_locale(cutaway_, bundled):
    text = " caf\u00e9 \u6771\u4eac\n\n"
    code, out, _ = cutaway_("tokens", "-", "--json", stdin=text.encode())
    assert code == 0
    assert json.loads(out)["meta"]["input"] == text.removesuffix("\n")


@pytest.mark.slow
def test_what_it_prints_is_utf8_whatever_the_locale():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = program("tokens", " caf\u00e9", stdout=subprocess.PIPE, env=environment)
    out = done.communicate(timeout=LONG)[0]
    assert done.returncode == 0
    assert "·ca " in out.decode("utf-8")


def test_patch_writes_what_is_done_when_it_is_stopped(cutaway_, monkeypatch, bundled):
    whole = cutaway.patching.run(bundled, *PAIR)

    def stopped(*_, **__):
        raise Interrupted(whole, "interrupted after 3 of 24 cells")

    monkeypatch.setattr(cutaway.patching, "run", stopped)
    code, out, err = cutaway_("patch", *PAIR)
    assert (code, out, err) == (130, whole.summary() + "\n", "interrupted after 3 of 24 cells\n")


# --- mistakes ---

MISTAKES = {
    "nonsense": "No such command 'nonsense'; see 'cutaway --help'",
    "predict": "Missing argument 'prompts'; see 'cutaway predict --help'",
    "lens a --state s.npz": "--state saves a pass over a corpus: give a --corpus with it",
    "unigram --state s.npz": "--state saves a pass over a corpus: give --claim, or --compare without --counts",
    "predict a --nonsense": "No such option: --nonsense",
    "predict a --top 0": "Invalid value for '--top'",
    "predict a --top many": "Invalid value for '--top'",
    "predict ''": "the text is empty: at least one token was expected",
    "predict a ''": "text 2 of 2 is empty",
    "predict LONG": "tokens and the model's context is 512",
    "predict a b --along": "2 texts were given: --along reads one",
    "predict -": "the text is empty",
    "tokens ''": "anatomy.tokens reads one text that is not empty",
    "tokens a -m .": ". is not a model: it has no config.json",
    "predict a -m wordless": "the checkpoint 'wordless' has no tokenizer",
    "predict a -m ./nowhere": "'./nowhere' is not there",
    "predict a --dtype float7": "dtype 'float7' is unknown: float32, float16, bfloat16, float64 are known",
    "predict a --device pluto": "device 'pluto' cannot be used",
    "predict a --device meta": "device 'meta' has no memory",
    "predict a -o out.pdf": "out.pdf ends in '.pdf': one of .html .png .svg .json .csv .parquet was expected",
    "predict a -o out": "out has no ending",
    "predict a -o file.txt/out.json": "file.txt/out.json cannot be written: a part of its path is a file",
    "predict a -o folder.json": "folder.json is a folder: the path of a file was expected",
    "sites nonsense": "no site matches 'nonsense'",
    "sites blocks.9.attn_out": "no site matches 'blocks.9.attn_out'",
    "sites -o sites.png": "sites.png ends in '.png': one of .json .csv .parquet was expected",
    "lens": "lens reads a text or a --corpus: give one of the two",
    "ablate": "ablate reads a text or a --corpus: give one of the two",
    "ablate a --how none": "how='none' is unknown: zero, mean, resample were expected",
    "ablate a --components nonsense": "no site matches 'nonsense'",
    "ablate a --metric best": "no metric is called 'best': there are loss, kl, accuracy, rank",
    "ablate a": "no document has two tokens: there is nothing to predict",
    "ablate a-b --how resample": "give several documents, or a corpus as reference=",
    "attribute a --how best": "--how best is unknown: direct, gradient or integrated was expected",
    "attribute a --steps 4": "--steps is for --how integrated: --how direct was given",
    "attribute a --how integrated --site embed": "--site is for --how gradient: --how integrated was given",
    "attribute a --target Congress": "'Congress' is 3 tokens",
    "attribute a --position 3": "position=3: the text has 1 tokens",
    "attribute ''": "the text is empty",
    "trace a": "Missing option '--subject'; see 'cutaway trace --help'",
    "trace 'the'": "Missing option '--subject'",
    "trace a --subject b": "the subject 'b' is not in the prompt 'a'",
    "trace a --subject ''": "the subject is empty",
    "trace a --subject a": "the subject is the whole prompt",
    "trace a-a-b --subject a": "the subject 'a' is 2 times in the prompt (at characters 0, 2): say which",
    "trace a-b --subject b --answer ''": "the answer is empty",
    "trace a-b --subject b --window 9": "window=9: 1 to 4 layers were expected",
    "trace a-b --subject b --kind attn.z": "kinds=['attn.z']: some of resid_post, mlp_out, attn_out were expected",
    "patch a": "Missing argument 'corrupted'",
    "patch a a": "clean and corrupted are the same 1 tokens",
    "patch a a.b": "clean has 1 tokens and corrupted 3",
    "patch a b --metric best": "metric='best' is unknown",
    "patch a b --sender heads --at attn.z": "--at is not for path patching",
    "generate a -n 600": "context",
    "norms --text a --corpus b": "--text and --corpus were both given: one of them was expected",
    "norms --text a": "0 usable rows with lags=2",
    "norms --text ''": "the text is empty",
    "norms --of attn.pattern": "'attn.pattern' is B H P P",
    "norms --errors white": "errors='white' are unknown: 'ols', 'hac' or 'cluster' was expected",
    "norms --corpus empty.txt": "corpus empty.txt holds no text",
    "unigram --also Congress": "'Congress' is 3 tokens",
    "unigram --raise the": "--raise 'the': TOKEN=NATS was expected, such as ' the=2'",
    "unigram --raise .=lots": "--raise '.=lots': TOKEN=NATS was expected",
    "unigram --raise .=inf": "the change of '.' is inf: a finite number of nats was expected",
    "unigram --raise .=1 --method best": "method='best' is unknown: least-squares, fisher, exact are known",
    "unigram --raise .=1 --claim": "--compare, --claim and --raise were given together",
    "unigram --generate": "--generate shows the effects of one --raise TOKEN=NATS: give one",
    "unigram --counts training": "--counts is for --compare and --claim",
    "unigram --compare --counts none.npy": "none.npy cannot be read as counts (a .npy file, or 'training')",
    "unigram --compare --corpus empty.txt": "corpus empty.txt holds no text",
    "unigram --claim --corpus file.txt": "two documents of two tokens or more were expected",
    "report --text a --corpus b": "--text and --corpus were both given: one of them was expected",
    "report -o report.pdf": "report.pdf ends in '.pdf': one of .html .htm was expected",
    "report --corpus nowhere.txt": "corpus 'nowhere.txt': no file there",
    "report --corpus empty.txt": "corpus empty.txt holds no text",
    "report --corpus binary.txt": "corpus binary.txt holds no text (left out: binary.txt: binary, not text",
    "lens file.txt": "'file.txt' names an existing file",
    "norms --text *.txt": "'*.txt' names 3 existing files",
    "norms --field body": "--field names a field of the files of --corpus: give --corpus, too",
    "report --text LONG": "tokens and the model's context is 512",
    "report --text ''": "anatomy.tokens reads one text that is not empty",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_line_and_exits_with_2(cutaway_, tmp_path, wordless, command):
    (tmp_path / "wordless").symlink_to(wordless)
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file.txt").write_text("kept")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "binary.txt").write_bytes(b"\x00\xff\xfe")
    before = sorted(tmp_path.rglob("*"))
    arguments = [{"''": "", "LONG": "word " * 600}.get(word, word) for word in command.split()]
    code, out, err = cutaway_(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("cutaway: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert MISTAKES[command] in err
    assert sorted(tmp_path.rglob("*")) == before


def test_standard_input_that_is_no_text_is_named(cutaway_):
    code, out, err = cutaway_("tokens", "-", stdin=b"caf\xe9 \xff")
    assert (code, out) == (2, "")
    assert err == "cutaway: error: standard input is not UTF-8 text (byte 3): convert it first\n"


@pytest.mark.slow
def test_in_a_process_of_its_own_there_is_no_traceback():
    done = program("predict", "", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = done.communicate(timeout=LONG)
    assert (done.returncode, out) == (2, b"")
    assert err.startswith(b"cutaway: error: the text is empty")
    assert err.count(b"\n") == 1


# --- help ---

COMMANDS = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
HEAVY = ["torch", "altair", "pandas", "numpy", "transformers", "tokenizers", "jinja2", "vl_convert"]


@pytest.mark.slow
def test_help_of_every_command_loads_nothing_heavy():
    code = f"""
import sys
from cutaway import cli
from cutaway.errors import Interrupted
for command in {["", *COMMANDS]!r}:
    sys.argv = ["cutaway", *([command] if command else []), "--help"]
    try:
        cli.main()
    except SystemExit as stop:
        assert stop.code == 0, command
print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LONG, check=True)
    assert done.stderr.split() == []
    assert done.stdout.count("Usage: cutaway") == 1 + len(COMMANDS)


def test_help_has_nothing_in_square_brackets():
    """Help texts are read as markup, where text in square brackets would be lost."""
    commands = typer.main.get_command(cli.app).commands
    assert commands.keys() == set(COMMANDS)
    for command in commands.values():
        assert "[" not in command.help
        assert [option.name for option in command.params if "[" in (option.help or "")] == []


def test_without_a_command_it_shows_its_help(cutaway_):
    code, out, err = cutaway_()
    assert (code, err) == (2, "")
    assert all(command in out for command in COMMANDS)


# --- how it stops ---


@pytest.mark.slow
@pytest.mark.parametrize(("command", "unbuffered"), [("sites", ""), ("versions", ""), ("versions", "1")])
def test_a_reader_that_leaves_early_is_no_error(command, unbuffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}  # the error comes at the print, or at the end
    done = program(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    done.stdout.close()
    err = done.stderr.read()
    done.stderr.close()
    assert done.wait(LONG) == 1
    assert err == b""


def test_ctrl_c_in_a_trace_writes_what_is_done(cutaway_, tmp_path, monkeypatch):
    inner, calls = Tracer.scores, []

    def scores(self, position, of):
        if position == 3:
            raise KeyboardInterrupt
        calls.append(position)
        return inner(self, position, of)

    monkeypatch.setattr(Tracer, "scores", scores)
    code, out, err = cutaway_("trace", PROMPT, "--subject", "people", "--samples", "2", "-o", "part.csv")
    assert (code, err) == (130, "interrupted: 3 of 5 positions are done\n")
    assert out == f"{tmp_path / 'part.csv'}\n"
    table = pd.read_csv(tmp_path / "part.csv")
    assert table.groupby("position")["probability"].count().tolist() == [12, 12, 12, 0, 0]
    code, out, _ = cutaway_("trace", PROMPT, "--subject", "people", "--samples", "2")
    assert code == 130
    assert out.endswith("not finished: 3 of 5 positions x 4 layers are done\n")


@pytest.mark.slow
def test_ctrl_c_exits_with_130_and_leaves_no_half_written_file(tmp_path):
    (tmp_path / "report.html").write_text("old")
    text = tmp_path / "many.txt"
    text.write_text(QUICK * 2000)  # far more than is read before the signal
    terminal = Terminal("-m", "cutaway", "report", "--corpus", str(text), "-o", str(tmp_path / "report.html"))
    terminal.wait_for("reading documents")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.finish() == (130, "")
    assert "Traceback" not in terminal.shown
    assert terminal.shown.rindex("\x1b[?25h") > terminal.shown.rindex("\x1b[?25l")  # the cursor is back
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.txt", "report.html"]
    assert (tmp_path / "report.html").read_text() == "old"
