"""How much a spool holds is known without reading it, however much that is."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llmops.interactions.record import Interaction
from llmops.interactions.spool import Spool
from llmops.interactions.spool_size import SpoolSize, measure
from tests.interactions.records import plain
from tests.interactions.spooling import fill, reading

#: Enough that reading every page takes far more steps than the test allows.
MANY = 20_000
#: Steps of SQLite's machine; a thousand records cannot be looked at in so few.
FEW_STEPS = 3_000


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool[Interaction]]:
    with closing(Spool[Interaction](tmp_path / "worker-0.db")) as opened:
        yield opened


def deep(spool: Spool[Interaction]) -> None:
    content = plain().encode()
    with closing(sqlite3.connect(spool.path)) as database, database:
        rows = ((content, 1_000 + number) for number in range(MANY))
        database.executemany("INSERT INTO record (content, written_ms) VALUES (?, ?)", rows)


def limit_steps(database: sqlite3.Connection) -> None:
    """Interrupt whatever takes many steps."""
    database.set_progress_handler(lambda: 1, FEW_STEPS)


def test_a_new_spool_holds_nothing(spool: Spool[Interaction]) -> None:
    size = measure(spool.path)

    assert (size.depth, size.oldest_ms, size.waiting, size.dead) == (0, None, {}, {})


def test_before_a_sink_was_seen_everything_waits(spool: Spool[Interaction]) -> None:
    fill(spool, 3)

    assert measure(spool.path).depth == 3


def test_a_deep_spool_is_measured_in_few_steps(spool: Spool[Interaction], monkeypatch: pytest.MonkeyPatch) -> None:
    deep(spool)
    with closing(reading(spool.path)) as reader:
        reader.lease(10, 0)
    connect = sqlite3.connect

    def limited(*args: object, **kwargs: object) -> sqlite3.Connection:
        database: sqlite3.Connection = connect(*args, **kwargs)  # type: ignore[call-overload]
        limit_steps(database)
        return database

    monkeypatch.setattr(sqlite3, "connect", limited)

    size = measure(spool.path)

    assert size.depth == size.waiting["mlflow"] == MANY
    assert size.oldest_ms == 1_000


def test_the_next_batch_of_a_deep_spool_is_found_in_few_steps(spool: Spool[Interaction]) -> None:
    deep(spool)
    with closing(reading(spool.path, "mlflow", "tables")) as ahead:
        while leased := ahead.lease(5_000, 0):
            ahead.ack(leased)
        limit_steps(ahead._db)

        assert ahead.lease(10, 0) == []
    with closing(reading(spool.path, "tables", "mlflow")) as behind:
        limit_steps(behind._db)
        leased = behind.lease(10, 0)
        behind.ack(leased)
        assert len(behind.lease(10, 0)) == 10


def test_a_spool_is_full_at_its_limit_and_has_room_again_well_below(
    tmp_path: Path,
) -> None:
    with closing(Spool[Interaction](tmp_path / "worker-0.db", max_mb=1)) as spool:
        spool.check()
        empty = spool.full
        fill(spool, 600)
        spool.check()
        full = spool.full
        with closing(reading(spool.path)) as reader:
            reader.ack(reader.lease(60, 0))
            spool.check()
            nearly_full = spool.full
            reader.ack(reader.lease(200, 0))
        spool.check()

        assert (empty, full, nearly_full, spool.full) == (False, True, True, False)


def test_sizes_are_whole(spool: Spool[Interaction]) -> None:
    fill(spool, 100)

    size = measure(spool.path)

    assert isinstance(size, SpoolSize)
    assert size.live_bytes > 100 * len(plain().encode())
