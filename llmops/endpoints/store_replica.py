"""A server's own copy of the endpoints that several servers share.

Shared endpoints are changed in the database that is shared, and read from this copy, in the SQLite file of the server:
its workers read what they always read, wait for no network, and start and serve while the database is away. What is a
server's own - endpoints of its files, addresses of its engines - never leaves the file, so servers cannot disturb each
other with it.
"""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from llmops.errors import Unavailable

logger = logging.getLogger(__name__)

#: One that is here is updated, not replaced: what served before a new config goes on serving (`endpoints.serving`).
#: Two statements: an upsert would decide over the conflicts in the triggers, too.
_UPDATE = "UPDATE endpoints SET document = ?, updated_ms = ?, config_version = ?, revision = ? WHERE name = ?"
_INSERT = "INSERT INTO endpoints VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
#: How soon a change by another server is seen.
FOLLOW_EVERY_S = 0.1
RETRY_EVERY_S = 1.0


class Shared(Protocol):
    """The database that several servers share; see `llmops.endpoints.store_postgres`."""

    def prepare(self, patience_s: float) -> None:
        """Make it ready for use."""

    def changes(self, token: str | None) -> tuple[str, list[Sequence[Any]]] | None:
        """Every endpoint, and a token of this state; None if nothing changed since the given one."""

    def write(self, statement: str, values: Sequence[Any]) -> int:
        """Run one statement; returns how many rows it changed."""

    def read(self, statement: str, values: Sequence[Any]) -> list[Sequence[Any]]:
        """Run one statement that changes nothing; returns its rows."""

    def close(self) -> None:
        """Disconnect."""


class Replica:
    """Copies shared endpoints into the table `endpoints` of a SQLite file.

    Args:
        shared: Where they are kept.
        database: The file, in autocommit mode.
        lock: Held by whoever writes to the file.
    """

    def __init__(self, shared: Shared, database: sqlite3.Connection, lock: threading.Lock) -> None:
        self._shared = shared
        self._db = database
        self._lock = lock

    def begin(self, patience_s: float) -> None:
        """Connect, and copy everything afresh: the database may be another one than last time.

        Raises:
            CommandError: It cannot be reached or used.
        """
        self._shared.prepare(patience_s)
        self.forget()
        self.pull()

    def pull(self) -> None:
        """Copy what is shared, if it changed.

        Raises:
            Unavailable: The database does not answer.
        """
        while True:
            seen = self._token()
            changes = self._shared.changes(seen)
            # Another process of this server may have copied a newer state meanwhile: look again then.
            if changes is None or self._replace(seen, *changes):
                return

    def write(self, statement: str, values: Sequence[Any]) -> int:
        """Change what is shared; when this returns, the copy has the change.

        Returns:
            How many rows were changed.

        Raises:
            Unavailable: The database does not answer.
        """
        changed = self._shared.write(statement, values)
        self.pull()
        return changed

    def read(self, statement: str, values: Sequence[Any]) -> list[Sequence[Any]]:
        """Ask for what is shared and not copied.

        Raises:
            Unavailable: The database does not answer.
        """
        return self._shared.read(statement, values)

    async def follow(self) -> None:
        """Copy every change of another server soon after it was made, until cancelled.

        While the database is away, this server goes on with what it has; that is logged once.
        """
        away = False
        while True:
            try:
                await asyncio.to_thread(self.pull)
            except (Unavailable, sqlite3.Error) as err:
                if not away:
                    logger.warning("event=database_away reason=%r serving=%r", str(err), "the endpoints known so far")
                away = True
                await asyncio.sleep(RETRY_EVERY_S)
                continue
            if away:
                logger.warning("event=database_back")
            away = False
            await asyncio.sleep(FOLLOW_EVERY_S)

    def forget(self) -> None:
        """Have the next `pull` copy everything."""
        with self._lock:
            self._db.execute("UPDATE replica SET token = NULL")

    def close(self) -> None:
        """Disconnect."""
        self._shared.close()

    def _token(self) -> str | None:
        with self._lock:
            token: str | None = self._db.execute("SELECT token FROM replica").fetchone()[0]
        return token

    def _replace(self, seen: str | None, token: str, rows: Sequence[Sequence[Any]]) -> bool:
        with self._lock, transaction(self._db):
            if self._db.execute("UPDATE replica SET token = ? WHERE token IS ?", (token, seen)).rowcount == 0:
                return False
            owned = dict(self._db.execute("SELECT name, source FROM endpoints WHERE source IS NOT NULL").fetchall())
            here = self._db.execute("SELECT name, id, revision FROM endpoints WHERE source IS NULL").fetchall()
            shared = {(row[0], row[1]) for row in rows}
            for name, id_, _ in here:
                if (name, id_) not in shared:
                    self._db.execute("DELETE FROM endpoints WHERE name = ?", (name,))
            revisions = {id_: revision for _, id_, revision in here}
            for row in rows:
                if row[0] in owned:
                    # What a file declares is what this server serves; the other servers serve the shared one.
                    logger.warning("event=endpoint_of_a_file_kept endpoint=%s file=%s", row[0], owned[row[0]])
                    continue
                name, id_, document, *_, updated_ms, config_version, revision = row
                if id_ not in revisions:
                    self._db.execute(_INSERT, row)
                elif revisions[id_] != revision:
                    self._db.execute(_UPDATE, (document, updated_ms, config_version, revision, name))
        return True


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Commit at the end, or roll back what an error left behind."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")
