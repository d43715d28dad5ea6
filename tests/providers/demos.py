"""Asks a demo provider, as the tests of its parts do."""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from llmops.protocol import chat
from llmops.protocol.task import Task
from llmops.providers.demo import Demo
from llmops.providers.provider import Call, Limits
from llmops.providers.tokens import Tokenizer

PROMPTS = [
    "Who are you?",
    "What can you do?",
    "What is llmops?",
    "How do I get a real model?",
    "What is 12 * 7?",
    "What is the capital of France?",
    "I feel sad today",
    "My sister is a nurse",
    "Write me a poem about the sea",
    "Translate this into French",
    "Tell me a joke",
    "I want a new bicycle",
    "Quarterly revenue grew by 12 percent",
    "thank you",
]


def loaded() -> Tokenizer:
    """A tokenizer with its vocabulary."""
    tokenizer = Tokenizer()
    tokenizer.load()
    return tokenizer


def call(task: Task, body: Mapping[str, Any], *, stream: bool = False) -> Call:
    return Call(task, body, stream, Limits(), {})


def talk(*said: str, **fields: Any) -> dict[str, Any]:
    """The body of a conversation in which only the user has spoken."""
    return {"messages": [{"role": "user", "content": text} for text in said], **fields}


def answer(demo: Demo, body: Mapping[str, Any], task: Task = Task.CHAT) -> dict[str, Any]:
    """A plain answer, as its bytes say it."""
    given = asyncio.run(demo.answer(call(task, body)))
    assert given.status == 200
    assert orjson.loads(given.body) == given.document
    return dict(given.document)


def chunks(demo: Demo, body: Mapping[str, Any], task: Task = Task.CHAT) -> list[dict[str, Any]]:
    """The chunks of a streamed answer."""

    async def read() -> list[dict[str, Any]]:
        stream = await demo.stream(call(task, body, stream=True))
        read: list[dict[str, Any]] = []
        while (events := await stream.next()) is not None:
            read += map(orjson.loads, events)
        await stream.aclose()
        return read

    return asyncio.run(read())


def reply(demo: Demo, *said: str) -> str:
    return chat.answer_text(answer(demo, talk(*said)))
