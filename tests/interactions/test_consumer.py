"""One sink and its spools: every record arrives once, and one that cannot arrive does not keep the others."""

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from llmops.interactions.consumer import Consumer
from llmops.interactions.record import Interaction
from llmops.interactions.sink import Delivered, Outcome, Refused, Retry
from llmops.interactions.spool import Spool, depth
from llmops.settings import Settings
from tests.interactions.scripted_sink import Scripted, route
from tests.interactions.spooling import dead_letters, fill, ids, reading


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def spool(settings: Settings) -> Iterator[Spool[Interaction]]:
    with closing(Spool[Interaction](settings.spool_dir / "worker-0.db")) as opened:
        yield opened


@pytest.fixture
def sink() -> Scripted:
    return Scripted()


@pytest.fixture
def consumer(settings: Settings, sink: Scripted) -> Iterator[Consumer[Interaction]]:
    with closing(Consumer(route(settings, sink), sink, full_sync=False)) as opened:
        yield opened


def test_records_of_every_worker_arrive_prepared(settings: Settings, spool: Spool[Interaction], sink: Scripted) -> None:
    written = fill(spool, 20)
    with closing(Spool[Interaction](settings.spool_dir / "worker-1.db")) as other:
        written += fill(other, 3)
    priced = replace(route(settings, sink), prepare=lambda one: replace(one, cost_usd=0.5))

    Consumer(priced, sink, full_sync=False).drain(time.monotonic() + 10)

    assert sink.held_ids == ids(written)
    assert {one.cost_usd for one in sink.held} == {0.5}
    assert depth(settings.spool_dir) == 0


def test_a_sink_that_is_away_gets_everything_in_order_when_it_is_back(
    spool: Spool[Interaction], sink: Scripted, consumer: Consumer[Interaction], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    written = fill(spool, 20)
    consumer.step()
    sink.away = "MLflow: connection refused"
    waits = [consumer.step() for _ in range(20)]
    away = consumer.state
    sink.away = None
    consumer.drain(time.monotonic() + 10)

    assert (away.state, away.reason) == ("waiting", "MLflow: connection refused")
    assert waits[-1] > waits[0]
    assert [one.interaction_id for one in sink.held] == [one.interaction_id for one in written]
    assert consumer.state.state == "ready"
    changes = [record.getMessage().split()[2] for record in caplog.records if "event=shipper" in record.getMessage()]
    assert changes == ["state=ready", "state=waiting", "state=ready"]


def test_a_sink_that_says_when_it_is_back_is_not_asked_before(
    spool: Spool[Interaction], sink: Scripted, consumer: Consumer[Interaction]
) -> None:
    fill(spool, 1)
    sink.away, sink.retry_after_s = "MLflow: 429", 30

    assert consumer.step() == 30.0


def test_a_sink_that_cannot_be_opened_is_opened_later(
    spool: Spool[Interaction], sink: Scripted, consumer: Consumer[Interaction]
) -> None:
    fill(spool, 1)
    sink.away = "MLflow: the disk is full"

    consumer.step()
    waiting = consumer.state
    sink.away = None
    consumer.step()

    assert (waiting.state, waiting.reason) == ("waiting", "MLflow: the disk is full")
    assert sink.tries == [1]


def test_a_refused_record_becomes_a_dead_letter_and_the_others_arrive(
    spool: Spool[Interaction], sink: Scripted, consumer: Consumer[Interaction]
) -> None:
    bad, *good = fill(spool, 5)
    sink.verdict = lambda one: Refused("MLflow: 400") if one.interaction_id == bad.interaction_id else Delivered()

    consumer.drain(time.monotonic() + 10)

    assert sink.held_ids == ids(good)
    assert dead_letters(spool.path) == [("mlflow", "MLflow: 400")]


def test_a_record_that_always_fails_is_buried_while_others_arrive(
    spool: Spool[Interaction], sink: Scripted, consumer: Consumer[Interaction]
) -> None:
    bad = fill(spool, 1)[0]
    sink.verdict = lambda one: Retry("MLflow: 500") if one.interaction_id == bad.interaction_id else Delivered()

    for _ in range(20):
        fill(spool, 1)
        consumer.step(patient=False)
        consumer.step(patient=False)

    assert len(sink.held) == 20
    assert dead_letters(spool.path) == [("mlflow", "failed 16 times: MLflow: 500")]


def test_nothing_is_buried_while_the_sink_takes_nothing(
    settings: Settings, spool: Spool[Interaction], sink: Scripted, consumer: Consumer[Interaction]
) -> None:
    fill(spool, 3)
    consumer.step()
    fill(spool, 3)
    sink.verdict = lambda one: Retry("MLflow: 500")
    for _ in range(120):
        consumer.step(patient=False)

    assert dead_letters(spool.path) == []
    assert depth(settings.spool_dir) == 3


def test_a_record_that_makes_the_sink_crash_does_not_keep_the_others(
    spool: Spool[Interaction], sink: Scripted, consumer: Consumer[Interaction], caplog: pytest.LogCaptureFixture
) -> None:
    bad, *good = fill(spool, 6)

    def crash(interaction: Interaction) -> Outcome:
        if interaction.interaction_id == bad.interaction_id:
            raise ZeroDivisionError
        return Delivered()

    sink.verdict = crash
    for _ in range(10):
        consumer.step()

    assert sink.held_ids == ids(good)
    assert "ZeroDivisionError while delivering" in caplog.text


def test_a_sink_that_loses_count_is_not_believed(
    settings: Settings, spool: Spool[Interaction], sink: Scripted, consumer: Consumer[Interaction]
) -> None:
    fill(spool, 2)
    sink.deliver = lambda batch: [Delivered()]  # type: ignore[method-assign]

    consumer.step()

    assert consumer.state.reason == "RuntimeError while delivering"
    assert depth(settings.spool_dir) == 2


def test_a_file_that_is_no_spool_is_moved_aside_and_does_not_keep_the_others(
    settings: Settings, spool: Spool[Interaction], sink: Scripted, consumer: Consumer[Interaction]
) -> None:
    stranger = settings.spool_dir / "a-damaged-one.db"
    stranger.write_bytes(b"no database" * 1000)
    written = fill(spool, 3)

    consumer.step()

    assert sink.held_ids == ids(written)
    assert "not a spool file" in consumer.state.reason
    assert not stranger.exists()
    assert consumer.step() > 0
    assert consumer.state.state == "ready"


def test_a_sink_that_lingers_gets_a_whole_batch_at_once_and_less_of_it_only_later(
    settings: Settings, spool: Spool[Interaction]
) -> None:
    sink = Scripted(batch=8, linger_s=3600)
    with closing(Consumer(route(settings, sink), sink, full_sync=False)) as consumer:
        fill(spool, 10)
        consumer.step()
        consumer.step()
        lingering = len(sink.held)
        consumer.drain(time.monotonic() + 10)

    assert lingering == 8
    assert len(sink.held) == 10


def test_a_record_lingers_no_longer_than_it_may(spool: Spool[Interaction]) -> None:
    fill(spool, 1)
    now_ms = time.time_ns() // 1_000_000
    with closing(reading(spool.path)) as reader:
        assert reader.lease(8, now_ms, linger_s=60) == []
        assert len(reader.lease(8, now_ms + 60_000, linger_s=60)) == 1


def test_a_spool_that_was_replaced_is_opened_anew(
    spool: Spool[Interaction], sink: Scripted, consumer: Consumer[Interaction]
) -> None:
    fill(spool, 1)
    consumer.step()
    spool.close()
    for name in ("worker-0.db", "worker-0.db-wal", "worker-0.db-shm"):
        spool.path.with_name(name).unlink(missing_ok=True)
    fill(spool, 1)

    consumer.step()

    assert len({spool_id for spool_id, _ in sink.seen}) == 2
