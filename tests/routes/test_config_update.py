"""An update of the config: any part of it may be sent alone, and what is not sent stays."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.server import Server, demo

ENDPOINTS = "/api/2.0/serving-endpoints"
TABLE = {"enabled": False, "catalog_name": "main", "schema_name": "llm"}


def entities(*names: str, **more: Any) -> list[dict[str, Any]]:
    """Served entities of the demo."""
    return [{**demo()["config"]["served_entities"][0], "name": name, **more} for name in names]


def split(**shares: int) -> dict[str, Any]:
    """A split of the traffic."""
    return {"routes": [{"served_entity_name": name, "traffic_percentage": share} for name, share in shares.items()]}


@pytest.fixture
def made(server: Server) -> Iterator[str]:
    """An endpoint of two served entities at 90 and 10 percent, with a table."""
    config = {
        "served_entities": entities("a", "b"),
        "traffic_config": split(a=90, b=10),
        "auto_capture_config": TABLE,
    }
    server.post(ENDPOINTS, {"name": "partly", "config": config}).raise_for_status()
    yield "partly"
    httpx.delete(f"{server.url}{ENDPOINTS}/partly")


def put(server: Server, name: str, config: dict[str, Any]) -> httpx.Response:
    return httpx.put(f"{server.url}{ENDPOINTS}/{name}/config", json=config, timeout=60)


def shares(answer: httpx.Response) -> dict[str, int]:
    assert answer.status_code == 200, answer.text
    routes = answer.json()["config"]["traffic_config"]["routes"]
    return {route["served_entity_name"]: route["traffic_percentage"] for route in routes}


def test_served_entities_alone_leave_the_table_and_the_split_of_their_names(server: Server, made: str) -> None:
    answer = put(server, made, {"served_entities": entities("b", "a", workload_size="Small")})

    assert shares(answer) == {"a": 90, "b": 10}
    assert answer.json()["config"]["auto_capture_config"].items() >= TABLE.items()
    assert answer.json()["config"]["served_entities"][0]["workload_size"] == "Small"
    assert answer.json()["config"]["config_version"] == 2


@pytest.mark.parametrize("name", [{"name": "a"}, {}], ids=["named", "named after its model"])
def test_one_served_entity_in_the_place_of_two_gets_everything(server: Server, made: str, name: dict[str, str]) -> None:
    (entity,) = entities("a")

    answer = put(server, made, {"served_entities": [{**{k: v for k, v in entity.items() if k != "name"}, **name}]})

    assert shares(answer) == {name.get("name", "llmops-eliza"): 100}


def test_several_other_served_entities_need_a_split(server: Server, made: str) -> None:
    answer = put(server, made, {"served_entities": entities("a", "c")})

    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert answer.json()["message"] == (
        "config: several served entities need a traffic_config that says each one's percentage"
    )
    assert server.endpoint(made)["config"]["config_version"] == 1


def test_the_split_alone_leaves_the_served_entities(server: Server, made: str) -> None:
    answer = put(server, made, {"traffic_config": split(a=0, b=100)})

    assert shares(answer) == {"a": 0, "b": 100}
    assert server.ask(made).headers["served-model-name"] == "b"
    assert put(server, made, {"traffic_config": split(a=100)}).status_code == 400


def test_the_table_alone_is_changed_and_removed(server: Server, made: str) -> None:
    changed = put(server, made, {"auto_capture_config": {**TABLE, "schema_name": "other"}})
    removed = put(server, made, {"auto_capture_config": None})

    assert changed.json()["config"]["auto_capture_config"]["schema_name"] == "other"
    assert shares(changed) == shares(removed) == {"a": 90, "b": 10}
    assert "auto_capture_config" not in removed.json()["config"]


def test_the_deprecated_served_models_are_the_served_entities(server: Server, made: str) -> None:
    model = {"model_name": "llmops.eliza", "model_version": "1", "scale_to_zero_enabled": True}

    answer = put(server, made, {"served_models": [{**model, "llmops": {"engine": "demo"}}]})

    assert shares(answer) == {"llmops-eliza-1": 100}


def test_a_config_that_was_read_can_be_written_back(server: Server, made: str) -> None:
    put(server, made, {"auto_capture_config": {**TABLE, "enabled": True}})
    read = server.endpoint(made)["config"]
    old_names = {key: value for key, value in read.items() if key != "served_entities"}

    written = [put(server, made, config).json()["config"] for config in (read, old_names)]

    assert [model["model_name"] for model in read["served_models"]] == ["llmops.eliza"] * 2
    assert written == [read, read]


@pytest.mark.parametrize("body", [{}, {"config": {"served_entities": []}}, {"name": "partly"}], ids=str)
def test_an_update_of_nothing_is_refused(server: Server, made: str, body: dict[str, Any]) -> None:
    answer = put(server, made, body)

    assert answer.status_code == 400
    assert "has none of served_entities, served_models, traffic_config, auto_capture_config" in answer.json()["message"]


def test_the_config_of_provisioned_throughput_is_changed_in_parts_too(server: Server, made: str) -> None:
    body = {"config": {"served_entities": entities("a", provisioned_model_units=50)}}

    answer = httpx.put(f"{server.url}{ENDPOINTS}/pt/{made}/config", json=body, timeout=60)

    assert shares(answer) == {"a": 100}
    assert answer.json()["config"]["auto_capture_config"].items() >= TABLE.items()
