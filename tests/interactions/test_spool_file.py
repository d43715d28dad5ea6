"""The file of a spool: those of the first release are taken over, those of a later one are left alone."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from llmops.errors import SpoolError
from llmops.interactions.record import Interaction
from llmops.interactions.spool import Spool
from llmops.interactions.spool_size import measure
from tests.interactions.records import plain
from tests.interactions.spooling import dead_letters, plains, reading, seqs

#: As the release of 8f2bcea made it.
FIRST = """
CREATE TABLE interaction (seq INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE lease (
    seq INTEGER PRIMARY KEY REFERENCES interaction ON DELETE CASCADE,
    tries INTEGER NOT NULL, retry_at_ms INTEGER NOT NULL, reason TEXT);
CREATE TABLE dead (
    id INTEGER PRIMARY KEY, record BLOB NOT NULL, reason TEXT NOT NULL, buried_ms INTEGER NOT NULL);
CREATE TABLE probe (content BLOB);
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "worker-0.db"


def first_release(path: Path, written: list[Interaction]) -> None:
    """Records 1 to 4; the first waits after three tries, the second was leased once."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(FIRST)
        database.executemany("INSERT INTO interaction (record) VALUES (?)", [(one.encode(),) for one in written])
        database.execute("INSERT INTO lease VALUES (1, 3, 5000, 'MLflow: 500'), (2, 1, 0, NULL)")
        database.execute("INSERT INTO dead VALUES (7, ?, 'MLflow: 400', 1234)", (plain().encode(),))


def test_a_file_of_the_first_release_is_taken_over_with_its_leases_and_dead_letters(path: Path) -> None:
    written = plains(4)
    first_release(path, written)

    with closing(Spool[Interaction](path)) as spool, closing(reading(path)) as reader:
        spool.append(plain())
        due = reader.lease(9, 4_999)
        later = reader.lease(9, 5_000)

    assert [one.record for one in due[:3]] == written[1:]
    assert [(one.seq, one.tries) for one in due] == [(2, 2), (3, 1), (4, 1), (5, 1)]
    assert [(one.seq, one.tries) for one in later] == [(1, 4)]
    assert dead_letters(path) == [("mlflow", "MLflow: 400")]


def test_a_file_of_the_first_release_can_be_opened_by_the_shipper_first(path: Path) -> None:
    first_release(path, plains(4))

    with closing(reading(path, "mlflow", "tables")) as reader:
        assert seqs(reader.lease(9, 5_000)) == [1]
    assert measure(path).waiting == {"mlflow": 4, "tables": 4}


def test_a_file_of_a_later_release_is_refused_and_not_touched(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 9")
    before = path.read_bytes()

    with (
        closing(Spool[Interaction](path)) as spool,
        pytest.raises(SpoolError, match=r"a later release made it .* 9, ours 1"),
    ):
        spool.append(plain())
    with pytest.raises(SpoolError, match="a later release"):
        reading(path)
    with pytest.raises(SpoolError, match="a later release"):
        measure(path)

    assert path.exists()
    assert before[60:64] == path.read_bytes()[60:64]
