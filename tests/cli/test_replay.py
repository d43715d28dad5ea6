"""Logged questions asked again of another endpoint, and the comparison read back from MLflow."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from mlflow.artifacts import load_text
from mlflow.entities import Run

from llmops.cli.replay import replay as command
from llmops.errors import CommandError
from tests.cli.shell import start
from tests.conftest import KEY, NewServer
from tests.logged import flush, runs
from tests.scripts import chat, status
from tests.server import Server, demo, external
from tests.upstream import Upstream
from tests.wire import Gate

SECRET = {"LLMOPS_SECRET_TEST_KEY": KEY}


@pytest.fixture
def pair(new_server: NewServer, upstream: Upstream) -> Server:
    """A server with the endpoint `demo`, and with `other` in front of the scripted upstream."""
    upstream.always(chat("Hello."))
    return new_server(demo(), external("other", upstream.url), environment=SECRET)


def replay(server: Server, *options: str) -> Result:
    where = ("--host", server.url, "--data-dir", str(server.data_dir), "--yes")
    return CliRunner().invoke(command, [*where, *options])


def replayed(server: Server, *options: str) -> dict[str, Any]:
    result = replay(server, "--json", *options)
    assert result.exception is None, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def ask(server: Server, *prompts: str, endpoint: str = "demo", **fields: Any) -> None:
    for prompt in prompts:
        assert server.ask(endpoint, prompt, **fields).status_code == 200
    flush(server)


def comparison(server: Server, run_id: str) -> Run:
    return MlflowClient(server.settings.tracking_uri).get_run(run_id)


def table(run: Run) -> list[dict[str, Any]]:
    document = json.loads(load_text(f"{run.info.artifact_uri}/comparison.json"))
    return [dict(zip(document["columns"], row, strict=True)) for row in document["data"]]


def test_requests_are_sent_as_they_were_but_in_nobodys_name(pair: Server, upstream: Upstream) -> None:
    before = len(upstream.requests)
    ask(pair, "Why?", temperature=0.2, stop=["x"], user="ann", client_request_id="mine", stream=True)
    (original,) = (run.data.tags["llmops.interaction_id"] for run in runs(pair))

    run_id = replayed(pair, "--from", "demo", "--endpoint", "other")["run_id"]
    flush(pair)

    (sent,) = (request.json for request in upstream.requests[before:])
    assert sent["messages"] == [{"role": "user", "content": "Why?"}]
    assert (sent["temperature"], sent["stop"]) == (0.2, ["x"])
    assert {"user", "stream", "client_request_id", "usage_context"} & sent.keys() == set()
    (again,) = (run.data.tags for run in runs(pair) if run.data.params["endpoint"] == "other")
    assert again["client_request_id"] == f"replay-{run_id[:8]}-{original}"
    assert json.loads(again["usage_context"]) == {"replay": run_id}
    assert "user" not in again


def test_the_comparison_is_a_run_with_both_sides(pair: Server) -> None:
    ask(pair, "one", "two", "three", endpoint="demo")

    document = replayed(pair, "--from", "demo", "--endpoint", "other", "--limit", "2")

    run = comparison(pair, document["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"to": "other", "from": "demo", "limit": "2", "concurrency": "4"}
    assert run.data.metrics == pytest.approx(document["metrics"])
    figures = run.data.metrics
    assert (figures["questions"], figures["answered"], figures["compared"]) == (2, 2, 2)
    assert (figures["before_cost_usd"], figures["before_unpriced"], figures["after_unpriced"]) == (0, 0, 2)
    assert {"after_cost_usd", "difference_cost_usd"} & figures.keys() == set()
    assert (figures["after_input_tokens"], figures["after_output_tokens"]) == (14, 10)
    assert figures["difference_latency_p50_ms"] == pytest.approx(
        figures["after_latency_p50_ms"] - figures["before_latency_p50_ms"]
    )


def test_the_table_and_the_page_show_both_answers_and_lead_to_both_traces(pair: Server) -> None:
    ask(pair, "one <b>", "two")

    run = comparison(pair, replayed(pair, "--from", "demo", "--endpoint", "other")["run_id"])

    rows = table(run)
    assert [row["prompt"] for row in rows] == ["two", "one <b>"]
    assert {row["after_answer"] for row in rows} == {"Hello."}
    assert {(row["before_endpoint"], row["after_endpoint"]) for row in rows} == {("demo", "other")}
    client = MlflowClient(pair.settings.tracking_uri)
    for row in rows:
        for side in ("before", "after"):
            assert row[f"{side}_trace"] == f"tr-{row[f'{side}_interaction_id']}"
            trace = client.get_trace(row[f"{side}_trace"])
            assert trace.info.request_preview == row["prompt"]
    experiments = [one.experiment_id for one in client.search_experiments()]
    linked = client.search_traces(locations=experiments, filter_string=f"run_id = '{run.info.run_id}'")
    assert {trace.info.trace_id for trace in linked} == {row[f"{s}_trace"] for row in rows for s in ("before", "after")}
    page = load_text(f"{run.info.artifact_uri}/comparison.html")
    assert "one &lt;b&gt;" in page
    assert "<b>" not in page


def test_a_failure_is_a_row(pair: Server, upstream: Upstream) -> None:
    ask(pair, "one", "two")
    upstream.play(status(400))

    result = replay(pair, "--from", "demo", "--endpoint", "other", "--concurrency", "1")

    assert result.exit_code == 0, result.output
    assert "2 asked, 1 answered, 1 failed" in result.stdout
    assert "1 failed: " in result.stdout
    run = comparison(pair, result.stdout.split("run ")[-1].split()[0])
    assert [row["after_answer"] for row in table(run)] == [None, "Hello."]
    assert "scripted 400" in table(run)[0]["after_failure"]


@pytest.mark.parametrize("code", [429, 503])
def test_a_server_that_asks_to_wait_is_asked_again(pair: Server, upstream: Upstream, code: int) -> None:
    ask(pair, "one")
    upstream.play(status(code, headers={"retry-after": "1"}))
    before = len(upstream.requests)

    document = replayed(pair, "--from", "demo", "--endpoint", "other")

    first, second = upstream.requests[before:]
    assert document["metrics"]["failed"] == 0
    assert second.received_at - first.received_at >= 1.0


def test_what_has_another_task_and_what_is_a_replay_is_skipped(new_server: NewServer) -> None:
    server = new_server(demo(), demo("embed", "llm/v1/embeddings"))
    server.post("/serving-endpoints/embed/invocations", {"input": "a"})
    ask(server, "one")
    replayed(server, "--from", "demo", "--endpoint", "demo")
    flush(server)

    document = replayed(server, "--endpoint", "demo")

    assert document["metrics"]["questions"] == 1
    assert document["metrics"]["exact_agreement"] == 1
    assert sorted(document["skipped"].values()) == [1, 1]
    assert "it is a replay itself" in document["skipped"]


def priced(url: str) -> dict[str, Any]:
    """An endpoint whose answers of 7 and 5 tokens cost 4.05 millionths of a dollar."""
    document = external("priced", url)
    document["config"]["served_entities"][0]["external_model"]["name"] = "gpt-4o-mini"
    return document


def test_a_replay_stops_before_it_costs_too_much(new_server: NewServer, upstream: Upstream) -> None:
    upstream.always(chat("Hello."))
    server = new_server(demo(), priced(upstream.url), environment=SECRET)
    ask(server, "one", "two", "three", "four")

    document = replayed(server, "--from", "demo", "--endpoint", "priced", "--max-cost", "0.00001")

    assert document["metrics"]["questions"] == 2
    assert document["metrics"]["after_cost_usd"] == pytest.approx(8.1e-6)
    assert "might exceed --max-cost" in document["stopped"]


def test_a_limit_of_cost_does_not_guess_an_unknown_price(pair: Server) -> None:
    ask(pair, "one", "two", "three")

    document = replayed(pair, "--from", "demo", "--endpoint", "other", "--max-cost", "1")

    assert document["metrics"]["questions"] == 1
    assert document["stopped"] == "the price of 'other-model' is not known, so --max-cost cannot be kept"


def test_ctrl_c_logs_what_is_there(pair: Server, upstream: Upstream) -> None:
    ask(pair, "one", "two", "three")
    gate = Gate()
    upstream.play(chat("Hello."), lambda request: replace(chat()(request), pieces=(gate,)))
    before = len(upstream.requests)
    options = ("--from", "demo", "--endpoint", "other", "--concurrency", "1", "--yes", "--json")
    process = start(pair.url, "replay", *options, "--data-dir", str(pair.data_dir))

    upstream.wait_for(lambda: len(upstream.requests) == before + 2, timeout=30)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    gate.open()

    assert process.returncode == 130, err.decode()
    document = json.loads(out)
    run = comparison(pair, document["run_id"])
    assert (run.info.status, run.data.metrics["questions"]) == ("KILLED", 1)
    assert [row["after_answer"] for row in table(run)] == ["Hello."]


def test_without_a_terminal_it_wants_a_yes(pair: Server, upstream: Upstream) -> None:
    ask(pair, "one")
    before = len(upstream.requests)

    where = ["--host", pair.url, "--data-dir", str(pair.data_dir)]
    result = CliRunner().invoke(command, [*where, "--from", "demo", "--endpoint", "other"])

    assert "say --yes" in result.output
    assert len(upstream.requests) == before


def test_an_endpoint_that_is_none_or_not_ready_is_said_at_once(new_server: NewServer, tmp_path: Path) -> None:
    server = new_server(demo(), external("keyless", "http://127.0.0.1:1"))
    ask(server, "one")

    unknown, unready = (replay(server, "--endpoint", name).exception for name in ("demmo", "keyless"))

    assert isinstance(unknown, CommandError)
    assert "did you mean 'demo'" in unknown.message
    assert isinstance(unready, CommandError)
    assert "is not ready" in unready.message
    assert MlflowClient(server.settings.tracking_uri).get_experiment_by_name("llmops-replays") is None
