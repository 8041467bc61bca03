"""The workbench: a text in view, live, in a browser.

    serve(model)             until Ctrl-C, on loopback, in a browser window that opens by itself
    create(model)            the ASGI application alone

server.py answers, guard.py decides who may ask, schemas.py what may be asked, work.py when it is computed, views.py
turns results into JSON; static/ is the page. The app adds no numbers of its own.
"""

from __future__ import annotations

from cutaway.app.server import create, serve

__all__ = ["create", "serve"]
