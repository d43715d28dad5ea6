"""MLflow's tracking store as the sink uses it: opened, initialised, and its errors read."""

import fcntl
import logging
import re
import sqlite3
from pathlib import Path
from urllib.parse import quote, urlsplit

from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.store.db.utils import create_sqlalchemy_engine
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy.exc import SQLAlchemyError

from llmops.errors import Unavailable
from llmops.interactions.mlflow_server import TrackingServer
from llmops.interactions.sink import Refused, Retry
from llmops.settings import Settings, export

#: MLflow's own client, which readers use, would repeat a request for minutes by itself.
_CLIENT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_WRONG_VALUE = "INVALID_PARAMETER_VALUE"
#: No credential, not allowed, too many requests.
_NOT_THE_RECORD = frozenset({401, 403, 429})
_REASON_CHARS = 300
#: User and password in a URL; a password may have an @ in it.
_CREDENTIALS = re.compile(r"//[^/\s]+@")


def open_store(settings: Settings) -> AbstractStore:
    """Connect to the tracking store; an empty database gets its tables first, which takes seconds.

    Raises:
        Unavailable: It cannot be reached or cannot keep traces.
    """
    uri = settings.tracking_uri
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme not in (*DATABASE_ENGINES, "http", "https"):
        raise Unavailable(
            f"an MLflow tracking URI '{scheme}:' cannot keep traces; use sqlite:///, a database, or http://"
        )
    export(_CLIENT_ENVIRONMENT)
    # It logs every failure with its stack and the statement's values, prompts among them.
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)
    try:
        if scheme in DATABASE_ENGINES:
            return _open_database(settings)
        server = TrackingServer(uri)
        server.check()
        return server
    except (MlflowException, SQLAlchemyError, ImportError) as err:
        raise Unavailable(_reason(err)) from err


def _open_database(settings: Settings) -> AbstractStore:
    ours = settings.data_dir.absolute() / "mlflow.db"
    if settings.tracking_uri == f"sqlite:///{ours}" and not ours.exists():
        _make(ours, settings.artifact_root)
    _probe(settings.tracking_uri)
    store = SqlAlchemyStore(settings.tracking_uri, settings.artifact_root)
    store.search_experiments(max_results=1)
    return store


def _make(path: Path, artifact_root: str) -> None:
    """Make our database beside its place and move it there whole.

    MLflow's migrations take seconds, and two that run at once, or one that was killed, leave a database nobody can use.
    """
    with (path.parent / "mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        fresh = path.with_name("mlflow.db.new")
        fresh.unlink(missing_ok=True)
        SqlAlchemyStore(f"sqlite:///{fresh}", artifact_root).engine.dispose()
        _use_wal(fresh)
        fresh.replace(path)


def _probe(uri: str) -> None:
    """Connect once: MLflow by itself would try a database that is away for an hour, asleep."""
    engine = create_sqlalchemy_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def _use_wal(path: Path) -> None:
    """Let MLflow's UI read while we write: the mode is kept in the file. Commits also get a third faster."""
    database = sqlite3.connect(path)
    try:
        database.execute("PRAGMA journal_mode = WAL")
    finally:
        database.close()


class Experiments:
    """The experiments interactions go to, found or made once each.

    Args:
        artifact_root: Where artifacts of experiments we make are kept; None leaves it to the tracking server.
    """

    def __init__(self, store: AbstractStore, artifact_root: str | None) -> None:
        self._store = store
        self._artifact_root = artifact_root
        self._ids: dict[str, str] = {}

    def id(self, name: str) -> str:
        """The id of the experiment of this name, which is active afterwards: made, found, or restored.

        Raises:
            MlflowException: The store refuses, or is away.
        """
        if name not in self._ids:
            self._ids[name] = self._found(name) or self._made(name)
        return self._ids[name]

    def forget(self, name: str) -> None:
        """Look the experiment up again next time: someone may have deleted it."""
        self._ids.pop(name, None)

    def _found(self, name: str) -> str | None:
        experiment = self._store.get_experiment_by_name(name)
        if experiment is None:
            return None
        if experiment.lifecycle_stage == LifecycleStage.DELETED:
            self._store.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _made(self, name: str) -> str:
        location = f"{self._artifact_root}/{quote(name)}" if self._artifact_root else None
        try:
            return str(self._store.create_experiment(name, location, []))
        except MlflowException:
            # Another process may have made it in between.
            found = self._found(name)
            if found is None:
                raise
            return found


def judge(err: MlflowException, tries: int) -> Retry | Refused:
    """Tell what an error of the store says about the one record it came with.

    Returns:
        Refused where a value of the record is wrong, from the second try on: at first the experiment may have been
        deleted, which MLflow says in the same way. Retry for the other 4xx: MLflow calls a database that changes its
        master a bad request too.

    Raises:
        Unavailable: The store is away, locked, overloaded or broken; it says nothing about the record.
    """
    if err.error_code == _WRONG_VALUE and tries > 1:
        return Refused(_reason(err))
    status = err.get_http_status_code()
    if 400 <= status < 500 and status not in _NOT_THE_RECORD:
        return Retry(_reason(err))
    raise Unavailable(_reason(err)) from err


def _reason(err: Exception) -> str:
    """The first line, without the exception inside the exception: what follows may hold a statement with its values."""
    line = str(err).partition("\n")[0].partition(" with exception ")[0]
    line = _CREDENTIALS.sub("//***@", line)
    return f"MLflow: {line[:_REASON_CHARS]}"
