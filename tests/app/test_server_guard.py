"""Requests are refused for foreign host names, other sites, wrong tokens and bodies that are too long."""

import asyncio
import hmac
import http.client
import socket

import pytest

from cutaway.app import guard, schemas
from tests.app.client import Served
from tests.patience import LONG

TOKEN = "a-token-of-the-test"


@pytest.fixture(scope="module")
def opened(bundled):
    """A workbench that listens beyond loopback (as far as it knows)."""
    server = Served(bundled, host="0.0.0.0", token=TOKEN)
    yield server
    server.close()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::1", "a b"]
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("GET", "/api/start"), ("POST", "/api/view")])
def test_a_foreign_host_is_refused(served, host, method, path):
    body = {"text": "a"} if method == "POST" else None
    status, _, content = served.ask(method, path, body, host=host)
    assert status in (400, 403), content  # 400 is h11's own, for what no Host can be
    assert b"sotu" not in content
    assert b"tokens" not in content


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8765", "localhost."])
def test_names_of_this_machine_are_known(served, host):
    assert served.ask("GET", "/api/anatomy", host=host)[0] == 200


def test_two_hosts_or_none_are_refused(served):
    for head in ("Host: localhost\r\nHost: evil.example\r\n", ""):
        with socket.create_connection(("127.0.0.1", served.port), timeout=LONG) as connection:
            connection.sendall(f"GET /api/start HTTP/1.1\r\n{head}\r\n".encode())
            assert connection.recv(100).split()[1] in (b"400", b"403")


@pytest.mark.parametrize("hosts", [[], ["localhost", "evil.example"], ["evil.example", "localhost"], ["localhost"] * 2])
def test_the_guard_itself_wants_one_host(hosts):
    """Whatever the server in front of it would let through."""

    async def app(scope, receive, send):
        raise AssertionError("the request was passed on")

    async def receive():
        return {"type": "http.request"}

    sent = []

    async def send(message):
        sent.append(message)

    headers = [(b"host", host.encode()) for host in hosts]
    scope = {"type": "http", "method": "GET", "path": "/api/start", "headers": headers}
    asyncio.run(guard.Guard(app, "localhost", None)(scope, receive, send))
    assert sent[0]["status"] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1"},  # another port is another site
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "http://127.0.0.1:{port}.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_sites_are_refused(served, headers):
    headers = {name: value.format(port=served.port) for name, value in headers.items()}
    for path, body in (("/api/view", {"text": "a"}), ("/api/generate", {"text": "a"}), ("/api/save", {})):
        assert served.refused(path, body, **headers)[0] == 403
    assert served.ask("GET", "/api/start", **headers)[0] == 403


def test_the_page_itself_may_ask(served):
    headers = {"Origin": served.address, "Sec-Fetch-Site": "same-origin"}
    assert served.post("/api/view", {"text": "a"}, **headers)["tokens"]


def test_a_link_from_elsewhere_opens_the_page(served):
    assert served.ask("GET", "/", Sec_Fetch_Site="cross-site")[0] == 200


def test_forms_are_refused(served):
    """A page of another site can send texts and forms without asking the server first."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        assert served.refused("/api/view", {"text": "a"}, Content_Type=kind)[0] == 415


def test_every_answer_has_the_headers(served):
    asked = [
        ("GET", "/", None),
        ("GET", "/static/style.css", None),
        ("GET", "/api/start", None),
        ("GET", "/nothing", None),
        ("POST", "/api/view", {"text": "a"}),
        ("POST", "/api/view", {}),
        ("POST", "/api/generate", {"text": "a", "max_new_tokens": 1}),
        ("DELETE", "/api/view", None),
        ("GET", "/api/view", None),
    ]
    for method, path, body in asked:
        status, headers, _ = served.ask(method, path, body)
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'", (path, status)
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Access-Control-Allow-Origin"] is None
        assert headers["Server"] is None or "uvicorn" in headers["Server"]
    assert served.ask("DELETE", "/api/view")[0] == served.ask("GET", "/api/view")[0] == 405


def test_bodies_are_bounded(served):
    much = b'{"text": "' + b"a" * schemas.BODY_BYTES + b'"}'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "DRAIN_SECONDS", LONG)  # for a client that is slow to send it all
        assert served.refused("/api/view", much)[0] == 413
    assert served.refused("/api/view", b"{}", Content_Length=str(schemas.BODY_BYTES + 1))[0] == 413
    assert served.ask("POST", "/api/view", b"{}", Content_Length="9" * 24)[0] in (400, 413)  # 400 is h11's own
    # In chunks, whose sum nobody announced.
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=LONG)
    chunks = (much[i : i + 50_000] for i in range(0, len(much), 50_000))
    connection.request("POST", "/api/view", chunks, {"Content-Type": "application/json"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_the_longest_text_fits_its_body(served):
    """Every character as long as JSON can make it."""
    raw = b'{"text": "' + b"\\ud83d\\ude42" * schemas.CHARACTERS + b'"}'
    assert len(raw) < schemas.BODY_BYTES
    assert "at most 512" in served.refused("/api/view", raw)[1]


def test_with_a_token(opened, monkeypatch):
    compared = []

    def compare(a, b):
        compared.append((a, b))
        return hmac_compare(a, b)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr(guard.hmac, "compare_digest", compare)
    assert opened.post("/api/view", {"text": "a"}, X_Cutaway_Token=TOKEN)["tokens"]
    assert opened.get("/api/start", X_Cutaway_Token=TOKEN)["token_needed"] is True
    for wrong in ({}, {"X-Cutaway-Token": ""}, {"X-Cutaway-Token": TOKEN[:-1]}, {"X-Cutaway-Token": "\u00ff" * 19}):
        for method, path, body in (
            ("GET", "/api/start", None),
            ("GET", "/api/anatomy", None),
            ("GET", "/api/openapi.json", None),
            ("POST", "/api/view", {"text": "a"}),
            ("POST", "/api/generate", {"text": "a"}),
        ):
            status, _, content = opened.ask(method, path, body, **wrong)
            assert status == 401, (path, wrong)
            assert b"sotu" not in content
    assert len(compared) == 2 + 4 * 5  # every one in constant time


def test_the_page_without_its_token_tells_nothing(opened):
    for path, told in (("/", False), ("/?token=wrong", False), ("/?token=%ff%00", False), (f"/?token={TOKEN}", True)):
        status, _, content = opened.ask("GET", path)
        assert status == 200
        assert (b"sotu" in content) is told
        assert (b'"token_needed":true' in content) or told
    assert opened.ask("GET", "/static/style.css")[0] in (200, 404)


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("192.168.1.7:8765", True),
        ("[fe80::1]:8765", True),
        ("localhost:8765", True),
        (socket.gethostname(), True),
        ("evil.example", False),
        ("1.2.3.4.evil.example", False),
        ("0x7f.1", False),
    ],
)
def test_where_it_is_opened_up_addresses_are_known(opened, host, known):
    status = opened.ask("GET", "/api/anatomy", host=host, X_Cutaway_Token=TOKEN)[0]
    assert status == (200 if known else 403)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"),
        ("localhost:80", "localhost"),
        ("[::1]:80", "::1"),
        ("[::1]", "::1"),
        ("::1", ""),
        ("localhost:", "localhost"),
        ("localhost:x", ""),
        ("user@localhost", "user@localhost"),
        ("", ""),
        (":80", ""),
    ],
)
def test_names_in_host_headers(header, name):
    assert guard.host_name(header) == name


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_what_is_loopback(host, loopback):
    assert guard.is_loopback(host) is loopback
