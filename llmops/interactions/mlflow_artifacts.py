"""The files of runs in MLflow's artifact stores. Interactions have none, unless somebody adds some later."""

import logging
from collections.abc import Iterable

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.utils.uri import append_to_uri_path

from llmops.errors import Unavailable

logger = logging.getLogger(__name__)


class Artifacts:
    """Deletes the files of runs.

    An experiment's runs with files are listed once, so that the thousands without any cost nothing.
    """

    def __init__(self, store: AbstractStore) -> None:
        self._store = store
        self._locations: dict[str, str] = {}

    def look(self, experiment_ids: Iterable[str]) -> None:
        """List the runs of experiments that have files, for `delete`."""
        self._locations = {}
        for experiment_id in experiment_ids:
            location = self._store.get_experiment(experiment_id).artifact_location
            try:
                folders = get_artifact_repository(location).list_artifacts()
            except Exception as err:  # noqa: BLE001 - a plug of MLflow's: every kind of store has errors of its own.
                reason = type(err).__name__
                logger.warning("event=artifacts_not_listed experiment=%s reason=%s", experiment_id, reason)
                continue
            self._locations |= {one.path: append_to_uri_path(location, one.path) for one in folders if one.is_dir}

    def delete(self, run_ids: Iterable[str]) -> int:
        """Delete the files of runs; returns how many had any.

        Raises:
            Unavailable: The artifact store is away, or refuses.
        """
        found = [run_id for run_id in run_ids if run_id in self._locations]
        for run_id in found:
            location = self._locations[run_id]
            try:
                get_artifact_repository(location).delete_artifacts()
            except Exception as err:
                raise Unavailable(f"the files of run {run_id} cannot be deleted at {location}: {err}") from err
            del self._locations[run_id]
        return len(found)
