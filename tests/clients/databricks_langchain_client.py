"""databricks-langchain: ChatDatabricks, and DatabricksEmbeddings."""

import asyncio

import openai
import pytest
from databricks_langchain import ChatDatabricks, DatabricksEmbeddings
from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage
from pydantic import BaseModel

from tests.clients.stage import SAID, Stage
from tests.faults import cut_stream
from tests.scripts import chat, status


class Now(BaseModel):
    """The time in a zone."""

    zone: str


@pytest.mark.call("ChatDatabricks.invoke")
def test_it_invokes(stage: Stage) -> None:
    name = stage.make()
    model = ChatDatabricks(model=name, temperature=0.2, max_tokens=20, stop=["END"], extra_params={"top_p": 0.9})

    answer = model.invoke([SystemMessage("be brief"), HumanMessage("hello")])

    assert answer.content == SAID
    assert answer.usage_metadata == {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}
    assert stage.sent.items() >= {"model": f"{name}-model", "temperature": 0.2, "max_tokens": 20, "top_p": 0.9}.items()
    assert [message["role"] for message in stage.sent["messages"]] == ["system", "user"]


@pytest.mark.call("ChatDatabricks.stream")
def test_it_streams_and_counts_the_tokens_once(stage: Stage) -> None:
    """It asks for no usage and expects it: counted twice where a chunk with words carries it."""
    chunks = list(ChatDatabricks(model=stage.make()).stream("hello"))

    whole = sum(chunks[1:], chunks[0])
    assert isinstance(whole, AIMessageChunk)
    assert whole.content == SAID
    assert len(chunks) > 3
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["total_tokens"] == 12


@pytest.mark.call("ChatDatabricks.ainvoke", "ChatDatabricks.astream")
def test_it_invokes_and_streams_asynchronously(stage: Stage) -> None:
    name = stage.make()

    async def said() -> tuple[object, str]:
        model = ChatDatabricks(model=name)
        answer = await model.ainvoke("hello")
        return answer.content, "".join([str(chunk.content) async for chunk in model.astream("hello")])

    assert asyncio.run(said()) == (SAID, SAID)


@pytest.mark.call("ChatDatabricks.bind_tools")
def test_it_calls_tools(stage: Stage) -> None:
    wanted = {"id": "call-1", "type": "function", "function": {"name": "Now", "arguments": '{"zone": "UTC"}'}}
    stage.upstream.play(chat("", finish_reason="tool_calls", tool_calls=[wanted]))

    answer = ChatDatabricks(model=stage.make()).bind_tools([Now]).invoke("what time is it?")

    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("Now", {"zone": "UTC"})]
    assert [given["function"]["name"] for given in stage.sent["tools"]] == ["Now"]


@pytest.mark.call("ChatDatabricks.with_structured_output")
def test_it_reads_a_structured_answer(stage: Stage) -> None:
    schema = {"title": "Mood", "type": "object", "properties": {"mood": {"type": "string"}}, "required": ["mood"]}
    stage.upstream.play(chat('{"mood": "good"}'))

    told = ChatDatabricks(model=stage.make()).with_structured_output(schema, method="json_schema").invoke("how?")

    assert told == {"mood": "good"}
    assert stage.sent["response_format"]["type"] == "json_schema"


@pytest.mark.call("ChatDatabricks.invoke")
@pytest.mark.parametrize("gateway", ["use_ai_gateway", "use_ai_gateway_native_api"])
def test_it_invokes_through_the_ai_gateway(stage: Stage, gateway: str) -> None:
    answer = ChatDatabricks(model=stage.make(), **{gateway: True}).invoke("hello")

    assert answer.content == SAID


@pytest.mark.call("ChatDatabricks.invoke", "ChatDatabricks.stream")
def test_errors_are_those_of_openai(stage: Stage) -> None:
    model = ChatDatabricks(model=stage.make(), max_retries=0)
    stage.upstream.play(status(429), cut_stream(after=2))

    with pytest.raises(openai.RateLimitError, match="scripted 429"):
        model.invoke("hello")
    with pytest.raises(openai.APIError, match="the upstream ended its answer in the middle"):
        list(model.stream("hello"))
    with pytest.raises(openai.NotFoundError, match="'nope' does not exist"):
        ChatDatabricks(model="nope").invoke("hello")


@pytest.mark.call("ChatDatabricks.invoke", "ChatDatabricks.stream")
def test_it_goes_by_responses_too(stage: Stage) -> None:
    model = ChatDatabricks(model=stage.make(), use_responses_api=True)

    whole, pieces = model.invoke("hello"), list(model.stream("hello"))

    assert whole.text == SAID
    assert "".join(piece.text for piece in pieces) == SAID


@pytest.mark.call("DatabricksEmbeddings.embed_query", "DatabricksEmbeddings.embed_documents")
def test_it_embeds_twenty_texts_at_a_time(stage: Stage) -> None:
    name = stage.make("llm/v1/embeddings")
    model = DatabricksEmbeddings(endpoint=name, query_params={"dimensions": 3})

    query = model.embed_query("hello")
    asked = stage.sent
    vectors = model.embed_documents([f"text {number}" for number in range(25)])

    assert query == [1.0, 0.0, 0.0]
    assert asked == {"model": f"{name}-model", "input": ["hello"], "dimensions": 3}
    assert len(vectors) == 25
    assert [len(request.json["input"]) for request in stage.upstream.requests[-2:]] == [20, 5]


@pytest.mark.call("DatabricksEmbeddings.aembed_query")
def test_it_embeds_asynchronously(stage: Stage) -> None:
    model = DatabricksEmbeddings(endpoint="demo-embeddings")

    assert asyncio.run(model.aembed_query("hello")) == model.embed_query("hello")
