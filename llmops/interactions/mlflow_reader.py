"""Reads logged interactions back from MLflow, as any other user of MLflow would."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from mlflow import MlflowClient
from mlflow.entities import Run, Span, Trace
from mlflow.exceptions import MlflowException

from llmops.errors import InvalidParameter, NotFound, Unavailable
from llmops.interactions.logged import EndpointStats, LoggedInteraction, Page, Story, Wanted, stats
from llmops.interactions.mlflow_entities import EXPERIMENT_PREFIX, ID_TAG
from llmops.interactions.mlflow_store import open_store
from llmops.interactions.record import Attempt
from llmops.settings import Settings

_PAGE = 1000


class MlflowReader:
    """What was logged, read from the tracking store of the settings. Every method may raise `Unavailable`.

    Raises:
        NotFound: Nothing was ever logged in this data directory.
        Unavailable: The tracking store is away.
    """

    def __init__(self, settings: Settings) -> None:
        path = settings.tracking_uri.removeprefix("sqlite:///")
        # Opening a database that is not there would make one, which takes seconds and shows nothing.
        if path == str(settings.data_dir.absolute() / "mlflow.db") and not (settings.data_dir / "mlflow.db").exists():
            raise NotFound(f"nothing is logged in '{settings.data_dir}' yet; --data-dir names another directory")
        open_store(settings)
        self._client = MlflowClient(settings.tracking_uri)

    def page(self, wanted: Wanted, limit: int, token: str | None = None) -> Page:
        """List complete interactions, newest first.

        Args:
            limit: 1 to 1000.
            token: From the page before.

        Raises:
            InvalidParameter: The token is none of ours, or a value of ``wanted`` has both kinds of quotes.
        """
        experiments = list(self._experiments(wanted.endpoint).values())
        if not experiments:
            return Page((), None)
        with _explained():
            runs = self._client.search_runs(
                experiments,
                _query(wanted),
                max_results=limit,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
        return Page(tuple(_interaction(run) for run in runs), runs.token or None)

    def find_by_request_id(self, client_request_id: str) -> tuple[LoggedInteraction, ...]:
        """The complete interactions a caller gave this id, newest first; at most 1000."""
        return self.page(Wanted(client_request_id=client_request_id), _PAGE).interactions

    def stats(self, wanted: Wanted, most: int = 10_000) -> tuple[EndpointStats, ...]:
        """Sum up interactions for each endpoint, by name; those without an interaction are left out.

        Args:
            most: Of each endpoint's newest interactions, read at most so many; each thousand takes about a second.
        """
        names = [wanted.endpoint] if wanted.endpoint else sorted(self._experiments(None))
        found = {name: list(self._newest(replace(wanted, endpoint=name), most)) for name in names}
        return tuple(stats(name, interactions) for name, interactions in found.items() if interactions)

    def show(self, name: str) -> Story:
        """Tell the whole story of one interaction.

        Args:
            name: The id of an interaction, of its run, or of its trace.

        Raises:
            NotFound: There is no such interaction.
        """
        trace = self._trace(name if name.startswith("tr-") else f"tr-{name}")
        run = self._run(str(trace.info.trace_metadata.get("mlflow.sourceRun")) if trace else name)
        if run is not None and trace is None:
            trace = self._trace(f"tr-{run.data.tags.get(ID_TAG)}")
        if run is None or trace is None:
            raise NotFound(
                f"there is no interaction, run or trace '{name}' in MLflow; "
                "`llmops interactions flush` waits for those on their way"
            )
        return _story(run, trace)

    def _newest(self, wanted: Wanted, most: int) -> Iterator[LoggedInteraction]:
        token: str | None = None
        for _ in range(-(-most // _PAGE)):
            page = self.page(wanted, _PAGE, token)
            yield from page.interactions
            token = page.token
            if token is None:
                return

    def _experiments(self, endpoint: str | None) -> dict[str, str]:
        """The ids of our experiments by endpoint; of one endpoint, or of all."""
        comparison = "LIKE" if endpoint is None else "="
        query = f"name {comparison} {_quoted(EXPERIMENT_PREFIX + (endpoint or '%'))}"
        found: dict[str, str] = {}
        token: str | None = None
        with _explained():
            while True:
                page = self._client.search_experiments(filter_string=query, page_token=token)
                found |= {one.name.removeprefix(EXPERIMENT_PREFIX): str(one.experiment_id) for one in page}
                token = page.token
                if not token:
                    return found

    def _trace(self, trace_id: str) -> Trace | None:
        with suppress(NotFound, InvalidParameter), _explained():
            return self._client.get_trace(trace_id, display=False)
        return None

    def _run(self, run_id: str) -> Run | None:
        with suppress(NotFound, InvalidParameter), _explained():
            return self._client.get_run(run_id)
        return None


def _query(wanted: Wanted) -> str:
    # A run that is RUNNING is still being written; one without the tag is not ours.
    parts = ["attributes.status != 'RUNNING'", f"tags.`{ID_TAG}` LIKE '%'"]
    tags = {
        "user": wanted.user,
        "session": wanted.session,
        "status": None if wanted.status is None else str(wanted.status),
        "client_request_id": wanted.client_request_id,
    }
    parts += [f"tags.{key} = {_quoted(value)}" for key, value in tags.items() if value is not None]
    if wanted.since_ms is not None:
        parts.append(f"attributes.start_time >= {wanted.since_ms}")
    return " AND ".join(parts)


def _quoted(value: str) -> str:
    """A value for a filter of MLflow, which knows two kinds of quotes and no escapes."""
    if "'" not in value:
        return f"'{value}'"
    if '"' not in value:
        return f'"{value}"'
    raise InvalidParameter(f"MLflow cannot search for a value with both kinds of quotes: {value}")


def _interaction(run: Run) -> LoggedInteraction:
    params, metrics, tags = run.data.params, run.data.metrics, run.data.tags
    interaction_id = tags[ID_TAG]
    return LoggedInteraction(
        interaction_id=interaction_id,
        run_id=run.info.run_id,
        trace_id=f"tr-{interaction_id}",
        endpoint=params.get("endpoint", ""),
        received_ms=run.info.start_time,
        status=int(tags["status"]),
        outcome=tags["outcome"],
        error_code=tags.get("error_code"),
        served_entity=params.get("served_entity"),
        provider=params.get("provider"),
        model=params.get("model"),
        task=params.get("task"),
        user=tags.get("user"),
        session=tags.get("session"),
        client_request_id=tags.get("client_request_id"),
        latency_ms=metrics.get("latency_ms"),
        first_token_ms=metrics.get("time_to_first_token_ms"),
        input_tokens=_whole(metrics.get("input_tokens")),
        output_tokens=_whole(metrics.get("output_tokens")),
        cost_usd=metrics.get("cost_usd"),
        prompt=tags.get("prompt", ""),
        response=tags.get("response", ""),
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _story(run: Run, trace: Trace) -> Story:
    root = next(span for span in trace.data.spans if span.parent_id is None)
    attempts = [_attempt(root, span) for span in trace.data.spans if span.attributes.get("llmops.attempt")]
    return Story(_interaction(run), root.inputs, root.outputs, tuple(attempts), run.data.params)


def _attempt(root: Span, span: Span) -> Attempt:
    read = span.attributes.get
    error = read("llmops.error")
    return Attempt(
        served_entity=span.name,
        provider=read("mlflow.llm.provider") or "",
        model=read("mlflow.llm.model") or "",
        started_ms=(span.start_time_ns - root.start_time_ns) / 1e6,
        duration_ms=(span.end_time_ns - span.start_time_ns) / 1e6,
        status=read("llmops.status"),
        error=error,
        message=span.status.description.removeprefix(f"{error}: ") if error else None,
        decision=read("llmops.decision") or "",
    )


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what MLflow says into an error of ours."""
    try:
        yield
    except MlflowException as err:
        kinds = {400: InvalidParameter, 404: NotFound}
        kind = kinds.get(err.get_http_status_code(), Unavailable)
        raise kind(f"MLflow: {str(err).partition(chr(10))[0]}") from err
