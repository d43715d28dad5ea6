"""Anthropic's Messages to chat and back, as pure functions; the transcripts are made by hand from the public API."""

from typing import Any

import orjson
import pytest

from llmops.errors import BadRequest, UpstreamMalformed
from llmops.protocol import messages
from llmops.protocol.messages import Messages
from llmops.protocol.usage import Usage
from tests.protocol.transcripts import ID, TOOL_CHUNKS, TOOLS, heard, said

ASKED: dict[str, Any] = {"model": "e", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
TOOL: dict[str, Any] = {"name": "f", "input_schema": {}}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}


def _chat(**fields: Any) -> dict[str, Any]:
    return dict(Messages({**ASKED, **fields}).chat)


def _answer(response: Any, usage: Usage | None = None, **fields: Any) -> dict[str, Any]:
    telling = Messages({**ASKED, **fields}).telling(ID)
    telling.whole(response)
    found: dict[str, Any] = orjson.loads(orjson.dumps(telling.document(usage)))
    return found


def test_what_chat_has_under_the_same_name_is_passed_on() -> None:
    given = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "stream": True, "seed": 1}

    assert _chat(**given, tools=None) == {**ASKED, **given}


def test_system_stop_user_and_tier_get_their_names_in_chat() -> None:
    told = _chat(
        system=[{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
        stop_sequences=["END"],
        metadata={"user_id": "u-1"},
        service_tier="standard_only",
    )

    assert told["messages"][0] == {"role": "system", "content": "a"}
    assert (told["stop"], told["user"], told["service_tier"]) == (["END"], "u-1", "default")


def test_a_name_too_long_for_a_vendor_is_told_as_its_digest() -> None:
    """Anthropic's own agent sends 150 characters; the record keeps them."""
    asked = Messages({**ASKED, "metadata": {"user_id": "u" * 65}})

    assert (len(asked.chat["user"]), asked.user) == (64, "u" * 65)
    assert asked.chat["user"] == Messages({**ASKED, "metadata": {"user_id": "u" * 65}}).chat["user"]
    assert _chat(metadata={"user_id": "u" * 64})["user"] == "u" * 64
    assert set(_chat(metadata={"user_id": "\ud800" * 65})["user"]) <= set("0123456789abcdef")


def test_several_system_texts_stay_apart() -> None:
    told = _chat(system=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])

    assert told["messages"][0]["content"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


def test_images_become_urls() -> None:
    url = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}

    told = _chat(messages=[{"role": "user", "content": [{"type": "text", "text": "see"}, PICTURE, url]}])

    assert told["messages"][0]["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
    ]


def test_tool_calls_and_their_results_keep_their_order() -> None:
    """Chat wants the results right after the calls, and text only in them; what a tool showed follows."""
    calls = [{"type": "tool_use", "id": f"t{n}", "name": "f", "input": {"n": n}} for n in (1, 2)]
    results = [
        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "one"}, PICTURE]},
        {"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": True},
        {"type": "text", "text": "go on"},
    ]
    talk = [
        *ASKED["messages"],
        {"role": "assistant", "content": [{"type": "text", "text": "so"}, *calls]},
        {"role": "user", "content": results},
    ]

    told = _chat(messages=talk)["messages"]

    assert [message["role"] for message in told] == ["user", "assistant", "tool", "tool", "user"]
    assert told[1]["content"] == "so"
    assert [call["function"]["arguments"] for call in told[1]["tool_calls"]] == ['{"n":1}', '{"n":2}']
    assert told[2] == {"role": "tool", "tool_call_id": "t1", "content": "one"}
    assert told[3] == {"role": "tool", "tool_call_id": "t2", "content": "Error: no"}
    assert [part["type"] for part in told[4]["content"]] == ["text", "image_url", "text"]


def test_tools_and_their_choice() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"name": "weather", "description": "d", "input_schema": schema, "cache_control": {"type": "ephemeral"}}
    wanted: dict[str, Any] = {"auto": "auto", "any": "required", "none": "none"}

    told = _chat(tools=[tool], tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True})

    named = {"name": "weather", "description": "d", "parameters": schema}
    assert told["tools"] == [{"type": "function", "function": named}]
    assert told["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert told["parallel_tool_calls"] is False
    assert {kind: _chat(tools=[tool], tool_choice={"type": kind})["tool_choice"] for kind in wanted} == wanted


@pytest.mark.parametrize("kind", ["auto", "none"])
def test_what_is_said_of_tools_that_are_not_there_is_left_out(kind: str) -> None:
    """OpenAI refuses a request with either and without tools."""
    assert _chat(tool_choice={"type": kind, "disable_parallel_tool_use": True}, parallel_tool_calls=False) == ASKED


def test_structured_output_effort_and_thinking() -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}

    told = _chat(output_config={"format": form, "effort": "max"})

    assert told["response_format"]["json_schema"] == {"name": "answer", "schema": {"type": "object"}, "strict": True}
    assert told["reasoning_effort"] == "xhigh"
    assert _chat(output_format=form)["response_format"] == told["response_format"]
    efforts = [_chat(thinking={"type": "enabled", "budget_tokens": n})["reasoning_effort"] for n in (1024, 8000, 32000)]
    assert efforts == ["low", "medium", "high"]
    assert "reasoning_effort" not in _chat(thinking={"type": "disabled"})


def test_reasoning_goes_back_with_the_signature_of_its_vendor() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    sealed = {"type": "redacted_thinking", "data": "x"}
    talk = [*ASKED["messages"], {"role": "assistant", "content": [thought, sealed, {"type": "text", "text": "a"}]}]

    told = _chat(messages=talk)["messages"][1]

    expected = {"role": "assistant", "content": "a", "reasoning_content": "hm", "thinking_blocks": [thought, sealed]}
    assert told == expected


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"mcp_servers": [{"url": "x"}]}, "'mcp_servers' is not served"),
        ({"container": "c"}, "'container' is not served"),
        ({"future": 1}, "'future' is not known"),
        ({"n": 2}, "'n' is not known"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "f", "input_schema": {}, "defer_loading": True}]}, "'tools[0].defer_loading'"),
        ({"tools": [TOOL], "tool_choice": {"type": "odd"}}, "'tool_choice.type' is 'odd'"),
        ({"tools": [TOOL], "tool_choice": {"type": ["a"]}}, """'tool_choice.type' is "['a']\""""),
        ({"tool_choice": {"type": "any"}}, "'tool_choice' asks for a tool, and there are no 'tools'"),
        ({"tools": [], "tool_choice": {"type": "tool", "name": "f"}}, "'tool_choice' asks for a tool"),
        ({"thinking": {"type": "enabled"}}, "'thinking'"),
        ({"stop_sequences": "x"}, "'stop_sequences'"),
        ({"messages": []}, "'messages'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "'messages[0].role'"),
        ({"messages": [{"role": "user"}]}, "'messages[0].content'"),
        ({"messages": [{"role": "user", "content": [{"type": "search_result"}]}]}, "'messages[0].content[0].type'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]},
            "'messages[0].content[0].source.type'",
        ),
        ({"output_config": {"format": {"type": "grammar"}}}, "'output_config.format.type'"),
    ],
)
def test_what_chat_cannot_say_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(BadRequest) as refused:
        _chat(**fields)

    assert named in refused.value.message


def test_what_asks_for_nothing_is_taken() -> None:
    assert _chat(mcp_servers=[], container=None, context_management={}, system="", future=None) == ASKED


@pytest.mark.parametrize(
    ("reason", "message", "extra", "stopped"),
    [
        ("stop", {"content": "a"}, {}, ("end_turn", None)),
        ("length", {"content": "a"}, {}, ("max_tokens", None)),
        ("content_filter", {"content": "a"}, {}, ("refusal", None)),
        ("stop", {"content": None, "refusal": "no"}, {}, ("refusal", None)),
        ("stop", {"content": "a"}, {"stop_reason": "END"}, ("stop_sequence", "END")),
        ("stop", {"content": None, "tool_calls": TOOLS}, {}, ("tool_use", None)),
        ("length", {"content": None, "tool_calls": TOOLS}, {}, ("max_tokens", None)),
    ],
)
def test_stop_reasons(reason: str, message: Any, extra: Any, stopped: tuple[str, str | None]) -> None:
    choice = {"index": 0, "message": message, "finish_reason": reason, **extra}

    told = _answer({"choices": [choice]}, stop_sequences=["END"])

    assert (told["stop_reason"], told["stop_sequence"]) == stopped


def test_an_answer_has_its_blocks_and_tokens() -> None:
    message = {"role": "assistant", "reasoning_content": "hm", "content": "so", "tool_calls": TOOLS}
    response = {"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}

    told = _answer(response, Usage(10, 5, cached_tokens=4))

    assert told["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "so"},
        {"type": "tool_use", "id": "c1", "name": "f", "input": {"x": 1.0}},
        {"type": "tool_use", "id": "c2", "name": "g", "input": {}},
    ]
    assert (told["id"], told["model"], told["role"], told["type"]) == (f"msg_{ID}", "m", "assistant", "message")
    assert told["usage"] == {
        "input_tokens": 6,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 5,
    }


def test_arguments_are_given_byte_for_byte() -> None:
    """Numbers beyond a float and the order of keys survive; what is no object is said to be none."""
    exact = '{"b": 12345678901234567890123, "a":1.0,\n "é":"\\u00e9"}'
    call = {"id": "c", "function": {"name": "f", "arguments": exact}}
    cut = {"id": "d", "function": {"name": "f", "arguments": '{"a": "unfin'}}
    telling = Messages(ASKED).telling(ID)

    telling.whole({"choices": [{"message": {"tool_calls": [call, cut]}, "finish_reason": "length"}]})

    body = orjson.dumps(telling.document(None))
    assert f'"input":{exact}'.encode() in body
    assert orjson.loads(body)["content"][1]["input"] == {"INVALID_JSON": '{"a": "unfin'}


def test_a_stream_of_parallel_calls_is_told_block_by_block() -> None:
    telling = Messages(ASKED).telling(ID)

    events = heard(b"".join(telling.take(chunk) for chunk in TOOL_CHUNKS) + telling.end(Usage(10, 5)))

    assert [(name, event.get("index")) for name, event in events] == [
        ("message_start", None),
        *((f"content_block_{part}", 0) for part in ("start", "delta", "stop")),
        *((f"content_block_{part}", 1) for part in ("start", "delta", "stop")),
        *((f"content_block_{part}", 2) for part in ("start", "delta", "delta", "stop")),
        *((f"content_block_{part}", 3) for part in ("start", "delta", "stop")),
        ("message_delta", None),
        ("message_stop", None),
    ]
    assert all(event["type"] == name for name, event in events)
    pieces = [event["delta"]["partial_json"] for _, event in events if event.get("delta", {}).get("partial_json")]
    assert pieces == ['{"x": 1.0', "}", "{}"]
    assert events[-2][1]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert events[-2][1]["usage"]["output_tokens"] == 5


def test_a_signature_is_told_before_its_block_ends() -> None:
    telling = Messages(ASKED).telling(ID)
    thought = [{"thinking_blocks": [{"type": "thinking", "thinking": "hm"}], "reasoning_content": "hm"}]
    signed = [{"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "sig"}]}, {"content": "a"}]

    events = heard(b"".join(telling.take(said(delta)) for delta in thought + signed))

    deltas = [event["delta"] for name, event in events if name == "content_block_delta"]
    assert [delta["type"] for delta in deltas] == ["thinking_delta", "signature_delta", "text_delta"]
    assert telling.document(None)["content"][0] == {"type": "thinking", "thinking": "hm", "signature": "sig"}


def test_an_answer_that_breaks_ends_in_anthropics_error() -> None:
    telling = Messages(ASKED).telling(ID)
    telling.take(said({"content": "a"}))
    broken = UpstreamMalformed("it broke")

    ((name, event),) = heard(telling.error(broken))

    assert (name, event) == ("error", {"type": "error", "error": {"type": "api_error", "message": "it broke"}})
    told = telling.document(None, broken)
    assert (told["content"], told["stop_reason"]) == ([{"type": "text", "text": "a"}], None)


def test_texts_and_calls_of_a_record_can_be_read() -> None:
    result = [{"type": "tool_result", "tool_use_id": "t", "content": "42"}]
    talk = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, {"role": "user", "content": result}]
    content = [{"type": "text", "text": "a"}, {"type": "tool_use", "name": "f", "input": {"x": 1}}]

    assert messages.last_user_text({"messages": talk}) == "hi"
    assert messages.answer_text({"content": content}) == "a"
    assert messages.calls({"content": content}) == [{"name": "f", "arguments": '{"x":1}'}]
    assert (messages.last_user_text({"messages": 1}), messages.answer_text({}), messages.calls({})) == ("", "", [])
