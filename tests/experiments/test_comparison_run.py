"""A comparison as a run of a tracking server, read back with MLflow's client."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import load_text

from llmops.errors import Unavailable
from llmops.experiments.comparison import Row, Side, figures
from llmops.experiments.comparison_run import ComparisonRun
from llmops.settings import Settings
from tests.interactions.deliveries import delivered
from tests.interactions.records import plain
from tests.tracking import MlflowServer


def test_a_tracking_server_gets_the_run_with_links_to_its_traces(tmp_path: Path, mlflow_template: Path) -> None:
    with MlflowServer(tmp_path, mlflow_template) as server:
        settings = Settings(data_dir=tmp_path / "elsewhere", mlflow_tracking_uri=server.url)
        one, other = plain("a"), plain("b")
        delivered(settings, one, other)
        before = Side("yes", None, 1.0, 1, 2, None, "a", "m", one.interaction_id)
        after = replace(before, endpoint="b", interaction_id=other.interaction_id)
        rows = [Row("why?", before, after, True, 1.0)]

        begun = ComparisonRun(settings, "a → b", {"to": "b", "limit": 1, "none": None})
        begun.end(rows, figures(rows), "FINISHED")

        client = MlflowClient(server.url)
        run = client.get_run(begun.run_id)
        table = json.loads(load_text(f"{run.info.artifact_uri}/comparison.json"))
        told = dict(zip(table["columns"], table["data"][0], strict=True))
        ids = {name: client.get_experiment_by_name(f"llmops/{name}").experiment_id for name in "ab"}
        linked = client.search_traces(locations=list(ids.values()), filter_string=f"run_id = '{begun.run_id}'")
    assert (run.data.params, run.info.status) == ({"to": "b", "limit": "1"}, "FINISHED")
    assert run.data.metrics == figures(rows)
    assert {trace.info.trace_id for trace in linked} == {one.trace_id, other.trace_id}
    where = f"{server.url}/#/experiments/{ids['b']}/traces?selectedEvaluationId={other.trace_id}"
    assert told["after_trace"] == where


def test_a_tracking_server_that_is_away_is_said(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, mlflow_tracking_uri="http://127.0.0.1:1")

    with pytest.raises(Unavailable, match="cannot be reached"):
        ComparisonRun(settings, "a → b", {})
