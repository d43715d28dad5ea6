"""Evaluation datasets made of the log, read back and used as MLflow's users do."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from llmops.cli.to_dataset import to_dataset as command
from llmops.interactions.record import Interaction
from llmops.settings import Settings, child_environment
from tests.conftest import NewServer
from tests.interactions.deliveries import delivered
from tests.interactions.records import abandoned, embedded, failed, plain, unreadable
from tests.logged import flush
from tests.server import demo
from tests.tracking import MlflowServer


@pytest.fixture
def settings(tmp_path: Path, mlflow_template: Path) -> Settings:
    """Settings of a data directory of this test's own."""
    shutil.copy(mlflow_template, tmp_path / "mlflow.db")
    return Settings(data_dir=tmp_path)


def make(settings: Settings, *options: str) -> Result:
    return CliRunner().invoke(command, ["golden", "--data-dir", str(settings.data_dir), *options])


def made(settings: Settings, *options: str) -> dict[str, Any]:
    result = make(settings, "--json", *options)
    assert result.exception is None, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def rows(settings: Settings, dataset_id: str) -> list[Any]:
    # Not through `dataset.records`: it looks in the tracking store of the process.
    found, _ = store(settings)._load_dataset_records(dataset_id)
    return list(found)


def store(settings: Settings) -> Any:
    return MlflowClient(settings.tracking_uri)._tracking_client.store


def asking(text: str, **more: Any) -> Interaction:
    document = {"messages": [{"role": "user", "content": text}], **more}
    return replace(plain(), request=json.dumps(document))


def test_a_row_is_what_was_asked_and_how_but_not_by_whom(settings: Settings) -> None:
    whose = {"user": "ann", "model": "m", "client_request_id": "r", "usage_context": {"session_id": "s"}}
    how = {"stream": True, "stream_options": {"include_usage": True}, "metadata": {"session_id": "s"}}
    one = asking("Why?", temperature=0.2, extra_params={"top_k": 3, "user": "ann"}, **whose, **how)
    delivered(settings, one)

    document = made(settings)

    (row,) = rows(settings, document["dataset_id"])
    assert row.inputs == {"messages": [{"role": "user", "content": "Why?"}], "temperature": 0.2, "top_k": 3}
    assert (row.source.source_type, row.source_id) == ("TRACE", one.trace_id)
    assert row.tags == {"endpoint": "chat", "model": "gpt-4o-mini", "served_entity": "gpt", "outcome": "answered"}
    assert (row.expectations or {}, row.outputs) == ({}, None)


def test_the_dataset_belongs_to_the_experiments_of_its_endpoints(settings: Settings) -> None:
    delivered(settings, asking("a"), replace(asking("b"), endpoint="other"), replace(asking("b"), endpoint="third"))

    made(settings, "--endpoint", "chat")
    document = made(settings, "--endpoint", "other")

    client = MlflowClient(settings.tracking_uri)
    ids = {client.get_experiment_by_name(f"llmops/{name}").experiment_id for name in ("chat", "other")}
    assert set(store(settings).get_dataset_experiment_ids(document["dataset_id"])) == ids


def test_what_is_there_is_left_and_what_is_new_is_added(settings: Settings) -> None:
    delivered(settings, asking("a"), asking("a"), asking("b"))

    first = made(settings)
    again = made(settings)
    delivered(settings, asking("c"))
    third = made(settings)

    counts = [(one["new"], one["completed"], one["known"]) for one in (first, again, third)]
    assert counts == [(2, 0, 1), (0, 0, 3), (1, 0, 3)]
    assert {one["dataset_id"] for one in (first, again, third)} == {first["dataset_id"]}
    assert len(rows(settings, first["dataset_id"])) == 3


def test_logged_answers_are_expected_when_asked_for_and_never_over_a_persons(settings: Settings) -> None:
    delivered(settings, asking("a"), asking("b"))
    dataset_id = made(settings)["dataset_id"]
    corrected = {"inputs": {"messages": [{"role": "user", "content": "a"}]}, "expectations": {"expected_response": "!"}}
    store(settings).upsert_dataset_records(dataset_id, [corrected])

    document = made(settings, "--expect-logged")

    assert (document["new"], document["completed"], document["known"]) == (0, 1, 1)
    expected = {row.inputs["messages"][0]["content"]: row.expectations for row in rows(settings, dataset_id)}
    assert expected == {"a": {"expected_response": "!"}, "b": {"expected_response": "A reel for thread."}}


def test_what_cannot_be_a_row_is_skipped_and_counted_with_its_reason(settings: Settings) -> None:
    silent = replace(plain(), request="", response=None, content="metadata")
    goal = asking("a", goal="win")
    delivered(settings, plain(), silent, unreadable(), embedded(), goal, failed(), abandoned())

    document = made(settings)
    text = make(settings).stdout

    assert document["new"] + document["known"] == 3
    assert sorted(document["skipped"].values()) == [1, 1, 1, 1]
    assert "1 skipped: the request was not logged (log: metadata)\n" in text
    assert "1 skipped: the request is not a JSON object\n" in text
    assert "1 skipped: embeddings have no answer to judge\n" in text
    expecting = made(settings, "--expect-logged")
    assert expecting["skipped"]["there is no whole answer to expect"] == 2


def test_filters_choose_the_interactions_and_the_limit_takes_the_newest(settings: Settings) -> None:
    old, new = (replace(asking(text), received_ns=seconds * 10**9) for text, seconds in (("old", 1), ("new", 2)))
    delivered(settings, old, new, replace(asking("another"), endpoint="other"))

    document = made(settings, "--endpoint", "chat", "--limit", "1")

    assert [row.source_id for row in rows(settings, document["dataset_id"])] == [new.trace_id]


def test_nothing_to_be_a_row_makes_no_dataset(settings: Settings) -> None:
    delivered(settings, embedded())

    assert made(settings)["dataset_id"] is None
    assert list(MlflowClient(settings.tracking_uri).search_datasets()) == []


@pytest.mark.parametrize("name", ["", "it's", 'a"b', "two\nlines", "x" * 251])
def test_a_name_mlflow_could_not_find_again_is_refused(settings: Settings, name: str) -> None:
    delivered(settings, plain())

    result = CliRunner().invoke(command, [name, "--data-dir", str(settings.data_dir)])

    assert "a dataset's name has" in str(result.exception)


def test_mlflow_evaluates_an_endpoint_over_the_dataset(new_server: NewServer) -> None:
    server = new_server(demo())
    for prompt in ("hello", "what is 2+2?"):
        assert server.ask("demo", prompt, temperature=0).status_code == 200
    flush(server)
    dataset_id = made(server.settings, "--endpoint", "demo", "--expect-logged")["dataset_id"]

    evaluation = subprocess.run(
        [sys.executable, "-m", "tests.cli.evaluation", dataset_id, server.url, "demo"],
        capture_output=True,
        text=True,
        timeout=100,
        env={**child_environment(server.settings), "MLFLOW_TRACKING_URI": server.settings.tracking_uri},
    )

    assert evaluation.returncode == 0, evaluation.stderr
    assert json.loads(evaluation.stdout.splitlines()[-1]) == {"same/mean": 1.0}


def test_a_tracking_server_keeps_datasets_too(
    tmp_path: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MlflowServer(tmp_path, mlflow_template) as server:
        settings = Settings(data_dir=tmp_path / "elsewhere", mlflow_tracking_uri=server.url)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        delivered(settings, asking("a"), asking("b"))

        first, again = made(settings), made(settings, "--expect-logged")

        found = rows(settings, first["dataset_id"])
    assert [(one["new"], one["completed"]) for one in (first, again)] == [(2, 0), (0, 2)]
    assert [row.expectations for row in found] == [{"expected_response": "A reel for thread."}] * 2


def test_postgres_keeps_datasets_too(settings: Settings, postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(settings, mlflow_tracking_uri=postgres.replace("postgresql:", "postgresql+psycopg2:"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", settings.tracking_uri)
    delivered(settings, asking("a"), asking("b \N{NULL}"))

    first, again = made(settings), made(settings)

    assert (first["new"], again["new"], again["known"]) == (2, 0, 2)
