"""The spool: what is appended is there, whoever is killed, and nothing in it can stop the shipper."""

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from llmops.errors import SpoolError
from llmops.interactions.record import Interaction
from llmops.interactions.spool import Spool, depth, spools
from llmops.interactions.spool_reader import ALONE_FROM_STRIKES, SpoolReader
from llmops.interactions.spool_size import measure
from tests.interactions.records import one_of_each, plain
from tests.interactions.spooling import append, plains, reading

WRITER = """
import sys
from pathlib import Path
from llmops.interactions.spool import Spool
from tests.interactions.records import plain
spool = Spool(Path(sys.argv[1]))
for _ in range(100_000):
    interaction = plain()
    spool.append(interaction)
    sys.stdout.write(interaction.interaction_id + "\\n")
    sys.stdout.flush()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "worker-0.db"


@pytest.fixture
def spool(path: Path) -> Iterator[Spool[Interaction]]:
    with closing(Spool[Interaction](path)) as opened:
        yield opened


@pytest.fixture
def reader(path: Path) -> Iterator[SpoolReader[Interaction]]:
    with closing(reading(path)) as opened:
        yield opened


@pytest.mark.parametrize("full_sync", [False, True])
def test_a_record_comes_back_as_it_was_written(path: Path, reader: SpoolReader[Interaction], full_sync: bool) -> None:
    written = one_of_each()
    with closing(Spool[Interaction](path, full_sync=full_sync)) as spool:
        append(spool, written)

    leased = reader.lease(limit=100, now_ms=0)

    assert [one.record for one in leased] == written
    assert {one.tries for one in leased} == {1}


def test_a_record_survives_kill_nine(path: Path, reader: SpoolReader[Interaction]) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline().strip() for _ in range(200)]
        writer.send_signal(signal.SIGKILL)

    leased = reader.lease(limit=100_000, now_ms=0)

    assert [one.record.interaction_id for one in leased][:200] == acknowledged


def test_a_lease_a_dead_shipper_left_is_taken_over_and_recognised(
    path: Path, spool: Spool[Interaction], reader: SpoolReader[Interaction]
) -> None:
    append(spool, plains(3))
    with closing(reading(path)) as dead:
        dead.lease(limit=2, now_ms=0)

    taken = reader.lease(limit=10, now_ms=0)

    assert [one.tries for one in taken] == [2, 2, 1]


def test_acked_records_are_gone_and_released_ones_wait(
    spool: Spool[Interaction], reader: SpoolReader[Interaction]
) -> None:
    append(spool, plains(3))
    first, second, _ = reader.lease(limit=3, now_ms=0)

    reader.ack([first])
    reader.release([second], "MLflow is away", retry_at_ms=5_000)

    assert [one.seq for one in reader.lease(limit=3, now_ms=4_999)] == [3]
    assert [one.seq for one in reader.lease(limit=3, now_ms=5_000)] == [2, 3]
    assert reader.waiting() == 2


def test_a_record_that_failed_often_is_leased_alone(
    spool: Spool[Interaction], reader: SpoolReader[Interaction]
) -> None:
    append(spool, plains(3))
    first, second, third = reader.lease(limit=3, now_ms=0)
    for _ in range(ALONE_FROM_STRIKES - 1):
        reader.lease(limit=1, now_ms=0)

    alone = reader.lease(limit=3, now_ms=0)
    reader.ack(alone)
    others = reader.lease(limit=3, now_ms=0)

    assert [one.seq for one in alone] == [first.seq]
    assert [one.seq for one in others] == [second.seq, third.seq]


@pytest.mark.parametrize(
    "content",
    [b"", b"not JSON", b"[]", b"7", b"{}", b'{"interaction_id": "0"}', b'{"usage": 7}', b'{"attempts": null}'],
)
def test_a_corrupt_row_becomes_a_dead_letter_with_a_reason(
    path: Path, spool: Spool[Interaction], reader: SpoolReader[Interaction], content: bytes
) -> None:
    append(spool, plains(2))
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("UPDATE record SET content = ? WHERE seq = 1", (content,))

    leased = reader.lease(limit=10, now_ms=0)

    assert [one.seq for one in leased] == [2]
    assert reader.waiting() == 1
    ((record, reason),) = database.execute("SELECT content, reason FROM dead").fetchall()
    database.close()
    assert record == content
    assert reason.startswith("the record cannot be decoded")


def test_what_a_sink_refuses_is_buried_whole(
    path: Path, spool: Spool[Interaction], reader: SpoolReader[Interaction]
) -> None:
    append(spool, plains(2))
    refused, _ = reader.lease(limit=2, now_ms=0)

    reader.bury(refused, "MLflow: 400")

    database = sqlite3.connect(path)
    ((record, reason),) = database.execute("SELECT content, reason FROM dead").fetchall()
    database.close()
    assert (record, reason) == (refused.record.encode(), "MLflow: 400")
    assert (reader.waiting(), measure(path).dead) == (1, {"mlflow": 1})


def test_a_full_disk_is_said_and_what_was_written_stays(
    spool: Spool[Interaction], reader: SpoolReader[Interaction]
) -> None:
    spool.append(plain())
    pages = spool._file().execute("PRAGMA page_count").fetchone()[0]
    spool._file().execute(f"PRAGMA max_page_count = {pages + 2}")

    with pytest.raises(SpoolError, match="disk is full"):
        append(spool, plains(10))
    with pytest.raises(SpoolError, match="disk is full"):
        spool.check()

    assert reader.waiting() >= 1


def test_a_read_only_file_is_said(spool: Spool[Interaction]) -> None:
    spool._file().execute("PRAGMA query_only = ON")

    with pytest.raises(SpoolError, match="read-only"):
        spool.append(plain())


def test_a_lock_held_too_long_is_said_and_the_next_append_works(path: Path, spool: Spool[Interaction]) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(SpoolError, match="holds its lock"):
        spool.append(plain())
    other.close()
    spool.append(plain())

    assert depth(path.parent) == 1


def test_a_path_that_is_a_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "worker-0.db").mkdir()

    with pytest.raises(SpoolError, match="cannot be opened"):
        Spool[Interaction](tmp_path / "worker-0.db").check()


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")

    with pytest.raises(SpoolError, match="directory must be writable"):
        Spool[Interaction](tmp_path / "spool" / "worker-0.db").check()


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "worker-0.db").write_bytes(b"this is no database, and never was one" * 100)

    with pytest.raises(SpoolError, match="not a spool file"):
        reading(tmp_path / "worker-0.db")


def test_a_writable_spool_proves_itself_and_stays_empty(path: Path, spool: Spool[Interaction]) -> None:
    spool.check()

    assert depth(path.parent) == 0


def test_a_batch_of_huge_records_is_cut(spool: Spool[Interaction], reader: SpoolReader[Interaction]) -> None:
    huge = replace(plain(), request="x" * 4 * 1024 * 1024)
    append(spool, [huge] * 4)

    assert len(reader.lease(limit=100, now_ms=0)) == 2


def test_a_reader_keeps_the_log_file_small_while_a_worker_appends(
    path: Path, spool: Spool[Interaction], reader: SpoolReader[Interaction]
) -> None:
    interaction = plain()
    for _ in range(100):
        append(spool, [interaction] * 100)
        reader.ack(reader.lease(limit=100, now_ms=0))

    assert reader.waiting() == 0
    assert path.with_name(path.name + "-wal").stat().st_size < 8_000_000


def test_a_worker_and_a_shipper_use_one_file_at_once(
    spool: Spool[Interaction], reader: SpoolReader[Interaction]
) -> None:
    written = plains(500)
    worker = threading.Thread(target=append, args=(spool, written))
    worker.start()

    seen: list[str] = []
    while len(seen) < 500 and (worker.is_alive() or reader.waiting()):
        leased = reader.lease(limit=50, now_ms=0)
        seen += [one.record.interaction_id for one in leased]
        reader.ack(leased)
    worker.join()

    assert seen == [interaction.interaction_id for interaction in written]


def test_no_directory_holds_no_spools(tmp_path: Path) -> None:
    assert spools(tmp_path / "nowhere") == []
    assert depth(tmp_path / "nowhere") == 0
