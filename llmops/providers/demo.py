"""The demo provider: answers every task without a key, weights or a network, so that the first minute always works."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import orjson

from llmops.protocol.task import Task
from llmops.providers.demo_embeddings import DemoEmbeddings
from llmops.providers.demo_text import DemoChat, DemoCompletions
from llmops.providers.provider import Answer, Call
from llmops.providers.tokens import Tokenizer


class _Engine(Protocol):
    async def answer(self, body: Mapping[str, Any]) -> dict[str, Any]: ...

    def chunks(self, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]: ...


_ENGINES: Mapping[Task, Callable[[str, Tokenizer], _Engine]] = {
    Task.CHAT: DemoChat,
    Task.COMPLETIONS: DemoCompletions,
    Task.EMBEDDINGS: DemoEmbeddings,
}


class Demo:
    """A `Provider`; the same body always gets the same words.

    Args:
        model: The name answers carry.
        tokenizer: Counts the tokens of prompts and answers.
    """

    def __init__(self, task: Task, model: str, tokenizer: Tokenizer) -> None:
        self._engine = _ENGINES[task](model, tokenizer)

    async def answer(self, call: Call) -> Answer:
        """Answer at once.

        Raises:
            BadRequest: A field of the body has a wrong type or value; names it.
        """
        document = await self._engine.answer(call.body)
        return Answer(200, orjson.dumps(document), document)

    async def stream(self, call: Call) -> "DemoStream":
        """Answer word by word.

        Raises:
            BadRequest: As `answer`; embeddings have no stream.
        """
        return DemoStream(self._engine.chunks(call.body))


class DemoStream:
    """An `AnswerStream` over chunks that are all known already."""

    def __init__(self, chunks: Iterator[Mapping[str, Any]]) -> None:
        self._chunks = chunks

    async def next(self) -> list[bytes] | None:
        """One event, after the loop has had its turn."""
        await asyncio.sleep(0)
        chunk = next(self._chunks, None)
        return None if chunk is None else [orjson.dumps(chunk)]

    async def aclose(self) -> None:
        """Say no more."""
        self._chunks = iter(())
