"""Writes interactions through MLflow's tracking API, which every tracking server and database has.

MLflow chooses a run's id here, so a run is found again by the tag it is created with. The run is terminated last:
a run that is no longer RUNNING is complete, and so is its trace. Every step before can be done twice with the same
result, whatever the step a killed process stopped at.

Source: mlflow 3.17.2 store/tracking/sqlalchemy_store.py (start_trace and log_spans merge into what is there)
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeVar

from mlflow.entities import LifecycleStage, Run, RunStatus, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from llmops.errors import Unavailable
from llmops.interactions.mlflow_entities import ID_TAG
from llmops.interactions.mlflow_server import TrackingServer
from llmops.interactions.mlflow_sessions import Sessions
from llmops.interactions.mlflow_store import judge
from llmops.interactions.mlflow_trace import trace_info
from llmops.interactions.mlflow_writer import Mapped
from llmops.interactions.sink import Delivered, Outcome

#: Calls on their way to a tracking server at once. A database is written by one: four threads were slower.
_AT_ONCE = 8
#: Bodies whose spans go in one call: nginx takes requests of 1 MiB where nobody told it otherwise.
_PARCEL_BYTES = 800_000
#: Records whose place is remembered: a few batches.
_MOST_PLACES = 1000

T = TypeVar("T")


class _Step(IntEnum):
    """What is done of a record, in this order."""

    NOTHING = 0
    RUN = 1
    VALUES = 2
    TRACE = 3
    SPANS = 4
    END = 5


@dataclass(slots=True)
class _Place:
    """How far a record has come; remembered, so that a server that lets few calls through gets none of them twice."""

    run_id: str = ""
    done: _Step = _Step.NOTHING


@dataclass(slots=True)
class _Delivery:
    """One record on its way into the store.

    Attributes:
        outcome: None while there is something left to write.
    """

    mapped: Mapped
    experiment_id: str
    place: _Place = field(default_factory=_Place)
    outcome: Outcome | None = None

    @property
    def size_bytes(self) -> int:
        """About how much its spans are."""
        interaction = self.mapped.interaction
        return len(interaction.request) + len(interaction.response or "")

    def advance(self, *steps: tuple[_Step, Callable[["_Delivery"], None]]) -> None:
        """Take the steps that are not done; what the store says of one is the outcome, unless the store is away."""
        try:
            for step, take in steps:
                if self.place.done < step:
                    take(self)
                    self.place.done = max(self.place.done, step)
        except MlflowException as err:
            self.outcome = judge(err, self.mapped.tries)


class ClientWriter:
    """Puts records into every tracking store; see `Writer`.

    About 60 a second into local SQLite. A server spends 32 ms of its CPU on each, so one worker takes 30 at most, which
    one call at a time nearly reaches on the same machine; 40 ms away eight are four times as fast, sixteen no faster.
    """

    batch = 64

    def __init__(self, store: AbstractStore) -> None:
        self._store = store
        self._sessions = Sessions(store)
        self._most_at_once = self._at_once = _AT_ONCE if isinstance(store, TrackingServer) else 1
        self._places: OrderedDict[tuple[str, str], _Place] = OrderedDict()

    def write(self, experiment_id: str, batch: Sequence[Mapped]) -> list[Outcome]:
        """Write records of one experiment; see `Sink.deliver`."""
        try:
            outcomes = self._write(experiment_id, batch)
        except Unavailable:
            # One at a time at first: eight lookups would take what a server that counts lets through, each time.
            self._at_once = 1
            raise
        self._at_once = min(2 * self._at_once, self._most_at_once)
        return outcomes

    def _write(self, experiment_id: str, batch: Sequence[Mapped]) -> list[Outcome]:
        deliveries = [_Delivery(mapped, experiment_id, self._place(experiment_id, mapped)) for mapped in batch]
        self._each(deliveries, self._begin)
        self._each(_parcels(deliveries), self._log_spans)
        self._each([delivery for delivery in deliveries if delivery.outcome is None], self._end)
        for delivery in deliveries:
            if delivery.outcome is not None:
                # The store sees it differently from what we remember: next time it is looked up.
                self._places.pop((experiment_id, delivery.mapped.interaction.interaction_id), None)
        return [delivery.outcome or Delivered() for delivery in deliveries]

    def _place(self, experiment_id: str, mapped: Mapped) -> _Place:
        key = (experiment_id, mapped.interaction.interaction_id)
        place = self._places[key] = self._places.pop(key, _Place())
        if len(self._places) > _MOST_PLACES:
            self._places.popitem(last=False)
        return place

    def _each(self, things: Iterable[T], take: Callable[[T], None]) -> None:
        """Do something with each, several at a time; once one of them raises, no other is begun."""
        if self._at_once == 1:
            for thing in things:
                take(thing)
            return
        with ThreadPoolExecutor(self._at_once) as threads:
            taken = [threads.submit(take, thing) for thing in things]
            wait(taken, return_when=FIRST_EXCEPTION)
            threads.shutdown(cancel_futures=True)
        for one in taken:
            if not one.cancelled():
                one.result()

    def _begin(self, delivery: _Delivery) -> None:
        """Write the run and the head of the trace."""
        delivery.advance(
            (_Step.RUN, self._find_or_create), (_Step.VALUES, self._log_values), (_Step.TRACE, self._start_trace)
        )

    def _end(self, delivery: _Delivery) -> None:
        delivery.advance((_Step.END, self._terminate))

    def _find_or_create(self, delivery: _Delivery) -> None:
        run, place = delivery.mapped.run, delivery.place
        # Looked up on redelivery only: the search reads every run's tag, and a first delivery finds nothing.
        found = self._lookup(delivery) if delivery.mapped.tries > 1 else None
        if found is None:
            tags = [*run.tags, *self._parent(delivery)]
            found = self._store.create_run(delivery.experiment_id, run.user, run.start_ms, tags, run.name)
        elif _complete(found):
            place.done = _Step.END
        place.run_id = str(found.info.run_id)
        if not place.run_id:
            raise Unavailable("MLflow made a run without an id: is the URI that of a tracking server?")

    def _log_values(self, delivery: _Delivery) -> None:
        run = delivery.mapped.run
        self._store.log_batch(delivery.place.run_id, run.metrics, run.params, [])

    def _start_trace(self, delivery: _Delivery) -> None:
        info = trace_info(delivery.mapped.interaction, delivery.experiment_id, delivery.place.run_id)
        self._store.start_trace(info)

    def _terminate(self, delivery: _Delivery) -> None:
        run = delivery.mapped.run
        self._store.update_run_info(delivery.place.run_id, RunStatus.from_string(run.status), run.end_ms, None)

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

    def _log_spans(self, parcel: Sequence[_Delivery]) -> None:
        """Write the spans of all in one call, a fifth of the time; one by one where one of them is refused."""
        try:
            self._send(parcel)
        except MlflowException as err:
            judge(err, tries=1)
            for delivery in parcel:
                delivery.advance((_Step.SPANS, lambda one: self._send([one])))

    def _send(self, parcel: Sequence[_Delivery]) -> None:
        spans = [span for delivery in parcel for span in delivery.mapped.spans]
        self._store.log_spans(parcel[0].experiment_id, spans)
        for delivery in parcel:
            delivery.place.done = _Step.SPANS


def _parcels(deliveries: Iterable[_Delivery]) -> Iterator[list[_Delivery]]:
    """Put those whose spans are missing together, as many as fit into one call; a large one goes alone."""
    parcel: list[_Delivery] = []
    size_bytes = 0
    for delivery in deliveries:
        if delivery.outcome is not None or delivery.place.done >= _Step.SPANS:
            continue
        if parcel and size_bytes + delivery.size_bytes > _PARCEL_BYTES:
            yield parcel
            parcel, size_bytes = [], 0
        parcel.append(delivery)
        size_bytes += delivery.size_bytes
    if parcel:
        yield parcel


def _complete(run: Run) -> bool:
    """A run somebody deleted counts: it is not brought back."""
    running = run.info.status == RunStatus.to_string(RunStatus.RUNNING)
    return not running or run.info.lifecycle_stage == LifecycleStage.DELETED
