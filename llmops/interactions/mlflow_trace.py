"""An interaction as the head of MLflow's trace: pure mapping, one record always gives the same one."""

from mlflow.entities import TraceInfo, TraceLocation, TraceState
from mlflow.tracing.constant import (
    TRACE_SCHEMA_VERSION,
    TRACE_SCHEMA_VERSION_KEY,
    TraceMetadataKey,
    TraceTagKey,
)

from llmops.interactions.mlflow_entities import (
    ID_TAG,
    cut,
    end_ms,
    prompt_preview,
    response_preview,
    run_entities,
    start_ms,
)
from llmops.interactions.mlflow_spans import cost, failure, json, last_ns, tokens
from llmops.interactions.record import Interaction

_METADATA_CHARS, _TAG_CHARS, _CLIENT_ID_CHARS = 250, 4096, 50


def trace_info(interaction: Interaction, experiment_id: str, run_id: str) -> TraceInfo:
    """Map a record to the head of its trace, linked to its run."""
    client_id = interaction.client_request_id
    # Not before the last span ends: without tokens, cost and session MLflow would put that in its place.
    ended_ms = max(end_ms(interaction), last_ns(interaction) // 1_000_000)
    return TraceInfo(
        trace_id=interaction.trace_id,
        trace_location=TraceLocation.from_experiment_id(experiment_id),
        request_time=start_ms(interaction),
        execution_duration=ended_ms - start_ms(interaction),
        state=TraceState.ERROR if failure(interaction) else TraceState.OK,
        request_preview=prompt_preview(interaction),
        response_preview=response_preview(interaction),
        client_request_id=client_id and cut(client_id, _CLIENT_ID_CHARS),
        trace_metadata=_metadata(interaction, run_id),
        tags=_tags(interaction),
    )


def _metadata(interaction: Interaction, run_id: str) -> dict[str, str]:
    used, paid = tokens(interaction), cost(interaction)
    metadata = {
        TraceMetadataKey.SOURCE_RUN: run_id,
        TraceMetadataKey.TRACE_SESSION: cut(interaction.session or "", _METADATA_CHARS),
        TraceMetadataKey.TRACE_USER: cut(interaction.user or "", _METADATA_CHARS),
        TraceMetadataKey.TOKEN_USAGE: json(used) if used else "",
        TraceMetadataKey.COST: json(paid) if paid else "",
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
    return {key: cut(value, _TAG_CHARS) for key, value in tags.items() if value}
