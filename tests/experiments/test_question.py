"""Questions of the translated wires: what is asked again is asked in chat, and the answer is read as it was given."""

from typing import Any

import pytest

from llmops.experiments.question import Question, Unfit, question
from llmops.interactions.logged import LoggedInteraction, Story

ONE = LoggedInteraction(
    interaction_id="i",
    run_id="i",
    trace_id="tr-i",
    endpoint="e",
    received_ms=0,
    status=200,
    outcome="answered",
    error_code=None,
    served_entity=None,
    provider=None,
    model=None,
    task="llm/v1/chat",
    user=None,
    session=None,
    client_request_id=None,
    latency_ms=1.0,
    first_token_ms=None,
    input_tokens=1,
    output_tokens=1,
    cost_usd=None,
    prompt="",
    response="",
)
CALLED = {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}}


@pytest.mark.parametrize(
    ("wire", "request_", "response"),
    [
        (
            "messages",
            {"max_tokens": 9, "system": "brief", "messages": [{"role": "user", "content": "hi"}]},
            {"content": [{"type": "text", "text": "yes"}]},
        ),
        (
            "responses",
            {"max_output_tokens": 9, "instructions": "brief", "input": "hi"},
            {"output": [{"type": "message", "content": [{"type": "output_text", "text": "yes"}]}]},
        ),
    ],
)
def test_a_question_of_another_wire_is_asked_again_in_chat(wire: str, request_: Any, response: Any) -> None:
    who = {"client_request_id": "c", "usage_context": {"k": "v"}, "user": "u", "model": "e", "stream": True}

    found = question(Story(ONE, {**request_, **who}, response, (), wire=wire))

    assert isinstance(found, Question)
    messages = [{"role": "system", "content": "brief"}, {"role": "user", "content": "hi"}]
    assert found.body == {"max_tokens": 9, "messages": messages}
    assert (found.prompt, found.answer) == ("hi", "yes")


def test_tool_calls_are_an_answer_without_their_ids() -> None:
    request = {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}

    found = question(Story(ONE, request, {"content": [CALLED]}, (), wire="messages"))

    assert isinstance(found, Question)
    assert found.answer == '[{"name":"f","arguments":"{\\"x\\":1}"}]'


def test_a_request_that_cannot_be_told_in_chat_is_no_question() -> None:
    assert isinstance(question(Story(ONE, {"input": []}, None, (), wire="responses")), Unfit)
