"""Streams over HTTP: what the caller sees, and that one who leaves is noticed upstream."""

import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import pytest

from tests import faults
from tests.scripts import USAGE, WORDS, chat, chat_stream, event, status, stream
from tests.server import Server
from tests.upstream import Upstream
from tests.wire import End, Gap, Gate, Piece, Reply, Script, head

ASKED = {"messages": [{"role": "user", "content": "hi"}], "stream": True}


def _events(answer: httpx.Response) -> list[str]:
    assert all(line == "" or line.startswith("data: ") for line in answer.text.split("\n")), answer.text
    return [line.removeprefix("data: ") for line in answer.text.split("\n") if line]


def _texts(events: list[str]) -> list[str]:
    chunks = [orjson.loads(event) for event in events if event != "[DONE]"]
    return [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk.get("choices")]


def test_events_pass_through_as_they_came_and_end_with_done(server: Server, upstream: Upstream) -> None:
    odd = b'{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}],  "x":1.50}'
    upstream.play(stream(b"data: " + odd + b"\n\n", b"data: [DONE]\n\n"))

    answer = server.ask("up", stream=True)

    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["transfer-encoding"] == "chunked"
    assert _events(answer) == [odd.decode(), "[DONE]"]


def test_usage_is_asked_for_and_kept_from_a_caller_who_did_not(server: Server, upstream: Upstream) -> None:
    upstream.play(chat_stream(usage=USAGE), chat_stream(usage=USAGE))

    silent = server.ask("up", stream=True)
    asked = server.ask("up", stream=True, stream_options={"include_usage": True})

    assert all(request.json["stream_options"] == {"include_usage": True} for request in upstream.requests[-2:])
    assert "usage" not in silent.text
    assert orjson.loads(_events(asked)[-2])["usage"] == USAGE


@pytest.mark.parametrize("with_choices", [False, True])
def test_the_databricks_chat_route_adds_usage_once_in_a_last_chunk(
    server: Server, upstream: Upstream, with_choices: bool
) -> None:
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": USAGE}
    script = stream(event(last), b"data: [DONE]\n\n") if with_choices else chat_stream(usage=USAGE)
    upstream.play(script)

    answer = server.post("/serving-endpoints/chat/completions", {**ASKED, "model": "up"})

    chunks = [orjson.loads(data) for data in _events(answer)[:-1]]
    assert [chunk["usage"] for chunk in chunks if "usage" in chunk] == [USAGE]
    assert chunks[-1]["choices"] == []


@pytest.mark.parametrize("trouble", [faults.one_byte_chunks, faults.crlf, faults.noisy])
def test_any_way_of_sending_the_same_events_gives_the_same_events(
    server: Server, upstream: Upstream, trouble: Any
) -> None:
    upstream.play(trouble(chat_stream(("Grüße", " aus", " 東京"))))

    events = _events(server.ask("up", stream=True))

    assert "".join(_texts(events)) == "Grüße aus 東京"
    assert events[-1] == "[DONE]"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (faults.cut_stream(2), "the upstream ended its answer in the middle"),
        (faults.cut(chat_stream(), 2), "up broke off in the middle of its answer"),
        (faults.cut(chat_stream(), 2, End.RESET), "up broke off in the middle of its answer"),
        (faults.then(faults.cut(chat_stream(), 2, End.KEEP), b"data: {oops\n\n"), "not JSON"),
        (faults.then(faults.cut(chat_stream(), 2, End.KEEP), event({"error": {"message": "full"}})), "full"),
    ],
)
def test_a_stream_that_breaks_ends_in_an_error_and_no_done(
    server: Server, upstream: Upstream, fault: Script, message: str
) -> None:
    upstream.play(fault)

    events = _events(server.ask("up", stream=True))

    assert _texts(events[:-1]) == list(WORDS[:2])
    assert message in orjson.loads(events[-1])["error"]["message"]


def test_a_stream_that_stalls_ends_in_an_error(server: Server, upstream: Upstream) -> None:
    upstream.play(faults.stall_between_chunks(2))

    events = _events(server.ask("quick", stream=True))

    assert orjson.loads(events[-1])["error"]["message"] == "quick did not answer within 0.4 s"
    upstream.wait_for(lambda: upstream.open_connections == 0 or upstream.cancelled > 0)


@pytest.mark.parametrize("words", [(), WORDS[:1]])
def test_signs_of_life_do_not_stand_for_an_answer(server: Server, upstream: Upstream, words: tuple[str, ...]) -> None:
    """Comments keep a stream open for as long as its first event may take, and no longer."""
    said = [event({"choices": [{"index": 0, "delta": {"content": word}}]}) for word in words]
    before = upstream.cancelled
    pings: list[Piece] = [b": ping\n\n", Gap(0.02)]
    upstream.play(stream(*said, *pings * 250))

    answer = server.ask("quick", stream=True)

    assert "quick sent no event within 0.4 s" in answer.text
    assert answer.status_code == (200 if words else 504)
    upstream.wait_for(lambda: upstream.cancelled == before + 1)


def test_an_error_that_trickles_in_is_not_waited_for(server: Server, upstream: Upstream) -> None:
    trickle = Reply(head(500, {"content-length": "250"}), (b"x", Gap(0.02)) * 250)
    before = upstream.cancelled
    upstream.play(lambda request: trickle)

    answer = server.ask("quick", stream=True)

    assert (answer.status_code, "quick answered 500: x" in answer.text) == (500, True)
    upstream.wait_for(lambda: upstream.cancelled == before + 1)


def test_a_stream_that_finished_one_of_two_choices_is_cut(server: Server, upstream: Upstream) -> None:
    begun = [event({"choices": [{"index": index, "delta": {"content": "a"}}]}) for index in (0, 1)]
    ended = [event({"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]}) for index in (1, 0)]
    upstream.play(stream(*begun, ended[0]), stream(*begun, *ended))

    cut, whole = (server.ask("up", stream=True, n=2).text for _ in range(2))

    assert "the upstream ended its answer in the middle" in cut
    assert "[DONE]" not in cut
    assert whole.endswith("data: [DONE]\n\n")


def test_a_stream_without_done_that_finished_is_whole(server: Server, upstream: Upstream) -> None:
    upstream.play(chat_stream(done=False))

    assert _events(server.ask("up", stream=True))[-1] == "[DONE]"


def test_what_comes_after_done_is_left_out(server: Server, upstream: Upstream) -> None:
    upstream.play(faults.then(chat_stream(), event({"choices": [], "late": True})))

    answer = server.ask("up", stream=True)

    assert "late" not in answer.text
    assert _events(answer)[-1] == "[DONE]"


@pytest.mark.parametrize("fault", [status(500), stream(event({"error": {"message": "no"}})), stream()])
def test_fallback_works_until_the_first_chunk(server: Server, upstream: Upstream, fault: Script) -> None:
    upstream.play(fault, chat_stream())

    answer = server.ask("both", stream=True)

    assert answer.headers["served-model-name"] == "second"
    assert "".join(_texts(_events(answer))) == "".join(WORDS)


def test_fallback_stops_after_the_first_chunk(server: Server, upstream: Upstream) -> None:
    before = len(upstream.requests)
    upstream.play(faults.cut_stream(1))

    answer = server.ask("both", stream=True)

    assert answer.headers["served-model-name"] == "first"
    assert "error" in _events(answer)[-1]
    assert len(upstream.requests) == before + 1


def test_an_answer_that_is_no_stream_is_an_error_with_a_status(server: Server, upstream: Upstream) -> None:
    upstream.play(chat())

    answer = server.ask("up", stream=True)

    assert answer.status_code == 502
    assert answer.json()["message"] == "up answered a streamed request with application/json, not events"


def test_a_caller_who_leaves_in_a_stream_cancels_the_upstream_within_200_ms(server: Server, upstream: Upstream) -> None:
    gate, before = Gate(), upstream.cancelled
    upstream.play(chat_stream(pause=gate))

    with httpx.stream("POST", f"{server.url}/serving-endpoints/up/invocations", json=ASKED) as answer:
        next(_lines(answer))

    upstream.wait_for(lambda: upstream.cancelled == before + 1, timeout=0.2)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_caller_who_leaves_before_the_first_byte_cancels_the_upstream(
    server: Server, upstream: Upstream, streamed: bool
) -> None:
    asked, before = len(upstream.requests), upstream.cancelled
    upstream.play(faults.accept_and_stall())

    with _sent(server, {**ASKED, "stream": streamed}):
        upstream.wait_for(lambda: len(upstream.requests) == asked + 1)

    upstream.wait_for(lambda: upstream.cancelled == before + 1, timeout=0.5)


def test_a_reader_who_stalls_and_leaves_cancels_the_upstream(server: Server, upstream: Upstream) -> None:
    before = upstream.cancelled
    upstream.play(chat_stream(("x" * 10_000,) * 5_000))

    with _sent(server, ASKED) as connection:
        connection.recv(1000)

    upstream.wait_for(lambda: upstream.cancelled == before + 1, timeout=2)


def _lines(answer: httpx.Response) -> Iterator[str]:
    return (line for line in answer.iter_lines() if line)


def _sent(server: Server, body: dict[str, Any]) -> socket.socket:
    """A connection on which a request was sent, and nothing read."""
    parts, data = urlsplit(server.url), orjson.dumps(body)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=10)
    head = (
        f"POST /serving-endpoints/up/invocations HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    )
    connection.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
    return connection
