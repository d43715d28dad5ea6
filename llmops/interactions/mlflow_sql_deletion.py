"""Deletes interactions from the database under MLflow, a chunk at a time, each in one short transaction.

Only ids leave the database, never rows. A process that is killed leaves whole chunks deleted and the others whole.
Others go on writing meanwhile: SQLite lets one write at a time, so whoever takes the steps pauses between two.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from mlflow.store.tracking.dbmodels.models import (
    SqlAssessments,
    SqlParam,
    SqlRun,
    SqlTag,
    SqlTraceInfo,
    SqlTraceMetadata,
    SqlTraceTag,
)
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracing.constant import TraceMetadataKey
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from sqlalchemy import Select, and_, except_, false, func, select, text, update
from sqlalchemy.orm import Session, aliased

from llmops.interactions.deletion import Removed
from llmops.interactions.mlflow_artifacts import Artifacts
from llmops.interactions.mlflow_entities import ID_TAG, SESSION_TAG
from llmops.interactions.mlflow_experiments import endpoint_experiments, explained
from llmops.interactions.mlflow_rows_deletion import delete_assessments, delete_runs, delete_traces
from llmops.interactions.mlflow_sql_copies import all_replays, comparisons_of, copies, delete_copies, quoting, replays
from llmops.interactions.replays import EXPERIMENT, original

#: A transaction of so many interactions holds SQLite's lock for about a quarter of a second.
CHUNK = 250
#: What is looked through at a time for the few that are chosen.
_PAGE = 2000
_METADATA_CHARS = 250


@dataclass(slots=True)
class _Chosen:
    """What one transaction deletes.

    Attributes:
        comparisons: Ids of runs, too.
        last: The greatest id looked at; the next chunk begins after it.
    """

    run_ids: Sequence[str] = ()
    trace_ids: Sequence[str] = ()
    comparisons: Sequence[str] = ()
    last: str = ""
    more: Removed = field(default_factory=Removed)


_Choice = Callable[[Session, str], _Chosen]


class SqlDeletion:
    """A `Deletion` from a SQL database of a schema we know."""

    marks_only = False

    def __init__(self, store: SqlAlchemyStore) -> None:
        self.secure = False
        self._store = store
        self._artifacts = Artifacts(store)

    def experiments(self) -> Mapping[str, str]:
        """Find; see `Deletion.experiments`."""
        return endpoint_experiments(self._store)

    def count_before(self, experiment_id: str, before_ms: int, endpoint: str | None = None) -> Removed:
        """Count; see `Deletion.count_before`."""
        with self._transaction() as session:
            runs = _counted(session, _runs_before(int(experiment_id), before_ms, endpoint))
            traces = _counted(session, _traces_before(int(experiment_id), before_ms, endpoint))
        return Removed(runs=runs, traces=traces)

    def before(self, experiment_id: str, before_ms: int, endpoint: str | None = None) -> Iterator[Removed]:
        """Delete; see `Deletion.before`."""
        number = int(experiment_id)

        def traces(session: Session, _: str) -> _Chosen:
            old = _traces_before(number, before_ms, endpoint).order_by(SqlTraceInfo.timestamp_ms)
            return _pairs((run_id, trace_id) for trace_id, run_id in session.execute(old.limit(CHUNK)))

        def runs(session: Session, _: str) -> _Chosen:
            chosen = session.execute(_runs_before(number, before_ms, endpoint).limit(CHUNK))
            return _pairs((run_id, f"tr-{interaction_id}") for run_id, interaction_id in chosen)

        def sessions(session: Session, _: str) -> _Chosen:
            return _Chosen(run_ids=session.scalars(_childless(number, before_ms).limit(CHUNK)).all())

        self._artifacts.look([experiment_id])
        # By traces first: MLflow has an index over their times, and none over those of runs.
        yield from self._repeat(traces)
        yield from self._repeat(runs)
        yield from map(_as_sessions, self._repeat(sessions))

    def ids_of(self, user: str) -> set[str]:
        """Find; see `Deletion.ids_of`."""
        ours = self._ours()
        with self._transaction() as session:
            found = {interaction_id for _, interaction_id in session.execute(_runs_of(user, ours))}
            return found | {trace_id.removeprefix("tr-") for trace_id in session.scalars(_traces_of(user, ours))}

    def count_of_user(self, user: str, ids: Collection[str] = ()) -> Removed:
        """Count; see `Deletion.count_of_user`."""
        ours, compared = self._ours(), self._compared()
        theirs = {*ids, *self.ids_of(user)}
        with self._transaction() as session:
            # Their own, asked again by themselves, are counted among their runs.
            others = [one for one in all_replays(session, theirs, ours) if one.interaction_id not in theirs]
            trace_ids = [f"tr-{one}" for one in (*theirs, *(one.interaction_id for one in others))]
            chunks = [trace_ids[first : first + CHUNK] for first in range(0, len(trace_ids), CHUNK)]
            compare = {one for chunk in chunks for one in session.scalars(quoting(chunk, compared))}
            return Removed(
                runs=_counted(session, _runs_of(user, ours)) + len(others),
                traces=_counted(session, _traces_of(user, ours)) + len(others),
                sessions=_counted(session, _sessions_of(user, ours)),
                assessments=_counted(session, _assessments_of(user, ours)),
                copies=sum(_counted(session, copies(chunk)) for chunk in chunks),
                comparisons=len(compare.union(session.scalars(comparisons_of(user, compared)))),
            )

    def of_user(self, user: str, ids: Collection[str] = ()) -> Iterator[Removed]:
        """Delete; see `Deletion.of_user`."""
        ours, compared = self._ours(), self._compared()
        theirs = {*ids, *self.ids_of(user)}
        parents: set[str] = set()

        def runs(session: Session, last: str) -> _Chosen:
            found = _runs_of(user, ours).where(SqlRun.run_uuid > last).order_by(SqlRun.run_uuid)
            chosen = _pairs(
                (run_id, f"tr-{interaction_id}") for run_id, interaction_id in session.execute(found.limit(CHUNK))
            )
            parents.update(session.scalars(_parents(chosen.run_ids)))
            return chosen

        def traces(session: Session, last: str) -> _Chosen:
            found = _traces_of(user, ours).where(SqlTraceInfo.request_id > last).order_by(SqlTraceInfo.request_id)
            trace_ids = session.scalars(found.limit(CHUNK)).all()
            return _Chosen(trace_ids=trace_ids, last=trace_ids[-1] if trace_ids else "")

        def sessions(session: Session, last: str) -> _Chosen:
            found = _sessions_of(user, ours).where(SqlRun.run_uuid > last).order_by(SqlRun.run_uuid)
            run_ids = session.scalars(found.limit(CHUNK)).all()
            return _childless_of(session, run_ids)

        def others(session: Session, _: str) -> _Chosen:
            run_ids = [parents.pop() for _ in range(min(CHUNK, len(parents)))]
            return _childless_of(session, run_ids)

        def assessments(session: Session, last: str) -> _Chosen:
            found = _assessments_of(user, ours).where(SqlAssessments.assessment_id > last)
            ids = session.scalars(found.order_by(SqlAssessments.assessment_id).limit(CHUNK)).all()
            removed = Removed(assessments=delete_assessments(session, ids))
            return _Chosen(last=ids[-1] if ids else "", more=removed)

        self._artifacts.look(str(number) for number in (*ours, *compared))
        # Before what they repeat: nothing else leads to them.
        for choose in (_again(ours, theirs), runs, traces):
            yield from self._repeat(_with_copies(choose, compared))
        yield from self._repeat(_comparisons(user, compared))
        yield from map(_as_sessions, self._repeat(sessions))
        yield from map(_as_sessions, self._repeat(others))
        yield from self._repeat(assessments)

    def _repeat(self, choose: _Choice) -> Iterator[Removed]:
        """Choose and delete, each time in a transaction of its own, until nothing is chosen."""
        last = ""
        while True:
            with self._transaction() as session:
                if session.get_bind().dialect.name == "sqlite":
                    # Or somebody could write between the look and the deletion: the first child of a session.
                    session.execute(text("BEGIN IMMEDIATE"))
                chosen = choose(session, last)
                # Files first: once the rows are gone, nobody would know whose files these were.
                self._artifacts.delete(chosen.comparisons)
                files = self._artifacts.delete(chosen.run_ids)
                removed = Removed(
                    runs=delete_runs(session, chosen.run_ids),
                    traces=delete_traces(session, chosen.trace_ids),
                    artifacts=files,
                    comparisons=delete_runs(session, chosen.comparisons),
                )
            last = chosen.last or last
            if not (chosen.run_ids or chosen.trace_ids or chosen.comparisons or chosen.last):
                return
            yield removed + chosen.more

    def _ours(self) -> list[int]:
        return [int(one) for one in self.experiments().values()]

    def _compared(self) -> list[int]:
        """The experiment of comparisons, where there is one."""
        with explained():
            found = self._store.get_experiment_by_name(EXPERIMENT)
        return [int(found.experiment_id)] if found is not None else []

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        with explained(), self._store.ManagedSessionMaker(read_only=False) as session:
            if self.secure and session.get_bind().dialect.name == "sqlite":
                session.execute(text("PRAGMA secure_delete = ON"))
            yield session


def _pairs(rows: Any) -> _Chosen:
    """Runs and their traces, where a run without a trace, and a trace without a run, are deleted too."""
    pairs = list(rows)
    run_ids = [run_id for run_id, _ in pairs if run_id]
    return _Chosen(run_ids, [trace_id for _, trace_id in pairs], last=max(run_ids, default=""))


def _as_sessions(removed: Removed) -> Removed:
    return Removed(sessions=removed.runs, artifacts=removed.artifacts)


def _again(experiments: Sequence[int], ids: Collection[str]) -> _Choice:
    """What repeats these interactions."""

    def choose(session: Session, last: str) -> _Chosen:
        page = session.execute(replays(experiments).where(SqlRun.run_uuid > last).limit(_PAGE)).all()
        found = [row for row in page if original(row[2]) in ids]
        ahead = page if len(found) <= CHUNK else found[:CHUNK]
        chosen = _pairs((run_id, f"tr-{interaction_id}") for run_id, interaction_id, _ in found[:CHUNK])
        return replace(chosen, last=ahead[-1][0] if ahead else "")

    return choose


def _with_copies(choose: _Choice, compared: Sequence[int]) -> _Choice:
    """What is chosen, with what was made of it; deletes the records of datasets at once."""

    def more(session: Session, last: str) -> _Chosen:
        chosen = choose(session, last)
        removed = Removed(copies=delete_copies(session, chosen.trace_ids))
        return replace(chosen, comparisons=session.scalars(quoting(chosen.trace_ids, compared)).all(), more=removed)

    return more


def _comparisons(user: str, compared: Sequence[int]) -> _Choice:
    return lambda session, _: _Chosen(comparisons=session.scalars(comparisons_of(user, compared).limit(CHUNK)).all())


def _counted(session: Session, found: Select[Any]) -> int:
    return int(session.scalar(select(func.count()).select_from(found.subquery())) or 0)


def _tagged(model: Any, key: str) -> Any:
    """The tag of a run that joins by this key."""
    return and_(model.run_uuid == SqlRun.run_uuid, model.key == key)


def _traces_before(experiment_id: int, before_ms: int, endpoint: str | None) -> Select[Any]:
    """Ids of traces that are interactions, each with the id of its run."""
    run = aliased(SqlTraceMetadata)
    found = (
        select(SqlTraceInfo.request_id, run.value)
        .join(SqlTraceTag, and_(SqlTraceTag.request_id == SqlTraceInfo.request_id, SqlTraceTag.key == ID_TAG))
        .outerjoin(run, and_(run.request_id == SqlTraceInfo.request_id, run.key == TraceMetadataKey.SOURCE_RUN))
        .where(SqlTraceInfo.experiment_id == experiment_id, SqlTraceInfo.timestamp_ms < before_ms)
    )
    if endpoint is None:
        return found
    called = aliased(SqlTraceTag)
    named = and_(called.request_id == SqlTraceInfo.request_id, called.key == "endpoint", called.value == endpoint)
    return found.join(called, named)


def _runs_before(experiment_id: int, before_ms: int, endpoint: str | None) -> Select[Any]:
    """Ids of runs that are interactions, each with the id of its interaction."""
    found = (
        select(SqlRun.run_uuid, SqlTag.value)
        .join(SqlTag, _tagged(SqlTag, ID_TAG))
        .where(SqlRun.experiment_id == experiment_id, SqlRun.start_time < before_ms)
    )
    if endpoint is None:
        return found
    named = and_(SqlParam.run_uuid == SqlRun.run_uuid, SqlParam.key == "endpoint", SqlParam.value == endpoint)
    return found.join(SqlParam, named)


def _childless(experiment_id: int, before_ms: int) -> Any:
    """Ids of runs of sessions that no run names as its parent."""
    parents = (
        select(SqlRun.run_uuid)
        .join(SqlTag, _tagged(SqlTag, SESSION_TAG))
        .where(SqlRun.experiment_id == experiment_id, SqlRun.start_time < before_ms)
    )
    # Not NOT EXISTS: nothing indexes the values of tags, and SQLite would read all of them for each parent.
    return except_(parents, select(SqlTag.value).where(SqlTag.key == MLFLOW_PARENT_RUN_ID))


def _runs_of(user: str, experiments: Sequence[int]) -> Select[Any]:
    interaction = aliased(SqlTag)
    return (
        select(SqlRun.run_uuid, interaction.value)
        .join(SqlTag, _tagged(SqlTag, "user"))
        .join(interaction, _tagged(interaction, ID_TAG))
        .where(SqlTag.value == user, SqlRun.experiment_id.in_(experiments))
    )


def _traces_of(user: str, experiments: Sequence[int]) -> Select[Any]:
    return (
        select(SqlTraceInfo.request_id)
        .join(SqlTraceMetadata, SqlTraceMetadata.request_id == SqlTraceInfo.request_id)
        .where(
            SqlTraceMetadata.key == TraceMetadataKey.TRACE_USER,
            # A longer name was cut: another one may begin like it. Its traces are found by their runs.
            SqlTraceMetadata.value == user if len(user) < _METADATA_CHARS else false(),
            SqlTraceInfo.experiment_id.in_(experiments),
        )
    )


def _sessions_of(user: str, experiments: Sequence[int]) -> Select[Any]:
    return (
        select(SqlRun.run_uuid)
        .join(SqlTag, _tagged(SqlTag, SESSION_TAG))
        .where(SqlRun.user_id == user, SqlRun.experiment_id.in_(experiments))
    )


def _assessments_of(user: str, experiments: Sequence[int]) -> Select[Any]:
    return (
        select(SqlAssessments.assessment_id)
        .join(SqlTraceInfo, SqlTraceInfo.request_id == SqlAssessments.trace_id)
        .where(SqlAssessments.source_id == user, SqlTraceInfo.experiment_id.in_(experiments))
    )


def _parents(run_ids: Sequence[str]) -> Select[Any]:
    return select(SqlTag.value).where(SqlTag.key == MLFLOW_PARENT_RUN_ID, SqlTag.run_uuid.in_(run_ids)).distinct()


def _childless_of(session: Session, run_ids: Sequence[str]) -> _Chosen:
    """Those runs of sessions that have no child; the others are made those of whoever came first of who is left."""
    children = select(SqlTag.value).where(SqlTag.key == MLFLOW_PARENT_RUN_ID, SqlTag.value.in_(run_ids))
    kept = set(session.scalars(children.distinct())) if run_ids else set()
    for run_id in kept:
        _hand_over(session, run_id)
    return _Chosen([one for one in run_ids if one not in kept], last=max(run_ids, default=""))


def _hand_over(session: Session, run_id: str) -> None:
    first = (
        select(SqlRun.user_id, SqlRun.start_time, SqlRun.end_time)
        .join(SqlTag, _tagged(SqlTag, MLFLOW_PARENT_RUN_ID))
        .where(SqlTag.value == run_id)
        .order_by(SqlRun.start_time, SqlRun.run_uuid)
        .limit(1)
    )
    user_id, start_time, end_time = session.execute(first).one()
    changed = update(SqlRun).where(SqlRun.run_uuid == run_id)
    session.execute(
        changed.values(user_id=user_id, start_time=start_time, end_time=end_time),
        execution_options={"synchronize_session": False},
    )
