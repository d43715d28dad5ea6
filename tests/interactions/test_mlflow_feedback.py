"""The sink of feedback: it waits for traces without blame, however long, and every opinion is there once."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Assessment

from llmops.interactions.consumer import Consumer, Route
from llmops.interactions.feedback import Feedback
from llmops.interactions.mlflow_feedback import FeedbackSink
from llmops.interactions.mlflow_store import open_store
from llmops.interactions.record import Interaction, new_id
from llmops.interactions.sink import Delivered, Later, Refused
from llmops.interactions.spool import Leased, Spool
from llmops.interactions.spool_reader import SpoolReader
from llmops.settings import Settings
from tests.interactions.deliveries import delivered
from tests.interactions.records import plain
from tests.interactions.spooling import append, dead_letters, plains, reading

MINUTE_NS = 60 * 10**9


class Clock:
    """The time of day, which tests set forward."""

    def __init__(self) -> None:
        self._true_ns = time.time_ns
        self.ahead_ns = 0

    def time_ns(self) -> int:
        return self._true_ns() + self.ahead_ns

    def forward(self, minutes: float) -> None:
        self.ahead_ns += round(minutes * MINUTE_NS)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time_ns", clock.time_ns)
    return clock


@pytest.fixture
def settings(either_store: Settings) -> Settings:
    return either_store


@pytest.fixture
def box(settings: Settings) -> Iterator[Spool[Feedback]]:
    """Where feedback waits."""
    with closing(Spool[Feedback](settings.feedback_dir / "worker-0.db")) as opened:
        yield opened


@pytest.fixture
def consumer(settings: Settings) -> Iterator[Consumer[Feedback]]:
    with closing(new_consumer(settings)) as opened:
        yield opened


def new_consumer(settings: Settings) -> Consumer[Feedback]:
    sink = FeedbackSink(settings)
    return Consumer(Route(settings.feedback_dir, Feedback.decode, lambda one: one, (sink,)), sink, full_sync=False)


def about(one: Interaction, **more: Any) -> Feedback:
    return replace(Feedback.read({"interaction_id": one.interaction_id, "value": True}), **more)


def assessments(settings: Settings, one: Interaction) -> list[Assessment]:
    return list(open_store(settings).get_trace_info(one.trace_id).assessments)


def strikes(path: Path) -> list[tuple[int, int]]:
    """Blame and tries of what waits."""
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT strikes, tries FROM lease").fetchall()


def test_feedback_waits_unblamed_while_its_interaction_is_in_the_spool(
    settings: Settings, box: Spool[Feedback], consumer: Consumer[Feedback], clock: Clock
) -> None:
    """A backlog of more than an hour, while feedback on other answers succeeds between its tries."""
    shipped, late = plains(2)
    delivered(settings, shipped)
    spool = Spool[Interaction](settings.spool_dir / "worker-0.db")
    append(spool, [late])
    spool.close()
    box.append(about(late))
    states = []
    for _ in range(80):
        box.append(about(shipped))
        states.append((consumer.step(), consumer.state.state)[1])
        clock.forward(1)

    assert set(states) == {"ready"}
    assert dead_letters(box.path) == []
    [(blame, tries)] = strikes(box.path)
    assert blame == 0
    assert 60 < tries <= 80
    assert len(assessments(settings, shipped)) == 80

    with closing(reading(spool.path)) as reader:
        reader.ack(reader.lease(1, 0, patient=False))
    delivered(settings, late)
    consumer.step()
    assert len(assessments(settings, late)) == 1
    assert strikes(box.path) == []


def test_feedback_is_looked_at_less_and_less_often(
    settings: Settings, box: Spool[Feedback], consumer: Consumer[Feedback], clock: Clock
) -> None:
    late = plain()
    box.append(about(late))
    tries = []
    for _ in range(55):
        consumer.step()
        clock.forward(1 / 60)
        tries.append(strikes(box.path)[0][1])

    assert tries[-1] < 10


def test_a_shipper_that_ends_leaves_feedback_that_waits_to_the_next(
    settings: Settings, box: Spool[Feedback], clock: Clock
) -> None:
    shipped = plain()
    delivered(settings, shipped)
    box.append(about(plain()))
    box.append(about(shipped))
    began_s = time.monotonic()

    new_consumer(settings).drain(began_s + 60, ending=True)

    assert time.monotonic() - began_s < 30
    assert len(assessments(settings, shipped)) == 1
    assert len(strikes(box.path)) == 1


def test_feedback_on_what_is_nowhere_becomes_a_dead_letter_after_a_minute(
    settings: Settings, box: Spool[Feedback], consumer: Consumer[Feedback], clock: Clock
) -> None:
    nowhere = replace(plain(), interaction_id=new_id())
    box.append(about(nowhere))
    consumer.step()
    waiting = consumer.state.state, dead_letters(box.path)
    clock.forward(1.1)
    with closing(Spool[Interaction](settings.spool_dir / "worker-0.db")) as spool:
        clock.forward(2)
        append(spool, plains(1))  # Written long after: it cannot be the one.
        consumer.step()

    assert waiting == ("ready", [])
    [(_, reason)] = dead_letters(box.path)
    assert reason == (
        f"MLflow has no trace {nowhere.trace_id}: the id is wrong, or that interaction is not recorded or was deleted"
    )


def test_a_stream_that_ends_after_the_feedback_is_waited_for(settings: Settings, clock: Clock) -> None:
    streaming = plain()
    early = about(streaming)
    clock.forward(0.5)
    with closing(Spool[Interaction](settings.spool_dir / "worker-0.db")) as spool:
        append(spool, [streaming])
    clock.forward(60)
    sink = FeedbackSink(settings)
    sink.open()

    [outcome] = sink.deliver([Leased(early, 1, 1, Path("worker-0.db"))])
    assert isinstance(outcome, Later)


def test_an_interaction_that_only_a_table_waits_for_is_not_on_its_way(settings: Settings, clock: Clock) -> None:
    with closing(Spool[Interaction](settings.spool_dir / "worker-0.db")) as spool:
        append(spool, plains(1))
        with closing(reading(spool.path, "mlflow", "tables")) as reader:
            reader.ack(reader.lease(8, 0))
    lost = about(plain())
    clock.forward(2)
    sink = FeedbackSink(settings)
    sink.open()

    [outcome] = sink.deliver([Leased(lost, 1, 1, Path("worker-0.db"))])
    assert isinstance(outcome, Refused)


def test_feedback_that_is_delivered_again_is_there_once(settings: Settings, box: Spool[Feedback]) -> None:
    """The shipper was killed after the delivery and before the acknowledgement."""
    one = plain()
    delivered(settings, one)
    box.append(about(one, value="good", user="ada"))
    with closing(new_consumer(settings)) as first:
        first.sink.open()
        with closing(SpoolReader(box.path, Feedback.decode, "feedback", ["feedback"])) as reader:
            [outcome] = first.sink.deliver(reader.lease(8, 0))
        assert isinstance(outcome, Delivered)

    with closing(new_consumer(settings)) as second:
        second.step()

    [there] = assessments(settings, one)
    assert (there.name, there.source.source_id) == ("user_feedback", "ada")
    assert strikes(box.path) == []
