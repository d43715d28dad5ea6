"""MLflow's Deployments client of our target ``llmops``: the plugin, without the rest of our dependencies."""

import os
import sys
from importlib.metadata import entry_points
from typing import Any

import pytest
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException

from llmops.deployments import LlmopsDeploymentClient
from tests.clients.stage import BODIES, SAID, Stage, unnamed
from tests.faults import cut_stream


@pytest.fixture
def client() -> Any:
    """The target without an address: server and token come from the environment."""
    return get_deploy_client("llmops")


def test_mlflow_finds_the_plugin_by_both_schemes(client: Any) -> None:
    host = os.environ["LLMOPS_HOST"].removeprefix("http://")

    assert {entry.name for entry in entry_points(group="mlflow.deployments")} >= {"llmops", "llmops+https"}
    assert type(get_deploy_client(f"llmops://{host}")) is type(get_deploy_client(f"llmops+https://{host}"))
    assert type(client) is LlmopsDeploymentClient


@pytest.mark.call("create_endpoint", "list_endpoints", "get_endpoint", "delete_endpoint")
def test_an_endpoint_is_created_listed_got_and_deleted(client: Any, stage: Stage) -> None:
    document = stage.document()

    made = client.create_endpoint(config=document)
    listed = [endpoint["name"] for endpoint in client.list_endpoints()]
    got = client.get_endpoint(document["name"])

    assert made.name in listed
    assert (got.id, got.state["ready"]) == (made.id, "READY")
    assert client.delete_endpoint(made.name) == {}
    assert not stage.exists(made.name)


@pytest.mark.call("update_endpoint", "update_endpoint_config", "update_endpoint_tags")
@pytest.mark.call("update_endpoint_ai_gateway")
def test_every_part_is_updated(client: Any, stage: Stage) -> None:
    name, other = stage.make(), stage.document()
    tracked = {"usage_tracking_config": {"enabled": True}}

    with pytest.warns((UserWarning, FutureWarning), match="update_endpoint.*is deprecated"):
        first = client.update_endpoint(name, other["config"])
    second = client.update_endpoint_config(name, stage.document()["config"])

    assert [told.config["config_version"] for told in (first, second)] == [2, 3]
    assert client.update_endpoint_tags(name, {"add_tags": [{"key": "k"}]}) == {"tags": [{"key": "k"}]}
    assert client.update_endpoint_ai_gateway(name, tracked) == tracked


@pytest.mark.call("update_endpoint_rate_limits")
def test_rate_limits_are_replaced(client: Any, stage: Stage) -> None:
    name, limits = stage.make(), {"rate_limits": [{"key": "user", "calls": 10, "renewal_period": "minute"}]}

    assert client.update_endpoint_rate_limits(name, limits) == limits
    assert stage.tell(name)["rate_limits"] == limits["rate_limits"]
    with pytest.raises(MlflowException, match=r"rate_limits\[0\].calls: -1 is too small"):
        client.update_endpoint_rate_limits(name, {"rate_limits": [{"calls": -1, "renewal_period": "minute"}]})


@pytest.mark.call("predict")
@pytest.mark.parametrize("task", BODIES)
def test_each_task_is_predicted(client: Any, stage: Stage, task: str) -> None:
    name = stage.make(task)

    answer = client.predict(endpoint=name, inputs=BODIES[task])

    assert answer["usage"]["prompt_tokens"] == 7
    assert stage.sent == {**BODIES[task], "model": f"{name}-model"}


@pytest.mark.call("predict_stream")
def test_a_stream_is_predicted(client: Any, stage: Stage) -> None:
    chunks = list(client.predict_stream(endpoint=stage.make(), inputs=BODIES["llm/v1/chat"]))

    said = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"]]
    assert "".join(said) == SAID


@pytest.mark.call("predict_stream")
def test_a_stream_that_breaks_raises(client: Any, stage: Stage) -> None:
    stage.upstream.play(cut_stream(after=2))

    with pytest.raises(MlflowException, match="the upstream ended its answer in the middle"):
        list(client.predict_stream(endpoint=stage.make(), inputs=BODIES["llm/v1/chat"]))


@pytest.mark.call("list_deployments", "get_deployment", "delete_deployment")
def test_deployments_are_the_endpoints(client: Any, stage: Stage) -> None:
    name = stage.make()

    assert name in [endpoint["name"] for endpoint in client.list_deployments()]
    assert client.get_deployment(name)["name"] == name
    client.delete_deployment(name)
    client.delete_deployment(name)
    assert not stage.exists(name)


@pytest.mark.refused("create_deployment", "update_deployment")
def test_a_registered_model_is_refused_clearly(client: Any) -> None:
    for refused in (client.create_deployment, client.update_deployment):
        with pytest.raises(MlflowException, match="'models:/m/1' cannot be deployed: this version serves no"):
            refused("name", "models:/m/1")


@pytest.mark.call("list_endpoints")
def test_a_wrong_token_is_unauthenticated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOPS_TOKEN", "wrong")

    with pytest.raises(MlflowException, match="a valid token is needed") as told:
        get_deploy_client("llmops").list_endpoints()

    assert told.value.error_code == "UNAUTHENTICATED"


def test_no_call_is_left_out() -> None:
    # MLflow's own refusal.
    assert unnamed(LlmopsDeploymentClient, "", sys.modules[__name__]) == {"explain"}
