"""databricks-openai: DatabricksOpenAI, which is what ChatDatabricks stands on."""

import asyncio
from typing import Any

import openai
import pytest
from databricks_openai import AsyncDatabricksOpenAI, DatabricksOpenAI

from tests.clients.stage import MESSAGES, SAID, TOKENS, Stage
from tests.faults import cut_stream
from tests.scripts import status


@pytest.fixture(params=["serving endpoints", "use_ai_gateway", "use_ai_gateway_native_api"])
def client(request: pytest.FixtureRequest) -> Any:
    """Each of the three ways it goes to a workspace."""
    ways = {} if request.param == "serving endpoints" else {request.param: True}
    return DatabricksOpenAI(max_retries=0, **ways)


@pytest.mark.call("chat.completions.create")
def test_it_chats(client: Any, stage: Stage) -> None:
    name = stage.make()

    answer = client.chat.completions.create(model=name, messages=MESSAGES)

    assert answer.choices[0].message.content == SAID
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == TOKENS
    assert stage.sent == {"model": f"{name}-model", "messages": MESSAGES}


@pytest.mark.call("chat.completions.create")
def test_it_streams(client: Any, stage: Stage) -> None:
    chunks = list(client.chat.completions.create(model=stage.make(), messages=MESSAGES, stream=True))

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == SAID


@pytest.mark.call("chat.completions.create")
def test_it_streams_asynchronously(stage: Stage) -> None:
    name = stage.make()

    async def said() -> list[str]:
        client = AsyncDatabricksOpenAI()
        stream = await client.chat.completions.create(model=name, messages=MESSAGES, stream=True)
        words = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        await client.close()
        return words

    assert "".join(asyncio.run(said())) == SAID


@pytest.mark.call("completions.create")
def test_it_completes(client: Any, stage: Stage) -> None:
    answer = client.completions.create(model=stage.make("llm/v1/completions"), prompt="hello")

    assert answer.choices[0].text == SAID


@pytest.mark.call("embeddings.create")
def test_it_embeds(client: Any, stage: Stage) -> None:
    answer = client.embeddings.create(model=stage.make("llm/v1/embeddings"), input=["hello", "there"])

    assert [row.embedding for row in answer.data] == [[1.0, 0.0, 0.0]] * 2


@pytest.mark.call("models.list")
def test_the_endpoints_are_its_models(stage: Stage) -> None:
    assert stage.make() in [model.id for model in DatabricksOpenAI().models.list()]


@pytest.mark.call("chat.completions.create")
def test_errors_are_those_of_openai(client: Any, stage: Stage) -> None:
    name = stage.make()
    stage.upstream.play(status(429), cut_stream(after=2))

    with pytest.raises(openai.RateLimitError, match="scripted 429"):
        client.chat.completions.create(model=name, messages=MESSAGES)
    with pytest.raises(openai.APIError, match="the upstream ended its answer in the middle"):
        list(client.chat.completions.create(model=name, messages=MESSAGES, stream=True))
    with pytest.raises(openai.NotFoundError, match="'nope' does not exist"):
        client.chat.completions.create(model="nope", messages=MESSAGES)


@pytest.mark.call("chat.completions.create")
def test_a_wrong_token_is_an_authentication_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_TOKEN", "wrong")

    with pytest.raises(openai.AuthenticationError, match="a valid token is needed"):
        DatabricksOpenAI().chat.completions.create(model="demo", messages=MESSAGES)


@pytest.mark.call("responses.create")
def test_it_gets_a_response(client: Any, stage: Stage) -> None:
    answer = client.responses.create(model=stage.make(), input="hello")

    assert (answer.output_text, answer.usage.total_tokens) == (SAID, TOKENS[2])
