"""The spans of an interaction's trace: pure mapping, one record always gives the same ones.

The root span is the invocation, whole request and response as its inputs and outputs. Its children are the attempts,
one for each try of a served entity, and the checks of guardrails.

Tokens stand on the root, model and cost on the attempts: on a span with tokens and a model, but no cost, MLflow looks
one up by itself, for which it imports all of litellm, and an unknown price would no longer be unknown. It would also
take the request's `model` for the root's, so the root has an empty one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from mlflow.entities import Span, SpanType
from mlflow.tracing.constant import CostKey, SpanAttributeKey, TokenUsageKey
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from llmops.interactions.mlflow_entities import cut
from llmops.interactions.record import Attempt, Interaction
from llmops.protocol.task import Task
from llmops.protocol.wires import WIRES

_ID_CHARS, _NAME_CHARS, _MODEL_CHARS = 250, 4096, 500
_MOST_NS = 2**63 - 1
_ROOT_TYPE: Mapping[str | None, str] = {
    Task.CHAT: SpanType.CHAT_MODEL,
    Task.COMPLETIONS: SpanType.LLM,
    Task.EMBEDDINGS: SpanType.EMBEDDING,
}


@dataclass(frozen=True, slots=True)
class SpanDraft:
    """A span as a record tells it.

    Attributes:
        span_id: 16 hex digits; the same for the same record every time.
        parent_id: That of the root; None on the root.
        error: None where it went well.
        attributes: JSON, by name.
    """

    span_id: str
    parent_id: str | None
    name: str
    kind: str
    start_ns: int
    end_ns: int
    error: str | None
    attributes: dict[str, str]


def drafts(interaction: Interaction) -> list[SpanDraft]:
    """Map a record to the spans of its trace; the root comes first.

    Raises:
        ValueError: It began or ended at a time no database can hold.
    """
    parts = [_root(interaction), *_attempts(interaction), *_guardrails(interaction)]
    if not all(0 <= part.start_ns <= _MOST_NS and 0 <= part.end_ns <= _MOST_NS for part in parts):
        raise ValueError("a time is out of range")
    # The second half of a UUIDv7 is random and never 0: a good span id, and always the same one for the same record.
    first = int(interaction.interaction_id[16:], 16)
    ids = [f"{first ^ index:016x}" for index in range(len(parts))]
    return [_draft(interaction, part, ids[0], span_id) for part, span_id in zip(parts, ids, strict=True)]


def last_ns(interaction: Interaction) -> int:
    """When the last span of the trace ends."""
    attempts = (_attempt_end_ns(interaction, attempt) for attempt in interaction.attempts)
    verdicts = (_at(interaction, sum(_times_ms(verdict))) for verdict in interaction.guardrails)
    return max(_at(interaction, interaction.latency_ms), *attempts, *verdicts, 0)


def spans(interaction: Interaction, of: Sequence[SpanDraft]) -> list[Span]:
    """Make MLflow's spans of the drafts of a record."""
    return [_span(int(interaction.interaction_id, 16), draft) for draft in of]


@dataclass(frozen=True, slots=True)
class _Part:
    """What a span tells, before it has an id; an attribute that is None is left out."""

    name: str
    kind: str
    start_ns: int
    end_ns: int
    error: str | None
    attributes: Mapping[str, Any]
    bodies: Mapping[str, str]


def _root(interaction: Interaction) -> _Part:
    attributes = {
        "llmops.interaction_id": interaction.interaction_id,
        "llmops.endpoint": interaction.endpoint,
        "llmops.served_entity": interaction.served_entity,
        "llmops.task": interaction.task,
        "llmops.wire": interaction.wire,
        "llmops.stream": interaction.stream,
        "llmops.status": interaction.status,
        "llmops.error_code": interaction.error_code,
        "llmops.time_to_first_byte_ms": interaction.first_byte_ms,
        "llmops.params": interaction.params or None,
        "llmops.parent_traceparent": interaction.traceparent,
        SpanAttributeKey.SESSION_ID: interaction.session and cut(interaction.session, _ID_CHARS),
        SpanAttributeKey.USER_ID: interaction.user and cut(interaction.user, _ID_CHARS),
        SpanAttributeKey.CHAT_USAGE: tokens(interaction),
        SpanAttributeKey.MODEL: "",
        # How MLflow's page finds the messages in bodies that are not OpenAI's chat.
        SpanAttributeKey.MESSAGE_FORMAT: WIRES[interaction.wire].shown_as if interaction.wire in WIRES else None,
    }
    bodies = {SpanAttributeKey.INPUTS: _as_json(interaction.request)}
    if interaction.response is not None:
        bodies[SpanAttributeKey.OUTPUTS] = _as_json(interaction.response)
    return _Part(
        name=interaction.endpoint or "invocation",
        kind=_ROOT_TYPE.get(interaction.task, SpanType.CHAIN),
        start_ns=interaction.received_ns,
        end_ns=_at(interaction, interaction.latency_ms),
        error=failure(interaction),
        attributes=attributes,
        bodies=bodies,
    )


def _attempts(interaction: Interaction) -> Iterator[_Part]:
    for number, attempt in enumerate(interaction.attempts, start=1):
        paid = number == len(interaction.attempts)
        attributes = {
            SpanAttributeKey.MODEL: cut(attempt.model, _MODEL_CHARS),
            SpanAttributeKey.MODEL_PROVIDER: cut(attempt.provider, _MODEL_CHARS),
            "llmops.attempt": number,
            "llmops.served_entity": attempt.served_entity,
            "llmops.status": attempt.status,
            "llmops.error": attempt.error,
            # MLflow's page of a span shows its attributes, not its status message.
            "llmops.message": attempt.message,
            "llmops.decision": attempt.decision,
            SpanAttributeKey.LLM_COST: cost(interaction) if paid else None,
        }
        yield _Part(
            name=attempt.served_entity,
            kind=SpanType.LLM,
            start_ns=_at(interaction, attempt.started_ms),
            end_ns=_attempt_end_ns(interaction, attempt),
            error=f"{attempt.error}: {attempt.message or ''}" if attempt.error else None,
            attributes=attributes,
            bodies={},
        )


def _attempt_end_ns(interaction: Interaction, attempt: Attempt) -> int:
    """An attempt that streams its answer lasts as long as the answer; its record ends at the first chunk."""
    if interaction.stream and attempt.decision == "answered":
        return _at(interaction, interaction.latency_ms)
    return _at(interaction, attempt.started_ms + attempt.duration_ms)


def _guardrails(interaction: Interaction) -> Iterator[_Part]:
    for verdict in interaction.guardrails:
        started_ms, duration_ms = _times_ms(verdict)
        yield _Part(
            name=str(verdict.get("name") or "guardrail"),
            kind=SpanType.GUARDRAIL,
            start_ns=_at(interaction, started_ms),
            end_ns=_at(interaction, started_ms + duration_ms),
            error=None,
            attributes={},
            bodies={SpanAttributeKey.OUTPUTS: json(verdict)},
        )


def _times_ms(verdict: Mapping[str, Any]) -> tuple[float, float]:
    """When a check began, after the request was received, and how long it took."""
    return float(verdict.get("started_ms") or 0), float(verdict.get("duration_ms") or 0)


def tokens(interaction: Interaction) -> dict[str, int] | None:
    """The tokens of an interaction in MLflow's words; None where they are not known."""
    usage = interaction.usage
    if usage is None:
        return None
    tokens = {
        TokenUsageKey.INPUT_TOKENS: usage.input_tokens,
        TokenUsageKey.OUTPUT_TOKENS: usage.output_tokens,
        TokenUsageKey.TOTAL_TOKENS: usage.total_tokens,
    }
    if usage.cached_tokens is not None:
        tokens[TokenUsageKey.CACHE_READ_INPUT_TOKENS] = usage.cached_tokens
    return tokens


def cost(interaction: Interaction) -> dict[str, float] | None:
    """What an interaction cost in MLflow's words; None where that is not known."""
    return None if interaction.cost_usd is None else {CostKey.TOTAL_COST: interaction.cost_usd}


def failure(interaction: Interaction) -> str | None:
    """What went wrong, in one line; None where the interaction was answered."""
    if interaction.outcome == "answered" and interaction.status < 400:
        return None
    return f"{interaction.outcome}: {interaction.error_code or interaction.status}: {interaction.message or ''}"


def _at(interaction: Interaction, after_ms: float) -> int:
    return interaction.received_ns + round(after_ms * 1_000_000)


def _draft(interaction: Interaction, part: _Part, root_id: str, span_id: str) -> SpanDraft:
    return SpanDraft(
        span_id=span_id,
        parent_id=None if span_id == root_id else root_id,
        name=cut(part.name, _NAME_CHARS),
        kind=part.kind,
        start_ns=part.start_ns,
        end_ns=part.end_ns,
        error=part.error,
        attributes={
            SpanAttributeKey.REQUEST_ID: json(interaction.trace_id),
            SpanAttributeKey.SPAN_TYPE: json(part.kind),
            **{key: json(value) for key, value in part.attributes.items() if value is not None},
            **part.bodies,
        },
    )


def _span(trace_id: int, draft: SpanDraft) -> Span:
    return Span(
        ReadableSpan(
            name=draft.name,
            context=_context(trace_id, draft.span_id),
            parent=_context(trace_id, draft.parent_id) if draft.parent_id else None,
            # Not left out: OpenTelemetry would look around the machine for one, for each span.
            resource=Resource.get_empty(),
            attributes=draft.attributes,
            status=Status(StatusCode.ERROR, draft.error) if draft.error else Status(StatusCode.OK),
            start_time=draft.start_ns,
            end_time=draft.end_ns,
        )
    )


def _context(trace_id: int, span_id: str) -> SpanContext:
    return SpanContext(trace_id, int(span_id, 16), is_remote=False, trace_flags=TraceFlags(1))


def json(value: Any) -> str:
    """A value as JSON."""
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


def _as_json(body: str) -> str:
    """A body as it came where it is JSON, else as a JSON string."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return json(body)
    return body
