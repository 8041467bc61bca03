"""`cutaway app`: open the workbench."""

from __future__ import annotations

from typing import Annotated

import typer

from cutaway.cli.inputs import load
from cutaway.cli.options import DeviceOption, DtypeOption, ModelOption


def app(
    model: ModelOption = None,
    host: Annotated[str, typer.Option(help="Listen here; beyond loopback the page needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Listen on this port; 0 takes any free one.", min=0, max=65535)] = 8765,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Open the workbench: explore a text live in a browser."""
    import webbrowser

    from cutaway.app.server import serve

    def ready(address: str) -> None:
        print(address, flush=True)
        if not no_open:
            webbrowser.open(address)

    serve(load(model, device, dtype), host=host, port=port, ready=ready)
