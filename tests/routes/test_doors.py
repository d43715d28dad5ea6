"""Doors of invocations beside the usual ones: one served entity directly, aliases, names that are also paths."""

from typing import Any

import httpx
import openai
import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.serving import ChatMessage, ChatMessageRole
from mlflow.deployments import get_deploy_client

from tests.scripts import chat, chat_stream, status
from tests.server import Server, demo
from tests.upstream import Upstream

ENDPOINTS = "/api/2.0/serving-endpoints"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
#: Each is also a part of a path under /serving-endpoints or /api/2.0/serving-endpoints.
NAMES = ("chat", "completions", "embeddings", "responses", "models", "pt", "feedback", "v1", "served-models")


def test_a_served_entity_is_asked_directly_whatever_its_share(server: Server, upstream: Upstream) -> None:
    upstream.play(chat(), chat_stream())

    plain = server.post("/serving-endpoints/both/served-models/second/invocations", HELLO)
    streamed = server.post("/serving-endpoints/both/served-models/second/invocations", {**HELLO, "stream": True})

    assert plain.headers["served-model-name"] == streamed.headers["served-model-name"] == "second"
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert [request.json["model"] for request in upstream.requests[-2:]] == ["second-model", "second-model"]


def test_a_served_entity_that_is_asked_directly_has_no_fallback(server: Server, upstream: Upstream) -> None:
    upstream.play(status(500))
    before = len(upstream.requests)

    answer = server.post("/serving-endpoints/both/served-models/first/invocations", HELLO)

    assert (answer.status_code, len(upstream.requests)) == (500, before + 1)


def test_a_served_entity_that_is_not_there_is_404_and_names_those_that_are(server: Server) -> None:
    answer = server.post("/serving-endpoints/both/served-models/third/invocations", HELLO)

    assert answer.status_code == 404
    assert answer.json() == {
        "error_code": "ENDPOINT_NOT_FOUND",
        "message": "endpoint 'both' has no served entity 'third': first, second",
    }
    assert answer.headers["x-request-id"]


def test_stock_clients_reach_the_direct_route_by_its_name(
    server: Server, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", server.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "anything")
    upstream.play(chat(), chat())
    said = ChatMessage(role=ChatMessageRole.USER, content="hi")

    queried = WorkspaceClient().serving_endpoints.query("both/served-models/second", messages=[said])
    get_deploy_client("databricks").predict(endpoint="both/served-models/second", inputs=HELLO)

    assert queried.served_model_name == "second"
    assert upstream.requests[-1].json["model"] == "second-model"


@pytest.mark.parametrize(
    "path",
    [
        "/serving-endpoints/both/served-models//invocations",
        "/serving-endpoints//served-models/second/invocations",
        "/serving-endpoints/both/served-models/second/more/invocations",
        "/serving-endpoints/both/other/second/invocations",
        "/serving-endpoints//invocations",
        "/endpoints/both/served-models/second/invocations",
    ],
)
def test_a_path_of_another_form_is_no_door(server: Server, path: str) -> None:
    answer = server.post(path, HELLO)

    assert (answer.status_code, answer.json()["message"]) == (404, f"POST {path} is not a route; see /docs")


@pytest.mark.parametrize("base", ["/serving-endpoints/v1", "/ai-gateway/mlflow/v1", "/ai-gateway/openai/v1"])
def test_the_other_base_urls_of_databricks_serve_openais_client(server: Server, upstream: Upstream, base: str) -> None:
    client = openai.OpenAI(base_url=server.url + base, api_key="any", max_retries=0)
    upstream.play(chat("Hello."))

    said = client.chat.completions.create(model="up", messages=[{"role": "user", "content": "hi"}])

    assert said.choices[0].message.content == "Hello."


@pytest.mark.parametrize("name", NAMES)
def test_an_endpoint_may_have_the_name_of_a_path(server: Server, name: str) -> None:
    made = server.post(ENDPOINTS, demo(name))
    tagged = httpx.patch(f"{server.url}{ENDPOINTS}/{name}/tags", json={"add_tags": [{"key": "k"}]})
    updated = httpx.put(f"{server.url}{ENDPOINTS}/{name}/config", json=demo(name)["config"])
    answers = [
        server.ask(name),
        server.post(f"/serving-endpoints/{name}/served-models/eliza/invocations", HELLO),
        server.post("/serving-endpoints/chat/completions", {"model": name, **HELLO}),
    ]
    got = server.get(f"{ENDPOINTS}/{name}")
    models = server.get("/serving-endpoints/models").json()["data"]
    deleted = httpx.delete(f"{server.url}{ENDPOINTS}/{name}")

    assert {answer.status_code for answer in (made, tagged, updated, *answers, got, deleted)} == {200}
    assert {answer.headers["served-model-name"] for answer in answers} == {"eliza"}
    assert name in [model["id"] for model in models]
