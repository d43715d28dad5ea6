"""Reads interactions from the tables of MLflow's tracking store, in any number of them.

The public API takes about a second for a thousand runs, reads every run to list the newest twenty, and cannot sum up.
This reads what is asked for, in the order of an index, and nothing is ever written.
"""

import base64
import binascii
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import orjson
import sqlalchemy as sa
from mlflow.entities import LifecycleStage
from mlflow.store.tracking.dbmodels import models
from mlflow.tracing.constant import TraceMetadataKey
from sqlalchemy.exc import SQLAlchemyError

from llmops.errors import InvalidParameter, Unavailable
from llmops.interactions.logged import LoggedInteraction, Page, Story, Wanted
from llmops.interactions.logged_stats import EndpointStats, Period
from llmops.interactions.mlflow_entities import EXPERIMENT_PREFIX, ID_TAG
from llmops.interactions.mlflow_reader_choice import METRICS, PARAMS, RUNS, TAGS, TRACES, Condition, chosen, within
from llmops.interactions.mlflow_reader_entities import interaction
from llmops.interactions.mlflow_reader_figures import figures
from llmops.interactions.mlflow_reader_names import ambiguous, stem, unknown

_EXPERIMENTS = models.SqlExperiment.__table__
_METADATA = models.SqlTraceMetadata.__table__
#: Databases allow some thousands of values in one statement.
_CHUNK = 500
_NAMED = 3


class SqlReader:
    """A `Reader` of a SQLite or PostgreSQL database whose revision of MLflow's tables was tested.

    Args:
        told: Tells the story of an interaction, from the ids of its run and its trace.
    """

    def __init__(self, engine: sa.Engine, told: Callable[[str, str], Story]) -> None:
        self._engine = engine
        self._dialect = engine.dialect.name
        self._told = told

    def page(self, wanted: Wanted, limit: int, token: str | None = None) -> Page:
        """List interactions; see `Reader.page`."""
        statement = TRACES.c.request_id, TRACES.c.timestamp_ms
        with self._reading() as connection:
            query = self._traces(connection, wanted).with_only_columns(*statement)
            if token is not None:
                query = query.where(
                    sa.tuple_(TRACES.c.timestamp_ms, TRACES.c.request_id) < sa.tuple_(*_position(token))
                )
            newest_first = query.order_by(TRACES.c.timestamp_ms.desc(), TRACES.c.request_id.desc())
            found = connection.execute(newest_first.limit(limit + 1)).all()
            page = [row.request_id for row in found[:limit]]
            interactions = tuple(self._interactions(connection, page))
        more = len(found) > limit
        return Page(interactions, _token(found[limit - 1].timestamp_ms, page[-1]) if more else None)

    def arrived(self, wanted: Wanted, since_ms: int) -> list[str]:
        """List ids; see `Reader.arrived`."""
        with self._reading() as connection:
            query = self._traces(connection, wanted).where(TRACES.c.timestamp_ms >= since_ms)
            oldest_first = query.order_by(TRACES.c.timestamp_ms, TRACES.c.request_id)
            return [row.request_id.removeprefix("tr-") for row in connection.execute(oldest_first)]

    def named(self, ids: Sequence[str]) -> list[LoggedInteraction]:
        """Read interactions; see `Reader.named`."""
        with self._reading() as connection:
            return list(self._interactions(connection, [f"tr-{one}" for one in ids]))

    def stats(self, wanted: Wanted, period: Period | None = None) -> tuple[EndpointStats, ...]:
        """Sum up; see `Reader.stats`."""
        with self._reading() as connection:
            names = self._experiments(connection, wanted.endpoint)
            return figures(connection, chosen(wanted, list(names), self._dialect), names, period)

    def show(self, name: str) -> Story:
        """Tell a story; see `Reader.show`."""
        beginning = stem(name)
        with self._reading() as connection:
            ids = self._begun(connection, beginning)
            if not ids:
                raise unknown(name, difflib.get_close_matches(beginning, self._near(connection, beginning), 1, 0.7))
            if len(ids) > 1:
                raise ambiguous(name, ids)
            link = connection.execute(self._run_of(f"tr-{ids[0]}")).first()
        if link is None:
            raise unknown(name, ())
        return self._told(link.value, f"tr-{ids[0]}")

    def _traces(self, connection: sa.Connection, wanted: Wanted) -> sa.Select[tuple[str]]:
        """The ids of the traces of wanted interactions.

        The runs are looked at trace by trace (EXISTS, no join): traces have an index by time, runs have none, and the
        newest twenty are found without reading the rest.
        """
        experiments = list(self._experiments(connection, wanted.endpoint))
        source = _METADATA.join(RUNS, RUNS.c.run_uuid == _METADATA.c.value)
        of_trace = (_METADATA.c.request_id == TRACES.c.request_id) & (_METADATA.c.key == TraceMetadataKey.SOURCE_RUN)
        run = sa.select(RUNS.c.run_uuid).select_from(source).where(of_trace, chosen(wanted, experiments, self._dialect))
        # OFFSET keeps PostgreSQL from making it a join. The sum keeps the index by experiment and time from being taken
        # where there are several experiments: all their traces would be read, and sorted.
        experiment = TRACES.c.experiment_id if len(experiments) == 1 else TRACES.c.experiment_id + 0
        times = within(TRACES.c.timestamp_ms, wanted)
        return sa.select(TRACES.c.request_id).where(experiment.in_(experiments), *times, sa.exists(run.offset(0)))

    def _interactions(self, connection: sa.Connection, trace_ids: Sequence[str]) -> Iterator[LoggedInteraction]:
        """Read the runs of traces, in the same order."""
        for chunk in _chunks(trace_ids):
            linked = _METADATA.c.request_id.in_(chunk) & (_METADATA.c.key == TraceMetadataKey.SOURCE_RUN)
            links = connection.execute(sa.select(_METADATA.c.request_id, _METADATA.c.value).where(linked)).all()
            run_ids = {link.request_id: link.value for link in links}
            ids = list(run_ids.values())
            times = connection.execute(sa.select(RUNS.c.run_uuid, RUNS.c.start_time).where(RUNS.c.run_uuid.in_(ids)))
            start = {row.run_uuid: row.start_time for row in times}
            tags, params, metrics = (_values(connection, table, ids) for table in (TAGS, PARAMS, METRICS))
            for run_id in (run_ids[trace_id] for trace_id in chunk if run_ids.get(trace_id) in start):
                yield interaction(run_id, start[run_id], tags[run_id], params[run_id], metrics[run_id])

    def _experiments(self, connection: sa.Connection, endpoint: str | None) -> dict[int, str]:
        """The endpoints by their experiments' ids; of one endpoint, or of all."""
        name = _EXPERIMENTS.c.name
        named: Condition = (
            name.startswith(EXPERIMENT_PREFIX, autoescape=True)
            if endpoint is None
            else name == EXPERIMENT_PREFIX + endpoint
        )
        active = _EXPERIMENTS.c.lifecycle_stage == LifecycleStage.ACTIVE
        found = connection.execute(sa.select(_EXPERIMENTS.c.experiment_id, name).where(named, active))
        return {row.experiment_id: row.name.removeprefix(EXPERIMENT_PREFIX) for row in found}

    def _begun(self, connection: sa.Connection, beginning: str) -> list[str]:
        """Ids of interactions whose own id, or whose run's, begins so; enough of them to see that there are several."""
        experiments = list(self._experiments(connection, None))
        run_ids = (
            sa.select(TAGS.c.value)
            .join(RUNS, RUNS.c.run_uuid == TAGS.c.run_uuid)
            .where(TAGS.c.key == ID_TAG, RUNS.c.experiment_id.in_(experiments), _begins(TAGS.c.run_uuid, beginning))
        )
        trace_ids = sa.select(sa.func.substr(TRACES.c.request_id, 4)).where(
            TRACES.c.experiment_id.in_(experiments), _begins(TRACES.c.request_id, f"tr-{beginning}")
        )
        found = (connection.execute(query.limit(_NAMED)).scalars() for query in (trace_ids, run_ids))
        return list(dict.fromkeys(one for ids in found for one in ids))

    def _near(self, connection: sa.Connection, beginning: str) -> list[str]:
        """Ids that sort next to this one: a slip in a digit leaves those before it right."""
        column = TRACES.c.request_id
        ours = sa.select(column).where(TRACES.c.experiment_id.in_(list(self._experiments(connection, None))))
        below = ours.where(column < f"tr-{beginning}").order_by(column.desc()).limit(_NAMED)
        above = ours.where(column > f"tr-{beginning}").order_by(column).limit(_NAMED)
        return [one.removeprefix("tr-") for query in (below, above) for one in connection.execute(query).scalars()]

    def _run_of(self, trace_id: str) -> sa.Select[tuple[str]]:
        linked = (_METADATA.c.request_id == trace_id) & (_METADATA.c.key == TraceMetadataKey.SOURCE_RUN)
        return sa.select(_METADATA.c.value).where(linked)

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the database and writes nothing."""
        try:
            with self._engine.connect() as connection:
                if self._dialect == "sqlite":
                    # Python's driver begins a transaction with the first write only, and ours never comes.
                    connection.exec_driver_sql("BEGIN")
                else:
                    connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                yield connection
        except SQLAlchemyError as err:
            # Nothing of the driver's message: it may hold a statement with its values.
            raise Unavailable(f"MLflow's database cannot be read: {type(err).__name__}") from err


def _values(connection: sa.Connection, table: sa.Table, run_ids: Sequence[str]) -> Mapping[str, dict[str, Any]]:
    """All values by run. All, because of keys and runs PostgreSQL would look for the keys first: most of the table."""
    found: dict[str, dict[str, Any]] = {run_id: {} for run_id in run_ids}
    query = sa.select(table.c.run_uuid, table.c.key, table.c.value)
    for row in connection.execute(query.where(table.c.run_uuid.in_(run_ids))):
        found[row.run_uuid][row.key] = row.value
    return found


def _begins(column: sa.ColumnElement[str], beginning: str) -> Condition:
    """Whether an id begins so, in a way an index can answer; 'g' comes after every hex digit."""
    return (column >= beginning) & (column < f"{beginning}g")


def _chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    rest = iter(ids)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


def _token(timestamp_ms: int, trace_id: str) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([timestamp_ms, trace_id])).decode()


def _position(token: str) -> tuple[int, str]:
    """The time and the trace a page ended with."""
    try:
        timestamp_ms, trace_id = orjson.loads(base64.urlsafe_b64decode(token))
        return int(timestamp_ms), str(trace_id)
    except (binascii.Error, ValueError, TypeError) as err:
        raise InvalidParameter(f"'{token}' is no page token; the page before ends with one") from err
