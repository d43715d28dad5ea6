"""The real openai client against the /v1 routes."""

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.scripts import chat, chat_stream, embeddings, status
from tests.server import Server
from tests.upstream import Upstream


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)


def test_chat(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.play(chat("Hello."))

    answer = client.chat.completions.with_raw_response.create(model="up", messages=[{"role": "user", "content": "hi"}])

    assert answer.parse().choices[0].message.content == "Hello."
    assert answer.headers["x-request-id"]


def test_chat_with_the_demo_counts_its_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "hello"}])

    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def test_a_streamed_chat_joins_to_the_plain_answer(client: openai.OpenAI) -> None:
    asked: list[ChatCompletionMessageParam] = [{"role": "user", "content": "tell me about rivers"}]
    plain = client.chat.completions.create(model="demo", messages=asked)
    chunks = client.chat.completions.create(model="demo", messages=asked, stream=True)

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    assert text == plain.choices[0].message.content


def test_a_stream_that_breaks_raises(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.play(chat_stream(finish_reason=None, done=False))

    chunks = client.chat.completions.create(model="up", messages=[{"role": "user", "content": "x"}], stream=True)

    with pytest.raises(openai.APIError, match="ended its answer in the middle"):
        list(chunks)


def test_embeddings_in_the_clients_own_base64(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.play(embeddings((0.25, 0.5)))

    demo = client.embeddings.create(model="demo-embeddings", input=["a", "b"])
    vendor = client.embeddings.create(model="up-embeddings", input="x")

    assert [len(row.embedding) for row in demo.data] == [256, 256]
    assert sum(x * x for x in demo.data[0].embedding) == pytest.approx(1.0, abs=1e-5)
    assert vendor.data[0].embedding == [0.25, 0.5]
    assert upstream.requests[-1].json["encoding_format"] == "base64"


def test_models_are_the_endpoints(client: openai.OpenAI) -> None:
    assert {"demo", "demo-embeddings", "up"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("demo").id == "demo"


def test_errors_are_the_clients_own_types(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.play(status(429, headers={"retry-after": "3"}))

    with pytest.raises(openai.NotFoundError, match="did you mean 'demo'"):
        client.chat.completions.create(model="dem", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.RateLimitError) as limited:
        client.chat.completions.create(model="up", messages=[{"role": "user", "content": "x"}])
    assert limited.value.response.headers["retry-after"] == "3"
