"""Deletes interactions through MLflow's API, for tracking servers and for databases whose schema we do not know.

Traces are deleted; a run is only marked, and `mlflow gc` beside the server removes it. A trace goes before its run, so
that whoever continues after a kill finds both by the run.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

from mlflow.entities import Run, TraceInfo, ViewType
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.tracing.constant import TraceMetadataKey
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from llmops.errors import InvalidParameter
from llmops.interactions.deletion import Removed
from llmops.interactions.mlflow_api_copies import Copies
from llmops.interactions.mlflow_entities import ID_TAG, SESSION_TAG
from llmops.interactions.mlflow_experiments import endpoint_experiments, explained
from llmops.interactions.replays import EXPERIMENT, PREFIX, original

#: The API deletes at most so many traces in one call.
_CHUNK = 100
_PAGE = 500
_IS_OURS = f"tags.`{ID_TAG}` LIKE '%'"


class ApiDeletion:
    """A `Deletion` through the tracking API."""

    marks_only = True

    def __init__(self, store: AbstractStore) -> None:
        self.secure = False
        self._store = store
        self._copies = Copies(store)

    def experiments(self) -> Mapping[str, str]:
        """Find; see `Deletion.experiments`."""
        return endpoint_experiments(self._store)

    def count_before(self, experiment_id: str, before_ms: int, endpoint: str | None = None) -> Removed:
        """Count; see `Deletion.count_before`."""
        runs = sum(len(page) for page in self._runs([experiment_id], _runs_before(before_ms, endpoint)))
        traces = sum(len(page) for page in self._traces([experiment_id], _traces_before(before_ms, endpoint)))
        return Removed(runs=runs, traces=traces)

    def before(self, experiment_id: str, before_ms: int, endpoint: str | None = None) -> Iterator[Removed]:
        """Delete; see `Deletion.before`."""
        yield from self._delete([experiment_id], _runs_before(before_ms, endpoint), _traces_before(before_ms, endpoint))
        query = f"tags.`{SESSION_TAG}` LIKE '%' AND attributes.start_time < {before_ms}"
        yield from self._delete_childless([experiment_id], query)

    def ids_of(self, user: str) -> set[str]:
        """Find; see `Deletion.ids_of`."""
        ours = list(self.experiments().values())
        found = {run.data.tags[ID_TAG] for page in self._runs(ours, _runs_of(user)) for run in page}
        return found | {
            one.trace_id.removeprefix("tr-") for page in self._traces(ours, _traces_of(user)) for one in page
        }

    def count_of_user(self, user: str, ids: Collection[str] = ()) -> Removed:
        """Count; see `Deletion.count_of_user`."""
        ours = list(self.experiments().values())
        theirs = {*ids, *self.ids_of(user)}
        others = [one for one in self._replays(ours, theirs) if one.data.tags[ID_TAG] not in theirs]
        trace_ids = _trace_ids(theirs, others)
        runs = sum(len(page) for page in self._runs(ours, _runs_of(user)))
        traces = sum(len(page) for page in self._traces(ours, _traces_of(user)))
        return Removed(
            runs=runs + len(others),
            traces=traces + len(others),
            assessments=sum(len(_by(page, user)) for page in self._traces(ours, None)),
            sessions=sum(len(page) for page in self._runs(ours, _sessions_of(user))),
            copies=sum(map(len, self._copies.find(ours, trace_ids).values())),
            comparisons=len(self._comparisons(ours, user, trace_ids)),
        )

    def of_user(self, user: str, ids: Collection[str] = ()) -> Iterator[Removed]:
        """Delete; see `Deletion.of_user`. The API cannot take a name off the run of a session that stays."""
        ours = list(self.experiments().values())
        theirs = {*ids, *self.ids_of(user)}
        # First what was made of them: nothing else leads there.
        again = self._replays(ours, theirs)
        trace_ids = _trace_ids(theirs, again)
        yield Removed(copies=self._copies.delete(ours, trace_ids))
        compared = self._comparisons(ours, user, trace_ids)
        self._mark(compared)
        yield Removed(comparisons=len(compared))
        for first in range(0, len(again), _CHUNK):
            yield self._delete_found(again[first : first + _CHUNK])
        yield from self._delete(ours, _runs_of(user), _traces_of(user))
        yield from self._delete_childless(ours, _sessions_of(user))
        for page in self._traces(ours, None):
            given = _by(page, user)
            with explained():
                for trace_id, assessment_id in given:
                    self._store.delete_assessment(trace_id, assessment_id)
            if given:
                yield Removed(assessments=len(given))

    def _replays(self, experiments: Sequence[str], ids: Collection[str]) -> list[Run]:
        """The runs of interactions that repeat one of these."""
        said = f"{_IS_OURS} AND tags.client_request_id LIKE '{PREFIX}%'"
        pages = self._runs(experiments, said)
        return [run for page in pages for run in page if original(run.data.tags.get("client_request_id")) in ids]

    def _comparisons(self, experiments: Sequence[str], user: str, trace_ids: Collection[str]) -> list[str]:
        """Ids of the comparisons that show one of these traces, or were made of one person's."""
        with explained():
            place = self._store.get_experiment_by_name(EXPERIMENT)
        if place is None:
            return []
        runs = [run for page in self._runs([place.experiment_id], "") for run in page]
        return [
            run.info.run_id
            for run in runs
            if run.data.params.get("filter.user") == user
            or any(
                one.trace_id in trace_ids
                for page in self._traces(experiments, f"run_id = '{run.info.run_id}'")
                for one in page
            )
        ]

    def _delete(self, experiments: Sequence[str], of_runs: str, of_traces: str) -> Iterator[Removed]:
        while found := self._first_runs(experiments, of_runs):
            # Deleted traces are not found again, and marked runs are not searched: the first page is always new.
            yield self._delete_found(found)
        while page := next(self._traces(experiments, of_traces), []):
            for experiment_id in {one.experiment_id for one in page}:
                ids = [one.trace_id for one in page if one.experiment_id == experiment_id]
                yield self._delete_traces(experiment_id, ids)

    def _delete_found(self, found: Sequence[Run]) -> Removed:
        """Delete interactions by their runs."""
        removed = Removed(runs=len(found))
        for experiment_id in {run.info.experiment_id for run in found}:
            runs = [run for run in found if run.info.experiment_id == experiment_id]
            removed += self._delete_traces(experiment_id, [f"tr-{run.data.tags[ID_TAG]}" for run in runs])
        self._mark([run.info.run_id for run in found])
        return removed

    def _delete_childless(self, experiments: Sequence[str], query: str) -> Iterator[Removed]:
        # All ids before the first is marked: pages are counted, and a run that is marked would move all that follow.
        sessions = [
            (run.info.run_id, run.info.experiment_id) for page in self._runs(experiments, query) for run in page
        ]
        for run_id, experiment_id in sessions:
            if not self._first_runs([experiment_id], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'", 1):
                self._mark([run_id])
                yield Removed(sessions=1)

    def _delete_traces(self, experiment_id: str, trace_ids: list[str]) -> Removed:
        chunks = [trace_ids[first : first + _CHUNK] for first in range(0, len(trace_ids), _CHUNK)]
        with explained():
            return Removed(traces=sum(self._store.delete_traces(experiment_id, trace_ids=chunk) for chunk in chunks))

    def _mark(self, run_ids: Sequence[str]) -> None:
        with explained():
            for run_id in run_ids:
                self._store.delete_run(run_id)

    def _first_runs(self, experiments: Sequence[str], query: str, most: int = _CHUNK) -> list[Run]:
        if not experiments:
            return []
        with explained():
            return list(self._store.search_runs(list(experiments), query, ViewType.ACTIVE_ONLY, max_results=most))

    def _runs(self, experiments: Sequence[str], query: str) -> Iterator[list[Run]]:
        token: str | None = None
        while experiments:
            with explained():
                page = self._store.search_runs(
                    list(experiments), query, ViewType.ACTIVE_ONLY, max_results=_PAGE, page_token=token
                )
            yield list(page)
            token = page.token
            if not token:
                return

    def _traces(self, experiments: Sequence[str], query: str | None) -> Iterator[list[TraceInfo]]:
        token: str | None = None
        while experiments:
            with explained():
                page, token = self._store.search_traces(
                    filter_string=query, max_results=_PAGE, page_token=token, locations=list(experiments)
                )
            yield list(page)
            if not token:
                return


def _trace_ids(ids: Collection[str], again: Sequence[Run]) -> set[str]:
    return {f"tr-{one}" for one in (*ids, *(run.data.tags[ID_TAG] for run in again))}


def _by(page: Sequence[TraceInfo], user: str) -> list[tuple[str, str]]:
    """The assessments of a page's traces that a person gave, each with its trace."""
    return [
        (one.trace_id, str(given.assessment_id))
        for one in page
        for given in one.assessments
        if given.source.source_id == user
    ]


def _runs_before(before_ms: int, endpoint: str | None) -> str:
    named = "" if endpoint is None else f" AND params.endpoint = {_quoted(endpoint)}"
    return f"{_IS_OURS} AND attributes.start_time < {before_ms}{named}"


def _traces_before(before_ms: int, endpoint: str | None) -> str:
    named = "" if endpoint is None else f" AND tags.endpoint = {_quoted(endpoint)}"
    return f"{_IS_OURS} AND attributes.timestamp_ms < {before_ms}{named}"


def _runs_of(user: str) -> str:
    return f"{_IS_OURS} AND tags.user = {_quoted(user)}"


def _traces_of(user: str) -> str:
    return f"metadata.`{TraceMetadataKey.TRACE_USER}` = {_quoted(user)}"


def _sessions_of(user: str) -> str:
    return f"tags.`{SESSION_TAG}` LIKE '%' AND attributes.user_id = {_quoted(user)}"


def _quoted(value: str) -> str:
    """A value for a filter of MLflow, which knows two kinds of quotes and no escapes."""
    if "'" not in value:
        return f"'{value}'"
    if '"' not in value:
        return f'"{value}"'
    raise InvalidParameter(f"MLflow's API cannot search for a value with both kinds of quotes: {value}")
