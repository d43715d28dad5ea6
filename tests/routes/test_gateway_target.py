"""MLflow's own client of an ``http://`` target, unmodified."""

from typing import Any

import pytest
from mlflow.deployments import get_deploy_client
from requests import HTTPError

from tests.conftest import NewServer
from tests.logged import flush, runs
from tests.scripts import chat, embeddings
from tests.server import Server, demo
from tests.upstream import Upstream

HELLO = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def client(server: Server) -> Any:
    return get_deploy_client(server.url)


def test_it_lists_and_gets(client: Any, server: Server) -> None:
    listed = {endpoint.name: endpoint for endpoint in client.list_endpoints()}

    assert client.get_endpoint("up") == listed["up"]
    assert listed["up"].model_dump() == {
        "name": "up",
        "endpoint_type": "llm/v1/chat",
        "model": {"name": "up-model", "provider": "openai"},
        "endpoint_url": f"{server.url}/endpoints/up/invocations",
        "limit": None,
    }
    assert listed["demo"].model.provider == "llmops"
    assert listed["up-embeddings"].endpoint_type == "llm/v1/embeddings"


def test_it_predicts(client: Any, upstream: Upstream) -> None:
    upstream.play(chat("Hello."), embeddings((0.5, 0.25)))

    assert client.predict(endpoint="up", inputs=HELLO)["choices"][0]["message"]["content"] == "Hello."
    assert client.predict(endpoint="up-embeddings", inputs={"input": "x"})["data"][0]["embedding"] == [0.5, 0.25]


def test_it_is_told_what_is_wrong(client: Any) -> None:
    with pytest.raises(HTTPError, match="'nope' does not exist"):
        client.get_endpoint("nope")
    with pytest.raises(HTTPError, match="this is a request for llm/v1/embeddings"):
        client.predict(endpoint="up", inputs={"input": "x"})


def test_an_endpoint_whose_file_is_wrong_is_left_out_and_says_why(new_server: NewServer) -> None:
    server = new_server(demo(), {"name": "bad", "config": {"served_entities": []}})
    client = get_deploy_client(server.url)

    assert [endpoint.name for endpoint in client.list_endpoints()] == ["demo"]
    with pytest.raises(HTTPError, match="endpoint 'bad' is not ready"):
        client.get_endpoint("bad")


def test_it_sends_its_token_and_is_recorded_as_the_gateway(
    new_server: NewServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = new_server(demo(), environment={"LLMOPS_TOKEN": "sesame"})
    client = get_deploy_client(server.url)
    with pytest.raises(HTTPError, match="401"):
        client.list_endpoints()
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "sesame")

    client.predict(endpoint="demo", inputs=HELLO)

    flush(server)
    (run,) = runs(server)
    assert run.data.tags["wire"] == "gateway"
