"""The shipper: every sink in a thread of its own, one account of all of them, and nothing lost whatever dies."""

import fcntl
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from llmops.interactions.flush import flush
from llmops.interactions.record import Interaction
from llmops.interactions.shipper import Shipper, routes
from llmops.interactions.shipper_state import ShipperState, SinkState
from llmops.interactions.sink import Delivered, Refused
from llmops.interactions.spool import Spool, depth
from llmops.settings import Settings, child_environment
from tests.interactions.records import one_of_each, plain
from tests.interactions.scripted_sink import Scripted, route, until
from tests.interactions.spooling import dead_letters, fill, ids

SHIPPER = "llmops.interactions.shipper"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def bare(data_dir: Path) -> Settings:
    """Settings of a data directory without an MLflow database."""
    return Settings(data_dir=data_dir)


@pytest.fixture
def spool(data_dir: Path) -> Iterator[Spool[Interaction]]:
    with closing(Spool[Interaction](data_dir / "spool" / "worker-0.db")) as opened:
        yield opened


def state(data_dir: Path) -> ShipperState:
    found = ShipperState.read(data_dir)
    assert found is not None
    return found


def sink_state(data_dir: Path, name: str) -> SinkState:
    found = state(data_dir).sink(name)
    assert found is not None
    return found


@contextmanager
def running(settings: Settings, *sinks: Scripted) -> Iterator[Shipper]:
    shipper, stop = Shipper(settings, [route(settings, *sinks)]), threading.Event()
    thread = threading.Thread(target=shipper.run, args=(stop, 5.0))
    thread.start()
    try:
        yield shipper
    finally:
        stop.set()
        thread.join()


def test_a_sink_that_is_away_does_not_keep_the_other(bare: Settings, spool: Spool[Interaction]) -> None:
    mlflow, tables = Scripted("mlflow"), Scripted("tables")
    mlflow.away = "MLflow: connection refused"
    written = fill(spool, 20)

    with running(bare, mlflow, tables):
        until(lambda: len(tables.held) == 20)
        until(lambda: state(bare.data_dir).state == "waiting" and sink_state(bare.data_dir, "tables").shipped == 20)
        told = state(bare.data_dir)
        mlflow.away = None
        until(lambda: len(mlflow.held) == 20)

    assert told.reason == "mlflow: MLflow: connection refused"
    assert [(sink.name, sink.state, sink.waiting) for sink in told.sinks] == [
        ("mlflow", "waiting", 20),
        ("tables", "ready", 0),
    ]
    assert told.depth == 20
    assert mlflow.held_ids == tables.held_ids == ids(written)
    assert depth(bare.spool_dir) == 0


def test_each_sink_has_dead_letters_of_its_own(bare: Settings, spool: Spool[Interaction]) -> None:
    mlflow, tables = Scripted("mlflow"), Scripted("tables")
    bad, *_ = fill(spool, 5)
    tables.verdict = lambda one: Refused("no such column") if one.interaction_id == bad.interaction_id else Delivered()

    Shipper(bare, [route(bare, mlflow, tables)]).drain(time.monotonic() + 10)

    assert (len(mlflow.held), len(tables.held)) == (5, 4)
    assert dead_letters(spool.path) == [("tables", "no such column")]
    assert (sink_state(bare.data_dir, "tables").dead, state(bare.data_dir).dead) == (1, 1)
    assert depth(bare.spool_dir) == 0


def test_the_end_ships_what_is_left_and_does_not_wait_for_a_sink_that_is_away(
    bare: Settings, spool: Spool[Interaction]
) -> None:
    slow, away = Scripted("slow", linger_s=3600), Scripted("away")
    away.away = "away"
    with running(bare, slow, away):
        until(lambda: state(bare.data_dir).state == "waiting")
        fill(spool, 3)
        began = time.monotonic()

    assert time.monotonic() - began < 4
    assert (len(slow.held), len(away.held)) == (3, 0)


def test_the_account_says_how_old_the_oldest_record_is_and_when_a_sink_last_took_one(
    bare: Settings, spool: Spool[Interaction]
) -> None:
    began_ms = time.time_ns() // 1_000_000
    sink = Scripted()
    fill(spool, 1)
    Shipper(bare, [route(bare, sink)]).drain(time.monotonic() + 10)
    success_ms = sink_state(bare.data_dir, "mlflow").success_ms
    sink.away = "away"
    fill(spool, 1)
    Shipper(bare, [route(bare, sink)]).drain(time.monotonic() + 0.2)

    assert success_ms is not None
    assert success_ms >= began_ms
    oldest_ms = state(bare.data_dir).oldest_ms
    assert oldest_ms is not None
    assert oldest_ms >= success_ms


def test_an_account_of_another_release_is_read_as_far_as_it_is_known(data_dir: Path) -> None:
    (data_dir / "shipper.json").write_text(
        '{"state":"ready","reason":"","shipped":1,"depth":0,"dead":0,"pid":7,"updated_ms":0,"new":1,'
        '"sinks":[{"name":"mlflow","later":2}]}'
    )

    assert state(data_dir).sinks == (SinkState("mlflow"),)
    assert state(data_dir).run_ids is False


def test_a_damaged_file_is_salvaged_and_its_records_are_shipped(bare: Settings, spool: Spool[Interaction]) -> None:
    written = fill(spool, 3)
    spool.close()
    spool.path.rename(spool.path.with_name("worker-0.db.unread-20250101T000000-1"))
    sink = Scripted()

    with running(bare, sink):
        until(lambda: len(sink.held) == 3)

    assert sink.held_ids == ids(written)


def test_records_arrive_priced(bare: Settings) -> None:
    (interactions, *_) = routes(bare)

    assert interactions.prepare(plain()).cost_usd == 8 * 1.5e-07 + 4 * 7.5e-08 + 6 * 6e-07


def test_flush_brings_everything_to_mlflow_where_no_server_runs(settings: Settings) -> None:
    written = one_of_each()
    with closing(Spool[Interaction](settings.spool_dir / "worker-0.db")) as spool:
        for interaction in written:
            spool.append(interaction)

    assert flush(settings, timeout_s=30) == 0

    assert logged_ids(settings) == ids(written)


def test_flush_leaves_the_work_to_a_running_shipper_and_counts_what_is_left(
    bare: Settings, spool: Spool[Interaction]
) -> None:
    fill(spool, 4)
    with (bare.data_dir / "shipper.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        assert flush(bare, timeout_s=0.2) == 4


def test_flush_gives_up_in_time_where_mlflow_is_away(data_dir: Path, spool: Spool[Interaction]) -> None:
    fill(spool, 2)
    away = Settings(data_dir=data_dir, mlflow_tracking_uri="http://127.0.0.1:9")

    began = time.monotonic()
    left = flush(away, timeout_s=1.0)

    assert left == 2
    assert time.monotonic() - began < 30


@contextmanager
def process(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", SHIPPER, "--data-dir", str(settings.data_dir)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=child_environment(settings)
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def is_ready(settings: Settings) -> bool:
    told = ShipperState.read(settings.data_dir)
    return told is not None and told.state == "ready"


#: Runs of interactions; the runs of sessions have no such tag.
RUNS = "tags WHERE key = 'llmops.interaction_id'"


def query(settings: Settings, text: str) -> list[str]:
    with closing(sqlite3.connect(settings.data_dir / "mlflow.db")) as database:
        return [str(row[0]) for row in database.execute(text)]


def count(settings: Settings, table: str) -> int:
    return int(query(settings, f"SELECT count(*) FROM {table}")[0])


def logged_ids(settings: Settings) -> list[str]:
    """The id of every run that ended; each has a trace that names it."""
    ids = sorted(query(settings, f"SELECT value FROM {RUNS}"))
    ended = query(
        settings,
        "SELECT t.value FROM tags t JOIN runs USING (run_uuid) WHERE t.key = 'llmops.interaction_id' "
        "AND status != 'RUNNING'",
    )
    assert sorted(ended) == ids
    assert sorted(query(settings, "SELECT request_id FROM trace_info")) == sorted(f"tr-{one}" for one in ids)
    return ids


def test_a_shipper_killed_while_it_drains_leaves_nothing_lost_and_nothing_twice(settings: Settings) -> None:
    with closing(Spool[Interaction](settings.spool_dir / "worker-0.db")) as spool:
        written = fill(spool, 3000)

    with process(settings) as first:
        until(lambda: count(settings, RUNS) >= 8)
        first.send_signal(signal.SIGKILL)
        first.wait()
    left = depth(settings.spool_dir)
    with process(settings) as second:
        until(lambda: depth(settings.spool_dir) == 0)
        second.send_signal(signal.SIGTERM)
        ended = second.wait(20)

    assert left > 0
    assert logged_ids(settings) == ids(written)
    assert ended == 0


def test_sigterm_ships_what_is_left_and_the_leash_ends_a_shipper_without_a_parent(settings: Settings) -> None:
    with closing(Spool[Interaction](settings.spool_dir / "worker-0.db")) as spool, process(settings) as shipper:
        until(lambda: is_ready(settings))
        fill(spool, 40)
        assert shipper.stdin is not None
        shipper.stdin.close()
        ended = shipper.wait(20)

    assert ended == 0
    assert depth(settings.spool_dir) == 0
    assert count(settings, RUNS) == 40
