"""`cutaway ablate`: measure the loss when a component is replaced."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cutaway.cli.inputs import exactly_one, load, read_corpus, read_text
from cutaway.cli.options import (
    BosOption,
    CorpusInsteadOption,
    DeviceOption,
    DtypeOption,
    FieldOption,
    JsonOption,
    ModelOption,
    OptionalTextArgument,
    OutputOption,
    SeedOption,
    StateOption,
)
from cutaway.cli.output import show, showing_partial_results


def ablate(
    text: OptionalTextArgument = None,
    model: ModelOption = None,
    corpus: CorpusInsteadOption = None,
    field: FieldOption = None,
    components: Annotated[
        list[str] | None,
        typer.Option(
            help="Replace heads, mlps, layers, 'head 3.1', 'mlp 2', 'neuron 3.712', or a pattern of sites; repeatable.",
            show_default="heads and mlps",
        ),
    ] = None,
    how: Annotated[str, typer.Option(help="Replace by zero, mean, or resample (values from another text).")] = "mean",
    metric: Annotated[
        list[str] | None, typer.Option(help="Also measure kl, accuracy or rank, beside the loss; repeatable.")
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(help="Files that the means and the other texts come from; repeatable.", show_default="own"),
    ] = None,
    seed: SeedOption = 0,
    budget: Annotated[int, typer.Option(help="Use this many megabytes for runs side by side.", min=1)] = 256,
    state: StateOption = None,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Measure the loss when each head, MLP, layer or site is replaced."""
    from cutaway.analyses import ablation

    exactly_one("ablate", text, corpus)
    source = read_corpus(corpus, field if corpus or not reference else None)  # --reference has fields, too
    other = read_corpus(reference, field) if reference else None
    replacement: Any = how  # ablation.run checks it, and its error names the choices
    loaded = load(model, device, dtype)
    with showing_partial_results(as_json, output):
        result = ablation.run(
            loaded,
            read_text(text or "") if source is None else source,
            components or ("heads", "mlps"),
            replacement,
            metric,
            reference=other,
            seed=seed,
            budget=budget << 20,
            bos=bos,
            state=state,
        )
    show(result, as_json, output)
