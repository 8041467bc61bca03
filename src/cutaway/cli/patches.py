"""Commands on two texts: patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutaway.cli.inputs import load, text_of
from cutaway.cli.options import BosOption, DeviceOption, DtypeOption, JsonOption, ModelOption, OutputOption
from cutaway.cli.output import kept, show
from cutaway.errors import InputError

if TYPE_CHECKING:
    from cutaway.results.result import Result


def patch(
    clean: Annotated[str, typer.Argument(help="The text whose answer is looked for; - reads standard input.")],
    corrupted: Annotated[str, typer.Argument(help="Another of as many tokens.")],
    model: ModelOption = None,
    at: Annotated[
        list[str] | None,
        typer.Option(help="resid_pre, attn_out, mlp_out, attn.z (by head), ..., or a pattern; repeatable."),
    ] = None,
    metric: Annotated[
        str, typer.Option(help="logit difference, probability, log-probability or kl.")
    ] = "logit difference",
    direction: Annotated[str, typer.Option(help="restore clean values, or corrupt the clean run.")] = "restore",
    answer: Annotated[str | None, typer.Option(help="A single token.", show_default="first choice after clean")] = None,
    versus: Annotated[str | None, typer.Option(help="Another.", show_default="first choice after corrupted")] = None,
    layer: Annotated[list[int] | None, typer.Option(help="Only this layer; negative from the end; repeatable.")] = None,
    position: Annotated[list[int] | None, typer.Option(help="Only this position; repeatable.")] = None,
    together: Annotated[
        bool | None,
        typer.Option("--together/--each", help="All positions at once, or each.", show_default="by head"),
    ] = None,
    neurons: Annotated[int | None, typer.Option(help="Of mlp.post: so many, those gradients point to.", min=1)] = None,
    gradients: Annotated[
        bool, typer.Option("--gradients", help="Attribution patching's estimates, beside the exact numbers.")
    ] = False,
    sender: Annotated[
        list[str] | None, typer.Option(help="Path patching: 'head 3.1', 'mlp 2', heads or mlps; repeatable.")
    ] = None,
    receiver: Annotated[str | None, typer.Option(help="Path patching: 'head 3.1 q', 'mlp 2' or logits.")] = None,
    through_mlps: Annotated[
        bool, typer.Option("--through-mlps", help="Path patching: MLPs on the way are recomputed.")
    ] = False,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Which states make one text's answer out of another's: values of one run put into the other."""
    given = {"at": at, "layer": layer, "together": together, "neurons": neurons, "gradients": gradients or None}
    by_path = sender is not None or receiver is not None or through_mlps
    if by_path and (named := [name for name, value in given.items() if value is not None]):
        raise InputError(f"--{named[0]} is not for path patching (--sender, --receiver): leave one of them out")
    from cutaway.analyses import patching

    loaded = load(model, device, dtype)
    texts = text_of(clean), text_of(corrupted)
    common: dict[str, Any] = {"direction": direction, "answer": answer, "versus": versus, "bos": bos}
    common |= {"metric": metric, "positions": position or None}
    made: Result
    with kept(as_json, output):
        if by_path:
            made = patching.path(
                loaded,
                *texts,
                sender if sender and len(sender) > 1 else (sender or ["heads"])[0],
                receiver or "logits",
                through_mlps=through_mlps,
                **common,
            )
        else:
            sites = at or ["resid_pre" if neurons is None else "mlp.post"]
            how: Any = patching.attribution if gradients else patching.run
            exact = {"exact": True} if gradients else {}
            common |= {"layers": layer or None, "together": together, "neurons": neurons}
            made = how(loaded, *texts, sites if len(sites) > 1 else sites[0], **common, **exact)
    show(made, as_json, output)
