from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from tests.cli.conftest import written
from tests.cli.shell import llmops
from tests.conftest import NewServer
from tests.endpoints.specs import documents
from tests.server import Server, demo, external

ENDPOINTS = "/api/2.0/serving-endpoints"


def test_what_a_server_exports_leaves_no_difference(new_server: NewServer, tmp_path: Path) -> None:
    """Two hundred generated documents, through a real server and back."""
    made: list[dict[str, Any]] = []

    @settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(document=documents)
    def collect(document: dict[str, Any]) -> None:
        made.append({**document, "name": f"e{len(made)}"})

    collect()
    server = new_server(demo())
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for document in made:
            client.post(ENDPOINTS, json=document).raise_for_status()

    exported = llmops(server.url, "export", "-o", str(tmp_path / "out"))
    valid = llmops("", "validate", str(tmp_path / "out"))
    plan = llmops(server.url, "plan", str(tmp_path / "out"), "--prune")

    assert len(made) == 200
    assert (exported.returncode, exported.stderr) == (0, "")
    assert (valid.returncode, valid.stdout) == (0, f"{len(made) + 1} files, no problems\n")
    assert (plan.returncode, plan.stdout) == (0, f"0 to add, 0 to change, 0 to remove, {len(made) + 1} unchanged\n")


def test_an_export_is_the_file_and_holds_a_reference_and_no_value(empty: Server, tmp_path: Path) -> None:
    wanted = external("a", "http://127.0.0.1:9")
    llmops(empty.url, "apply", written(tmp_path, wanted))

    one = llmops(empty.url, "export", "a")
    again = llmops(empty.url, "export", "a")
    every = llmops(empty.url, "export")

    assert yaml.safe_load(one.stdout) == wanted
    assert "{{secrets/test/key}}" in one.stdout
    assert again.stdout == one.stdout
    assert [document["name"] for document in yaml.safe_load_all(every.stdout)] == ["a", "demo"]


def test_an_export_overwrites_nothing_unless_it_is_forced(empty: Server, tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text(f"# mine\n{yaml.safe_dump(demo())}")
    same = llmops(empty.url, "export", "demo", "-o", str(tmp_path))
    path.write_text("# mine, and not an endpoint\n")
    other = llmops(empty.url, "export", "demo", "-o", str(tmp_path))
    kept = path.read_text()
    forced = llmops(empty.url, "export", "demo", "-o", str(tmp_path), "--force")

    assert same.stdout == f"{path}: unchanged\n"
    assert other.returncode == 1
    assert other.stderr == f"llmops: {path}: there is such a file, and it says something else; --force overwrites it\n"
    assert kept == "# mine, and not an endpoint\n"
    assert forced.stdout == f"{path}: written\n"


def test_an_endpoint_that_is_not_there_is_named(empty: Server) -> None:
    done = llmops(empty.url, "export", "demos")

    assert done.returncode == 1
    assert "did you mean 'demo'?" in done.stderr


@pytest.mark.parametrize("beside", [True, False])
def test_a_file_names_the_schema_that_lies_beside_it(empty: Server, tmp_path: Path, beside: bool) -> None:
    if beside:
        (tmp_path / "endpoint.schema.json").write_text("{}")

    llmops(empty.url, "export", "demo", "-o", str(tmp_path))

    first = "# yaml-language-server: $schema=endpoint.schema.json\n"
    assert (tmp_path / "demo.yaml").read_text().startswith(first) is beside
