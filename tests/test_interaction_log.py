"""The interaction log under fire: whatever is killed, an answered request is one run, one trace and one table row."""

import os
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from deltalake import DeltaTable

from tests.conftest import NewServer
from tests.logged import flush, runs, traces
from tests.scripts import obliging
from tests.server import Server, demo
from tests.storm import Storm, endpoints, killing
from tests.tracking import Front, MlflowServer
from tests.upstream import Upstream

KEY = {"LLMOPS_SECRET_TEST_KEY": "sk-test", "LLMOPS_TABLE_LINGER_S": "0.5"}
#: `make soak` makes it 10,000.
REQUESTS = int(os.environ.get("LLMOPS_SOAK_REQUESTS", "1500"))
KILL_EVERY_S = 3.0
#: How long the tracking server is away; a minute in `make soak`.
AWAY_S = float(os.environ.get("LLMOPS_SOAK_AWAY_S", "6"))
#: Eight clients with this pause ask 150 times a second; without it, as fast as the server answers.
PAUSE_S = 0.0 if "LLMOPS_SOAK_REQUESTS" in os.environ else 0.05
#: A tracking server takes some thirty interactions a second, so that CI sends it fewer, and slowly.
SENT, SLOW_S = (REQUESTS, 0.0) if "LLMOPS_SOAK_REQUESTS" in os.environ else (90, 0.5)
EVERY_KIND = {"routes.worker", "interactions.shipper", "all"}


def _rows(server: Server, tables: str) -> "Counter[str]":
    """How many rows of some tables name each request."""
    found: Counter[str] = Counter()
    for path in Path(server.settings.table_root).glob(tables):
        table = DeltaTable(path).to_pyarrow_table(columns=["databricks_request_id"])
        found.update(name.replace("-", "") for name in table["databricks_request_id"].to_pylist())
    return found


def _check(server: Server, storm: Storm) -> None:
    flush(server, timeout_s=1800)
    found = runs(server)
    logged = {run.data.tags["llmops.interaction_id"]: run for run in found}
    in_tables = {one for one, run in logged.items() if run.data.params["endpoint"] != "nobody"}
    traced = Counter(trace.info.trace_id.removeprefix("tr-") for trace in traces(server))
    rows, usage = _rows(server, "main/storm/*_payload"), _rows(server, "system/serving/endpoint_usage")

    assert sorted(storm.account.answered - set(logged)) == [], f"of {len(storm.account.answered)} answered, not logged"
    assert len(logged) == len(found), "two runs of one interaction"
    assert set(traced) == set(logged)
    assert max(traced.values()) == 1
    assert set(rows) == in_tables == set(usage)
    assert max(rows.values()) == max(usage.values()) == 1


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_killed_at_random_every_answered_request_is_logged_once(store: str, new_server: NewServer) -> None:
    with Upstream() as upstream:
        upstream.always(obliging())
        options = ("--no-mlflow-ui", "--workers", "2")
        server = new_server(*endpoints(upstream.url), environment=KEY, store=store, options=options)
        storm = Storm(server, seed=1)
        with killing(server, KILL_EVERY_S, seed=2) as killed:
            storm.rage(REQUESTS, lambda: set(killed) >= EVERY_KIND, PAUSE_S)

    _check(server, storm)


def test_with_the_tracking_server_away_in_between_nothing_is_lost_or_doubled(
    tmp_path: Path, mlflow_template: Path, new_server: NewServer
) -> None:
    folder = tmp_path / "tracking"
    folder.mkdir()
    with Upstream() as upstream, MlflowServer(folder, mlflow_template) as tracking, Front(tracking.url) as front:
        upstream.always(obliging())
        environment = {**KEY, "MLFLOW_TRACKING_URI": front.url}
        server = new_server(*endpoints(upstream.url), environment=environment)
        storm = Storm(server, seed=3)
        with killing(server, KILL_EVERY_S, seed=4) as killed:
            storm.rage(SENT // 3, lambda: True, SLOW_S)
            front.away()
            until_s = time.monotonic() + AWAY_S
            storm.rage(SENT // 3, lambda: True, SLOW_S)
            storm.rage(0, lambda: time.monotonic() > until_s, 0.5)
            front.back()
            storm.rage(SENT // 3, lambda: True, SLOW_S)
            storm.rage(0, lambda: set(killed) >= EVERY_KIND, 0.5)

        _check(server, storm)


def test_a_schema_from_the_future_is_reported_while_invocations_go_on(new_server: NewServer) -> None:
    server = new_server(demo())
    server.stop()
    present = _revise(server, "f00000000001")
    server.start()
    answer = server.ask("demo")
    server.wait(lambda: "a later MLflow has migrated it" in server.get("/ready").text)

    ready = server.get("/ready")
    assert (answer.status_code, ready.status_code) == (200, 200)
    assert "f00000000001" in ready.text
    assert "f00000000001" in server.logged()

    _revise(server, present)
    flush(server)
    assert [run.info.run_id for run in runs(server)] == [answer.headers["x-request-id"]]


def test_a_dead_letter_is_reported_while_invocations_go_on(new_server: NewServer) -> None:
    server = new_server(demo())
    with closing(sqlite3.connect(server.settings.spool_dir / "worker-0.db", timeout=10)) as spool, spool:
        spool.execute("INSERT INTO record (content, written_ms) VALUES ('{}', 0)")

    # The terminal of `serve` says it, too: why, and what to do.
    server.wait(lambda: "records could not be delivered (" in server.log.read_text())

    ready = server.get("/ready")
    assert (ready.status_code, ready.json()["dead_letters"]["records"]) == (200, 2)
    assert ready.json()["dead_letters"]["last_reason"].startswith("the record cannot be decoded")
    assert "`llmops interactions dead retry --all` sends them again" in server.log.read_text()
    answer = server.ask("demo")
    flush(server)
    assert [run.info.run_id for run in runs(server)] == [answer.headers["x-request-id"]]


def _revise(server: Server, revision: str) -> str:
    """Give MLflow's database another schema revision; returns the one it had."""
    with closing(sqlite3.connect(server.data_dir / "mlflow.db")) as database, database:
        (before,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    return str(before)
