"""`cutaway app`: its address, its end, and its mistakes in one line."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

import cutaway
from cutaway.app.routes import create
from cutaway.app.server import listening_socket, serve
from cutaway.cli import main
from cutaway.errors import InputError, TokenizerError
from tests.app.client import Served
from tests.patience import LONG
from tests.results import save_wordless

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def command(*arguments):
    """Run `cutaway app` in a process of its own, and kill it at the end."""
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    process = subprocess.Popen(
        [sys.executable, "-m", "cutaway", "app", "--no-open", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_package_has_its_two_calls():
    assert (cutaway.app.create, cutaway.app.serve) == (create, serve)
    with pytest.raises(AttributeError, match=r"^module 'cutaway.app' has no attribute 'nothing'$"):
        cutaway.app.nothing  # noqa: B018


def test_it_says_where_it_is_and_ends_on_ctrl_c():
    with command() as process:
        address = process.stdout.readline().strip()
        port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", address)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONG)
        connection.request("GET", "/api/start")
        assert json.loads(connection.getresponse().read())["model"]["name"] == "sotu"
        # While a long answer is under way.
        body = json.dumps({"text": "The people", "max_new_tokens": 200})
        connection.request("POST", "/api/generate", body, {"Content-Type": "application/json"})
        assert connection.getresponse().status == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LONG)
        connection.close()
    assert process.returncode == 130
    assert out == ""
    assert err == "interrupted\n"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=LONG).close()


def test_beyond_loopback_the_address_has_a_token():
    with command("--host", "0.0.0.0") as process:
        address = process.stdout.readline().strip()
        port, token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]{20,})", address).groups()
        for given, status in ((token, 200), ("", 401), (token[:-1], 401)):
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=LONG)
            connection.request("GET", "/api/anatomy", headers={"X-Cutaway-Token": given})
            assert connection.getresponse().status == status
            connection.close()


def test_a_port_in_use_is_one_line(capsys, monkeypatch):
    with listening_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["cutaway", "app", "--no-open", "--port", str(port)])
        with pytest.raises(SystemExit) as end:
            main()
    assert end.value.code == 2
    out, err = capsys.readouterr()
    expected = f"port {port} is in use already: give another --port, or --port 0 for a free one"
    assert (out, err) == ("", f"cutaway: error: {expected}\n")


@pytest.mark.parametrize("host", ["no.such.name.invalid", "203.0.113.7", "", "a" * 300, "\u00e9" * 70, "a\x00b"])
def test_a_host_that_cannot_be_had_is_one_line(host):
    with pytest.raises(InputError, match="cannot be used"):
        listening_socket(host, 0)


def test_a_model_without_a_tokenizer_is_one_line(tmp_path, capsys, monkeypatch):
    save_wordless(tmp_path)
    capsys.readouterr()  # transformers' progress
    with pytest.raises(TokenizerError, match="the workbench reads text"):
        create(cutaway.load(tmp_path, device="cpu"))
    monkeypatch.setattr(sys, "argv", ["cutaway", "app", "--no-open", "-m", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert re.fullmatch(r"cutaway: error: .* has no tokenizer.*tokenizer\.json.*\n", err)


@pytest.mark.parametrize(("options", "opened"), [([], True), (["--no-open"], False)])
def test_a_browser_is_opened_once_it_listens(monkeypatch, capsys, options, opened):
    visited = []

    def visit(address):
        socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2].strip("/"))), timeout=LONG).close()
        visited.append(address)

    monkeypatch.setattr("webbrowser.open", visit)
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    monkeypatch.setattr(sys, "argv", ["cutaway", "app", "--port", "0", *options])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert (end.value.code, err) == (0, "")
    assert visited == ([out.strip()] if opened else [])


def test_ipv6(bundled, monkeypatch):
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        listening_socket("::1", 0).close()
    except InputError:
        pytest.skip("no IPv6 here")
    addresses = []
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    serve(bundled, host="::1", port=0, ready=addresses.append)
    assert re.fullmatch(r"http://\[::1\]:\d+/", addresses[0])


def test_it_can_be_opened_and_closed_again(bundled):
    for _ in range(2):
        server = Served(bundled)
        assert server.get("/api/start")["view"]["tokens"]
        server.close()
