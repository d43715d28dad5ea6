"""Records interactions: one recording for each request, opened once and closed once, by whoever ends its story.

Closing is synchronous: it has to work while a task is being cancelled, when nothing can be awaited; who answers waits
until the record is written. What the endpoint's policy wants masked or left out is so before that, so that it never
reaches a disk.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from llmops.endpoints.caller import Caller
from llmops.endpoints.log_policy import EVERYTHING, LogPolicy
from llmops.errors import LlmopsError, SpoolError
from llmops.interactions.group_commit import GroupCommit
from llmops.interactions.record import Attempt, Interaction, new_id
from llmops.interactions.redaction import Mask, redacted
from llmops.protocol.invocation import Invocation, shown
from llmops.protocol.task import Task
from llmops.protocol.translation import Translate, Translation
from llmops.protocol.usage import Usage

logger = logging.getLogger(__name__)

#: Of a full log that samples: one interaction in so many is recorded.
SAMPLE_OF = 100
#: The log of a refusing server is emptied in bursts; who waits so long finds room or the same answer.
_RETRY_AFTER_S = 10


class Log(Protocol):
    """Where closed records go; a spool."""

    @property
    def full(self) -> bool:
        """Whether it should take no more; cheap enough to be asked for each request."""
        ...

    def append(self, *interactions: Interaction) -> None:
        """Write records, all or none; durable when it returns. Raises SpoolError."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of a request before its body is read.

    Attributes:
        endpoint: From the path; None where the body's ``model`` names it.
        wire: databricks, openai, gateway, messages or responses.
        task: What the route is for; None where the body tells.
        user: Owner of the caller's token; None where no token is asked for.
        session: From the header ``x-session-id``.
        adds_usage: Whether streams of this route end with usage unasked.
        problem: Why the body could not be taken at all; None where it is in ``raw``.
        caller: Owner of the caller's token, and what they are; None where no token is asked for.
        translate: Reads a body of another wire than the model's; None where it is asked as it came.
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
    caller: Caller | None = None
    translate: Translate | None = None


class Recorder:
    """Opens recordings.

    Args:
        log: Takes every closed record. If it cannot, that is logged and counted; the answer goes on.
        mask: Masks personal data, for the endpoints that ask for it.
        refuses: Whether a full log refuses invocations; otherwise one in `SAMPLE_OF` is recorded.
    """

    def __init__(self, log: Log, mask: Mask, *, refuses: bool = False) -> None:
        self.log = log
        self.mask = mask
        self.refuses = refuses
        #: Records that could not be written since the start, and why the last one could not.
        self.lost = 0
        self.problem: str | None = None
        #: Since the start: answered and left out, and refused, because the log was full; left out by `log: nothing`.
        self.sampled_out = self.refused = self.unlogged = 0
        #: Told by the shipper: whether a run's id is the interaction's, and why the log is not emptied.
        self.names_runs = False
        self.delay = ""
        self._was_full = False
        self._running = 0
        self._group = GroupCommit(self._write)

    def open(self, asked: Asked) -> "Recording":
        """Begin the record of one request."""
        self._running += 1
        return Recording(self, asked)

    def ended(self, interaction: Interaction | None) -> None:
        """End a story; its record, if there is one, is written with those of the same turn of the event loop."""
        self._running -= 1
        if interaction is not None:
            self._group.take(interaction, alone=not self._running)

    async def written(self) -> None:
        """Wait until the records of all stories that have ended are durable, or given up."""
        await self._group.written()

    def flush(self) -> None:
        """Write now what waits for the end of the turn."""
        self._group.flush()

    def _write(self, interactions: Sequence[Interaction]) -> None:
        """Write records down; a failure is loud, and is not the caller's."""
        try:
            self.log.append(*interactions)
        except SpoolError as err:
            if len(interactions) > 1:
                # One that is too large, or no JSON, must not take the others with it.
                for one in interactions:
                    self._write((one,))
                return
            self.lost += 1
            self.problem = err.message
            name = interactions[0].interaction_id
            logger.error("event=interaction_lost interaction_id=%s reason=%r", name, err.message)

    def takes(self, interaction_id: str) -> bool:
        """Whether an interaction that begins now will be recorded."""
        full = self.log.full
        if full is not self._was_full:
            self._was_full = full
            level = logging.ERROR if full else logging.WARNING
            how = "refuse" if self.refuses else "sample"
            logger.log(
                level, "event=interaction_log_%s then=%s reason=%r", "full" if full else "has_room", how, self.delay
            )
        return not full or (not self.refuses and int(interaction_id[-8:], 16) % SAMPLE_OF == 0)

    def refusal(self) -> SpoolError:
        """What a caller is told when the log is full."""
        why = f", because {self.delay}" if self.delay else ", because records come faster than they are delivered"
        return SpoolError(
            f"the interaction log is full{why}; this server answers nothing that it cannot record: ask again later, or"
            " raise LLMOPS_SPOOL_MAX_MB, or set LLMOPS_SPOOL_WHEN_FULL=sample (/ready says more)",
            retry_after_s=_RETRY_AFTER_S,
        )


class Recording:
    """The record of one request while its story goes on."""

    __slots__ = (
        *("_recorder", "_asked", "_received", "_received_ns", "_attempts", "_closed", "_first_byte_ms", "_taken"),
        *("interaction_id", "invocation", "endpoint", "endpoint_id", "task", "served", "served_entity_id", "usage"),
        *("policy", "settle", "translation"),
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
        # Decided now: what was begun while there was room is recorded, whatever happens meanwhile.
        self._taken = recorder.takes(self.interaction_id)
        #: Filled in as the story goes on.
        self.invocation: Invocation | None = None
        #: Between the caller's wire and the model's; None where they are one.
        self.translation: Translation | None = None
        self.endpoint = asked.endpoint or ""
        self.endpoint_id: str | None = None
        self.task = asked.task
        #: Name, provider and model of the served entity that answered, or was tried last.
        self.served: tuple[str, str, str] | None = None
        self.served_entity_id: str | None = None
        self.usage: Usage | None = None
        #: The endpoint's; calls that reach none are recorded whole.
        self.policy: LogPolicy = EVERYTHING
        #: Told how the story ended, and its usage, whether or not it is recorded.
        self.settle: Callable[[str, Usage | None], None] | None = None

    @property
    def user(self) -> str | None:
        """The owner of the caller's token, else who the body says."""
        return self._asked.user or (self.invocation.user if self.invocation else None)

    @property
    def recorded(self) -> bool:
        """Whether this interaction will be in the log."""
        return self._taken and self.policy.log != "nothing"

    @property
    def names_run(self) -> bool:
        """Whether its MLflow run is known by the interaction's id, before there is one."""
        return self._recorder.names_runs and self.recorded

    def admit(self) -> None:
        """Let the story go on, now that the endpoint is known and before a model is asked.

        Raises:
            SpoolError: It would have to be recorded, the log is full, and this server refuses then.
        """
        if self._taken or not self._recorder.refuses or self.policy.log == "nothing":
            return
        self._closed = True
        self._recorder.ended(None)
        self._recorder.refused += 1
        raise self._recorder.refusal()

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

    async def written(self) -> None:
        """Wait until the record is durable, where the story has ended: nothing that ends an answer goes out before."""
        if self._closed:
            await self._recorder.written()

    def _close(self, outcome: str, status: int, response: str | None, error: LlmopsError | None = None) -> None:
        if self._closed:
            return
        self._closed = True
        if self.settle is not None:
            self.settle(outcome, self.usage)
        policy, record = self.policy, None
        if policy.log == "nothing":
            self._recorder.unlogged += 1
        elif not self._taken:
            self._recorder.sampled_out += 1
        else:
            record = self._record(outcome, status, response, error)
            if policy.log != "everything" or policy.mask:
                record = redacted(record, policy, self._recorder.mask)
        self._recorder.ended(record)

    def _record(self, outcome: str, status: int, response: str | None, error: LlmopsError | None) -> Interaction:
        asked, invocation, policy = self._asked, self.invocation, self.policy
        entity, provider, model = self.served or (None, None, None)
        # What came with an unreadable body is logged with the calls of unknown names, whatever the path said.
        return Interaction(
            interaction_id=self.interaction_id,
            endpoint=self.endpoint,
            known=self.endpoint_id is not None and invocation is not None,
            wire=asked.wire,
            stream=invocation is not None and invocation.stream,
            received_ns=self._received_ns,
            latency_ms=self.elapsed_ms(),
            status=status,
            outcome=outcome,
            request=(asked.raw if invocation is not None else shown(asked.raw)).decode("utf-8", "replace"),
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
            user=self.user,
            session=asked.session or (invocation.session if invocation else None),
            traceparent=asked.traceparent,
            usage=self.usage,
            attempts=tuple(self._attempts),
            params=invocation.sampling if invocation else {},
            usage_context=invocation.usage_context if invocation else {},
            served_entity_id=self.served_entity_id,
            payload_table=policy.table(self.interaction_id) if policy.payload_table else None,
            sampling_fraction=policy.sampling,
            usage_tracked=policy.usage_tracked,
        )
