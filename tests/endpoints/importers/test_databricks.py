import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings

from llmops.endpoints.difference import changes
from llmops.endpoints.spec import EndpointSpec
from tests.endpoints.importers.foreign import CANARY, key_of, left, made
from tests.endpoints.specs import documents
from tests.server import demo


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=documents)
def test_an_endpoint_of_ours_comes_back_from_its_json(document: dict[str, Any], tmp_path: Path) -> None:
    for entity in document["config"]["served_entities"]:
        entity.pop("environment_vars", None)  # What is no reference may be a key.
    spec = EndpointSpec.model_validate(document)

    found = made(tmp_path, json.dumps({**document, "id": "1", "state": {"ready": "READY"}}))

    assert found.left == []
    assert changes(found.specs[0], spec) == []


def test_a_config_that_still_waits_for_its_engine_is_taken(tmp_path: Path) -> None:
    found = made(tmp_path, {"name": "demo", "pending_config": {**demo()["config"], "start_time": 1}})

    assert found.left == []
    assert found.specs == [EndpointSpec.model_validate(demo())]


def test_plain_text_keys_of_databricks_become_references(tmp_path: Path) -> None:
    model = {
        "name": "gpt",
        "provider": "openai",
        "task": "llm/v1/chat",
        "openai_config": {"openai_api_key_plaintext": CANARY},
    }
    config = {"name": "e", "served_entities": [{"external_model": model, "environment_vars": {"A": CANARY}}]}
    document = {"name": "e", "config": config, "ai_gateway": {"guardrails": {"input": {"safety": True}}}}

    found = made(tmp_path, {"endpoints": [document]})

    assert key_of(found.specs[0]) == "{{secrets/openai/key}}"
    assert set(left(found)) == {
        "endpoints[0].config.served_entities[0].environment_vars",
        "endpoints[0].ai_gateway.guardrails",
    }
    assert CANARY not in repr(found)


def test_variables_that_are_references_are_carried_over(tmp_path: Path) -> None:
    document = demo()
    document["config"]["served_entities"][0]["environment_vars"] = {"A": "{{secrets/a/b}}"}

    found = made(tmp_path, document)

    assert found.left == []
    assert found.specs == [EndpointSpec.model_validate(document)]


def test_served_models_of_databricks_keep_their_model_and_are_refused_with_the_reason(tmp_path: Path) -> None:
    old = {"model_name": "main.a.b", "model_version": "3", "scale_to_zero_enabled": True, "workload_size": "Small"}

    found = made(tmp_path, {"name": "e", "config": {"served_models": [old]}})

    assert found.specs == []
    assert "entity_name 'main.a.b': registered models are not served by this version" in left(found)["e"]


def test_a_config_that_is_not_served_yet_is_listed_and_alone_it_is_taken(tmp_path: Path) -> None:
    config, pending = demo()["config"], demo(task="llm/v1/completions")["config"]

    both = made(tmp_path, {"name": "e", "config": config, "pending_config": {**pending, "start_time": 1}})
    alone = made(tmp_path, {"name": "e", "pending_config": {**pending, "start_time": 1, "config_version": 1}})

    assert left(both) == {"pending_config": "is not served yet; the endpoint gets what serves, its config"}
    assert [(str(found.specs[0].task), len(found.left)) for found in (both, alone)] == [
        ("llm/v1/chat", 1),
        ("llm/v1/completions", 0),
    ]
