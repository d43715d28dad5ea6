"""What many tests share: a scripted upstream and one running server in front of it."""

import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from llmops.interactions.mlflow_store import open_store
from llmops.settings import Settings
from tests.server import Server, demo, entity, external
from tests.upstream import Upstream, refused_url

KEY = "sk-canary-1234567890"
#: Seconds after which the endpoint `quick` gives up on its upstream.
QUICK = {"first_byte_s": 0.4, "between_chunks_s": 0.4, "total_s": 0.4}


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


class NewServer(Protocol):
    """Makes a server of a test's own; it is ended with the test."""

    def __call__(self, *endpoints: Mapping[str, Any], **options: Any) -> Server: ...


@pytest.fixture
def new_server(tmp_path: Path, mlflow_template: Path) -> Iterator[NewServer]:
    """Start a server in this test's folder; MLflow's database is there already, which saves seconds."""
    with ExitStack() as running:

        def start(*endpoints: Mapping[str, Any], **options: Any) -> Server:
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
