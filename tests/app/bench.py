"""The workbench in real Chromium, which reaches its own server and nothing else."""

from urllib.parse import urlencode, urlsplit

import pytest

from tests.patience import LONG, turns

VIOLATIONS = """
  window.violations = [];
  const later = window.setTimeout;  // a word that goes after a second stays: a slow machine looks later
  window.setTimeout = (act, ms, ...rest) => later(act, ms === 1200 ? 1e8 : ms, ...rest);
  document.addEventListener("securitypolicyviolation", (event) => {
    violations.push(`${event.violatedDirective} ${event.blockedURI}`);
  });
"""


class Visit:
    """A page of the workbench, and what happened in it."""

    def __init__(self, page, address):
        self.page, self.address = page, address
        self.problems, self.requests, self.expected = [], [], ()
        page.on("console", lambda message: self.problems.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))
        page.set_default_timeout(1000 * LONG)

    def open(self, **state):
        """Go to a state, and wait until it is drawn."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.address}/#{urlencode(state)}")
        self.page.wait_for_selector(f"body[data-drawn={state.get('panel', 'next')}]")
        return self

    def api(self):
        """Return the requests to the server so far, without files of the page."""
        return [urlsplit(url).path for url in self.requests if "/api/" in url]

    def settle(self):
        """Wait until the next frame has been drawn."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def until(self, expression, argument=None):
        """Wait until an expression holds. (Playwright's own waiting evaluates a string, which the page forbids.)"""
        for _ in turns(self.page):
            if self.page.evaluate(expression, argument):
                return
        raise AssertionError(f"never came true: {expression}")

    def texts(self, selector):
        return [" ".join(text.split()) for text in self.page.locator(selector).all_inner_texts()]

    def token(self, i):
        return self.page.locator(f"#strip [data-i='{i}']")

    def cursor(self):
        self.settle()
        return int(self.page.locator("#strip").get_attribute("aria-valuenow")) - 1

    def close(self):
        if self.page.url.startswith(self.address):
            self.problems += [f"policy: {each}" for each in self.page.evaluate("violations")]
        strange = [url for url in self.requests if not url.startswith((self.address, "data:", "blob:", "about:"))]
        self.problems += [f"request: {url}" for url in strange]
        return [each for each in self.problems if not any(part in each for part in self.expected)]


@pytest.fixture
def bench(browser, served):
    """Open the workbench; anything that goes wrong in a page fails the test at its end."""
    visits, contexts = [], []

    def new(scheme="light", width=1280, height=860, permissions=("clipboard-read", "clipboard-write"), **options):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height}, **options)
        context.grant_permissions(list(permissions))
        context.add_init_script(VIOLATIONS)
        context.route(lambda url: not url.startswith(served.address), lambda route: route.abort())
        contexts.append(context)
        visits.append(Visit(context.new_page(), served.address))
        return visits[-1]

    yield new
    problems = [problem for visit in visits for problem in visit.close()]
    for context in contexts:
        context.close()
    assert problems == [], problems


def percent(p):
    return "under 0.1%" if p < 0.0005 else f"{100 * p:.1f}%"
