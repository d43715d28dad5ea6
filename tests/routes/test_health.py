"""`/ready`: whether the server can serve and record, and how the log is doing."""

import random
from typing import Any

import httpx

from llmops.interactions.spool import spools
from tests.conftest import NewServer
from tests.logged import flush, runs
from tests.server import Server, demo


def answers(server: Server) -> bool:
    try:
        return server.get("/health").status_code == 200
    except httpx.HTTPError:
        return False


def ready(server: Server) -> tuple[int, dict[str, Any]]:
    answer = server.get("/ready")
    return answer.status_code, answer.json()


def test_ready_tells_how_the_log_is_doing(new_server: NewServer) -> None:
    server = new_server(demo())
    server.ask("demo")

    server.wait(lambda: ready(server)[1]["shipper"]["state"] == "ready", 60)
    server.wait(lambda: ready(server)[1]["spool"]["records"] == 0, 60)
    code, told = ready(server)

    assert code == 200
    assert told["not_recorded"] == {"lost": 0, "sampled_out": 0, "refused": 0}
    sinks = {sink["name"]: sink for sink in told["shipper"]["sinks"]}
    assert (sinks["mlflow"]["waiting"], sinks["mlflow"]["dead_letters"]) == (0, 0)


def test_a_server_whose_mlflow_is_away_is_ready_and_says_why_it_waits(new_server: NewServer) -> None:
    server = new_server(demo(), environment={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    server.ask("demo")

    server.wait(lambda: ready(server)[1]["shipper"]["state"] == "waiting", 60)
    code, told = ready(server)

    assert code == 200
    assert "mlflow" in told["shipper"]["reason"]
    assert told["spool"]["records"] == 1
    assert told["spool"]["oldest_age_s"] > 0


def test_a_spool_that_cannot_be_written_from_the_start_does_not_stop_answers(new_server: NewServer) -> None:
    server = new_server(demo())
    spool = server.data_dir / "spool"
    spool.rename(server.data_dir / "kept")
    spool.write_text("a file where the directory should be")
    (worker,) = server.processes("routes.worker")
    worker.kill()
    worker.wait(timeout=10)
    server.wait(lambda: answers(server))
    asked = server.ask("demo").status_code
    code, told = ready(server)
    server.wait(lambda: "not ready: " in server.log.read_text(), 40)
    spool.unlink()
    server.wait(lambda: ready(server)[0] == 200)

    assert (asked, code) == (200, 503)
    assert "its directory must be writable" in told["reason"]
    assert told["interactions_lost"] == 1
    server.wait(lambda: "ready again" in server.log.read_text())
    assert server.ask("demo").status_code == 200


def test_a_spool_damaged_while_the_server_was_down_is_moved_aside_and_everything_in_it_is_logged(
    new_server: NewServer,
) -> None:
    server = new_server(demo(), environment={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    for _ in range(30):
        server.ask("demo")
    (path,) = spools(server.settings.spool_dir)
    server.stop()
    del server.environment["MLFLOW_TRACKING_URI"]
    with path.open("r+b") as file:
        file.seek(0)
        file.write(random.Random(1).randbytes(4096))

    server.start()
    codes = [server.ask("demo").status_code for _ in range(3)]
    server.wait(lambda: bool(ready(server)[1]["spool"]["damaged_files"]))
    server.wait(lambda: "a damaged interaction log was moved aside: worker-0.db.damaged-" in server.log.read_text(), 30)
    flush(server)

    assert codes == [200] * 3
    assert len(runs(server)) == 33
