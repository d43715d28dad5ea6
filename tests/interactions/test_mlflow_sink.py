"""The MLflow sink: one interaction is one run and one trace, however often it is delivered, wherever it broke off."""

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Run, Trace

from llmops.errors import Unavailable
from llmops.interactions.mlflow_client_writer import ClientWriter
from llmops.interactions.mlflow_sink import MlflowSink
from llmops.interactions.mlflow_store import Experiments, open_store
from llmops.interactions.mlflow_writer import Mapped
from llmops.interactions.record import Interaction
from llmops.interactions.sink import Delivered, Refused, Retry
from llmops.settings import Settings, child_environment
from tests.interactions.deliveries import Killed, Mortal, delivered, leased, runs
from tests.interactions.records import abandoned, embedded, failed, fallback, one_of_each, plain, streamed, unreadable


def logged(settings: Settings, interaction: Interaction) -> tuple[Run, Trace]:
    """The one run of an interaction, and the one trace that is linked to it."""
    client = MlflowClient(settings.tracking_uri)
    (run,) = [one for one in runs(settings) if one.data.tags["llmops.interaction_id"] == interaction.interaction_id]
    (trace,) = client.search_traces(locations=[run.info.experiment_id], run_id=run.info.run_id)
    assert trace.info.trace_id == interaction.trace_id
    return run, client.get_trace(interaction.trace_id)


def held(run: Run) -> dict[str, Any]:
    """Everything a run holds but which run is its parent."""
    document: dict[str, Any] = run.data.to_dictionary()
    document["tags"]["mlflow.parentRunId"] = "mlflow.parentRunId" in document["tags"]
    return document


def shape(trace: Trace) -> Any:
    """All of a trace but where it is kept and which run it belongs to."""
    info = trace.info
    ours = {key: value for key, value in info.trace_metadata.items() if key != "mlflow.sourceRun"}
    tags = {key: value for key, value in info.tags.items() if key != "mlflow.artifactLocation"}
    spans = [(one.name, one.start_time_ns, one.end_time_ns, one.status, one.attributes) for one in trace.data.spans]
    return (ours, tags, info.state, info.request_preview, info.response_preview, info.execution_duration, spans)


def test_a_run_holds_the_params_metrics_and_tags_of_the_interaction(settings: Settings) -> None:
    interaction = replace(streamed(), cost_usd=0.0000054)

    delivered(settings, interaction)

    run, _ = logged(settings, interaction)
    assert MlflowClient(settings.tracking_uri).get_experiment(run.info.experiment_id).name == "llmops/chat"
    assert run.data.params == {
        "endpoint": "chat",
        "served_entity": "gpt",
        "provider": "openai",
        "model": "gpt-4o-mini",
        "task": "llm/v1/chat",
        "stream": "true",
        "temperature": "0.2",
        "max_tokens": "64",
    }
    assert run.data.metrics == {
        "latency_ms": 42.5,
        "time_to_first_token_ms": 17.25,
        "attempts": 1,
        "input_tokens": 12,
        "output_tokens": 6,
        "total_tokens": 18,
        "cached_tokens": 4,
        "cost_usd": 0.0000054,
    }
    assert run.data.tags["client_request_id"] == interaction.client_request_id
    assert run.data.tags["user"] == "ada@example.com"
    assert run.data.tags["session"] == "session-1"
    assert run.data.tags["prompt"] == "What is a spool?"
    assert run.data.tags["response"] == "A reel for thread."
    assert run.data.tags["llmops.parent_traceparent"] == interaction.traceparent
    assert run.info.end_time - run.info.start_time == 42


def test_a_trace_holds_the_bodies_the_tokens_and_who_asked(settings: Settings) -> None:
    interaction = replace(plain(), cost_usd=0.5)

    delivered(settings, interaction)

    _, trace = logged(settings, interaction)
    root = trace.data.spans[0]
    assert root.span_type == "CHAT_MODEL"
    assert root.inputs["messages"] == [{"role": "user", "content": "What is a spool?"}]
    assert root.outputs["choices"][0]["message"]["content"] == "A reel for thread."
    assert trace.info.client_request_id == interaction.client_request_id
    assert trace.info.trace_metadata["mlflow.trace.session"] == "session-1"
    assert trace.info.trace_metadata["mlflow.trace.user"] == "ada@example.com"
    assert trace.info.token_usage["total_tokens"] == 18
    assert trace.info.cost == {"total_cost": 0.5}


def test_every_attempt_is_a_span_of_its_own(settings: Settings) -> None:
    interaction = fallback()

    delivered(settings, interaction)

    run, trace = logged(settings, interaction)
    root, first, second = trace.data.spans
    assert (first.name, first.status.status_code, first.attributes["llmops.error"]) == ("down", "ERROR", "connect")
    assert (second.name, second.status.status_code, second.model_name) == ("gpt", "OK", "gpt-4o-mini")
    assert first.parent_id == second.parent_id == root.span_id
    assert run.data.metrics["attempts"] == 2


@pytest.mark.parametrize(
    ("make", "run_status", "state", "experiment"),
    [
        (plain, "FINISHED", "OK", "llmops/chat"),
        (embedded, "FINISHED", "OK", "llmops/vectors"),
        (failed, "FAILED", "ERROR", "llmops/chat"),
        (abandoned, "KILLED", "ERROR", "llmops/chat"),
        (unreadable, "FAILED", "ERROR", "llmops/_rejected"),
    ],
)
def test_a_story_ends_as_the_run_says(
    settings: Settings, make: Any, run_status: str, state: str, experiment: str
) -> None:
    interaction = make()

    delivered(settings, interaction)

    run, trace = logged(settings, interaction)
    assert (run.info.status, trace.info.state) == (run_status, state)
    assert MlflowClient(settings.tracking_uri).get_experiment(run.info.experiment_id).name == experiment


def test_an_unknown_price_stays_unknown_and_litellm_stays_out(settings: Settings) -> None:
    interaction = plain()

    delivered(settings, interaction)

    run, trace = logged(settings, interaction)
    assert "cost_usd" not in run.data.metrics
    assert trace.info.cost is None
    assert "litellm" not in sys.modules


def test_values_longer_than_mlflow_takes_are_cut(settings: Settings) -> None:
    interaction = replace(
        plain(),
        message="m" * 10_000,
        session="s" * 300,
        params={"stop": ["x" * 7000], "odd key!": 1, **{f"p{n}": n for n in range(200)}},
    )

    assert delivered(settings, interaction) == [Delivered()]

    run, trace = logged(settings, interaction)
    assert len(run.data.params["stop"]) == 6000
    assert run.data.params["odd key_"] == "1"
    assert len(run.data.tags["error_message"]) == 8000
    assert len(trace.info.trace_metadata["mlflow.trace.session"]) == 250


def test_delivering_twice_changes_nothing(settings: Settings) -> None:
    interactions = one_of_each()

    delivered(settings, *interactions)
    before = [logged(settings, interaction) for interaction in interactions]
    assert delivered(settings, *interactions, tries=2) == [Delivered()] * len(interactions)

    after = [logged(settings, interaction) for interaction in interactions]
    assert [run.to_dictionary() for run, _ in after] == [run.to_dictionary() for run, _ in before]
    assert [trace.to_dict() for _, trace in after] == [trace.to_dict() for _, trace in before]


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", ["create_run", "log_batch", "start_trace", "log_spans", "update_run_info"])
def test_a_delivery_that_broke_off_anywhere_is_completed(settings: Settings, call: str, done: bool) -> None:
    # Without a session: its run would be the first to be created (test_mlflow_sessions.py).
    interactions = [replace(plain(), session=None), replace(fallback(), session=None)]
    store = open_store(settings)
    experiment_id = Experiments(store, settings.artifact_root).id("llmops/chat")
    first = [Mapped.of(one) for one in leased(interactions)]
    with pytest.raises(Killed):
        ClientWriter(Mortal(store, call, done=done)).write(experiment_id, first)

    delivered(settings, *interactions, tries=2)

    assert len(runs(settings)) == 2
    for interaction in interactions:
        run, trace = logged(settings, interaction)
        assert run.info.status == "FINISHED"
        assert run.data.metrics["total_tokens"] == 18
        assert len(trace.data.spans) == 1 + len(interaction.attempts)
        assert trace.info.token_usage["total_tokens"] == 18


def test_a_run_somebody_deleted_is_not_brought_back(settings: Settings) -> None:
    interaction = plain()
    delivered(settings, interaction)
    MlflowClient(settings.tracking_uri).delete_run(logged(settings, interaction)[0].info.run_id)

    assert delivered(settings, interaction, tries=2) == [Delivered()]

    assert len(runs(settings)) == 1


def test_an_experiment_somebody_deleted_is_restored(settings: Settings) -> None:
    sink = MlflowSink(settings, tested=frozenset())
    sink.open()
    sink.deliver(leased([plain()]))
    client = MlflowClient(settings.tracking_uri)
    client.delete_experiment(client.get_experiment_by_name("llmops/chat").experiment_id)
    interaction = plain()

    (first,) = sink.deliver(leased([interaction]))
    (second,) = sink.deliver(leased([interaction], tries=2))

    assert isinstance(first, Retry)
    assert second == Delivered()
    assert logged(settings, interaction)


def test_two_creators_of_one_experiment_end_with_one(settings: Settings) -> None:
    store = open_store(settings)
    ids: list[str] = []
    both = threading.Barrier(2)

    def create() -> None:
        both.wait()
        ids.append(Experiments(store, settings.artifact_root).id("llmops/race"))

    threads = [threading.Thread(target=create) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(ids) == 2
    assert len(set(ids)) == 1


def test_artifacts_of_our_experiments_stay_in_the_data_directory(settings: Settings) -> None:
    delivered(settings, plain())

    experiment = MlflowClient(settings.tracking_uri).get_experiment_by_name("llmops/chat")
    assert experiment.artifact_location == f"{settings.artifact_root}/llmops/chat"


def test_one_record_that_cannot_be_mapped_does_not_keep_the_others(settings: Settings) -> None:
    good, bad = plain(), replace(plain(), received_ns="yesterday")  # type: ignore[arg-type]

    outcomes = delivered(settings, bad, good)

    assert isinstance(outcomes[0], Refused)
    assert outcomes[1] == Delivered()
    assert logged(settings, good)


@pytest.mark.parametrize("key", ["", ".", "..", "/etc", "a//b", "../up", "a/../b", "tail/", "\0", "k" * 300, "a%b\n"])
def test_every_name_of_a_parameter_is_taken(settings: Settings, key: str) -> None:
    """Among them those that MLflow refuses."""
    interaction = replace(plain(), params={key: "value"})

    assert delivered(settings, interaction) == [Delivered()]

    run, _ = logged(settings, interaction)
    assert list(run.data.params.values()).count("value") == 1


def test_the_model_a_request_names_costs_nothing_by_itself(settings: Settings) -> None:
    """MLflow takes it for the model of the root span, and its tokens times the list price for the cost."""
    interaction = replace(plain(), request='{"model":"gpt-4o","messages":[]}', attempts=(), cost_usd=None)

    delivered(settings, interaction)

    _, trace = logged(settings, interaction)
    assert trace.info.token_usage["total_tokens"] == 18
    assert trace.info.cost is None
    assert "litellm" not in sys.modules


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://127.0.0.1:9", "127.0.0.1:9"),
        ("sqlite:////proc/self/mlflow.db", "unable to open database file"),
        ("postgresql://nobody@127.0.0.1:9/mlflow", "MLflow: "),
        ("file:///tmp/mlruns", "cannot keep traces"),
    ],
)
def test_a_store_that_is_away_says_so(tmp_path: Path, uri: str, reason: str) -> None:
    sink = MlflowSink(Settings(data_dir=tmp_path, mlflow_tracking_uri=uri))

    with pytest.raises(Unavailable, match=reason):
        sink.open()


@pytest.fixture(scope="module")
def server(mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """MLflow's own tracking server, started without its command line, which takes three times as long."""
    own = Settings(data_dir=tmp_path_factory.mktemp("server"))
    shutil.copy(mlflow_template, own.data_dir / "mlflow.db")
    environment = {
        **child_environment(own),
        "_MLFLOW_SERVER_FILE_STORE": own.tracking_uri,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": own.artifact_root,
    }
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd = str(listening.fileno())
        command = [sys.executable, "-m", "uvicorn", "mlflow.server.fastapi_app:app", "--fd", fd]
        process = subprocess.Popen(command, env=environment, pass_fds=[int(fd)], stderr=subprocess.DEVNULL)
        uri = f"http://127.0.0.1:{listening.getsockname()[1]}"
        # The socket listens already: the answer comes as soon as there is someone to give it.
        requests.get(f"{uri}/health", timeout=60).raise_for_status()
        yield Settings(data_dir=own.data_dir, mlflow_tracking_uri=uri)
    process.terminate()
    process.wait(30)


def test_a_tracking_server_gets_the_same_runs_and_traces(server: Settings, settings: Settings) -> None:
    interactions = one_of_each()

    delivered(server, *interactions)
    delivered(server, *interactions, tries=2)
    delivered(settings, *interactions)

    for interaction in interactions:
        remote_run, remote_trace = logged(server, interaction)
        local_run, local_trace = logged(settings, interaction)
        assert held(remote_run) == held(local_run)
        assert shape(remote_trace) == shape(local_trace)


def test_the_tracking_server_shows_what_was_written_beside_it(server: Settings) -> None:
    """As its web page asks for it."""
    interactions = [replace(plain("beside"), session=f"session-{number}") for number in range(3)]
    delivered(Settings(data_dir=server.data_dir), *interactions)
    experiment = MlflowClient(server.tracking_uri).get_experiment_by_name("llmops/beside").experiment_id
    ids = {one.interaction_id for one in interactions}
    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}

    traces = _asked(server, "ajax-api/3.0/mlflow/traces/search", {"locations": [place], "max_results": 10})
    page = _asked(server, "ajax-api/2.0/mlflow/runs/search", {"experiment_ids": [experiment]})
    graph = _asked(server, "graphql", {"operationName": "GetRun", "query": _GET_RUN % interactions[0].interaction_id})

    assert {one["trace_id"] for one in traces["traces"]} == {f"tr-{one}" for one in ids}
    assert ids < {run["info"]["run_id"] for run in page["runs"]}
    assert graph["data"]["mlflowGetRun"]["run"]["info"]["status"] == "FINISHED"


_GET_RUN = 'query GetRun { mlflowGetRun(input: {runId: "%s"}) { run { info { status } } } }'


def _asked(server: Settings, path: str, body: dict[str, Any]) -> Any:
    answer = requests.post(f"{server.tracking_uri}/{path}", json=body, timeout=30)
    answer.raise_for_status()
    return answer.json()
