"""The workbench on a real server in a thread, and a plain HTTP client for it."""

import contextlib
import http.client
import json
import logging
import socket
import threading

from cutaway.app.routes import Bench
from cutaway.app.server import listening_socket, make_server
from tests.patience import LONG, wait_until


class Served:
    """A running workbench on a real server; `bench` has its model, queue and routes."""

    def __init__(self, model, host="127.0.0.1", token=None):
        self.bench = Bench(model, token)
        self.listener = listening_socket("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]
        self.server = make_server(self.bench, host)
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what a test provokes is not shown
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)
        self.thread.start()
        # The examples are read first; a test should not meet that work in the queue.
        wait_until(lambda: self.server.started and len(self.bench.queue.cache) == len(self.bench.examples))
        wait_until(lambda: self.bench.queue.running is None)

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    def close(self):
        self.server.should_exit = True
        self.thread.join(LONG)
        self.listener.close()
        assert not self.thread.is_alive()

    def ask(self, method, path, body=None, host=None, **headers):
        """Return (status, headers, bytes) of one request; `body` is sent as JSON unless it is bytes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONG)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host=host is not None)
            if host is not None:
                connection.putheader("Host", host)
            raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            if raw is not None:
                given = {"Content-Type": "application/json", "Content-Length": str(len(raw)), **given}
            for name, value in given.items():
                connection.putheader(name, value)
            connection.endheaders(raw)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def get(self, path, **headers):
        status, _, content = self.ask("GET", path, **headers)
        assert status == 200, content
        return json.loads(content)

    def post(self, path, body, **headers):
        status, _, content = self.ask("POST", path, body, **headers)
        assert status == 200, content
        return json.loads(content)

    def refused(self, path, body, **headers):
        """Return (status, error line) of a refused request."""
        status, found, content = self.ask("POST", path, body, **headers)
        assert 400 <= status < 500, (status, content)
        assert found["Content-Type"] == "application/json"
        [(name, line)] = json.loads(content).items()
        assert name == "error"
        assert "\n" not in line
        return status, line

    def events(self, path, body, **headers):
        """Return [(event, data), ...] of a stream."""
        status, found, content = self.ask("POST", path, body, **headers)
        assert status == 200, content
        assert found["Content-Type"].startswith("text/event-stream")
        return read_events(content.decode())

    @contextlib.contextmanager
    def waiting(self, path, body, client="a"):
        """Send a request and yield its socket, without reading the answer; closing it is how a client leaves."""
        raw = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: application/json\r\n"
            f"X-Cutaway-Client: {client}\r\nContent-Length: {len(raw)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", self.port), timeout=LONG) as connection:
            connection.sendall(head.encode() + raw)
            yield connection


def read_events(text):
    found = []
    for block in text.split("\n\n"):
        if block:
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found
