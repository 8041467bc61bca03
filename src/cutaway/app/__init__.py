"""Serve the workbench: a text in view, live, in a browser.

    serve(model)                  serve until Ctrl-C, on loopback; prints the address         (server.py)
    create(model)                 the ASGI application, for a server of your own              (routes.py)

guard.py decides who may ask, schemas.py what may be asked, queue.py when it is computed; streaming.py sends answers for
as long as a client waits; openapi.py describes the API, examples.py holds the texts that a page offers; static/ is the
page, and cutaway.panels what it draws. The app adds no numbers of its own.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutaway.app.routes import create as create
    from cutaway.app.server import serve as serve

__all__ = ["create", "serve"]


def __getattr__(name: str) -> Any:
    """Import `create` and `serve` when they are first used, so that the modules here can be imported one by one."""
    if name not in __all__:
        raise AttributeError(f"module 'cutaway.app' has no attribute {name!r}")
    module = importlib.import_module({"create": "cutaway.app.routes", "serve": "cutaway.app.server"}[name])
    return getattr(module, name)
