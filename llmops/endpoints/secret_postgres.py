"""PostgreSQL as the place where several servers keep the secrets they share, sealed as they are in a file.

Blocking, and meant for a thread, as `llmops.endpoints.store_postgres`, whose connection it is.
"""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2

from llmops.endpoints.secret_database import COPIED, STATE, TABLES, Ask, Rows, State
from llmops.endpoints.store_postgres import Postgres

#: Of the advisory lock under which the tables are made: "secret" as a number.
_LOCK_ID = 0x736563726574


class SharedSecrets(Postgres):
    """The tables of secrets in one database; made when they are first needed."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._made = False

    @contextmanager
    def change(self) -> Iterator[Ask]:
        """A transaction that no other write overlaps: each begins by changing the one row of the state.

        Raises:
            Unavailable: The database does not answer; the change may have been made only if the message says so.
        """
        with self._transaction():
            yield self._rows
            try:
                self._ask("COMMIT")
            except psycopg2.OperationalError as err:
                told = str(err).strip().partition("\n")[0]
                raise psycopg2.OperationalError(
                    f"{told} (the change may have been made; look before you repeat it)"
                ) from None

    def contents(self, seen: State) -> tuple[State, dict[str, Rows]] | None:
        """Every row by table, and the state they are of; None if it is the one given.

        Raises:
            Unavailable: The database does not answer.
        """
        with self._transaction("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"):
            instance, version = self._rows("SELECT instance, version FROM secret_state", ())[0]
            same = (instance, version) == seen
            found = {} if same else {table: self._rows(f"SELECT * FROM {table}", ()) for table in COPIED}  # noqa: S608
            self._ask("COMMIT")
        return None if same else ((instance, version), found)

    @contextmanager
    def _transaction(self, begin: str = "BEGIN") -> Iterator[None]:
        with self._session():
            if not self._made:
                self._make_tables()
                self._make_secrets()
                self._made = True
            self._token()  # Proves the connection: what then fails was sent.
            try:
                self._ask(begin)
                self._ask("SET LOCAL search_path TO llmops")
                yield
            except BaseException:
                self._drop()  # Which rolls back.
                raise

    def _make_secrets(self) -> None:
        self._ask("BEGIN")
        self._ask("SELECT pg_advisory_xact_lock(%s)", [_LOCK_ID])
        self._ask("SET LOCAL search_path TO llmops")
        self._ask(TABLES)
        self._rows(STATE, (uuid.uuid4().hex,))
        self._ask("COMMIT")

    def _rows(self, statement: str, values: Sequence[Any]) -> Rows:
        return self._ask(statement.replace("?", "%s"), [_known(value) for value in values])[1]


def _known(value: Any) -> Any:
    """A value as PostgreSQL can be asked for it: its text knows no NUL, and no name that is kept holds one."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value
