"""MLflow's Deployments client of the target ``databricks``."""

import sys
from typing import Any

import pytest
from mlflow.deployments import get_deploy_client
from mlflow.deployments.databricks import DatabricksDeploymentClient
from requests import HTTPError

from tests.clients.stage import BODIES, MESSAGES, SAID, Stage, unnamed
from tests.scripts import status

LIMITS = {"rate_limits": [{"key": "user", "calls": 10, "renewal_period": "minute"}]}


@pytest.fixture
def client() -> Any:
    return get_deploy_client("databricks")


def error_code(err: HTTPError) -> str:
    assert err.response is not None
    return str(err.response.json()["error_code"])


@pytest.mark.call("create_endpoint")
def test_an_endpoint_is_created_from_its_whole_document(client: Any, stage: Stage) -> None:
    document = {**stage.document(), "tags": [{"key": "team", "value": "red"}], "description": "ours"}

    made = client.create_endpoint(config=document)

    assert (made.name, made.task, made.state["ready"]) == (document["name"], "llm/v1/chat", "READY")
    assert (made.tags, made.description) == (document["tags"], "ours")
    assert made.config["served_entities"][0]["external_model"]["openai_config"] == {
        "openai_api_key": "{{secrets/test/key}}"
    }


@pytest.mark.call("create_endpoint", "update_endpoint_config")
def test_a_key_in_clear_is_used_and_told_as_a_reference(client: Any, stage: Stage) -> None:
    document = stage.document()
    sent: list[str] = []
    config = document["config"]["served_entities"][0]["external_model"]["openai_config"]
    for key in ("sk-first", "sk-second"):
        config.clear()
        config["openai_api_key_plaintext"] = key
        changed = (
            client.update_endpoint_config(document["name"], document["config"])
            if sent
            else client.create_endpoint(config=document)
        )
        client.predict(endpoint=document["name"], inputs=BODIES["llm/v1/chat"])
        sent.append(stage.upstream.requests[-1].headers["authorization"])
        told = changed.config["served_entities"][0]["external_model"]["openai_config"]
        assert list(told) == ["openai_api_key"]
        assert told["openai_api_key"].startswith(f"{{{{secrets/llmops-endpoints/{document['name']}.")

    assert sent == ["Bearer sk-first", "Bearer sk-second"]
    assert "sk-" not in str(client.get_endpoint(document["name"]))


@pytest.mark.call("create_endpoint")
def test_an_endpoint_is_created_from_name_and_config_apart(client: Any, stage: Stage) -> None:
    document, tags = stage.document(), [{"key": "team"}]

    with pytest.warns(UserWarning, match="as separate parameters is deprecated"):
        made = client.create_endpoint(name=document["name"], config={**document["config"], "tags": tags})

    assert (made.name, made.tags, made.route_optimized) == (document["name"], tags, False)
    assert client.predict(endpoint=made.name, inputs=BODIES["llm/v1/chat"])["choices"]


@pytest.mark.call("create_endpoint")
def test_a_name_that_is_taken_is_refused_at_once(client: Any, stage: Stage) -> None:
    name = stage.make()

    with pytest.raises(HTTPError, match=r"400 Client Error.*already exists") as told:
        client.create_endpoint(config=stage.document(name=name))

    assert error_code(told.value) == "RESOURCE_ALREADY_EXISTS"


@pytest.mark.call("list_endpoints", "get_endpoint")
def test_endpoints_are_listed_and_got(client: Any, stage: Stage) -> None:
    name = stage.make()

    listed = {endpoint["name"]: endpoint for endpoint in client.list_endpoints()}
    got = client.get_endpoint(name)

    assert {name, "demo"} <= set(listed)
    assert got.id == listed[name]["id"]
    assert (got.endpoint_type, got.state["config_update"]) == ("EXTERNAL_MODEL", "NOT_UPDATING")
    assert got == stage.tell(name)


@pytest.mark.call("update_endpoint_config")
def test_the_config_is_updated(client: Any, stage: Stage) -> None:
    name, other = stage.make(), stage.document()

    updated = client.update_endpoint_config(name, other["config"])

    assert (updated.name, updated.config["config_version"]) == (name, 2)
    client.predict(endpoint=name, inputs=BODIES["llm/v1/chat"])
    assert stage.sent["model"] == f"{other['name']}-model"


@pytest.mark.call("update_endpoint")
def test_the_deprecated_update_changes_the_config(client: Any, stage: Stage) -> None:
    name, other = stage.make(), stage.document()

    with pytest.warns((UserWarning, FutureWarning), match="update_endpoint.*is deprecated"):
        updated = client.update_endpoint(name, other["config"])

    assert updated.config["served_entities"][0]["name"] == other["name"]


@pytest.mark.call("update_endpoint")
def test_the_deprecated_update_takes_rate_limits_alone(client: Any, stage: Stage) -> None:
    name = stage.make()

    with pytest.warns((UserWarning, FutureWarning), match="update_endpoint.*is deprecated"):
        assert client.update_endpoint(name, LIMITS) == LIMITS


@pytest.mark.call("update_endpoint_tags")
def test_tags_are_added_and_deleted(client: Any, stage: Stage) -> None:
    name = stage.make(tags=[{"key": "old"}, {"key": "kept", "value": "1"}])

    told = client.update_endpoint_tags(name, {"add_tags": [{"key": "new", "value": "2"}], "delete_tags": ["old"]})

    assert told == {"tags": [{"key": "kept", "value": "1"}, {"key": "new", "value": "2"}]}
    assert stage.tell(name)["tags"] == told["tags"]


@pytest.mark.call("update_endpoint_rate_limits")
def test_rate_limits_are_replaced(client: Any, stage: Stage) -> None:
    name, wrong = stage.make(), [{"calls": -1, "renewal_period": "minute"}]

    assert client.update_endpoint_rate_limits(name, LIMITS) == LIMITS
    assert stage.tell(name)["rate_limits"] == LIMITS["rate_limits"]
    with pytest.raises(HTTPError, match=r"400 Client Error.*rate_limits\[0\].calls: -1 is too small"):
        client.update_endpoint_rate_limits(name, {"rate_limits": wrong})


@pytest.mark.call("update_endpoint_ai_gateway")
def test_the_ai_gateway_block_is_replaced(client: Any, stage: Stage) -> None:
    name = stage.make()
    table = {"enabled": True, "catalog_name": "main", "schema_name": "llm"}

    first = client.update_endpoint_ai_gateway(name, {"inference_table_config": table})
    second = client.update_endpoint_ai_gateway(name, {"usage_tracking_config": {"enabled": True}})

    assert first["inference_table_config"] == {**table, "table_name_prefix": name}
    assert second == {"usage_tracking_config": {"enabled": True}} == stage.tell(name)["ai_gateway"]


@pytest.mark.call("predict")
@pytest.mark.parametrize("task", BODIES)
def test_each_task_is_predicted(client: Any, stage: Stage, task: str) -> None:
    name = stage.make(task)

    answer = client.predict(endpoint=name, inputs={**BODIES[task], "client_request_id": "mine", "user": "ann"})

    assert answer["usage"]["prompt_tokens"] == 7
    # What is for this server stays here, the rest goes on.
    assert stage.sent == {**BODIES[task], "model": f"{name}-model", "user": "ann"}
    assert answer["data" if task.endswith("embeddings") else "choices"]


@pytest.mark.call("predict")
def test_one_served_entity_is_predicted_by_its_path(client: Any, stage: Stage) -> None:
    name = stage.make()

    answer = client.predict(endpoint=f"{name}/served-models/{name}", inputs=BODIES["llm/v1/chat"])

    assert answer["choices"][0]["message"]["content"] == SAID


@pytest.mark.call("predict")
@pytest.mark.parametrize(
    "given", [{"dataframe_split": {"columns": ["x"], "data": [[1]]}}, {"dataframe_records": [{}]}, {"instances": [1]}]
)
def test_the_body_of_a_registered_model_is_refused(client: Any, stage: Stage, given: Any) -> None:
    with pytest.raises(HTTPError, match="400 Client Error: the body has none of 'messages'"):
        client.predict(endpoint=stage.make(), inputs=given)


@pytest.mark.call("predict")
def test_an_unknown_endpoint_is_404_at_once(client: Any) -> None:
    with pytest.raises(HTTPError, match=r"404 Client Error.*'nope' does not exist") as told:
        client.predict(endpoint="nope", inputs=BODIES["llm/v1/chat"])

    assert error_code(told.value) == "ENDPOINT_NOT_FOUND"


@pytest.mark.call("predict")
def test_a_refusal_of_the_upstream_has_its_status(client: Any, stage: Stage) -> None:
    stage.upstream.play(status(403))

    with pytest.raises(HTTPError, match=r"403 Client Error.*scripted 403"):
        client.predict(endpoint=stage.make(), inputs=BODIES["llm/v1/chat"])


@pytest.mark.call("predict_stream")
@pytest.mark.parametrize(("task", "field"), [("llm/v1/chat", "delta"), ("llm/v1/completions", "text")])
def test_a_stream_is_predicted(client: Any, stage: Stage, task: str, field: str) -> None:
    chunks = list(client.predict_stream(endpoint=stage.make(task), inputs=BODIES[task]))

    parts = [chunk["choices"][0][field] for chunk in chunks if chunk["choices"]]
    assert "".join(part if isinstance(part, str) else part.get("content", "") for part in parts) == SAID
    assert stage.sent["stream"] is True


@pytest.mark.call("predict_stream")
def test_the_demo_streams(client: Any) -> None:
    chunks = list(client.predict_stream(endpoint="demo", inputs={"messages": MESSAGES, "max_tokens": 50}))

    assert chunks[-1]["choices"] == [] or chunks[-1]["choices"][0]["finish_reason"]


@pytest.mark.call("delete_endpoint")
def test_an_endpoint_is_deleted_once(client: Any, stage: Stage) -> None:
    name = stage.make()

    assert client.delete_endpoint(name) == {}
    assert not stage.exists(name)
    with pytest.raises(HTTPError, match="404 Client Error"):
        client.delete_endpoint(name)


@pytest.mark.call("get_endpoint")
def test_a_wrong_token_is_401(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_TOKEN", "wrong")

    with pytest.raises(HTTPError, match="401 Client Error"):
        client.get_endpoint("demo")


def test_no_call_is_left_out() -> None:
    # MLflow's own refusals: not implemented for this target.
    deployments = {f"{verb}_deployment" for verb in ("create", "update", "delete", "get")}

    assert unnamed(DatabricksDeploymentClient, "", sys.modules[__name__]) == {
        *(*deployments, "list_deployments", "explain")
    }
