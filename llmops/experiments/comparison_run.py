"""A comparison as an MLflow run: params, metrics, a table of both answers, a page to look at, links to the traces."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from llmops.experiments.comparison import Row, Side
from llmops.experiments.comparison_page import page
from llmops.interactions.mlflow_experiments import endpoint_experiments, explained
from llmops.interactions.mlflow_store import Experiments, open_store
from llmops.interactions.replays import EXPERIMENT
from llmops.settings import Settings

TABLE, PAGE = "comparison.json", "comparison.html"
#: MLflow links at most so many in one call.
_LINKS = 100
_PARAM_CHARS = 6000


class ComparisonRun:
    """A run that is begun before the first question, because questions name it.

    Args:
        params: What was compared.

    Attributes:
        run_id: Of the run, which is RUNNING until `end`.

    Raises:
        Unavailable: The tracking store is away.
    """

    def __init__(self, settings: Settings, name: str, params: Mapping[str, object]) -> None:
        self._remote = settings.tracking_uri.startswith("http")
        self._uri = settings.tracking_uri
        store = open_store(settings)
        self._client = MlflowClient(settings.tracking_uri)
        with explained():
            self._endpoints = endpoint_experiments(store)
            experiment_id = Experiments(store, None if self._remote else settings.artifact_root).id(EXPERIMENT)
            run = self._client.create_run(experiment_id, run_name=name)
            self.run_id: str = run.info.run_id
            given = [Param(key, str(value)[:_PARAM_CHARS]) for key, value in params.items() if value is not None]
            self._client.log_batch(self.run_id, params=given)

    def end(self, rows: Sequence[Row], metrics: Mapping[str, float], status: str) -> None:
        """Log what came out, and end the run.

        Args:
            rows: In the order they are shown; may be empty.
            status: FINISHED, FAILED or KILLED.

        Raises:
            Unavailable: The tracking store is away.
        """
        with explained():
            started_ms = self._client.get_run(self.run_id).info.start_time
            self._client.log_batch(
                self.run_id, metrics=[Metric(key, float(value), started_ms, 0) for key, value in metrics.items()]
            )
            if rows:
                with warnings.catch_warnings():
                    # pandas 3 has one about a line of MLflow's.
                    warnings.simplefilter("ignore")
                    self._client.log_table(self.run_id, self._table(rows), TABLE)
                self._client.log_text(self.run_id, page(rows, metrics), PAGE)
                self._link(rows)
            self._client.set_terminated(self.run_id, status)

    def _link(self, rows: Sequence[Row]) -> None:
        """Show the traces of both sides among the run's."""
        ids = list(dict.fromkeys(side.trace_id for row in rows for side in (row.before, row.after) if side.trace_id))
        for start in range(0, len(ids), _LINKS):
            self._client.link_traces_to_run(ids[start : start + _LINKS], self.run_id)

    def _table(self, rows: Sequence[Row]) -> dict[str, list[Any]]:
        lines = [{"prompt": row.prompt, "exact": row.exact, "similarity": row.similarity} for row in rows]
        for line, row in zip(lines, rows, strict=True):
            for name, side in (("before", row.before), ("after", row.after)):
                line |= {f"{name}_{key}": value for key, value in self._told(side).items()}
        return {key: [line[key] for line in lines] for key in lines[0]}

    def _told(self, side: Side) -> dict[str, Any]:
        return {
            "answer": side.answer,
            "failure": side.failure,
            "latency_ms": side.latency_ms,
            "input_tokens": side.input_tokens,
            "output_tokens": side.output_tokens,
            "cost_usd": side.cost_usd,
            "endpoint": side.endpoint,
            "model": side.model,
            "interaction_id": side.interaction_id,
            "trace": self._trace(side),
        }

    def _trace(self, side: Side) -> str | None:
        """Where the trace is shown, where MLflow is a server; else its id."""
        experiment = self._endpoints.get(side.endpoint)
        if not self._remote or side.trace_id is None or experiment is None or "@" in self._uri:
            return side.trace_id
        query = urlencode({"selectedEvaluationId": side.trace_id})
        return f"{self._uri.rstrip('/')}/#/experiments/{experiment}/traces?{query}"
