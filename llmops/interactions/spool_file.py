"""The file under a spool: its tables, how it is opened, and what SQLite's errors mean to the one who must act."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from llmops.errors import SpoolError

#: The version of the tables below, kept in the file. Files of the first release say 0.
VERSION = 1
_MIGRATION_PATIENCE_S = 60.0

#: The number of the next record. One is never given twice, even when the record that had it is gone: sinks know a
#: record by it. (AUTOINCREMENT, which promises the same, makes an append a quarter slower.)
NEXT_SEQ = "1 + max((SELECT floor FROM spool), (SELECT coalesce(max(seq), 0) FROM record))"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS record (
    seq INTEGER PRIMARY KEY, content BLOB NOT NULL, written_ms INTEGER NOT NULL DEFAULT 0, only_for TEXT);
CREATE INDEX record_only_for ON record (only_for) WHERE only_for IS NOT NULL;
CREATE TABLE spool (spool_id TEXT NOT NULL, floor INTEGER NOT NULL);
INSERT INTO spool VALUES (lower(hex(randomblob(16))), 0);
CREATE TABLE consumer (name TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE lease (
    consumer TEXT NOT NULL, seq INTEGER NOT NULL, tries INTEGER NOT NULL, strikes INTEGER NOT NULL,
    retry_at_ms INTEGER NOT NULL, reason TEXT, PRIMARY KEY (consumer, seq)) WITHOUT ROWID;
CREATE INDEX lease_seq ON lease (seq);
CREATE INDEX lease_strikes ON lease (consumer, strikes, retry_at_ms, seq);
CREATE TABLE dead (
    id INTEGER PRIMARY KEY AUTOINCREMENT, consumer TEXT NOT NULL, interaction_id TEXT, content BLOB NOT NULL,
    reason TEXT NOT NULL, tries INTEGER NOT NULL, buried_ms INTEGER NOT NULL);
CREATE INDEX dead_consumer ON dead (consumer);
CREATE TABLE IF NOT EXISTS probe (content BLOB);
"""

#: The first release knew one sink. What it had leased is leased to that one; nothing was tried above its last lease.
_BEFORE = """
ALTER TABLE lease RENAME TO old_lease;
ALTER TABLE dead RENAME TO old_dead;
ALTER TABLE interaction RENAME TO record;
ALTER TABLE record RENAME COLUMN record TO content;
ALTER TABLE record ADD COLUMN written_ms INTEGER NOT NULL DEFAULT {now_ms};
ALTER TABLE record ADD COLUMN only_for TEXT;
"""
_AFTER = """
INSERT INTO consumer SELECT 'mlflow', coalesce(max(seq), 0) FROM old_lease;
INSERT INTO lease SELECT 'mlflow', seq, coalesce(tries, 0), coalesce(tries, 0), coalesce(retry_at_ms, 0), reason
    FROM record LEFT JOIN old_lease USING (seq) WHERE seq <= (SELECT position FROM consumer);
INSERT INTO dead (consumer, content, reason, tries, buried_ms)
    SELECT 'mlflow', record, reason, 0, buried_ms FROM old_dead ORDER BY id;
DROP TABLE old_lease;
DROP TABLE old_dead;
"""

_WHY = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space",
    sqlite3.SQLITE_READONLY: "it is read-only; make the file and its directory writable",
    sqlite3.SQLITE_BUSY: "another process holds its lock; try again",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; its directory must exist and be writable",
    sqlite3.SQLITE_CORRUPT: "it is damaged; move it away and start again",
    sqlite3.SQLITE_NOTADB: "it is not a spool file; move it away and start again",
    sqlite3.SQLITE_IOERR: "the disk reports an error; see the system's log",
}
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
#: A number given twice, a table that is not there: a page may have lost its content.
_SUSPICIOUS = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH})


def open_file(path: Path, patience_s: float, checkpoint_pages: int, *, full_sync: bool) -> sqlite3.Connection:
    """Open a spool file; make it, its directory and its tables where they are missing, and migrate an older one.

    Args:
        patience_s: How long a statement waits for another process's lock.
        checkpoint_pages: The log is moved into the file after a commit that leaves it longer than this.
        full_sync: True makes a commit survive a power loss.

    Raises:
        SpoolError: A later release made it.
        sqlite3.Error, OSError: It cannot be opened; see `explained`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, timeout=_MIGRATION_PATIENCE_S, isolation_level=None, check_same_thread=False)
    try:
        # Not the migration's patience: whether the file can be used at all, the caller wants to know at once.
        database.execute(f"PRAGMA busy_timeout = {int(patience_s * 1000)}")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA synchronous = {'FULL' if full_sync else 'NORMAL'}")
        database.execute(f"PRAGMA wal_autocheckpoint = {checkpoint_pages}")
        # Debian's SQLite overwrites what it deletes: every record twice through the log.
        database.execute("PRAGMA secure_delete = FAST")
        _prepare(database, path, patience_s)
    except (sqlite3.Error, SpoolError):
        database.close()
        raise
    return database


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open a spool file of this release without the means to change it.

    Raises:
        SpoolError: Another release made it.
        sqlite3.Error: It cannot be opened or read.
    """
    database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", timeout=1.0, uri=True, isolation_level=None)
    try:
        version = _version(database)
        if version != VERSION:
            raise _stranger(path, version)
    except (sqlite3.Error, SpoolError):
        database.close()
        raise
    return database


def damaged(err: BaseException | None, path: Path) -> bool:
    """Whether the file itself is broken, and no retry will help; reads all of it where that is only likely.

    Args:
        err: What SQLite said of it.
    """
    code = getattr(err, "sqlite_errorcode", None)
    if not isinstance(err, sqlite3.DatabaseError) or code is None:
        return False
    return code & 0xFF in _DAMAGE or (code & 0xFF in _SUSPICIOUS and not _sound(path))


def _sound(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path, timeout=1.0)) as database:
            return bool(database.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
    except sqlite3.OperationalError:
        return True  # Locked, or the like: nothing is known.
    except sqlite3.DatabaseError:
        return False


def inode_of(path: Path) -> int | None:
    """Which file a path is; None where it is none, or cannot be looked at."""
    try:
        return path.stat().st_ino
    except OSError:
        return None


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the file system and SQLite say about a spool file into a `SpoolError` that says what to do."""
    try:
        yield
    except sqlite3.Error as err:
        code = getattr(err, "sqlite_errorcode", None)
        why = _WHY.get(code & 0xFF) if code is not None else None
        raise SpoolError(f"interaction log {path}: {why or err}") from err
    except OSError as err:
        raise SpoolError(f"interaction log {path}: {err.strerror}; its directory must be writable") from err


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Commit what happens inside as one; nothing of it where it fails."""
    database.execute("BEGIN IMMEDIATE")
    with rolled_back_on_error(database):
        yield
        database.execute("COMMIT")


@contextmanager
def rolled_back_on_error(database: sqlite3.Connection) -> Iterator[None]:
    """Roll the transaction back that what happens inside did not commit."""
    try:
        yield
    except BaseException:
        # SQLite may have rolled back already, as it does when the disk is full.
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _prepare(database: sqlite3.Connection, path: Path, patience_s: float) -> None:
    version = _version(database)
    if version > VERSION:
        raise _stranger(path, version)
    if version == VERSION:
        return
    database.execute(f"PRAGMA busy_timeout = {int(_MIGRATION_PATIENCE_S * 1000)}")
    with transaction(database):
        # Again, under the lock: the worker and the shipper may both have found it old.
        if _version(database) < VERSION:
            _migrate(database)
    database.execute(f"PRAGMA busy_timeout = {int(patience_s * 1000)}")


def _migrate(database: sqlite3.Connection) -> None:
    (ours,) = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'record'").fetchone()
    if ours:
        err = sqlite3.DatabaseError("its head has lost the version")
        err.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise err
    (old,) = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'interaction'").fetchone()
    before, after = (_BEFORE.format(now_ms=time.time_ns() // 1_000_000), _AFTER) if old else ("", "")
    # Not executescript, which would commit first.
    for statement in (before + _SCHEMA + after).split(";"):
        if statement.strip():
            database.execute(statement)
    database.execute(f"PRAGMA user_version = {VERSION}")


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def _stranger(path: Path, version: int) -> SpoolError:
    age = "a later" if version > VERSION else "an earlier"
    return SpoolError(f"interaction log {path}: {age} release made it (its format is {version}, ours {VERSION})")
