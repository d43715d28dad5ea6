"""The runs of chat sessions as the SQL writer makes them: the same id on every server, in the batch's transaction."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from mlflow.entities import RunStatus
from mlflow.store.tracking.dbmodels.models import SqlRun, SqlTag, SqlTraceInfo, SqlTraceMetadata
from mlflow.tracing.constant import TraceMetadataKey
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from sqlalchemy import Connection, Select, select, update
from sqlalchemy.orm import aliased

from llmops.interactions.mlflow_entities import SESSION_TAG, SessionEntities
from llmops.interactions.mlflow_rows import Place, Rows
from llmops.interactions.mlflow_writer import Mapped

#: Experiment and key of a session.
_Name = tuple[int, str]


def session_run_id(experiment_id: int, key: str) -> str:
    """The id of the run of a session, the same wherever it is made."""
    return hashlib.sha256(f"{experiment_id}/{key}".encode()).hexdigest()[:32]


class SqlSessions:
    """Finds the runs of sessions, those the client writer made too, or adds them to the rows.

    Threads may use it at once, each for other sessions.

    Args:
        most_known: Sessions whose run the client writer made are remembered; others are looked up again.
    """

    def __init__(self, most_known: int = 10_000) -> None:
        self._most_known = most_known
        self._by_client: OrderedDict[_Name, str] = OrderedDict()

    def parents(self, connection: Connection, rows: Rows, batch: Sequence[tuple[Mapped, Place]]) -> list[str | None]:
        """The id of the run of each record's session, which is in the database or in the rows afterwards."""
        first: dict[_Name, tuple[SessionEntities, Place]] = {}
        again: set[_Name] = set()
        for mapped, place in batch:
            if mapped.session is None:
                continue
            name = (place.experiment_id, mapped.session.key)
            first.setdefault(name, (mapped.session, place))
            if mapped.tries > 1:
                again.add(name)
        run_ids = {name: self._by_client.get(name) or session_run_id(*name) for name in first}
        there = set(connection.scalars(select(SqlRun.run_uuid).where(SqlRun.run_uuid.in_(run_ids.values()))))
        unknown = {name: first[name] for name, run_id in run_ids.items() if run_id not in there}
        run_ids.update(self._made_by_client(connection, unknown, again))
        # In the order of their ids: two servers that make the same ones would wait for each other for ever.
        for run_id, name in sorted((run_ids[name], name) for name in unknown):
            if run_id == session_run_id(*name):
                session, place = first[name]
                rows.add_session(place, run_id, session)
        keys = ((place.experiment_id, mapped.session.key) if mapped.session else None for mapped, place in batch)
        return [run_ids[key] if key else None for key in keys]

    def _made_by_client(
        self, connection: Connection, unknown: dict[_Name, tuple[SessionEntities, Place]], again: set[_Name]
    ) -> dict[_Name, str]:
        """Those whose run is there with an id of its own; the oldest where there are several."""
        found: dict[_Name, str] = {}
        for experiment_id in {name[0] for name in unknown}:
            keys = {key for one, key in unknown if one == experiment_id}
            names = {unknown[experiment_id, key][0].name for key in keys}
            lookups = [_by_trace(experiment_id, names)]
            if again & unknown.keys():
                lookups.append(_by_tag(experiment_id, keys))
            for lookup in lookups:
                rows = connection.execute(lookup)
                found.update({(experiment_id, key): run_id for key, run_id in rows if key in keys})
        for name, run_id in found.items():
            _end(connection, run_id, unknown[name][0])
            self._remember(name, run_id)
        return found

    def _remember(self, name: _Name, run_id: str) -> None:
        self._by_client[name] = run_id
        if len(self._by_client) > self._most_known:
            self._by_client.popitem(last=False)


def _by_trace(experiment_id: int, names: set[str]) -> Select[str, str]:
    """The sessions' runs by way of their traces, which have an index: the tag of a session has none."""
    parent, mark = aliased(SqlTag), aliased(SqlTag)
    return (
        select(mark.value, mark.run_uuid)
        .select_from(SqlTraceInfo)
        .join(SqlTraceMetadata, SqlTraceMetadata.request_id == SqlTraceInfo.request_id)
        .join(parent, parent.run_uuid == SqlTraceMetadata.value)
        .join(mark, mark.run_uuid == parent.value)
        .join(SqlRun, SqlRun.run_uuid == mark.run_uuid)
        .where(
            SqlTraceInfo.experiment_id == experiment_id,
            SqlTraceInfo.session_id.in_(names),
            SqlTraceMetadata.key == TraceMetadataKey.SOURCE_RUN,
            parent.key == MLFLOW_PARENT_RUN_ID,
            mark.key == SESSION_TAG,
        )
        .group_by(mark.value, mark.run_uuid, SqlRun.start_time)
        .order_by(SqlRun.start_time.desc())
    )


def _by_tag(experiment_id: int, keys: set[str]) -> Select[str, str]:
    """One that was made and not used yet, because its maker was killed, has no trace."""
    return (
        select(SqlTag.value, SqlTag.run_uuid)
        .join(SqlRun, SqlRun.run_uuid == SqlTag.run_uuid)
        .where(SqlTag.key == SESSION_TAG, SqlTag.value.in_(keys), SqlRun.experiment_id == experiment_id)
        .order_by(SqlRun.start_time.desc())
    )


def _end(connection: Connection, run_id: str, session: SessionEntities) -> None:
    """End the run of a session whose maker was killed before it did."""
    running = SqlRun.status == RunStatus.to_string(RunStatus.RUNNING)
    ended = {"status": RunStatus.to_string(RunStatus.FINISHED), "end_time": session.end_ms}
    connection.execute(update(SqlRun).where(SqlRun.run_uuid == run_id, running).values(ended))
