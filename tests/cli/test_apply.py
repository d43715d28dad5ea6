import json
from pathlib import Path

import httpx

from tests.cli.conftest import written
from tests.cli.shell import llmops, terminal
from tests.server import Server, demo, external

ENDPOINTS = "/api/2.0/serving-endpoints"


def _names(server: Server) -> list[str]:
    return [endpoint["name"] for endpoint in server.get(ENDPOINTS).json()["endpoints"]]


def test_apply_makes_the_server_what_the_files_say_and_does_nothing_the_second_time(
    empty: Server, tmp_path: Path
) -> None:
    empty.post(ENDPOINTS, {**demo("changes"), "description": "old", "tags": [{"key": "old"}]})
    gateway = {"usage_tracking_config": {"enabled": True}}
    new = {**external("changes", "http://127.0.0.1:9"), "ai_gateway": gateway, "llmops": {"log": "metadata"}}
    wanted = written(tmp_path, demo("comes"), new)

    first = llmops(empty.url, "apply", wanted)
    answer = empty.endpoint("changes")
    second = llmops(empty.url, "apply", wanted)

    assert (first.returncode, first.stdout) == (0, "changes: changed\ncomes: added\n")
    assert (second.returncode, second.stdout) == (0, "changes: unchanged\ncomes: unchanged\n")
    assert empty.endpoint("changes") == answer
    assert "description" not in answer
    assert "tags" not in answer
    assert (answer["ai_gateway"], answer["llmops"]) == (gateway, {"log": "metadata"})
    assert answer["config"]["config_version"] == 2
    assert llmops(empty.url, "plan", wanted).returncode == 0


def test_prune_asks_before_it_removes(empty: Server, tmp_path: Path) -> None:
    for name in ("a", "b"):
        empty.post(ENDPOINTS, demo(name))
    wanted = written(tmp_path, demo("a"))

    unasked = llmops(empty.url, "apply", wanted, "--prune")
    kept = _names(empty)
    asked = terminal(empty.url, "apply", wanted, "--prune")
    asked.expect_exact("Remove b? [y/N]: ")
    asked.sendline("y")
    asked.expect_exact("b: removed")
    asked.wait()

    assert unasked.returncode == 64
    assert "this removes b, and there is no terminal to ask on: say --yes" in unasked.stderr
    assert kept == ["a", "b", "demo"]
    assert _names(empty) == ["a", "demo"]


def test_an_endpoint_of_a_servers_file_is_refused_by_its_file_and_the_others_are_done(
    empty: Server, tmp_path: Path
) -> None:
    wanted = written(tmp_path, {**demo(), "description": "x"}, demo("zebra"))

    done = llmops(empty.url, "apply", wanted)

    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"demo: refused: the server's file {empty.configs}/demo.yaml owns it; change it there"
        f" ({wanted}/demo.yaml says something else)",
        "zebra: added",
    ]
    assert done.stderr == "llmops: 1 of 2 endpoints were refused\n"


def test_what_the_server_refuses_is_told_and_leaves_the_endpoint_as_it_was(empty: Server, tmp_path: Path) -> None:
    """The table of a served endpoint does not move: a rule that only the server knows."""
    table = {"enabled": True, "catalog_name": "main", "schema_name": "old"}
    empty.post(ENDPOINTS, {**demo("a"), "ai_gateway": {"inference_table_config": table}})
    moved = {"inference_table_config": {**table, "schema_name": "new"}}
    wanted = written(tmp_path, {**demo("a"), "description": "x", "ai_gateway": moved})

    done = llmops(empty.url, "apply", wanted, "--json")

    (told,) = json.loads(done.stdout)["endpoints"]
    assert (done.returncode, told["done"], told["step"]) == (1, False, "change")
    assert "the inference table is main.old.a_payload" in told["reason"]
    assert "description" not in empty.endpoint("a")


def test_the_whole_document_is_replaced_over_rest_in_one_step(empty: Server) -> None:
    empty.post(ENDPOINTS, {**demo("a"), "description": "x"})

    other = httpx.put(f"{empty.url}{ENDPOINTS}/a", json=demo("b"))
    unknown = httpx.put(f"{empty.url}{ENDPOINTS}/none", json=demo("none"))
    done = httpx.put(f"{empty.url}{ENDPOINTS}/a", json={"config": demo("a")["config"]})

    assert (other.status_code, other.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert other.json()["message"] == "the document's 'name' is not 'a'; an endpoint keeps its name"
    assert (unknown.status_code, unknown.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    assert done.status_code == 200
    assert "description" not in empty.endpoint("a")
