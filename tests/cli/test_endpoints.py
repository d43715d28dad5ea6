import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cli.scripted_server import Server, endpoint, serving
from tests.cli.shell import llmops, terminal
from tests.scripts import document

REASON = "the secret 'openai/key' is missing: set OPENAI_API_KEY"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(endpoint("demo"), endpoint("gpt", reason=REASON)) as running:
        yield running


def test_a_pipe_gets_aligned_columns_and_the_reasons(server: Server) -> None:
    done = llmops(server.url, "endpoints", "list")

    assert done.stdout.splitlines() == [
        "NAME  STATE      TASK         SERVED ENTITIES  REASON",
        "demo  READY      llm/v1/chat  demo-entity",
        f"gpt   NOT_READY  llm/v1/chat  gpt-entity       {REASON}",
    ]


def test_a_list_without_reasons_is_completed_from_the_endpoint(server: Server) -> None:
    bare = {"name": "gpt", "task": "llm/v1/chat", "state": {"ready": "NOT_READY"}, "config": {"served_entities": []}}
    server.upstream.play(document({"endpoints": [bare]}))

    done = llmops(server.url, "endpoints", "list")

    assert REASON in done.stdout


@pytest.mark.parametrize("columns", [120, 80, 40])
def test_a_terminal_gets_what_fits(server: Server, columns: int) -> None:
    shown = terminal(server.url, "endpoints", "list", columns=columns, more={"NO_COLOR": "1"})
    lines = shown.read().splitlines()

    assert max(map(len, lines)) <= columns
    assert all(word in " ".join(lines) for word in ("demo", "NOT_READY", "llm/v1/chat", *REASON.split()))


def test_get_shows_all_of_one_endpoint(server: Server) -> None:
    shown = llmops(server.url, "endpoints", "get", "gpt")
    as_json = llmops(server.url, "endpoints", "get", "gpt", "--json")

    assert yaml.safe_load(shown.stdout) == json.loads(as_json.stdout) == server.endpoints["gpt"]


def test_a_file_or_a_pipe_creates_an_endpoint_and_changes_its_config(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    path.write_text("name: new\nconfig: {served_entities: [{name: first}]}\n")
    changed = b'{"name": "new", "config": {"served_entities": [{"name": "second"}]}}'

    created = llmops(server.url, "endpoints", "create", "-f", str(path))
    updated = llmops(server.url, "endpoints", "update", "-f", "-", "--json", piped=changed)
    again = llmops(server.url, "endpoints", "create", "-f", str(path))

    assert created.stdout == "endpoint 'new' created, READY\n"
    assert json.loads(updated.stdout)["config"] == server.endpoints["new"]["config"]
    assert server.endpoints["new"]["config"]["served_entities"][0]["name"] == "second"
    assert (again.returncode, again.stderr) == (1, "llmops: endpoint 'new' exists\n")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: x\nconfig: [", "bad.yaml:2: "),
        ("- a list", "bad.yaml: an endpoint document is a mapping"),
        ("name: x", "bad.yaml: an update needs the keys 'name' and 'config'"),
    ],
    ids=["syntax", "shape", "keys"],
)
def test_a_bad_file_is_named_and_never_sent(server: Server, tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)

    done = llmops(server.url, "endpoints", "update", "-f", str(path))

    assert done.returncode == 1
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert server.upstream.requests == []


def test_delete_asks_first(server: Server) -> None:
    unasked = llmops(server.url, "endpoints", "delete", "gpt")
    asked = terminal(server.url, "endpoints", "delete", "gpt")
    asked.expect_exact("Delete endpoint 'gpt'? [y/N]: ")
    asked.sendline("y")
    asked.expect_exact("endpoint 'gpt' deleted")
    sure = llmops(server.url, "endpoints", "delete", "demo", "--yes")
    gone = llmops(server.url, "endpoints", "delete", "dem", "--yes")

    assert unasked.returncode == 64
    assert "say --yes" in unasked.stderr
    assert sure.stdout == "endpoint 'demo' deleted\n"
    assert gone.returncode == 1
    assert server.endpoints == {}
