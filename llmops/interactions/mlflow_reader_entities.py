"""MLflow's run and trace as the interaction they were written from: mlflow_entities and mlflow_trace, backwards."""

from collections.abc import Mapping
from typing import Any

import mlflow.entities
from mlflow.entities import Run, Span, SpanType, Trace

from llmops.interactions.logged import Assessment, LoggedInteraction, Story
from llmops.interactions.mlflow_entities import ID_TAG
from llmops.interactions.record import Attempt


def interaction(
    run_id: str, received_ms: int, tags: Mapping[str, str], params: Mapping[str, str], metrics: Mapping[str, float]
) -> LoggedInteraction:
    """Read an interaction from what its run holds; it has our tag."""
    interaction_id = tags[ID_TAG]
    return LoggedInteraction(
        interaction_id=interaction_id,
        run_id=run_id,
        trace_id=f"tr-{interaction_id}",
        endpoint=params.get("endpoint", ""),
        received_ms=received_ms,
        status=int(tags["status"]),
        outcome=tags["outcome"],
        error_code=tags.get("error_code"),
        served_entity=params.get("served_entity"),
        provider=params.get("provider"),
        model=params.get("model"),
        task=params.get("task"),
        user=tags.get("user"),
        session=tags.get("session"),
        client_request_id=tags.get("client_request_id"),
        latency_ms=metrics.get("latency_ms"),
        first_token_ms=metrics.get("time_to_first_token_ms"),
        input_tokens=_whole(metrics.get("input_tokens")),
        output_tokens=_whole(metrics.get("output_tokens")),
        cost_usd=metrics.get("cost_usd"),
        prompt=tags.get("prompt", ""),
        response=tags.get("response", ""),
    )


def of_run(run: Run) -> LoggedInteraction:
    """Read an interaction from its run."""
    return interaction(run.info.run_id, run.info.start_time, run.data.tags, run.data.params, run.data.metrics)


def story(run: Run, trace: Trace) -> Story:
    """Read the whole story from a run and its trace, which has its spans."""
    root = next(span for span in trace.data.spans if span.parent_id is None)
    children = sorted((span for span in trace.data.spans if span.parent_id is not None), key=_start)
    return Story(
        interaction=of_run(run),
        request=root.inputs,
        response=root.outputs,
        attempts=tuple(_attempt(root, span) for span in children if span.attributes.get("llmops.attempt")),
        params=run.data.params,
        message=run.data.tags.get("error_message"),
        wire=run.data.tags.get("wire", ""),
        guardrails=tuple(_verdict(span) for span in children if span.span_type == SpanType.GUARDRAIL),
        assessments=tuple(sorted(map(_assessment, trace.info.assessments), key=lambda one: one.created_ms or 0)),
    )


def _start(span: Span) -> tuple[int, int]:
    return span.start_time_ns, span.attributes.get("llmops.attempt") or 0


def _attempt(root: Span, span: Span) -> Attempt:
    read = span.attributes.get
    error = read("llmops.error")
    return Attempt(
        served_entity=span.name,
        provider=read("mlflow.llm.provider") or "",
        model=read("mlflow.llm.model") or "",
        started_ms=(span.start_time_ns - root.start_time_ns) / 1e6,
        duration_ms=(span.end_time_ns - span.start_time_ns) / 1e6,
        status=read("llmops.status"),
        error=error,
        message=span.status.description.removeprefix(f"{error}: ") if error else None,
        decision=read("llmops.decision") or "",
    )


def _verdict(span: Span) -> Mapping[str, Any]:
    verdict = span.outputs if isinstance(span.outputs, dict) else {}
    return {"name": span.name, "duration_ms": (span.end_time_ns - span.start_time_ns) / 1e6, **verdict}


def _assessment(given: mlflow.entities.Assessment) -> Assessment:
    kinds = (given.feedback, given.expectation)
    value = next((kind.value for kind in kinds if kind is not None), None)
    who = given.source.source_id or given.source.source_type
    return Assessment(given.name, value, who, given.rationale, given.create_time_ms)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
