"""A new config takes over when its engine is ready; until then, and where it never is, the old one serves."""

import shutil
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from databricks.sdk import WorkspaceClient
from mlflow.deployments import get_deploy_client

from tests.cli.shell import llmops
from tests.conftest import NewServer
from tests.providers import gguf_model
from tests.server import Server, demo

ENGINE = "llmops.providers.llama_cpp"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("xllamacpp", reason="the local engine has no wheel for this machine")
    return gguf_model.write(tmp_path_factory.mktemp("weights") / "tiny.gguf")


@pytest.fixture(params=["sqlite", "postgres"])
def server(new_server: NewServer, request: pytest.FixtureRequest) -> Server:
    """A server with the endpoint `e`, created over REST, that serves the demo model."""
    running = new_server(store=request.param)
    running.post("/api/2.0/serving-endpoints", {"name": "e", "config": demo()["config"]}).raise_for_status()
    return running


def local(weights: Path) -> dict[str, Any]:
    """A config of the local engine."""
    engine = {"engine": "llama_cpp", "source": str(weights), "task": "llm/v1/chat"}
    return {"served_entities": [{"name": "tiny", "entity_name": "llmops.tiny", "llmops": engine}]}


def put(server: Server, config: dict[str, Any]) -> httpx.Response:
    return httpx.put(f"{server.url}/api/2.0/serving-endpoints/e/config", json=config, timeout=60)


def update(server: Server, config: dict[str, Any]) -> dict[str, Any]:
    answer = put(server, config)
    answer.raise_for_status()
    return dict(answer.json())


def told(server: Server) -> dict[str, Any]:
    return dict(server.get("/api/2.0/serving-endpoints/e").json())


def state(document: dict[str, Any]) -> tuple[str, str, int | None, int | None]:
    """ready, config_update, and the versions that serve and that are on their way."""
    serves, waits = (document.get(key, {}).get("config_version") for key in ("config", "pending_config"))
    return document["state"]["ready"], document["state"]["config_update"], serves, waits


def served(server: Server) -> str:
    answer = server.ask("e", max_tokens=3)
    answer.raise_for_status()
    return str(answer.headers["served-model-name"])


def held_engine(server: Server) -> psutil.Process:
    """The engine, stopped before it could answer."""
    found: list[psutil.Process] = []

    def stopped() -> bool:
        found.extend(server.processes(ENGINE))
        for process in found:
            process.suspend()
        return bool(found)

    server.wait(stopped)
    return found[0]


def test_the_old_config_serves_until_the_engine_of_the_new_one_is_ready(server: Server, model: Path) -> None:
    answer = update(server, local(model))
    engine = held_engine(server)
    meanwhile = told(server)
    by_old, again = served(server), put(server, local(model.parent / "x.gguf"))
    (listed,) = server.get("/api/2.0/serving-endpoints").json()["endpoints"]
    engine.resume()
    server.wait(lambda: state(told(server))[1] == "NOT_UPDATING")

    assert state(answer) == state(meanwhile) == ("READY", "IN_PROGRESS", 1, 2)
    assert meanwhile["pending_config"]["served_entities"][0]["state"] == {
        "deployment": "DEPLOYMENT_CREATING",
        "deployment_state_message": "the engine is loading the model",
    }
    assert meanwhile["pending_config"]["start_time"] == meanwhile["last_updated_timestamp"]
    assert by_old == "eliza"
    assert (again.status_code, again.json()["error_code"]) == (409, "RESOURCE_CONFLICT")
    assert listed["state"]["config_update"] == "IN_PROGRESS"
    assert state(told(server)) == ("READY", "NOT_UPDATING", 2, None)
    assert served(server) == "tiny"


def test_a_config_whose_engine_fails_leaves_the_old_one_serving_and_says_why(
    server: Server, model: Path, tmp_path: Path
) -> None:
    """Over a restart too; and when the weights get right, the new one serves."""
    weights = tmp_path / "weights.gguf"
    weights.write_bytes(b"no weights")
    update(server, local(weights))
    server.wait(lambda: state(told(server))[1] == "UPDATE_FAILED")
    before = told(server)
    server.kill_all()
    server.start()
    after = told(server)
    by_old = served(server)
    shutil.copy(model, weights)
    server.wait(lambda: state(told(server))[1] == "NOT_UPDATING")

    assert state(before) == state(after) == ("READY", "UPDATE_FAILED", 1, 2)
    (entity,) = after["pending_config"]["served_entities"]
    assert entity["state"]["deployment"] == "DEPLOYMENT_FAILED"
    assert f"llama.cpp cannot load {weights}" in entity["state"]["deployment_state_message"]
    assert by_old == "eliza"
    assert (state(told(server)), served(server)) == (("READY", "NOT_UPDATING", 2, None), "tiny")


def test_a_failed_update_can_be_replaced(server: Server, tmp_path: Path) -> None:
    failed = update(server, local(tmp_path / "missing.gguf"))
    replaced = update(server, demo()["config"])

    assert state(failed) == ("READY", "UPDATE_FAILED", 1, 2)
    assert "missing.gguf" in failed["pending_config"]["served_entities"][0]["state"]["deployment_state_message"]
    assert state(replaced) == ("READY", "NOT_UPDATING", 3, None)
    server.wait(lambda: not server.processes(ENGINE))


@pytest.mark.parametrize("server", ["sqlite"], indirect=True)
def test_until_the_first_config_is_ready_it_is_only_pending_and_every_reader_copes(
    server: Server, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", server.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "any")
    mlflow, sdk = get_deploy_client("databricks"), WorkspaceClient().serving_endpoints
    mlflow.create_endpoint(config={"name": "new", "config": local(model)})
    engine = held_engine(server)
    got, listed = sdk.get("new"), {one["name"]: one for one in mlflow.list_endpoints()}["new"]
    of_gateway = get_deploy_client(server.url).get_endpoint("new")
    openapi = server.get("/api/2.0/serving-endpoints/new/openapi").json()
    in_list = {one.name: one for one in sdk.list()}["new"]
    table = llmops(server.url, "endpoints", "list")
    exported = llmops(server.url, "export", "new", "-o", str(tmp_path / "out"))
    planned = llmops(server.url, "plan", str(tmp_path / "out"))
    engine.resume()
    ready = sdk.wait_get_serving_endpoint_not_updating("new")

    assert (got.config, in_list.config, ready.pending_config) == (None, None, None)
    assert got.pending_config is not None
    assert [entity.name for entity in got.pending_config.served_entities or []] == ["tiny"]
    assert [entity["name"] for entity in listed["pending_config"]["served_entities"]] == ["tiny"]
    assert of_gateway.model.name == "llmops.tiny"
    assert openapi["info"]["version"] == "1"
    assert "new   NOT_READY  llm/v1/chat  tiny             the engine is loading the model" in table.stdout
    assert (exported.returncode, planned.returncode) == (0, 0), exported.stderr + planned.stdout
    assert ready.config is not None
    assert ready.config.config_version == 1
    assert server.ask("new", max_tokens=2).status_code == 200


@pytest.mark.parametrize("server", ["sqlite"], indirect=True)
def test_a_new_endpoint_whose_engine_fails_says_so_to_who_waits_for_it(server: Server, tmp_path: Path) -> None:
    weights = tmp_path / "weights.gguf"
    weights.write_bytes(b"no weights")
    created = server.post("/api/2.0/serving-endpoints", {"name": "new", "config": local(weights)}).json()
    server.wait(
        lambda: server.get("/api/2.0/serving-endpoints/new").json()["state"]["config_update"] == "UPDATE_FAILED"
    )
    found = server.get("/api/2.0/serving-endpoints/new").json()

    assert state(created) == ("NOT_READY", "IN_PROGRESS", None, 1)
    assert state(found) == ("NOT_READY", "UPDATE_FAILED", None, 1)
    (entity,) = found["pending_config"]["served_entities"]
    assert f"llama.cpp cannot load {weights}" in entity["state"]["deployment_state_message"]
    assert server.ask("new").status_code == 400


@pytest.mark.parametrize("server", ["sqlite"], indirect=True)
@pytest.mark.parametrize("ended_by", ["update", "delete"])
def test_a_stream_of_an_engine_that_is_not_needed_any_more_ends_as_it_began(
    server: Server, model: Path, ended_by: str
) -> None:
    update(server, local(model))
    server.wait(lambda: state(told(server))[1] == "NOT_UPDATING")
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 400, "ignore_eos": True, "stream": True}
    lines: list[str] = []
    with httpx.stream("POST", f"{server.url}/serving-endpoints/e/invocations", json=body, timeout=60) as response:
        for line in response.iter_lines():
            if not lines:
                if ended_by == "update":
                    update(server, demo()["config"])
                else:
                    httpx.delete(f"{server.url}/api/2.0/serving-endpoints/e", timeout=60).raise_for_status()
            lines += [line] if line else []
    server.wait(lambda: not server.processes(ENGINE))

    assert lines[-1] == "data: [DONE]"
    assert len(lines) > 300


def test_a_config_without_an_engine_serves_at_once(server: Server) -> None:
    began = time.time_ns() // 1_000_000
    other = {"served_entities": [{**demo()["config"]["served_entities"][0], "name": "other"}]}

    assert state(update(server, other)) == ("READY", "NOT_UPDATING", 2, None)
    assert served(server) == "other"
    assert told(server)["last_updated_timestamp"] >= began
