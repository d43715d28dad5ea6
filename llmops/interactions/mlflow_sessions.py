"""The runs of chat sessions: one for each session of an experiment, the parent of the runs of its interactions."""

import threading
from collections import OrderedDict
from concurrent.futures import Future

from mlflow.entities import Run, RunStatus, ViewType
from mlflow.store.tracking.abstract_store import AbstractStore

from llmops.interactions.mlflow_entities import SESSION_TAG, SessionEntities


class Sessions:
    """Finds the run of a session, or makes it. Safe from any thread: those that meet at one session wait for the first.

    Two servers that write to one tracking store may make one each; the older one is found from then on.

    Args:
        most_known: Sessions whose run is remembered, by default in 3 MB; that of any other is looked up again.
    """

    def __init__(self, store: AbstractStore, most_known: int = 10_000) -> None:
        self._store = store
        self._most_known = most_known
        self._lock = threading.Lock()
        self._run_ids: OrderedDict[tuple[str, str], Future[str]] = OrderedDict()

    def run_id(self, experiment_id: str, session: SessionEntities) -> str:
        """The id of the run of a session, which is there and ended when this returns.

        Raises:
            MlflowException: The store refuses, or is away.
            Unavailable: The store is away.
        """
        known = (experiment_id, session.key)
        with self._lock:
            run_id = self._run_ids.pop(known, None)
            first = run_id is None
            self._run_ids[known] = run_id = run_id or Future()
            if len(self._run_ids) > self._most_known:
                self._run_ids.popitem(last=False)
        if first:
            self._settle(known, run_id, session)
        return run_id.result()

    def _settle(self, known: tuple[str, str], run_id: Future[str], session: SessionEntities) -> None:
        try:
            run_id.set_result(self._ended(self._run(known[0], session), session))
        except BaseException as err:
            # Who waits fails with us; who comes later tries again.
            with self._lock:
                self._run_ids.pop(known, None)
            run_id.set_exception(err)
            raise

    def _run(self, experiment_id: str, session: SessionEntities) -> Run:
        # One that somebody deleted counts: it is not brought back.
        found = self._store.search_runs(
            [experiment_id],
            f"tags.`{SESSION_TAG}` = '{session.key}'",
            ViewType.ALL,
            max_results=1,
            order_by=["attributes.start_time ASC"],
        )
        if found:
            return found[0]
        return self._store.create_run(experiment_id, session.user, session.start_ms, list(session.tags), session.name)

    def _ended(self, run: Run, session: SessionEntities) -> str:
        """End a run that is new, or whose maker was killed. Nobody knows when a session is over, so it is at once."""
        if run.info.status == RunStatus.to_string(RunStatus.RUNNING):
            self._store.update_run_info(run.info.run_id, RunStatus.FINISHED, session.end_ms, None)
        return str(run.info.run_id)
