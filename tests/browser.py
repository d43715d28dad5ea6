"""Debian's Chromium, without a window, before a server on loopback: it sees that one and nothing else.

Where there is no such browser, see `tests.services`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import ConsoleMessage, Page, Request, Response, ViewportSize, sync_playwright

from tests.services import missing

CHROMIUM = Path("/usr/bin/chromium")
SIZE = ViewportSize(width=1280, height=800)
#: The browser finds no other address, not for its own services either. Playwright's routes would not see what shared
#: workers ask for, and would turn the cache off.
_LOOPBACK_ONLY = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
#: How long a page neither asks nor changes once it has come to rest.
_QUIET_MS = 400
_LIMIT_MS = 30_000
#: Playwright's own `networkidle` never comes where a page has a shared worker.
_WATCH = """(() => {
  const real = window.fetch;
  let asked = 0, last = performance.now();
  const touch = () => { last = performance.now(); };
  const done = () => { asked--; touch(); };
  window.fetch = (...given) => { asked++; return real(...given).finally(done); };
  const added = (one) => {
    if (!one.matches?.("script[src], link[rel=stylesheet]")) return;
    asked++;
    for (const end of ["load", "error"]) one.addEventListener(end, done, {once: true});
  };
  new MutationObserver((changes) => { touch(); changes.forEach((change) => change.addedNodes.forEach(added)); })
    .observe(document, {subtree: true, childList: true, characterData: true});
  window.quietMs = () => asked ? 0 : performance.now() - last;
})()"""
#: Everything but the place where a chart measures its labels, which keeps the last one.
_VISIBLE = """[...document.body.children]
  .filter(one => !one.matches("#recharts_measurement_span, style, script, noscript"))
  .map(one => one.innerText).join("\\n")"""


@contextmanager
def chromium(url: str, remembered: Mapping[str, str]) -> Iterator["Window"]:
    """Open a window on a server.

    Args:
        url: ``http://127.0.0.1:PORT``.
        remembered: What the page finds in its local storage.
    """
    if not CHROMIUM.exists():
        missing(f"needs a browser at {CHROMIUM}: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", _LOOPBACK_ONLY])
        try:
            context = browser.new_context(viewport=SIZE, locale="en-US", timezone_id="UTC")
            context.set_default_timeout(_LIMIT_MS)
            context.add_init_script(_WATCH)
            for key, value in remembered.items():
                context.add_init_script(f"if (location.host) localStorage.setItem({key!r}, {value!r})")
            yield Window(context.new_page(), url)
        finally:
            browser.close()


class Window:
    """One page of a browser.

    Attributes:
        page: Playwright's own.
        complaints: What a developer sees in red since the page was opened: errors of the console, refused requests; and
            requests to elsewhere.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.complaints: set[str] = set()
        self._url = url
        self._answers: list[Response] = []
        page.on("request", self._asked)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.add(f"error {error}"))
        page.on("response", self._answered)
        page.on("requestfailed", self._failed)

    def open(self, path: str, awaited: str) -> str:
        """Go to a page; returns its visible text once it shows a text and has come to rest."""
        self.go(path)
        return self.text(awaited)

    def go(self, path: str) -> None:
        """Go to a page, and forget what there was of the one before."""
        # A page that only differs behind the # would be changed, not loaded.
        self.page.goto("about:blank")
        self._answers.clear()
        self.complaints.clear()
        self.page.goto(self._url + path)

    def text(self, awaited: str) -> str:
        """The visible text, once the page shows a text and has come to rest."""
        self.page.get_by_text(awaited).filter(visible=True).first.wait_for()
        self.page.wait_for_function(f"window.quietMs() > {_QUIET_MS}")
        return str(self.page.evaluate(_VISIBLE))

    def answers(self, path: str) -> list[Any]:
        """What the server answered to the page's requests that end like this, since it was opened."""
        return [answer.json() for answer in self._answers if answer.url.endswith(path)]

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((f"{self._url}/", "about:", "data:", "blob:")):
            self.complaints.add(f"elsewhere {request.url}")

    def _said(self, message: ConsoleMessage) -> None:
        # The browser says this, to nobody's harm, where a page's layout took two rounds.
        if message.type == "error" and "ResizeObserver loop" not in message.text:
            self.complaints.add(f"console {message.text}")

    def _answered(self, response: Response) -> None:
        self._answers.append(response)
        if response.status >= 400:
            self.complaints.add(f"{response.status} {response.request.method} {self._path(response.url)}")

    def _failed(self, request: Request) -> None:
        # A page that is left gives up what it still waits for.
        if request.failure != "net::ERR_ABORTED":
            self.complaints.add(f"failed {request.method} {self._path(request.url)}: {request.failure}")

    def _path(self, url: str) -> str:
        return url.removeprefix(self._url).partition("?")[0]
