import json
from typing import Any

import httpx

from tests.cli.shell import llmops
from tests.server import Server, demo

ENDPOINTS = "/api/2.0/serving-endpoints"


def _changed(server: Server, *parallel: int) -> None:
    """An endpoint `h` that has had these configs."""
    server.post(ENDPOINTS, _document(parallel[0])).raise_for_status()
    for number in parallel[1:]:
        httpx.put(f"{server.url}{ENDPOINTS}/h/config", json=_document(number)["config"]).raise_for_status()


def _document(parallel: int) -> dict[str, Any]:
    document = demo("h")
    document["config"]["served_entities"][0]["llmops"]["parallel"] = parallel
    return document


def test_the_history_shows_each_version_and_what_it_changed(empty: Server) -> None:
    _changed(empty, 2, 3)

    shown = llmops(empty.url, "endpoints", "history", "h").stdout.splitlines()
    told = json.loads(llmops(empty.url, "endpoints", "history", "h", "--json").stdout)

    assert [line.partition("  ")[0] for line in shown if line.startswith("version")] == ["version 2", "version 1"]
    assert shown[1] == "    config.served_entities[eliza].llmops.parallel: 2 → 3"
    assert [version["config"] for version in told] == [_document(3)["config"], _document(2)["config"]]


def test_a_rollback_makes_the_former_config_the_newest_and_keeps_the_history(empty: Server) -> None:
    _changed(empty, 2, 3)

    done = llmops(empty.url, "endpoints", "rollback", "h", "1")

    assert (done.returncode, done.stdout) == (0, "endpoint 'h' has the config of version 1 again, READY\n")
    told = json.loads(llmops(empty.url, "endpoints", "history", "h", "--json").stdout)
    parallels = [version["config"]["served_entities"][0]["llmops"]["parallel"] for version in told]
    assert ([version["config_version"] for version in told], parallels) == ([3, 2, 1], [2, 3, 2])


def test_a_version_that_is_not_there_is_refused_with_those_that_are(empty: Server) -> None:
    _changed(empty, 2, 3)

    done = llmops(empty.url, "endpoints", "rollback", "h", "7")
    wrong = empty.post(f"{ENDPOINTS}/h/rollback", {"config_version": "1"})

    assert done.returncode == 1
    assert done.stderr.startswith("llmops: endpoint 'h' has no version 7; it has 1 to 2")
    assert (wrong.status_code, wrong.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")


def test_an_endpoint_of_a_servers_file_is_not_rolled_back(empty: Server) -> None:
    done = llmops(empty.url, "endpoints", "rollback", "demo", "1")

    assert done.returncode == 1
    assert f"is owned by the file {empty.configs}/demo.yaml; change it there" in done.stderr
