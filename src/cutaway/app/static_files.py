"""Serve the files of the page: the app's own, and the modules of the panels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from cutaway import panels

STATIC = Path(__file__).parent / "static"
PANELS = Path(panels.__file__).parent / "static"
FOLDERS = {"/static/panels": PANELS, "/static": STATIC}  # the first address that fits counts
TYPES = {  # the same on every machine, whatever its own table of types says
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".svg": "image/svg+xml",
}


class PageFiles(StaticFiles):
    """Files that a browser keeps, but asks about each time (ETag), so that it never shows an old version."""

    def file_response(
        self, full_path: Any, stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Return a file, or 304 where the browser has it."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = "no-cache"
        if response.status_code == status_code and (kind := TYPES.get(Path(full_path).suffix)):
            response.headers["Content-Type"] = kind
        return response


def mounts() -> list[Mount]:
    """Return the routes of the static files; no other path leads to a file."""
    return [Mount(address, PageFiles(directory=folder)) for address, folder in FOLDERS.items()]
