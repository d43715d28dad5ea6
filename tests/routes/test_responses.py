"""OpenAI's Responses over HTTP, through its own client where it has a word for it."""

from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests import faults
from tests.conftest import NewServer
from tests.logged import flush, runs, traces
from tests.protocol.transcripts import TOOL_CHUNKS, TOOLS, heard
from tests.scripts import DONE, USAGE, WORDS, chat, chat_stream, event, status, stream
from tests.server import Server, external
from tests.upstream import Upstream

KEY = {"LLMOPS_SECRET_TEST_KEY": "sk-test"}
TOOL: Any = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": False}


@pytest.fixture(params=["/v1", "/serving-endpoints"])
def client(server: Server, request: pytest.FixtureRequest) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}{request.param}", api_key="any", max_retries=0)


def test_a_response_is_answered_and_the_model_is_asked_in_chat(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.play(chat("Hello.", tool_calls=TOOLS, finish_reason="tool_calls"))

    answer = client.responses.create(
        model="up", input="hi", instructions="be brief", tools=[TOOL], max_output_tokens=99, metadata={"k": "v"}
    )

    assert (answer.output_text, answer.status, answer.metadata) == ("Hello.", "completed", {"k": "v"})
    calls = [item for item in answer.output if item.type == "function_call"]
    assert [(call.call_id, call.name, call.arguments) for call in calls] == [
        ("c1", "f", '{"x": 1.0}'),
        ("c2", "g", "{}"),
    ]
    assert answer.usage is not None
    assert answer.usage.total_tokens == USAGE["total_tokens"]
    sent = upstream.requests[-1].json
    assert (sent["model"], sent["max_tokens"], "metadata" in sent) == ("up-model", 99, False)
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]


def test_the_clients_own_stream_joins_to_the_plain_answer(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.play(stream(*[event(chunk) for chunk in TOOL_CHUNKS], DONE))

    with client.responses.stream(model="up", input="hi") as events:
        kinds = [told.type for told in events]
        final = events.get_final_response()

    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]
    assert [item.arguments for item in final.output if item.type == "function_call"] == ['{"x": 1.0}', "{}"]


def test_structured_output_is_parsed_by_the_client(client: openai.OpenAI, upstream: Upstream) -> None:
    class City(BaseModel):
        name: str

    upstream.play(chat('{"name": "Bern"}'))

    answer = client.responses.parse(model="up", input="capital of Switzerland", text_format=City)

    assert answer.output_parsed == City(name="Bern")
    form = upstream.requests[-1].json["response_format"]
    assert (form["type"], form["json_schema"]["name"], form["json_schema"]["strict"]) == ("json_schema", "City", True)


def test_a_stream_that_breaks_raises(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.play(faults.cut_stream(2))

    events = client.responses.create(model="up", input="hi", stream=True)

    with pytest.raises(openai.APIError, match="ended its answer in the middle"):
        list(events)


def test_errors_are_the_clients_own_types(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.play(status(429, headers={"retry-after": "3"}))

    with pytest.raises(openai.RateLimitError):
        client.responses.create(model="up", input="hi")
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="nobody", input="hi")
    with pytest.raises(openai.BadRequestError, match="'previous_response_id' is not served"):
        client.responses.create(model="up", input="hi", previous_response_id="resp_1")
    with pytest.raises(openai.BadRequestError, match="a request for llm/v1/chat"):
        client.responses.create(model="demo-embeddings", input="hi")


def test_the_demo_answers_responses(client: openai.OpenAI) -> None:
    plain = client.responses.create(model="demo", input="hello")
    told = list(client.responses.create(model="demo", input="hello", stream=True))

    assert plain.output_text
    assert "".join(one.delta for one in told if one.type == "response.output_text.delta") == plain.output_text


@pytest.mark.parametrize("prefix", ["/serving-endpoints/v1", "/ai-gateway/openai/v1", "/ai-gateway/mlflow/v1"])
def test_every_prefix_has_responses(server: Server, prefix: str) -> None:
    assert server.post(f"{prefix}/responses", {"model": "demo", "input": "hi"}).json()["object"] == "response"


def test_each_response_is_one_run_as_the_client_saw_it(new_server: NewServer) -> None:
    with Upstream() as upstream:
        upstream.always(chat_stream(usage=USAGE))
        server = new_server(external("up", upstream.url), environment=KEY)
        body = {"model": "up", "input": "hi", "stream": True, "user": "u-1", "max_output_tokens": 99}
        answer = server.post("/v1/responses", body, headers={"x-session-id": "s-1"})
    flush(server)

    (run,) = runs(server)

    assert (run.data.tags["wire"], run.data.tags["user"], run.data.tags["session"]) == ("responses", "u-1", "s-1")
    assert (run.data.tags["prompt"], run.data.tags["response"]) == ("hi", "".join(WORDS))
    assert run.data.params["max_tokens"] == "99"
    assert run.data.metrics["output_tokens"] == USAGE["completion_tokens"]
    root = traces(server, include_spans=True)[0].data.spans[0]
    assert root.inputs == body
    assert root.outputs == heard(answer.content)[-1][1]["response"]
    assert root.attributes["mlflow.message.format"] == "openai"
