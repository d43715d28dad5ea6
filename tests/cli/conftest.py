"""What the tests of config as code share: one running server, and the files they write."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.server import Server, demo


@pytest.fixture(scope="session")
def control(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[Server]:
    """A server whose own file makes the endpoint ``demo``; tests make others and remove them."""
    server = Server(tmp_path_factory.mktemp("control"), (demo(),))
    server.data_dir.mkdir()
    shutil.copy(mlflow_template, server.data_dir / "mlflow.db")
    with server:
        yield server


@pytest.fixture
def empty(control: Server) -> Server:
    """The same server, with nothing but its own endpoint."""
    for endpoint in control.get("/api/2.0/serving-endpoints").json()["endpoints"]:
        if endpoint["name"] != "demo":
            httpx.delete(f"{control.url}/api/2.0/serving-endpoints/{endpoint['name']}").raise_for_status()
    return control


def written(folder: Path, *documents: Mapping[str, Any]) -> str:
    """A directory with a file for each document, and nothing else."""
    directory = folder / "wanted"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for document in documents:
        (directory / f"{document['name']}.yaml").write_text(yaml.safe_dump(dict(document), sort_keys=False), "utf-8")
    return str(directory)
