"""What every translated wire holds: a stream says what the plain answer says, and litellm reads a request as we do."""

import contextlib
import os
import subprocess
import sys
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import BadRequest
from llmops.protocol import chat
from llmops.protocol.blocks import Block, Cutter
from llmops.protocol.messages import Messages
from llmops.protocol.responses import Responses
from llmops.protocol.translation import Translation
from llmops.protocol.usage import Usage
from llmops.protocol.wires import WIRES
from tests.protocol.transcripts import ID, TOOLS, heard, said

BODIES: dict[str, Translation] = {
    "messages": Messages({"model": "e", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}),
    "responses": Responses({"model": "e", "input": "hi"}),
}
of_wires = pytest.mark.parametrize("wire", BODIES)
USAGE = Usage(10, 5, 4, 2)

words = st.text(min_size=1, max_size=8)
arguments = st.dictionaries(words, st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | words).map(
    lambda value: orjson.dumps(value).decode()
)


@st.composite
def answers(draw: st.DrawFn) -> list[dict[str, Any]]:
    """The chunks of one answer: reasoning, text, then calls, whose pieces may come mixed."""
    chunks = [said({"reasoning_content": piece}) for piece in draw(st.lists(words, max_size=3))]
    chunks += [said({"content": piece}) for piece in draw(st.lists(words, max_size=3))]
    begun: list[dict[str, Any]] = []
    queues: list[list[dict[str, Any]]] = []
    for index, text in enumerate(draw(st.lists(arguments, max_size=3))):
        at = draw(st.integers(0, len(text)))
        head = {"index": index, "id": f"c{index}", "function": {"name": f"f{index}", "arguments": ""}}
        begun.append(head)
        queues.append([{"index": index, "function": {"arguments": part}} for part in (text[:at], text[at:])])
    mixed = draw(st.booleans())
    if begun and mixed:
        chunks.append(said({"tool_calls": begun}))
        while any(queues):
            queue = draw(st.sampled_from([one for one in queues if one]))
            chunks.append(said({"tool_calls": [queue.pop(0)]}))
    else:
        for head, queue in zip(begun, queues, strict=True):
            chunks += [said({"tool_calls": [piece]}) for piece in (head, *queue)]
    return [*chunks, said({}, draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"])))]


@of_wires
@given(chunks=answers())
def test_a_stream_folds_to_the_plain_answer(wire: str, chunks: list[dict[str, Any]]) -> None:
    streamed, plain = BODIES[wire].telling(ID), BODIES[wire].telling(ID)

    heard(b"".join(streamed.take(chunk) for chunk in chunks) + streamed.end(USAGE))
    plain.whole(chat.fold(chunks))

    assert orjson.dumps(streamed.document(USAGE)) == orjson.dumps(plain.document(USAGE))


@given(chunks=answers())
def test_the_events_of_messages_build_the_document(chunks: list[dict[str, Any]]) -> None:
    """Read as Anthropic's client does: blocks one after another, each closed before the next begins."""
    telling = BODIES["messages"].telling(ID)
    events = heard(b"".join(telling.take(chunk) for chunk in chunks) + telling.end(USAGE))
    content: list[dict[str, Any]] = []
    opened = False
    for name, event in events:
        if name == "content_block_start":
            assert (opened, event["index"]) == (False, len(content))
            opened = True
            content.append(event["content_block"] | {"json": ""})
        elif name == "content_block_delta":
            assert (opened, event["index"]) == (True, len(content) - 1)
            delta = event["delta"]
            key = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "json"}[delta["type"]]
            content[-1][key] += delta["partial_json" if key == "json" else key]
        elif name == "content_block_stop":
            opened = False
            if text := content[-1].pop("json"):
                content[-1]["input"] = orjson.loads(text)

    assert not opened
    assert content == orjson.loads(orjson.dumps(telling.document(USAGE)))["content"]


@given(chunks=answers())
def test_the_items_of_responses_are_the_document(chunks: list[dict[str, Any]]) -> None:
    telling = BODIES["responses"].telling(ID)
    events = heard(b"".join(telling.take(chunk) for chunk in chunks) + telling.end(USAGE))

    done = [event["item"] for name, event in events if name == "response.output_item.done"]
    texts: dict[int, str] = {}
    for name, event in events:
        if name.endswith(".delta"):
            texts[event["output_index"]] = texts.get(event["output_index"], "") + event["delta"]

    assert done == events[-1][1]["response"]["output"] == telling.document(USAGE)["output"]
    for index, item in enumerate(done):
        whole = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        assert whole == texts.get(index, "")


def _call(index: Any, name: str | None, text: str, **more: Any) -> dict[str, Any]:
    function = {"arguments": text} | ({"name": name} if name else {})
    return said({"tool_calls": [{"index": index, "function": function, **more}]})


def _blocks(*chunks: dict[str, Any]) -> list[Block]:
    cutter = Cutter(ID)
    for chunk in chunks:
        for _ in cutter.take(chunk):
            pass
    for _ in cutter.end():
        pass
    return cutter.blocks


def _cut(*chunks: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(block.kind.value, block.name, block.text) for block in _blocks(*chunks)]


def _ids(*chunks: dict[str, Any]) -> list[str]:
    return [block.call_id for block in _blocks(*chunks)]


def test_calls_that_share_an_index_are_told_apart_by_their_ids() -> None:
    chunks = [_call(0, "f", '{"a":1}', id="x"), _call(0, "g", "{}", id="y")]

    assert _cut(*chunks) == [("call", "f", '{"a":1}'), ("call", "g", "{}")]


def test_a_call_without_an_id_gets_one() -> None:
    cutter = Cutter(ID)
    cutter.whole({"choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}] * 2}}]})

    assert [block.call_id for block in cutter.blocks] == [f"call_{ID}_0", f"call_{ID}_1"]
    assert cutter.blocks[0].text == '{"x":1}'


def test_an_id_that_comes_late_is_of_the_call_that_had_none() -> None:
    """As `chat.fold` has it; one that was told before it came keeps the id it was told with."""
    late = [
        _call(0, "f", '{"a"'),
        _call(0, None, ":", id="x"),
        _call(0, None, "1}", id="x"),
        _call(0, "g", "{}", id="y"),
    ]
    nameless = [said({"tool_calls": [{"index": 0}]}), _call(0, "f", "{}", id="x")]

    assert _cut(*late) == [("call", "f", '{"a":1}'), ("call", "g", "{}")]
    assert _cut(*nameless) == [("call", "f", "{}")]
    assert _ids(*late) == [f"call_{ID}_0", "y"]
    assert _ids(*nameless) == ["x"]


def test_text_after_an_unfinished_call_waits_for_it() -> None:
    chunks = [_call(0, "f", '{"a"', id="x"), said({"content": "so"}), _call(0, None, ":1}"), said({"content": " on"})]

    assert _cut(*chunks) == [("call", "f", '{"a":1}'), ("text", "", "so on")]


def test_odd_chunks_say_nothing_and_break_nothing() -> None:
    odd: list[dict[str, Any]] = [
        {"choices": [{"delta": None}, {"index": 1, "delta": {"content": "other"}}]},
        said({"content": 5, "reasoning_content": [], "tool_calls": "x", "refusal": {}}),
        said({"tool_calls": [None, {"function": None}], "thinking_blocks": [None, {}]}, logprobs=[]),
        said({"content": [{"type": "text", "text": "a"}, {"type": "image"}, 7]}),
    ]

    assert _cut(*odd) == [("call", "", ""), ("text", "", "a")]


MESSAGES_BODY: dict[str, Any] = {
    "model": "e",
    "max_tokens": 9,
    "system": "be brief",
    "temperature": 0.5,
    "stop_sequences": ["END"],
    "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {}}}],
    "tool_choice": {"type": "any"},
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {"n": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "one"}]},
    ],
}
RESPONSES_BODY: dict[str, Any] = {
    "model": "e",
    "instructions": "be brief",
    "max_output_tokens": 9,
    "temperature": 0.5,
    "tools": [{"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}],
    "tool_choice": "required",
    "text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True}},
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "function_call", "call_id": "t1", "name": "f", "arguments": '{"n":1}'},
        {"type": "function_call_output", "call_id": "t1", "output": "one"},
    ],
}
ANSWER: dict[str, Any] = {
    "id": "x",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "so", "tool_calls": TOOLS},
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
}


@pytest.fixture(scope="module")
def oracle() -> dict[str, Any]:
    """What litellm makes of the same bodies."""
    given = orjson.dumps({"messages": MESSAGES_BODY, "responses": RESPONSES_BODY, "answer": ANSWER})
    done = subprocess.run(
        [sys.executable, "-m", "tests.protocol.litellm_oracle"],
        input=given,
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    found: dict[str, Any] = orjson.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("wire", "ours"), [("messages", Messages(MESSAGES_BODY).chat), ("responses", Responses(RESPONSES_BODY).chat)]
)
def test_litellm_reads_a_request_as_we_do(oracle: dict[str, Any], wire: str, ours: dict[str, Any]) -> None:
    theirs = oracle[wire]

    assert _plain(ours["messages"]) == _plain(theirs["messages"])
    for name in ("max_tokens", "temperature", "tool_choice"):
        assert ours[name] == theirs[name], name
    assert [_function(tool) for tool in ours["tools"]] == [_function(tool) for tool in theirs["tools"]]
    if wire == "messages":
        assert ours["stop"] == theirs["stop"]
    else:
        assert ours["response_format"]["json_schema"]["schema"] == theirs["response_format"]["json_schema"]["schema"]


def test_litellm_tells_an_answer_as_we_do(oracle: dict[str, Any]) -> None:
    telling = Messages(MESSAGES_BODY).telling(ID)
    telling.whole(ANSWER)

    ours, theirs = orjson.loads(orjson.dumps(telling.document(Usage(10, 5)))), oracle["answer"]

    kept = ("type", "text", "id", "name", "input")
    assert [{key: block[key] for key in kept if key in block} for block in theirs["content"]] == ours["content"]
    assert ours["stop_reason"] == theirs["stop_reason"]
    assert (ours["usage"]["input_tokens"], ours["usage"]["output_tokens"]) == (
        theirs["usage"]["input_tokens"],
        theirs["usage"]["output_tokens"],
    )


def _function(tool: dict[str, Any]) -> tuple[Any, ...]:
    function = tool["function"]
    parameters = {key: value for key, value in function["parameters"].items() if key in ("type", "required")}
    return tool["type"], function["name"], function["description"], parameters


def _plain(messages: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What was said, whether as one text or as parts of text."""
    told = []
    for message in messages:
        calls = [
            (call["id"], call["function"]["name"], orjson.loads(call["function"]["arguments"]))
            for call in message.get("tool_calls") or []
        ]
        told.append((message["role"], chat.text(message), message.get("tool_call_id"), calls))
    return told


_WORDS = """
    user assistant text tool_use tool_result image document base64 url message content function_call function reasoning
    function_call_output input_text input_image input_file input_audio enabled json_schema thinking redacted_thinking
    allowed_tools tool
"""
_NAMES = """
    delta tool_calls function index refusal reasoning_content thinking_blocks bytes type role content text source data
    media_type id name input call_id arguments output tool_use_id thinking signature format schema budget_tokens tools
    parameters input_schema image_url file_data input_audio citations summary mode is_error title
"""
_FIELDS = """
    messages system tools tool_choice thinking metadata output_config stop_sequences stop input instructions text
    reasoning include max_output_tokens model top_logprobs
"""
_LEAVES = st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(_WORDS.split())
_ANYTHING = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES.split()), inner, max_size=5),
)


@of_wires
@given(body=st.dictionaries(st.sampled_from(_FIELDS.split()), _ANYTHING, max_size=6))
def test_any_body_is_translated_or_refused(wire: str, body: dict[str, Any]) -> None:
    telling = None
    with contextlib.suppress(BadRequest):
        telling = WIRES[wire].translate(body).telling(ID)

    assert telling is None or heard(telling.end(USAGE))


@of_wires
@given(
    delta=_ANYTHING, choice=st.dictionaries(st.sampled_from(["finish_reason", "stop_reason", "logprobs"]), _ANYTHING)
)
def test_any_chunk_can_be_told(wire: str, delta: Any, choice: dict[str, Any]) -> None:
    telling = BODIES[wire].telling(ID)

    told = telling.take({"choices": [{"delta": delta, **choice}]}) + telling.end(USAGE)

    assert heard(told)
    assert orjson.dumps(telling.document(USAGE))
