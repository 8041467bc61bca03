"""`cutaway norms`: measure how much each layer writes at each token."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cutaway.cli.inputs import at_most_one, load, read_corpus, read_text
from cutaway.cli.options import (
    BosOption,
    CorpusOption,
    DeviceOption,
    DtypeOption,
    FieldOption,
    JsonOption,
    ModelOption,
    OutputOption,
    SeedOption,
    StateOption,
    TextOption,
)
from cutaway.cli.output import show


def norms(
    text: TextOption = None,
    corpus: CorpusOption = None,
    field: FieldOption = None,
    model: ModelOption = None,
    of: Annotated[
        str, typer.Option(help="Measure attn_out, mlp_out, resid_update, attn.result (by head), or a pattern.")
    ] = "attn_out",
    lags: Annotated[int, typer.Option(help="Look back this many tokens; 0 shows the norms themselves.", min=0)] = 2,
    log: Annotated[bool, typer.Option(" /--no-log", help="Regress the norms, not their logarithms.")] = True,
    position: Annotated[bool, typer.Option("--position", help="Add the log of the position as a regressor.")] = False,
    pooled: Annotated[
        bool, typer.Option("--pooled", help="Fit one intercept for all documents, not one each.")
    ] = False,
    errors: Annotated[
        str | None, typer.Option(help="ols, hac or cluster (ols for one document, cluster for several).")
    ] = None,
    shuffles: Annotated[
        int, typer.Option(help="Fit again in this many random orders of the tokens.", min=0, max=1_000_000)
    ] = 0,
    seed: SeedOption = 0,
    state: StateOption = None,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Measure how much each layer writes at each token, and regress it on the tokens before."""
    from cutaway.analyses import norms as analysis

    at_most_one(text, corpus)
    loaded = load(model, device, dtype)
    source = read_corpus(corpus, field)
    measured = analysis.measure(loaded, source if text is None else read_text(text), of, log=log, bos=bos, state=state)
    if not lags:
        show(measured, as_json, output)
        return
    standard_errors: Any = errors  # the regression checks it, and its error names the choices
    result = measured.regress(
        lags, position=position, pooled=pooled, errors=standard_errors, shuffles=shuffles, seed=seed
    )
    show(result, as_json, output)
