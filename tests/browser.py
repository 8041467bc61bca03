"""Real Chromium without a network, for the tests of pages."""

import os
import shutil

import pytest

from tests.patience import LONG

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="session")
def browser():
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        missing = f"no browser is installed: none of {', '.join(NAMES)} is on the path"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open a file without a network; whatever goes wrong in it fails the test at its end."""
    contexts, problems = [], []

    def watch(page):
        page.on("console", lambda message: problems.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: local(request.url) or problems.append(f"request: {request.url}"))
        page.set_default_timeout(1000 * LONG)

    def open_file(path, scheme="light", width=1280, permissions=None):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, offline=True)
        contexts.append(context)
        if permissions is not None:
            context.grant_permissions(permissions)
        page = context.new_page()
        watch(page)
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-drawn]")
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert problems == []


def local(url):
    return url.startswith(("file:", "data:", "blob:", "about:"))
