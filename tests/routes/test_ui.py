"""The page at ``/ui`` as its users see it: in Chromium, at the width of a desk and of a telephone."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import yaml
from playwright.sync_api import Locator, Page, expect

from llmops.endpoints.files import read_document
from tests.browser import Window, chromium
from tests.conftest import NewServer
from tests.scripts import USAGE, chat, chat_stream, completion_stream, embeddings, event, status, stream
from tests.server import Server, demo, external
from tests.upstream import Upstream
from tests.wire import End, Gate

WIDTHS = (1280, 390)
MARKUP = "<img src=x onerror=document.title='pwned'><script>document.title='pwned'</script>"
#: What Tab stops at; of tabs only the chosen one.
CONTROLS = ":is(a, button, input, select, textarea, summary):not([tabindex='-1'])"
#: Every control that nobody could tell from another by ear.
UNNAMED = """[...document.querySelectorAll("input, select, textarea, button, a")].filter(one =>
  !(one.labels?.length || one.textContent.trim() || one.getAttribute("aria-label"))).map(one => one.outerHTML)"""


@pytest.fixture(autouse=True)
def _patience() -> None:
    expect.set_options(timeout=20_000)


@pytest.fixture
def window(server: Server) -> Iterator[Window]:
    """A window on the shared server."""
    with chromium(server.url, {}) as opened:
        yield opened


@pytest.mark.parametrize("width", WIDTHS)
def test_an_external_endpoint_is_created_queried_and_deleted(window: Window, upstream: Upstream, width: int) -> None:
    page, name, gate = window.page, f"made-{width}", Gate()
    page.set_viewport_size({"width": width, "height": 800})
    upstream.play(chat_stream(("One", " two", " three."), usage=USAGE, pause=gate))

    see(window, "/ui", "Endpoints")
    kinds = page.get_by_role("heading", level=2)
    expect(kinds).to_have_text(["Foundation models", "External models"])
    fits(page)
    page.get_by_role("link", name="New endpoint").click()
    document = fill(page, name, upstream.url)
    fits(page)
    page.get_by_role("button", name="Create endpoint").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    expect(page.locator(".top .state")).to_have_text("Ready")
    expect(page.get_by_role("region", name="Served entities")).to_contain_text("100 % of the traffic")
    fits(page)
    ask(page, "Count")
    expect(page.get_by_test_id("answer")).to_have_text("One")
    gate.open()
    expect(page.get_by_role("status")).to_have_text("Done.")
    expect(page.get_by_test_id("answer")).to_have_text("One two three.")
    told = told_of(page)
    fits(page)
    page.get_by_role("button", name="Delete endpoint…").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Endpoints")
    expect(page.get_by_role("link", name=name)).to_have_count(0)

    assert document == external_of(name, upstream.url)
    assert told["Tokens"] == "7 in, 5 out"
    assert told["Served by"] == "some-model"
    assert re.fullmatch("[0-9a-f]{32}", told["Request"])
    assert told["Trace"] == f"tr-{told['Request']}"
    assert {"First token", "Total"} < told.keys()
    assert upstream.requests[-1].json["messages"] == [{"role": "user", "content": "Count"}]
    assert window.complaints == set()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_wrong_key_is_reported_as_the_server_says_it(
    window: Window, server: Server, upstream: Upstream, width: int
) -> None:
    wrong = status(401, {"error": {"message": "Incorrect API key provided"}})
    upstream.play(wrong, wrong)
    said = server.ask("up").json()["message"]
    window.page.set_viewport_size({"width": width, "height": 800})

    see(window, "/ui#/endpoints/up", "up")
    ask(window.page, "hello")

    expect(window.page.get_by_role("alert")).to_have_text(said)
    expect(window.page.get_by_role("status")).to_have_text("No answer.")
    fits(window.page)
    assert re.fullmatch("[0-9a-f]{32}", told_of(window.page)["Request"])
    assert "Incorrect API key" in said
    assert refused(window) == {"403 POST /serving-endpoints/up/invocations"}


def test_a_missing_key_is_reported_before_and_after_asking(window: Window, server: Server) -> None:
    page, waits = window.page, server.endpoint("keyless")["config"]["served_entities"][0]["state"]

    see(window, "/ui#/endpoints/keyless", "keyless")
    expect(page.locator(".top .state")).to_have_text("Not ready")
    expect(page.locator(".reason")).to_have_text(waits["deployment_state_message"])
    ask(page, "hello")

    expect(page.get_by_role("alert")).to_have_text(server.ask("keyless").json()["message"])
    assert refused(window) == {"400 POST /serving-endpoints/keyless/invocations"}


def test_a_new_endpoint_without_its_weights_shows_what_it_is_made_of(window: Window, server: Server) -> None:
    engine = {"engine": "llama_cpp", "source": "/nowhere/w.gguf", "task": "llm/v1/chat"}
    entity = {"name": "local", "entity_name": "llmops.odd", "llmops": engine}
    server.post("/api/2.0/serving-endpoints", {"name": "new", "config": {"served_entities": [entity]}})

    see(window, "/ui", "Endpoints")
    expect(window.page.get_by_role("row", name="new ")).to_contain_text("llmops.odd")
    see(window, "/ui#/endpoints/new", "new")
    entities = window.page.get_by_role("region", name="Served entities")

    expect(entities.locator(".reason")).to_contain_text("/nowhere/w.gguf")
    expect(entities).to_contain_text("100 % of the traffic")
    httpx.delete(f"{server.url}/api/2.0/serving-endpoints/new").raise_for_status()


def test_a_stopped_answer_is_stopped_at_the_model_and_stays(window: Window, upstream: Upstream) -> None:
    upstream.play(chat_stream(("One", " two"), pause=Gate()))
    before = upstream.cancelled

    see(window, "/ui#/endpoints/up", "up")
    ask(window.page, "Count")
    expect(window.page.get_by_test_id("answer")).to_have_text("One")
    window.page.get_by_role("button", name="Stop").click()

    expect(window.page.get_by_role("status")).to_have_text("Stopped. What had come stays.")
    expect(window.page.get_by_test_id("answer")).to_have_text("One")
    upstream.wait_for(lambda: upstream.cancelled == before + 1)
    assert window.complaints == set()


def test_an_answer_that_breaks_off_keeps_what_came_and_says_so(window: Window, upstream: Upstream) -> None:
    first = {"choices": [{"index": 0, "delta": {"content": "One"}, "finish_reason": None}]}
    upstream.play(stream(event(first), ending=End.RESET))

    see(window, "/ui#/endpoints/up", "up")
    ask(window.page, "Count")

    expect(window.page.get_by_role("status")).to_have_text("The answer broke off.")
    expect(window.page.get_by_role("alert")).to_contain_text("up")
    expect(window.page.get_by_test_id("answer")).to_have_text("One")


def test_completions_stream_and_embeddings_are_shown(window: Window, upstream: Upstream) -> None:
    upstream.play(completion_stream(("Once", " more")), embeddings([0.5] * 12))

    see(window, "/ui#/endpoints/up-completions", "up-completions")
    ask(window.page, "Say", "Prompt")
    expect(window.page.get_by_test_id("answer")).to_have_text("Once more")
    see(window, "/ui#/endpoints/up-embeddings", "up-embeddings")
    ask(window.page, "Say", "Text")

    expect(window.page.get_by_test_id("answer")).to_contain_text("12 numbers: 0.5000, ")
    assert window.complaints == set()


def test_a_refused_create_says_what_the_server_says(window: Window, upstream: Upstream) -> None:
    see(window, "/ui#/new", "New endpoint")
    fill(window.page, "up", upstream.url)
    window.page.get_by_role("button", name="Create endpoint").click()

    expect(window.page.get_by_role("alert")).to_contain_text("already exists")
    assert {complaint[:3] for complaint in refused(window)} == {"409"}


def test_a_key_in_the_place_of_its_reference_is_neither_sent_nor_shown(window: Window, upstream: Upstream) -> None:
    page = window.page
    see(window, "/ui#/new", "New endpoint")
    fill(page, "leaky", upstream.url)
    page.get_by_label("API key").fill("sk-canary-42")
    page.get_by_role("button", name="Create endpoint").click()

    assert page.get_by_label("API key").evaluate("one => one.validationMessage").startswith("Not the key itself")
    expect(page.get_by_label("YAML of the endpoint")).to_contain_text("{{secrets/<scope>/<key>}}")
    expect(page.get_by_label("YAML of the endpoint")).not_to_contain_text("canary")
    assert page.get_by_role("heading", level=1).text_content() == "New endpoint"
    assert window.answers("/serving-endpoints") == []


def test_every_provider_of_the_form_makes_a_document_the_server_takes(window: Window) -> None:
    page = window.page
    see(window, "/ui#/new", "New endpoint")
    page.get_by_label("Name").fill("every")
    made = {}
    for label in page.get_by_label("Provider").locator("option").all_text_contents():
        page.get_by_label("Provider").select_option(label=label)
        page.get_by_label("Model").fill(page.get_by_label("Model").get_attribute("placeholder") or "")
        # What is filled in is no longer among them.
        missing = page.locator("form input:invalid")
        for _ in range(missing.count()):
            missing.first.fill(missing.first.get_attribute("placeholder") or "")
        made[label] = read_document(preview(page))

    providers = {model.provider for spec in made.values() if (model := spec.config.served_entities[0].external_model)}
    assert len(made) == 21
    assert len(providers) == 9
    assert window.complaints == set()


def test_an_endpoint_of_a_file_says_which_file_owns_it(window: Window) -> None:
    see(window, "/ui#/endpoints/up", "up")

    expect(window.page.get_by_role("region", name="Delete")).to_contain_text("The file up.yaml owns this endpoint.")
    expect(window.page.get_by_role("button", name="Delete endpoint…")).to_have_count(0)


@pytest.mark.parametrize("tab", ["curl", "Python, openai", "Python, MLflow"])
def test_a_snippet_runs_as_it_stands(window: Window, upstream: Upstream, tab: str, tmp_path: Path) -> None:
    upstream.play(chat("From the snippet."))
    see(window, "/ui#/endpoints/up", "up")
    window.page.get_by_role("tab", name=tab).click()
    snippet = window.page.get_by_role("tabpanel").locator("code").text_content() or ""

    shell = ["bash", "-c"] if tab == "curl" else [sys.executable, "-c"]
    run = subprocess.run([*shell, snippet], capture_output=True, text=True, timeout=120, cwd=tmp_path)

    assert "From the snippet." in run.stdout, run.stderr
    assert upstream.requests[-1].json["messages"] == [{"role": "user", "content": "Hello!"}]


def test_copying_puts_the_whole_snippet_on_the_clipboard(window: Window, server: Server) -> None:
    window.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    see(window, "/ui#/endpoints/up", "up")
    window.page.get_by_role("button", name="Copy URL").click()

    expect(window.page.get_by_role("button", name="Copy URL")).to_have_text("Copied")
    copied = window.page.evaluate("() => navigator.clipboard.readText()")
    assert copied == f"{server.url}/serving-endpoints/up/invocations"


def test_nothing_that_is_said_becomes_markup(new_server: NewServer) -> None:
    with Upstream() as upstream:
        document = {**external("odd", upstream.url), "description": MARKUP, "tags": [{"key": "k", "value": MARKUP}]}
        document["config"]["served_entities"][0]["external_model"]["name"] = MARKUP
        server = new_server(document, environment={"LLMOPS_SECRET_TEST_KEY": "k"})
        upstream.play(chat_stream((MARKUP, "!"), model=MARKUP), status(400, {"error": {"message": MARKUP}}))
        with chromium(server.url, {}) as window:
            page = window.page
            see(window, "/ui", "Endpoints")
            expect(page.get_by_role("row", name="odd")).to_contain_text(MARKUP)
            page.get_by_role("link", name="odd").click()
            expect(page.get_by_role("heading", level=1)).to_have_text("odd")
            ask(page, "hello")
            expect(page.get_by_test_id("answer")).to_have_text(f"{MARKUP}!")
            ask(page, "hello")
            expect(page.get_by_role("alert")).to_contain_text(MARKUP)
            asked = refused(window)
            see(window, f"/ui#/endpoints/{quote(MARKUP, safe='')}", MARKUP)

            assert page.title() != "pwned"
            assert page.locator("img, main script").count() == 0
            assert asked == {"400 POST /serving-endpoints/odd/invocations"}
            assert {complaint[:3] for complaint in refused(window)} == {"404"}


def test_a_token_signs_in_and_stays_in_the_tab(new_server: NewServer) -> None:
    server = new_server(demo(), environment={"LLMOPS_TOKEN": "the-admins"})
    bare = server.get("/ui")
    with chromium(server.url, {}) as window:
        page = window.page
        see(window, "/ui", "Sign in")
        sign_in(page, "somebody's")
        expect(page.get_by_role("alert")).to_contain_text("a valid token is needed")
        sign_in(page, "the-admins")
        expect(page.get_by_role("link", name="demo")).to_be_visible()
        page.reload()
        page.get_by_role("link", name="demo").click()
        expect(page.get_by_role("tabpanel")).to_contain_text("$LLMOPS_TOKEN")
        ask(page, "hello")
        expect(page.get_by_role("status")).to_have_text("Done.")
        shown, kept = page.content(), page.evaluate("[JSON.stringify(localStorage), document.cookie]")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Token")).to_be_visible()

        assert (bare.status_code, bare.headers["content-type"]) == (401, "text/html; charset=utf-8")
        assert bare.headers["www-authenticate"] == "Bearer"
        assert "the-admins" not in shown
        assert kept == ["{}", ""]
        assert page.evaluate("sessionStorage.length") == 0
        assert refused(window) == {"401 GET /ui", "401 GET /api/2.0/serving-endpoints"}


def test_a_server_that_is_away_is_one_clear_line_and_a_way_back(new_server: NewServer) -> None:
    server = new_server()
    with chromium(server.url, {}) as window:
        see(window, "/ui", "Endpoints")
        expect(window.page.get_by_role("status")).to_contain_text("There are no endpoints yet.")
        see(window, "/ui#/new", "New endpoint")
        server.stop()
        window.page.get_by_role("link", name="llmops").click()

        expect(window.page.get_by_role("alert")).to_contain_text("The server does not answer.")
        expect(window.page.get_by_role("button", name="Try again")).to_be_visible()


@pytest.mark.parametrize("path", ["/ui", "/ui#/new", "/ui#/endpoints/up"])
def test_everything_is_reached_by_keyboard_and_has_a_name(window: Window, path: str) -> None:
    page = window.page
    see(window, path, {"/ui": "Endpoints", "/ui#/new": "New endpoint"}.get(path, "up"))
    wanted = page.locator(CONTROLS).filter(visible=True).count()

    reached = set()
    for _ in range(2 * wanted + 10):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(f"[...document.querySelectorAll({CONTROLS!r})].indexOf(document.activeElement)"))

    assert len(reached - {-1}) == wanted > 2
    assert page.evaluate(UNNAMED) == []


def see(window: Window, path: str, heading: str) -> None:
    """Go to an address of the window's server, and wait for its heading."""
    window.go(path)
    expect(window.page.get_by_role("heading", level=1)).to_have_text(heading)


def fill(page: Page, name: str, url: str) -> Any:
    """Fill in the form for an OpenAI model behind a URL; returns the document it shows."""
    page.get_by_label("Name").fill(name)
    page.get_by_label("Provider").select_option(label="OpenAI")
    page.get_by_label("Model").fill("some-model")
    page.get_by_label("API key").fill("{{secrets/test/key}}")
    page.get_by_label("Base URL").fill(f"{url}/v1")
    return preview(page)


def preview(page: Page) -> Any:
    return yaml.safe_load(page.get_by_label("YAML of the endpoint").text_content() or "")


def external_of(name: str, url: str) -> dict[str, Any]:
    document = external("some-model", url)
    (entity,) = document["config"]["served_entities"]
    entity["external_model"]["name"] = "some-model"
    return {**document, "name": name}


def ask(page: Page, prompt: str, label: str = "Message") -> None:
    page.get_by_label(label, exact=True).fill(prompt)
    page.get_by_role("button", name="Send").click()


def told_of(page: Page) -> dict[str, str]:
    """What the page tells of an answer."""
    rows: Locator = page.locator(".answer .facts")
    return dict(zip(rows.locator("dt").all_text_contents(), rows.locator("dd").all_text_contents(), strict=True))


def sign_in(page: Page, token: str) -> None:
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()


def fits(page: Page) -> None:
    """Nothing stands out of the window to the right."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), page.url


def refused(window: Window) -> set[str]:
    """What the server refused; the browser says each of these once more, and nothing else may be complained of."""
    said = "console Failed to load resource: the server responded with a status of"
    return {complaint for complaint in window.complaints if not complaint.startswith(said)}
