"""Rows into tables of MLflow's, as fast as the driver can.

The statements are our own text, of the columns of MLflow's tables: what SQLAlchemy does for every row takes as long as
the database does. PostgreSQL gets the rows of a table as one JSON value, which both sides handle in two thirds of the
time that thousands of literals take. (COPY is no faster: indexes and foreign keys are what takes long.)
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Column, Connection, Dialect, String, Table

Row = tuple[object, ...]
#: Rows by table, parents first.
Part = Mapping[Table, Sequence[Row]]


class Inserts:
    """Inserts rows into tables of SQLite (pysqlite) or PostgreSQL (psycopg2).

    Args:
        columns: What the rows of each table hold, in this order.

    Raises:
        KeyError: A table has no such column.
    """

    def __init__(self, dialect: Dialect, columns: Mapping[Table, Sequence[str]]) -> None:
        self._sqlite = dialect.name == "sqlite"
        self._statements = {table: self._statement(dialect, table, names) for table, names in columns.items()}

    def run(self, connection: Connection, parts: Iterable[Part], *, ignore: bool) -> None:
        """Insert rows, part by part.

        Args:
            parts: Made one by one while this runs; the connection may not be used for it.
            ignore: Whether rows that are there already are left as they are. It takes a tenth of the time.

        Raises:
            SQLAlchemyError: The database refuses, or is away; a row is there already and not ignored.
            ValueError, OverflowError: The driver cannot hand over a value.
        """
        end = " ON CONFLICT DO NOTHING" if ignore else ""
        if self._sqlite:
            for part in parts:
                for table, rows in _filled(part).items():
                    connection.exec_driver_sql(self._statements[table] + end, list(rows))
            return
        for part in parts:
            if filled := _filled(part):
                # One statement for all tables: a thread that comes back waits for the others to let go of Python.
                statement = ";".join(self._statements[table] + end for table in filled)
                connection.exec_driver_sql(statement, tuple(orjson.dumps(rows).decode() for rows in filled.values()))

    def _statement(self, dialect: Dialect, table: Table, names: Sequence[str]) -> str:
        quote = dialect.identifier_preparer.quote
        columns = [table.c[name] for name in names]
        into = f"INSERT INTO {quote(table.name)} ({', '.join(quote(column.name) for column in columns)})"
        if self._sqlite:
            return f"{into} VALUES ({', '.join('?' * len(columns))})"
        cells = ", ".join(f"(x->>{index})::{_type(column, dialect)}" for index, column in enumerate(columns))
        return f"{into} SELECT {cells} FROM jsonb_array_elements(%s::jsonb) AS x"  # noqa: S608 - names of columns


def _filled(part: Part) -> dict[Table, Sequence[Row]]:
    return {table: rows for table, rows in part.items() if rows}


def _type(column: Column[Any], dialect: Dialect) -> str:
    # A cast to VARCHAR(50) would cut what is longer, without a word.
    return "TEXT" if isinstance(column.type, String) else column.type.compile(dialect)
