"""Writes interactions into MLflow's own tables: one transaction for a batch, a hundred times the client's speed.

The run of an interaction has its id, so a record that is there already is seen by its key, and left as it is. A record
the client writer has begun has a run of another id: the client writer finishes it.
"""

from collections.abc import Collection, Iterator, Sequence

from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlRun, SqlTag
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.store.tracking.utils.sql_trace_rollups import (
    RollupFamily,
    enqueue_rollup_rebuild_partitions,
    rollups_enabled,
)
from sqlalchemy import Connection, select
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from llmops.errors import Unavailable
from llmops.interactions.mlflow_entities import ID_TAG
from llmops.interactions.mlflow_insert import Inserts, Part
from llmops.interactions.mlflow_rows import COLUMNS, Place, Rows
from llmops.interactions.mlflow_schema import SchemaMoved, revision
from llmops.interactions.mlflow_sql_sessions import SqlSessions
from llmops.interactions.mlflow_store import Experiments, judge
from llmops.interactions.mlflow_writer import Mapped, Writer
from llmops.interactions.sink import Delivered, Outcome, Refused

_SQLITE, _POSTGRESQL = "sqlite", "postgresql"
#: One more than this only wait for each other: a core of Python's and one of PostgreSQL's are busy with two.
_LANES = 2
#: As MLflow has them, and 32 MB for the pages that rows are added to, of which there are some for every index.
_PRAGMAS = ("foreign_keys = ON", "busy_timeout = 20000", "cache_size = -32768")
#: Errors that are a value's fault, whatever database says so: too long, too large, with a NUL.
_WRONG_VALUE = (DataError, IntegrityError, ValueError, OverflowError)
#: What goes to the database at once. A statement of PostgreSQL holds 1 GB, in which a body is escaped twice.
_PART_RECORDS, _PART_BYTES = 100, 16 * 2**20
_REASON_CHARS = 300


class _ExperimentGone(Exception):
    """Somebody deleted an experiment since it was looked up."""


class SqlWriter:
    """A `Writer` for databases of a tested schema revision.

    Args:
        client: Finishes what it has begun.
    """

    batch = 500

    def __init__(self, store: SqlAlchemyStore, experiments: Experiments, client: Writer) -> None:
        self._engine = store.engine
        self._experiments = experiments
        self._client = client
        #: SQLite takes one writer at a time; PostgreSQL works on a core for each. MLflow's figures of past days, where
        #: it keeps such, are told of every batch, in rows that two would wait for.
        self.lanes = _LANES if self._engine.dialect.name == _POSTGRESQL and not rollups_enabled() else 1
        self._sessions = SqlSessions()
        self._inserts = Inserts(self._engine.dialect, COLUMNS)
        with self._engine.connect() as connection:
            self._revision = revision(connection)

    def write(self, batch: Sequence[Mapped]) -> list[Outcome]:
        """Write records of any experiments; see `Sink.deliver`.

        Raises:
            SchemaMoved: Somebody migrated the database.
        """
        begun = self._begun([mapped.interaction.interaction_id for mapped in batch if mapped.tries > 1])
        if not begun:
            return self._store(batch)
        mine = [mapped.interaction.interaction_id not in begun for mapped in batch]
        stored = iter(self._store([mapped for mapped, own in zip(batch, mine, strict=True) if own]))
        finished = iter(self._client.write([mapped for mapped, own in zip(batch, mine, strict=True) if not own]))
        return [next(stored if own else finished) for own in mine]

    def _begun(self, ids: Sequence[str]) -> set[str]:
        """Which of these interactions have a run with an id of its own, as the client writer makes them."""
        # Asked on redelivery only: the search reads the tag of every run, and a first delivery finds nothing.
        if not ids:
            return set()
        named = select(SqlTag.value).where(SqlTag.key == ID_TAG, SqlTag.value.in_(ids), SqlTag.run_uuid != SqlTag.value)
        try:
            with self._engine.connect() as connection:
                return {str(value) for value in connection.scalars(named)}
        except SQLAlchemyError as err:
            raise Unavailable(_reason(err)) from err

    def _store(self, batch: Sequence[Mapped]) -> list[Outcome]:
        """Write a batch whole, or in halves where a record in it is refused."""
        if not batch:
            return []
        try:
            self._transact(batch)
        except MlflowException as err:
            judged: Outcome = judge(err, batch[0].tries)
        except _WRONG_VALUE as err:
            judged = Refused(_reason(err))
        except SQLAlchemyError as err:
            raise Unavailable(_reason(err)) from err
        else:
            return [Delivered()] * len(batch)
        if len(batch) == 1:
            return [judged]
        middle = len(batch) // 2
        return [*self._store(batch[:middle]), *self._store(batch[middle:])]

    def _transact(self, batch: Sequence[Mapped]) -> None:
        try:
            self._insert(batch, ignore=False)
        except (_ExperimentGone, IntegrityError):
            # Another server has written some of the same rows, or somebody has deleted an experiment.
            for name in {mapped.run.experiment for mapped in batch}:
                self._experiments.forget(name)
            try:
                self._insert(batch, ignore=True)
            except _ExperimentGone as err:
                raise Unavailable("MLflow: an experiment is deleted as often as it is made") from err

    def _insert(self, batch: Sequence[Mapped], *, ignore: bool) -> None:
        ids = {name: int(self._experiments.id(name)) for name in {mapped.run.experiment for mapped in batch}}
        with self._engine.begin() as connection:
            self._prepare(connection)
            places = _places(connection, set(ids.values()))
            known = _known(connection, [mapped.interaction.interaction_id for mapped in batch])
            new = [
                (mapped, places[ids[mapped.run.experiment]])
                for mapped in batch
                if mapped.interaction.interaction_id not in known
            ]
            sessions = Rows()
            parents = self._sessions.parents(connection, sessions, new)
            _invalidate(connection, new)
            self._inserts.run(connection, _parts(sessions, new, parents), ignore=ignore)

    def _prepare(self, connection: Connection) -> None:
        if connection.dialect.name == _SQLITE:
            for pragma in _PRAGMAS:
                connection.exec_driver_sql(f"PRAGMA {pragma}")
        if revision(connection) != self._revision:
            raise SchemaMoved("MLflow: somebody has migrated the tracking database")


def _places(connection: Connection, experiment_ids: Collection[int]) -> dict[int, Place]:
    """Read where experiments keep their artifacts.

    Raises:
        _ExperimentGone: Somebody deleted one, for the time being or for ever.
    """
    columns = (SqlExperiment.experiment_id, SqlExperiment.artifact_location)
    active = select(*columns).where(
        SqlExperiment.experiment_id.in_(experiment_ids), SqlExperiment.lifecycle_stage == LifecycleStage.ACTIVE
    )
    places = {found: Place.at(found, location or "") for found, location in connection.execute(active)}
    if len(places) < len(experiment_ids):
        raise _ExperimentGone
    return places


def _parts(first: Rows, batch: Sequence[tuple[Mapped, Place]], parents: Sequence[str | None]) -> Iterator[Part]:
    """Make the rows of a batch, some records at a time."""
    rows, records, size_bytes = first, 0, 0
    for (mapped, place), parent in zip(batch, parents, strict=True):
        rows.add(place, mapped, parent)
        records += 1
        size_bytes += len(mapped.interaction.request) + len(mapped.interaction.response or "")
        if records == _PART_RECORDS or size_bytes > _PART_BYTES:
            yield rows.tables
            rows, records, size_bytes = Rows(), 0, 0
    yield rows.tables


def _known(connection: Connection, run_ids: Collection[str]) -> set[str]:
    return set(connection.scalars(select(SqlRun.run_uuid).where(SqlRun.run_uuid.in_(run_ids))))


def _invalidate(connection: Connection, batch: Sequence[tuple[Mapped, Place]]) -> None:
    """Tell MLflow that its figures of past days no longer hold, where it keeps such."""
    if not rollups_enabled():
        return
    partitions: list[tuple[RollupFamily, int | None, list[int | None]]] = []
    for mapped, place in batch:
        began: list[int | None] = [mapped.run.start_ms]
        spans: list[int | None] = [draft.start_ns // 1_000_000 for draft in mapped.drafts]
        partitions += [
            (family, place.experiment_id, began) for family in (RollupFamily.TRACE_METRIC, RollupFamily.ASSESSMENT)
        ]
        partitions.append((RollupFamily.SPAN_COST, place.experiment_id, spans))
    with Session(bind=connection) as session:
        enqueue_rollup_rebuild_partitions(session, partitions)
        session.flush()


def _reason(err: Exception) -> str:
    """The first line: what follows may hold a statement with its values."""
    return f"MLflow: {str(err).partition(chr(10))[0][:_REASON_CHARS]}"
