"""The instrument is trusted: what a script says is what a socket sees."""

import gzip
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from tests import faults
from tests.scripts import DONE, USAGE, chat, chat_stream, echo, embeddings, obliging, redirect, status
from tests.upstream import Upstream, refused_url
from tests.wire import End, Gap, Gate, Script

Undo = Callable[[bytes], bytes]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def connect(upstream: Upstream) -> socket.socket:
    place = urlsplit(upstream.url)
    return socket.create_connection((place.hostname, place.port), timeout=10)


def send(client: socket.socket, body: bytes = b"{}", path: str = "/v1/chat/completions") -> None:
    client.sendall(b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body))


def receive(client: socket.socket) -> bytes:
    """Everything until the connection ends, cleanly."""
    return b"".join(iter(lambda: client.recv(65536), b""))


def ask(upstream: Upstream, script: Script, body: bytes = b"{}", path: str = "/v1/chat/completions") -> bytes:
    """The body a stock HTTP client reads."""
    upstream.play(script)
    client = http.client.HTTPConnection(urlsplit(upstream.url).netloc, timeout=10)
    try:
        client.request("POST", path, body)
        return client.getresponse().read()
    finally:
        client.close()


def test_requests_are_seen_as_they_were_sent(upstream: Upstream) -> None:
    upstream.always(chat())
    before = time.monotonic()

    ask(upstream, chat(), b'{"model": "\xc3\xa9"}', "/v1/chat/completions?a=1")

    (request,) = upstream.requests
    assert (request.method, request.path, request.json) == ("POST", "/v1/chat/completions?a=1", {"model": "é"})
    assert request.headers["content-length"] == "15"
    assert before <= request.received_at <= time.monotonic()


def test_scripts_are_played_in_turn_and_then_the_default(upstream: Upstream) -> None:
    upstream.always(chat("default"))
    upstream.play(chat("first"), chat("second"))
    client = http.client.HTTPConnection(urlsplit(upstream.url).netloc, timeout=10)

    texts = []
    for _ in range(4):
        client.request("POST", "/", b"{}")
        texts.append(json.load(client.getresponse())["choices"][0]["message"]["content"])
    client.close()

    assert texts == ["first", "second", "default", "default"]
    assert upstream.accepted == 1
    assert {request.connection for request in upstream.requests} == {1}


def test_a_request_may_arrive_in_any_pieces_or_with_the_next_one(upstream: Upstream) -> None:
    upstream.always(chat())
    request = b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}"
    with connect(upstream) as client:
        for byte in request[:-1]:
            client.sendall(bytes((byte,)))
        client.sendall(request[-1:] + request + request)
        upstream.wait_for(lambda: len(upstream.requests) == 3)

    assert [request.body for request in upstream.requests] == [b"{}"] * 3


def test_an_unscripted_request_is_answered_with_an_error_that_says_so(upstream: Upstream) -> None:
    with connect(upstream) as client:
        send(client)

        assert client.recv(65536).startswith(b"HTTP/1.1 500 ")


def test_a_stream_carries_its_words_its_usage_and_done(upstream: Upstream) -> None:
    body = ask(upstream, chat_stream(["Zo", "ë"], usage=USAGE))

    *events, end = body.removesuffix(b"\n\n").split(b"\n\n")
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert end + b"\n\n" == DONE
    assert [c["choices"][0]["delta"].get("content") for c in chunks[:-1]] == ["Zo", "ë", None]
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], USAGE)


def test_a_gate_holds_the_stream_until_it_is_opened(upstream: Upstream) -> None:
    gate = Gate()
    upstream.play(chat_stream(["one", "two"], pause=gate))
    with connect(upstream) as client:
        send(client)
        seen = b""
        while b"one" not in seen:
            seen += client.recv(65536)
        assert b"two" not in seen

        threading.Thread(target=gate.open).start()
        while b"two" not in seen:
            seen += client.recv(65536)


@pytest.mark.parametrize(
    "script", [faults.accept_and_stall(), faults.stall_between_chunks(after=1), chat_stream(pause=Gate())]
)
def test_a_client_that_leaves_is_counted_at_once(upstream: Upstream, script: Script) -> None:
    upstream.play(script)
    with connect(upstream) as client:
        send(client)
        upstream.wait_for(lambda: len(upstream.requests) == 1)
        assert upstream.open_connections == 1
        left_at = time.monotonic()

    upstream.wait_for(lambda: upstream.cancelled == 1)
    assert time.monotonic() - left_at < 1
    assert upstream.open_connections == 0


def test_a_client_that_read_to_the_end_is_not_counted(upstream: Upstream) -> None:
    ask(upstream, chat_stream())
    upstream.wait_for(lambda: upstream.open_connections == 0)

    assert upstream.cancelled == 0


def test_waiting_in_vain_says_what_was_seen(upstream: Upstream) -> None:
    ask(upstream, chat())

    with pytest.raises(TimeoutError, match=r"0 cancelled.*POST /v1/chat/completions"):
        upstream.wait_for(lambda: upstream.cancelled == 1, timeout=0.01)


@pytest.mark.parametrize("script", [faults.reset_before_headers(), faults.reset_in_body(after=5)])
def test_a_reset_is_a_reset(upstream: Upstream, script: Script) -> None:
    upstream.play(script)
    with connect(upstream) as client:
        send(client)

        with pytest.raises(ConnectionResetError):
            receive(client)


def test_a_cut_stream_ends_as_cleanly_as_a_whole_one(upstream: Upstream) -> None:
    body = ask(upstream, faults.cut_stream(after=2, words=["a", "b", "c"]))

    assert [json.loads(line[6:])["choices"][0]["delta"]["content"] for line in body.split(b"\n\n")[:-1]] == ["a", "b"]


def test_a_chunked_stream_can_be_cut_where_http_sees_it(upstream: Upstream) -> None:
    with pytest.raises(http.client.IncompleteRead):
        ask(upstream, faults.cut(chat_stream(), 2))


def test_a_wrong_length_is_wrong_by_as_much_as_it_says(upstream: Upstream) -> None:
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(upstream, faults.wrong_length(by=7))

    assert caught.value.expected == 7
    with pytest.raises(json.JSONDecodeError):
        json.loads(ask(upstream, faults.wrong_length(by=-7)))


def test_writes_end_where_the_script_splits_them(upstream: Upstream) -> None:
    whole = ask(upstream, chat_stream(["é"]))
    inside = whole.index("é".encode()) + 1
    (request,) = upstream.requests

    pieces = faults.split(chat_stream(["é"]), at=[inside])(request).pieces

    assert list(pieces) == [whole[:inside], Gap(), whole[inside:]]


@pytest.mark.parametrize(
    ("script", "undo"),
    [
        (faults.one_byte_chunks(chat_stream()), lambda body: body),
        (faults.crlf(chat_stream()), lambda body: body.replace(b"\r\n", b"\n")),
        (faults.then(chat_stream(), b"late"), lambda body: body.removesuffix(b"late")),
        (faults.gzipped(chat_stream()), gzip.decompress),
        (chat_stream(done=False), lambda body: body + DONE),
        (
            faults.noisy(chat_stream()),
            lambda body: b"".join(part + b"\n\n" for part in body.split(b"\n\n") if part.startswith(b"data: ")),
        ),
    ],
    ids=["one byte", "crlf", "late", "gzip", "no done", "noise"],
)
def test_a_wrapped_stream_carries_the_same_events(upstream: Upstream, script: Script, undo: Undo) -> None:
    assert undo(ask(upstream, script)) == ask(upstream, chat_stream())


def test_a_big_answer_is_valid_and_as_long_as_it_says(upstream: Upstream) -> None:
    answer = json.loads(ask(upstream, faults.big(1_000_001)))

    assert len(answer["choices"][0]["message"]["content"]) == 1_000_001


def test_a_reader_that_stops_holds_a_big_answer_back(upstream: Upstream) -> None:
    upstream.play(faults.big(100_000_000))
    with connect(upstream) as client:
        send(client)
        client.recv(1000)
        assert upstream.cancelled == 0

    upstream.wait_for(lambda: upstream.cancelled == 1)


def test_statuses_and_bodies_are_what_was_asked_for(upstream: Upstream) -> None:
    assert b"scripted 418" in ask(upstream, status(418))
    assert json.loads(ask(upstream, echo(), b'{"model": "x", "n": 1}'))["model"] == "x"
    assert len(json.loads(ask(upstream, embeddings(), b'{"input": ["a", "b"]}'))["data"]) == 2
    assert ask(upstream, faults.html()).startswith(b"<!doctype html>")
    assert b'"error"' in ask(upstream, faults.error_with_200())
    assert ask(upstream, redirect("http://127.0.0.1:1/")) == b""
    assert DONE in ask(upstream, obliging(), b'{"stream": true, "model": "x"}')


def test_raw_bytes_come_as_they_are(upstream: Upstream) -> None:
    upstream.play(faults.raw(b"\x00no http", End.CLOSE))
    with connect(upstream) as client:
        send(client)

        assert receive(client) == b"\x00no http"


def test_nobody_listens_on_the_refused_url() -> None:
    place = urlsplit(refused_url())

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((place.hostname, place.port), timeout=10)
