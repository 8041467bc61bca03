"""Requests drawn from the OpenAPI description, good and bad, never fail with 5xx and always get a described answer.

The jsonschema library checks bodies by the description.
"""

import contextlib
import http.client
import json
from urllib.parse import quote

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import Route

from cutaway.app import openapi, schemas
from tests.app.client import Served, read_events

pytestmark = pytest.mark.slow

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)  # half surrogates too
WORDS = st.lists(st.sampled_from(["The people", " of", "\n\n", "\u00e9\U0001f642", "</script>", "\x00", " "])).map(
    "".join
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
SETTINGS = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], derandomize=True
)


def fitting(schema):
    """Draw values that a schema allows."""
    if "anyOf" in schema:
        return st.one_of(*map(fitting, schema["anyOf"]))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    low, high = schema.get("minimum", 0), schema.get("maximum")
    above = "exclusiveMinimum" in schema
    known = {
        "null": st.none(),
        "boolean": st.booleans(),
        "integer": st.integers(low, high),
        "number": st.floats(low, high, exclude_min=above),
        "string": (WORDS | ANY_TEXT)
        .map(lambda text: text[: schema.get("maxLength")])
        .filter(lambda text: len(text) >= schema.get("minLength", 0)),
    }
    return st.one_of(*(known[kind] for kind in types))


def bodies(schema):
    """Draw good bodies, good bodies with one thing wrong, and any JSON at all."""
    properties = schema["properties"]
    needed = {name: fitting(properties[name]) for name in schema.get("required", ())}
    good = st.fixed_dictionaries(
        needed, optional={name: fitting(each) for name, each in properties.items() if name not in needed}
    )
    bent = st.builds(
        lambda body, name, value: {**body, name: value}, good, st.sampled_from([*properties, "\u00e9", ""]), ANYTHING
    )
    less = st.builds(
        lambda body, name: {k: v for k, v in body.items() if k != name}, good, st.sampled_from([*properties, ""])
    )
    return good | good | bent | less | ANYTHING


@pytest.fixture(scope="session")
def quick(bundled):
    """A workbench whose continuations are short, since there are many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schemas, "NEW_TOKENS", 6)
        server = Served(bundled)
    yield server
    server.close()


@pytest.fixture(scope="session")
def described(quick):
    return quick.get("/api/openapi.json")


def checked(operation, status, headers, content):
    """Return an answer after checking that it is described."""
    assert str(status) in operation["responses"], (status, content)
    kinds = operation["responses"][str(status)]["content"]
    kind = headers["Content-Type"].partition(";")[0]
    assert kind in kinds, kind
    assert b"Traceback" not in content
    if kind == "application/json":
        jsonschema.validate(json.loads(content), kinds[kind]["schema"])
    if kind == "text/event-stream":
        names = [name for name, _ in read_events(content.decode())]
        assert names[-1] == "done", content
        assert set(names) <= {"queued", "token", "progress", "check", "done"}


EXAMPLES = {"/api/save": 30, "/api/verify": 15}


@pytest.mark.parametrize("path", openapi.POSTS)
def test_made_up_bodies(quick, described, path):
    operation = described["paths"][path]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    validator = jsonschema.Draft202012Validator(schema)
    met = set()

    @settings(SETTINGS, max_examples=EXAMPLES.get(path, 120))
    @given(bodies(schema))
    def ask(body):
        answer = quick.ask("POST", path, json.dumps(body).encode())
        checked(operation, *answer)
        assert answer[0] in (200, 400)
        fits = validator.is_valid(body)
        assert fits or answer[0] == 400
        met.add((fits, answer[0]))

    ask()
    assert {(True, 200), (False, 400)} <= met


@settings(SETTINGS, max_examples=150)
@given(
    path=st.sampled_from(list(openapi.POSTS)),
    raw=st.binary(max_size=60) | st.sampled_from([b'{"text":"a"}', b"[", b'{"a":1e999}']),
)
def test_made_up_bytes(quick, described, path, raw):
    checked(described["paths"][path]["post"], *quick.ask("POST", path, raw))


@settings(SETTINGS, max_examples=150)
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "X"]),
    path=st.sampled_from(["/", "/api/view", "/api/start", "/static/", "/api/"])
    | ANY_TEXT.map(lambda text: "/" + quote(text, errors="replace")),
    query=ANY_TEXT.map(lambda text: quote(text, errors="replace")),
)
def test_made_up_addresses(quick, method, path, query):
    status, _, content = quick.ask(method, f"{path}?{query}")
    assert status < 500
    assert b"Traceback" not in content


HEADERS = ["Host", "Origin", "Content-Type", "Content-Length", "X-Cutaway-Client", "X-Cutaway-Token", "Sec-Fetch-Site"]
HEADERS += ["If-None-Match", "Accept", "Transfer-Encoding", "Expect", "Upgrade", "Connection"]


@settings(SETTINGS, max_examples=150)
@given(
    st.dictionaries(
        st.sampled_from(HEADERS),
        st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\x00"))
        | st.sampled_from(["chunked", "websocket", "Upgrade", "9"]),
        max_size=3,
    )
)
def test_made_up_headers(quick, headers):
    connection = http.client.HTTPConnection("127.0.0.1", quick.port, timeout=2)
    with contextlib.closing(connection), contextlib.suppress(TimeoutError, http.client.HTTPException, ConnectionError):
        connection.putrequest("POST", "/api/view", skip_host="Host" in headers)
        for name, value in ({"Content-Length": "14"} | headers).items():
            connection.putheader(name, value.encode("latin-1"))
        connection.endheaders(b'{"text": "ab"}')
        assert connection.getresponse().status < 500


def test_every_route_is_described(quick, described):
    """Check that the description has every route, and no other."""
    routes = {
        (route.path, method.lower())
        for route in quick.server.config.app.app.routes
        if isinstance(route, Route)  # the others are folders of files
        for method in route.methods - {"HEAD"}
    }
    described_routes = {(path, method) for path, methods in described["paths"].items() for method in methods}
    assert {(path, method) for path, method in routes if path.startswith("/api/")} == described_routes
    assert described["openapi"] == "3.1.0"
    for path, method in described_routes:
        if method == "get":
            checked(described["paths"][path]["get"], *quick.ask("GET", path))
        else:
            schema = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
            jsonschema.Draft202012Validator.check_schema(schema)
            assert schema["additionalProperties"] is False


def test_where_a_token_is_asked_for_that_is_described(bundled):
    found = openapi.describe(bundled, True)
    assert found["security"] == [{"token": []}]
    assert found["components"]["securitySchemes"]["token"]["name"] == "X-Cutaway-Token"
