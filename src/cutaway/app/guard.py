"""Who may ask: the checks that stand in front of every route, and the headers that stand on every answer.

A page of another site must not reach the workbench through the reader's browser: not by a form or a fetch (Origin),
not by a name that it points to this machine (DNS rebinding: Host). Where the server listens beyond loopback, a token
is asked for besides.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import socket
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutaway.app.schemas import BODY

LOOPBACK = ("localhost", "127.0.0.1", "::1")
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
TOO_LONG = f"the request is too long: at most {BODY // 1024} KB were expected"
PATIENCE = 0.5  # seconds that the rest of a refused body has
SAFE_METHODS = ("GET", "HEAD")


class Guard:
    """ASGI middleware: refuses what comes from elsewhere, bounds bodies, sets the headers."""

    def __init__(self, app: ASGIApp, host: str, token: str | None) -> None:
        self.app, self.host, self.token = app, host, token
        self.names = known_names(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # there are none
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        refusal = self.refusal(scope, headers)
        if refusal:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_drained(receive), PATIENCE)
            await error(*refusal)(scope, receive, send_with_headers)
            return
        await self.app(scope, receive, send_with_headers)

    def refusal(self, scope: Scope, headers: Headers) -> tuple[str, int] | None:
        """Why a request is not answered, and its status; None for a good one."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self.known(hosts[0]):
            return "this address is not the workbench's own: open the one that was printed when it started", 403
        api = scope["path"].startswith("/api/")
        if api or scope["method"] not in SAFE_METHODS:
            origins = headers.getlist("origin")
            if any(not same_origin(origin, hosts[0]) for origin in origins):
                return "requests from other sites are refused", 403
            if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
                return "requests from other sites are refused", 403
        if api and not same(headers.get("x-cutaway-token"), self.token):
            return "the token is missing or wrong: open the address that was printed when it started", 401
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length[:20]) > BODY:
            return TOO_LONG, 413
        return None

    def known(self, host: str) -> bool:
        """Whether a Host header names this server: by address, or by a name that nobody else can give it."""
        name = host_name(host)
        if name in self.names:
            return True
        return not is_loopback(self.host) and is_address(name)


async def _drained(receive: Receive) -> None:
    """Take in the rest of a body, within reason: who is still sending does not hear a refusal."""
    size = 0
    while size <= 4 * BODY:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            return


def same(given: str | None, token: str | None) -> bool:
    """Whether a token is the right one, where one is asked for; takes as long for every wrong one."""
    return token is None or hmac.compare_digest((given or "").encode("utf-8", "replace"), token.encode())


def known_names(host: str) -> frozenset[str]:
    names = {*LOOPBACK, host.lower()} - {"0.0.0.0", "::"}
    if not is_loopback(host):
        names |= {socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}
    return frozenset(names)


def host_name(host: str) -> str:
    """The name in a Host header, without port and brackets; "" for what is none."""
    name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
    if port and not (port.isascii() and port.isdigit()):
        return ""
    if name.startswith("[") and name.endswith("]"):
        return name[1:-1].lower()
    return "" if ":" in name else name.lower().removesuffix(".")


def same_origin(origin: str, host: str) -> bool:
    return origin.lower() == f"http://{host.lower()}"


def is_loopback(host: str) -> bool:
    return host.lower() in LOOPBACK or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def error(message: str, status: int, **headers: str) -> Response:
    """One line of JSON; ASCII, so that nothing that a client sent can break it."""
    body: dict[str, Any] = {"error": " ".join(message.split())[:600]}
    return Response(json.dumps(body), status, headers, "application/json")
