"""The record of one interaction: everything that is known about it when its story ends.

A superset of the Databricks payload table. It is written once, by whoever ends the story, and never changed.

Source: ../shared/reference/databricks_contract.md 7.5
"""

import random
import time
from dataclasses import dataclass, field, fields
from typing import Any, Self

import orjson

from llmops.protocol.usage import Usage


def new_id() -> str:
    """A UUIDv7 as 32 hex digits: it sorts by the millisecond it was made in.

    Source: RFC 9562 section 5.7
    """
    # Unique, not secret: a process's own generator, seeded by the system, is ten times as fast as the system's.
    high = (time.time_ns() // 1_000_000) << 16 | 0x7000 | random.getrandbits(12)
    return f"{high << 64 | 0x8000000000000000 | random.getrandbits(62):032x}"


# Neither frozen nor with slots, either of them: made and written for each request, they are five times as fast.
@dataclass
class Attempt:
    """One try of one served entity.

    Attributes:
        started_ms: After the request was received.
        duration_ms: Until its answer, its first chunk if streamed, or its failure.
        status: The upstream's HTTP status; None where none came.
        error: Class of the failure (connect, timeout, status, malformed, cut, not_ready); None where it answered.
        message: The failure in one line; None where it answered.
        decision: answered, next (another served entity is tried) or final (the failure is the answer).
    """

    served_entity: str
    provider: str
    model: str
    started_ms: float
    duration_ms: float
    status: int | None
    error: str | None
    message: str | None
    decision: str


@dataclass
class Interaction:
    """One call of one endpoint, from its first byte in to its last byte out.

    Attributes:
        interaction_id: UUIDv7, 32 hex digits, made by the server.
        endpoint: The name the caller gave; empty where the body could not be read.
        known: Whether an endpoint of that name existed; the others are logged together.
        wire: How the caller spoke: databricks, openai, gateway, messages, responses.
        received_ns: Epoch nanoseconds, UTC.
        first_byte_ms: After received; None where no byte of an answer was sent.
        latency_ms: From received to the last byte, or to the end of the story.
        status: HTTP status of the answer; 499 where the caller left first.
        outcome: answered, failed (an error status), cut (an error after the first byte), abandoned (the caller left).
        params: Sampling parameters as sent: temperature, max_tokens, …
        request: The body as it came, decoded; at most 16 MB.
        response: The body of the answer; a streamed one joined into one response; None where there was none.
        cost_usd: None until priced, and where no price is known.
        served_entity_id: 32 hex digits, as the endpoint's document names it; None where none was tried.
        content: everything, or metadata: then request, response, params and previews are empty.
        masked: Whether personal data was masked before this was written down.
        payload_table: ``catalog.schema.prefix_payload`` the payload goes to; None where it goes to none.
        sampling_fraction: Share of interactions that go to that table, 0 to 1.
        usage_tracked: Whether it counts in the usage tables.
    """

    interaction_id: str
    endpoint: str
    known: bool
    wire: str
    stream: bool
    received_ns: int
    latency_ms: float
    status: int
    outcome: str
    request: str
    response: str | None = None
    first_byte_ms: float | None = None
    error_code: str | None = None
    message: str | None = None
    client_request_id: str | None = None
    endpoint_id: str | None = None
    served_entity: str | None = None
    provider: str | None = None
    model: str | None = None
    task: str | None = None
    user: str | None = None
    session: str | None = None
    traceparent: str | None = None
    usage: Usage | None = None
    cost_usd: float | None = None
    attempts: tuple[Attempt, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)
    usage_context: dict[str, str] = field(default_factory=dict)
    guardrails: tuple[dict[str, Any], ...] = ()
    served_entity_id: str | None = None
    content: str = "everything"
    masked: bool = False
    payload_table: str | None = None
    sampling_fraction: float = 1.0
    usage_tracked: bool = False

    @property
    def trace_id(self) -> str:
        """The MLflow trace that holds this interaction."""
        return f"tr-{self.interaction_id}"

    def encode(self) -> bytes:
        """Write the record as JSON."""
        return orjson.dumps(self, option=orjson.OPT_NON_STR_KEYS)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote; fields of a later version are left out.

        Raises:
            ValueError: Not JSON, or a field without a default is missing.
        """
        document = orjson.loads(data)
        known = {name: document[name] for name in (f.name for f in fields(cls)) if name in document}
        if known.get("usage") is not None:
            known["usage"] = Usage(**known["usage"])
        known["attempts"] = tuple(Attempt(**attempt) for attempt in known.get("attempts", ()))
        known["guardrails"] = tuple(known.get("guardrails", ()))
        try:
            return cls(**known)
        except TypeError as err:
            raise ValueError(f"not an interaction record: {err}") from err
