"""The demo's vectors: of unit length, alike for similar wording, on the wire of OpenAI."""

import asyncio
import base64
import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.errors import BadRequest
from llmops.protocol.task import Task
from llmops.providers.demo import Demo
from tests.providers.demos import answer, call, chunks, loaded


@pytest.fixture(scope="module")
def embedder() -> Demo:
    return Demo(Task.EMBEDDINGS, "demo-embeddings", loaded())


def embed(demo: Demo, given: object, **fields: Any) -> list[Any]:
    return [one["embedding"] for one in answer(demo, {"input": given, **fields}, Task.EMBEDDINGS)["data"]]


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


@settings(deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=3), st.none() | st.integers(1, 512))
def test_every_text_gets_a_vector_of_length_one(embedder: Demo, texts: list[str], dimensions: int | None) -> None:
    vectors = embed(embedder, texts, dimensions=dimensions)

    assert [len(vector) for vector in vectors] == [dimensions or 256] * len(texts)
    assert all(math.isclose(cosine(vector, vector), 1) for vector in vectors)
    assert vectors == embed(embedder, texts, dimensions=dimensions)


def test_similar_wording_lies_close_together(embedder: Demo) -> None:
    cat, other_cat, revenue = embed(embedder, ["the cat sat", "A cat sat!", "quarterly revenue"])
    password, question, weather = embed(
        embedder, ["How do I reset my password?", "I forgot my password, how to reset it", "The weather is nice today"]
    )

    assert cosine(cat, other_cat) > 0.5 > cosine(cat, revenue)
    assert cosine(password, question) > 0.5 > cosine(password, weather)


def test_base64_carries_the_same_vector(embedder: Demo) -> None:
    (numbers,), (written,) = embed(embedder, "the cat sat"), embed(embedder, "the cat sat", encoding_format="base64")

    assert struct.unpack("<256f", base64.b64decode(written)) == pytest.approx(numbers)


def test_an_embeddings_answer_has_openais_shape(embedder: Demo) -> None:
    given = answer(embedder, {"input": ["hello world", "hello"]}, Task.EMBEDDINGS)

    assert (given["object"], given["model"]) == ("list", "demo-embeddings")
    assert [(one["object"], one["index"]) for one in given["data"]] == [("embedding", 0), ("embedding", 1)]
    assert given["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("input", {"input": [[1, 2]]}),
        ("input", {"input": ["a" * 600_000] * 2}),
        ("input", {"input": ["a"] * 257, "dimensions": 4096}),
        ("dimensions", {"dimensions": 0}),
        ("dimensions", {"dimensions": 4097}),
        ("dimensions", {"dimensions": True}),
        ("encoding_format", {"encoding_format": "hex"}),
    ],
)
def test_a_wrong_field_of_an_embeddings_body_is_named(embedder: Demo, field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=f"'{field}'"):
        answer(embedder, {"input": "a", **fields}, Task.EMBEDDINGS)


def test_embeddings_have_no_stream(embedder: Demo) -> None:
    with pytest.raises(BadRequest, match="'stream'"):
        chunks(embedder, {"input": "a"}, Task.EMBEDDINGS)


def test_a_large_request_does_not_hold_the_loop(embedder: Demo) -> None:
    async def turns_meanwhile() -> int:
        turns = 0
        asking = asyncio.create_task(embedder.answer(call(Task.EMBEDDINGS, {"input": ["a long line of words"] * 500})))
        while not asking.done():
            turns += 1
            await asyncio.sleep(0)
        return turns

    assert asyncio.run(turns_meanwhile()) > 5
