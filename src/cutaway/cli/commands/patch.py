"""`cutaway patch`: put states of one run into another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutaway.cli.inputs import load, read_text
from cutaway.cli.options import (
    BosOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    LayerOption,
    ModelOption,
    OutputOption,
)
from cutaway.cli.output import show, showing_partial_results
from cutaway.errors import InputError

if TYPE_CHECKING:
    from cutaway.results.result import Result


def patch(
    clean: Annotated[str, typer.Argument(help="The text with the answer; - reads standard input.")],
    corrupted: Annotated[str, typer.Argument(help="A second text with the same number of tokens.")],
    model: ModelOption = None,
    at: Annotated[
        list[str] | None,
        typer.Option(help="Patch resid_pre, attn.z (by head), 'head 3.1', 'mlp 2', ..., or a pattern; repeatable."),
    ] = None,
    metric: Annotated[
        str, typer.Option(help="logit difference, probability, log-probability or kl.")
    ] = "logit difference",
    direction: Annotated[
        str, typer.Option(help="restore clean values in the corrupted run, or corrupt the clean run.")
    ] = "restore",
    answer: Annotated[
        str | None, typer.Option(help="The answer: exactly one token.", show_default="first choice after clean")
    ] = None,
    versus: Annotated[
        str | None,
        typer.Option(
            help="The token to subtract (for the logit difference).", show_default="first choice after corrupted"
        ),
    ] = None,
    layer: LayerOption = None,
    position: Annotated[list[int] | None, typer.Option(help="Only this position; repeatable.")] = None,
    together: Annotated[
        bool | None,
        typer.Option("--together/--each", help="Patch all positions at once, or each.", show_default="by head"),
    ] = None,
    neurons: Annotated[
        int | None, typer.Option(help="Patch this many neurons of mlp.post, chosen by gradient estimates.", min=1)
    ] = None,
    gradients: Annotated[
        bool, typer.Option("--gradients", help="Show attribution patching's estimates beside the exact numbers.")
    ] = False,
    sender: Annotated[
        list[str] | None, typer.Option(help="Path patching: 'head 3.1', 'mlp 2', heads or mlps; repeatable.")
    ] = None,
    receiver: Annotated[str | None, typer.Option(help="Path patching: 'head 3.1 q', 'mlp 2' or logits.")] = None,
    through_mlps: Annotated[
        bool, typer.Option("--through-mlps", help="Path patching: recompute the MLPs between the two.")
    ] = False,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Put states of one text's run into another's, and measure how they change the answer."""
    cells = {"at": at, "layer": layer, "together": together, "neurons": neurons, "gradients": gradients or None}
    by_path = sender is not None or receiver is not None or through_mlps
    if by_path and (given := [name for name, value in cells.items() if value is not None]):
        raise InputError(f"--{given[0]} is not for path patching (--sender, --receiver): leave one of them out")
    from cutaway.analyses import patching

    loaded = load(model, device, dtype)
    texts = read_text(clean), read_text(corrupted)
    options: dict[str, Any] = {"direction": direction, "answer": answer, "versus": versus, "bos": bos}
    options |= {"metric": metric, "positions": position or None}
    result: Result
    with showing_partial_results(as_json, output):
        if by_path:
            senders = _one_or_several(sender or ["heads"])
            options["through_mlps"] = through_mlps
            result = patching.path(loaded, *texts, senders, receiver or "logits", **options)
        else:
            sites = _one_or_several(at or ["resid_pre" if neurons is None else "mlp.post"])
            options |= {"layers": layer or None, "together": together, "neurons": neurons}
            if gradients:
                result = patching.attribution(loaded, *texts, sites, **options, exact=True)
            else:
                result = patching.run(loaded, *texts, sites, **options)
    show(result, as_json, output)


def _one_or_several(values: list[str]) -> str | list[str]:
    """Return the only value by itself, so that the result's call reads as a person would write it."""
    return values if len(values) > 1 else values[0]
