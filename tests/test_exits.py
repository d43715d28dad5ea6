"""The ten ways an invocation can end: each is one record, one run, with the right outcome and its attempts."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import pytest
from mlflow.entities import Run

from tests import faults
from tests.conftest import NewServer
from tests.logged import flush, runs
from tests.scripts import WORDS, chat, chat_stream, event, stream
from tests.server import Server, entity, external
from tests.upstream import Upstream, refused_url
from tests.wire import Gate, Script

KEY = {"LLMOPS_SECRET_TEST_KEY": "sk-test"}


def _two(name: str, first: str, second: str) -> dict[str, Any]:
    shares = [{"served_entity_name": one, "traffic_percentage": share} for one, share in (("a", 100), ("b", 0))]
    config = {"served_entities": [entity("a", first), entity("b", second)], "traffic_config": {"routes": shares}}
    return {"name": name, "config": config, "ai_gateway": {"fallback_config": {"enabled": True}}}


@dataclass(frozen=True)
class Wire:
    """How a caller asks."""

    name: str
    path: str
    fields: dict[str, Any]

    def asked(self, endpoint: str, name: str, stream: bool) -> tuple[str, dict[str, Any]]:
        """Path and body of one prompt."""
        body = {"model": endpoint, **self.fields, "stream": stream, "client_request_id": name}
        return self.path.format(endpoint), body


_HI = {"messages": [{"role": "user", "content": "hi"}]}
WIRES = [
    Wire("databricks", "/serving-endpoints/{}/invocations", _HI),
    Wire("messages", "/v1/messages", {**_HI, "max_tokens": 99}),
    Wire("responses", "/v1/responses", {"input": "hi"}),
]
of_wires = pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)


@of_wires
def test_each_of_the_ten_exits_is_one_run_with_its_outcome(new_server: NewServer, wire: Wire) -> None:
    with Upstream() as upstream:
        url = upstream.url
        endpoints = (external("up", url), _two("connect", refused_url(), url), _two("chunk", url, url))
        server = new_server(*endpoints, _two("none", refused_url(), refused_url()), environment=KEY)
        for exit_ in (_whole, _fallback, _broken, _gone):
            exit_(server, upstream, wire)
    flush(server)

    found = runs(server)
    assert {run.data.tags["wire"] for run in found} == {wire.name}
    assert len(found) == 10
    assert {run.data.tags["client_request_id"]: _ending(run) for run in found} == {
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


@of_wires
def test_an_abandoned_stream_is_recorded_with_its_part_and_its_tokens(new_server: NewServer, wire: Wire) -> None:
    with Upstream() as upstream:
        server = new_server(external("up", upstream.url), environment=KEY)
        _leave_in_stream(server, upstream, wire, "part")
    flush(server)

    run = runs(server)[0]

    assert run.data.tags["response"] == "Hello"
    assert run.data.metrics["output_tokens"] == 1


def _ending(run: Run) -> tuple[str, str, float, str]:
    return run.data.tags["outcome"], run.data.tags["status"], run.data.metrics["attempts"], run.info.status


def _ask(server: Server, wire: Wire, endpoint: str, name: str, *, stream: bool = False) -> None:
    path, body = wire.asked(endpoint, name, stream)
    server.post(path, body)


def _whole(server: Server, upstream: Upstream, wire: Wire) -> None:
    upstream.play(chat(), chat_stream())
    _ask(server, wire, "up", "body")
    _ask(server, wire, "up", "stream", stream=True)
    _ask(server, wire, "nobody", "unknown")


def _fallback(server: Server, upstream: Upstream, wire: Wire) -> None:
    upstream.play(chat(), stream(event({"error": {"message": "no"}})), chat_stream())
    _ask(server, wire, "connect", "fallback-connect")
    _ask(server, wire, "chunk", "fallback-chunk", stream=True)
    _ask(server, wire, "none", "all-down")


def _broken(server: Server, upstream: Upstream, wire: Wire) -> None:
    upstream.play(faults.cut_stream(2))
    _ask(server, wire, "up", "mid-stream", stream=True)


def _gone(server: Server, upstream: Upstream, wire: Wire) -> None:
    _leave_in_stream(server, upstream, wire, "gone")
    long = chat_stream(("x" * 10_000,) * 5_000)
    _leave(server, upstream, wire.asked("up", "stalled-gone", True), long, lambda one: one.recv(1000))
    _leave(server, upstream, wire.asked("up", "gone-early", True), faults.accept_and_stall(), lambda _: None)


def _leave_in_stream(server: Server, upstream: Upstream, wire: Wire, name: str) -> None:
    before = upstream.cancelled
    upstream.play(chat_stream(pause=Gate()))
    path, body = wire.asked("up", name, True)
    with httpx.stream("POST", f"{server.url}{path}", json=body) as answer:
        next(line for line in answer.iter_lines() if WORDS[0] in line)
    upstream.wait_for(lambda: upstream.cancelled == before + 1)


def _leave(
    server: Server,
    upstream: Upstream,
    asked: tuple[str, dict[str, Any]],
    script: Script,
    then: Callable[[socket.socket], object],
) -> None:
    count, before = len(upstream.requests), upstream.cancelled
    upstream.play(script)
    parts, data = urlsplit(server.url), orjson.dumps(asked[1])
    head = f"POST {asked[0]} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        upstream.wait_for(lambda: len(upstream.requests) == count + 1)
        then(connection)
    upstream.wait_for(lambda: upstream.cancelled == before + 1)
