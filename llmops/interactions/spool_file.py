"""The file under a spool: its tables, how it is opened, and what SQLite's errors mean to the one who must act."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmops.errors import SpoolError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS interaction (seq INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS lease (
    seq INTEGER PRIMARY KEY REFERENCES interaction ON DELETE CASCADE,
    tries INTEGER NOT NULL, retry_at_ms INTEGER NOT NULL, reason TEXT);
CREATE TABLE IF NOT EXISTS dead (
    id INTEGER PRIMARY KEY, record BLOB NOT NULL, reason TEXT NOT NULL, buried_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS probe (content BLOB);
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


def open_file(path: Path, patience_s: float, checkpoint_pages: int, *, full_sync: bool) -> sqlite3.Connection:
    """Open a spool file; make it, its directory and its tables where they are missing.

    Args:
        patience_s: How long a statement waits for another process's lock.
        checkpoint_pages: The log is moved into the file after a commit that leaves it longer than this.
        full_sync: True makes a commit survive a power loss.

    Raises:
        sqlite3.Error, OSError: It cannot be opened; see `explained`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, timeout=patience_s, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA synchronous = {'FULL' if full_sync else 'NORMAL'}")
        database.execute(f"PRAGMA wal_autocheckpoint = {checkpoint_pages}")
        database.execute("PRAGMA foreign_keys = ON")
        database.executescript(_SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database


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
