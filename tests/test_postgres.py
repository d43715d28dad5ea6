"""A server whose endpoints and runs are both in PostgreSQL, by its front door; and the database that goes away."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from databricks.sdk import WorkspaceClient
from mlflow.deployments import get_deploy_client

from tests.conftest import NewServer
from tests.logged import flush, runs, traces
from tests.postgres import Line, hang_up
from tests.server import Server, demo, external, free_port
from tests.upstream import refused_url

TWO_WORKERS = ("--no-mlflow-ui", "--workers", "2")
ENDPOINTS = "/api/2.0/serving-endpoints"
MESSAGES = [{"role": "user", "content": "hi"}]


def test_clients_create_ask_update_and_delete_and_every_call_is_logged_once(
    new_server: NewServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = _serving(new_server)
    monkeypatch.setenv("DATABRICKS_HOST", server.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "anything")
    mlflow, workspace = get_deploy_client("databricks"), WorkspaceClient()

    mlflow.create_endpoint(config=demo("made"))
    plain = mlflow.predict(endpoint="made", inputs={"messages": MESSAGES})
    streamed = list(mlflow.predict_stream(endpoint="made", inputs={"messages": MESSAGES}))
    updated = mlflow.update_endpoint_config("made", demo("made", "llm/v1/completions")["config"])
    wrong: list[int] = []

    def seen_by_all() -> bool:
        """Whether every worker has seen the update; each looks ten times a second."""
        wrong.extend(server.ask("made").status_code for _ in range(8))
        return wrong[-8:] == [400] * 8

    server.wait(seen_by_all)
    failed = server.ask("down", "a NUL \0 and a lone surrogate \\ud800")
    seen = [endpoint.name for endpoint in workspace.serving_endpoints.list()]
    workspace.serving_endpoints.delete("made")
    gone: list[int] = []

    def away() -> bool:
        """Whether every worker has seen that it is gone; each looks ten times a second."""
        gone.extend(server.ask("made").status_code for _ in range(8))
        return gone[-8:] == [404] * 8

    server.wait(away)
    flush(server)

    assert plain["choices"]
    assert streamed
    assert updated["config"]["config_version"] == 2
    assert seen == ["demo", "down", "made"]
    assert failed.status_code == 502
    _logged_once(server, 3 + len(wrong) + len(gone))


def test_of_creates_at_once_one_wins_and_every_worker_serves_it(new_server: NewServer) -> None:
    server = _serving(new_server)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.post(ENDPOINTS, demo("raced")), range(8)))
    codes = Counter(answer.json().get("error_code") for answer in answers)

    assert codes == {None: 1, "RESOURCE_ALREADY_EXISTS": 7}
    assert [server.ask("raced").status_code for _ in range(8)] == [200] * 8


def test_whatever_is_killed_endpoints_stay_and_every_answer_is_logged_once(new_server: NewServer) -> None:
    server = _serving(new_server)
    server.post(ENDPOINTS, demo("kept"))
    asked = 0

    for part in ("routes.worker", "interactions.shipper", "routes.worker"):
        asked += _asked(server, "kept", 20)
        victim = server.processes(part)[0]
        victim.send_signal(signal.SIGKILL)
        victim.wait(timeout=10)
        server.wait(lambda part=part, gone=victim.pid: _all_but(server, part, gone))  # type: ignore[misc]
    server.kill()
    server.start()
    asked += _asked(server, "kept", 20)
    flush(server)

    assert server.endpoint("kept")["state"]["ready"] == "READY"
    assert asked == 80
    _logged_once(server, asked)


def test_while_the_database_of_endpoints_is_away_they_are_served_and_not_changed(
    new_server: NewServer, on_postgres: Mapping[str, str]
) -> None:
    with Line(_with_password(on_postgres["LLMOPS_DATABASE_URL"])) as line:
        server = new_server(
            demo(),
            environment={**on_postgres, "LLMOPS_DATABASE_URL": line.url},
            options=TWO_WORKERS,
        )
        server.post(ENDPOINTS, demo("kept"))

        line.cut()
        refused = server.post(ENDPOINTS, demo("new"))
        worker = server.processes("routes.worker")[0]
        worker.send_signal(signal.SIGKILL)
        worker.wait(timeout=10)
        server.wait(lambda: _all_but(server, "routes.worker", worker.pid))
        away = _asked(server, "kept", 20)
        line.mend()
        server.wait(lambda: server.post(ENDPOINTS, demo("new")).status_code == 200)

        assert refused.status_code == 503
        assert refused.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
        assert refused.json()["message"].startswith("the database postgresql://127.0.0.1:")
        assert refused.headers["retry-after"].isdigit()
        assert away == 20
        assert server.ask("new").status_code == 200
        assert "hunter2" not in refused.text + server.logged()


def test_a_silent_database_holds_up_no_invocation(new_server: NewServer, on_postgres: Mapping[str, str]) -> None:
    with Line(on_postgres["LLMOPS_DATABASE_URL"]) as line, ThreadPoolExecutor(4) as pool:
        server = new_server(demo(), environment={**on_postgres, "LLMOPS_DATABASE_URL": line.url})
        line.fall_silent()

        changing = [pool.submit(server.post, ENDPOINTS, demo(f"new{n}")) for n in range(4)]
        slowest_s = max(server.ask("demo").elapsed.total_seconds() for _ in range(40))
        codes = [change.result().status_code for change in changing]
        line.speak()

        assert codes == [503] * 4
        assert slowest_s < 1


def test_connections_that_are_ended_lose_nothing(new_server: NewServer, on_postgres: Mapping[str, str]) -> None:
    """As a restart of the database server ends them: the endpoints' and MLflow's."""
    server = _serving(new_server)
    server.post(ENDPOINTS, demo("kept"))
    asked = 0

    for _ in range(3):
        asked += _asked(server, "kept", 10)
        assert sum(hang_up(url) for url in on_postgres.values()) > 0
    made = server.post(ENDPOINTS, demo("new"))
    flush(server)

    assert made.status_code == 200
    _logged_once(server, asked)


def test_while_mlflows_database_is_away_answers_wait_in_the_spool(
    new_server: NewServer, on_postgres: Mapping[str, str]
) -> None:
    with Line(on_postgres["MLFLOW_TRACKING_URI"]) as line:
        server = new_server(demo(), environment={**on_postgres, "MLFLOW_TRACKING_URI": line.url})
        first = _asked(server, "demo", 5)
        flush(server)

        line.cut()
        away = _asked(server, "demo", 20)
        line.mend()
        flush(server)

        _logged_once(server, first + away)


def test_two_servers_share_what_is_created_and_not_their_files(tmp_path: Path, on_postgres: Mapping[str, str]) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    one = Server(tmp_path / "one", (demo("file-of-one"), demo("both")), environment=on_postgres)
    other = Server(tmp_path / "other", (demo("both"),), environment=on_postgres)
    with one, other:
        one.post(ENDPOINTS, demo("shared"))
        other.wait(lambda: other.ask("shared").status_code == 200)
        clash = other.post(ENDPOINTS, demo("shared"))
        one.stop()
        one.start()

        assert clash.json()["error_code"] == "RESOURCE_ALREADY_EXISTS"
        assert _names(one) == ["both", "file-of-one", "shared"]
        assert _names(other) == ["both", "shared"]
        assert other.ask("both").status_code == 200


def test_a_start_without_the_database_is_one_clear_line(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "configs").mkdir()
    server = Server(tmp_path, environment={"LLMOPS_DATABASE_URL": f"postgresql://me:hunter2@127.0.0.1:{port}/db"})
    command = [sys.executable, "-m", "llmops.cli.main", "serve", "--port", str(free_port())]
    options = ("--configs", str(server.configs), "--data-dir", str(server.data_dir))

    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=60, check=False, env=server.environment
    )

    last = done.stderr.splitlines()[-1]
    assert done.returncode == 69
    assert last.startswith(f"llmops: the database postgresql://127.0.0.1:{port}/db cannot be used: Connection refused")
    assert "hunter2" not in done.stderr


def _serving(new_server: NewServer) -> Server:
    return new_server(demo(), external("down", refused_url()), store="postgres", options=TWO_WORKERS, environment=_KEY)


_KEY = {"LLMOPS_SECRET_TEST_KEY": "sk-test"}


def _asked(server: Server, endpoint: str, times: int) -> int:
    """Ask so many times, and count the answers."""
    return sum(server.ask(endpoint).status_code == 200 for _ in range(times))


def _all_but(server: Server, part: str, gone: int) -> bool:
    """Whether the one that was killed has a successor that runs."""
    pids = [process.pid for process in server.processes(part)]
    count = 2 if part == "routes.worker" else 1
    return gone not in pids and len(pids) == count and server.get("/ready").status_code == 200


def _logged_once(server: Server, count: int) -> None:
    logged = Counter(run.data.tags["llmops.interaction_id"] for run in runs(server))
    traced = Counter(trace.info.trace_id.removeprefix("tr-") for trace in traces(server))

    assert len(logged) == count
    assert max(logged.values()) == 1
    assert traced == logged


def _names(server: Server) -> list[str]:
    listed: list[dict[str, Any]] = server.get(ENDPOINTS).json()["endpoints"]
    return [endpoint["name"] for endpoint in listed]


def _with_password(url: str) -> str:
    """The same URL with a password that must not be seen; the test's server asks for none."""
    return url.replace("@", ":hunter2@", 1)
