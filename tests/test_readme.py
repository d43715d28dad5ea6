"""The README is true: its commands run, its programs run, and its tables name what the code has."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llmops.cli.main import COMMANDS
from llmops.endpoints.foundation_model import EntityExtras, Vendor
from llmops.endpoints.log_policy import EndpointExtras
from llmops.endpoints.spec import EndpointSpec
from tests.conftest import NewServer
from tests.server import Server

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
#: What stands in the README for a server on the default port.
DEFAULT_URL = "http://127.0.0.1:8080"


def _blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def _column(heading: str, column: int = 0) -> set[str]:
    """The code spans of a column of the table under a heading row that begins so."""
    table = README.partition(f"| {heading}")[2].partition("\n\n")[0]
    cells = [line.split(" | ")[column] for line in table.splitlines()[2:]]
    return {span for cell in cells for span in re.findall(r"`([^`]+)`", cell)}


@pytest.fixture
def served(new_server: NewServer) -> Server:
    """A server on the endpoint files that are shipped."""
    server = new_server(options=("--no-mlflow-ui",))
    server.stop()
    server.configs = ROOT / "endpoint_configs"
    server.start()
    return server


def test_the_first_minute_runs(served: Server) -> None:
    make, serve, commands = _blocks("sh")[:3]
    environment = {**os.environ, "LLMOPS_HOST": served.url, "LLMOPS_DATA_DIR": str(served.data_dir)}

    for line in commands.splitlines():
        done = subprocess.run(
            line, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        if "flush" not in line:
            assert done.stdout.strip(), line

    assert (make.strip(), serve.strip()) == ("make run", ".venv/bin/llmops serve")


def test_make_run_works_as_the_readme_says(tmp_path: Path) -> None:
    environment = {**os.environ, "LLMOPS_DATA_DIR": str(tmp_path / "data")}

    done = subprocess.run(
        ["make", "run"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "MLflow run   " in done.stdout


def test_every_program_runs(served: Server) -> None:
    for program in _blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", program.replace(DEFAULT_URL, served.url)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_the_endpoint_of_the_readme_is_valid() -> None:
    (document,) = _blocks("yaml")

    assert EndpointSpec.model_validate(yaml.safe_load(document)).config.percentages == [100, 0]


def test_the_table_of_commands_is_complete() -> None:
    assert {command.split()[1] for command in _column("command | what it does")} == set(COMMANDS)


def test_the_table_of_routes_is_complete(server: Server) -> None:
    document = server.get("/openapi.json").json()
    routes = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}

    assert _column("route | what") == routes


def test_the_tables_of_keys_and_vendors_are_complete() -> None:
    assert _column("key | meaning") == set(EntityExtras.model_fields)
    assert _column("endpoint key | meaning") == set(EndpointExtras.model_fields)
    assert set(Vendor.__args__) <= _column("provider | reached")  # type: ignore[attr-defined]


def test_the_table_of_endpoints_is_what_is_shipped() -> None:
    assert _column("shipped endpoint") == {path.stem for path in (ROOT / "endpoint_configs").glob("*.yaml")}


def test_the_table_of_settings_is_complete() -> None:
    sources = (ROOT / "llmops" / "settings.py").read_text() + (ROOT / "llmops" / "endpoints" / "secrets.py").read_text()
    read = set(re.findall(r'environ\.get\("([A-Z_]+)"', sources)) - {"LLMOPS_INTERNAL_KEY"}

    assert read <= _column("variable | who")
