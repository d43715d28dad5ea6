"""The shipper: every record arrives once, whatever dies, and one that cannot arrive does not keep the others."""

import fcntl
import logging
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from llmops.errors import Unavailable
from llmops.interactions.record import Interaction
from llmops.interactions.shipper import Shipper, flush
from llmops.interactions.shipper_state import ShipperState
from llmops.interactions.sink import Delivered, Outcome, Refused, Retry
from llmops.interactions.spool import Leased, Spool, depth
from llmops.settings import Settings, child_environment
from tests.interactions.records import one_of_each, plain

SHIPPER = "llmops.interactions.shipper"


class Scripted:
    """A sink in memory that does what the test says with each record."""

    batch = 8

    def __init__(self) -> None:
        self.held: list[Interaction] = []
        self.tries: list[int] = []
        self.away: str | None = None
        self.verdict: Callable[[Interaction], Outcome] = lambda interaction: Delivered()

    def open(self) -> None:
        if self.away:
            raise Unavailable(self.away)

    def deliver(self, batch: Sequence[Leased]) -> list[Outcome]:
        self.open()
        self.tries += [one.tries for one in batch]
        outcomes = [self.verdict(one.interaction) for one in batch]
        pairs = zip(batch, outcomes, strict=True)
        self.held += [one.interaction for one, outcome in pairs if isinstance(outcome, Delivered)]
        return outcomes

    @property
    def held_ids(self) -> list[str]:
        return sorted(interaction.interaction_id for interaction in self.held)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def spool(data_dir: Path) -> Iterator[Spool]:
    with closing(Spool(data_dir / "spool" / "worker-0.db")) as opened:
        yield opened


@pytest.fixture
def sink() -> Scripted:
    return Scripted()


@pytest.fixture
def shipper(data_dir: Path, sink: Scripted) -> Iterator[Shipper]:
    with closing(Shipper(Settings(data_dir=data_dir), [sink])) as opened:
        yield opened


def fill(spool: Spool, count: int) -> list[Interaction]:
    interactions = [plain() for _ in range(count)]
    for interaction in interactions:
        spool.append(interaction)
    return interactions


def ids(interactions: Sequence[Interaction]) -> list[str]:
    return sorted(interaction.interaction_id for interaction in interactions)


def dead_letters(spool: Spool) -> list[str]:
    with closing(sqlite3.connect(spool.path)) as database:
        return [reason for (reason,) in database.execute("SELECT reason FROM dead")]


def state(data_dir: Path) -> ShipperState:
    found = ShipperState.read(data_dir)
    assert found is not None
    return found


def test_records_of_every_worker_arrive_priced(data_dir: Path, spool: Spool, sink: Scripted, shipper: Shipper) -> None:
    written = fill(spool, 20)
    with closing(Spool(data_dir / "spool" / "worker-1.db")) as other:
        written += fill(other, 3)

    shipper.drain(time.monotonic() + 10)

    assert sink.held_ids == ids(written)
    assert {one.cost_usd for one in sink.held} == {8 * 1.5e-07 + 4 * 7.5e-08 + 6 * 6e-07}
    assert depth(data_dir / "spool") == 0


def test_a_sink_that_is_away_gets_everything_when_it_is_back(
    data_dir: Path, spool: Spool, sink: Scripted, shipper: Shipper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    written = fill(spool, 20)
    shipper.step()
    sink.away = "MLflow: connection refused"
    waits = [shipper.step() for _ in range(6)]
    away = state(data_dir)
    sink.away = None
    shipper.drain(time.monotonic() + 10)

    assert (away.state, away.reason) == ("waiting", "MLflow: connection refused")
    assert waits[-1] > waits[0]
    assert state(data_dir).state == "ready"
    assert sink.held_ids == ids(written)
    changes = [record.getMessage().split()[1] for record in caplog.records if "event=shipper" in record.getMessage()]
    assert changes == ["state=ready", "state=waiting", "state=ready"]


def test_a_sink_that_cannot_be_opened_is_opened_later(
    data_dir: Path, spool: Spool, sink: Scripted, shipper: Shipper
) -> None:
    fill(spool, 1)
    sink.away = "MLflow: the disk is full"

    shipper.step()
    waiting = state(data_dir)
    sink.away = None
    shipper.step()

    assert (waiting.state, waiting.reason, waiting.depth) == ("waiting", "MLflow: the disk is full", 1)
    assert sink.tries == [1]


def test_a_refused_record_becomes_a_dead_letter_and_the_others_arrive(
    spool: Spool, sink: Scripted, shipper: Shipper
) -> None:
    bad, *good = fill(spool, 5)
    sink.verdict = lambda one: Refused("MLflow: 400") if one.interaction_id == bad.interaction_id else Delivered()

    shipper.drain(time.monotonic() + 10)

    assert sink.held_ids == ids(good)
    assert dead_letters(spool) == ["MLflow: 400"]


def test_a_record_that_always_fails_is_buried_while_others_arrive(
    spool: Spool, sink: Scripted, shipper: Shipper
) -> None:
    bad = fill(spool, 1)[0]
    sink.verdict = lambda one: Retry("MLflow: 500") if one.interaction_id == bad.interaction_id else Delivered()

    for _ in range(20):
        fill(spool, 1)
        shipper.step(patient=False)
        shipper.step(patient=False)

    assert len(sink.held) == 20
    assert dead_letters(spool) == ["failed 16 times: MLflow: 500"]


def test_nothing_is_buried_while_the_sink_is_away(spool: Spool, sink: Scripted, shipper: Shipper) -> None:
    fill(spool, 3)
    shipper.step()
    fill(spool, 3)
    sink.verdict = lambda one: Retry("MLflow: 500")
    for _ in range(120):
        shipper.step(patient=False)

    assert dead_letters(spool) == []
    assert depth(spool.path.parent) == 3


def test_a_record_that_makes_the_sink_crash_does_not_keep_the_others(
    spool: Spool, sink: Scripted, shipper: Shipper, caplog: pytest.LogCaptureFixture
) -> None:
    bad, *good = fill(spool, 6)

    def crash(interaction: Interaction) -> Outcome:
        if interaction.interaction_id == bad.interaction_id:
            raise ZeroDivisionError
        return Delivered()

    sink.verdict = crash
    for _ in range(10):
        shipper.step()

    assert sink.held_ids == ids(good)
    assert "ZeroDivisionError while delivering" in caplog.text


def test_a_damaged_spool_does_not_keep_the_others(
    data_dir: Path, spool: Spool, sink: Scripted, shipper: Shipper
) -> None:
    (data_dir / "spool" / "a-damaged-one.db").write_bytes(b"no database" * 1000)
    written = fill(spool, 3)

    shipper.step()

    assert sink.held_ids == ids(written)
    assert "not a spool file" in state(data_dir).reason


def test_flush_brings_everything_to_mlflow_where_no_server_runs(settings: Settings) -> None:
    written = one_of_each()
    with closing(Spool(settings.spool_dir / "worker-0.db")) as spool:
        for interaction in written:
            spool.append(interaction)

    assert flush(settings, timeout_s=30) == 0

    assert logged_ids(settings) == ids(written)


def test_flush_leaves_the_work_to_a_running_shipper_and_counts_what_is_left(data_dir: Path, spool: Spool) -> None:
    fill(spool, 4)
    with (data_dir / "shipper.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        assert flush(Settings(data_dir=data_dir), timeout_s=0.2) == 4


def test_flush_gives_up_in_time_where_mlflow_is_away(data_dir: Path, spool: Spool) -> None:
    fill(spool, 2)
    away = Settings(data_dir=data_dir, mlflow_tracking_uri="http://127.0.0.1:9")

    began = time.monotonic()
    left = flush(away, timeout_s=1.0)

    assert left == 2
    assert time.monotonic() - began < 5


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


def until(condition: Callable[[], bool], limit_s: float = 30) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come to pass")
        time.sleep(0.01)


def is_ready(settings: Settings) -> bool:
    told = ShipperState.read(settings.data_dir)
    return told is not None and told.state == "ready"


#: Runs of interactions; the runs of sessions have no such tag.
RUNS = "tags WHERE key = 'llmops.interaction_id'"


def count(settings: Settings, table: str) -> int:
    with closing(sqlite3.connect(settings.data_dir / "mlflow.db")) as database:
        (found,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(found)


def logged_ids(settings: Settings) -> list[str]:
    client = MlflowClient(settings.tracking_uri)
    experiments = [one.experiment_id for one in client.search_experiments(filter_string="name LIKE 'llmops/%'")]
    ended = client.search_runs(experiments, "attributes.status != 'RUNNING'")
    runs = [run for run in ended if "llmops.interaction_id" in run.data.tags]
    traces = client.search_traces(locations=experiments, include_spans=True)
    ids = sorted(run.data.tags["llmops.interaction_id"] for run in runs)
    linked = {run.info.run_id: f"tr-{run.data.tags['llmops.interaction_id']}" for run in runs}
    assert {trace.info.trace_metadata["mlflow.sourceRun"]: trace.info.trace_id for trace in traces} == linked
    assert all(trace.data.spans for trace in traces)
    return ids


def test_a_shipper_killed_while_it_drains_leaves_nothing_lost_and_nothing_twice(settings: Settings) -> None:
    with closing(Spool(settings.spool_dir / "worker-0.db")) as spool:
        written = fill(spool, 40)

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
    assert count(settings, RUNS) == count(settings, "trace_info") == 40
    assert logged_ids(settings) == ids(written)
    assert ended == 0


def test_sigterm_ships_what_is_left_and_the_leash_ends_a_shipper_without_a_parent(settings: Settings) -> None:
    with closing(Spool(settings.spool_dir / "worker-0.db")) as spool, process(settings) as shipper:
        until(lambda: is_ready(settings))
        fill(spool, 40)
        assert shipper.stdin is not None
        shipper.stdin.close()
        ended = shipper.wait(20)

    assert ended == 0
    assert depth(settings.spool_dir) == 0
    assert count(settings, RUNS) == 40
