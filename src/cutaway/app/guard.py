"""Decide who may ask: check every request in front of the routes, and put security headers on every answer.

A page of another site must not reach the workbench through the reader's browser: not by a form or a fetch (checked by
Origin), and not by a name that it points to this machine (DNS rebinding, checked by Host). Where the server listens
beyond loopback, requests also need a token.
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

from cutaway.app.schemas import BODY_BYTES

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
TOO_LONG = f"the request is too long: at most {BODY_BYTES // 1024} KB were expected"
DRAIN_SECONDS = 0.5  # for the rest of a refused body to arrive
SAFE_METHODS = ("GET", "HEAD")


class Guard:
    """ASGI middleware that refuses requests from other sites, bounds bodies and sets headers."""

    def __init__(self, app: ASGIApp, host: str, token: str | None) -> None:
        self.app, self.host, self.token = app, host, token
        self.names = known_names(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on to the app."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # the app has none
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
                await asyncio.wait_for(_drain(receive), DRAIN_SECONDS)
            await error(*refusal)(scope, receive, send_with_headers)
            return
        await self.app(scope, receive, send_with_headers)

    def refusal(self, scope: Scope, headers: Headers) -> tuple[str, int] | None:
        """Return why a request is refused, and the status of the refusal; None for a good request."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self.is_own_host(hosts[0]):
            return "this address is not the workbench's own: open the one that was printed when it started", 403
        api = scope["path"].startswith("/api/")
        if api or scope["method"] not in SAFE_METHODS:
            origins = headers.getlist("origin")
            if any(not same_origin(origin, hosts[0]) for origin in origins):
                return "requests from other sites are refused", 403
            if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
                return "requests from other sites are refused", 403
        if api and not token_matches(headers.get("x-cutaway-token"), self.token):
            return "the token is missing or wrong: open the address that was printed when it started", 401
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length[:20]) > BODY_BYTES:
            return TOO_LONG, 413
        return None

    def is_own_host(self, host: str) -> bool:
        """Return whether a Host header names this server by an address, or by a name that no other site can claim."""
        name = host_name(host)
        if name in self.names:
            return True
        return not is_loopback(self.host) and is_address(name)


async def _drain(receive: Receive) -> None:
    """Receive the rest of a body, within bounds: a client reads a refusal only when it has sent everything."""
    size = 0
    while size <= 4 * BODY_BYTES:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            return


def token_matches(given: str | None, token: str | None) -> bool:
    """Return whether a token is the right one, or none is needed; takes equally long for every wrong token."""
    return token is None or hmac.compare_digest((given or "").encode("utf-8", "replace"), token.encode())


def known_names(host: str) -> frozenset[str]:
    """Return the names of a server that listens on `host`; beyond loopback also the machine's own name."""
    names = {*LOOPBACK, host.lower()} - {"0.0.0.0", "::"}
    if not is_loopback(host):
        names |= {socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}
    return frozenset(names)


def host_name(host: str) -> str:
    """Return the name in a Host header, without port and brackets; "" for an invalid header."""
    name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
    if port and not (port.isascii() and port.isdigit()):
        return ""
    if name.startswith("[") and name.endswith("]"):
        return name[1:-1].lower()
    return "" if ":" in name else name.lower().removesuffix(".")


def same_origin(origin: str, host: str) -> bool:
    """Return whether an Origin header is this server's, by its Host header."""
    return origin.lower() == f"http://{host.lower()}"


def is_loopback(host: str) -> bool:
    """Return whether a name or address is this machine's loopback."""
    return host.lower() in LOOPBACK or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_address(name: str) -> bool:
    """Return whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def error(message: str, status: int, **headers: str) -> Response:
    """Return an error as one line of JSON, in ASCII, so that nothing that a client sent can break it."""
    body: dict[str, Any] = {"error": " ".join(message.split())[:600]}
    return Response(json.dumps(body), status, headers, "application/json")
