"""What an OpenAI-compatible server is sent of a body, and how much of its answer is taken."""

import asyncio
import gzip
import resource
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from llmops.errors import UpstreamError, UpstreamMalformed
from llmops.protocol.task import Task
from llmops.providers.egress import Egress
from llmops.providers.guarded import Guarded
from llmops.providers.openai_compatible import OpenAiCompatible, Place
from llmops.providers.provider import AnswerStream, Call, Limits
from llmops.providers.upstream import MAX_ANSWER_BYTES, Upstreams
from llmops.providers.vendors import BRIDGED, dialect
from tests import faults
from tests.scripts import chat, whole
from tests.upstream import Upstream
from tests.wire import Script


def _asked(script: Script, call: Call, upstreams: Upstreams, **options: Any) -> tuple[dict[str, Any], Any]:
    """What a server was sent by one call, and what it answered, or the error."""

    async def ask(url: str) -> Any:
        provider = OpenAiCompatible("entity", "m", lambda: Place(url, {}), upstreams, **options)
        try:
            if not call.stream:
                return (await provider.answer(call)).document
            stream = await provider.stream(call)
            try:
                return [event async for event in _events(stream)]
            finally:
                await stream.aclose()
        except UpstreamError as err:
            return err
        finally:
            await upstreams.aclose()

    with Upstream() as upstream:
        upstream.always(script)
        answer = asyncio.run(ask(f"{upstream.url}/v1/chat/completions"))
        return upstream.requests[0].json, answer


async def _events(stream: AnswerStream) -> AsyncIterator[bytes]:
    while (events := await stream.next()) is not None:
        for event in events:
            yield event


def _call(body: dict[str, Any] | None = None, *, stream: bool = False, translated: bool = False) -> Call:
    return Call(Task.CHAT, body or {}, stream, Limits(), {}, translated)


THOUGHT = {"role": "assistant", "content": "a", "reasoning_content": "hm", "thinking_blocks": [{"type": "thinking"}]}


def _sent(url: str | None, *, translated: bool) -> dict[str, Any]:
    """What the server of a URL is sent of one body; None: the litellm bridge."""
    call, to = _call({"max_tokens": 9, "messages": [THOUGHT]}, translated=translated), BRIDGED
    return _asked(chat(), call, Upstreams(), dialect=dialect(url) if url is not None else to)[0]


AZURE = "https://corp.openai.azure.com/openai/deployments/d/chat/completions?api-version="


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("https://api.openai.com/v1/chat/completions", "max_completion_tokens"),
        ("https://eu.api.openai.com/v1/chat/completions", "max_completion_tokens"),
        (f"{AZURE}2024-10-21", "max_completion_tokens"),
        (f"{AZURE}2023-05-15", "max_tokens"),
        ("https://corp.cognitiveservices.azure.com/openai/v1/chat/completions", "max_completion_tokens"),
        ("https://notopenai.com/v1/chat/completions", "max_tokens"),
        ("https://api.mistral.ai/v1/chat/completions", "max_tokens"),
        ("http://127.0.0.1:8000/v1/chat/completions", "max_tokens"),
    ],
)
def test_a_translated_limit_has_the_servers_own_name(url: str, named: str) -> None:
    assert _sent(url, translated=True)[named] == 9
    assert _sent(url, translated=False)["max_tokens"] == 9


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://api.groq.com/openai/v1/chat/completions", set()),
        ("https://api.cerebras.ai/v1/chat/completions", set()),
        ("https://api.openai.com/v1/chat/completions", set()),
        ("http://127.0.0.1:8000/v1/chat/completions", {"reasoning_content"}),
        (None, {"reasoning_content", "thinking_blocks"}),
    ],
)
def test_reasoning_goes_back_to_who_takes_it(url: str | None, kept: set[str]) -> None:
    (message,) = _sent(url, translated=True)["messages"]

    assert message.keys() - {"role", "content"} == kept


def test_a_body_that_came_in_chat_is_left_as_it_is() -> None:
    assert _sent("https://api.openai.com/v1/chat/completions", translated=False)["messages"] == [THOUGHT]


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("upstreams", [Upstreams, lambda: Guarded(Egress.read(["127.0.0.1"]))])
def test_a_bomb_is_refused_before_it_fills_the_memory(upstreams: Callable[[], Upstreams]) -> None:
    bomb, before = faults.bomb(600 << 20), _peak_bytes()

    _, answer = _asked(bomb, _call(), upstreams())

    assert isinstance(answer, UpstreamMalformed)
    assert answer.message == f"entity answered with more than {MAX_ANSWER_BYTES} bytes; that is not taken"
    assert _peak_bytes() - before < 300 << 20


def test_of_a_place_that_came_over_rest_no_more_is_read_than_is_taken() -> None:
    before = _peak_bytes()

    _, answer = _asked(faults.big(600 << 20), _call(), Guarded(Egress.read(["127.0.0.1"])))

    assert isinstance(answer, UpstreamMalformed)
    assert _peak_bytes() - before < 300 << 20


@pytest.mark.parametrize(
    ("body", "encoding", "told"),
    [
        (gzip.compress(b"{}")[:-4], "gzip", "entity broke off in the middle of its compressed answer"),
        (b"{}", "gzip", "entity answered with gzip that cannot be unpacked"),
        (b"{}", "br", "entity answered with content encoding 'br', which was not asked for"),
    ],
    ids=["cut", "not gzip", "unasked"],
)
def test_what_cannot_be_unpacked_is_said(body: bytes, encoding: str, told: str) -> None:
    _, answer = _asked(whole(body, headers={"content-encoding": encoding}), _call(), Upstreams())

    assert isinstance(answer, UpstreamMalformed)
    assert answer.message == told


def test_events_that_are_compressed_unasked_are_refused() -> None:
    packed = whole(b"x", content_type="text/event-stream", headers={"content-encoding": "gzip"})

    _, answer = _asked(packed, _call(stream=True), Upstreams())

    assert isinstance(answer, UpstreamMalformed)
    assert "text/event-stream packed as gzip, not events" in answer.message
