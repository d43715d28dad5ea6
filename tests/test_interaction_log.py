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
EVERY_KIND = {"routes.worker", "interactions.shipper", "all"}


def _rows(server: Server) -> list[str]:
    """The request id of every row of every payload table."""
    found = []
    for path in Path(server.settings.table_root).glob("main/storm/*_payload"):
        table = DeltaTable(path).to_pyarrow_table(columns=["databricks_request_id"])
        found += [name.replace("-", "") for name in table["databricks_request_id"].to_pylist()]
    return found


def _check(server: Server, storm: Storm) -> None:
    flush(server, timeout_s=600)
    found = runs(server)
    logged = {run.data.tags["llmops.interaction_id"]: run for run in found}
    in_tables = {one for one, run in logged.items() if run.data.params["endpoint"] != "nobody"}
    traced = Counter(trace.info.trace_id.removeprefix("tr-") for trace in traces(server))
    rows = Counter(_rows(server))

    assert sorted(storm.account.answered - set(logged)) == [], f"of {len(storm.account.answered)} answered, not logged"
    assert len(logged) == len(found), "two runs of one interaction"
    assert set(traced) == set(logged)
    assert max(traced.values()) == 1
    assert set(rows) == in_tables
    assert max(rows.values()) == 1


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_killed_at_random_every_answered_request_is_logged_once(store: str, new_server: NewServer) -> None:
    with Upstream() as upstream:
        upstream.always(obliging())
        server = new_server(*endpoints(upstream.url), environment=KEY, store=store)
        storm = Storm(server, seed=1, pause_s=PAUSE_S)
        with killing(server, KILL_EVERY_S, seed=2) as killed:
            storm.rage(REQUESTS, lambda: set(killed) >= EVERY_KIND)

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
        storm = Storm(server, seed=3, pause_s=0.5)
        with killing(server, KILL_EVERY_S, seed=4) as killed:
            storm.rage(REQUESTS // 50, lambda: True)
            front.away()
            until_s = time.monotonic() + AWAY_S
            storm.rage(REQUESTS // 50, lambda: time.monotonic() > until_s)
            front.back()
            storm.rage(REQUESTS // 50, lambda: set(killed) >= EVERY_KIND)

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


def _revise(server: Server, revision: str) -> str:
    """Give MLflow's database another schema revision; returns the one it had."""
    with closing(sqlite3.connect(server.data_dir / "mlflow.db")) as database, database:
        (before,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    return str(before)
