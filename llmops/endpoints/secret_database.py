"""Where sealed secrets lie, and who may do what: in the store's SQLite file, or in PostgreSQL with a copy in the file.

Reading is always from the file, so that a worker that needs a key waits for no network. Every write is a transaction
that no other one overlaps, and takes the next number of `secret_state.version`.
"""

import asyncio
import importlib
import logging
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from llmops.endpoints.store_replica import transaction
from llmops.errors import CommandError, Unavailable

logger = logging.getLogger(__name__)

#: How soon a change by another server is seen.
FOLLOW_EVERY_S = 1.0

#: For both databases: BIGINT is SQLite's INTEGER too.
TABLES = """
CREATE TABLE IF NOT EXISTS secret_scopes (name TEXT PRIMARY KEY, created_ms BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS secrets (
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    version BIGINT NOT NULL,
    master_id TEXT NOT NULL,
    wrapped TEXT NOT NULL,
    sealed TEXT NOT NULL,
    updated_ms BIGINT NOT NULL,
    PRIMARY KEY (scope, key)
);
CREATE TABLE IF NOT EXISTS secret_acls (
    scope TEXT NOT NULL, principal TEXT NOT NULL, permission TEXT NOT NULL, PRIMARY KEY (scope, principal)
);
CREATE TABLE IF NOT EXISTS access_tokens (
    token_id TEXT PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    group_names TEXT NOT NULL,
    admin INTEGER NOT NULL,
    comment TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT
);
CREATE TABLE IF NOT EXISTS endpoint_acls (endpoint_id TEXT PRIMARY KEY, entries TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS secret_state (
    one INTEGER PRIMARY KEY CHECK (one = 1), instance TEXT NOT NULL, version BIGINT NOT NULL, master_id TEXT
);
"""
STATE = "INSERT INTO secret_state VALUES (1, ?, 0, NULL) ON CONFLICT (one) DO NOTHING"
COPIED = ("secret_scopes", "secrets", "secret_acls", "access_tokens", "endpoint_acls", "secret_state")
_COUNT = "UPDATE secret_state SET version = version + 1"
_NOW = "SELECT instance, version FROM secret_state"

Rows = list[Sequence[Any]]
#: Runs one statement, with question marks for its values.
Ask = Callable[[str, Sequence[Any]], Rows]
#: Which database, and its version.
State = tuple[str, int]


class Shared(Protocol):
    """The database that several servers share; see `llmops.endpoints.secret_postgres`."""

    def change(self) -> AbstractContextManager[Ask]:
        """A transaction; committed at the end, rolled back by an error."""

    def contents(self, seen: State) -> tuple[State, dict[str, Rows]] | None:
        """Every row by table, and the state they are of; None if it is the one given."""

    def close(self) -> None:
        """Disconnect."""


class SecretDatabase:
    """The tables of secrets; safe to use from several threads and processes.

    Args:
        path: The SQLite file of the store.
        database_url: PostgreSQL, where servers share their secrets; the copy lies beside the file then.
    """

    def __init__(self, path: Path, database_url: str | None = None) -> None:
        self._shared = _shared(database_url) if database_url else None
        path = path.with_name(f"{path.stem}-replica.db") if self._shared else path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        # Reads never wait for a writer: a worker reads on its loop.
        self._reading = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.2)
        self._lock = threading.Lock()
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        # What was deleted, or wrapped by an old master key, is overwritten in the file.
        self._db.execute("PRAGMA secure_delete=ON")
        self._db.executescript(TABLES)
        if self._db.execute(_NOW).fetchone() is None:
            # A copy is of no database yet.
            self._db.execute(STATE, ("" if self._shared else uuid.uuid4().hex,))
        self._seen = -1

    @property
    def shared(self) -> bool:
        """Whether other servers use these secrets too."""
        return self._shared is not None

    @property
    def copied(self) -> bool:
        """Whether the file has ever had what is in it; a copy that was not made yet is empty."""
        return bool(self._state()[0])

    def changed(self) -> bool:
        """Whether the file was changed since this was last asked; True the first time. Costs microseconds."""
        version = self._reading.execute("PRAGMA data_version").fetchone()[0]
        before, self._seen = self._seen, version
        return bool(before != version)

    def read(self, statement: str, values: Sequence[Any] = ()) -> Rows:
        """Ask the file."""
        return self._reading.execute(statement, values).fetchall()

    @contextmanager
    def write(self) -> Iterator[Ask]:
        """A transaction that no other write overlaps; when it has ended, `read` sees it.

        Raises:
            Unavailable: The database that is shared does not answer.
        """
        if self._shared is not None:
            with self._shared.change() as ask:
                ask(_COUNT, ())
                yield ask
            self.pull()
            return
        with self._lock, transaction(self._db):
            self._db.execute(_COUNT)
            yield lambda statement, values: self._db.execute(statement, values).fetchall()

    def pull(self) -> None:
        """Copy what is shared, if it changed.

        Raises:
            Unavailable: The database that is shared does not answer.
        """
        if self._shared is None:
            return
        found = self._shared.contents(self._state())
        if found is None:
            return
        (instance, version), rows = found
        with self._lock, transaction(self._db):
            mine = self._state()
            if mine[0] == instance and mine[1] >= version:
                return  # Another process of this server copied it, or a newer state, meanwhile.
            for table in COPIED:
                self._db.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
                for row in rows[table]:
                    marks = ", ".join("?" * len(row))
                    self._db.execute(f"INSERT INTO {table} VALUES ({marks})", row)  # noqa: S608

    async def follow(self) -> None:
        """Copy what other servers change, until cancelled; returns at once where nothing is shared.

        While the database is away, secrets are read as they are known; the store of endpoints logs that it is.
        """
        while self._shared is not None:
            try:
                await asyncio.to_thread(self.pull)
            except (Unavailable, CommandError, sqlite3.Error):
                logger.debug("event=secrets_not_followed", exc_info=True)
            await asyncio.sleep(FOLLOW_EVERY_S)

    def close(self) -> None:
        """Let go of the file, and disconnect."""
        if self._shared is not None:
            self._shared.close()
        self._reading.close()
        self._db.close()

    def _state(self) -> State:
        instance, version = self._db.execute(_NOW).fetchone()
        return instance, version


def _shared(url: str) -> Shared:
    """The database of a URL; only who uses one loads its driver."""
    try:
        module = importlib.import_module("llmops.endpoints.secret_postgres")
    except ImportError:
        raise CommandError(
            "LLMOPS_DATABASE_URL needs PostgreSQL's driver: pip install 'llmops[postgres]', or unset it"
        ) from None
    shared: Shared = module.SharedSecrets(url)
    return shared
