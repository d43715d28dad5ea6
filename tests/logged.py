"""What a server logged, read with MLflow's own client."""

import subprocess
import sys

from mlflow import MlflowClient
from mlflow.entities import Run, Trace

from tests.server import Server


def flush(server: Server, timeout_s: int = 120) -> None:
    """Wait until everything that was spooled is in MLflow, with the command people use."""
    command = [sys.executable, "-m", "llmops.cli.main", "interactions", "flush", "--timeout", str(timeout_s)]
    options = ("--data-dir", str(server.data_dir))
    done = subprocess.run(
        [*command, *options],
        capture_output=True,
        text=True,
        timeout=timeout_s + 60,
        check=False,
        env=server.environment,
    )
    assert done.returncode == 0, done.stderr + server.logged()[-4000:]


def _client(server: Server) -> MlflowClient:
    return MlflowClient(server.settings.tracking_uri)


def _experiments(server: Server) -> list[str]:
    found = _client(server).search_experiments(filter_string="name LIKE 'llmops/%'")
    return [experiment.experiment_id for experiment in found]


def runs(server: Server) -> list[Run]:
    """Every run that is an interaction."""
    found: list[Run] = []
    client, experiments, token = _client(server), _experiments(server), None
    while True:
        page = client.search_runs(experiments, max_results=5000, page_token=token)
        found += [run for run in page if "llmops.interaction_id" in run.data.tags]
        if not (token := page.token):
            return found


def traces(server: Server, *, include_spans: bool = False) -> list[Trace]:
    """Every trace."""
    found: list[Trace] = []
    client, token = _client(server), None
    while True:
        page = client.search_traces(
            locations=_experiments(server), max_results=500, page_token=token, include_spans=include_spans
        )
        found += page
        if not (token := page.token):
            return found
