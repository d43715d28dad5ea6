"""Anthropic's routes over HTTP: any chat endpoint answers, in Anthropic's words, and each call is one record."""

from typing import Any

import httpx
import orjson
import pytest

from tests import faults
from tests.conftest import NewServer
from tests.logged import flush, runs, traces
from tests.protocol.transcripts import TOOL_CHUNKS, TOOLS, heard
from tests.scripts import DONE, USAGE, WORDS, chat, chat_stream, event, status, stream, whole
from tests.server import Server, demo, external
from tests.upstream import Upstream

KEY = {"LLMOPS_SECRET_TEST_KEY": "sk-test"}
TOOL = {"name": "f", "input_schema": {"type": "object", "properties": {"x": {"type": "number"}}}}


def _asked(endpoint: str, **fields: Any) -> dict[str, Any]:
    return {"model": endpoint, "max_tokens": 99, "messages": [{"role": "user", "content": "hi"}], **fields}


def _ask(server: Server, endpoint: str, **fields: Any) -> httpx.Response:
    headers = {"x-api-key": "any", "anthropic-version": "2023-06-01"}
    return server.post("/v1/messages", _asked(endpoint, **fields), headers=headers)


def test_a_message_is_answered_and_the_model_is_asked_in_chat(server: Server, upstream: Upstream) -> None:
    upstream.play(chat("Hello.", tool_calls=TOOLS, finish_reason="tool_calls"))

    answer = _ask(server, "up", system="be brief", tools=[TOOL], metadata={"user_id": "u-1"})

    assert answer.headers["x-request-id"] in answer.json()["id"]
    assert [block["type"] for block in answer.json()["content"]] == ["text", "tool_use", "tool_use"]
    assert answer.json()["stop_reason"] == "tool_use"
    assert answer.json()["usage"]["input_tokens"] == USAGE["prompt_tokens"]
    sent = upstream.requests[-1].json
    assert (sent["model"], sent["max_tokens"], sent["user"]) == ("up-model", 99, "u-1")
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]
    assert sent["tools"][0]["function"]["parameters"] == TOOL["input_schema"]


def test_a_streamed_message_has_anthropics_events_and_tells_its_tokens(server: Server, upstream: Upstream) -> None:
    upstream.play(chat_stream(usage=USAGE))

    answer = _ask(server, "up", stream=True)

    assert answer.headers["content-type"] == "text/event-stream"
    events = heard(answer.content)
    texts = [event["delta"]["text"] for name, event in events if name == "content_block_delta"]
    assert texts == list(WORDS)
    assert [name for name, _ in events][-2:] == ["message_delta", "message_stop"]
    assert events[-2][1]["usage"]["output_tokens"] == USAGE["completion_tokens"]


def test_arguments_that_come_in_any_pieces_are_told_byte_for_byte(server: Server, upstream: Upstream) -> None:
    upstream.play(faults.one_byte_chunks(stream(*[event(chunk) for chunk in TOOL_CHUNKS], DONE)))

    events = heard(_ask(server, "up", stream=True, tools=[TOOL]).content)

    arguments: dict[int, str] = {}
    for name, told in events:
        if name == "content_block_delta" and told["delta"]["type"] == "input_json_delta":
            arguments[told["index"]] = arguments.get(told["index"], "") + told["delta"]["partial_json"]
    assert arguments == {2: '{"x": 1.0}', 3: "{}"}


def test_a_stream_that_breaks_ends_in_anthropics_error(server: Server, upstream: Upstream) -> None:
    upstream.play(faults.cut_stream(2))

    events = heard(_ask(server, "up", stream=True).content)

    assert [name for name, _ in events].count("error") == 1
    name, told = events[-1]
    assert (name, told["type"], told["error"]["type"]) == ("error", "error", "api_error")


def test_errors_have_anthropics_shape(server: Server, upstream: Upstream) -> None:
    upstream.play(status(429, headers={"retry-after": "3"}))

    limited, unknown = _ask(server, "up"), _ask(server, "nobody")
    refused, embeddings = _ask(server, "demo", container="c"), _ask(server, "demo-embeddings")
    unreadable = server.post_bytes("/v1/messages", b"{")
    lost = server.post("/v1/messages/batches", {})

    told = [(one.status_code, one.json()["error"]["type"]) for one in (limited, unknown, refused, embeddings)]
    bad = "invalid_request_error"
    assert told == [(429, "rate_limit_error"), (404, "not_found_error"), (400, bad), (400, bad)]
    assert limited.headers["retry-after"] == "3"
    assert "'container' is not served" in refused.json()["error"]["message"]
    assert (unreadable.status_code, unreadable.json()["type"]) == (400, "error")
    assert (lost.status_code, lost.json()["error"]["type"]) == (404, "not_found_error")


def test_an_answer_without_choices_goes_to_the_next_entity(server: Server, upstream: Upstream) -> None:
    upstream.play(whole(b'{"data": []}'), chat("Hello."))

    answer = _ask(server, "both")

    assert (answer.headers["served-model-name"], answer.json()["content"][0]["text"]) == ("second", "Hello.")


@pytest.mark.parametrize("streamed", [False, True])
def test_tokens_are_estimated_where_the_model_counts_none(server: Server, upstream: Upstream, streamed: bool) -> None:
    upstream.play(chat_stream() if streamed else chat(usage=None))

    answer = _ask(server, "up", stream=streamed)

    usage = heard(answer.content)[-2][1]["usage"] if streamed else answer.json()["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (1, 5)


def test_tokens_are_counted_without_asking_a_model(server: Server, upstream: Upstream) -> None:
    before = len(upstream.requests)
    asked = {"model": "up", "messages": [{"role": "user", "content": "hello there"}]}

    plain, with_tool, unknown = (
        server.post("/v1/messages/count_tokens", body)
        for body in (asked, {**asked, "tools": [TOOL]}, {**asked, "model": "nobody"})
    )

    assert plain.json() == {"input_tokens": 2, "estimated": True}
    assert with_tool.json()["input_tokens"] > 10
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")
    assert len(upstream.requests) == before


def test_each_message_is_one_run_as_the_client_saw_it(new_server: NewServer) -> None:
    with Upstream() as upstream:
        upstream.always(chat_stream(usage=USAGE))
        server = new_server(external("up", upstream.url), demo(), environment=KEY)
        streamed = _ask(server, "up", stream=True, metadata={"user_id": "u-1", "session_id": "s-1"})
        plain = _ask(server, "demo")
        server.post("/v1/messages/count_tokens", _asked("demo"))
    flush(server)

    found = {run.data.params["endpoint"]: run.data for run in runs(server)}

    assert {name: data.tags["wire"] for name, data in found.items()} == {"up": "messages", "demo": "messages"}
    assert len(runs(server)) == 2
    assert (found["up"].tags["user"], found["up"].tags["session"]) == ("u-1", "s-1")
    assert (found["up"].tags["prompt"], found["up"].tags["response"]) == ("hi", "".join(WORDS))
    assert found["up"].metrics["output_tokens"] == USAGE["completion_tokens"]
    assert found["demo"].params["max_tokens"] == "99"
    roots = {trace.info.trace_id: trace.data.spans[0] for trace in traces(server, include_spans=True)}
    kept = roots[streamed.headers["x-mlflow-trace-id"]]
    assert kept.inputs["metadata"] == {"user_id": "u-1", "session_id": "s-1"}
    assert kept.outputs["content"] == [{"type": "text", "text": "".join(WORDS)}]
    assert kept.attributes["mlflow.message.format"] == "anthropic"
    assert roots[plain.headers["x-mlflow-trace-id"]].outputs == orjson.loads(plain.content)


def test_a_body_that_cannot_be_counted_is_a_mistake_of_its_sender(server: Server) -> None:
    body = {**_asked("demo"), "tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": ["a"]}}

    for path in ("/v1/messages/count_tokens", "/v1/messages"):
        answer = server.post(path, body)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
