"""Where endpoints are kept: one SQLite file that every process of a server reads.

A row is an endpoint's document as it was accepted, who owns it, and its version. A change is seen by the others through
``PRAGMA data_version``, which costs microseconds to ask. Beside the endpoints stand the children: which engine process
runs where, written by the supervisor and read by the workers.

Servers that share a PostgreSQL database keep there what was created over REST, and a copy of it in the file
(`llmops.endpoints.store_replica`).
"""

import importlib
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from llmops.endpoints import former, history, serving
from llmops.endpoints.files import EndpointFile
from llmops.endpoints.spec import EndpointSpec
from llmops.endpoints.store_replica import Replica, Shared, transaction
from llmops.errors import AlreadyExists, CommandError, Conflict, NotFound, Stale

#: A server that starts together with its database waits for it.
DATABASE_PATIENCE_S = 10.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS endpoints (
    name TEXT PRIMARY KEY,
    id TEXT NOT NULL,
    document BLOB NOT NULL,
    source TEXT,
    problem TEXT,
    creator TEXT,
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    config_version INTEGER NOT NULL,
    revision INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS children (
    key TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    address TEXT,
    message TEXT
);
"""
_REPLICA_SCHEMA = """
CREATE TABLE IF NOT EXISTS replica (one INTEGER PRIMARY KEY CHECK (one = 1), token TEXT);
INSERT OR IGNORE INTO replica VALUES (1, NULL);
"""
_INSERT = "INSERT INTO endpoints VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO NOTHING"


@dataclass(frozen=True, slots=True)
class StoredEndpoint:
    """An endpoint as the store keeps it.

    Attributes:
        id: 32 hex digits, stable over updates.
        document: The endpoint document; checked when it was accepted, unless ``problem`` says otherwise.
        source: The file that owns it; None where it was created over REST.
        problem: Why the document cannot be served, one line each; None where it can.
        config_version: 1 at first, one more with every change of ``config``.
        revision: One more with every change of anything; the optimistic lock.
    """

    name: str
    id: str
    document: Mapping[str, Any]
    source: str | None
    problem: str | None
    creator: str | None
    created_ms: int
    updated_ms: int
    config_version: int
    revision: int


@dataclass(frozen=True, slots=True)
class Child:
    """A child process that answers for served entities.

    Attributes:
        key: Which one; made by `llmops.providers.children`.
        state: starting, ready or failed.
        address: Base URL of its HTTP server; None until it is ready.
        message: Why it failed, or what it waits for.
    """

    key: str
    state: str
    address: str | None = None
    message: str | None = None


class Store:
    """The endpoints of one server; safe to use from several threads and processes.

    Args:
        path: The SQLite file of this server.
        database_url: PostgreSQL, where servers share the endpoints created over REST; their copy then has a file of its
            own beside the other, which keeps what it has. None keeps all in the file.

    Raises:
        CommandError: The URL is not one of a PostgreSQL database, or its driver is not installed.
    """

    def __init__(self, path: Path, database_url: str | None = None) -> None:
        shared = _shared(database_url) if database_url else None
        path = path.with_name(f"{path.stem}-replica.db") if shared else path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        # Reads never wait for a writer: the table of a worker is read on its loop.
        self._reading = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.2)
        self._lock = threading.Lock()
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")  # An endpoint that was acked survives a power loss.
        self._db.executescript(_SCHEMA + _REPLICA_SCHEMA + history.TABLES + serving.TABLE + former.TABLE)
        self._replica = Replica(shared, self._db, self._lock) if shared else None
        self._seen = -1

    def begin(self) -> None:
        """Start a server: have what is shared, no child process, and each file served as it is now.

        Raises:
            CommandError: The database that is shared cannot be reached or used.
        """
        if self._replica is not None:
            self._replica.begin(DATABASE_PATIENCE_S)
        with self._lock:
            self._db.execute("DELETE FROM children")
            self._db.execute(serving.FORGET)

    async def follow(self) -> None:
        """Copy what other servers change, until cancelled; returns at once where nothing is shared."""
        if self._replica is not None:
            await self._replica.follow()

    def close(self) -> None:
        """Let go of the file."""
        if self._replica is not None:
            self._replica.close()
        self._reading.close()
        self._db.close()

    def changed(self) -> bool:
        """Whether the store was changed since this was last asked; True the first time."""
        version = self._reading.execute("PRAGMA data_version").fetchone()[0]
        before, self._seen = self._seen, version
        return bool(before != version)

    def all(self) -> list[StoredEndpoint]:
        """Every endpoint, by name."""
        rows = self._reading.execute("SELECT * FROM endpoints ORDER BY name").fetchall()
        return [_endpoint(row) for row in rows]

    def get(self, name: str) -> StoredEndpoint:
        """One endpoint as it is at this moment, for all servers.

        Raises:
            NotFound: There is none of that name.
            Unavailable: The database that is shared does not answer.
        """
        if self._replica is not None:
            self._replica.pull()
        row = self._reading.execute("SELECT * FROM endpoints WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise NotFound(f"Endpoint with name '{name}' does not exist.")
        return _endpoint(row)

    def versions(self, name: str) -> list[history.Version]:
        """Every config an endpoint has had, the newest first.

        Raises:
            NotFound: There is none of that name.
            Unavailable: As for `get`.
        """
        endpoint = self.get(name)
        if self._replica is not None and endpoint.source is None:
            return history.versions(self._replica.read(history.OF, (endpoint.id,)))
        return history.versions(self._reading.execute(history.OF, (endpoint.id,)).fetchall())

    def former(self) -> list[former.Former]:
        """What endpoints were before they were deleted or changed their tables, the latest last."""
        return former.former(self._reading.execute(former.ALL).fetchall())

    def create(self, spec: EndpointSpec, creator: str | None) -> StoredEndpoint:
        """Keep a new endpoint.

        Raises:
            AlreadyExists: The name is taken; of two creates at once, one wins.
            Unavailable: As for `get`; nothing was changed then, unless the message says that it may have been.
        """
        of_a_file = "SELECT 1 FROM endpoints WHERE name = ? AND source IS NOT NULL"
        taken = self._reading.execute(of_a_file, (spec.name,)).fetchone() is not None
        if taken or self._write(_INSERT, _row(spec.name, spec.document(), creator=creator)) == 0:
            raise AlreadyExists(f"Endpoint with name '{spec.name}' already exists.")
        return self._kept(spec)

    def update(self, old: StoredEndpoint, spec: EndpointSpec) -> StoredEndpoint:
        """Replace the document of an endpoint that was read before.

        Raises:
            Conflict: A file owns it.
            Stale: Somebody else changed it meanwhile.
            Unavailable: As for `create`.
        """
        _refuse_file(old)
        document = spec.document()
        newer = int(document["config"] != old.document.get("config"))
        changed = self._write(
            "UPDATE endpoints SET document = ?, updated_ms = ?, config_version = config_version + ?,"
            " revision = revision + 1 WHERE name = ? AND id = ? AND revision = ?",
            (_json(document), _now_ms(), newer, old.name, old.id, old.revision),
        )
        if changed == 0:
            raise Stale(f"endpoint '{old.name}' was changed by somebody else; read it again and repeat the update")
        return self._kept(spec)

    def delete(self, name: str) -> None:
        """Forget an endpoint.

        Raises:
            NotFound: There is none of that name.
            Conflict: A file owns it.
            Unavailable: As for `create`.
        """
        _refuse_file(self.get(name))
        self._write("DELETE FROM endpoints WHERE name = ?", (name,))

    def sync(self, files: Iterable[EndpointFile]) -> list[str]:
        """Make the file-owned endpoints what the files say, in one transaction.

        An endpoint that was created over REST keeps its name; the file that claims it is reported. File-owned endpoints
        are this server's own, also where others are shared: every server serves what its files say.

        Returns:
            One line for each file that could not take effect.
        """
        refused = []
        with self._lock, transaction(self._db):
            owned = dict(self._db.execute("SELECT name, source FROM endpoints").fetchall())
            kept = set()
            for file in files:
                if file.name in owned and owned[file.name] is None:
                    refused.append(
                        f"{file.path}: endpoint '{file.name}' was created over REST; delete it or rename this one"
                    )
                    continue
                kept.add(file.name)
                self._put_file(file)
            for name, source in owned.items():
                if source is not None and name not in kept:
                    self._db.execute("DELETE FROM endpoints WHERE name = ?", (name,))
            # A shared endpoint may have waited for a name that a file gave up.
            self._db.execute("UPDATE replica SET token = NULL")
        return refused

    def serving(self) -> dict[str, serving.Serving]:
        """What serves in the place of a newest config that is not ready here, by the id of the endpoint."""
        return serving.serving(self._reading.execute(serving.ALL).fetchall())

    def settle(self, endpoint: StoredEndpoint) -> None:
        """Serve an endpoint's config from now on, if it still is its newest."""
        with self._lock:
            self._db.execute(serving.SETTLE, (endpoint.id, endpoint.id, endpoint.config_version))

    def fail(self, endpoint: StoredEndpoint, reason: str) -> None:
        """Write down why an endpoint's newest config does not get ready; what served before goes on."""
        with self._lock:
            self._db.execute(serving.FAIL, (reason, endpoint.id, endpoint.id, endpoint.config_version))

    def children(self) -> dict[str, Child]:
        """Every child process, by key."""
        rows = self._reading.execute("SELECT key, state, address, message FROM children").fetchall()
        return {row[0]: Child(*row) for row in rows}

    def put_child(self, child: Child) -> None:
        """Write down the state of a child process."""
        with self._lock:
            self._db.execute(
                "INSERT OR REPLACE INTO children VALUES (?, ?, ?, ?)",
                (child.key, child.state, child.address, child.message),
            )

    def drop_child(self, key: str) -> None:
        """Forget a child process that was stopped."""
        with self._lock:
            self._db.execute("DELETE FROM children WHERE key = ?", (key,))

    def _kept(self, spec: EndpointSpec) -> StoredEndpoint:
        """What has just been written; it serves at once where there is no engine to wait for."""
        kept = self.get(spec.name)
        if not spec.has_engine and kept.document.get("config") == spec.document()["config"]:
            self.settle(kept)
        return kept

    def _write(self, statement: str, values: Sequence[Any]) -> int:
        """Change endpoints created over REST, where they are kept; returns how many."""
        if self._replica is not None:
            return self._replica.write(statement, values)
        with self._lock:
            return self._db.execute(statement, values).rowcount

    def _put_file(self, file: EndpointFile) -> None:
        document = file.spec.document() if file.spec else {"name": file.name}
        problem = "\n".join(file.problems) or None
        row = self._db.execute("SELECT * FROM endpoints WHERE name = ?", (file.name,)).fetchone()
        if row is None:
            self._db.execute(_INSERT, _row(file.name, document, source=str(file.path), problem=problem))
            return
        old = _endpoint(row)
        if (old.document, old.source, old.problem) == (document, str(file.path), problem):
            return
        newer = int(document.get("config") != old.document.get("config"))
        self._db.execute(
            "UPDATE endpoints SET document = ?, source = ?, problem = ?, updated_ms = ?,"
            " config_version = config_version + ?, revision = revision + 1 WHERE name = ?",
            (_json(document), str(file.path), problem, _now_ms(), newer, file.name),
        )


def _shared(url: str) -> Shared:
    """The database of a URL; only who uses one loads its driver."""
    try:
        module = importlib.import_module("llmops.endpoints.store_postgres")
    except ImportError:
        raise CommandError(
            "LLMOPS_DATABASE_URL needs PostgreSQL's driver: pip install 'llmops[postgres]', or unset it"
        ) from None
    shared: Shared = module.Postgres(url)
    return shared


def _row(
    name: str,
    document: Mapping[str, Any],
    *,
    source: str | None = None,
    problem: str | None = None,
    creator: str | None = None,
) -> Sequence[Any]:
    now_ms = _now_ms()
    return (name, uuid.uuid4().hex, _json(document), source, problem, creator, now_ms, now_ms, 1, 1)


def _json(document: Mapping[str, Any]) -> str:
    return orjson.dumps(document).decode()


def _endpoint(row: Any) -> StoredEndpoint:
    name, id_, document, *rest = row
    return StoredEndpoint(name, id_, orjson.loads(document), *rest)


def _refuse_file(endpoint: StoredEndpoint) -> None:
    if endpoint.source is not None:
        raise Conflict(f"endpoint '{endpoint.name}' is owned by the file {endpoint.source}; change it there")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
