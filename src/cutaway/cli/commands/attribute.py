"""`cutaway attribute`: attribute an answer to the components or the tokens that it comes from."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cutaway.cli.inputs import load, read_text
from cutaway.cli.options import (
    BosOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    OutputOption,
    TextArgument,
)
from cutaway.cli.output import show
from cutaway.errors import InputError


def attribute(
    text: TextArgument,
    model: ModelOption = None,
    target: Annotated[
        str | None, typer.Option(help="The token to explain: exactly one.", show_default="the model's first choice")
    ] = None,
    versus: Annotated[str | None, typer.Option(help="The token to subtract (for the logit difference).")] = None,
    how: Annotated[str, typer.Option(help="direct, gradient or integrated.")] = "direct",
    position: Annotated[
        int, typer.Option(help="Explain the prediction after this token; negative counts from the end.")
    ] = -1,
    neurons: Annotated[
        int | None, typer.Option(help="With --how direct: also list the N largest neurons.", min=1)
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="With --how gradient: a pattern of sites.", show_default="resid_post")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="With --how integrated: points on the path.", show_default="64", min=1, max=1000),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="With --how integrated: zero or mean.", show_default="zero")
    ] = None,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Attribute an answer to the components, or the tokens, that it comes from."""
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

    loaded = load(model, device, dtype)
    given = {name: value for name, value in options[how].items() if value is not None}
    analysis = getattr(attribution, how)
    result = analysis(loaded, read_text(text), target, versus, position=position, bos=bos, **given)
    show(result, as_json, output)
