"""What was made of interactions in the database under MLflow: replays, comparisons, records of evaluation datasets."""

import json
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from mlflow.store.tracking.dbmodels.models import (
    SqlEntityAssociation,
    SqlEvaluationDataset,
    SqlEvaluationDatasetRecord,
    SqlParam,
    SqlRun,
    SqlTag,
)
from sqlalchemy import Select, and_, delete, func, select, update
from sqlalchemy.orm import Session, aliased

from llmops.interactions.mlflow_entities import ID_TAG
from llmops.interactions.replays import PREFIX, original


class Replay(NamedTuple):
    """The run of an interaction that repeats another one."""

    run_id: str
    interaction_id: str


def replays(experiments: Sequence[int]) -> Select[Any]:
    """Ids of runs that repeat an interaction, each with its own interaction's id, and what says which it repeats."""
    said = aliased(SqlTag)
    return (
        select(SqlRun.run_uuid, SqlTag.value, said.value)
        .join(SqlTag, and_(SqlTag.run_uuid == SqlRun.run_uuid, SqlTag.key == ID_TAG))
        .join(said, and_(said.run_uuid == SqlRun.run_uuid, said.key == "client_request_id"))
        .where(said.value.like(f"{PREFIX}%"), SqlRun.experiment_id.in_(experiments))
        .order_by(SqlRun.run_uuid)
    )


def all_replays(session: Session, ids: Collection[str], experiments: Sequence[int]) -> list[Replay]:
    """The replays of these interactions."""
    rows = session.execute(replays(experiments))
    return [Replay(run_id, interaction_id) for run_id, interaction_id, said in rows if original(said) in ids]


def quoting(trace_ids: Sequence[str], experiments: Sequence[int]) -> Select[Any]:
    """Ids of comparisons that show one of these traces."""
    return (
        select(SqlRun.run_uuid)
        .join(SqlEntityAssociation, SqlEntityAssociation.destination_id == SqlRun.run_uuid)
        .where(SqlEntityAssociation.source_id.in_(trace_ids), SqlRun.experiment_id.in_(experiments))
        .distinct()
    )


def comparisons_of(user: str, experiments: Sequence[int]) -> Select[Any]:
    """Ids of comparisons that were made of one person's interactions, and say so."""
    said = and_(SqlParam.run_uuid == SqlRun.run_uuid, SqlParam.key == "filter.user", SqlParam.value == user)
    return select(SqlRun.run_uuid).join(SqlParam, said).where(SqlRun.experiment_id.in_(experiments))


def copies(trace_ids: Sequence[str]) -> Select[Any]:
    """Ids of records that were made from these traces."""
    found = SqlEvaluationDatasetRecord.source_id.in_(trace_ids)
    return select(SqlEvaluationDatasetRecord.dataset_record_id).where(found)


def delete_copies(session: Session, trace_ids: Collection[str]) -> int:
    """Delete the records of evaluation datasets that were made from traces.

    Args:
        trace_ids: At most a thousand.

    Returns:
        How many there were.
    """
    if not trace_ids:
        return 0
    chosen = SqlEvaluationDatasetRecord.source_id.in_(trace_ids)
    of_dataset = select(SqlEvaluationDatasetRecord.dataset_id, func.count()).where(chosen)
    counts = session.execute(of_dataset.group_by(SqlEvaluationDatasetRecord.dataset_id)).all()
    if not counts:
        return 0
    unseen = {"synchronize_session": False}
    for dataset_id, many in counts:
        mine = SqlEvaluationDataset.dataset_id == dataset_id
        profile = json.loads(session.scalar(select(SqlEvaluationDataset.profile).where(mine)) or "null") or {}
        left = max(0, profile.get("num_records", 0) - many)
        # As MLflow's own `delete_dataset_records` writes it.
        shrunk = json.dumps({"num_records": left} if left else None)
        session.execute(update(SqlEvaluationDataset).where(mine).values(profile=shrunk), execution_options=unseen)
    session.execute(delete(SqlEvaluationDatasetRecord).where(chosen), execution_options=unseen)
    return sum(many for _, many in counts)
