"""All rows MLflow keeps of a run or a trace, deleted through its own table models in the caller's transaction.

MLflow's `gc` and `delete_traces` leave rows behind that name what they deleted (inputs, associations); here none stays.

Source: mlflow 3.17.2 store/tracking/sqlalchemy_store.py (_hard_delete_run, _delete_traces, delete_assessment)
"""

import time
from collections.abc import Collection
from datetime import UTC, date, datetime
from typing import Any

from mlflow.store.tracking.dbmodels.models import (
    SqlAssessmentDailyRollup,
    SqlAssessments,
    SqlEntityAssociation,
    SqlInput,
    SqlInputTag,
    SqlLatestMetric,
    SqlMetric,
    SqlParam,
    SqlReviewQueueItem,
    SqlRun,
    SqlSpan,
    SqlSpanCostDailyRollup,
    SqlSpanMetrics,
    SqlTag,
    SqlTraceInfo,
    SqlTraceMetadata,
    SqlTraceMetricDailyRollup,
    SqlTraceMetrics,
    SqlTraceRollupRebuild,
    SqlTraceTag,
)
from mlflow.store.tracking.utils.sql_trace_rollups import (
    MS_PER_DAY,
    ROLLUP_ELIGIBILITY_LAG_MS,
    RollupFamily,
    ensure_locked_rebuild_entry,
    rollups_enabled,
)
from sqlalchemy import Delete, Update, delete, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

#: Children first: not every database under MLflow enforces that they go with their parents.
_OF_RUN: tuple[InstrumentedAttribute[Any], ...] = (
    SqlParam.run_uuid,
    SqlMetric.run_uuid,
    SqlLatestMetric.run_uuid,
    SqlTag.run_uuid,
)
_OF_TRACE: tuple[InstrumentedAttribute[Any], ...] = (
    SqlSpanMetrics.trace_id,
    SqlSpan.trace_id,
    SqlAssessments.trace_id,
    SqlTraceMetrics.request_id,
    SqlTraceTag.request_id,
    SqlTraceMetadata.request_id,
)
_ROLLUPS = (SqlTraceMetricDailyRollup, SqlSpanCostDailyRollup, SqlAssessmentDailyRollup, SqlTraceRollupRebuild)
_NS_PER_DAY = MS_PER_DAY * 1_000_000


def delete_runs(session: Session, run_ids: Collection[str]) -> int:
    """Delete runs, and every row that names one of them.

    Args:
        run_ids: At most a thousand: databases limit the values of a statement.

    Returns:
        How many there were.
    """
    if not run_ids:
        return 0
    for column in _OF_RUN:
        _run(session, delete(column.class_).where(column.in_(run_ids)))
    inputs = select(SqlInput.input_uuid).where(_names(SqlInput, run_ids))
    _run(session, delete(SqlInputTag).where(SqlInputTag.input_uuid.in_(inputs)))
    _run(session, delete(SqlInput).where(_names(SqlInput, run_ids)))
    _run(session, delete(SqlEntityAssociation).where(_names(SqlEntityAssociation, run_ids)))
    return _run(session, delete(SqlRun).where(SqlRun.run_uuid.in_(run_ids)))


def delete_traces(session: Session, trace_ids: Collection[str]) -> int:
    """Delete traces, and every row that names one of them.

    Args:
        trace_ids: At most a thousand.

    Returns:
        How many there were.
    """
    if not trace_ids:
        return 0
    _outdate_days_of_traces(session, trace_ids)
    for column in _OF_TRACE:
        _run(session, delete(column.class_).where(column.in_(trace_ids)))
    _run(session, delete(SqlReviewQueueItem).where(SqlReviewQueueItem.item_id.in_(trace_ids)))
    _run(session, delete(SqlEntityAssociation).where(_names(SqlEntityAssociation, trace_ids)))
    return _run(session, delete(SqlTraceInfo).where(SqlTraceInfo.request_id.in_(trace_ids)))


def delete_assessments(session: Session, assessment_ids: Collection[str]) -> int:
    """Delete assessments; one that was overridden by a deleted one is valid again.

    Args:
        assessment_ids: At most a thousand.

    Returns:
        How many there were.
    """
    if not assessment_ids:
        return 0
    chosen = SqlAssessments.assessment_id.in_(assessment_ids)
    _outdate_days_of_assessments(session, chosen)
    overridden = select(SqlAssessments.overrides).where(chosen, SqlAssessments.overrides.is_not(None))
    # Read first: MySQL cannot update a table it selects from.
    restored = list(session.scalars(overridden))
    if restored:
        _run(session, update(SqlAssessments).where(SqlAssessments.assessment_id.in_(restored)).values(valid=True))
    dangling = SqlAssessments.overrides.in_(assessment_ids)
    _run(session, update(SqlAssessments).where(dangling).values(overrides=None))
    return _run(session, delete(SqlAssessments).where(chosen))


def _names(model: Any, ids: Collection[str]) -> Any:
    return or_(model.source_id.in_(ids), model.destination_id.in_(ids))


def _run(session: Session, statement: Delete | Update) -> int:
    # Without a look at the session's objects: there are none, and looking would load the rows.
    result: Any = session.execute(statement, execution_options={"synchronize_session": False})
    return int(result.rowcount)


def _outdate_days_of_traces(session: Session, trace_ids: Collection[str]) -> None:
    """Have MLflow's daily sums rebuilt for the days of traces, where it keeps such sums; before the rows go."""
    if not _sums_are_kept(session):
        return
    trace_day = SqlTraceInfo.timestamp_ms // MS_PER_DAY
    span_day = SqlSpan.start_time_unix_nano // _NS_PER_DAY
    traces = select(SqlTraceInfo.experiment_id, trace_day).where(SqlTraceInfo.request_id.in_(trace_ids)).distinct()
    spans = select(SqlSpan.experiment_id, span_day).where(SqlSpan.trace_id.in_(trace_ids)).distinct()
    days = [(RollupFamily.TRACE_METRIC, *row) for row in session.execute(traces)]
    days += [(RollupFamily.SPAN_COST, *row) for row in session.execute(spans)]
    days += _days_of_assessments(session, SqlAssessments.trace_id.in_(trace_ids))
    _outdate(session, days)


def _outdate_days_of_assessments(session: Session, chosen: Any) -> None:
    if _sums_are_kept(session):
        _outdate(session, _days_of_assessments(session, chosen))


def _days_of_assessments(session: Session, chosen: Any) -> list[tuple[RollupFamily, int, int]]:
    day = SqlAssessments.trace_timestamp_ms // MS_PER_DAY
    rows = select(SqlAssessments.experiment_id, day).where(
        chosen, SqlAssessments.experiment_id.is_not(None), SqlAssessments.trace_timestamp_ms.is_not(None)
    )
    return [(RollupFamily.ASSESSMENT, *row) for row in session.execute(rows.distinct())]


def _sums_are_kept(session: Session) -> bool:
    """Whether MLflow serves sums of whole days: its server may be told to, in an environment that is not ours."""
    if rollups_enabled():
        return True
    return any(session.execute(select(model.experiment_id).limit(1)).first() is not None for model in _ROLLUPS)


def _outdate(session: Session, days: list[tuple[RollupFamily, int, int]]) -> None:
    now_ms = time.time_ns() // 1_000_000
    built = {one for one in days if one[2] * MS_PER_DAY <= now_ms - ROLLUP_ELIGIBILITY_LAG_MS}
    # In the order MLflow locks them itself, or two deleters could wait for each other.
    for family, experiment_id, day in sorted(built, key=lambda one: (one[1], one[2], one[0].value)):
        ensure_locked_rebuild_entry(session, family, experiment_id, _date(day))


def _date(day: int) -> date:
    return datetime.fromtimestamp(day * MS_PER_DAY / 1000, UTC).date()
