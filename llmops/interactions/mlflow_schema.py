"""Which MLflow databases may be written without MLflow's client, and why another one may not.

MLflow opens a database of its own schema revision only, so one of another is away until somebody migrates it, or
installs the MLflow that belongs to it.
"""

from pathlib import Path
from urllib.parse import urlsplit

import mlflow
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.store.db.utils import create_sqlalchemy_engine
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import Connection, make_url
from sqlalchemy.exc import SQLAlchemyError

from llmops.errors import Unavailable

#: Revisions whose tables the SQL writer was compared with MLflow's own writes for, and the drivers it was done with.
TESTED = frozenset({"dc11669786a5"})
_DRIVERS = frozenset({"pysqlite", "psycopg2"})


class SchemaMoved(Unavailable):
    """Somebody migrated the database while it was open."""


def revision(connection: Connection) -> str | None:
    """The schema revision of a database; None where it has none, or several."""
    heads = MigrationContext.configure(connection).get_current_heads()
    return heads[0] if len(heads) == 1 else None


def check(uri: str) -> None:
    """See whether the MLflow that is installed can open a database; one that is empty, or away, is not looked at.

    Asked before MLflow is: it takes a database of later tables for an empty one and begins to fill it.

    Raises:
        Unavailable: It is of another revision; the message names both, and what to do.
    """
    found = _found(uri)
    if found is None or found in TESTED:
        return
    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    head = scripts.get_current_head()
    if found == head:
        return
    installed = f"mlflow {mlflow.__version__} needs {head}"
    try:
        scripts.get_revision(found)
    except CommandError as err:
        raise Unavailable(
            f"MLflow: the tracking database has schema revision {found}, {installed}: a later MLflow has migrated it; "
            "install that version here and restart"
        ) from err
    raise Unavailable(
        f"MLflow: the tracking database has the old schema revision {found}, {installed}; "
        "take a backup of it, then run 'mlflow db upgrade' with its URI"
    )


def objection(store: AbstractStore, tested: frozenset[str] = TESTED) -> str:
    """Why a database that is open must be written through MLflow's client.

    Returns:
        One sentence; empty where there is no reason, and where the store is no database.
    """
    if not isinstance(store, SqlAlchemyStore):
        return ""
    dialect = store.engine.dialect
    if dialect.driver not in _DRIVERS:
        return (
            f"MLflow's database is written through its client, some 60 interactions a second: the SQL writer knows "
            f"{' and '.join(sorted(_DRIVERS))}, not {dialect.driver}; for PostgreSQL use postgresql+psycopg2://"
        )
    with store.engine.connect() as connection:
        found = revision(connection)
    if found in tested:
        return ""
    return (
        f"MLflow's database is written through its client, some 60 interactions a second: the SQL writer was tested "
        f"with schema revision {', '.join(sorted(tested))}, not with {found} of mlflow {mlflow.__version__}; "
        "upgrade llmops, or install an mlflow it was tested with"
    )


def _found(uri: str) -> str | None:
    if urlsplit(uri).scheme.partition("+")[0] not in DATABASE_ENGINES:
        return None
    url = make_url(uri)
    # Connecting would make an empty file.
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        return None
    try:
        engine = create_sqlalchemy_engine(uri)
    except ImportError:
        return None
    try:
        with engine.connect() as connection:
            return revision(connection)
    except SQLAlchemyError:
        return None
    finally:
        engine.dispose()
