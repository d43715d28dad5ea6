"""The event decoder: whatever the network cuts where, the events are the same."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmops.protocol import sse

_TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\n"), max_size=20)
_EVENT = st.lists(_TEXT.map(str.encode), min_size=1, max_size=3)
_NOISE = st.sampled_from([b": keep-alive", b"event: chunk", b"id: 7", b"retry: 10", b"dat", b"datax: no", b""])


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """Events, and a stream that carries them, with one kind of line ending and lines that are no data."""
    ending = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    events = draw(st.lists(_EVENT, max_size=5))
    lines = [b": hello", b""] if draw(st.booleans()) else []
    for event in events:
        lines += [line for data in event for line in (draw(_NOISE.filter(len)), b"data: " + data)]
        lines += [b"", *draw(st.lists(_NOISE, max_size=2))]
    return [b"\n".join(event) for event in events], b"".join(line + ending for line in lines)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """A stream in pieces, cut at these places; some may be empty."""
    edges = [0, *sorted(min(place, len(stream)) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


def decode(pieces: list[bytes]) -> list[bytes]:
    decoder = sse.Decoder()
    return [event for piece in pieces for event in decoder.feed(piece)] + decoder.close()


@settings(deadline=None)
@given(streams(), st.lists(st.integers(0, 400), max_size=30))
def test_any_cut_of_a_stream_gives_its_events(stream: tuple[list[bytes], bytes], places: list[int]) -> None:
    events, sent = stream

    assert decode(cut(sent, places)) == events
    assert decode([sent[i : i + 1] for i in range(len(sent))]) == events


@settings(deadline=None)
@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=10))
@example(b"data: a\r\ndata: b\r\n\r\n", [8, 8, 19])
@example(b"data:a\n\n\rdata: b\r\r\n", [7, 9])
def test_any_cut_of_any_bytes_gives_the_same_events(sent: bytes, places: list[int]) -> None:
    assert decode(cut(sent, places)) == decode([sent])


def test_an_event_is_given_as_soon_as_its_blank_line_came() -> None:
    decoder = sse.Decoder()

    assert decoder.feed(b"data: a\r\n\r") == [b"a"]
    assert decoder.feed(b"\ndata: b\n\ndata") == [b"b"]
    assert decoder.feed(b": c\n\n") == [b"c"]


def test_a_character_cut_in_two_stays_whole() -> None:
    sent = 'data: {"content":"né€😀"}\n\n'.encode()

    assert all(decode([sent[:i], sent[i:]]) == ['{"content":"né€😀"}'.encode()] for i in range(len(sent)))


def test_an_event_without_its_blank_line_is_given_at_the_end() -> None:
    assert decode([b"data: a\n\ndata: [DO", b"NE]"]) == [b"a", sse.DONE]
    assert decode([b"data: a\ndata: b\n"]) == [b"a\nb"]
    assert decode([b": only a comment"]) == []


def test_encode_and_decode_are_inverse() -> None:
    assert decode([sse.encode(b'{"a":1}') + sse.encode(sse.DONE)]) == [b'{"a":1}', sse.DONE]


@pytest.mark.parametrize("lines", [b"data: ", b": ", b"data: x\ndata: "], ids=["data", "comment", "two lines"])
@pytest.mark.parametrize("size", [64 * 1024, 20 * 1024 * 1024], ids=["in pieces", "at once"])
def test_an_event_that_is_too_large_is_refused_however_it_arrives(lines: bytes, size: int) -> None:
    sent = lines + b"a" * sse.MAX_EVENT_BYTES + b"\n\n"

    with pytest.raises(ValueError, match="larger than"):
        decode([sent[i : i + size] for i in range(0, len(sent), size)])


def test_events_as_large_as_allowed_pass_one_after_the_other() -> None:
    data = b"a" * (sse.MAX_EVENT_BYTES - len(b"data: "))
    sent = sse.encode(data) * 2

    assert decode([sent[i : i + 4096] for i in range(0, len(sent), 4096)]) == [data, data]
