"""`cutaway unigram`: read, check or edit the unigram statistics in the final bias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutaway.cli.inputs import load, read_corpus
from cutaway.cli.options import (
    BosOption,
    CorpusOption,
    DeviceOption,
    DtypeOption,
    FieldOption,
    JsonOption,
    ModelOption,
    OutputOption,
    StateOption,
    TopOption,
)
from cutaway.cli.output import show
from cutaway.errors import InputError

if TYPE_CHECKING:
    from cutaway.results.result import Result


def unigram(
    model: ModelOption = None,
    also: Annotated[list[str] | None, typer.Option(help="Show this token too; repeatable.")] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare it with the unigram distribution and with yardsticks.")
    ] = False,
    claim: Annotated[
        bool, typer.Option("--claim", help="Is the bias all that the model knows of unigram statistics?")
    ] = False,
    raised: Annotated[
        list[str] | None, typer.Option("--raise", help="TOKEN=NATS, such as ' the=2': edit the bias; repeatable.")
    ] = None,
    generated: Annotated[
        bool, typer.Option("--generate", help="With --raise: show what each way of editing costs and does to texts.")
    ] = False,
    method: Annotated[str, typer.Option(help="With --raise: fisher, exact or least-squares.")] = "fisher",
    corpus: CorpusOption = None,
    field: FieldOption = None,
    counts: Annotated[
        str | None, typer.Option(help="With --compare or --claim: a .npy file of token counts, or 'training'.")
    ] = None,
    top: TopOption = 10,
    state: StateOption = None,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Read unigram statistics out of the final bias, check them, or edit them."""
    if bool(compare) + bool(claim) + bool(raised) > 1:
        raise InputError("--compare, --claim and --raise were given together: one of them was expected")
    if generated and (not raised or len(raised) > 1):
        raise InputError("--generate shows the effects of one --raise TOKEN=NATS: give one")
    if counts and not (compare or claim):
        raise InputError("--counts is for --compare and --claim: give one of them")
    if counts and corpus and compare:
        raise InputError("--counts and --corpus were both given: --compare needs one of them")
    if state and not claim and (counts or not compare):
        raise InputError("--state saves a pass over a corpus: give --claim, or --compare without --counts")
    changes = _changes(raised or [])
    from cutaway.analyses import unigram as analysis
    from cutaway.analyses.unigram.counts import read_counts

    loaded = load(model, device, dtype)
    texts: Any = read_corpus(corpus, field)
    numbers = read_counts(counts) if counts else None
    result: Result
    if compare:
        result = analysis.compare(loaded, texts if numbers is None else numbers, bos=bos, state=state)
    elif claim:
        result = analysis.claim(loaded, texts, numbers, bos=bos, state=state)
    elif generated:
        [(token, nats)] = changes.items()
        result = analysis.edit_effects(loaded, token, (nats / 4, nats / 2, nats), texts, bos=bos)
    elif changes:
        result = analysis.edit(loaded, changes, texts, method, bos=bos)
    else:
        result = analysis.read(loaded, top, also)
    show(result, as_json, output)


def _changes(arguments: list[str]) -> dict[str, float]:
    """Return the nats of each token in arguments of the form TOKEN=NATS. Raises InputError for another form."""
    changes = {}
    for argument in arguments:
        token, _, nats = argument.rpartition("=")
        try:
            changes[token] = float(nats)
        except ValueError:
            token = ""
        if not token:
            raise InputError(f"--raise {argument!r}: TOKEN=NATS was expected, such as ' the=2'")
    return changes
