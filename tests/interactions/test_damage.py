"""Damaged spool files: whatever byte is missing or wrong, what can be read arrives, and the worker goes on."""

import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from llmops.interactions.consumer import Consumer, Route
from llmops.interactions.damage import damaged_files, salvage, set_aside, unread_files
from llmops.interactions.record import Interaction
from llmops.interactions.spool import Spool, spools
from llmops.interactions.spool_size import measure
from llmops.settings import Settings
from tests.interactions.records import plain
from tests.interactions.scripted_sink import Scripted
from tests.interactions.spooling import dead_letters, fill, reading, stored

Left = tuple[Path, list[Interaction]]

PAGE = 4096
FRAME_HEAD = 24
#: Of a page, where all would take minutes: its head, its end, and some between.
OFFSETS = [0, 1, 2, 7, 8, 9, *range(13, PAGE - 1, 397), PAGE - 1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def killed(folder: Path, tmp_path: Path) -> Left:
    """What a killed worker leaves: 30 records in the file, 10 more in its log."""
    folder.mkdir()
    left = tmp_path / "left"
    left.mkdir()
    with closing(Spool[Interaction](tmp_path / "running" / "worker-0.db")) as spool:
        written = fill(spool, 30)
        spool._file().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        written += fill(spool, 10)
        for name in ("worker-0.db", "worker-0.db-wal"):
            shutil.copy(spool.path.with_name(name), left / name)
    return left, written


def start_again(folder: Path, left: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(left, folder)
    with closing(Spool[Interaction](folder / "worker-0.db")) as spool:
        spool.append(plain())


def arrived(folder: Path) -> list[str]:
    """The ids of what a shipper gets, in order; what it finds damaged it moves aside, and salvages."""
    sink = Scripted(batch=5)
    settings = Settings(data_dir=folder.parent)
    consumer = Consumer(Route(folder, Interaction.decode, lambda one: one, [sink]), sink, full_sync=False)
    for _ in range(3):
        while consumer.step(patient=False) == 0.0:
            pass
        salvage(settings.spool_dir, [sink.name], settled_s=0)
    consumer.close()
    return [one.interaction_id for one in sink.held]


def lost(folder: Path, written: list[Interaction]) -> list[int]:
    """Which of the records did not arrive; none arrived twice, and the one written after the start did."""
    found = arrived(folder)
    assert len(found) == len(set(found))
    places = {one.interaction_id: place for place, one in enumerate(written)}
    assert len(set(found) - set(places)) == 1
    return [place for name, place in places.items() if name not in found]


@pytest.mark.parametrize("offset", OFFSETS)
def test_a_log_cut_in_its_last_page_loses_at_most_the_record_that_was_being_written(
    killed: Left, folder: Path, offset: int
) -> None:
    left, written = killed
    log = left / "worker-0.db-wal"
    frame = log.stat().st_size - PAGE - FRAME_HEAD
    os.truncate(log, frame + min(offset, PAGE + FRAME_HEAD - 1))

    start_again(folder, left)

    assert lost(folder, written) == [39]


def test_cut_at_any_offset_of_its_last_page_a_log_keeps_all_but_the_last_record(killed: Left, folder: Path) -> None:
    left, _ = killed
    log = (left / "worker-0.db-wal").read_bytes()
    shutil.copy(left / "worker-0.db", folder)
    for cut in range(len(log) - PAGE - FRAME_HEAD, len(log)):
        (folder / "worker-0.db-wal").write_bytes(log[:cut])
        assert measure(folder / "worker-0.db").depth == 39, cut


@pytest.mark.parametrize("offset", OFFSETS)
def test_a_wrong_byte_in_the_last_page_of_a_log_loses_at_most_the_record_that_was_being_written(
    killed: Left, folder: Path, offset: int
) -> None:
    left, written = killed
    log = left / "worker-0.db-wal"
    flip(log, log.stat().st_size - PAGE + offset)

    start_again(folder, left)

    assert lost(folder, written) == [39]


@pytest.mark.parametrize("offset", OFFSETS)
def test_a_file_cut_in_its_last_page_loses_nothing_while_its_log_is_there(
    killed: Left, folder: Path, offset: int
) -> None:
    """That is what a kill in the middle of a checkpoint leaves: the log is only reused when the file is synced."""
    left, written = killed
    with closing(sqlite3.connect(left / "worker-0.db")) as database:
        database.execute("PRAGMA wal_autocheckpoint = 0")
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        shutil.copy(left / "worker-0.db-wal", folder.parent / "log")
    shutil.copy(folder.parent / "log", left / "worker-0.db-wal")
    with (left / "worker-0.db").open("r+b") as file:
        file.truncate((pages - 1) * PAGE + offset)

    start_again(folder, left)

    assert lost(folder, written) == []


@pytest.mark.parametrize("offset", OFFSETS)
def test_a_file_cut_in_its_last_page_without_a_log_loses_only_what_lay_there(
    killed: Left, folder: Path, offset: int
) -> None:
    left, written = killed
    (left / "worker-0.db-wal").unlink()
    size = (left / "worker-0.db").stat().st_size
    os.truncate(left / "worker-0.db", size - PAGE + offset)

    start_again(folder, left)

    # The log held the last ten; a page holds three.
    assert set(lost(folder, written)) <= {27, 28, 29, *range(30, 40)}


@pytest.mark.parametrize("seed", range(20))
def test_wrong_bytes_anywhere_in_the_file_lose_only_records_they_lie_in(killed: Left, folder: Path, seed: int) -> None:
    left, written = killed
    chance = random.Random(seed)
    size = (left / "worker-0.db").stat().st_size
    for _ in range(3):
        flip(left / "worker-0.db", chance.randrange(size))

    start_again(folder, left)

    # A page holds three records; pages that no inner page leads to any more cannot be found.
    assert len(lost(folder, written)) <= 9


@pytest.mark.parametrize("start", [0, 16, 18, 28, 100, 108, 500])
def test_a_broken_head_of_the_file_is_mended(killed: Left, folder: Path, start: int) -> None:
    left, written = killed
    with closing(sqlite3.connect(left / "worker-0.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (left / "worker-0.db").open("r+b") as file:
        file.seek(start)
        file.write(bytes(60))

    start_again(folder, left)

    assert lost(folder, written) == []


def test_what_a_sink_had_it_does_not_get_again_from_a_salvaged_file(folder: Path) -> None:
    with closing(Spool[Interaction](folder / "worker-0.db")) as spool:
        written = fill(spool, 6)
        with closing(reading(spool.path, "mlflow", "tables")) as mlflow:
            mlflow.ack(mlflow.lease(4, 0))
        with closing(reading(spool.path, "tables", "mlflow")) as tables:
            tables.lease(2, 0)
    set_aside(spool.path, None)
    salvage(folder, ["mlflow", "tables"], settled_s=0)

    (path,) = spools(folder)
    with closing(reading(path, "mlflow", "tables")) as mlflow, closing(reading(path, "tables", "mlflow")) as tables:
        assert [one.record for one in mlflow.lease(9, 0)] == written[4:]
        assert [(one.record, one.tries) for one in tables.lease(9, 0)] == list(
            zip(written, [2, 2, 1, 1, 1, 1], strict=True)
        )


def test_dead_letters_are_salvaged(folder: Path) -> None:
    with closing(Spool[Interaction](folder / "worker-0.db")) as spool:
        fill(spool, 1)
        with closing(reading(spool.path)) as reader:
            reader.bury(reader.lease(1, 0)[0], "MLflow: 400")
    set_aside(spool.path, None)
    salvage(folder, ["mlflow"], settled_s=0)

    assert dead_letters(spools(folder)[0]) == [("mlflow", "MLflow: 400")]


def test_a_salvage_that_was_cut_is_done_again_and_one_that_was_done_is_not(folder: Path) -> None:
    with closing(Spool[Interaction](folder / "worker-0.db")) as spool:
        fill(spool, 3)
    aside = set_aside(spool.path, None)
    assert aside is not None
    name = aside.name.replace(".db.unread-", "-salvaged-") + ".db.unfinished"
    aside.with_name(name).write_bytes(b"half")
    salvage(folder, ["mlflow"], settled_s=0)
    (done,) = damaged_files(folder)
    done.rename(aside)  # As if killed before the last step.
    salvage(folder, ["mlflow"], settled_s=0)

    assert unread_files(folder) == []
    assert [stored(path) for path in spools(folder)] == [3]


def test_a_file_that_breaks_under_a_running_worker_is_replaced_and_nothing_acked_later_is_lost(folder: Path) -> None:
    with closing(Spool[Interaction](folder / "worker-0.db")) as spool:
        written = fill(spool, 30)
        spool._file().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with spool.path.open("r+b") as file:
            file.seek(PAGE)
            file.write(random.Random(1).randbytes(2 * PAGE))
        spool.close()
        written += fill(spool, 30)
        assert spool.damaged == 1

    assert [place for place in lost_of(folder, written) if place >= 30] == []


def test_a_file_that_was_deleted_under_a_running_worker_is_begun_anew(folder: Path) -> None:
    with closing(Spool[Interaction](folder / "worker-0.db")) as spool:
        fill(spool, 1)
        shutil.rmtree(folder)
        spool.check()
        spool.append(plain())

    assert len(arrived(folder)) == 1


def test_a_directory_without_spools_has_nothing_damaged(tmp_path: Path) -> None:
    assert salvage(tmp_path / "nowhere", ["mlflow"]) == 0
    assert damaged_files(tmp_path / "nowhere") == []


def lost_of(folder: Path, written: list[Interaction]) -> list[int]:
    found = arrived(folder)
    return [place for place, one in enumerate(written) if one.interaction_id not in found]


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))
