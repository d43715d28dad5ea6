"""Endpoints whose model answers from a child process: the local engine, and a vendor behind the litellm bridge."""

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from mlflow.deployments import get_deploy_client
from requests import HTTPError

from llmops.endpoints.detail import told_config
from llmops.interactions.spool import depth
from llmops.protocol import chat
from llmops.protocol.usage import Usage
from tests.logged import runs
from tests.providers import gguf_model
from tests.providers.anthropic_upstream import COUNTED, WORDS, text_reply, text_stream
from tests.scripts import status
from tests.server import Server, demo
from tests.upstream import Upstream

KEY = "sk-ant-canary-1234567890"
SECRET = {"LLMOPS_SECRET_ANTHROPIC_KEY": KEY}
ENGINE, BRIDGE = "llmops.providers.llama_cpp", "llmops.providers.litellm"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 6, "temperature": 0}
TEXT = "".join(WORDS)


def local(name: str, source: Path | str, task: str = "llm/v1/chat") -> dict[str, Any]:
    """An endpoint of the local engine."""
    engine = {"engine": "llama_cpp", "source": str(source), "task": task}
    entity = {"name": "tiny", "entity_name": "llmops.tiny", "llmops": engine}
    return {"name": name, "config": {"served_entities": [entity]}}


def claude(url: str) -> dict[str, Any]:
    """An endpoint of Anthropic, whose address is a URL of ours."""
    config = {"anthropic_api_key": "{{secrets/anthropic/key}}"}
    model = {"name": "claude-sonnet-4-5", "provider": "anthropic", "task": "llm/v1/chat", "anthropic_config": config}
    entity = {"name": "sonnet", "external_model": model, "llmops": {"api_base": url}}
    return {"name": "claude", "config": {"served_entities": [entity]}}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("xllamacpp", reason="the local engine has no wheel for this machine")
    return gguf_model.write(tmp_path_factory.mktemp("weights") / "tiny.gguf")


@pytest.fixture(scope="module")
def running_anthropic() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture
def anthropic(running_anthropic: Upstream) -> Upstream:
    """A scripted Anthropic with nothing queued."""
    running_anthropic.forget()
    return running_anthropic


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path, running_anthropic: Upstream
) -> Iterator[Server]:
    """A server with the endpoints `demo` and `claude`; those of the local engine are made by the tests."""
    running = Server(tmp_path_factory.mktemp("engines"), (demo(),), environment=SECRET)
    running.data_dir.mkdir()
    shutil.copy(mlflow_template, running.data_dir / "mlflow.db")
    with running:
        running.post("/api/2.0/serving-endpoints", claude(running_anthropic.url)).raise_for_status()
        yield running


@pytest.fixture
def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's own client of Databricks, pointed here."""
    monkeypatch.setenv("DATABRICKS_HOST", server.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "anything")
    return get_deploy_client("databricks")


Make = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture
def make(client: Any, server: Server) -> Iterator[Make]:
    """Create endpoints; they and their engines are gone after the test."""
    names: list[str] = []

    def create(document: dict[str, Any]) -> dict[str, Any]:
        names.append(document["name"])
        return dict(client.create_endpoint(config=document))

    yield create
    for name in names:
        client.delete_endpoint(name)
    server.wait(lambda: not server.processes(ENGINE))


def message(endpoint: dict[str, Any]) -> str:
    """What the only served entity of an endpoint waits for."""
    (entity,) = told_config(endpoint)["served_entities"]
    return str(entity["state"]["deployment_state_message"])


def test_a_local_model_answers_the_call_that_follows_its_creation(client: Any, make: Make, weights: Path) -> None:
    created = make(local("tiny", weights))
    answer = client.predict(endpoint="tiny", inputs=HELLO)

    assert message(created) == "the engine is loading the model"
    assert set(chat.answer_text(answer).split()) <= set(gguf_model.WORDS)
    assert answer["usage"]["completion_tokens"] == 6
    assert client.get_endpoint("tiny")["state"]["ready"] == "READY"


def test_a_local_model_streams_what_it_answers(client: Any, make: Make, weights: Path) -> None:
    make(local("tiny", weights))
    plain = client.predict(endpoint="tiny", inputs=HELLO)
    asked = {**HELLO, "stream_options": {"include_usage": True}}
    chunks = list(client.predict_stream(endpoint="tiny", inputs=asked))

    assert sum(1 for chunk in chunks if chat.delta_text(chunk)) == 6
    assert chat.answer_text(chat.fold(chunks)) == chat.answer_text(plain)
    assert chunks[-1]["usage"]["completion_tokens"] == 6


def test_the_same_weights_chat_and_embed(client: Any, make: Make, server: Server, weights: Path) -> None:
    make(local("tiny", weights))
    make(local("tiny-embeddings", weights, "llm/v1/embeddings"))
    texts = ["one river", "one river", "the old engine"]
    rows = client.predict(endpoint="tiny-embeddings", inputs={"input": texts})["data"]
    first, same, other = (row["embedding"] for row in rows)

    assert client.predict(endpoint="tiny", inputs=HELLO)["choices"]
    assert len(server.processes(ENGINE)) == 2
    assert len(first) == gguf_model.WIDTH
    assert first == pytest.approx(same, abs=1e-4)
    assert first != pytest.approx(other, abs=1e-2)


def test_endpoints_of_the_same_weights_share_an_engine(client: Any, make: Make, server: Server, weights: Path) -> None:
    for name in ("one", "two"):
        make(local(name, weights))
        client.predict(endpoint=name, inputs=HELLO)

    assert len(server.processes(ENGINE)) == 1


def test_a_killed_engine_is_back_and_who_asks_meanwhile_waits(make: Make, server: Server, weights: Path) -> None:
    """502 until its end was noticed, then no error: a 400 would tell a client not to come again."""
    make(local("tiny", weights))
    assert server.ask("tiny", max_tokens=2).status_code == 200
    (engine,) = server.processes(ENGINE)
    statuses = []

    def answered() -> bool:
        statuses.append(server.ask("tiny", max_tokens=2).status_code)
        return statuses[-1] == 200

    engine.kill()
    engine.wait(timeout=10)
    server.wait(answered)

    assert set(statuses) <= {502, 200}
    assert [process.pid for process in server.processes(ENGINE)] != [engine.pid]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("hf://Org/Repo/m.gguf", "weights of hf://Org/Repo/m.gguf are not here: run `llmops models pull waits`"),
        (
            "/nowhere/m.gguf",
            "model file /nowhere/m.gguf of endpoint 'waits' does not exist: put it there, or change llmops.source",
        ),
    ],
)
def test_weights_that_are_not_here_are_said_at_once(make: Make, server: Server, source: str, says: str) -> None:
    created = make(local("waits", source))
    began = time.monotonic()
    answer = server.ask("waits")
    took_s = time.monotonic() - began

    assert (created["state"]["ready"], message(created)) == ("NOT_READY", says)
    assert (answer.status_code, answer.json()["message"]) == (400, says)
    assert took_s < 5


def test_weights_that_arrive_are_loaded(make: Make, server: Server, weights: Path, tmp_path: Path) -> None:
    make(local("late", tmp_path / "late.gguf"))
    (tmp_path / "late.gguf").hardlink_to(weights)
    server.wait(lambda: bool(server.endpoint("late")["state"]["ready"] == "READY"))

    assert server.ask("late", max_tokens=2).status_code == 200


def test_a_file_that_is_no_model_is_said(make: Make, server: Server, weights: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(weights.read_bytes()[:1000])
    make(local("broken", broken))
    answer = server.ask("broken")

    assert answer.status_code == 400
    assert f"llama.cpp cannot load {broken}" in answer.json()["message"]


@pytest.mark.parametrize("source", ["model.bin", "hf://org--x/repo/m.gguf"])
def test_a_source_that_names_no_model_is_refused(client: Any, source: str) -> None:
    with pytest.raises(HTTPError, match=r"config\.served_entities\[0\]\.llmops\.source: model source '"):
        client.create_endpoint(config=local("odd", source))


def test_a_source_nobody_can_look_at_stops_no_other_endpoint(client: Any, make: Make, weights: Path) -> None:
    make(local("too-long", f"/{'x' * 300}.gguf"))
    make(local("nobodys", "~nobody-of-this-name/m.gguf"))
    make(local("tiny", weights))

    assert client.predict(endpoint="tiny", inputs=HELLO)["choices"]
    assert {"too-long", "nobodys", "tiny"} <= {endpoint["name"] for endpoint in client.list_endpoints()}


def test_a_vendor_behind_the_bridge_answers_mlflow(client: Any, anthropic: Upstream) -> None:
    anthropic.play(text_reply(), text_stream())
    asked = {**HELLO, "stream_options": {"include_usage": True}}
    plain = client.predict(endpoint="claude", inputs=HELLO)
    chunks = list(client.predict_stream(endpoint="claude", inputs=asked))

    assert chat.answer_text(plain) == TEXT
    assert [chat.delta_text(chunk) for chunk in chunks if chat.delta_text(chunk)] == list(WORDS)
    assert Usage.read(plain) == Usage.read(chat.fold(chunks)) == COUNTED


def test_a_vendor_behind_the_bridge_answers_openais_client(server: Server, anthropic: Upstream) -> None:
    anthropic.play(text_reply(), text_stream())
    ask = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0).chat.completions
    plain = ask.create(model="claude", **HELLO)
    chunks = list(ask.create(model="claude", stream=True, stream_options={"include_usage": True}, **HELLO))

    assert plain.choices[0].message.content == TEXT
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == TEXT
    assert chunks[-1].usage == plain.usage
    assert (plain.usage.prompt_tokens, plain.usage.completion_tokens) == (15, 5)


def test_a_vendors_limit_is_the_callers(server: Server, anthropic: Upstream) -> None:
    said = {"type": "error", "error": {"type": "rate_limit_error", "message": f"slow down, {KEY}"}}
    anthropic.play(*[status(429, said, {"retry-after": "7"})] * 2)

    for stream in (False, True):
        answer = server.ask("claude", stream=stream)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
        assert "slow down" in answer.json()["message"]
        assert KEY not in answer.text


def test_the_key_of_a_vendor_is_in_one_header_and_nowhere_else(server: Server, anthropic: Upstream) -> None:
    anthropic.play(text_reply())
    answer = server.ask("claude")
    server.wait(lambda: depth(server.settings.spool_dir) == 0, 60)
    request = anthropic.requests[-1]
    files = [path for path in server.data_dir.rglob("*") if path.is_file()]

    assert [name for name, value in request.headers.items() if KEY in value] == ["x-api-key"]
    assert KEY not in request.body.decode() + answer.text + str(answer.headers) + str(server.endpoint("claude"))
    assert [path for path in [*files, server.log] if KEY.encode() in path.read_bytes()] == []


def test_a_stream_through_the_bridge_is_logged_with_the_vendors_counts(server: Server, anthropic: Upstream) -> None:
    """Its caller did not ask for them."""
    anthropic.play(text_stream())
    answer = server.ask("claude", stream=True)
    server.wait(lambda: depth(server.settings.spool_dir) == 0, 60)
    (run,) = [one for one in runs(server) if one.data.tags["llmops.interaction_id"] == answer.headers["x-request-id"]]

    told = {key: run.data.params[key] for key in ("served_entity", "provider", "model")}
    counts = {key: run.data.metrics[key] for key in ("input_tokens", "output_tokens", "cached_tokens")}
    assert told == {"served_entity": "sonnet", "provider": "anthropic", "model": "claude-sonnet-4-5"}
    assert counts == {"input_tokens": 15, "output_tokens": 5, "cached_tokens": 4}
    assert "tokens_estimated" not in run.data.tags


def test_a_child_runs_while_an_endpoint_needs_it_and_not_longer(
    client: Any, server: Server, anthropic: Upstream, weights: Path
) -> None:
    def children() -> set[str]:
        return {module for module in (ENGINE, BRIDGE) if server.processes(module)}

    client.delete_endpoint("claude")
    server.wait(lambda: children() == set())
    client.create_endpoint(config=local("tiny", weights))
    # When its answer is here, whoever starts children has looked at every endpoint.
    assert (server.ask("tiny", max_tokens=2).status_code, children()) == (200, {ENGINE})

    anthropic.play(*[text_reply()] * 4)
    client.create_endpoint(config=claude(anthropic.url))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: server.ask("claude"), range(4)))
    assert ([answer.status_code for answer in answers], children()) == ([200] * 4, {ENGINE, BRIDGE})

    client.delete_endpoint("tiny")
    server.wait(lambda: children() == {BRIDGE})
