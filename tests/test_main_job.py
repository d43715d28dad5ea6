"""The main job, end to end: a named endpoint answers a prompt, and the interaction is an MLflow run with a trace."""

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from mlflow import MlflowClient

from tests.conftest import NewServer
from tests.logged import flush, runs, traces
from tests.scripts import chat_stream, obliging
from tests.server import Server, demo, entity, external
from tests.upstream import Upstream, refused_url
from tests.wire import Gate

KEY = {"LLMOPS_SECRET_TEST_KEY": "sk-test"}
HELLO = {"messages": [{"role": "user", "content": "hello"}]}


def _fallback(url: str) -> dict[str, Any]:
    shares = [{"served_entity_name": name, "traffic_percentage": share} for name, share in (("one", 100), ("two", 0))]
    entities = [entity("one", refused_url()), entity("two", url)]
    config = {"served_entities": entities, "traffic_config": {"routes": shares}}
    return {"name": "fall", "config": config, "ai_gateway": {"fallback_config": {"enabled": True}}}


def _ways(server: Server) -> list[tuple[Callable[[], httpx.Response], str]]:
    """Ways to ask, and the outcome each should be recorded with."""
    return [
        (lambda: server.ask("demo"), "answered"),
        (lambda: server.ask("demo", stream=True), "answered"),
        (lambda: server.ask("up"), "answered"),
        (lambda: server.ask("up", stream=True), "answered"),
        (lambda: server.post("/v1/chat/completions", {"model": "up", **HELLO}), "answered"),
        (lambda: server.post("/serving-endpoints/demo-embeddings/invocations", {"input": "x"}), "answered"),
        (lambda: server.ask("fall"), "answered"),
        (lambda: server.ask("nobody"), "failed"),
        (lambda: server.ask("down"), "failed"),
        (lambda: server.post_bytes("/serving-endpoints/demo/invocations", b"{"), "failed"),
    ]


def test_200_mixed_interactions_are_200_runs_and_200_traces(new_server: NewServer) -> None:
    with Upstream() as upstream:
        upstream.always(obliging())
        own = (demo(), demo("demo-embeddings", "llm/v1/embeddings"), external("up", upstream.url))
        server = new_server(*own, external("down", refused_url()), _fallback(upstream.url), environment=KEY)
        ways = _ways(server)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda number: ways[number % len(ways)][0](), range(200)))
    flush(server)

    logged = runs(server)
    ids = [answer.headers["x-request-id"] for answer in answers]

    assert sorted(run.data.tags["llmops.interaction_id"] for run in logged) == sorted(ids)
    assert sorted(trace.info.trace_id for trace in traces(server)) == sorted(f"tr-{one}" for one in ids)
    assert Counter(run.data.tags["outcome"] for run in logged) == {"answered": 140, "failed": 60}


def test_a_run_and_its_trace_tell_what_happened(new_server: NewServer) -> None:
    with Upstream() as upstream:
        upstream.always(obliging())
        server = new_server(external("up", upstream.url), environment=KEY)
        headers = {"x-session-id": "s-1", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
        fields = {"temperature": 0.5, "user": "ada", "client_request_id": "c-1", "stream": True}
        answer = server.post("/serving-endpoints/up/invocations", {**HELLO, **fields}, headers=headers)
        passed_on = upstream.requests[-1].headers["traceparent"]
    flush(server)

    run = runs(server)[0]
    trace = MlflowClient(server.settings.tracking_uri).get_trace(answer.headers["x-mlflow-trace-id"])
    tags, metrics, metadata = run.data.tags, run.data.metrics, trace.info.request_metadata

    assert run.info.status == "FINISHED"
    assert {**run.data.params} == {
        "endpoint": "up",
        "served_entity": "up",
        "provider": "openai",
        "model": "up-model",
        "task": "llm/v1/chat",
        "stream": "true",
        "temperature": "0.5",
    }
    assert {"latency_ms", "time_to_first_token_ms", "attempts"} <= set(metrics)
    assert (metrics["input_tokens"], metrics["output_tokens"], metrics["total_tokens"]) == (7, 5, 12)
    assert (tags["status"], tags["user"], tags["session"], tags["client_request_id"]) == ("200", "ada", "s-1", "c-1")
    assert tags["llmops.parent_traceparent"] == headers["traceparent"] == passed_on
    assert metadata["mlflow.sourceRun"] == run.info.run_id
    assert (metadata["mlflow.trace.session"], metadata["mlflow.trace.user"]) == ("s-1", "ada")
    assert trace.info.token_usage == {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}
    assert trace.data.spans[0].inputs["messages"] == HELLO["messages"]
    assert trace.data.spans[0].outputs["choices"][0]["message"]["content"] == "Hello there, friend."


def test_kill_nine_loses_no_answered_request_and_doubles_none(new_server: NewServer) -> None:
    with Upstream() as upstream:
        upstream.always(obliging())
        server = new_server(external("up", upstream.url), demo(), environment=KEY)
        answered: list[str] = []
        half = threading.Event()

        def ask(number: int) -> None:
            streamed = number % 3 == 0
            try:
                answer = server.ask("up" if number % 2 else "demo", stream=streamed)
            except httpx.TransportError:
                return
            # A stream cut by the kill has no last event: its caller was not answered.
            if answer.status_code == 200 and (not streamed or answer.text.endswith("data: [DONE]\n\n")):
                answered.append(answer.headers["x-request-id"])
            if len(answered) >= 100:
                half.set()

        with ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(ask, number) for number in range(200)]
            assert half.wait(60)
            server.kill()
            for one in asking:
                one.result()
    server.start()
    flush(server)

    logged = Counter(run.data.tags["llmops.interaction_id"] for run in runs(server))

    assert len(answered) >= 100
    assert set(answered) <= set(logged)
    assert set(logged.values()) == {1}


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "sqlite:////nowhere/at/all/mlflow.db"])
def test_a_missing_mlflow_never_changes_an_answer(new_server: NewServer, uri: str) -> None:
    server = new_server(demo(), environment={"MLFLOW_TRACKING_URI": uri})
    server.wait(lambda: "state=waiting" in server.logged())

    assert server.ask("demo").status_code == 200
    assert server.get("/ready").status_code == 200


def test_a_worker_stays_small_and_imports_nothing_heavy(new_server: NewServer) -> None:
    with Upstream() as upstream:
        upstream.always(obliging())
        server = new_server(external("up", upstream.url), demo(), environment=KEY)
        urls = [f"{server.url}/serving-endpoints/{name}/invocations" for name in ("up", "demo")]

        def ask(count: int) -> int:
            with httpx.Client() as client:
                bodies = ({**HELLO, "stream": number % 5 == 0} for number in range(count))
                codes = [client.post(urls[number % 2], json=body).status_code for number, body in enumerate(bodies)]
            return codes.count(200)

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(ask, [2500] * 4)) == 10_000
    worker = server.processes("routes.worker")[0]

    assert worker.memory_info().rss <= 150 * 1024 * 1024
    assert not _packages(worker) & {"mlflow", "litellm", "pandas", "numpy"}


def _packages(process: psutil.Process) -> set[str]:
    """What the worker's module imports, and every package with compiled parts in the running process."""
    code = "import sys; import routes.worker; print(*{name.split('.')[0] for name in sys.modules})"
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    mapped = {part for one in process.memory_maps() for part in Path(one.path).parts}
    return set(fresh.stdout.split()) | mapped


def test_two_workers_share_endpoints_and_both_are_logged(new_server: NewServer) -> None:
    server = new_server(demo(), options=("--no-mlflow-ui", "--workers", "2"))
    server.post("/api/2.0/serving-endpoints", demo("new"))

    # Each connection goes to either worker: one that has not seen the endpoint yet looks again.
    codes = [server.ask("new").status_code for _ in range(40)]
    flush(server)

    assert codes == [200] * 40
    assert len(runs(server)) == 40
    assert len(list((server.data_dir / "spool").glob("*.db"))) == 2


def test_sigterm_lets_a_running_stream_end(new_server: NewServer) -> None:
    with Upstream() as upstream:
        gate = Gate()
        upstream.play(chat_stream(pause=gate))
        server = new_server(external("up", upstream.url), environment=KEY)
        url, ending = f"{server.url}/serving-endpoints/up/invocations", threading.Thread(target=server.stop)
        with httpx.stream("POST", url, json={**HELLO, "stream": True}, timeout=30) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            ending.start()
            server.wait(lambda: "Shutting down" in server.logged())
            gate.open()
            rest = [line for line in lines if line]
        ending.join(timeout=60)
    flush(server)

    assert first.startswith("data: ")
    assert rest[-1] == "data: [DONE]"
    assert runs(server)[0].data.tags["outcome"] == "answered"


def test_make_run_prints_an_answer_and_its_run(tmp_path: Path) -> None:
    """On an empty data directory, as in a fresh clone."""
    command = [sys.executable, "-m", "llmops.cli.main", "run", "--data-dir", str(tmp_path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180, check=False)

    assert done.returncode == 0, done.stderr
    assert "demo > I am the demo endpoint of llmops" in done.stdout
    run_id = next(line.split()[2] for line in done.stdout.splitlines() if line.startswith("MLflow run"))
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = client.get_run(run_id)
    found = client.search_traces(locations=[run.info.experiment_id], run_id=run_id)
    assert run.data.params["endpoint"] == "demo"
    assert [trace.info.trace_id for trace in found] == [f"tr-{run.data.tags['llmops.interaction_id']}"]
