"""PostgreSQL as the place where several servers keep the endpoints they share.

Blocking, and meant for a thread: every call answers, or fails with one line, within seconds, also when the database is
stopped or the network swallows what is sent. It is spoken to asynchronously underneath, because the driver's blocking
calls know no time limit. Nothing here says the URL, a user or a password.
"""

import logging
import re
import select
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, parse_dsn

from llmops.endpoints.history import SHARED_TABLES
from llmops.errors import CommandError, Unavailable

logger = logging.getLogger(__name__)

#: For one statement, or for one connection to open.
LIMIT_S = 3.0
#: Ends a statement on the server before we stop waiting: who was told that it failed may then repeat it.
_STATEMENT_LIMIT_MS = 2500
#: After a failure, callers are refused at once for so long, instead of waiting one after the other.
_PAUSE_S = 0.5
_SCHEMA_VERSION = _WITH_HISTORY = 2
#: Of the advisory lock under which the tables are made: "llmops" as a number.
_LOCK_ID = 0x6C6C6D6F7073
_FORM = "postgresql://user:password@host:5432/database, special characters of a password percent-encoded"
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.%-]*)(:\d+)?")

#: A schema of our own: MLflow, which may live in the same database, has a table `endpoints` too. The trigger counts
#: every change, whoever makes it; its row lock makes the order of the counts the order of the commits.
_TABLES = """
CREATE TABLE llmops.endpoints (
    name TEXT PRIMARY KEY,
    id TEXT NOT NULL,
    document TEXT NOT NULL,
    source TEXT,
    problem TEXT,
    creator TEXT,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    config_version BIGINT NOT NULL,
    revision BIGINT NOT NULL
);
CREATE TABLE llmops.state (schema_version INTEGER NOT NULL, instance TEXT NOT NULL, changes BIGINT NOT NULL);
CREATE FUNCTION llmops.count_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE llmops.state SET changes = changes + 1;
    RETURN NULL;
END $$;
CREATE TRIGGER count_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON llmops.endpoints
    FOR EACH STATEMENT EXECUTE FUNCTION llmops.count_change();
"""


class Postgres:
    """One database; safe to use from several threads. Connects when it is first needed, and again when it has to.

    Raises:
        CommandError: The URL is not one of a PostgreSQL database.
    """

    def __init__(self, url: str) -> None:
        # MLflow's URIs name a driver, and are copied from.
        self._url = re.sub(r"^postgres(ql)?\+psycopg2?:", "postgresql:", url)
        self._place = _place(self._url)
        self._lock = threading.Lock()
        self._connection: Any = None
        self._refuse_until = 0.0
        self._reason = ""

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            self._drop()

    def prepare(self, patience_s: float) -> None:
        """Make the tables if there are none; of several servers that start at once, one makes them.

        Raises:
            CommandError: The database cannot be reached within the patience, refuses us, or is of a newer release.
        """
        deadline, told = time.monotonic() + patience_s, False
        while True:
            try:
                with self._session():
                    return self._make_tables()
            except Unavailable as err:
                if time.monotonic() > deadline:
                    raise CommandError(f"{err.message} (LLMOPS_DATABASE_URL)", exit_code=69) from None
                if not told:
                    logger.warning("event=database_awaited patience_s=%g reason=%r", patience_s, err.message)
                told = True
            time.sleep(_PAUSE_S)

    def changes(self, token: str | None) -> tuple[str, list[Sequence[Any]]] | None:
        """Every endpoint, and the token of this state; None if the state is still the one of the given token.

        Raises:
            Unavailable: The database does not answer; the message names it and says why.
        """
        with self._session():
            now = self._token()
            if now == token:
                return None
            # What changes between the two statements is in the rows already, and is told again by the next token.
            return now, self._ask("SELECT * FROM llmops.endpoints ORDER BY name")[1]

    def write(self, statement: str, values: Sequence[Any]) -> int:
        """Run one statement of the store, in a transaction of its own.

        Args:
            statement: As for SQLite: question marks, and the table's bare name.

        Returns:
            How many rows it changed.

        Raises:
            Unavailable: As for `changes`; the change may have been made only if the message says so.
        """
        with self._session():
            self._token()  # Proves the connection: what then fails was sent.
            try:
                return self._ask(_translated(statement), [_text(value) for value in values])[0]
            except psycopg2.OperationalError as err:
                if err.pgcode is not None:
                    raise
                raise psycopg2.OperationalError(
                    f"{_first_line(err)} (the change may have been made; look before you repeat it)"
                ) from None

    def read(self, statement: str, values: Sequence[Any]) -> list[Sequence[Any]]:
        """Run one statement of the store that changes nothing.

        Args:
            statement: As for SQLite: question marks, and the bare names of tables.

        Raises:
            Unavailable: As for `changes`.
        """
        with self._session():
            self._token()
            return self._ask(_translated(statement), list(values))[1]

    def _make_tables(self) -> None:
        self._connect()
        self._ask("BEGIN")
        self._ask("SELECT pg_advisory_xact_lock(%s)", [_LOCK_ID])
        if self._ask("SELECT to_regnamespace('llmops') IS NULL")[1][0][0]:
            self._ask("CREATE SCHEMA llmops")
        if self._ask("SELECT to_regclass('llmops.state') IS NULL")[1][0][0]:
            self._ask(_TABLES)
            self._ask("INSERT INTO llmops.state VALUES (1, %s, 1)", [uuid.uuid4().hex])
        found = self._ask("SELECT schema_version FROM llmops.state")[1][0][0]
        if found < _WITH_HISTORY:
            self._ask(SHARED_TABLES)
            self._ask("UPDATE llmops.state SET schema_version = %s", [_WITH_HISTORY])
        self._ask("COMMIT")
        if found > _SCHEMA_VERSION:
            raise CommandError(
                f"{self._place} was made by a newer release (schema {found}, this one knows {_SCHEMA_VERSION}):"
                " upgrade this server, or name another LLMOPS_DATABASE_URL"
            )

    def _token(self) -> str:
        """The token of this moment; a connection that broke meanwhile is replaced first."""
        if self._connection is not None:
            try:
                return self._asked_token()
            except _Silent:
                raise
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                self._drop()
        self._connect()
        return self._asked_token()

    def _asked_token(self) -> str:
        return str(self._ask("SELECT instance || ':' || changes FROM llmops.state")[1][0][0])

    def _connect(self) -> None:
        self._drop()
        # `async` is what makes it return at once; each statement is then a transaction of its own.
        self._connection = psycopg2.connect(self._url, application_name="llmops", client_encoding="UTF8", async_=True)
        self._wait()
        self._ask(f"SET statement_timeout = {_STATEMENT_LIMIT_MS}")

    def _ask(self, statement: str, values: Sequence[Any] | None = None) -> tuple[int, list[Sequence[Any]]]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            self._wait()
            return cursor.rowcount, cursor.fetchall() if cursor.description else []

    def _wait(self) -> None:
        deadline = time.monotonic() + LIMIT_S
        while (state := self._connection.poll()) != POLL_OK:
            ready = select.poll()  # Unlike select(), it knows descriptors above 1024.
            ready.register(self._connection.fileno(), select.POLLIN if state == POLL_READ else select.POLLOUT)
            if not ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise _Silent(f"no answer in {LIMIT_S:g} seconds")

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _session(self) -> Iterator[None]:
        """Have the connection alone, and turn what fails into one line."""
        with self._lock:
            if time.monotonic() < self._refuse_until:
                raise Unavailable(self._reason)
            try:
                yield
            except psycopg2.Error as err:
                self._drop()
                reason = f"{self._place} cannot be used: {_first_line(err)}"
                if err.pgcode is None:  # It is not there; otherwise it answered, and refused this one statement.
                    self._refuse_until, self._reason = time.monotonic() + _PAUSE_S, reason
                raise Unavailable(reason) from err


class _Silent(psycopg2.OperationalError):
    """The server did not answer in time; a new connection would not get an answer either."""


def _place(url: str) -> str:
    """The database of a URL in words, without its user and password.

    The driver would repeat parts of a password that holds a bare ``@`` or ``/``: it takes them for the host.
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme not in ("postgresql", "postgres"):
        raise CommandError(f"LLMOPS_DATABASE_URL is a '{parts.scheme}:' URL; write {_FORM}")
    if parts.netloc.count("@") > 1 or "@" in f"{parts.path}{parts.query}{parts.fragment}" or parts.fragment:
        raise CommandError(f"LLMOPS_DATABASE_URL cannot be read; write {_FORM}")
    try:
        read = all(map(_HOST.fullmatch, host.split(","))) and parse_dsn(url)
    except psycopg2.ProgrammingError:
        read = False
    if not read:
        raise CommandError(f"LLMOPS_DATABASE_URL cannot be read; write {_FORM}")
    return f"the database postgresql://{host}{parts.path}"


def _translated(statement: str) -> str:
    """A statement of the store as PostgreSQL takes it."""
    statement = statement.replace("?", "%s")
    return re.sub(r" (endpoints|versions) ", r" llmops.\1 ", statement)


def _text(value: Any) -> Any:
    """A value as PostgreSQL can keep it: its text knows no NUL, and no name holds one."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _first_line(err: Exception) -> str:
    """What follows may hold a statement with its values."""
    return str(err).strip().partition("\n")[0] or type(err).__name__
