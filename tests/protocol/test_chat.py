"""A streamed chat reply, joined, is what a plain call would have answered."""

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.protocol import chat

_WORDS = st.text(max_size=30)
_TOOL_CALLS = st.lists(st.tuples(st.text(min_size=1, max_size=10), _WORDS), min_size=1, max_size=3)
_MESSAGE = st.fixed_dictionaries(
    {"content": st.none() | _WORDS},
    optional={"reasoning_content": _WORDS, "refusal": _WORDS, "tool_calls": _TOOL_CALLS},
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_HEAD = {"id": "chatcmpl-1", "created": 1, "model": "m"}


def plain(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """What a plain call answers: one choice for each message."""
    choices = []
    for index, message in enumerate(messages):
        calls = [
            {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, (name, arguments) in enumerate(message.get("tool_calls", []))
        ]
        whole = {"role": "assistant"} | message | ({"tool_calls": calls} if calls else {})
        choices.append({"index": index, "message": whole, "finish_reason": "tool_calls" if calls else "stop"})
    return _HEAD | {"object": "chat.completion", "choices": choices}


def deltas(message: dict[str, Any], width: int) -> Iterator[dict[str, Any]]:
    """A message as OpenAI streams it: strings in pieces, parallel tool calls by turns."""
    yield {"role": "assistant", "content": None if message["content"] is None else ""}
    for key in ("reasoning_content", "content", "refusal"):
        if message.get(key) is not None:
            yield from ({key: piece} for piece in pieces(message[key], width))
    for index, call in enumerate(message.get("tool_calls", [])):
        yield {"tool_calls": [call | {"index": index, "function": call["function"] | {"arguments": ""}}]}
    arguments = [pieces(call["function"]["arguments"], width) for call in message.get("tool_calls", [])]
    for turn in zip_longest(*arguments):
        calls = [{"index": i, "function": {"arguments": piece}} for i, piece in enumerate(turn) if piece is not None]
        yield {"tool_calls": calls}


def pieces(text: str, width: int) -> list[str]:
    return [text[i : i + width] for i in range(0, len(text), width)] or [""]


def chunk(index: int, delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason, **more}
    return _HEAD | {"object": "chat.completion.chunk", "choices": [choice], "usage": None}


def streamed(answer: dict[str, Any], width: int) -> list[dict[str, Any]]:
    """The chunks of an answer, its choices by turns."""
    turns = zip_longest(*(list(deltas(choice["message"], width)) for choice in answer["choices"]))
    chunks = [chunk(i, delta) for turn in turns for i, delta in enumerate(turn) if delta is not None]
    return chunks + [chunk(choice["index"], {}, choice["finish_reason"]) for choice in answer["choices"]]


@settings(deadline=None)
@given(st.lists(_MESSAGE, min_size=1, max_size=3), st.integers(1, 40))
def test_a_folded_stream_is_the_plain_answer(messages: list[dict[str, Any]], width: int) -> None:
    """n choices, reasoning, refusals and parallel tool calls with their arguments byte for byte."""
    answer = plain(messages)

    assert chat.fold(streamed(answer, width)) == answer


@settings(deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from(["id", "choices", "usage", "x"]), _JSON), min_size=1, max_size=4), _JSON
)
def test_fold_survives_chunks_that_make_no_sense(chunks: list[dict[str, Any]], odd: Any) -> None:
    odd_deltas = [chunk(0, {"content": odd, "tool_calls": odd, "role": odd}), chunk(0, {"tool_calls": [odd, {}]})]

    assert chat.fold(chunks + odd_deltas)["object"] == "chat.completion"


def test_fold_changes_no_chunk() -> None:
    chunks = streamed(plain([{"content": "a b", "tool_calls": [("f", "{}")]}]), 1)
    chunks.append(chunk(0, {}, logprobs={"content": [{"token": "a"}]}))
    chunks.append(chunk(0, {}, logprobs={"content": [{"token": "b"}]}))
    before = repr(chunks)

    chat.fold(chunks)

    assert repr(chunks) == before


@pytest.mark.parametrize("index", [{"index": 0}, {}], ids=["all 0", "none"])
@pytest.mark.parametrize("repeated", [True, False], ids=["id in every piece", "id in the first"])
def test_parallel_calls_that_share_an_index_are_told_apart_by_their_ids(index: dict[str, int], repeated: bool) -> None:
    """As some servers send them."""
    pieces: list[dict[str, Any]] = []
    for name in ("first", "second"):
        pieces.append({**index, "id": name, "type": "function", "function": {"name": name, "arguments": '{"a"'}})
        pieces.append({**index, "function": {"arguments": ":1}"}} | ({"id": name} if repeated else {}))

    calls = chat.fold([chunk(0, {"tool_calls": [piece]}) for piece in pieces])["choices"][0]["message"]["tool_calls"]

    assert calls == [
        {"id": name, "type": "function", "function": {"name": name, "arguments": '{"a":1}'}}
        for name in ("first", "second")
    ]


def test_a_tool_name_that_comes_with_text_is_kept() -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "find", "arguments": "{}"}}

    message = chat.fold([chunk(0, {"content": "Let me see.", "tool_calls": [call]})])["choices"][0]["message"]

    assert message["content"] == "Let me see."
    assert message["tool_calls"][0]["function"] == {"name": "find", "arguments": "{}"}


def test_log_probabilities_are_joined_in_order() -> None:
    tokens: list[dict[str, Any]] = [{"token": word, "logprob": -0.5, "top_logprobs": []} for word in ("one", " two")]
    chunks = [chunk(0, {"content": token["token"]}, logprobs={"content": [token], "refusal": None}) for token in tokens]

    choice = chat.fold([*chunks, chunk(0, {}, "stop", logprobs=None)])["choices"][0]

    assert choice["logprobs"] == {"content": tokens, "refusal": None}
    assert choice["finish_reason"] == "stop"


def test_usage_is_there_only_if_a_chunk_carried_it() -> None:
    chunks = [chunk(0, {"role": "assistant", "content": "a"}, "stop")]
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}

    assert "usage" not in chat.fold(chunks)
    assert chat.fold([*chunks, _HEAD | {"choices": [], "usage": usage}])["usage"] == usage
    assert chat.fold([chunks[0] | {"usage": usage}])["usage"] == usage


def test_a_stream_cut_short_has_no_finish_reason() -> None:
    assert chat.fold([chunk(0, {"content": "half"})])["choices"][0]["finish_reason"] is None


def test_nothing_cannot_be_folded() -> None:
    with pytest.raises(ValueError, match="at least one chunk"):
        chat.fold([])


def test_texts_are_found_in_strings_and_in_parts() -> None:
    parts = [
        {"type": "text", "text": "two"},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "text", "text": "3"},
    ]
    messages = [{"role": "system", "content": "one"}, {"role": "user", "content": parts}, {"role": "assistant"}, 7]

    assert chat.prompt_text({"messages": messages}) == "one\ntwo\n3"
    assert chat.last_user_text({"messages": messages}) == "two\n3"
    assert chat.prompt_text({"messages": "no list"}) == ""


def test_the_text_of_a_chunk_is_that_of_the_first_choice() -> None:
    assert chat.delta_text(chunk(0, {"content": "a"})) == "a"
    assert chat.delta_text(chunk(1, {"content": "a"})) == ""
    assert chat.delta_text(chunk(0, {"content": [{"type": "text", "text": "a"}]})) == "a"
    assert chat.delta_text(_HEAD | {"choices": []}) == ""


def test_the_text_of_an_answer_is_that_of_the_first_choice() -> None:
    assert chat.answer_text(plain([{"content": "a"}, {"content": "b"}])) == "a"
    assert chat.answer_text(plain([{"content": None, "tool_calls": [("f", "")]}])) == ""
    assert chat.answer_text({"error": {"message": "no"}}) == ""
