"""MLflow's Deployments client of an ``http://`` target: the client of its own gateway."""

import os
import sys
from typing import Any

import pytest
from mlflow.deployments import get_deploy_client
from mlflow.deployments.mlflow import MlflowDeploymentClient
from requests import HTTPError

from tests.clients.stage import BODIES, Stage, unnamed


@pytest.fixture
def client() -> Any:
    return get_deploy_client(os.environ["LLMOPS_HOST"])


@pytest.mark.call("list_endpoints", "get_endpoint")
def test_endpoints_are_listed_and_got(client: Any, stage: Stage) -> None:
    name = stage.make("llm/v1/embeddings")

    listed = {endpoint.name: endpoint for endpoint in client.list_endpoints()}

    assert listed[name].model_dump() == {
        "name": name,
        "endpoint_type": "llm/v1/embeddings",
        "model": {"name": f"{name}-model", "provider": "openai"},
        "endpoint_url": f"{stage.url}/endpoints/{name}/invocations",
        "limit": None,
    }
    assert client.get_endpoint(name) == listed[name]


@pytest.mark.call("predict")
@pytest.mark.parametrize("task", BODIES)
def test_each_task_is_predicted(client: Any, stage: Stage, task: str) -> None:
    name = stage.make(task)

    answer = client.predict(endpoint=name, inputs=BODIES[task])

    assert answer["usage"]["prompt_tokens"] == 7
    assert stage.sent == {**BODIES[task], "model": f"{name}-model"}


@pytest.mark.call("get_endpoint", "predict")
def test_an_unknown_endpoint_is_404(client: Any) -> None:
    with pytest.raises(HTTPError, match=r"404 Client Error.*'nope' does not exist"):
        client.get_endpoint("nope")
    with pytest.raises(HTTPError, match=r"404 Client Error.*'nope' does not exist"):
        client.predict(endpoint="nope", inputs=BODIES["llm/v1/chat"])


@pytest.mark.call("list_endpoints")
def test_a_wrong_token_is_401(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "wrong")

    with pytest.raises(HTTPError, match="401 Client Error"):
        client.list_endpoints()


def test_what_this_target_has_not_says_so(client: Any) -> None:
    for refused in (client.create_endpoint, client.update_endpoint, client.delete_endpoint, client.get_deployment):
        with pytest.raises(NotImplementedError):
            refused("demo")
    with pytest.raises(NotImplementedError):
        client.predict_stream(endpoint="demo", inputs=BODIES["llm/v1/chat"])


def test_no_call_is_left_out() -> None:
    # MLflow's own refusals: not implemented for this target.
    verbs = {f"{verb}_deployment" for verb in ("create", "update", "delete", "get")}
    endpoints = {f"{verb}_endpoint" for verb in ("create", "update", "delete")}

    assert unnamed(MlflowDeploymentClient, "", sys.modules[__name__]) == {
        *(*verbs, *endpoints, "list_deployments", "predict_stream", "explain")
    }
