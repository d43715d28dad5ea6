"""How many interactions a second MLflow's public client logs: `python -m benchmarks.by_hand DATA_DIR URI COUNT`.

It prints the number.
"""

import json
import sys
import time
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import SpanType

from benchmarks.log import interaction
from llmops.interactions.mlflow_entities import run_entities
from llmops.interactions.record import Interaction
from llmops.settings import Settings


def client_rate(settings: Settings, count: int) -> float:
    """Log the same by hand, with MLflow's public client and as few calls as it allows; how many a second."""
    client = MlflowClient(settings.tracking_uri)
    mlflow.set_tracking_uri(settings.tracking_uri)
    experiment_id = client.create_experiment("by hand", f"{settings.artifact_root}/by-hand")
    interactions = [interaction(number) for number in range(count + 1)]
    _log(client, experiment_id, interactions[0])  # The first one imports half of MLflow.
    began = time.perf_counter()
    for one in interactions[1:]:
        _log(client, experiment_id, one)
    return count / (time.perf_counter() - began)


def _log(client: MlflowClient, experiment_id: str, one: Interaction) -> None:
    run = run_entities(one)
    tags = {tag.key: tag.value for tag in run.tags}
    run_id = client.create_run(experiment_id, run.start_ms, tags, run.name).info.run_id
    client.log_batch(run_id, run.metrics, run.params)
    root = client.start_trace("chat", SpanType.CHAT_MODEL, json.loads(one.request), experiment_id=experiment_id)
    for attempt in one.attempts:
        span = client.start_span(attempt.served_entity, root.trace_id, root.span_id, SpanType.LLM)
        client.end_span(root.trace_id, span.span_id)
    client.end_trace(root.trace_id, outputs=json.loads(str(one.response)))
    client.link_traces_to_run([root.trace_id], run_id)
    client.set_terminated(run_id)


if __name__ == "__main__":
    folder, uri, number = sys.argv[1:]
    sys.stdout.write(str(client_rate(Settings(data_dir=Path(folder), mlflow_tracking_uri=uri), int(number))))
