"""The ten ways an invocation can end: each is one record, one run, with the right outcome and its attempts."""

import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
from mlflow.entities import Run

from tests import faults
from tests.conftest import NewServer
from tests.logged import flush, runs
from tests.scripts import chat, chat_stream, event, stream
from tests.server import Server, entity, external
from tests.upstream import Upstream, refused_url
from tests.wire import Gate, Script

KEY = {"LLMOPS_SECRET_TEST_KEY": "sk-test"}


def _two(name: str, first: str, second: str) -> dict[str, Any]:
    shares = [{"served_entity_name": one, "traffic_percentage": share} for one, share in (("a", 100), ("b", 0))]
    config = {"served_entities": [entity("a", first), entity("b", second)], "traffic_config": {"routes": shares}}
    return {"name": name, "config": config, "ai_gateway": {"fallback_config": {"enabled": True}}}


def test_each_of_the_ten_exits_is_one_run_with_its_outcome(new_server: NewServer) -> None:
    with Upstream() as upstream:
        url = upstream.url
        endpoints = (external("up", url), _two("connect", refused_url(), url), _two("chunk", url, url))
        server = new_server(*endpoints, _two("none", refused_url(), refused_url()), environment=KEY)
        for exit_ in (_whole, _fallback, _broken, _gone):
            exit_(server, upstream)
    flush(server)

    assert {run.data.tags["client_request_id"]: _ending(run) for run in runs(server)} == {
        "body": ("answered", "200", 1.0, "FINISHED"),
        "stream": ("answered", "200", 1.0, "FINISHED"),
        "unknown": ("failed", "404", 0.0, "FAILED"),
        "fallback-connect": ("answered", "200", 2.0, "FINISHED"),
        "fallback-chunk": ("answered", "200", 2.0, "FINISHED"),
        "all-down": ("failed", "502", 2.0, "FAILED"),
        "mid-stream": ("cut", "502", 1.0, "FAILED"),
        "gone": ("abandoned", "499", 1.0, "KILLED"),
        "stalled-gone": ("abandoned", "499", 1.0, "KILLED"),
        "gone-early": ("abandoned", "499", 1.0, "KILLED"),
    }


def test_an_abandoned_stream_is_recorded_with_its_part_and_its_tokens(new_server: NewServer) -> None:
    with Upstream() as upstream:
        server = new_server(external("up", upstream.url), environment=KEY)
        _leave_in_stream(server, upstream, "part")
    flush(server)

    run = runs(server)[0]

    assert run.data.tags["response"] == "Hello"
    assert run.data.metrics["output_tokens"] == 1


def _ending(run: Run) -> tuple[str, str, float, str]:
    return run.data.tags["outcome"], run.data.tags["status"], run.data.metrics["attempts"], run.info.status


def _whole(server: Server, upstream: Upstream) -> None:
    upstream.play(chat(), chat_stream())
    server.ask("up", client_request_id="body")
    server.ask("up", client_request_id="stream", stream=True)
    server.ask("nobody", client_request_id="unknown")


def _fallback(server: Server, upstream: Upstream) -> None:
    upstream.play(chat(), stream(event({"error": {"message": "no"}})), chat_stream())
    server.ask("connect", client_request_id="fallback-connect")
    server.ask("chunk", client_request_id="fallback-chunk", stream=True)
    server.ask("none", client_request_id="all-down")


def _broken(server: Server, upstream: Upstream) -> None:
    upstream.play(faults.cut_stream(2))
    server.ask("up", client_request_id="mid-stream", stream=True)


def _gone(server: Server, upstream: Upstream) -> None:
    _leave_in_stream(server, upstream, "gone")
    _leave(server, upstream, "stalled-gone", chat_stream(("x" * 10_000,) * 5_000), lambda one: one.recv(1000))
    _leave(server, upstream, "gone-early", faults.accept_and_stall(), lambda _: None)


def _leave_in_stream(server: Server, upstream: Upstream, name: str) -> None:
    before = upstream.cancelled
    upstream.play(chat_stream(pause=Gate()))
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "client_request_id": name}
    with httpx.stream("POST", f"{server.url}/serving-endpoints/up/invocations", json=body) as answer:
        next(answer.iter_lines())
    upstream.wait_for(lambda: upstream.cancelled == before + 1)


def _leave(
    server: Server, upstream: Upstream, name: str, script: Script, then: Callable[[socket.socket], object]
) -> None:
    asked, before = len(upstream.requests), upstream.cancelled
    upstream.play(script)
    parts = urlsplit(server.url)
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "client_request_id": name}
    data = orjson.dumps(body)
    head = (
        f"POST /serving-endpoints/up/invocations HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    )
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        upstream.wait_for(lambda: len(upstream.requests) == asked + 1)
        then(connection)
    upstream.wait_for(lambda: upstream.cancelled == before + 1)
