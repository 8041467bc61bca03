"""Commands on a corpus: report, states, norms, unigram."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutaway.cli.inputs import at_most_one, corpus_of, documents_of, load, text_of
from cutaway.cli.options import (
    SEED,
    BosOption,
    CorpusOption,
    DeviceOption,
    DtypeOption,
    FieldOption,
    JsonOption,
    ModelOption,
    OutputOption,
    TopOption,
    ending_in,
)
from cutaway.cli.output import show, wrote
from cutaway.errors import InputError
from cutaway.text.tokens import visible

if TYPE_CHECKING:
    from cutaway.results.result import Result


def report(
    model: ModelOption = None,
    text: Annotated[str | None, typer.Option(help="A text to look at; - reads standard input.")] = None,
    corpus: CorpusOption = None,
    field: FieldOption = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The page to write.", callback=ending_in(".html", ".htm"))
    ] = Path("report.html"),
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Write a report on a model: one HTML page that needs no network."""
    from cutaway.pages.first_look import standard
    from cutaway.pages.report import facts
    from cutaway.pages.report import report as write
    from cutaway.progress import track
    from cutaway.text import corpus as documents

    at_most_one(text, corpus)
    given = corpus_of(corpus, field)
    found = [] if given is None else documents_of(given)
    loaded = load(model, device, dtype)
    if text is None and not corpus:
        if loaded.has_tokenizer:
            found = documents.bundled()
        else:
            print(f"{loaded.name} has no tokenizer: the report shows what needs no text", file=sys.stderr)
    results = list(track(standard(loaded, None if text is None else text_of(text), found), "looking inside"))
    write(results, output)
    wrote(output)
    found_facts = facts(results)
    width = max(len(name) for name, _ in found_facts) + 2
    for name, value in found_facts:
        print(visible(f"  {name:<{width}}{value}"))


def states(
    model: ModelOption = None,
    corpus: CorpusOption = None,
    field: FieldOption = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="resid_post, attn_out, mlp_out, ...; repeatable.", show_default="these three"),
    ] = None,
    layer: Annotated[list[int] | None, typer.Option(help="Only this layer; negative from the end; repeatable.")] = None,
    sample: Annotated[int, typer.Option(help="Tokens whose states are paired, half with half.", min=4)] = 2000,
    centered: Annotated[bool, typer.Option("--centered", help="Subtract the mean over tokens first.")] = False,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal samples.", **SEED)] = 0,
    replicates: Annotated[int, typer.Option(help="Monte-Carlo samples for each p-value.", min=19, max=1_000_000)] = 99,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """How Gaussian the hidden states, attention and MLP outputs are, layer by layer."""
    from cutaway.analyses import states as analysis

    loaded = load(model, device, dtype)
    source = corpus_of(corpus, field)
    kinds = tuple(kind) if kind else analysis.KINDS
    found = analysis.measure(
        loaded, source, kinds, layer or None, sample, centered, seed, replicates=replicates, bos=bos
    )
    show(found, as_json, output)


def norms(
    text: Annotated[str | None, typer.Option(help="The text; - reads standard input.")] = None,
    corpus: CorpusOption = None,
    field: FieldOption = None,
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
    shuffles: Annotated[int, typer.Option(help="Fit again in this many random orders.", min=0, max=1_000_000)] = 0,
    seed: Annotated[int, typer.Option(help="Of the random orders.", **SEED)] = 0,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """How much each layer writes at each token, and least squares of that on the tokens before."""
    from cutaway.analyses import norms

    at_most_one(text, corpus)
    loaded = load(model, device, dtype)
    documents = corpus_of(corpus, field)
    found = norms.measure(loaded, documents if text is None else text_of(text), of, log=log, bos=bos)
    if not lags:
        show(found, as_json, output)
        return
    result = found.regress(
        lags,
        position=position,
        pooled=pooled,
        errors=errors,  # type: ignore[arg-type]  # what is none of them is named
        shuffles=shuffles,
        seed=seed,
    )
    show(result, as_json, output)


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
    corpus: CorpusOption = None,
    field: FieldOption = None,
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
    from cutaway.analyses.unigram.counts import read_counts

    loaded = load(model, device, dtype)
    texts: Any = corpus_of(corpus, field)
    numbers = read_counts(counts) if counts else None
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
    show(result, as_json, output)


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
