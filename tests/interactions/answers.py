"""Everything MLflow's client answers about what was logged, told so that two stores can be compared."""

import json
from collections.abc import Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import ViewType

from llmops.interactions.record import Interaction
from llmops.settings import Settings
from tests.interactions.deliveries import all_runs

RUN_QUERIES = (
    ("", "attributes.start_time ASC"),
    ("status = 'FAILED'", "attributes.start_time DESC"),
    ("params.model = 'gpt-4o-mini' and metrics.latency_ms > 10", "metrics.latency_ms DESC"),
    ("tags.outcome = 'abandoned'", "tags.user ASC"),
    ("tags.`llmops.endpoint_id` LIKE 'eee%' and metrics.cost_usd >= 0", "metrics.cost_usd ASC"),
    ("attributes.run_name LIKE 'vectors-%'", "attributes.end_time ASC"),
)
TRACE_QUERIES = (
    "",
    "status = 'ERROR'",
    "tags.endpoint = 'chat' and tags.outcome != 'answered'",
    "name = 'vectors'",
    "metadata.`mlflow.trace.user` = 'ada@example.com'",
    "metadata.`mlflow.trace.session` = 'session-1'",
    "execution_time_ms > 10",
    "span.type = 'GUARDRAIL'",
    "span.name = 'down' and span.status = 'ERROR'",
    "span.attributes.`llmops.wire` LIKE '%databricks%'",
    "trace.text LIKE '%spool%'",
)


def read_back(settings: Settings, interactions: Sequence[Interaction]) -> dict[str, Any]:
    """What MLflow's client answers to every question about what was logged, without the ids it chose."""
    client = MlflowClient(settings.tracking_uri)
    every = all_runs(settings)
    found = {run.data.tags["llmops.interaction_id"]: run for run in every if "llmops.interaction_id" in run.data.tags}
    sessions = {run.info.run_id: run.data.tags["session"] for run in every if "llmops.session" in run.data.tags}
    experiments = client.search_experiments(filter_string="name LIKE 'llmops/%'")
    places = [one.experiment_id for one in experiments]
    answers: dict[str, Any] = {"experiments": sorted((one.name, one.lifecycle_stage) for one in experiments)}
    for one in interactions:
        run_id = found[one.interaction_id].info.run_id
        answers[f"run {one.interaction_id}"] = told_run(client, run_id, settings.artifact_root, sessions)
        answers[f"trace {one.interaction_id}"] = told_trace(client, one.trace_id, run_id, settings.artifact_root)
        linked = client.search_traces(locations=places, run_id=run_id)
        answers[f"linked {one.interaction_id}"] = [trace.info.trace_id for trace in linked]
    for query, order in RUN_QUERIES:
        page = client.search_runs(places, query, ViewType.ALL, order_by=[order])
        names = [run.data.tags.get("llmops.interaction_id") for run in page]
        answers[f"runs {query} {order}"] = [name for name in names if name]
    for query in TRACE_QUERIES:
        traces = client.search_traces(locations=places, filter_string=query, order_by=["timestamp_ms ASC"])
        answers[f"traces {query}"] = [trace.info.trace_id for trace in traces]
    return answers


def told_run(client: MlflowClient, run_id: str, root: str, sessions: dict[str, str]) -> Any:
    """Everything a run holds; its parent by the session it is of."""
    run = client.get_run(run_id)
    info = {key: value for key, value in dict(run.info).items() if key not in ("run_id", "run_uuid", "experiment_id")}
    info["artifact_uri"] = info["artifact_uri"].replace(root, "").replace(run_id, "")
    tags = dict(run.data.tags)
    if "mlflow.parentRunId" in tags:
        tags["mlflow.parentRunId"] = sessions[tags["mlflow.parentRunId"]]
    history = {
        name: [(one.value, one.timestamp, one.step) for one in client.get_metric_history(run_id, name)]
        for name in run.data.metrics
    }
    return info, run.data.params, run.data.metrics, history, tags


def told_trace(client: MlflowClient, trace_id: str, run_id: str, root: str) -> Any:
    """Everything a trace holds, spans and all."""
    trace = client.get_trace(trace_id)
    document = trace.to_dict()
    assert document["info"]["trace_metadata"].pop("mlflow.sourceRun") == run_id
    document["info"].pop("trace_location")
    judged = sorted(document["info"].pop("assessments", []), key=lambda one: str(one["assessment_name"]))
    # MLflow makes it anew for each.
    assert all(one.pop("assessment_id") for one in judged)
    figures = (trace.info.token_usage, trace.info.cost, judged)
    return json.dumps(document, sort_keys=True).replace(root, ""), figures
