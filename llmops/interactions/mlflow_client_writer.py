"""Writes interactions through MLflow's tracking API, which every tracking server and database has.

MLflow chooses a run's id here, so a run is found again by the tag it is created with. The run is terminated last:
a run that is no longer RUNNING is complete, and so is its trace. Every step before can be done twice with the same
result, whatever the step a killed process stopped at.

Source: mlflow 3.17.2 store/tracking/sqlalchemy_store.py (start_trace and log_spans merge into what is there)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlflow.entities import LifecycleStage, Run, RunStatus, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from llmops.errors import Unavailable
from llmops.interactions.mlflow_entities import ID_TAG
from llmops.interactions.mlflow_sessions import Sessions
from llmops.interactions.mlflow_store import judge
from llmops.interactions.mlflow_trace import trace_info
from llmops.interactions.mlflow_writer import Mapped
from llmops.interactions.sink import Delivered, Outcome


@dataclass(slots=True)
class _Delivery:
    """One record on its way into the store.

    Attributes:
        outcome: None while there is something left to write.
    """

    mapped: Mapped
    experiment_id: str
    run_id: str = ""
    outcome: Outcome | None = None


class ClientWriter:
    """A `Writer` for every tracking store: about 60 records a second into local SQLite, 20 over HTTP."""

    batch = 32

    def __init__(self, store: AbstractStore) -> None:
        self._store = store
        self._sessions = Sessions(store)

    def write(self, experiment_id: str, batch: Sequence[Mapped]) -> list[Outcome]:
        """Write records of one experiment; see `Sink.deliver`."""
        deliveries = [_Delivery(mapped, experiment_id) for mapped in batch]
        for delivery in deliveries:
            _step(delivery, self._begin)
        self._log_spans([delivery for delivery in deliveries if delivery.outcome is None])
        for delivery in deliveries:
            if delivery.outcome is None:
                _step(delivery, self._end)
        return [delivery.outcome or Delivered() for delivery in deliveries]

    def _begin(self, delivery: _Delivery) -> None:
        """Write the run and the head of the trace."""
        run, experiment_id = delivery.mapped.run, delivery.experiment_id
        # Looked up on redelivery only: the search reads every run's tag, and a first delivery finds nothing.
        found = self._lookup(delivery) if delivery.mapped.tries > 1 else None
        if found is not None and _complete(found):
            delivery.outcome = Delivered()
            return
        if found is None:
            tags = [*run.tags, *self._parent(delivery)]
            found = self._store.create_run(experiment_id, run.user, run.start_ms, tags, run.name)
        delivery.run_id = str(found.info.run_id)
        self._store.log_batch(delivery.run_id, run.metrics, run.params, [])
        self._store.start_trace(trace_info(delivery.mapped.interaction, experiment_id, delivery.run_id))

    def _parent(self, delivery: _Delivery) -> list[RunTag]:
        """What ties a run to that of its session, which is made first."""
        session = delivery.mapped.session
        if session is None:
            return []
        return [RunTag(MLFLOW_PARENT_RUN_ID, self._sessions.run_id(delivery.experiment_id, session))]

    def _lookup(self, delivery: _Delivery) -> Run | None:
        query = f"tags.`{ID_TAG}` = '{delivery.mapped.interaction.interaction_id}'"
        runs = self._store.search_runs([delivery.experiment_id], query, ViewType.ALL, max_results=1)
        return runs[0] if runs else None

    def _log_spans(self, deliveries: Sequence[_Delivery]) -> None:
        """Write the spans of all in one call, a fifth of the time; one by one where one of them is refused."""
        try:
            self._send(deliveries)
        except MlflowException as err:
            judge(err, tries=1)
            for delivery in deliveries:
                _step(delivery, lambda one: self._send([one]))

    def _send(self, deliveries: Sequence[_Delivery]) -> None:
        spans = [span for delivery in deliveries for span in delivery.mapped.spans]
        if not spans:
            return
        try:
            self._store.log_spans(deliveries[0].experiment_id, spans)
        except NotImplementedError as err:
            self._forget_server_version()
            raise Unavailable(f"MLflow: {err}") from err

    def _forget_server_version(self) -> None:
        # RestStore asks for the server's version once, and a server that was away then has none for ever.
        cached = getattr(self._store, "_get_server_version", None)
        if cached is not None:
            cached.cache_clear()

    def _end(self, delivery: _Delivery) -> None:
        run = delivery.mapped.run
        self._store.update_run_info(delivery.run_id, RunStatus.from_string(run.status), run.end_ms, None)


def _step(delivery: _Delivery, step: Callable[[_Delivery], None]) -> None:
    """Take one step; what the store says of it is the record's outcome, unless the store itself is away."""
    try:
        step(delivery)
    except MlflowException as err:
        delivery.outcome = judge(err, delivery.mapped.tries)


def _complete(run: Run) -> bool:
    """A run somebody deleted counts: it is not brought back."""
    running = run.info.status == RunStatus.to_string(RunStatus.RUNNING)
    return not running or run.info.lifecycle_stage == LifecycleStage.DELETED
