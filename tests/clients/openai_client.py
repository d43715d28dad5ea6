"""The openai client at its newest, at `/v1` and at `/serving-endpoints`."""

import asyncio
import os
from base64 import b64decode
from collections.abc import Iterator
from struct import unpack
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.clients.stage import MESSAGES, SAID, TOKENS, Stage
from tests.faults import cut_stream
from tests.scripts import chat, status

TOOL: Any = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(params=["/v1", "/serving-endpoints"])
def base(request: pytest.FixtureRequest) -> str:
    return os.environ["LLMOPS_HOST"] + str(request.param)


@pytest.fixture
def client(base: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base, api_key=os.environ["LLMOPS_TOKEN"], max_retries=0) as client:
        yield client


@pytest.mark.call("chat.completions.create")
def test_it_chats(client: openai.OpenAI, stage: Stage) -> None:
    name = stage.make()

    answer = client.chat.completions.create(
        model=name, messages=MESSAGES, temperature=0.5, user="ann", extra_body={"seed": 1}
    )

    assert answer.choices[0].message.content == SAID
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == TOKENS
    # The id of the interaction, as OpenAI's support would ask for it.
    assert len(answer._request_id or "") == 32
    assert stage.sent == {"model": f"{name}-model", "messages": MESSAGES, "temperature": 0.5, "user": "ann", "seed": 1}


@pytest.mark.call("chat.completions.create")
def test_it_streams_a_chat(client: openai.OpenAI, stage: Stage) -> None:
    chunks = list(
        client.chat.completions.create(
            model=stage.make(), messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == SAID
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [12]


@pytest.mark.call("chat.completions.stream")
def test_its_stream_helper_puts_the_answer_together(client: openai.OpenAI, stage: Stage) -> None:
    with client.chat.completions.stream(model=stage.make(), messages=MESSAGES) as stream:
        answer = stream.get_final_completion()

    assert answer.choices[0].message.content == SAID
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.call("chat.completions.create")
def test_it_calls_tools(client: openai.OpenAI, stage: Stage) -> None:
    wanted = {"id": "call-1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    stage.upstream.play(chat("", finish_reason="tool_calls", tool_calls=[wanted]))

    answer = client.chat.completions.create(model=stage.make(), messages=MESSAGES, tools=[TOOL])

    (call,) = answer.choices[0].message.tool_calls or []
    assert call.model_dump() == wanted
    assert stage.sent["tools"] == [TOOL]


@pytest.mark.call("chat.completions.create")
def test_it_chats_asynchronously(base: str, stage: Stage) -> None:
    name = stage.make()

    async def said() -> list[str]:
        async with openai.AsyncOpenAI(base_url=base, api_key=os.environ["LLMOPS_TOKEN"]) as client:
            stream = await client.chat.completions.create(model=name, messages=MESSAGES, stream=True)
            return [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]

    assert "".join(asyncio.run(said())) == SAID


@pytest.mark.call("completions.create")
def test_it_completes_and_streams_a_completion(client: openai.OpenAI, stage: Stage) -> None:
    name = stage.make("llm/v1/completions")

    answer = client.completions.create(model=name, prompt="hello", max_tokens=9)
    chunks = list(client.completions.create(model=name, prompt="hello", stream=True))

    assert answer.choices[0].text == SAID
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == SAID


@pytest.mark.call("embeddings.create")
def test_it_embeds(client: openai.OpenAI, stage: Stage) -> None:
    """By itself the client asks for base64, and decodes what it gets."""
    answer = client.embeddings.create(model=stage.make("llm/v1/embeddings"), input=["hello", "there"])

    assert stage.sent["encoding_format"] == "base64"
    assert [row.embedding for row in answer.data] == [[1.0, 0.0, 0.0]] * 2


@pytest.mark.call("embeddings.create")
def test_the_demo_embeds_in_either_format(client: openai.OpenAI) -> None:
    plain = client.embeddings.create(model="demo-embeddings", input="hello", encoding_format="float")
    coded = client.embeddings.with_raw_response.create(model="demo-embeddings", input="hello")

    raw = b64decode(coded.http_response.json()["data"][0]["embedding"])
    assert unpack(f"<{len(raw) // 4}f", raw) == pytest.approx(plain.data[0].embedding)
    assert coded.parse().data[0].embedding == pytest.approx(plain.data[0].embedding)


@pytest.mark.call("models.list")
def test_the_endpoints_are_its_models(client: openai.OpenAI, stage: Stage) -> None:
    name = stage.make()

    listed = {model.id: model for model in client.models.list()}

    assert {name, "demo"} <= set(listed)
    assert (listed[name].object, listed[name].owned_by) == ("model", "llmops")


@pytest.mark.call("models.retrieve")
def test_a_model_is_retrieved_at_v1(stage: Stage) -> None:
    name = stage.make()
    client = openai.OpenAI(base_url=f"{stage.url}/v1", api_key=os.environ["LLMOPS_TOKEN"])

    assert client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError, match="nope"):
        client.models.retrieve("nope")


@pytest.mark.call("chat.completions.create")
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (400, openai.BadRequestError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
def test_what_the_upstream_refuses_is_the_error_of_that_status(
    client: openai.OpenAI, stage: Stage, code: int, error: type[openai.APIStatusError]
) -> None:
    name = stage.make()
    stage.upstream.play(status(code))

    with pytest.raises(error, match=f"scripted {code}") as told:
        client.chat.completions.create(model=name, messages=MESSAGES)

    assert len(told.value.request_id or "") == 32


@pytest.mark.call("chat.completions.create")
def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'nope' does not exist"):
        client.chat.completions.create(model="nope", messages=MESSAGES)


@pytest.mark.call("models.list", "chat.completions.create")
def test_a_wrong_key_is_an_authentication_error(base: str) -> None:
    client = openai.OpenAI(base_url=base, api_key="wrong")

    with pytest.raises(openai.AuthenticationError, match="a valid token is needed"):
        client.models.list()
    with pytest.raises(openai.AuthenticationError, match="a valid token is needed"):
        client.chat.completions.create(model="demo", messages=MESSAGES)


@pytest.mark.call("chat.completions.create")
def test_a_stream_that_breaks_raises(client: openai.OpenAI, stage: Stage) -> None:
    stage.upstream.play(cut_stream(after=2))
    stream = client.chat.completions.create(model=stage.make(), messages=MESSAGES, stream=True)

    with pytest.raises(openai.APIError, match="the upstream ended its answer in the middle"):
        list(stream)


@pytest.mark.call("responses.create")
def test_it_gets_a_response(client: openai.OpenAI, stage: Stage) -> None:
    name = stage.make()

    answer = client.responses.create(model=name, input="hello", instructions="be brief", max_output_tokens=9)

    assert (answer.output_text, answer.status) == (SAID, "completed")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == TOKENS
    told = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    assert stage.sent == {"model": f"{name}-model", "messages": told, "max_tokens": 9}
    with pytest.raises(openai.BadRequestError, match="'previous_response_id' is not served"):
        client.responses.create(model=name, input="hello", previous_response_id=answer.id)


@pytest.mark.call("responses.stream")
def test_its_stream_of_a_response_is_put_together(client: openai.OpenAI, stage: Stage) -> None:
    name = stage.make()

    with client.responses.stream(model=name, input="hello") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        answer = stream.get_final_response()

    assert "".join(deltas) == answer.output_text == SAID
    stage.upstream.play(cut_stream(after=2))
    with pytest.raises(openai.APIError, match="the upstream ended its answer in the middle"):
        list(client.responses.create(model=name, input="hello", stream=True))


@pytest.mark.call("responses.parse")
def test_it_parses_a_response(client: openai.OpenAI, stage: Stage) -> None:
    class Mood(BaseModel):
        mood: str

    stage.upstream.play(chat('{"mood": "good"}'))

    answer = client.responses.parse(model=stage.make(), input="how?", text_format=Mood)

    assert answer.output_parsed == Mood(mood="good")
    assert stage.sent["response_format"]["json_schema"]["name"] == "Mood"
