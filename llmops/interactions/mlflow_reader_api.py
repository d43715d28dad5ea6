"""Reads interactions through MLflow's public API, which every tracking store has: a thousand a second."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice

import orjson
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run, Trace
from mlflow.exceptions import MlflowException

from llmops.errors import InvalidParameter, NotFound, Unavailable
from llmops.interactions.logged import LoggedInteraction, Page, Story, Wanted
from llmops.interactions.logged_stats import PERCENTS, EndpointStats, Period, latencies, percentile
from llmops.interactions.mlflow_entities import EXPERIMENT_PREFIX, ID_TAG
from llmops.interactions.mlflow_reader_choice import spellings
from llmops.interactions.mlflow_reader_entities import of_run, story
from llmops.interactions.mlflow_reader_names import ambiguous, stem, unknown
from llmops.interactions.mlflow_reader_query import run_query

_PAGE = 1000
#: A trace comes with its spans here, which hold the bodies.
_TRACES = 100
#: The first eight hex digits of an id are a minute.
_MINUTE_DIGITS = 8


class ApiReader:
    """A `Reader` of any tracking store.

    Args:
        most: `stats` and `arrived` read at most so many interactions; each thousand takes about a second.
        progress: Called with the number of interactions read so far.
    """

    def __init__(
        self, client: MlflowClient, most: int = 10_000, progress: Callable[[int], None] = lambda count: None
    ) -> None:
        self._client = client
        self._most = most
        self._progress = progress
        self._read: dict[str, LoggedInteraction] = {}

    def page(self, wanted: Wanted, limit: int, token: str | None = None) -> Page:
        """List interactions; see `Reader.page`."""
        experiments = list(self._experiments(wanted.endpoint).values())
        if not experiments:
            return Page((), None)
        with _explained():
            return (self._texts if wanted.contains else self._runs)(wanted, experiments, limit, token)

    def arrived(self, wanted: Wanted, since_ms: int) -> list[str]:
        """List ids of the newest interactions; see `Reader.arrived`."""
        found, _ = self._newest(replace(wanted, since_ms=max(since_ms, wanted.since_ms or 0)))
        # The API gives no ids alone, so that what `named` will be asked for is here already.
        self._read = {one.interaction_id: one for one in reversed(found)}
        return list(self._read)

    def named(self, ids: Sequence[str]) -> list[LoggedInteraction]:
        """Read interactions; see `Reader.named`."""
        return [self._read[one] for one in ids if one in self._read]

    def stats(self, wanted: Wanted, period: Period | None = None) -> tuple[EndpointStats, ...]:
        """Sum up the newest interactions of each endpoint; see `Reader.stats`."""
        names = [wanted.endpoint] if wanted.endpoint else sorted(self._experiments(None))
        return tuple(one for name in names for one in self._figures(name, wanted, period))

    def show(self, name: str) -> Story:
        """Tell a story; see `Reader.show`."""
        beginning = stem(name)
        run = self._run(beginning) or self._begun(name, beginning)
        return tell(self._client, run.info.run_id, f"tr-{run.data.tags[ID_TAG]}")

    def _runs(self, wanted: Wanted, experiments: list[str], limit: int, token: str | None) -> Page:
        runs = self._client.search_runs(
            experiments, run_query(wanted), max_results=limit, order_by=["attributes.start_time DESC"], page_token=token
        )
        found = (of_run(run) for run in runs)
        return Page(tuple(one for one in found if _exactly(wanted, one)), runs.token or None)

    def _texts(self, wanted: Wanted, experiments: list[str], limit: int, token: str | None) -> Page:
        """List by what the bodies hold; goes on until something is found, or too many were looked at.

        Not by MLflow's own filter, ``trace.text``: on SQLite it reads every span of the experiment for every trace
        (mlflow 3.17.2: 2,000 traces take 3 seconds, 200,000 more than four minutes).
        """
        # A page of ours is a part of a page of runs: the token says which, and how many of it were listed.
        skip, runs_token = _position(token)
        for _ in range(-(-self._most // _PAGE)):
            page = self._runs(wanted, experiments, _PAGE, runs_token)
            holding = self._holding(experiments, page.interactions, wanted.contains or "")
            found = tuple(islice(holding, skip, skip + limit + 1))
            if len(found) > limit:
                return Page(found[:limit], f"{skip + limit}.{runs_token or ''}")
            if page.token is None:
                return Page(found, None)
            skip, runs_token = 0, page.token
            if found:
                break
        return Page(found, f"0.{runs_token}")

    def _holding(
        self, experiments: list[str], interactions: Sequence[LoggedInteraction], text: str
    ) -> Iterator[LoggedInteraction]:
        for start in range(0, len(interactions), _TRACES):
            chunk = interactions[start : start + _TRACES]
            ids = ", ".join(f"'{one.trace_id}'" for one in chunk)
            query = f"attributes.request_id IN ({ids})"
            traces = self._client.search_traces(locations=experiments, filter_string=query, max_results=_TRACES)
            holding = {trace.info.trace_id for trace in traces if _holds(trace, text)}
            yield from (one for one in chunk if one.trace_id in holding)

    def _figures(self, name: str, wanted: Wanted, period: Period | None) -> Iterator[EndpointStats]:
        found, whole = self._newest(replace(wanted, endpoint=name))
        groups: dict[str | None, list[LoggedInteraction]] = {}
        for one in reversed(found):
            start = period.start(period.number(one.received_ms)) if period else None
            groups.setdefault(start, []).append(one)
        for start, interactions in groups.items():
            yield _sum(name, start, interactions, whole=whole)

    def _newest(self, wanted: Wanted) -> tuple[list[LoggedInteraction], bool]:
        """The newest interactions, newest first, and whether these are all."""
        found: list[LoggedInteraction] = []
        token: str | None = None
        while len(found) < self._most:
            page = self.page(wanted, min(_PAGE, self._most - len(found)), token)
            found += page.interactions
            self._progress(len(found))
            token = page.token
            if token is None:
                return found, True
        return found, False

    def _experiments(self, endpoint: str | None) -> dict[str, str]:
        """The ids of our experiments by endpoint; of one endpoint, or of all."""
        with _explained():
            if endpoint is not None:
                one = self._client.get_experiment_by_name(EXPERIMENT_PREFIX + endpoint)
                active = one is not None and one.lifecycle_stage == LifecycleStage.ACTIVE
                return {endpoint: str(one.experiment_id)} if active else {}
            found: dict[str, str] = {}
            token: str | None = None
            while True:
                query = f"name LIKE '{EXPERIMENT_PREFIX}%'"
                page = self._client.search_experiments(filter_string=query, page_token=token)
                found |= {one.name.removeprefix(EXPERIMENT_PREFIX): str(one.experiment_id) for one in page}
                token = page.token
                if not token:
                    return found

    def _run(self, run_id: str) -> Run | None:
        with suppress(NotFound, InvalidParameter), _explained():
            run = self._client.get_run(run_id)
            return run if ID_TAG in run.data.tags else None
        return None

    def _begun(self, name: str, beginning: str) -> Run:
        """The one run whose interaction's id begins so."""
        runs = self._with_id(beginning)
        if not runs:
            near = {str(run.data.tags[ID_TAG]): run for run in self._with_id(beginning[:_MINUTE_DIGITS], _PAGE)}
            raise unknown(name, difflib.get_close_matches(beginning, near, 1, 0.7))
        if len(runs) > 1:
            raise ambiguous(name, [str(run.data.tags[ID_TAG]) for run in runs])
        return runs[0]

    def _with_id(self, beginning: str, most: int = 3) -> list[Run]:
        experiments = list(self._experiments(None).values())
        if not experiments:
            return []
        with _explained():
            query = f"attributes.status != 'RUNNING' AND tags.`{ID_TAG}` LIKE '{beginning}%'"
            return list(self._client.search_runs(experiments, query, max_results=most))


def tell(client: MlflowClient, run_id: str, trace_id: str) -> Story:
    """Tell the story of a run and its trace.

    Raises:
        NotFound: One of them is gone.
        Unavailable: The tracking store is away.
    """
    with _explained():
        return story(client.get_run(run_id), client.get_trace(trace_id, display=False))


def _sum(endpoint: str, period: str | None, interactions: list[LoggedInteraction], *, whole: bool) -> EndpointStats:
    measured = [one.latency_ms for one in interactions if one.latency_ms is not None]
    found = {percent: percentile(measured, percent) or 0.0 for percent in PERCENTS}
    return EndpointStats(
        endpoint=endpoint,
        period=period,
        requests=len(interactions),
        errors=sum(one.outcome != "answered" for one in interactions),
        latency_ms=latencies(found),
        first_token_ms=percentile((one.first_token_ms for one in interactions if one.first_token_ms is not None), 50),
        input_tokens=sum(one.input_tokens or 0 for one in interactions),
        output_tokens=sum(one.output_tokens or 0 for one in interactions),
        cost_usd=sum(one.cost_usd or 0.0 for one in interactions),
        unpriced=sum(one.cost_usd is None and one.input_tokens is not None for one in interactions),
        whole=whole,
    )


def _exactly(wanted: Wanted, one: LoggedInteraction) -> bool:
    return all(getattr(one, key) == value for key, value in {**wanted.tags(), **wanted.params()}.items())


def _holds(trace: Trace, text: str) -> bool:
    """Whether a body holds the text."""
    root = next((span for span in trace.data.spans if span.parent_id is None), None)
    if root is None:
        return False
    bodies = [orjson.dumps(body).decode().lower() for body in (root.inputs, root.outputs) if body is not None]
    return any(spelling.lower() in body for spelling in spellings(text) for body in bodies)


def _position(token: str | None) -> tuple[int, str | None]:
    """How many of a page of runs were listed, and that page's token."""
    skip, _, runs_token = (token or "0.").partition(".")
    if not skip.isdecimal():
        raise InvalidParameter(f"'{token}' is no page token; the page before ends with one")
    return int(skip), runs_token or None


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what MLflow says into an error of ours."""
    try:
        yield
    except MlflowException as err:
        kinds = {400: InvalidParameter, 404: NotFound}
        kind = kinds.get(err.get_http_status_code(), Unavailable)
        raise kind(f"MLflow: {str(err).partition(chr(10))[0]}") from err
