"""OpenAI's Responses to chat and back, as pure functions; the transcripts are made by hand from the public API."""

from typing import Any

import orjson
import pytest

from llmops.errors import BadRequest, UpstreamMalformed
from llmops.protocol import responses
from llmops.protocol.responses import Responses
from llmops.protocol.usage import Usage
from tests.protocol.transcripts import ID, TOOL_CHUNKS, TOOLS, heard, said

ASKED: dict[str, Any] = {"model": "e", "input": "hi"}
TOOL: dict[str, Any] = {"type": "function", "name": "f"}
HI = {"role": "user", "content": "hi"}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": '{"n": 1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "one"}


def _chat(**fields: Any) -> dict[str, Any]:
    return dict(Responses({**ASKED, **fields}).chat)


def _talk(*items: Any, **fields: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _chat(input=list(items), **fields)["messages"]
    return found


def _answer(message: Any, reason: str = "stop", usage: Usage | None = None, **fields: Any) -> dict[str, Any]:
    telling = Responses({**ASKED, **fields}).telling(ID)
    telling.whole({"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": reason}]})
    found: dict[str, Any] = orjson.loads(orjson.dumps(telling.document(usage)))
    return found


def test_what_chat_has_is_passed_on_and_the_rest_stays_with_the_record() -> None:
    passed = {"temperature": 0.5, "top_p": 0.9, "stream": True, "user": "u"}
    ours = {
        "store": True,
        "metadata": {"k": "v"},
        "truncation": "auto",
        "stream_options": {"x": False},
    }

    told = _chat(**passed, **ours, max_output_tokens=9, instructions="be brief", previous_response_id=None)

    assert told == {
        "model": "e",
        **passed,
        "max_tokens": 9,
        "messages": [{"role": "system", "content": "be brief"}, HI],
    }


def test_parts_of_a_message_become_chats() -> None:
    picture = {"type": "input_image", "image_url": "data:image/png;base64,aGk=", "detail": "low"}
    paper = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}
    sound = {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}

    told = _talk({"role": "user", "content": [{"type": "input_text", "text": "see"}, picture, paper, sound]})

    assert told[0]["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk=", "detail": "low"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}},
        sound,
    ]


def test_items_of_one_turn_become_one_message() -> None:
    reasoning = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "hm"}],
    }
    answer = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "so"}]}
    second = {**CALL, "call_id": "c2"}
    shown = {"type": "input_image", "image_url": "https://example.org/a.png"}
    seen = {**OUTPUT, "call_id": "c2", "output": [{"type": "input_text", "text": "two"}, shown]}

    told = _talk(HI, reasoning, answer, CALL, second, OUTPUT, seen, HI)

    assert [message["role"] for message in told] == ["user", "assistant", "tool", "tool", "user", "user"]
    assert (told[1]["content"], told[1]["reasoning_content"]) == ("so", "hm")
    assert [call["id"] for call in told[1]["tool_calls"]] == ["c1", "c2"]
    assert told[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"n": 1}'}
    assert told[3] == {"role": "tool", "tool_call_id": "c2", "content": "two"}
    assert told[4]["content"][1] == {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


def test_two_turns_of_the_assistant_stay_two() -> None:
    told = _talk(HI, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}, HI)

    assert [message["content"] for message in told] == ["hi", "a", "b", "hi"]


@pytest.mark.parametrize("choice", ["auto", "none", None])
def test_what_is_said_of_tools_that_are_not_there_is_left_out(choice: str | None) -> None:
    """OpenAI refuses a request with either and without tools; its own agents send both."""
    assert _chat(tool_choice=choice, parallel_tool_calls=True, tools=[]) == _chat()
    assert _chat(tools=[TOOL], parallel_tool_calls=False)["parallel_tool_calls"] is False


def test_the_developer_speaks_as_the_system() -> None:
    """Servers of open models know no other name for it."""
    assert _talk({"role": "developer", "content": "be brief"}, HI)[0] == {"role": "system", "content": "be brief"}


def test_a_call_without_words_has_no_content() -> None:
    assert _talk(HI, CALL, OUTPUT)[1]["content"] is None


def test_tools_structured_output_and_effort() -> None:
    schema = {"type": "object", "properties": {}}
    tool = {"type": "function", "name": "f", "description": None, "parameters": schema, "strict": True}
    form = {"type": "json_schema", "name": "a", "schema": schema, "strict": True}

    told = _chat(
        tools=[tool],
        tool_choice={"type": "function", "name": "f"},
        text={"format": form, "verbosity": "low"},
        reasoning={"effort": "low", "summary": "auto"},
        include=["reasoning.encrypted_content", "message.output_text.logprobs"],
    )

    assert told["tools"] == [{"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}]
    assert told["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    named = {"name": "a", "schema": schema, "strict": True}
    assert told["response_format"] == {"type": "json_schema", "json_schema": named}
    assert (told["verbosity"], told["reasoning_effort"], told["logprobs"]) == ("low", "low", True)
    assert _chat(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}
    chosen = {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]}
    assert _chat(tools=[tool], tool_choice=allowed)["tool_choice"] == {"type": "allowed_tools", "allowed_tools": chosen}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"previous_response_id": "resp_1"}, "'previous_response_id' is not served"),
        ({"conversation": "c"}, "'conversation' is not served"),
        ({"background": True}, "'background' is not served"),
        ({"prompt": {"id": "p"}}, "'prompt' is not served"),
        ({"future": 1}, "'future' is not known"),
        ({"tools": [{"type": "web_search"}]}, "'tools[0].type' is 'web_search'"),
        ({"tools": [{"type": "function"}]}, "'tools[0].name'"),
        ({"tools": [TOOL], "tool_choice": {"type": "mcp"}}, "'tool_choice.type' is 'mcp'"),
        ({"tool_choice": "required"}, "'tool_choice' asks for a tool, and there are no 'tools'"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "'tool_choice' asks for a tool"),
        ({"text": {"format": {"type": "grammar"}}}, "'text.format.type'"),
        ({"include": ["file_search_call.results"]}, "'include' names"),
        ({"input": []}, "'input'"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "'input[0].type'"),
        ({"input": [{"role": "tool", "content": "x"}]}, "'input[0].role'"),
        ({"input": [{"role": "user"}]}, "'input[0].content'"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "'input[0].content[0].file_id'",
        ),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "'input[0].arguments'"),
    ],
)
def test_what_chat_cannot_say_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(BadRequest) as refused:
        _chat(**fields)

    assert named in refused.value.message


def test_an_answer_has_its_items_and_tokens() -> None:
    message = {"reasoning_content": "hm", "content": "so", "tool_calls": TOOLS}

    told = _answer(message, "tool_calls", Usage(10, 5, 4, 2), instructions="x", metadata={"k": "v"})

    kinds = ["reasoning", "message", "function_call", "function_call"]
    assert [item["type"] for item in told["output"]] == kinds
    assert told["output"][1]["content"] == [{"type": "output_text", "text": "so", "annotations": [], "logprobs": []}]
    assert (told["output"][2]["call_id"], told["output"][2]["arguments"]) == ("c1", '{"x": 1.0}')
    assert (told["id"], told["status"], told["model"], told["created_at"]) == (
        f"resp_{ID}",
        "completed",
        "m",
        1720682856,
    )
    assert (told["instructions"], told["metadata"], told["error"], told["store"]) == ("x", {"k": "v"}, None, False)
    assert told["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 15,
    }


@pytest.mark.parametrize(("reason", "why"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_an_answer_that_was_cut_short_is_incomplete(reason: str, why: str) -> None:
    told = _answer({"content": "so"}, reason)

    assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": why})
    assert told["output"][0]["status"] == "incomplete"


def test_only_the_last_item_of_an_answer_that_was_cut_short_is_incomplete() -> None:
    """Also where it waited behind a call whose arguments never ended."""
    telling = Responses(ASKED).telling(ID)
    call = {"index": 0, "id": "c1", "function": {"name": "f", "arguments": '{"a"'}}
    told = telling.take(said({"tool_calls": [call]})) + telling.take(said({"content": "so"}, "length"))

    events = heard(told + telling.end(None))

    done = [event["item"] for name, event in events if name == "response.output_item.done"]
    assert [item["status"] for item in done] == ["completed", "incomplete"]
    assert done == events[-1][1]["response"]["output"]


def test_a_refusal_and_logprobs_have_their_own_words() -> None:
    telling = Responses(ASKED).telling(ID)
    logprob = {"token": "so", "logprob": -0.5, "bytes": [115, 111], "top_logprobs": []}

    told = heard(telling.take(said({"content": "so"}, logprobs={"content": [logprob]})) + telling.end(None))

    assert _answer({"content": None, "refusal": "no"})["output"][0]["content"] == [{"type": "refusal", "refusal": "no"}]
    assert [event["logprobs"] for name, event in told if name == "response.output_text.delta"] == [[logprob]]
    assert told[-1][1]["response"]["output"][0]["content"][0]["logprobs"] == [logprob]


def test_a_stream_tells_item_by_item_with_running_numbers() -> None:
    telling = Responses(ASKED).telling(ID)

    events = heard(b"".join(telling.take(chunk) for chunk in TOOL_CHUNKS) + telling.end(Usage(10, 5)))

    assert [event["sequence_number"] for _, event in events] == list(range(len(events)))
    assert all(event["type"] == name for name, event in events)
    assert [name for name, _ in events if name.startswith("response.output_item")] == [
        f"response.output_item.{part}" for _ in range(4) for part in ("added", "done")
    ]
    done = [event["arguments"] for name, event in events if name == "response.function_call_arguments.done"]
    assert done == ['{"x": 1.0}', "{}"]
    assert events[0][0] == "response.created"
    assert (events[-1][0], events[-1][1]["response"]["usage"]["total_tokens"]) == ("response.completed", 15)
    finished = [event["item"] for name, event in events if name == "response.output_item.done"]
    assert events[-1][1]["response"]["output"] == finished


def test_an_answer_that_breaks_ends_in_an_error_that_clients_raise() -> None:
    telling = Responses(ASKED).telling(ID)
    begun = heard(telling.take(said({"content": "a"})))
    broken = UpstreamMalformed("it broke")

    ((name, event),) = heard(telling.error(broken))

    assert (name, event["type"], event["message"], event["code"]) == ("error", "error", "it broke", "internal_error")
    assert event["error"]["message"] == "it broke"
    assert event["sequence_number"] == len(begun)
    told = telling.document(None, broken)
    assert (told["status"], told["error"]) == ("failed", {"code": "server_error", "message": "it broke"})
    assert told["output"][0]["status"] == "incomplete"


def test_texts_and_calls_of_a_record_can_be_read() -> None:
    output = [{"type": "message", "content": [{"type": "output_text", "text": "a"}]}, CALL]

    assert responses.last_user_text({"input": [HI, CALL, OUTPUT]}) == "hi"
    assert responses.last_user_text({"input": "hi"}) == "hi"
    assert responses.answer_text({"output": output}) == "a"
    assert responses.calls({"output": output}) == [{"name": "f", "arguments": '{"n": 1}'}]
    assert (responses.last_user_text({"input": 1}), responses.answer_text({}), responses.calls({})) == ("", "", [])
