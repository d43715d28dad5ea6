import json
from pathlib import Path

import pytest

from tests.cli.conftest import written
from tests.cli.shell import llmops, terminal
from tests.server import Server, demo
from tests.upstream import refused_url


def test_a_plan_shows_what_is_added_changed_and_removed_and_writes_nothing(empty: Server, tmp_path: Path) -> None:
    for name in ("changes", "goes"):
        empty.post("/api/2.0/serving-endpoints", {**demo(name), "description": "old"})
    wanted = written(tmp_path, demo("comes"), {**demo("changes"), "description": "new", "tags": [{"key": "k"}]})
    before = empty.get("/api/2.0/serving-endpoints").json()

    done = llmops(empty.url, "plan", wanted, "--prune")

    assert done.stdout.splitlines() == [
        f"~ changes  {wanted}/changes.yaml",
        "    description: old → new",
        "    tags[k]: (none) → {}",
        f"+ comes  {wanted}/comes.yaml",
        "- goes",
        "1 to add, 1 to change, 1 to remove, 0 unchanged",
    ]
    assert done.returncode == 2
    assert empty.get("/api/2.0/serving-endpoints").json() == before


def test_without_prune_nothing_is_removed_and_no_difference_exits_0(empty: Server, tmp_path: Path) -> None:
    for name in ("same", "other"):
        empty.post("/api/2.0/serving-endpoints", demo(name))

    done = llmops(empty.url, "plan", written(tmp_path, demo("same")))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "0 to add, 0 to change, 0 to remove, 1 unchanged\n"


def test_an_endpoint_of_a_servers_file_is_never_removed_and_its_file_is_named(empty: Server, tmp_path: Path) -> None:
    wanted = written(tmp_path, {**demo(), "description": "x"})

    pruned = llmops(empty.url, "plan", written(tmp_path, demo("a")), "--prune")
    changed = llmops(empty.url, "plan", written(tmp_path, {**demo(), "description": "x"}))

    assert "demo" not in pruned.stdout.replace(wanted, "")
    assert f"(owned by the server's file {empty.configs}/demo.yaml: change it there)" in changed.stdout


def test_a_script_gets_json(empty: Server, tmp_path: Path) -> None:
    empty.post("/api/2.0/serving-endpoints", demo("a"))
    wanted = written(tmp_path, {**demo("a"), "description": "x"})

    done = llmops(empty.url, "plan", wanted, "--json")

    change = {"field": "description", "old": None, "new": "x"}
    step = {"endpoint": "a", "step": "change", "file": f"{wanted}/a.yaml", "owned_by": None, "changes": [change]}
    assert json.loads(done.stdout) == {"steps": [step]}
    assert done.returncode == 2


@pytest.mark.parametrize("command", ["plan", "apply"])
def test_a_wrong_file_stops_everything_before_the_server_is_asked(tmp_path: Path, command: str) -> None:
    wanted = written(tmp_path, demo("good"), {**demo("bad"), "tagz": []})

    done = llmops(refused_url(), command, wanted)

    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"{wanted}/bad.yaml:9: tagz: unknown key; did you mean 'tags'?",
        "llmops: 1 problems in 1 of 2 files",
    ]


@pytest.mark.parametrize("command", ["plan", "apply", "export"])
def test_no_server_exits_69(tmp_path: Path, command: str) -> None:
    arguments = () if command == "export" else (written(tmp_path, demo()),)

    assert llmops(refused_url(), command, *arguments).returncode == 69


def test_a_path_that_is_not_there_is_wrong_usage(empty: Server) -> None:
    assert llmops(empty.url, "plan", "nowhere").returncode == 64


def test_what_a_server_says_does_not_drive_the_terminal(empty: Server, tmp_path: Path) -> None:
    empty.post("/api/2.0/serving-endpoints", {**demo("a"), "description": "\x1b[2Jgone"})

    shown = terminal(empty.url, "plan", written(tmp_path, demo("a"))).read()

    assert "\x1b[2J" not in shown
    assert '"\\u001b[2Jgone"' in shown
