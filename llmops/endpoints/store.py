"""Where endpoints are kept: one SQLite file that every process of a server reads.

A row is an endpoint's document as it was accepted, who owns it, and its version. A change is seen by the others through
``PRAGMA data_version``, which costs microseconds to ask. Beside the endpoints stand the children: which engine process
runs where, written by the supervisor and read by the workers.
"""

import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from llmops.endpoints.files import EndpointFile
from llmops.endpoints.spec import EndpointSpec
from llmops.errors import AlreadyExists, Conflict, NotFound

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
    """The endpoints of one data directory; safe to use from several threads and processes."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        # Reads never wait for a writer: the table of a worker is read on its loop.
        self._reading = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.2)
        self._lock = threading.Lock()
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")  # An endpoint that was acked survives a power loss.
        self._db.executescript(_SCHEMA)
        self._seen = -1

    def close(self) -> None:
        """Let go of the file."""
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
        """One endpoint.

        Raises:
            NotFound: There is none of that name.
        """
        row = self._reading.execute("SELECT * FROM endpoints WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise NotFound(f"Endpoint with name '{name}' does not exist.")
        return _endpoint(row)

    def create(self, spec: EndpointSpec, creator: str | None) -> StoredEndpoint:
        """Keep a new endpoint.

        Raises:
            AlreadyExists: The name is taken; of two creates at once, one wins.
        """
        try:
            self._insert(spec.name, spec.document(), creator=creator)
        except sqlite3.IntegrityError:
            raise AlreadyExists(f"Endpoint with name '{spec.name}' already exists.") from None
        return self.get(spec.name)

    def update(self, old: StoredEndpoint, spec: EndpointSpec) -> StoredEndpoint:
        """Replace the document of an endpoint that was read before.

        Raises:
            Conflict: A file owns it, or somebody else changed it meanwhile.
        """
        _refuse_file(old)
        config_changed = spec.document()["config"] != old.document.get("config")
        with self._lock:
            done = self._db.execute(
                "UPDATE endpoints SET document = ?, updated_ms = ?, config_version = config_version + ?,"
                " revision = revision + 1 WHERE name = ? AND revision = ?",
                (orjson.dumps(spec.document()), _now_ms(), int(config_changed), old.name, old.revision),
            )
        if done.rowcount == 0:
            raise Conflict(f"endpoint '{old.name}' was changed by somebody else; read it again and repeat the update")
        return self.get(old.name)

    def delete(self, name: str) -> None:
        """Forget an endpoint.

        Raises:
            NotFound: There is none of that name.
            Conflict: A file owns it.
        """
        _refuse_file(self.get(name))
        with self._lock:
            self._db.execute("DELETE FROM endpoints WHERE name = ?", (name,))

    def sync(self, files: Iterable[EndpointFile]) -> list[str]:
        """Make the file-owned endpoints what the files say, in one transaction.

        An endpoint that was created over REST keeps its name; the file that claims it is reported.

        Returns:
            One line for each file that could not take effect.
        """
        refused = []
        with self._lock, _transaction(self._db):
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
        return refused

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

    def drop_children(self) -> None:
        """Forget every child process: a server that starts has none yet."""
        with self._lock:
            self._db.execute("DELETE FROM children")

    def _put_file(self, file: EndpointFile) -> None:
        document = file.spec.document() if file.spec else {"name": file.name}
        problem = "\n".join(file.problems) or None
        row = self._db.execute("SELECT * FROM endpoints WHERE name = ?", (file.name,)).fetchone()
        if row is None:
            self._insert(file.name, document, source=str(file.path), problem=problem)
            return
        old = _endpoint(row)
        if (old.document, old.source, old.problem) == (document, str(file.path), problem):
            return
        newer = int(document.get("config") != old.document.get("config"))
        self._db.execute(
            "UPDATE endpoints SET document = ?, source = ?, problem = ?, updated_ms = ?,"
            " config_version = config_version + ?, revision = revision + 1 WHERE name = ?",
            (orjson.dumps(document), str(file.path), problem, _now_ms(), newer, file.name),
        )

    def _insert(
        self,
        name: str,
        document: Mapping[str, Any],
        *,
        source: str | None = None,
        problem: str | None = None,
        creator: str | None = None,
    ) -> None:
        now_ms = _now_ms()
        row = (name, uuid.uuid4().hex, orjson.dumps(document), source, problem, creator, now_ms, now_ms, 1, 1)
        self._db.execute("INSERT INTO endpoints VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def _endpoint(row: Any) -> StoredEndpoint:
    name, id_, document, *rest = row
    return StoredEndpoint(name, id_, orjson.loads(document), *rest)


def _refuse_file(endpoint: StoredEndpoint) -> None:
    if endpoint.source is not None:
        raise Conflict(f"endpoint '{endpoint.name}' is owned by the file {endpoint.source}; change it there")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commit at the end, or roll back what an error left behind."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
