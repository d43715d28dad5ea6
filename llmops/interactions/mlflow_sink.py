"""The MLflow sink: every interaction becomes one run with one trace.

What a run and a trace hold is decided in mlflow_entities and mlflow_trace; how they get into the store is a writer's.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from zlib import crc32

from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from llmops.errors import Unavailable
from llmops.interactions.mlflow_client_writer import ClientWriter
from llmops.interactions.mlflow_schema import TESTED, SchemaMoved, check, objection
from llmops.interactions.mlflow_sql_writer import SqlWriter
from llmops.interactions.mlflow_store import Experiments, judge, open_store
from llmops.interactions.mlflow_writer import Mapped, Writer
from llmops.interactions.record import Interaction
from llmops.interactions.sink import Delivered, Outcome, Refused
from llmops.interactions.spool import Leased
from llmops.settings import Settings

logger = logging.getLogger(__name__)

#: Fewer records are not worth a transaction more.
_WORTH_SHARING = 100


class MlflowSink:
    """A `Sink` that writes to the tracking store of the settings.

    Args:
        tested: Schema revisions the SQL writer may write.

    Attributes:
        notice: Why interactions take the slow way into a database; empty where they do not.
    """

    name = "mlflow"
    linger_s = 0.0

    def __init__(self, settings: Settings, tested: frozenset[str] = TESTED) -> None:
        self._settings = settings
        self._tested = tested
        self._writer: Writer | None = None
        self.notice = ""

    @property
    def batch(self) -> int:
        """How many records one delivery takes at best."""
        return self._writer.batch if self._writer else ClientWriter.batch

    @property
    def chooses_run_ids(self) -> bool:
        """Whether a run has the id of its interaction; known once the sink is open."""
        return isinstance(self._writer, SqlWriter)

    def open(self) -> None:
        """Connect, and initialise an empty database; see `Sink.open`."""
        settings = self._settings
        check(settings.tracking_uri)
        store = open_store(settings)
        remote = settings.tracking_uri.startswith("http")
        experiments = Experiments(store, None if remote else settings.artifact_root)
        writer: Writer = _Client(experiments, ClientWriter(store))
        notice = objection(store, self._tested)
        if notice and notice != self.notice:
            logger.warning("event=mlflow_client_writer reason=%r", notice)
        if isinstance(store, SqlAlchemyStore) and not notice:
            writer = SqlWriter(store, experiments, writer)
        self._writer, self.notice = writer, notice

    def deliver(self, batch: Sequence[Leased[Interaction]]) -> list[Outcome]:
        """Write records; see `Sink.deliver`."""
        try:
            return self._share(batch)
        except SchemaMoved:
            self.open()
            return self._share(batch)

    def _share(self, batch: Sequence[Leased[Interaction]]) -> list[Outcome]:
        """Write records in as many threads as the writer likes."""
        if self._writer is None:
            raise Unavailable("MLflow: the tracking store is not open yet")
        if self._writer.lanes == 1 or len(batch) < _WORTH_SHARING:
            return self._write(self._writer, batch)
        shares: list[dict[int, Leased[Interaction]]] = [{} for _ in range(self._writer.lanes)]
        for index, leased in enumerate(batch):
            name = leased.record.session or leased.record.interaction_id
            shares[crc32(name.encode("utf-8", "replace")) % len(shares)][index] = leased
        outcomes: dict[int, Outcome] = {}
        write = partial(self._write, self._writer)
        with ThreadPoolExecutor(len(shares), "mlflow-sink") as threads:
            written = threads.map(write, [list(share.values()) for share in shares])
            for share, found in zip(shares, written, strict=True):
                outcomes.update(zip(share, found, strict=True))
        return [outcomes[index] for index in range(len(batch))]

    def _write(self, writer: Writer, batch: Sequence[Leased[Interaction]]) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        mapped: dict[int, Mapped] = {}
        for index, leased in enumerate(batch):
            try:
                mapped[index] = Mapped.of(leased)
            except (TypeError, ValueError, AttributeError, OverflowError) as err:
                outcomes[index] = Refused(f"the record cannot be mapped to a run: {type(err).__name__}")
        outcomes.update(zip(mapped, writer.write(list(mapped.values())), strict=True))
        return [outcomes[index] for index in range(len(batch))]


class _Client:
    """The client writer as a `Writer`: it takes one experiment at a time."""

    batch = ClientWriter.batch
    lanes = 1  # It has threads of its own.

    def __init__(self, experiments: Experiments, writer: ClientWriter) -> None:
        self._experiments = experiments
        self._writer = writer

    def write(self, batch: Sequence[Mapped]) -> list[Outcome]:
        """Write records, experiment by experiment; see `Sink.deliver`."""
        groups: dict[str, dict[int, Mapped]] = {}
        for index, mapped in enumerate(batch):
            groups.setdefault(mapped.run.experiment, {})[index] = mapped
        outcomes: dict[int, Outcome] = {}
        for name, group in groups.items():
            outcomes.update(zip(group, self._group(name, list(group.values())), strict=True))
        return [outcomes[index] for index in range(len(batch))]

    def _group(self, name: str, group: Sequence[Mapped]) -> list[Outcome]:
        try:
            outcomes = self._writer.write(self._experiments.id(name), group)
        except MlflowException as err:
            outcomes = [judge(err, mapped.tries) for mapped in group]
        if any(not isinstance(outcome, Delivered) for outcome in outcomes):
            self._experiments.forget(name)
        return outcomes
