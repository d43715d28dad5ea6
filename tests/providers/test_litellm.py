"""The litellm child, between us and a scripted Anthropic."""

import base64
import json
import signal
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from llmops.protocol import chat
from llmops.protocol.usage import Usage
from llmops.providers import litellm_bridge
from tests.faults import accept_and_stall, cut, html, reset_before_headers
from tests.providers.anthropic_upstream import (
    COUNTED,
    WORDS,
    block,
    end,
    event,
    start,
    text_block,
    text_reply,
    text_stream,
)
from tests.providers.children import WAIT_S, Child, events
from tests.scripts import document, status, stream
from tests.upstream import Upstream, refused_url
from tests.wire import End, Gate

MODULE = "llmops.providers.litellm"
SECRET = "anthropic-key-of-the-test"
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 50}
STREAMED = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
#: Spaces and order as the model wrote them: they must arrive byte for byte.
ARGUMENTS = '{"city":  "Zürich", "days": [1,2 ,3], "unit": "C"}'
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    with Child(MODULE) as child:
        yield child
        child.stop()
        assert child.process.returncode == -signal.SIGTERM
        assert SECRET not in child.log
        assert "Traceback" not in child.log


@pytest.fixture
def client(child: Child) -> Iterator[httpx.Client]:
    with child.client() as client:
        yield client


@pytest.fixture
def anthropic() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def headers(url: str, **more: object) -> dict[str, str]:
    given = litellm_bridge.arguments("anthropic", "claude-sonnet-4-5", {"anthropic_api_key": SECRET}, url)
    return {litellm_bridge.HEADER: litellm_bridge.header({"timeout": WAIT_S, **given, **more})}


def ask(
    client: httpx.Client, upstream: Upstream, body: Mapping[str, Any], path: str = "chat/completions"
) -> httpx.Response:
    return client.post(f"/v1/{path}", json=body, headers=headers(upstream.url))


def test_a_chat_has_the_vendors_words_and_counts(client: httpx.Client, anthropic: Upstream) -> None:
    anthropic.play(text_reply("Hello there, é."))
    answer = ask(client, anthropic, HELLO).json()

    assert chat.answer_text(answer) == "Hello there, é."
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert Usage.read(answer) == COUNTED


def test_the_key_goes_to_the_vendor_and_nowhere_else(client: httpx.Client, anthropic: Upstream) -> None:
    anthropic.play(text_reply("Hello."))
    answer = ask(client, anthropic, HELLO)

    (request,) = anthropic.requests
    assert request.path == "/v1/messages"
    assert [name for name, value in request.headers.items() if SECRET in value] == ["x-api-key"]
    assert SECRET not in request.body.decode()
    assert SECRET not in answer.text + str(answer.headers)


def test_a_streamed_chat_counts_exactly_as_the_plain_one(client: httpx.Client, anthropic: Upstream) -> None:
    anthropic.play(text_stream(), text_reply())
    *chunks, done = events(ask(client, anthropic, STREAMED))
    plain = ask(client, anthropic, HELLO).json()

    assert done == "[DONE]"
    assert [chat.delta_text(chunk) for chunk in chunks if chat.delta_text(chunk)] == list(WORDS)
    assert [chunk["choices"] for chunk in chunks if "usage" in chunk] == [[]]
    assert Usage.read(chat.fold(chunks)) == Usage.read(plain)
    assert chat.fold(chunks)["choices"][0]["finish_reason"] == "stop"


def test_a_stream_tells_counts_only_when_asked(client: httpx.Client, anthropic: Upstream) -> None:
    anthropic.play(text_stream())
    chunks = events(ask(client, anthropic, {**HELLO, "stream": True}))

    assert not any("usage" in chunk for chunk in chunks[:-1])


def test_tool_arguments_arrive_byte_for_byte(client: httpx.Client, anthropic: Upstream) -> None:
    called = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {}}
    pieces = [
        {"type": "input_json_delta", "partial_json": ARGUMENTS[at : at + 7]} for at in range(0, len(ARGUMENTS), 7)
    ]
    said = text_block("Let me see.")
    anthropic.play(stream(start(), *said, *block(1, called, *pieces), *end("tool_use")))
    folded = chat.fold(events(ask(client, anthropic, {**STREAMED, "tools": [TOOL]}))[:-1])

    choice = folded["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert call["id"] == "call_1"
    assert call["function"] == {"name": "weather", "arguments": ARGUMENTS}
    assert (chat.answer_text(folded), choice["finish_reason"]) == ("Let me see.", "tool_calls")


def test_a_completion_becomes_one_message(client: httpx.Client, anthropic: Upstream) -> None:
    anthropic.play(text_reply("Hello."), text_stream())
    body = {"prompt": "hello", "max_tokens": 50}
    plain = ask(client, anthropic, body, "completions").json()
    *chunks, done = events(ask(client, anthropic, {**body, "stream": True}, "completions"))

    assert (plain["object"], plain["choices"][0]["text"], plain["choices"][0]["finish_reason"]) == (
        "text_completion",
        "Hello.",
        "stop",
    )
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "".join(WORDS)
    assert done == "[DONE]"


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_come_in_the_encoding_asked_for(client: httpx.Client, anthropic: Upstream, encoding: str) -> None:
    """Cohere, since Anthropic has none."""
    vectors = {"float": [[0.5, -1.0], [0.0, 2.0]]}
    billed = {"billed_units": {"input_tokens": 4}}
    anthropic.play(document({"id": "e", "texts": ["a", "b"], "embeddings": vectors, "meta": billed}))
    given = litellm_bridge.arguments("cohere", "embed-v4.0", {"cohere_api_key": SECRET}, anthropic.url)
    answer = client.post(
        "/v1/embeddings",
        json={"input": ["a", "b"], "encoding_format": encoding},
        headers={litellm_bridge.HEADER: litellm_bridge.header(given)},
    ).json()

    rows = [row["embedding"] for row in answer["data"]]
    if encoding == "base64":
        rows = [list(struct.unpack("<2f", base64.b64decode(row))) for row in rows]
    assert rows == vectors["float"]
    assert anthropic.requests[0].path == "/v2/embed"
    assert answer["usage"]["prompt_tokens"] == 4


def test_what_a_vendor_does_not_know_is_left_out_and_named(client: httpx.Client, anthropic: Upstream) -> None:
    """`api_base` and `api_key` above all: a caller must not send the endpoint's key to a host of its own."""
    anthropic.play(text_reply("Hello."))
    strange = {"seed": 7, "top_k": 3, "api_base": "http://127.0.0.1:1", "api_key": "mine", "new\nfield": 1}
    answer = ask(client, anthropic, {**HELLO, **strange})

    assert answer.status_code == 200
    assert json.loads(answer.headers["x-llmops-dropped"]) == ["api_base", "api_key", "new\nfield", "seed"]
    sent = anthropic.requests[0].json
    assert sent.keys() == {"model", "messages", "max_tokens", "top_k"}


def test_the_vendors_refusal_is_mirrored_without_the_key(client: httpx.Client, anthropic: Upstream) -> None:
    said = {"type": "error", "error": {"type": "rate_limit_error", "message": f"slow down, {SECRET}"}}
    anthropic.always(status(429, said, {"retry-after": "7"}))

    for body in (HELLO, STREAMED):
        answer = ask(client, anthropic, body)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
        assert answer.json() == {"error": {"message": "slow down, ***", "type": "rate_limit_error", "code": 429}}
    assert len(anthropic.requests) == 2


@pytest.mark.parametrize("code", [400, 401, 403, 404, 413, 500, 503, 529])
def test_every_status_of_the_vendor_is_its_own(client: httpx.Client, anthropic: Upstream, code: int) -> None:
    anthropic.play(status(code, {"type": "error", "error": {"type": "some_error", "message": "because"}}))
    answer = ask(client, anthropic, HELLO)

    assert (answer.status_code, answer.json()["error"]["message"]) == (code, "because")


@pytest.mark.parametrize("body", [HELLO, STREAMED], ids=["plain", "streamed"])
def test_a_vendor_that_cannot_be_reached_is_502(
    client: httpx.Client, anthropic: Upstream, body: dict[str, Any]
) -> None:
    anthropic.always(reset_before_headers())

    assert ask(client, anthropic, body).status_code == 502
    assert client.post("/v1/chat/completions", json=body, headers=headers(refused_url())).status_code == 502


def test_a_page_in_place_of_an_answer_is_502(client: httpx.Client, anthropic: Upstream) -> None:
    anthropic.always(html())

    for body in (HELLO, STREAMED):
        answer = ask(client, anthropic, body)
        assert answer.status_code == 502
        assert "\n" not in answer.json()["error"]["message"]


def test_a_vendor_that_stays_silent_is_504(client: httpx.Client, anthropic: Upstream) -> None:
    anthropic.always(accept_and_stall())
    given = headers(anthropic.url, timeout=0.2)

    for body in (HELLO, STREAMED):
        assert client.post("/v1/chat/completions", json=body, headers=given).status_code == 504


@pytest.mark.parametrize("ending", [End.CLOSE, End.RESET], ids=["closed", "reset"])
def test_a_cut_stream_ends_in_an_error_and_never_in_done(
    client: httpx.Client, anthropic: Upstream, ending: End
) -> None:
    anthropic.play(cut(text_stream(), 3, ending))
    first, *_, last = events(ask(client, anthropic, STREAMED))

    assert chat.delta_text(first) == WORDS[0]
    assert last["error"]["code"] == 502


def test_a_stream_that_ends_early_but_politely_is_an_error_too(client: httpx.Client, anthropic: Upstream) -> None:
    """litellm says `finish_reason: stop` here, as if all had been well."""
    anthropic.play(stream(start(), *text_block("Hel")))
    first, last = events(ask(client, anthropic, STREAMED))

    assert chat.delta_text(first) == "Hel"
    assert last["error"]["message"] == "the vendor's stream ended before its answer did"


def test_an_error_event_of_the_vendor_is_passed_on(client: httpx.Client, anthropic: Upstream) -> None:
    said = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    anthropic.play(stream(start(), *text_block("Hel"), said))
    *_, last = events(ask(client, anthropic, STREAMED))

    assert "Overloaded" in last["error"]["message"]


@pytest.mark.parametrize("body", [HELLO, STREAMED], ids=["plain", "streamed"])
def test_a_caller_that_leaves_cancels_the_vendor(
    client: httpx.Client, anthropic: Upstream, body: dict[str, Any]
) -> None:
    anthropic.play(accept_and_stall())
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json=body, headers=headers(anthropic.url), timeout=0.3)

    anthropic.wait_for(lambda: anthropic.cancelled == 1)


def test_a_caller_that_leaves_in_the_middle_cancels_the_vendor(client: httpx.Client, anthropic: Upstream) -> None:
    anthropic.play(text_stream(pause=Gate()))
    with client.stream("POST", "/v1/chat/completions", json=STREAMED, headers=headers(anthropic.url)) as answer:
        assert "Hello" in next(answer.iter_lines())

    anthropic.wait_for(lambda: anthropic.cancelled == 1)


@pytest.mark.parametrize("key", [None, "wrong"])
def test_nothing_is_answered_without_the_internal_key(child: Child, anthropic: Upstream, key: str | None) -> None:
    with child.client(key) as client:
        paths = ("chat/completions", "completions", "embeddings")
        assert {ask(client, anthropic, HELLO, path).status_code for path in paths} == {401}
        assert client.get("/health").status_code == 200
    assert anthropic.requests == []


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("chat/completions", b"{", "not JSON"),
        ("chat/completions", b"[]", "not an object"),
        ("chat/completions", b'{"messages": "hello"}', "'messages' must be"),
        ("completions", b'{"prompt": ["a", "b"]}', "'prompt' must be one text"),
        ("embeddings", b'{"input": []}', "'input' must be"),
    ],
)
def test_a_body_that_does_not_fit_never_reaches_the_vendor(
    client: httpx.Client, anthropic: Upstream, path: str, body: bytes, says: str
) -> None:
    answer = client.post(f"/v1/{path}", content=body, headers=headers(anthropic.url))

    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]
    assert anthropic.requests == []


def test_the_bridge_does_not_start_open_or_chatty() -> None:
    """Without the switch litellm asks the network for a price list; the address here keeps that on loopback."""
    given = {"LLMOPS_INTERNAL_KEY": "", "LITELLM_LOCAL_MODEL_COST_MAP": "", "LITELLM_MODEL_COST_MAP_URL": refused_url()}
    with Child(MODULE, environment=given) as child:
        assert "LLMOPS_INTERNAL_KEY is not set" in child.line["error"]
        assert "LITELLM_LOCAL_MODEL_COST_MAP is not True" in child.line["error"]
        assert child.process.wait(WAIT_S) == 1
