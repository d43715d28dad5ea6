"""What many tests share: a scripted upstream and one running server in front of it."""

import shutil
import signal
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from llmops.interactions.mlflow_store import open_store
from llmops.settings import Settings
from tests.postgres import hang_up, postgres_database, run, server_url, stores, tracking_uri
from tests.server import Server, demo, entity, external
from tests.upstream import Upstream, refused_url

KEY = "sk-canary-1234567890"
#: Seconds after which the endpoint `quick` gives up on its upstream.
QUICK = {"first_byte_s": 0.4, "between_chunks_s": 0.4, "total_s": 0.4}

# A shell that starts us in the background has us ignore SIGINT, and every process we start would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: a long file at the end would keep one process busy while the others wait."""
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with tables and nothing in them."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("template"))
    open_store(settings)
    path = settings.data_dir / "mlflow.db"
    database = sqlite3.connect(path)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return path


@pytest.fixture
def postgres() -> Iterator[str]:
    """The URL of an empty PostgreSQL database of this test's own."""
    with postgres_database() as url:
        yield url


@pytest.fixture(scope="session")
def mlflow_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL database with MLflow's tables and nothing in them, to be copied."""
    with postgres_database() as url:
        open_store(Settings(data_dir=tmp_path_factory.mktemp("postgres"), mlflow_tracking_uri=tracking_uri(url)))
        # A database is copied only while nobody is connected.
        run(server_url(), f"ALTER DATABASE {url.rpartition('/')[2]} ALLOW_CONNECTIONS false")
        hang_up(url)
        yield url


@pytest.fixture
def on_postgres(postgres: str, request: pytest.FixtureRequest) -> Iterator[Mapping[str, str]]:
    """The environment of a server with both stores on PostgreSQL: its endpoints, and MLflow's runs."""
    with postgres_database(request.getfixturevalue("mlflow_postgres")) as mlflow_url:
        yield stores(postgres, mlflow_url)


@pytest.fixture(params=["sqlite", "postgres"])
def either_store(
    tmp_path: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Settings:
    """Settings of a data directory of this test's own, endpoints and runs in SQLite or both in PostgreSQL.

    Commands that are called in this process find the same.
    """
    shutil.copy(mlflow_template, tmp_path / "mlflow.db")
    if request.param == "sqlite":
        return Settings(data_dir=tmp_path)
    databases: Mapping[str, str] = request.getfixturevalue("on_postgres")
    for name, url in databases.items():
        monkeypatch.setenv(name, url)
    return Settings(
        data_dir=tmp_path,
        database_url=databases["LLMOPS_DATABASE_URL"],
        mlflow_tracking_uri=databases["MLFLOW_TRACKING_URI"],
    )


class NewServer(Protocol):
    """Makes a server of a test's own; it is ended with the test.

    Its keyword ``store`` says where endpoints and runs are kept: sqlite or postgres.
    """

    def __call__(self, *endpoints: Mapping[str, Any], **options: Any) -> Server: ...


@pytest.fixture
def new_server(tmp_path: Path, mlflow_template: Path, request: pytest.FixtureRequest) -> Iterator[NewServer]:
    """Start a server in this test's folder; MLflow's database is there already, which saves seconds."""
    with ExitStack() as running:

        def start(*endpoints: Mapping[str, Any], store: str = "sqlite", **options: Any) -> Server:
            if store == "postgres":
                databases = request.getfixturevalue("on_postgres")
                options["environment"] = {**databases, **(options.get("environment") or {})}
            server = Server(tmp_path, endpoints, **options)
            server.data_dir.mkdir()
            shutil.copy(mlflow_template, server.data_dir / "mlflow.db")
            return running.enter_context(server)

        yield start


@pytest.fixture(scope="session")
def shared_upstream() -> Iterator[Upstream]:
    """An upstream that lives as long as the shared server."""
    with Upstream() as running:
        yield running


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory, shared_upstream: Upstream) -> Iterator[Server]:
    """One server for all tests that only ask it things."""
    url, folder = shared_upstream.url, tmp_path_factory.mktemp("server")
    endpoints = (
        demo(),
        demo("demo-embeddings", "llm/v1/embeddings"),
        demo("demo-completions", "llm/v1/completions"),
        external("up", url),
        external("up-completions", url, task="llm/v1/completions"),
        external("up-embeddings", url, task="llm/v1/embeddings"),
        external("quick", url, timeouts=QUICK),
        external("down", refused_url()),
        _fallback("fall", refused_url(), url),
        _fallback("both", url, url),
        {"name": "keyless", "config": {"served_entities": [_other_key(url)]}},
    )
    with Server(folder, endpoints, environment={"LLMOPS_SECRET_TEST_KEY": KEY}) as running:
        yield running


@pytest.fixture
def upstream(shared_upstream: Upstream) -> Upstream:
    """The upstream behind the shared server, with nothing queued."""
    shared_upstream.forget()
    return shared_upstream


@pytest.fixture
def server(shared_server: Server) -> Server:
    """The shared server."""
    return shared_server


def _fallback(name: str, first: str, second: str) -> dict[str, object]:
    routes = [{"served_entity_name": "first", "traffic_percentage": 100}]
    routes.append({"served_entity_name": "second", "traffic_percentage": 0})
    config = {
        "served_entities": [entity("first", first), entity("second", second)],
        "traffic_config": {"routes": routes},
    }
    return {"name": name, "config": config, "ai_gateway": {"fallback_config": {"enabled": True}}}


def _other_key(url: str) -> dict[str, object]:
    given = entity("keyless", url)
    given["external_model"]["openai_config"]["openai_api_key"] = "{{secrets/nowhere/key}}"
    return given
