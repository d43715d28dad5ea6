"""What an endpoint does not want logged is in no file of the server, and the model and the caller notice nothing."""

import sqlite3
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.conftest import NewServer
from tests.logged import flush, runs, traces
from tests.scripts import chat, chat_stream, status
from tests.server import Server, external
from tests.upstream import Upstream, refused_url

KEY = {"LLMOPS_SECRET_TEST_KEY": "sk-test"}
#: As a caller may write it; the second is JSON's own way.
EMAIL, ESCAPED = "grace.hopper@example.com", rb"grace.hopper\u0040example.com"
SECRET = "the moon is made of basalt"


def _external(name: str, url: str, **llmops: Any) -> dict[str, Any]:
    return {**external(name, url), "llmops": llmops}


def _holding(folder: Path, *needles: bytes) -> list[str]:
    """The files under a folder in which one of the texts stands."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if any(needle in path.read_bytes() for needle in needles)]


def _ask_every_way(server: Server, upstream: Upstream, endpoint: str, text: str) -> list[httpx.Response]:
    """Plain, streamed, refused by the model with a quotation, cut off, escaped, and not JSON at all."""
    quoting = status(400, {"error": {"message": f"cannot read: {text}"}})
    upstream.play(
        chat(f"You said {text}."), chat_stream(("You ", f"said {text}", ".")), quoting, chat(text), chat(text)
    )
    told = {"usage_context": {"note": text}, "stop": [text]}
    path = f"/serving-endpoints/{endpoint}/invocations"
    escaped = orjson.dumps({"messages": [{"role": "user", "content": text}]}).replace(b"@", rb"\u0040")
    return [
        server.ask(endpoint, text, **told),
        server.ask(endpoint, text, **told, stream=True),
        server.ask(endpoint, text, **told),
        server.post("/v1/chat/completions", {"model": endpoint, "messages": [{"role": "user", "content": text}]}),
        server.post_bytes(path, escaped),
        server.post_bytes(path, b'{"messages": [{"role": "user", "content": "' + text.encode()),
    ]


def test_a_masked_address_is_in_no_file_and_reaches_model_and_caller(new_server: NewServer) -> None:
    with Upstream() as upstream:
        server = new_server(_external("masked", upstream.url, mask_pii=True), environment=KEY)
        answers = _ask_every_way(server, upstream, "masked", EMAIL)
        asked = [request.json["messages"][0]["content"] for request in upstream.requests]
        spooled = _holding(server.data_dir, EMAIL.encode(), ESCAPED)
    flush(server)

    assert asked == [EMAIL] * 5
    assert EMAIL in answers[0].text + answers[1].text
    assert spooled == _holding(server.data_dir, EMAIL.encode(), ESCAPED) == []
    responses = [run.data.tags.get("response", "") for run in runs(server)]
    assert sum("You said <EMAIL_ADDRESS>." in response for response in responses) == 2
    assert len(traces(server)) == 6


def test_metadata_has_every_figure_and_no_word(new_server: NewServer) -> None:
    with Upstream() as upstream:
        server = new_server(_external("figures", upstream.url, log="metadata"), environment=KEY)
        answers = _ask_every_way(server, upstream, "figures", SECRET)
        spooled = _holding(server.data_dir / "spool", b"You said", b"cannot read")
    flush(server)

    logged = {run.data.tags["llmops.interaction_id"]: run for run in runs(server)}
    first = logged[answers[0].headers["x-request-id"]]
    assert SECRET in answers[0].text
    assert len(logged) == 6
    assert first.data.metrics["total_tokens"] == 12
    assert first.data.params["model"] == "figures-model"
    assert "stop" not in first.data.params
    assert spooled == _holding(server.data_dir, b"You said", b"cannot read") == []


def test_nothing_leaves_no_run_and_no_header_that_names_one(new_server: NewServer) -> None:
    with Upstream() as upstream:
        server = new_server(_external("silent", upstream.url, log="nothing"), environment=KEY)
        answers = _ask_every_way(server, upstream, "silent", SECRET)
    flush(server)

    assert [answer.status_code for answer in answers] == [200, 200, 400, 200, 200, 400]
    assert all(len(answer.headers["x-request-id"]) == 32 for answer in answers)
    assert not any("x-mlflow-trace-id" in answer.headers or "x-mlflow-run-id" in answer.headers for answer in answers)
    assert runs(server) == traces(server) == []
    assert _holding(server.data_dir, SECRET.encode(), answers[0].headers["x-request-id"].encode()) == []


def test_an_endpoint_whose_file_cannot_be_read_logs_metadata(new_server: NewServer) -> None:
    server = new_server(_external("broken", refused_url(), lgo="nothing"), environment=KEY)

    answer = server.ask("broken", SECRET)
    flush(server)

    assert "llmops.lgo: unknown key; did you mean 'log'?" in answer.json()["message"]
    assert len(runs(server)) == 1
    assert _holding(server.data_dir, SECRET.encode()) == []


def test_everything_is_logged_as_it_came(new_server: NewServer) -> None:
    with Upstream() as upstream:
        server = new_server(external("open", upstream.url), environment=KEY)
        upstream.play(chat("aye"))
        server.ask("open", SECRET)
    flush(server)

    assert _holding(server.data_dir, SECRET.encode()) != []
    assert runs(server)[0].data.tags["prompt"] == SECRET
    assert runs(server)[0].data.tags["response"] == "aye"


def test_the_policy_is_told_and_outlives_changes_of_other_parts(server: Server, upstream: Upstream) -> None:
    document = _external("told", upstream.url, log="metadata", retention_days=7)
    server.post("/api/2.0/serving-endpoints", document)

    url = f"{server.url}/api/2.0/serving-endpoints/told"
    httpx.put(f"{url}/ai-gateway", json={"usage_tracking_config": {"enabled": True}})
    httpx.put(f"{url}/config", json=external("other", upstream.url)["config"])
    told = server.endpoint("told")
    httpx.delete(url)

    assert told["llmops"] == {"log": "metadata", "retention_days": 7}
    assert len(told["config"]["served_entities"][0]["id"]) == 32
    assert server.endpoint("demo")["llmops"]["source"].endswith("demo.yaml")


def test_a_policy_with_a_typing_mistake_is_refused_over_rest_too(server: Server, upstream: Upstream) -> None:
    answer = server.post("/api/2.0/serving-endpoints", _external("typo", upstream.url, lgo="nothing"))

    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert answer.json()["message"] == "llmops.lgo: unknown key; did you mean 'log'?"


@pytest.mark.parametrize("part", ["catalog_name", "schema_name", "table_name_prefix"])
def test_an_inference_table_is_moved_only_while_it_is_off(server: Server, upstream: Upstream, part: str) -> None:
    table = {"enabled": True, "catalog_name": "a", "schema_name": "b", "table_name_prefix": "c"}
    url = f"{server.url}/api/2.0/serving-endpoints/moved"
    server.post("/api/2.0/serving-endpoints", external("moved", upstream.url))

    def put(**fields: Any) -> httpx.Response:
        return httpx.put(f"{url}/ai-gateway", json={"inference_table_config": {**table, **fields}})

    first, same, moved = put(), put(), put(**{part: "other"})
    off, again = put(enabled=False), put(**{part: "other"})
    httpx.delete(url)

    assert [answer.status_code for answer in (first, same, moved, off, again)] == [200, 200, 400, 200, 200]
    assert "the inference table is a.b.c_payload; to change catalog_name, schema_name" in moved.json()["message"]
    assert "disable it first" in moved.json()["message"]
    assert again.json()["inference_table_config"][part] == "other"


FULL = {**KEY, "LLMOPS_SPOOL_MAX_MB": "1", "MLFLOW_TRACKING_URI": refused_url()}


def _fill(server: Server, endpoint: str) -> int:
    """Ask until a worker's spool is full, with MLflow away; returns how many were asked."""
    asked = 0
    while "event=interaction_log_full" not in server.logged():
        server.ask(endpoint, "x" * 100_000)
        asked += 1
        assert asked < 100
    return asked


def test_a_full_log_refuses_before_the_model_is_asked(new_server: NewServer) -> None:
    with Upstream() as upstream:
        upstream.always(chat())
        quiet = _external("quiet", upstream.url, log="nothing")
        refusing = {**FULL, "LLMOPS_SPOOL_WHEN_FULL": "refuse"}
        server = new_server(external("up", upstream.url), quiet, environment=refusing)
        _fill(server, "up")
        asked = len(upstream.requests)
        plain, streamed = server.ask("up"), server.ask("up", stream=True)

        assert len(upstream.requests) == asked
        assert server.ask("quiet").status_code == 200

    for answer in (plain, streamed):
        assert (answer.status_code, answer.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
        assert answer.headers["retry-after"] == "10"
        assert answer.json()["message"].startswith("the interaction log is full, because ")
        assert "x-mlflow-trace-id" not in answer.headers


def test_a_full_log_that_samples_answers_on(new_server: NewServer) -> None:
    with Upstream() as upstream:
        upstream.always(chat())
        server = new_server(external("up", upstream.url), environment=FULL)
        _fill(server, "up")
        answers = [server.ask("up") for _ in range(60)]

    assert {answer.status_code for answer in answers} == {200}
    kept = [answer.headers["x-request-id"] for answer in answers if "x-mlflow-trace-id" in answer.headers]
    assert len(kept) < 20
    assert set(kept) == _spooled(server) & {answer.headers["x-request-id"] for answer in answers}


def _spooled(server: Server) -> set[str]:
    """The interactions that wait in the spools."""
    found: set[str] = set()
    for path in (server.data_dir / "spool").glob("*.db"):
        database = sqlite3.connect(path)
        rows = database.execute("SELECT content FROM record").fetchall()
        found |= {orjson.loads(content)["interaction_id"] for (content,) in rows}
        database.close()
    return found
