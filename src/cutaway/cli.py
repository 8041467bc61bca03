"""The command line: `cutaway COMMAND`.

Each command imports what it needs when it runs, so that `cutaway --help` is quick. A user's mistake prints one line
and exits with 2.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutaway.errors import CutawayError, InputError

if TYPE_CHECKING:
    from cutaway.analyses.result import Result
    from cutaway.corpus import Document
    from cutaway.model.model import Model

# typer carries its own click or uses the installed one, by version; its public exceptions tell which.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]
Abort: type[BaseException] = typer.Abort

app = typer.Typer(
    name="cutaway",
    help="Open up a GPT-2-class language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelOption = Annotated[str | None, typer.Option("-m", "--model", help="A folder; the bundled model by default.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
DtypeOption = Annotated[str | None, typer.Option(help="float32, float16, bfloat16 or float64.")]
BosOption = Annotated[bool, typer.Option("--bos", help="Put the end-of-text token in front of each text.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _ending_in(*known: str) -> Callable[[Path | None], Path | None]:
    """What refuses a path of another ending before any work is done."""

    def check(path: Path | None) -> Path | None:
        from cutaway.analyses.result import ending

        if path:
            ending(path, known)
        return path

    return check


DATA = (".json", ".csv", ".parquet")
ANY = (".html", ".png", ".svg", *DATA)
OutputOption = Annotated[
    Path | None,
    typer.Option("-o", "--output", help=f"Write here instead: {' '.join(ANY)}.", callback=_ending_in(*ANY)),
]
TopOption = Annotated[int, typer.Option(help="How many candidates to show.", min=1)]


@app.command()
def report(
    model: ModelOption = None,
    text: Annotated[str | None, typer.Option(help="A text to look at; - reads standard input.")] = None,
    corpus: Annotated[
        list[str] | None, typer.Option(help="Text files, folders or quoted globs; repeatable. [default: bundled]")
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The page to write.", callback=_ending_in(".html", ".htm"))
    ] = Path("report.html"),
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Write a report on a model: one HTML page that needs no network."""
    from cutaway import corpus as documents
    from cutaway.progress import track
    from cutaway.report import facts, standard
    from cutaway.report import report as write

    if text is not None and corpus:
        raise InputError("--text and --corpus were both given: one of them was expected")
    found = _documents(corpus) if corpus else []
    loaded = _load(model, device, dtype)
    if text is None and not corpus:
        if loaded.has_tokenizer:
            found = documents.bundled()
        else:
            print(f"{loaded.name} has no tokenizer: the report shows what needs no text", file=sys.stderr)
    results = list(track(standard(loaded, None if text is None else _text(text), found), "looking inside"))
    write(results, output)
    _wrote(output)
    found_facts = facts(results)
    width = max(len(name) for name, _ in found_facts) + 2
    for name, value in found_facts:
        print(f"  {name:<{width}}{value}")


@app.command()
def predict(
    prompts: Annotated[list[str], typer.Argument(help="One or more prompts; - reads standard input.")],
    model: ModelOption = None,
    top: TopOption = 10,
    along: Annotated[bool, typer.Option("--along", help="Predict at every prefix of one text.")] = False,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """The most likely next tokens after each prompt, or all along a text."""
    if along and len(prompts) > 1:
        raise InputError(f"{len(prompts)} texts were given: --along reads one")
    from cutaway.analyses import predictions

    loaded, texts = _load(model, device, dtype), [_text(prompt) for prompt in prompts]
    if along:
        _show(predictions.along(loaded, texts[0], top=top, bos=bos), as_json, output)
    else:
        _show(predictions.next_tokens(loaded, texts, top=top, bos=bos), as_json, output)


@app.command()
def lens(
    text: Annotated[str | None, typer.Argument(help="The text; - reads standard input.")] = None,
    model: ModelOption = None,
    at: Annotated[
        str, typer.Option(help="resid_post, resid_mid, resid_pre, attn_out, mlp_out, or a pattern.")
    ] = "resid_post",
    target: Annotated[list[str] | None, typer.Option(help="Follow this token through the layers; repeatable.")] = None,
    corpus: Annotated[
        list[str] | None, typer.Option(help="Means over text files, folders or quoted globs instead; repeatable.")
    ] = None,
    top: TopOption = 10,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """The logit lens: what the model would say at each layer."""
    from cutaway.analyses import logit_lens

    if (text is None) == (corpus is None):
        raise InputError("lens reads a text or a --corpus: give one of the two")
    loaded = _load(model, device, dtype)
    if corpus is None:
        _show(logit_lens.read(loaded, _text(text or ""), at, top, target, bos=bos), as_json, output)
    else:
        _show(logit_lens.average(loaded, _texts(corpus), at, bos=bos), as_json, output)


@app.command()
def attention(
    text: Annotated[str | None, typer.Argument(help="The text; - reads standard input.")] = None,
    model: ModelOption = None,
    corpus: Annotated[
        list[str] | None, typer.Option(help="Scores over text files, folders or quoted globs instead; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal random tokens and intervals.")] = 0,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Where each head looks: patterns, and what kind of head it is."""
    from cutaway.analyses import attention as heads

    if (text is None) == (corpus is None):
        raise InputError("attention reads a text or a --corpus: give one of the two")
    loaded = _load(model, device, dtype)
    if corpus is None:
        _show(heads.read(loaded, _text(text or ""), seed=seed, bos=bos), as_json, output)
    else:
        _show(heads.average(loaded, _texts(corpus), seed=seed, bos=bos), as_json, output)


@app.command()
def attribute(
    text: Annotated[str, typer.Argument(help="The text; - reads standard input.")],
    model: ModelOption = None,
    target: Annotated[str | None, typer.Option(help="A single token. [default: the model's first choice]")] = None,
    versus: Annotated[str | None, typer.Option(help="Explain the target's logit less this token's.")] = None,
    how: Annotated[str, typer.Option(help="direct, gradient or integrated.")] = "direct",
    position: Annotated[int, typer.Option(help="After which token; negative from the end.")] = -1,
    neurons: Annotated[int | None, typer.Option(help="Of direct: also so many single neurons.", min=1)] = None,
    site: Annotated[str | None, typer.Option(help="Of gradient: a pattern of sites. [default: resid_post]")] = None,
    steps: Annotated[int | None, typer.Option(help="Of integrated: points on the path. [default: 64]", min=1)] = None,
    baseline: Annotated[str | None, typer.Option(help="Of integrated: zero or mean. [default: zero]")] = None,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Which components, or which tokens, an answer comes from."""
    options: dict[str, dict[str, Any]] = {
        "direct": {"neurons": neurons},
        "gradient": {"sites": site},
        "integrated": {"steps": steps, "baseline": baseline},
    }
    if how not in options:
        raise InputError(f"--how {how} is unknown: direct, gradient or integrated was expected")
    others = [(owner, *item) for owner in options if owner != how for item in options[owner].items()]
    for owner, name, value in others:
        if value is not None:
            flag = "site" if name == "sites" else name
            raise InputError(f"--{flag} is for --how {owner}: --how {how} was given")
    from cutaway.analyses import attribution

    loaded = _load(model, device, dtype)
    given = {name: value for name, value in options[how].items() if value is not None}
    made = getattr(attribution, how)(loaded, _text(text), target, versus, position=position, bos=bos, **given)
    _show(made, as_json, output)


@app.command()
def states(
    model: ModelOption = None,
    corpus: Annotated[
        list[str] | None, typer.Option(help="Text files, folders or quoted globs; repeatable. [default: bundled]")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="resid_post, attn_out, mlp_out, ...; repeatable. [default: these three]")
    ] = None,
    layer: Annotated[list[int] | None, typer.Option(help="Only this layer; negative from the end; repeatable.")] = None,
    sample: Annotated[int, typer.Option(help="Tokens whose states are paired, half with half.", min=4)] = 2000,
    centered: Annotated[bool, typer.Option("--centered", help="Subtract the mean over tokens first.")] = False,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal samples.")] = 0,
    replicates: Annotated[int, typer.Option(help="Monte-Carlo samples for each p-value.", min=19)] = 99,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """How Gaussian the hidden states, attention and MLP outputs are, layer by layer."""
    from cutaway.analyses import similarity

    loaded = _load(model, device, dtype)
    source = _texts(corpus) if corpus else None
    kinds = tuple(kind) if kind else similarity.KINDS
    found = similarity.measure(
        loaded, source, kinds, layer or None, sample, centered, seed, replicates=replicates, bos=bos
    )
    _show(found, as_json, output)


@app.command()
def norms(
    text: Annotated[str | None, typer.Option(help="The text; - reads standard input.")] = None,
    corpus: Annotated[
        list[str] | None, typer.Option(help="Text files, folders or quoted globs; repeatable. [default: bundled]")
    ] = None,
    model: ModelOption = None,
    of: Annotated[str, typer.Option(help="attn_out, mlp_out, resid_update, attn.result (by head), or a pattern.")] = (
        "attn_out"
    ),
    lags: Annotated[int, typer.Option(help="Tokens to look back; 0 shows the norms themselves.", min=0)] = 2,
    log: Annotated[bool, typer.Option(" /--no-log", help="Norms as they are, not their logarithms.")] = True,
    position: Annotated[bool, typer.Option("--position", help="Let the log of the position explain, too.")] = False,
    pooled: Annotated[bool, typer.Option("--pooled", help="One intercept for all documents, not one each.")] = False,
    errors: Annotated[
        str | None, typer.Option(help="ols, hac or cluster (ols for one document, cluster for several).")
    ] = None,
    shuffles: Annotated[int, typer.Option(help="Fit again in this many random orders.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Of the random orders.")] = 0,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """How much each layer writes at each token, and least squares of that on the tokens before."""
    from cutaway.analyses import norms

    if text is not None and corpus:
        raise InputError("--text and --corpus were both given: one of them was expected")
    loaded = _load(model, device, dtype)
    documents = {document.id: document.text for document in _documents(corpus)} if corpus else None
    found = norms.measure(loaded, documents if text is None else _text(text), of, log=log, bos=bos)
    if not lags:
        _show(found, as_json, output)
        return
    result = found.regress(
        lags,
        position=position,
        pooled=pooled,
        errors=errors,  # type: ignore[arg-type]  # what is none of them is named
        shuffles=shuffles,
        seed=seed,
    )
    _show(result, as_json, output)


@app.command()
def unigram(
    model: ModelOption = None,
    also: Annotated[list[str] | None, typer.Option(help="Show this token too; repeatable.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Beside the unigram distribution and yardsticks.")] = False,
    claim: Annotated[bool, typer.Option("--claim", help="Is the bias all the model knows of it?")] = False,
    raised: Annotated[
        list[str] | None, typer.Option("--raise", help="TOKEN=NATS, such as ' the=2': edit the bias; repeatable.")
    ] = None,
    generated: Annotated[
        bool, typer.Option("--generate", help="With --raise: what each way of editing costs and does to texts.")
    ] = False,
    method: Annotated[str, typer.Option(help="Of --raise: fisher, exact or least-squares.")] = "fisher",
    corpus: Annotated[
        list[str] | None, typer.Option(help="Text files, folders or quoted globs; repeatable. [default: bundled]")
    ] = None,
    counts: Annotated[
        str | None, typer.Option(help="Of --compare and --claim: a .npy file of token counts, or 'training'.")
    ] = None,
    top: TopOption = 10,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Unigram statistics in the final bias: read them out, check them, edit them."""
    if bool(compare) + bool(claim) + bool(raised) > 1:
        raise InputError("--compare, --claim and --raise were given together: one of them was expected")
    if generated and (not raised or len(raised) > 1):
        raise InputError("--generate shows the effects of one --raise TOKEN=NATS: give one")
    if counts and not (compare or claim):
        raise InputError("--counts is for --compare and --claim: give one of them")
    if counts and corpus and compare:
        raise InputError("--counts and --corpus were both given: --compare needs one of them")
    changes = _changes(raised or [])
    from cutaway.analyses import unigram as analysis

    loaded = _load(model, device, dtype)
    texts: Any = {document.id: document.text for document in _documents(corpus)} if corpus else None
    numbers = analysis.counts_from(counts) if counts else None
    result: Result
    if compare:
        result = analysis.compare(loaded, texts if numbers is None else numbers, bos=bos)
    elif claim:
        result = analysis.claim(loaded, texts, numbers, bos=bos)
    elif generated:
        [(token, nats)] = changes.items()
        result = analysis.edit_effects(loaded, token, (nats / 4, nats / 2, nats), texts, bos=bos)
    elif changes:
        result = analysis.edit(loaded, changes, texts, method, bos=bos)
    else:
        result = analysis.read(loaded, top, also)
    _show(result, as_json, output)


def _changes(raised: list[str]) -> dict[str, float]:
    """TOKEN=NATS, each -> nats by token."""
    changes = {}
    for argument in raised:
        token, _, nats = argument.rpartition("=")
        try:
            changes[token] = float(nats)
        except ValueError:
            token = ""
        if not token:
            raise InputError(f"--raise {argument!r}: TOKEN=NATS was expected, such as ' the=2'")
    return changes


@app.command()
def generate(
    prompts: Annotated[list[str], typer.Argument(help="One or more prompts; - reads standard input.")],
    model: ModelOption = None,
    tokens: Annotated[int, typer.Option("-n", "--max-new-tokens", help="How many tokens to add at most.", min=1)] = 40,
    temperature: Annotated[float, typer.Option(help="0 takes the most likely token at each step.", min=0)] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Choose among this many most likely tokens.", min=1)] = None,
    top_p: Annotated[float | None, typer.Option(help="Choose among tokens that reach this probability.")] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal texts.")] = 0,
    bos: BosOption = False,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Continue each prompt."""
    texts = [_text(prompt) for prompt in prompts]
    settings: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed, "bos": bos}
    loaded = _load(model, device, dtype)
    made = loaded.generate(texts, tokens, **settings)
    if not as_json:
        print(made)
        return
    import pandas as pd

    from cutaway.analyses.result import describe, envelope

    meta = describe(loaded, "generate", texts, max_new_tokens=tokens, **settings)
    meta["call"] = meta["call"].replace("cutaway.generate(model, ", "model.generate(")
    table = pd.DataFrame({"prompt": texts, "continuation": made.continuations, "text": made.texts})
    print(json.dumps(envelope("generate", meta, table), ensure_ascii=False, allow_nan=False))


@app.command()
def tokens(
    text: Annotated[str, typer.Argument(help="The text; - reads standard input.")],
    model: ModelOption = None,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
) -> None:
    """A text as the model's tokens: ids, pieces and characters."""
    from cutaway.analyses import anatomy

    result = anatomy.tokens(_load(model, "cpu", None), _text(text), bos=bos)
    if as_json or output:
        _show(result, as_json, output)
        return
    columns = ["position", "token_id", "display", "start", "end"]
    _print_table(columns, result.table()[columns].itertuples(index=False))


@app.command()
def anatomy(
    model: ModelOption = None,
    check: Annotated[
        bool, typer.Option("--verify", help="Measure what should be true: tied head, causality, transformers' logits.")
    ] = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Sizes, parameters by part, tokenizer, dtype and device; or, with --verify, measured facts."""
    from cutaway.analyses import anatomy

    loaded = _load(model, device, dtype)
    if not check:
        _show(anatomy.read(loaded), as_json, output)
        return
    from cutaway.analyses.verification import verify

    _show(verify(loaded, _transformers_model(model, loaded)), as_json, output)


@app.command()
def sites(
    pattern: Annotated[
        str, typer.Argument(help="Only the sites that this pattern names, e.g. 'blocks.0.attn.*'.")
    ] = "",
    model: ModelOption = None,
    as_json: JsonOption = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help=f"Write here instead: {' '.join(DATA)}.", callback=_ending_in(*DATA)),
    ] = None,
) -> None:
    """Every place where a tensor can be captured or edited, with its shape and its names elsewhere."""
    from cutaway.analyses.result import describe, envelope, save_table

    loaded = _load(model, "cpu", None)
    found = loaded.sites()
    table = found.table()
    if pattern:
        table = table[table["name"].isin([site.name for site in found.match(pattern)])]
    meta = describe(loaded, "sites", None) | {"call": "model.sites()"}
    if output:
        save_table(output, table, lambda: envelope("sites", meta, table))
        _wrote(output)
    elif as_json:
        print(json.dumps(envelope("sites", meta, table), ensure_ascii=False, allow_nan=False))
    elif pattern:
        columns = ["name", "shape", "transformer_lens", "hugging_face", "meaning"]
        _print_table(columns, table[columns].fillna("").itertuples(index=False))
    else:
        print(found)


@app.command()
def versions() -> None:
    """What is installed: put this into a report of a problem."""
    from cutaway.versions import show_versions

    print(show_versions())


def _load(source: str | None, device: str, dtype: str | None) -> Model:
    from cutaway.model.loading import load

    return load(source, device=device, dtype=dtype)


def _transformers_model(source: str | None, loaded: Model) -> Any:
    """The same checkpoint in transformers, to compare with; None where that is not installed."""
    import importlib.util

    if importlib.util.find_spec("transformers") is None:
        print("transformers is not installed: logits are not compared with it", file=sys.stderr)
        return None
    from transformers import GPT2LMHeadModel
    from transformers.utils import logging

    from cutaway.model.checkpoint import bundled_folder

    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = Path(source or bundled_folder()).expanduser()
    found = GPT2LMHeadModel.from_pretrained(folder if folder.is_dir() else source, dtype=loaded.dtype)
    return found.train(False).to(loaded.device)


def _documents(sources: list[str]) -> list[Document]:
    """What was given with --corpus; what had to be left out is named on standard error."""
    from cutaway.corpus import files

    corpus = files(sources)
    found = list(corpus)
    if corpus.problems:
        print(corpus.problems, file=sys.stderr)
    return found


def _texts(sources: list[str]) -> dict[str, str]:
    return {document.id: document.text for document in _documents(sources)}


def _text(argument: str) -> str:
    if argument != "-":
        return argument
    try:
        return sys.stdin.read().removesuffix("\n")  # the one that echo and editors put at the end
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is no UTF-8 text (byte {error.start}): convert it first") from None


def _show(result: Result, as_json: bool, output: Path | None) -> None:
    if output:
        result.save(output)
        _wrote(output)
    elif as_json:
        print(json.dumps(result.to_dict(), ensure_ascii=False, allow_nan=False))
    else:
        print(result.summary())


def _wrote(path: Path) -> None:
    print(path.expanduser().resolve())


def _print_table(columns: list[str], rows: Any) -> None:
    cells = [columns, *([str(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def main() -> None:
    """Run the command line: 0 for success, 2 for a user's mistake (one line), 130 for Ctrl-C."""
    _speak_utf8()
    try:
        code = app(prog_name="cutaway", standalone_mode=False)
        sys.stdout.flush()
    except UsageError as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "cutaway"
        message = getattr(error, "format_message", error.__str__)().rstrip(".")
        code = _fail(f"{message}; see '{command} --help'") if message else 2  # without one, help was shown
    except CutawayError as error:
        code = _fail(str(error))
    except (KeyboardInterrupt, Abort):
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # as `| head` leaves it; Python would complain when it flushes on its way out
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _speak_utf8() -> None:
    """Text comes in and goes out as UTF-8, whatever the locale."""
    for stream, errors in [(sys.stdin, "strict"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")]:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


def _fail(message: str) -> int:
    print("cutaway: error:", " ".join(message.split()), file=sys.stderr)
    return 2
