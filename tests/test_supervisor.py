"""The processes of `llmops serve`: started, watched, and gone when it is gone."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx

from tests.conftest import NewServer
from tests.server import demo, free_port
from tests.small_disk import small_disk


def test_mlflows_own_server_shows_the_runs_and_ends_with_ours(new_server: NewServer) -> None:
    port = free_port()
    server = new_server(demo(), options=("--mlflow-ui-port", str(port)))

    # It is the last to get the processor, and loads all of MLflow.
    server.wait(lambda: _status(f"http://127.0.0.1:{port}/") == 200, timeout_s=400)

    assert server.stop() == 0
    assert _status(f"http://127.0.0.1:{port}/") is None


def test_a_killed_worker_is_started_again_and_takes_its_spool_over(new_server: NewServer) -> None:
    server = new_server(demo())
    first = server.processes("routes.worker")[0]

    first.send_signal(signal.SIGKILL)
    first.wait(timeout=10)
    server.wait(lambda: _status(f"{server.url}/ready") == 200)

    assert server.ask("demo").status_code == 200
    assert server.processes("routes.worker")[0].pid != first.pid


def test_a_killed_server_leaves_no_process_behind(new_server: NewServer) -> None:
    server = new_server(demo())

    server.kill()  # Waits for the whole tree, and fails if one of it lives on.


def test_a_second_server_on_one_data_directory_is_refused(new_server: NewServer) -> None:
    server = new_server(demo())
    command = [sys.executable, "-m", "llmops.cli.main", "serve", "--port", str(free_port())]
    options = ("--configs", str(server.configs), "--data-dir", str(server.data_dir))

    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 1
    assert done.stderr == f"llmops: another server uses {server.data_dir}; stop it, or name another --data-dir\n"


def test_a_taken_port_is_one_clear_line(new_server: NewServer, tmp_path: Path) -> None:
    server = new_server(demo())
    port = server.url.rpartition(":")[2]
    command = [sys.executable, "-m", "llmops.cli.main", "serve", "--port", port, "--configs", str(server.configs)]

    done = subprocess.run(
        [*command, "--data-dir", str(tmp_path / "other")], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 1
    assert done.stderr.startswith(f"llmops: cannot listen on 127.0.0.1:{port}: Address already in use; choose another")


def test_a_full_disk_never_changes_an_answer(new_server: NewServer) -> None:
    server = new_server(demo())
    server.stop()
    with small_disk(server.settings.spool_dir, kb=400):
        server.start()
        codes = [server.ask("demo", "x" * 20_000).status_code for _ in range(60)]

        ready, told = server.get("/ready"), "the disk is full; free some space"
        server.wait(lambda: told in server.log.read_text())
        server.stop()

    assert codes == [200] * 60
    assert "event=interaction_lost" in server.logged()
    assert ready.json()["interactions_lost"] > 0
    assert told in ready.json()["last_loss"]


def test_a_file_that_may_not_grow_never_changes_an_answer(new_server: NewServer) -> None:
    """A quota, for SQLite, is not a full disk."""
    server = new_server(demo(), limit_file_kb=400)
    codes = [server.ask("demo", "x" * 20_000).status_code for _ in range(60)]

    assert codes == [200] * 60
    assert "event=interaction_lost" in server.logged()
    ready = server.get("/ready")
    assert ready.status_code == 503
    assert ready.json()["interactions_lost"] > 0
    server.wait(lambda: "not ready: " in server.log.read_text())


def _status(url: str) -> int | None:
    try:
        return httpx.get(url, timeout=5).status_code
    except httpx.HTTPError:
        return None


def test_only_workers_know_the_keys_of_endpoints(new_server: NewServer) -> None:
    server = new_server(demo(), environment={"LLMOPS_SECRET_TEST_KEY": "sk-test"})
    known = {
        part: "LLMOPS_SECRET_TEST_KEY" in server.processes(part)[0].environ()
        for part in ("routes.worker", "interactions.shipper")
    }

    assert known == {"routes.worker": True, "interactions.shipper": False}
