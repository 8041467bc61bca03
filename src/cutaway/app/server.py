"""Run the application on a server: open its socket, print its address, make its token."""

from __future__ import annotations

import errno
import logging
import secrets
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from cutaway.app import guard
from cutaway.app.routes import Bench, application
from cutaway.errors import InputError

if TYPE_CHECKING:
    import uvicorn

    from cutaway.model.model import Model

PORT = 8765
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # an address for all: one that a browser on this machine can open
SHUTDOWN_SECONDS = 2  # for clients to receive their answers when the server stops


def serve(model: Model, *, host: str = "127.0.0.1", port: int = PORT, ready: Callable[[str], object] = print) -> None:
    """Serve until Ctrl-C. `ready` is called with the address, which holds the needed token beyond loopback.

    Raises InputError for a port or host that cannot be used, TokenizerError for a model without a tokenizer.
    """
    token = None if guard.is_loopback(host) else secrets.token_urlsafe(16)
    server = make_server(Bench(model, token), host)
    with listening_socket(host, port) as listener:
        reached = WILDCARDS.get(host, host)
        shown = f"[{reached}]" if ":" in reached else reached
        ready(f"http://{shown}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else ""))
        server.run(sockets=[listener])


def make_server(bench: Bench, host: str) -> uvicorn.Server:
    """Return a server that stops the bench's queue before it closes, since open answers wait for the queue."""
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """Stop the queue, then the server."""
            bench.queue.stop()
            # Clients that receive nothing any more are cut off; uvicorn would log that as an error.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    config = uvicorn.Config(
        application(bench, host),
        log_level="error",
        access_log=False,  # texts are private
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        lifespan="on",
    )
    return Server(config)


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises InputError for a port or host that cannot be used."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = addresses[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if sys.platform != "win32":  # where it would share the port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except OSError:
            listener.close()
            raise
        return listener
    except (OSError, OverflowError, UnicodeError) as problem:
        if getattr(problem, "errno", None) == errno.EADDRINUSE:
            raise InputError(
                f"port {port} is in use already: give another --port, or --port 0 for a free one"
            ) from None
        reason = getattr(problem, "strerror", None) or problem
        raise InputError(f"port {port} on {host!r} cannot be used ({reason}): give another --host or --port") from None
