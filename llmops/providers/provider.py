"""What the gateway asks of a provider, and what it gets back.

A provider is one served entity's way to its model. It speaks one wire, OpenAI's, as parsed bodies in and bytes out,
so that an answer's bytes can pass through as they came.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from llmops.protocol.task import Task


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one attempt; of time in seconds.

    Attributes:
        first_byte_s: From the send to the first byte of a streamed answer.
        between_chunks_s: Between two pieces of a streamed answer.
        total_s: From the send to the last byte of a plain answer.
        stream_bytes: Of a streamed answer; it is cut there.
    """

    first_byte_s: float = 120.0
    between_chunks_s: float = 60.0
    total_s: float = 290.0
    stream_bytes: int = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt.

    Attributes:
        body: The caller's body, parsed, without our own fields. Owned by the gateway: copied, never changed.
        stream: Whether a streamed answer is wanted.
        headers: Passed on upstream (``traceparent``).
        translated: Whether the body was put into chat here, and names may be fitted to the model's server; a body
            that came in chat is passed on as it is.
    """

    task: Task
    body: Mapping[str, Any]
    stream: bool
    limits: Limits
    headers: Mapping[str, str]
    translated: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        body: OpenAI-shaped JSON, as it came.
        document: The same, parsed; an object.
    """

    status: int
    body: bytes
    document: Mapping[str, Any]


class AnswerStream(Protocol):
    """A streamed answer. Whoever got it from a provider closes it, once, however its story ends."""

    async def next(self) -> list[bytes] | None:
        """Wait for more.

        Returns:
            The data of one or more events, JSON without line breaks, never ``[DONE]``; None when the stream has ended
            as its wire says it should.

        Raises:
            UpstreamError: It broke, stalled, or ended too early.
        """
        ...

    async def aclose(self) -> None:
        """Let go of the connection; an unfinished answer is cancelled upstream. Never raises."""
        ...


class Provider(Protocol):
    """One served entity's way to its model; safe for many calls at once."""

    async def answer(self, call: Call) -> Answer:
        """Ask for a whole answer.

        Raises:
            UpstreamError: No answer, a wrong one, or an error status.
            BadRequest: The body does not fit the task.
            EndpointNotReady: A secret or a model file is missing.
            Unavailable: The engine is still loading.
        """
        ...

    async def stream(self, call: Call) -> AnswerStream:
        """Ask for a streamed answer; returns when the upstream has accepted the request.

        Raises:
            As `answer`.
        """
        ...
