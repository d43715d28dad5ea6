"""An interaction as rows of MLflow's tables: what its own store would hold after the client writer wrote the same.

tests/interactions/test_mlflow_sql_writer.py compares the two, table by table.

Source: mlflow 3.17.2 store/tracking/sqlalchemy_store.py: create_run, log_batch, update_run_info, start_trace, log_spans
"""

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from mlflow.entities import LifecycleStage, RunStatus, RunTag, SourceType
from mlflow.store.tracking.dbmodels.models import (
    SqlLatestMetric,
    SqlMetric,
    SqlParam,
    SqlRun,
    SqlSpan,
    SqlTag,
    SqlTraceInfo,
    SqlTraceMetadata,
    SqlTraceTag,
)
from mlflow.store.tracking.utils.trace_analytics import (
    PROMOTED_TRACE_METADATA_KEYS,
    TOKEN_COLUMN_BY_KEY,
    analytics_columns_from_metadata,
)
from mlflow.tracing.constant import (
    CostKey,
    SpanAttributeKey,
    SpansLocation,
    TraceMetadataKey,
    TraceTagKey,
)
from mlflow.tracing.otel.translation import sanitize_attributes
from mlflow.utils.mlflow_tags import MLFLOW_ARTIFACT_LOCATION, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from mlflow.utils.uri import append_to_uri_path
from sqlalchemy import Table

from llmops.interactions.mlflow_entities import RunEntities, SessionEntities
from llmops.interactions.mlflow_insert import Row
from llmops.interactions.mlflow_spans import SpanDraft
from llmops.interactions.mlflow_trace import trace_info
from llmops.interactions.mlflow_writer import Mapped

_ANALYTICS = ("session_id", *TOKEN_COLUMN_BY_KEY.values(), "input_cost", "output_cost", "total_cost")
_METRIC = ("key", "value", "timestamp", "step", "is_nan", "run_uuid")
_RUN = (
    *("run_uuid", "name", "source_type", "source_name", "entry_point_name", "user_id", "status", "start_time"),
    *("end_time", "source_version", "lifecycle_stage", "artifact_uri", "experiment_id"),
)
_TRACE = (
    *("request_id", "experiment_id", "timestamp_ms", "execution_time_ms", "status", "client_request_id"),
    *("request_preview", "response_preview", "db_payload_generation", "trace_name", *_ANALYTICS),
)
_SPAN = (
    *("trace_id", "experiment_id", "span_id", "parent_span_id", "name", "type", "status", "start_time_unix_nano"),
    *("end_time_unix_nano", "content", "total_cost", "model_name", "model_provider"),
)
#: What is written, table by table, parents first; every other column has a default.
COLUMNS: Mapping[Table, tuple[str, ...]] = {
    SqlRun.__table__: _RUN,
    SqlTag.__table__: ("key", "value", "run_uuid"),
    SqlParam.__table__: ("key", "value", "run_uuid"),
    SqlMetric.__table__: _METRIC,
    SqlLatestMetric.__table__: _METRIC,
    SqlTraceInfo.__table__: _TRACE,
    SqlTraceTag.__table__: ("key", "value", "request_id"),
    SqlTraceMetadata.__table__: ("key", "value", "request_id"),
    SqlSpan.__table__: _SPAN,
}
#: A JSON string that may hold JSON.
_NESTED = re.compile(r'\s*"[\s\\"{\[]')
_ID = "0" * 32


@dataclass(frozen=True, slots=True)
class Place:
    """An experiment as rows name it.

    Attributes:
        run_uri: Where artifacts of a run are kept; before and after its id.
        trace_uri: The same for a trace.
    """

    experiment_id: int
    run_uri: tuple[str, str]
    trace_uri: tuple[str, str]

    @classmethod
    def at(cls, experiment_id: int, artifact_location: str) -> Self:
        """The place of an experiment whose artifacts are kept there."""
        return cls(experiment_id, _around(artifact_location, _ID), _around(artifact_location, "traces", _ID))


class Rows:
    """Rows on their way into the database.

    Attributes:
        tables: In the order they are inserted; the columns are those of COLUMNS.
    """

    def __init__(self) -> None:
        self.tables: dict[Table, list[Row]] = {table: [] for table in COLUMNS}

    def add_session(self, place: Place, run_id: str, session: SessionEntities) -> None:
        """Add the run of a session."""
        status = RunStatus.to_string(RunStatus.FINISHED)
        self._add_run(place, run_id, session, status)
        self._add_tags(run_id, session.tags, {MLFLOW_RUN_NAME: session.name})

    def add(self, place: Place, mapped: Mapped, parent: str | None) -> None:
        """Add the run and the trace of an interaction.

        Args:
            parent: Id of the run of its session; None where it has none.
        """
        run, run_id = mapped.run, mapped.interaction.interaction_id
        self._add_run(place, run_id, run, run.status)
        more = {MLFLOW_RUN_NAME: run.name, **({MLFLOW_PARENT_RUN_ID: parent} if parent else {})}
        self._add_tags(run_id, run.tags, more)
        self._extend(SqlParam, ((param.key, param.value, run_id) for param in run.params))
        metrics = [(one.key, one.value, one.timestamp, one.step, False, run_id) for one in run.metrics]
        self._extend(SqlMetric, metrics)
        self._extend(SqlLatestMetric, metrics)
        self._add_trace(place, mapped)
        self._extend(SqlSpan, (_span_row(place, mapped.interaction.trace_id, draft) for draft in mapped.drafts))

    def _add_run(self, place: Place, run_id: str, run: RunEntities | SessionEntities, status: str) -> None:
        before, after = place.run_uri
        origin = (SourceType.to_string(SourceType.UNKNOWN), "", "", run.user, status, run.start_ms, run.end_ms, "")
        stage = (LifecycleStage.ACTIVE, f"{before}{run_id}{after}", place.experiment_id)
        self._extend(SqlRun, [(run_id, run.name, *origin, *stage)])

    def _add_tags(self, run_id: str, tags: Iterable[RunTag], more: Mapping[str, str]) -> None:
        self._extend(SqlTag, ((tag.key, tag.value, run_id) for tag in tags))
        self._extend(SqlTag, ((key, value, run_id) for key, value in more.items()))

    def _add_trace(self, place: Place, mapped: Mapped) -> None:
        info = trace_info(mapped.interaction, str(place.experiment_id), mapped.interaction.interaction_id)
        trace_id, (before, after) = info.trace_id, place.trace_uri
        figures = analytics_columns_from_metadata(info.trace_metadata)
        times = (info.request_time, info.execution_duration, info.state.value, info.client_request_id)
        # The generation counts writes of spans to this database: one.
        shown = (info.request_preview, info.response_preview, 1, info.tags.get(TraceTagKey.TRACE_NAME))
        row = (trace_id, place.experiment_id, *times, *shown, *(figures.get(column) for column in _ANALYTICS))
        self._extend(SqlTraceInfo, [row])
        tags = {key: value for key, value in info.tags.items() if key != TraceTagKey.TRACE_NAME}
        tags[MLFLOW_ARTIFACT_LOCATION] = f"{before}{trace_id}{after}"
        tags[TraceTagKey.SPANS_LOCATION] = SpansLocation.TRACKING_STORE.value
        self._extend(SqlTraceTag, ((key, value, trace_id) for key, value in tags.items()))
        metadata = {key: text for key, text in info.trace_metadata.items() if key not in PROMOTED_TRACE_METADATA_KEYS}
        metadata[TraceMetadataKey.TRACE_INFO_FINALIZED] = "true"
        self._extend(SqlTraceMetadata, ((key, value, trace_id) for key, value in metadata.items()))

    def _extend(self, model: Any, rows: Iterable[Row]) -> None:
        self.tables[model.__table__].extend(rows)


def _span_row(place: Place, trace_id: str, draft: SpanDraft) -> Row:
    attributes = _stored(draft.attributes)
    status = "ERROR" if draft.error else "OK"
    content: dict[str, object] = {
        "trace_id": _base64(trace_id.removeprefix("tr-")),
        "span_id": _base64(draft.span_id),
        "parent_span_id": draft.parent_id and _base64(draft.parent_id),
        "name": draft.name,
        "start_time_unix_nano": draft.start_ns,
        "end_time_unix_nano": draft.end_ns,
        "events": [],
        "status": {"code": f"STATUS_CODE_{status}", "message": draft.error or ""},
        "attributes": attributes,
        "links": [],
    }
    # MLflow's filters look for `"key": ` in this text: it must have the spaces that json writes and orjson does not.
    text = json.dumps(content, ensure_ascii=False)
    cost = json.loads(attributes.get(SpanAttributeKey.LLM_COST, "{}"))
    model = (_plain(attributes, SpanAttributeKey.MODEL), _plain(attributes, SpanAttributeKey.MODEL_PROVIDER))
    ids = (trace_id, place.experiment_id, draft.span_id, draft.parent_id, draft.name, draft.kind, status)
    return (*ids, draft.start_ns, draft.end_ns, text, cost.get(CostKey.TOTAL_COST), *model)


def _stored(attributes: dict[str, str]) -> dict[str, str]:
    """The attributes of a span as MLflow stores them: it unwraps JSON in a JSON string."""
    # It parses every value to find out; the pattern spares us the bodies.
    nested = {key: value for key, value in attributes.items() if _NESTED.match(value)}
    return {**attributes, **sanitize_attributes(nested)} if nested else attributes


def _plain(attributes: Mapping[str, str], key: str) -> str | None:
    """The text of an attribute."""
    value = attributes.get(key)
    if value is None:
        return None
    text = json.loads(value)
    return text if isinstance(text, str) else value


def _base64(digits: str) -> str:
    return b64encode(bytes.fromhex(digits)).decode()


def _around(location: str, *parts: str) -> tuple[str, str]:
    before, _, after = append_to_uri_path(location, *parts, "artifacts").rpartition(_ID)
    return before, after
