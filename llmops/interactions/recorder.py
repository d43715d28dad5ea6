"""Records interactions: one recording for each request, opened once and closed once, by whoever ends its story.

Closing is synchronous: it has to work while a task is being cancelled, when nothing can be awaited.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from llmops.errors import LlmopsError, SpoolError
from llmops.interactions.record import Attempt, Interaction, new_id
from llmops.protocol.invocation import Invocation
from llmops.protocol.task import Task
from llmops.protocol.usage import Usage

logger = logging.getLogger(__name__)


class Log(Protocol):
    """Where closed records go; a spool."""

    def append(self, interaction: Interaction) -> None:
        """Write one record; durable when it returns. Raises SpoolError."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of a request before its body is read.

    Attributes:
        endpoint: From the path; None where the body's ``model`` names it.
        wire: databricks, openai or gateway.
        task: What the route is for; None where the body tells.
        user: Owner of the caller's token; None where no token is asked for.
        session: From the header ``x-session-id``.
        adds_usage: Whether streams of this route end with usage unasked.
        problem: Why the body could not be taken at all; None where it is in ``raw``.
    """

    raw: bytes
    wire: str
    endpoint: str | None = None
    task: Task | None = None
    user: str | None = None
    session: str | None = None
    traceparent: str | None = None
    adds_usage: bool = False
    problem: LlmopsError | None = None


class Recorder:
    """Opens recordings.

    Args:
        log: Takes every closed record. If it cannot, that is logged and counted; the answer goes on.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        #: Records that could not be written since the start, and why the last one could not.
        self.lost = 0
        self.problem: str | None = None

    def open(self, asked: Asked) -> "Recording":
        """Begin the record of one request."""
        return Recording(self, asked)

    def keep(self, interaction: Interaction) -> None:
        """Write a closed record down; a failure is loud, and is not the caller's."""
        try:
            self.log.append(interaction)
        except SpoolError as err:
            self.lost += 1
            self.problem = err.message
            logger.error("event=interaction_lost interaction_id=%s reason=%r", interaction.interaction_id, err.message)


class Recording:
    """The record of one request while its story goes on."""

    __slots__ = (
        *("_recorder", "_asked", "_received", "_received_ns", "_attempts", "_closed", "_first_byte_ms"),
        *("interaction_id", "invocation", "endpoint", "endpoint_id", "task", "served", "usage"),
    )

    def __init__(self, recorder: Recorder, asked: Asked) -> None:
        self._recorder = recorder
        self._asked = asked
        self._received = time.perf_counter()
        self._received_ns = time.time_ns()
        self._attempts: list[Attempt] = []
        self._closed = False
        self._first_byte_ms: float | None = None
        self.interaction_id = new_id()
        #: Filled in as the story goes on.
        self.invocation: Invocation | None = None
        self.endpoint = asked.endpoint or ""
        self.endpoint_id: str | None = None
        self.task = asked.task
        #: Name, provider and model of the served entity that answered, or was tried last.
        self.served: tuple[str, str, str] | None = None
        self.usage: Usage | None = None

    @property
    def first_byte_ms(self) -> float | None:
        """Milliseconds from received to the first byte of the answer; None while there is none."""
        return self._first_byte_ms

    def elapsed_ms(self) -> float:
        """Milliseconds since the request was received."""
        return (time.perf_counter() - self._received) * 1000

    def tried(
        self, served: tuple[str, str, str], started_ms: float, error: LlmopsError | None, *, final: bool = True
    ) -> None:
        """Note one attempt.

        Args:
            served: Name, provider and model of the served entity.
            error: Why it failed; None where it answered.
            final: Whether the failure is the answer; False where another entity is tried.
        """
        self.served = served
        status = 200 if error is None else getattr(error, "upstream_status", None)
        kind = None if error is None else getattr(error, "kind", error.error_code.lower())
        decision = "answered" if error is None else "final" if final else "next"
        message = None if error is None else error.message
        duration_ms = self.elapsed_ms() - started_ms
        self._attempts.append(Attempt(*served, started_ms, duration_ms, status, kind, message, decision))

    def first_byte(self) -> None:
        """Note that the first byte of the answer goes out now."""
        self._first_byte_ms = self.elapsed_ms()

    def answered(self, status: int, response: bytes) -> None:
        """End the story with a whole answer."""
        self._close("answered", status, response.decode("utf-8", "replace"))

    def failed(self, error: LlmopsError) -> None:
        """End the story with an error status, before the first byte of an answer."""
        self._close("failed", error.status, None, error)

    def streamed(self, response: Mapping[str, Any] | None, error: LlmopsError | None = None) -> None:
        """End the story of a stream.

        Args:
            response: The chunks joined; None where none came.
            error: None where it ended well; ClientGone where the caller left; else what cut it.
        """
        text = None if response is None else orjson.dumps(response).decode()
        if error is None:
            self._close("answered", 200, text)
        else:
            self._close("abandoned" if error.status == 499 else "cut", error.status, text, error)

    def abandoned(self, error: LlmopsError) -> None:
        """End the story of a request whose caller left before the first byte."""
        self._close("abandoned", error.status, None, error)

    def _close(self, outcome: str, status: int, response: str | None, error: LlmopsError | None = None) -> None:
        if self._closed:
            return
        self._closed = True
        asked, invocation = self._asked, self.invocation
        entity, provider, model = self.served or (None, None, None)
        # What came with an unreadable body is logged with the calls of unknown names, whatever the path said.
        interaction = Interaction(
            interaction_id=self.interaction_id,
            endpoint=self.endpoint,
            known=self.endpoint_id is not None and invocation is not None,
            wire=asked.wire,
            stream=invocation is not None and invocation.stream,
            received_ns=self._received_ns,
            latency_ms=self.elapsed_ms(),
            status=status,
            outcome=outcome,
            request=asked.raw.decode("utf-8", "replace"),
            response=response,
            first_byte_ms=self._first_byte_ms,
            error_code=error.error_code if error else None,
            message=error.message if error else None,
            client_request_id=invocation.client_request_id if invocation else None,
            endpoint_id=self.endpoint_id,
            served_entity=entity,
            provider=provider,
            model=model,
            task=self.task,
            user=asked.user or (invocation.user if invocation else None),
            session=asked.session or (invocation.session if invocation else None),
            traceparent=asked.traceparent,
            usage=self.usage,
            attempts=tuple(self._attempts),
            params=invocation.sampling if invocation else {},
            usage_context=invocation.usage_context if invocation else {},
        )
        self._recorder.keep(interaction)
