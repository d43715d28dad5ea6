"""The fifteen facts each of which breaks or stalls a real client, one test for each, by its number.

Source: ../shared/reference/databricks_contract.md 0
"""

import ast
import inspect
import logging
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import orjson
import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk._base_client import _BaseClient
from databricks.sdk.errors import BadRequest
from databricks.sdk.service.serving import ChatMessage, ChatMessageRole, EndpointStateConfigUpdate, EndpointStateReady
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS
from requests import HTTPError

from llmops import errors
from tests import faults
from tests.conftest import NewServer
from tests.providers import gguf_model
from tests.scripts import chat, chat_stream, embeddings, status
from tests.server import Server, demo, external
from tests.upstream import Upstream
from tests.wire import Gate

ENDPOINTS = "/api/2.0/serving-endpoints"
HELLO = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's own client of Databricks, pointed here."""
    return mlflow_client(server, monkeypatch)


@pytest.fixture
def workspace(server: Server, monkeypatch: pytest.MonkeyPatch) -> WorkspaceClient:
    """The databricks-sdk, pointed here."""
    monkeypatch.setenv("DATABRICKS_HOST", server.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "anything")
    return WorkspaceClient()


@pytest.fixture
def databricks_openai(server: Server) -> openai.OpenAI:
    """OpenAI's client as `DatabricksOpenAI` sets it up: what ChatDatabricks stands on."""
    return openai.OpenAI(base_url=f"{server.url}/serving-endpoints", api_key="any")


@pytest.fixture
def created(server: Server, upstream: Upstream) -> Iterator[str]:
    """An endpoint of the scripted upstream, made over REST."""
    server.post(ENDPOINTS, external("fact", upstream.url)).raise_for_status()
    yield "fact"
    httpx.delete(f"{server.url}{ENDPOINTS}/fact")


def mlflow_client(server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DATABRICKS_HOST", server.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "anything")
    return get_deploy_client("databricks")


def all_errors() -> set[tuple[str, int]]:
    """Code and status of every error that can be answered, whatever an upstream says."""
    tree: list[type[errors.LlmopsError]] = [errors.LlmopsError]
    for error in tree:
        tree += [one for one in error.__subclasses__() if one not in (errors.CommandError, errors.ClientGone)]
    mirrored = [errors.UpstreamStatus("", upstream_status=code) for code in range(300, 600)]
    return {*((error.error_code, error.status) for error in tree), *((one.error_code, one.status) for one in mirrored)}


def test_fact_1_discovery_is_open_and_silent(new_server: NewServer, monkeypatch: Any, caplog: Any) -> None:
    server = new_server(demo(), environment={"LLMOPS_TOKEN": "sesame"})
    monkeypatch.setenv("DATABRICKS_HOST", server.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "sesame")

    with caplog.at_level(logging.WARNING):
        listed = get_deploy_client("databricks").list_endpoints()
    found = server.get("/.well-known/databricks-config")

    assert (found.status_code, found.json()) == (200, {})
    assert [endpoint["name"] for endpoint in listed] == ["demo"]
    assert caplog.messages == []


def test_fact_2_discovery_answers_while_the_server_is_not_ready(new_server: NewServer, monkeypatch: Any) -> None:
    server = new_server(demo())
    spool = server.data_dir / "spool"
    spool.rename(server.data_dir / "kept")
    spool.write_text("a file where the directory should be")
    (worker,) = server.processes("routes.worker")
    worker.kill()
    worker.wait(timeout=10)
    server.wait(lambda: _status(server, "/ready") == 503)
    began = time.monotonic()

    WorkspaceClient(host=server.url, token="anything")

    # It would repeat a 503 for five minutes.
    assert time.monotonic() - began < 5


def test_fact_3_a_trailing_slash_is_no_redirect(server: Server, upstream: Upstream) -> None:
    made = httpx.post(f"{server.url}{ENDPOINTS}/", json=external("slash", upstream.url), follow_redirects=False)
    listed = httpx.get(f"{server.url}{ENDPOINTS}/", follow_redirects=False)
    httpx.delete(f"{server.url}{ENDPOINTS}/slash")

    assert (made.status_code, made.json()["name"]) == (200, "slash")
    assert "slash" in [endpoint["name"] for endpoint in listed.json()["endpoints"]]


def test_fact_4_the_list_of_no_endpoints_has_its_key(new_server: NewServer, monkeypatch: Any) -> None:
    server = new_server()

    assert mlflow_client(server, monkeypatch).list_endpoints() == []
    assert server.get(ENDPOINTS).json() == {"endpoints": []}


def test_fact_5_delete_answers_json(client: Any, server: Server, upstream: Upstream) -> None:
    server.post(ENDPOINTS, external("gone", upstream.url)).raise_for_status()

    assert client.delete_endpoint("gone") == {}


def test_fact_6_answers_name_the_endpoint_and_a_state_the_sdk_knows(
    server: Server, workspace: WorkspaceClient, created: str, upstream: Upstream
) -> None:
    updated = httpx.put(f"{server.url}{ENDPOINTS}/{created}/config", json=external(created, upstream.url)["config"])
    state = workspace.serving_endpoints.get(created).state

    assert updated.json()["name"] == created
    assert state is not None
    assert (state.ready, state.config_update) == (EndpointStateReady.READY, EndpointStateConfigUpdate.NOT_UPDATING)


def test_fact_7_a_stream_has_only_data_lines_and_blank_lines(server: Server, client: Any, upstream: Upstream) -> None:
    upstream.play(faults.noisy(chat_stream()), faults.noisy(chat_stream()))

    lines = server.ask("up", stream=True).text.split("\n")
    chunks = list(client.predict_stream(endpoint="up", inputs=HELLO))

    assert {line[:6] for line in lines} == {"data: ", ""}
    assert len(chunks) >= 5


def test_fact_8_a_stream_is_chunked_and_comes_as_it_is_made(client: Any, server: Server, upstream: Upstream) -> None:
    gate = Gate()
    upstream.play(chat_stream(), chat_stream(pause=gate))

    headers = server.ask("up", stream=True).headers
    stream = client.predict_stream(endpoint="up", inputs=HELLO)
    # The second word is not sent before the first was read: a client that waited for 512 bytes would hang here.
    first = next(stream)
    gate.open()

    assert headers["transfer-encoding"] == "chunked"
    assert headers.get("connection", "keep-alive") == "keep-alive"
    assert first["choices"][0]["delta"]["content"] == "Hello"
    assert len(list(stream)) == 5


def test_fact_9_mlflow_knows_the_code_of_every_error() -> None:
    told = all_errors()

    assert {code for code, _ in told} <= set(ERROR_CODE_TO_HTTP_STATUS)
    # Its own table says 400 for a name that is taken, and so does Databricks' SDK.
    differ = {(code, status) for code, status in told if ERROR_CODE_TO_HTTP_STATUS[code] != status}
    assert differ <= {("RESOURCE_ALREADY_EXISTS", 409), ("INTERNAL_ERROR", 502)}


@pytest.mark.parametrize("code", [408, 413, 422])
def test_fact_10_a_status_that_mlflow_repeats_is_not_answered(client: Any, upstream: Upstream, code: int) -> None:
    upstream.play(status(code))
    before = len(upstream.requests)

    with pytest.raises(HTTPError, match="400 Client Error"):
        client.predict(endpoint="up", inputs=HELLO)

    assert len(upstream.requests) == before + 1
    assert code not in {status for _, status in all_errors()}


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        (ENDPOINTS, "GET, POST"),
        (f"{ENDPOINTS}/", "GET, POST"),
        (f"{ENDPOINTS}/up", "DELETE, GET, PUT"),
        (f"{ENDPOINTS}/up/config", "PUT"),
        (f"{ENDPOINTS}/up/tags", "PATCH"),
        (f"{ENDPOINTS}/up/served-models/up/logs", "GET"),
        ("/api/2.0/secrets/put", "POST"),
        (f"/api/2.0/permissions/serving-endpoints/{'0' * 32}", "GET, PATCH, PUT"),
        ("/v1/models", "GET"),
        ("/health", "GET"),
    ],
)
def test_fact_10_a_wrong_method_is_400_and_says_which_are_right(server: Server, path: str, methods: str) -> None:
    wrong = {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - set(methods.split(", "))

    answers = [httpx.request(method, server.url + path, json={}) for method in sorted(wrong)]

    told = [(answer.status_code, answer.headers["allow"], orjson.loads(answer.text)) for answer in answers]
    message = f"{path} takes {methods}, not {{}}; see /docs"
    for method, (code, allow, body) in zip(sorted(wrong), told, strict=True):
        assert (code, allow) == (400, methods)
        assert (body.get("message") or body["error"]["message"]) == message.format(method)


def test_fact_10_mlflow_sends_a_wrong_method_once(client: Any) -> None:
    began = time.monotonic()

    with pytest.raises(HTTPError, match=f"400 Client Error.*{ENDPOINTS}/ takes GET, POST, not PUT"):
        client._call_endpoint(method="PUT", route="", json_body={})

    # It would repeat a 405 seven times, for minutes.
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("code", [429, 503])
def test_fact_11_a_status_that_clients_wait_for_says_how_long(server: Server, upstream: Upstream, code: int) -> None:
    upstream.play(status(code))

    answer = server.ask("up")
    waiting = server.ask("keyless")

    assert (answer.status_code, int(answer.headers["retry-after"])) == (code, 2)
    # Waiting brings no key, so it is neither of the two.
    assert waiting.status_code == 400


def repeated_words() -> list[str]:
    """What makes the SDK repeat a request, as it says itself."""
    source = ast.parse(textwrap.dedent(inspect.getsource(_BaseClient._is_retryable)))
    (words,) = (
        ast.literal_eval(node.value)
        for node in ast.walk(source)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List)
    )
    assert "Unexpected error" in words
    return list(words)


@pytest.mark.parametrize("words", repeated_words())
def test_fact_12_no_message_makes_the_sdk_repeat(workspace: WorkspaceClient, upstream: Upstream, words: str) -> None:
    upstream.play(status(400, {"error": {"message": f"{words} while parsing {words}"}}))
    before = len(upstream.requests)

    with pytest.raises(BadRequest, match="while parsing"):
        workspace.serving_endpoints.query("up", messages=[ChatMessage(content="hi", role=ChatMessageRole.USER)])

    assert len(upstream.requests) == before + 1


def test_fact_13_an_error_in_mid_stream_raises_in_openais_client(
    databricks_openai: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.play(faults.cut_stream(after=2))
    stream = databricks_openai.chat.completions.create(
        model="up", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    said: list[str | None] = []

    with pytest.raises(openai.APIError, match="the upstream ended its answer in the middle"):
        said.extend(chunk.choices[0].delta.content for chunk in stream)

    assert said == ["Hello", " there"]


@pytest.mark.parametrize(
    "path",
    [
        "/serving-endpoints/nope/invocations",
        "/serving-endpoints/chat/completions",
        "/serving-endpoints/up/served-models/nope/invocations",
        "/endpoints/nope/invocations",
        "/ai-gateway/mlflow/v1/chat/completions",
        ENDPOINTS,
        f"{ENDPOINTS}/pt",
        "/api/2.0/external-function",
        "/api/2.0/secrets/put",
        "/nowhere",
    ],
)
def test_fact_14_an_error_body_has_no_key_error(server: Server, path: str) -> None:
    answer = server.post(path, {"model": "nope", **HELLO})

    assert answer.status_code in (400, 404)
    assert set(answer.json()) == {"error_code", "message"}


def test_fact_15_what_databricks_langchain_sends_is_answered(
    databricks_openai: openai.OpenAI, client: Any, upstream: Upstream
) -> None:
    upstream.play(chat("Hello."), embeddings((0.5,)))

    # ChatDatabricks stands on the first, DatabricksEmbeddings on the second; both run in .venv-clients.
    said = databricks_openai.chat.completions.create(model="up", messages=[{"role": "user", "content": "hi"}])
    embedded = client.predict(endpoint="up-embeddings", inputs={"input": ["hi"]})

    assert said.choices[0].message.content == "Hello."
    assert embedded["data"][0]["embedding"] == [0.5]
    assert orjson.loads(upstream.requests[-2].body)["model"] == "up-model"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (400, (400, "BAD_REQUEST")),
        (401, (403, "PERMISSION_DENIED")),
        (403, (403, "PERMISSION_DENIED")),
        (404, (404, "ENDPOINT_NOT_FOUND")),
        (429, (429, "REQUEST_LIMIT_EXCEEDED")),
        (500, (500, "INTERNAL_ERROR")),
        (502, (502, "INTERNAL_ERROR")),
        (503, (503, "TEMPORARILY_UNAVAILABLE")),
        (504, (504, "DEADLINE_EXCEEDED")),
    ],
)
def test_an_error_of_the_upstream_is_told_with_databricks_code(
    server: Server, upstream: Upstream, code: int, expected: tuple[int, str]
) -> None:
    """Contract 5.1 and 5.2; 401 is the key of the endpoint, not the caller's."""
    upstream.play(status(code))

    answer = server.ask("up")

    assert (answer.status_code, answer.json()["error_code"]) == expected


def test_a_second_update_while_one_is_in_progress_is_refused(new_server: NewServer) -> None:
    server = new_server(demo())
    weights = gguf_model.write(server.data_dir / "tiny.gguf")

    def config(threads: int) -> dict[str, Any]:
        engine = {"engine": "llama_cpp", "source": str(weights), "threads": threads}
        return {"served_entities": [{"name": "tiny", "entity_name": "llmops.tiny", "llmops": engine}]}

    made = server.post(ENDPOINTS, {"name": "tiny", "config": config(1)}).json()
    second = httpx.put(f"{server.url}{ENDPOINTS}/tiny/config", json=config(2))
    described = httpx.patch(f"{server.url}{ENDPOINTS}/tiny/tags", json={"add_tags": [{"key": "k"}]})
    server.wait(lambda: server.endpoint("tiny")["state"]["config_update"] == "NOT_UPDATING")
    third = httpx.put(f"{server.url}{ENDPOINTS}/tiny/config", json=config(2))

    assert made["state"]["config_update"] == "IN_PROGRESS"
    assert ("config" in made, made["pending_config"]["config_version"]) == (False, 1)
    assert (second.status_code, second.json()["error_code"]) == (409, "RESOURCE_CONFLICT")
    assert "endpoint 'tiny' is being updated; wait until" in second.json()["message"]
    assert described.status_code == 200
    assert (third.status_code, third.json()["config"]["config_version"]) == (200, 1)
    assert third.json()["pending_config"]["config_version"] == 2


def _status(server: Server, path: str) -> int | None:
    try:
        return server.get(path).status_code
    except httpx.HTTPError:
        return None
