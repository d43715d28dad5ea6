"""The management routes, driven by the real MLflow Deployments client and the real databricks-sdk."""

from collections.abc import Iterator
from typing import Any

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.serving import (
    ChatMessage,
    ChatMessageRole,
    EndpointCoreConfigInput,
    ExternalModel,
    ExternalModelProvider,
    OpenAiConfig,
    ServedEntityInput,
)
from mlflow.deployments import get_deploy_client
from requests import HTTPError

from tests.scripts import chat, chat_stream, embeddings
from tests.server import Server, demo, external
from tests.upstream import Upstream

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture
def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's own client of Databricks, pointed here."""
    monkeypatch.setenv("DATABRICKS_HOST", server.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "anything")
    return get_deploy_client("databricks")


@pytest.fixture
def created(client: Any, upstream: Upstream) -> Iterator[str]:
    """An endpoint made by the client, and deleted by it."""
    client.create_endpoint(config=external("made", upstream.url))
    yield "made"
    client.delete_endpoint("made")


def test_mlflow_creates_an_endpoint_that_answers_at_once(client: Any, upstream: Upstream, created: str) -> None:
    upstream.play(chat("Hello."))

    answer = client.predict(endpoint=created, inputs={"messages": MESSAGES})

    assert answer["choices"][0]["message"]["content"] == "Hello."


def test_mlflow_streams(client: Any, upstream: Upstream, created: str) -> None:
    upstream.play(chat_stream())

    chunks = list(client.predict_stream(endpoint=created, inputs={"messages": MESSAGES}))

    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Hello there, friend."


def test_mlflow_lists_and_gets(client: Any, created: str) -> None:
    listed = {endpoint["name"]: endpoint for endpoint in client.list_endpoints()}
    got = client.get_endpoint(created)

    assert {"demo", created} <= set(listed)
    assert listed["demo"]["task"] == got["task"] == "llm/v1/chat"
    assert got["state"] == {"ready": "READY", "config_update": "NOT_UPDATING", "suspend": "NOT_SUSPENDED"}
    assert got["config"]["traffic_config"]["routes"] == [
        {"served_entity_name": created, "served_model_name": created, "traffic_percentage": 100}
    ]


def test_mlflow_updates_the_config(client: Any, upstream: Upstream, created: str) -> None:
    config = external("other", upstream.url)["config"]
    upstream.play(chat())

    updated = client.update_endpoint_config(created, config)
    client.predict(endpoint=created, inputs={"messages": MESSAGES})

    assert updated["config"]["config_version"] == 2
    assert upstream.requests[-1].json["model"] == "other-model"


def test_mlflow_changes_tags(client: Any, created: str) -> None:
    client.update_endpoint_tags(created, {"add_tags": [{"key": "a", "value": "1"}, {"key": "b"}]})
    answer = client.update_endpoint_tags(created, {"add_tags": [{"key": "a", "value": "2"}], "delete_tags": ["b"]})

    assert answer == {"tags": [{"key": "a", "value": "2"}]}


def test_mlflow_replaces_the_ai_gateway_block(client: Any, created: str) -> None:
    client.update_endpoint_ai_gateway(created, {"fallback_config": {"enabled": True}})
    answer = client.update_endpoint_ai_gateway(created, {"usage_tracking_config": {"enabled": True}})

    assert answer == {"usage_tracking_config": {"enabled": True}}


def test_mlflow_creates_in_its_legacy_style(client: Any, upstream: Upstream) -> None:
    config = {**external("old", upstream.url)["config"], "tags": [{"key": "k", "value": "v"}]}

    with pytest.warns(UserWarning, match="deprecated"):
        client.create_endpoint(name="old", config=config)

    assert client.get_endpoint("old")["tags"] == [{"key": "k", "value": "v"}]
    client.delete_endpoint("old")


def test_mlflow_is_told_what_is_wrong(client: Any, upstream: Upstream, created: str) -> None:
    with pytest.raises(HTTPError, match="already exists"):
        client.create_endpoint(config=external(created, upstream.url))
    with pytest.raises(HTTPError, match="Endpoint with name 'nope' does not exist"):
        client.get_endpoint("nope")
    with pytest.raises(HTTPError, match="owned by the file"):
        client.delete_endpoint("demo")
    with pytest.raises(HTTPError, match="renewal_period: 'hour' is not one of 'minute'"):
        client.update_endpoint_ai_gateway(created, {"rate_limits": [{"calls": 1, "renewal_period": "hour"}]})
    with pytest.raises(HTTPError, match="guardrails: not enforced by this version"):
        client.update_endpoint_ai_gateway(created, {"guardrails": {"input": {"safety": True}}})


def test_mlflow_embeds(client: Any, upstream: Upstream) -> None:
    upstream.play(embeddings((0.1, 0.2)))

    assert client.predict(endpoint="up-embeddings", inputs={"input": "x"})["data"][0]["embedding"] == [0.1, 0.2]


def test_the_databricks_sdk_creates_waits_queries_and_deletes(client: Any, server: Server, upstream: Upstream) -> None:
    workspace = WorkspaceClient()
    model = ExternalModel(
        provider=ExternalModelProvider.OPENAI,
        name="gpt",
        task="llm/v1/chat",
        openai_config=OpenAiConfig(openai_api_key="{{secrets/test/key}}", openai_api_base=f"{upstream.url}/v1"),
    )
    config = EndpointCoreConfigInput(name="sdk", served_entities=[ServedEntityInput(external_model=model)])
    said = ChatMessage(role=ChatMessageRole.USER, content="hi")
    upstream.play(chat("From the SDK."))

    made = workspace.serving_endpoints.create_and_wait("sdk", config=config)
    answer = workspace.serving_endpoints.query("sdk", messages=[said], extra_params={"top_p": "1"})
    workspace.serving_endpoints.delete("sdk")

    assert made.config is not None
    assert made.config.served_entities is not None
    assert made.config.served_entities[0].name == "gpt"
    assert answer.choices is not None
    assert "sdk" not in [endpoint.name for endpoint in workspace.serving_endpoints.list()]


def test_every_problem_of_a_document_is_told(server: Server) -> None:
    document = {"name": "a b", "config": {"served_entities": [{"entity_name": "x"}]}}

    answer = server.post("/api/2.0/serving-endpoints", document)

    assert answer.json()["error_code"] == "INVALID_PARAMETER_VALUE"
    assert "name: 'a b' is not a name" in answer.json()["message"]
    assert "config.served_entities[0]: entity_name 'x': registered models are not served" in answer.json()["message"]


def test_an_endpoint_created_over_rest_is_there_after_a_restart(tmp_path: Any) -> None:
    with Server(tmp_path, (demo(),)) as server:
        server.post("/api/2.0/serving-endpoints", demo("kept"))
        server.stop()
        server.start()

        assert server.ask("kept").status_code == 200


def test_a_wrong_file_is_reported_and_stops_no_other(tmp_path: Any) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "bad.yaml").write_text("name: bad\nconfig:\n  served_entites: []\n")
    with Server(tmp_path, (demo(),)) as server:
        bad = server.endpoint("bad")

        assert server.ask("demo").status_code == 200
        assert bad["state"]["ready"] == "NOT_READY"
        assert "bad.yaml:3: config.served_entites: unknown key; did you mean 'served_entities'?" in server.logged()
        assert server.ask("bad").json()["message"].startswith("endpoint 'bad' is not ready: ")
