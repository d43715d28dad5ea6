"""Which interactions are wanted, as a condition on MLflow's own tables.

Every condition is about one row of ``runs``: a run is an interaction when it is complete and has our tag.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from mlflow.entities import LifecycleStage, RunStatus
from mlflow.store.tracking.dbmodels import models
from mlflow.tracing.constant import SpanAttributeKey

from llmops.interactions.logged import ERROR, Wanted
from llmops.interactions.mlflow_entities import ID_TAG

RUNS = models.SqlRun.__table__
TAGS = models.SqlTag.__table__
PARAMS = models.SqlParam.__table__
#: The last value of each metric; ours have one.
METRICS = models.SqlLatestMetric.__table__
TRACES = models.SqlTraceInfo.__table__
_SPANS = models.SqlSpan.__table__

_ESCAPE = "/"
_BODIES = (SpanAttributeKey.INPUTS, SpanAttributeKey.OUTPUTS)

Condition = sa.ColumnElement[bool]


def chosen(wanted: Wanted, experiments: Sequence[int], dialect: str) -> Condition:
    """The condition a row of RUNS fulfils when it is one of the wanted interactions.

    Args:
        experiments: Ids of the experiments that are looked at.
        dialect: sqlite or postgresql.
    """
    return sa.and_(
        RUNS.c.experiment_id.in_(experiments),
        RUNS.c.lifecycle_stage == LifecycleStage.ACTIVE,
        # A run that is RUNNING is still being written; one without the tag is not ours.
        RUNS.c.status != RunStatus.to_string(RunStatus.RUNNING),
        _has(TAGS, ID_TAG),
        *within(RUNS.c.start_time, wanted),
        *(_has(TAGS, key, TAGS.c.value == value) for key, value in wanted.tags().items()),
        *(_has(PARAMS, key, PARAMS.c.value == value) for key, value in wanted.params().items()),
        *(_has(METRICS, key, METRICS.c.value >= least) for key, least in wanted.metrics().items()),
        *_of_status(wanted),
        *([_containing(wanted.contains, dialect)] if wanted.contains else []),
    )


def within(column: sa.ColumnElement[int], wanted: Wanted) -> Iterator[Condition]:
    """The conditions on the time of receipt."""
    if wanted.since_ms is not None:
        yield column >= wanted.since_ms
    if wanted.until_ms is not None:
        yield column < wanted.until_ms


def _of_status(wanted: Wanted) -> Iterator[Condition]:
    if wanted.status_pattern is not None:
        yield _has(TAGS, "status", TAGS.c.value.like(wanted.status_pattern))
    if wanted.status == ERROR:
        yield _has(TAGS, "outcome", TAGS.c.value != "answered")


def _has(table: sa.Table, key: str, *conditions: Condition) -> Condition:
    of_run = (table.c.run_uuid == RUNS.c.run_uuid) & (table.c.key == key)
    return sa.exists().select_from(table).where(of_run, *conditions).correlate(RUNS)


def _containing(text: str, dialect: str) -> Condition:
    content: sa.ColumnElement[str] = _SPANS.c.content
    document: sa.ColumnElement[Any] = sa.type_coerce(content, sa.JSON)
    if dialect == "postgresql":
        # The C collation: with any other, every body is lowered by the rules of a language, which takes twice as long.
        content, document = content.collate("C"), sa.cast(content, sa.JSON)
    bodies = [document[("attributes", key)].as_string() for key in _BODIES]
    written = spellings(text)
    return (
        sa.exists()
        .select_from(TAGS.join(_SPANS, _SPANS.c.trace_id == "tr-" + TAGS.c.value))
        .where(
            (TAGS.c.run_uuid == RUNS.c.run_uuid) & (TAGS.c.key == ID_TAG),
            # The root span has the bodies; a span also holds names and ids of ours, which nobody looks for.
            _SPANS.c.parent_span_id.is_(None),
            # Few spans are parsed: the bodies are strings within the span's JSON, and most do not hold the text.
            sa.or_(*(_like(content, _in_json(spelling)) for spelling in written)),
            sa.or_(*(_like(body, spelling) for body in bodies for spelling in written)),
        )
        .correlate(RUNS)
    )


def spellings(text: str) -> list[str]:
    """How a text may stand in a body: as it is, and as the two kinds of JSON strings, with and without escapes."""
    return list(dict.fromkeys((text, _in_json(text), json.dumps(text)[1:-1])))


def _in_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _like(column: sa.ColumnElement[str], text: str) -> Condition:
    # Not icontains: PostgreSQL would lower every body before it compares.
    escaped = "".join(f"{_ESCAPE}{char}" if char in "%_/" else char for char in text)
    return column.ilike(f"%{escaped}%", escape=_ESCAPE)
