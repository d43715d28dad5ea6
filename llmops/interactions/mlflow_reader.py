"""Reads logged interactions back from MLflow: from its tables where we know them, else through its public API."""

from collections.abc import Callable, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.store.db.utils import create_sqlalchemy_engine
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from llmops.errors import NotFound
from llmops.interactions.logged import LoggedInteraction, Page, Reader, Story, Wanted
from llmops.interactions.logged_stats import EndpointStats, Period
from llmops.interactions.mlflow_reader_api import ApiReader, tell
from llmops.interactions.mlflow_reader_sql import SqlReader
from llmops.interactions.mlflow_schema import TESTED, revision
from llmops.interactions.mlflow_store import open_store
from llmops.settings import Settings

_MOST = 1000


def _silent(count: int) -> None:
    """Say nothing."""


class MlflowReader:
    """What was logged, read from the tracking store of the settings: a `Reader`.

    Args:
        tested: Revisions of MLflow's tables that may be read without its client.
        progress: Called with the number of interactions read so far, where they are read one by one.

    Raises:
        NotFound: Nothing was ever logged in this data directory.
        Unavailable: The tracking store is away.
    """

    def __init__(
        self, settings: Settings, progress: Callable[[int], None] = _silent, tested: frozenset[str] = TESTED
    ) -> None:
        scheme, _, path = settings.tracking_uri.partition(":///")
        # Opening a database that is not there would make one, which takes seconds and shows nothing.
        if scheme == "sqlite" and not Path(path).exists():
            where = settings.data_dir if settings.mlflow_tracking_uri is None else path
            raise NotFound(f"nothing is logged in '{where}' yet; --data-dir names another directory")
        self._settings = settings
        engine = _known_engine(settings.tracking_uri, tested)
        self._reader: Reader = SqlReader(engine, self._tell) if engine else ApiReader(self._client(), progress=progress)

    def page(self, wanted: Wanted, limit: int, token: str | None = None) -> Page:
        """List interactions; see `Reader.page`."""
        return self._reader.page(wanted, limit, token)

    def arrived(self, wanted: Wanted, since_ms: int) -> list[str]:
        """List ids; see `Reader.arrived`."""
        return self._reader.arrived(wanted, since_ms)

    def named(self, ids: Sequence[str]) -> list[LoggedInteraction]:
        """Read interactions; see `Reader.named`."""
        return self._reader.named(ids)

    def stats(self, wanted: Wanted, period: Period | None = None) -> tuple[EndpointStats, ...]:
        """Sum up; see `Reader.stats`."""
        return self._reader.stats(wanted, period)

    def show(self, name: str) -> Story:
        """Tell a story; see `Reader.show`."""
        return self._reader.show(name)

    def find_by_request_id(self, client_request_id: str) -> tuple[LoggedInteraction, ...]:
        """The complete interactions a caller gave this id, newest first; at most 1000."""
        return self.page(Wanted(client_request_id=client_request_id), _MOST).interactions

    def _client(self) -> MlflowClient:
        open_store(self._settings)
        return MlflowClient(self._settings.tracking_uri)

    def _tell(self, run_id: str, trace_id: str) -> Story:
        return tell(self._client(), run_id, trace_id)


def _known_engine(uri: str, tested: frozenset[str]) -> Engine | None:
    """The database behind the URI, where it is one whose tables we know."""
    if not uri.startswith(("sqlite:", "postgresql")):
        return None
    try:
        engine: Engine = create_sqlalchemy_engine(uri)
        with engine.connect() as connection:
            if revision(connection) in tested:
                return engine
    except (SQLAlchemyError, ImportError):
        # Opening the store says what is wrong with it.
        return None
    engine.dispose()
    return None
