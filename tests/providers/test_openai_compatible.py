"""What an OpenAI-compatible server is sent of a body: all of it, and of a translated one by that server's names."""

import asyncio
from typing import Any

import pytest

from llmops.protocol.task import Task
from llmops.providers.openai_compatible import OpenAiCompatible, Place
from llmops.providers.provider import Call, Limits
from llmops.providers.upstream import Upstreams
from llmops.providers.vendors import limit_name
from tests.scripts import chat
from tests.upstream import Upstream


def _sent(limit: str, *, translated: bool) -> dict[str, Any]:
    async def ask(url: str) -> None:
        upstreams = Upstreams()
        try:
            provider = OpenAiCompatible("entity", "m", lambda: Place(url, {}), upstreams, limit=limit)
            await provider.answer(Call(Task.CHAT, {"max_tokens": 9}, False, Limits(), {}, translated))
        finally:
            await upstreams.aclose()

    with Upstream() as upstream:
        upstream.always(chat())
        asyncio.run(ask(f"{upstream.url}/v1/chat/completions"))
        found: dict[str, Any] = upstream.requests[0].json
    return found


@pytest.mark.parametrize(
    ("limit", "translated", "sent"),
    [
        ("max_completion_tokens", True, "max_completion_tokens"),
        ("max_completion_tokens", False, "max_tokens"),
        ("max_tokens", True, "max_tokens"),
    ],
)
def test_a_translated_limit_has_the_servers_own_name(limit: str, translated: bool, sent: str) -> None:
    assert _sent(limit, translated=translated) == {"model": "m", sent: 9}


def test_only_openai_itself_is_told_the_newer_name() -> None:
    assert limit_name("https://api.openai.com/v1/chat/completions") == "max_completion_tokens"
    assert limit_name("https://api.mistral.ai/v1/chat/completions") == "max_tokens"
