"""The workbench: a text in view, live, in a browser.

    serve(model)                  until Ctrl-C, on loopback; prints its address
    create(model)                 the ASGI application alone

server.py has the routes, guard.py decides who may ask, schemas.py what may be asked, work.py when it is computed;
views.py turns results into JSON, answers.py sends them while somebody waits; static/ is the page. The app adds no
numbers of its own.
"""

from __future__ import annotations

from cutaway.app.routes import create
from cutaway.app.server import serve

__all__ = ["create", "serve"]
