"""Interactions on their way into MLflow's own store, and what is there afterwards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.store.tracking.abstract_store import AbstractStore

from llmops.interactions.mlflow_schema import TESTED
from llmops.interactions.mlflow_sink import MlflowSink
from llmops.interactions.record import Interaction
from llmops.interactions.sink import Outcome
from llmops.interactions.spool import Leased
from llmops.settings import Settings


def leased(interactions: Sequence[Interaction], tries: int = 1) -> list[Leased[Interaction]]:
    """Records as the shipper hands them over."""
    return [Leased(interaction, tries, seq, Path("worker-0.db")) for seq, interaction in enumerate(interactions)]


def delivered(settings: Settings, *interactions: Interaction, tries: int = 1) -> list[Outcome]:
    """Deliver records through a sink that has just been started."""
    return opened(settings).deliver(leased(interactions, tries))


def delivered_by_client(settings: Settings, *interactions: Interaction, tries: int = 1) -> list[Outcome]:
    """Deliver records through MLflow's API, as where the SQL writer does not know the database."""
    return opened(settings, frozenset()).deliver(leased(interactions, tries))


def opened(settings: Settings, tested: frozenset[str] = TESTED) -> MlflowSink:
    """A sink that has just been started."""
    sink = MlflowSink(settings, tested)
    sink.open()
    return sink


def all_runs(settings: Settings) -> list[Run]:
    """Every run of our experiments, deleted ones too."""
    client = MlflowClient(settings.tracking_uri)
    experiments = [one.experiment_id for one in client.search_experiments(filter_string="name LIKE 'llmops/%'")]
    return list(client.search_runs(experiments, run_view_type=ViewType.ALL)) if experiments else []


def runs(settings: Settings) -> list[Run]:
    """Every run of an interaction."""
    return [run for run in all_runs(settings) if "llmops.interaction_id" in run.data.tags]


class Killed(BaseException):
    """The process ends here."""


class Mortal:
    """MLflow's own store, which ends the process at one call: before it, or when it is done."""

    def __init__(self, store: AbstractStore, call: str, *, done: bool) -> None:
        self._store, self._call, self._done = store, call, done

    def __getattr__(self, name: str) -> Any:
        if name != self._call:
            return getattr(self._store, name)

        def last(*args: Any, **kwargs: Any) -> None:
            if self._done:
                getattr(self._store, name)(*args, **kwargs)
            raise Killed

        return last
