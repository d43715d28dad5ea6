"""The demo provider on the wire of OpenAI: chat and completions, plain and streamed."""

import asyncio
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.errors import BadRequest
from llmops.protocol import chat, completions
from llmops.protocol.task import Task
from llmops.providers.demo import Demo
from llmops.providers.tokens import Tokenizer
from tests.providers.demos import PROMPTS, answer, call, chunks, loaded, reply, talk


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return loaded()


@pytest.fixture(scope="module")
def talker(tokenizer: Tokenizer) -> Demo:
    return Demo(Task.CHAT, "demo", tokenizer)


@pytest.fixture(scope="module")
def completer(tokenizer: Tokenizer) -> Demo:
    return Demo(Task.COMPLETIONS, "demo", tokenizer)


def test_an_answer_has_openais_shape(talker: Demo, tokenizer: Tokenizer) -> None:
    given = answer(talker, talk("Hello world"))
    text = given["choices"][0]["message"].pop("content")

    assert given["object"] == "chat.completion"
    assert given["model"] == "demo"
    assert given["choices"] == [{"index": 0, "message": {"role": "assistant"}, "finish_reason": "stop"}]
    assert given["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": tokenizer.count(text),
        "total_tokens": 2 + tokenizer.count(text),
    }


@settings(deadline=None)
@given(
    said=st.one_of(st.sampled_from(PROMPTS), st.text(max_size=40).map(lambda text: f"say exactly {text}")),
    fields=st.fixed_dictionaries({}, optional={"n": st.integers(1, 5), "max_tokens": st.integers(1, 30)}),
)
def test_a_stream_joins_to_the_plain_answer(talker: Demo, completer: Demo, said: str, fields: dict[str, Any]) -> None:
    fields["stream_options"] = {"include_usage": True}
    body, prompt = talk(said, **fields), {"prompt": [said, "hello"], **fields}
    folded = chat.fold(chunks(talker, body))
    completed = completions.fold(chunks(completer, prompt, Task.COMPLETIONS))
    plain, completion = answer(talker, body), answer(completer, prompt, Task.COMPLETIONS)

    assert (folded["choices"], folded["usage"]) == (plain["choices"], plain["usage"])
    assert (completed["choices"], completed["usage"]) == (completion["choices"], completion["usage"])


def test_a_stream_comes_word_by_word(talker: Demo) -> None:
    first, *words, last = (chunk["choices"][0] for chunk in chunks(talker, talk("Hello")))

    assert first["delta"] == {"role": "assistant", "content": ""}
    assert all(len(word["delta"]["content"].split()) == 1 for word in words)
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")
    assert {choice["finish_reason"] for choice in (first, *words)} == {None}


def test_usage_is_streamed_only_if_asked_for(talker: Demo, completer: Demo) -> None:
    asked = {"stream_options": {"include_usage": True}}

    assert all("usage" not in chunk for chunk in chunks(talker, talk("Hello")))
    assert chunks(talker, talk("Hello", **asked))[-1]["choices"] == []
    assert all("usage" not in chunk for chunk in chunks(completer, {"prompt": "Hello"}, Task.COMPLETIONS))
    assert chunks(completer, {"prompt": "Hello", **asked}, Task.COMPLETIONS)[-1]["choices"] == []


def test_max_tokens_cuts_an_answer(talker: Demo) -> None:
    for field in ("max_tokens", "max_completion_tokens"):
        cut = answer(talker, talk("Who are you?", **{field: 5}))

        assert cut["choices"][0]["finish_reason"] == "length"
        assert cut["usage"]["completion_tokens"] == 5
        assert reply(talker, "Who are you?").startswith(chat.answer_text(cut))


def test_an_answer_ends_before_the_first_stop(talker: Demo) -> None:
    whole = reply(talker, "Who are you?")

    for stop in ("ELIZA", ["(1966)", "ELIZA"]):
        choice = answer(talker, talk("Who are you?", stop=stop))["choices"][0]
        assert choice["message"]["content"] == whole.partition("ELIZA")[0]
        assert choice["finish_reason"] == "stop"


def test_more_choices_are_other_replies(talker: Demo) -> None:
    choices = answer(talker, talk("Who are you?", n=3))["choices"]

    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in choices}) == 3


def test_each_prompt_is_completed(completer: Demo) -> None:
    given = answer(completer, {"prompt": ["Hello", "What is 6 * 7?"], "n": 2}, Task.COMPLETIONS)

    assert given["object"] == "text_completion"
    assert re.fullmatch(r"cmpl-[0-9a-f]{32}", given["id"])
    assert [choice["index"] for choice in given["choices"]] == [0, 1, 2, 3]
    assert all("42" in choice["text"] for choice in given["choices"][2:])


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("messages", {"messages": None}),
        ("messages", {"messages": "hello"}),
        ("messages", {"messages": []}),
        ("messages[0]", {"messages": ["hello"]}),
        ("messages[0].role", {"messages": [{"content": "hello"}]}),
        ("messages[0].role", {"messages": [{"role": ["user"], "content": "hello"}]}),
        ("messages[1].content", {"messages": [{"role": "user", "content": ""}, {"role": "user", "content": 7}]}),
        ("n", {"n": 0}),
        ("n", {"n": 6}),
        ("n", {"n": "2"}),
        ("max_tokens", {"max_tokens": 0}),
        ("max_tokens", {"max_tokens": True}),
        ("max_completion_tokens", {"max_completion_tokens": 1.5}),
        ("stop", {"stop": 7}),
        ("stop", {"stop": ["a", ""]}),
    ],
)
def test_a_wrong_field_is_named_before_anything_is_streamed(talker: Demo, field: str, fields: dict[str, Any]) -> None:
    body = talk("hello") | fields

    with pytest.raises(BadRequest, match=f"'{re.escape(field)}'"):
        answer(talker, body)
    with pytest.raises(BadRequest, match=f"'{re.escape(field)}'"):
        asyncio.run(talker.stream(call(Task.CHAT, body, stream=True)))


@pytest.mark.parametrize("prompt", [None, 7, [], [1, 2], ["a", None], ["a"] * 33])
def test_a_wrong_prompt_is_named(completer: Demo, prompt: object) -> None:
    with pytest.raises(BadRequest, match="'prompt'"):
        answer(completer, {"prompt": prompt}, Task.COMPLETIONS)


def test_a_stream_lets_other_tasks_run_between_its_events(talker: Demo) -> None:
    async def read() -> tuple[int, int]:
        turns = events = 0
        over = asyncio.Event()

        async def neighbour() -> None:
            nonlocal turns
            while not over.is_set():
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(neighbour())
        stream = await talker.stream(call(Task.CHAT, talk("Hello"), stream=True))
        while await stream.next() is not None:
            events += 1
        over.set()
        await task
        return turns, events

    turns, events = asyncio.run(read())

    assert turns >= events > 3


def test_a_closed_stream_says_no_more(talker: Demo) -> None:
    async def close_early() -> list[bytes] | None:
        stream = await talker.stream(call(Task.CHAT, talk("Hello"), stream=True))
        await stream.next()
        await stream.aclose()
        return await stream.next()

    assert asyncio.run(close_early()) is None
