"""An interaction as MLflow's trace: pure mapping, one record always gives the same trace and spans.

The root span is the invocation, whole request and response as its inputs and outputs. Its children are the attempts,
one for each try of a served entity, and the checks of guardrails.

Tokens stand on the root, model and cost on the attempts: on a span with tokens and a model, but no cost, MLflow looks
one up by itself, for which it imports all of litellm, and an unknown price would no longer be unknown.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from mlflow.entities import Span, SpanType, TraceInfo, TraceLocation, TraceState
from mlflow.tracing.constant import (
    TRACE_SCHEMA_VERSION,
    TRACE_SCHEMA_VERSION_KEY,
    CostKey,
    SpanAttributeKey,
    TokenUsageKey,
    TraceMetadataKey,
    TraceTagKey,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from llmops.interactions.mlflow_entities import (
    ID_TAG,
    end_ms,
    prompt_preview,
    response_preview,
    run_entities,
    start_ms,
)
from llmops.interactions.record import Attempt, Interaction
from llmops.protocol.task import Task

_METADATA_CHARS, _TAG_CHARS = 250, 4096
_ROOT_TYPE: Mapping[str | None, str] = {
    Task.CHAT: SpanType.CHAT_MODEL,
    Task.COMPLETIONS: SpanType.LLM,
    Task.EMBEDDINGS: SpanType.EMBEDDING,
}


@dataclass(frozen=True, slots=True)
class _Draft:
    """A span before it gets its ids."""

    name: str
    kind: str
    start_ns: int
    end_ns: int
    error: str | None
    attributes: dict[str, Any] = field(default_factory=dict)
    json_attributes: dict[str, str] = field(default_factory=dict)


def trace_info(interaction: Interaction, experiment_id: str, run_id: str) -> TraceInfo:
    """Map a record to the head of its trace, linked to its run."""
    return TraceInfo(
        trace_id=interaction.trace_id,
        trace_location=TraceLocation.from_experiment_id(experiment_id),
        request_time=start_ms(interaction),
        execution_duration=end_ms(interaction) - start_ms(interaction),
        state=TraceState.ERROR if _failure(interaction) else TraceState.OK,
        request_preview=prompt_preview(interaction),
        response_preview=response_preview(interaction),
        client_request_id=interaction.client_request_id,
        trace_metadata=_metadata(interaction, run_id),
        tags=_tags(interaction),
    )


def spans(interaction: Interaction) -> list[Span]:
    """Map a record to the spans of its trace; the root comes first."""
    drafts = [_root(interaction), *_attempts(interaction), *_guardrails(interaction)]
    return [_span(interaction, index, draft) for index, draft in enumerate(drafts)]


def _metadata(interaction: Interaction, run_id: str) -> dict[str, str]:
    metadata = {
        TraceMetadataKey.SOURCE_RUN: run_id,
        TraceMetadataKey.TRACE_SESSION: (interaction.session or "")[:_METADATA_CHARS],
        TraceMetadataKey.TRACE_USER: (interaction.user or "")[:_METADATA_CHARS],
        TraceMetadataKey.TOKEN_USAGE: _json(tokens) if (tokens := _tokens(interaction)) else "",
        TraceMetadataKey.COST: _json(cost) if (cost := _cost(interaction)) else "",
        TRACE_SCHEMA_VERSION_KEY: str(TRACE_SCHEMA_VERSION),
    }
    return {key: value for key, value in metadata.items() if value}


def _tags(interaction: Interaction) -> dict[str, str]:
    tags = {
        TraceTagKey.TRACE_NAME: interaction.endpoint or run_entities(interaction).name,
        ID_TAG: interaction.interaction_id,
        "endpoint": interaction.endpoint,
        "status": str(interaction.status),
        "outcome": interaction.outcome,
        "error_code": interaction.error_code,
    }
    return {key: value[:_TAG_CHARS] for key, value in tags.items() if value}


def _root(interaction: Interaction) -> _Draft:
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
        SpanAttributeKey.SESSION_ID: interaction.session and interaction.session[:_METADATA_CHARS],
        SpanAttributeKey.USER_ID: interaction.user and interaction.user[:_METADATA_CHARS],
        SpanAttributeKey.CHAT_USAGE: _tokens(interaction),
    }
    bodies = {SpanAttributeKey.INPUTS: _as_json(interaction.request)}
    if interaction.response is not None:
        bodies[SpanAttributeKey.OUTPUTS] = _as_json(interaction.response)
    return _Draft(
        name=interaction.endpoint or "invocation",
        kind=_ROOT_TYPE.get(interaction.task, SpanType.CHAIN),
        start_ns=interaction.received_ns,
        end_ns=_at(interaction, interaction.latency_ms),
        error=_failure(interaction),
        attributes=attributes,
        json_attributes=bodies,
    )


def _attempts(interaction: Interaction) -> Iterator[_Draft]:
    for number, attempt in enumerate(interaction.attempts, start=1):
        paid = number == len(interaction.attempts)
        attributes = {
            SpanAttributeKey.MODEL: attempt.model,
            SpanAttributeKey.MODEL_PROVIDER: attempt.provider,
            "llmops.attempt": number,
            "llmops.served_entity": attempt.served_entity,
            "llmops.status": attempt.status,
            "llmops.error": attempt.error,
            "llmops.decision": attempt.decision,
            SpanAttributeKey.LLM_COST: _cost(interaction) if paid else None,
        }
        yield _Draft(
            name=attempt.served_entity,
            kind=SpanType.LLM,
            start_ns=_at(interaction, attempt.started_ms),
            end_ns=_attempt_end_ns(interaction, attempt),
            error=f"{attempt.error}: {attempt.message or ''}" if attempt.error else None,
            attributes=attributes,
        )


def _attempt_end_ns(interaction: Interaction, attempt: Attempt) -> int:
    """An attempt that streams its answer lasts as long as the answer; its record ends at the first chunk."""
    if interaction.stream and attempt.decision == "answered":
        return _at(interaction, interaction.latency_ms)
    return _at(interaction, attempt.started_ms + attempt.duration_ms)


def _guardrails(interaction: Interaction) -> Iterator[_Draft]:
    for verdict in interaction.guardrails:
        started_ms = float(verdict.get("started_ms") or 0)
        yield _Draft(
            name=str(verdict.get("name") or "guardrail"),
            kind=SpanType.GUARDRAIL,
            start_ns=_at(interaction, started_ms),
            end_ns=_at(interaction, started_ms + float(verdict.get("duration_ms") or 0)),
            error=None,
            json_attributes={SpanAttributeKey.OUTPUTS: _json(verdict)},
        )


def _tokens(interaction: Interaction) -> dict[str, int] | None:
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


def _cost(interaction: Interaction) -> dict[str, float] | None:
    return None if interaction.cost_usd is None else {CostKey.TOTAL_COST: interaction.cost_usd}


def _failure(interaction: Interaction) -> str | None:
    if interaction.outcome == "answered" and interaction.status < 400:
        return None
    return f"{interaction.outcome}: {interaction.error_code or interaction.status}: {interaction.message or ''}"


def _at(interaction: Interaction, after_ms: float) -> int:
    return interaction.received_ns + round(after_ms * 1_000_000)


def _span(interaction: Interaction, index: int, draft: _Draft) -> Span:
    context = _context(interaction, index)
    attributes = {
        SpanAttributeKey.REQUEST_ID: _json(interaction.trace_id),
        SpanAttributeKey.SPAN_TYPE: _json(draft.kind),
        **{key: _json(value) for key, value in draft.attributes.items() if value is not None},
        **draft.json_attributes,
    }
    return Span(
        ReadableSpan(
            name=draft.name,
            context=context,
            parent=_context(interaction, 0) if index else None,
            # Not left out: OpenTelemetry would look around the machine for one, for each span.
            resource=Resource.get_empty(),
            attributes=attributes,
            status=Status(StatusCode.ERROR, draft.error) if draft.error else Status(StatusCode.OK),
            start_time=draft.start_ns,
            end_time=draft.end_ns,
        )
    )


def _context(interaction: Interaction, index: int) -> SpanContext:
    # The second half of a UUIDv7 is random and never 0: a good span id, and always the same one for the same record.
    span_id = int(interaction.interaction_id[16:], 16) ^ index
    return SpanContext(int(interaction.interaction_id, 16), span_id, is_remote=False, trace_flags=TraceFlags(1))


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


def _as_json(body: str) -> str:
    """A body as it came where it is JSON, else as a JSON string."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return _json(body)
    return body
