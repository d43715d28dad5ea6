"""Interactions as the recorder writes them, one of each kind."""

import time
from dataclasses import replace

from llmops.interactions.record import Attempt, Interaction, new_id
from llmops.protocol.usage import Usage

REQUEST = '{"messages":[{"role":"user","content":"What is a spool?"}],"temperature":0.2,"max_tokens":64}'
ANSWER = (
    '{"id":"c1","object":"chat.completion","choices":[{"index":0,"finish_reason":"stop",'
    '"message":{"role":"assistant","content":"A reel for thread."}}],'
    '"usage":{"prompt_tokens":12,"completion_tokens":6,"total_tokens":18}}'
)


def attempt(entity: str = "gpt", *, error: str | None = None, decision: str = "answered") -> Attempt:
    """One try; failed where ``error`` is given."""
    return Attempt(
        served_entity=entity,
        provider="openai",
        model="gpt-4o-mini",
        started_ms=1.0,
        duration_ms=20.5,
        status=None if error else 200,
        error=error,
        message="nobody listens at 127.0.0.1:9" if error else None,
        decision=decision,
    )


def plain(endpoint: str = "chat") -> Interaction:
    """A plain chat that was answered."""
    return Interaction(
        interaction_id=new_id(),
        endpoint=endpoint,
        known=True,
        wire="databricks",
        stream=False,
        received_ns=time.time_ns(),
        latency_ms=42.5,
        status=200,
        outcome="answered",
        request=REQUEST,
        response=ANSWER,
        first_byte_ms=41.0,
        client_request_id=f"req-{new_id()}",
        endpoint_id="e" * 32,
        served_entity="gpt",
        provider="openai",
        model="gpt-4o-mini",
        task="llm/v1/chat",
        user="ada@example.com",
        session="session-1",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        usage=Usage(input_tokens=12, output_tokens=6, cached_tokens=4),
        attempts=(attempt(),),
        params={"temperature": 0.2, "max_tokens": 64},
        usage_context={"project": "loom"},
    )


def streamed() -> Interaction:
    """A streamed chat that was answered."""
    return replace(plain(), stream=True, first_byte_ms=17.25)


def failed() -> Interaction:
    """A chat whose only served entity is down."""
    return replace(
        plain(),
        status=502,
        outcome="failed",
        response='{"error_code":"INTERNAL_ERROR","message":"nobody listens at 127.0.0.1:9"}',
        error_code="INTERNAL_ERROR",
        message="nobody listens at 127.0.0.1:9",
        usage=None,
        attempts=(attempt(error="connect", decision="final"),),
    )


def abandoned() -> Interaction:
    """A streamed chat whose reader left in the middle."""
    return replace(streamed(), status=499, outcome="abandoned", error_code="CANCELLED", message="the client left")


def fallback() -> Interaction:
    """A chat the first served entity failed and the second answered."""
    return replace(plain(), attempts=(attempt("down", error="connect", decision="next"), attempt("gpt")))


def embedded() -> Interaction:
    """Two texts embedded."""
    return replace(
        plain("vectors"),
        request='{"input":["one","two"]}',
        response='{"object":"list","data":[{"index":0,"embedding":[0.6,0.8]},{"index":1,"embedding":[1.0,0.0]}]}',
        task="llm/v1/embeddings",
        model="text-embedding-3-small",
        usage=Usage(input_tokens=2, output_tokens=0),
        params={},
    )


def unreadable() -> Interaction:
    """A body that is not JSON, for no endpoint."""
    return Interaction(
        interaction_id=new_id(),
        endpoint="",
        known=False,
        wire="openai",
        stream=False,
        received_ns=time.time_ns(),
        latency_ms=0.5,
        status=400,
        outcome="failed",
        request='{"messages": [',
        error_code="BAD_REQUEST",
        message="the body is not JSON",
    )


def one_of_each() -> list[Interaction]:
    """Every kind, once."""
    return [plain(), streamed(), failed(), abandoned(), fallback(), embedded(), unreadable()]
