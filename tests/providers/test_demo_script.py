"""The demo's conversation: a script that answers sensibly, remembers, and says what it is and what it cannot do."""

import re
from importlib import resources

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmops.protocol import chat
from llmops.protocol.task import Task
from llmops.providers.demo import Demo
from llmops.providers.demo_arithmetic import calculate
from llmops.providers.demo_script import Script, compiled
from llmops.providers.tokens import Tokenizer
from tests.providers.demos import PROMPTS, answer, loaded, reply, talk


@pytest.fixture(scope="module")
def talker() -> Demo:
    return Demo(Task.CHAT, "demo", loaded())


def test_different_prompts_get_different_replies(talker: Demo) -> None:
    assert len({reply(talker, prompt) for prompt in PROMPTS}) == len(PROMPTS)


@pytest.mark.parametrize(
    "prompt", ["Who are you?", "hi, what are you", "What is your name?", "Tell me about yourself."]
)
def test_it_says_what_it_is(talker: Demo, prompt: str) -> None:
    assert "ELIZA (1966)" in reply(talker, prompt)
    assert "not a language model" in reply(talker, prompt)


def test_it_says_how_to_get_a_real_model(talker: Demo) -> None:
    assert "llmops models pull" in reply(talker, "How do I get a real model?")
    assert "{{secrets/openai/key}}" in reply(talker, "Where do I put my API key?")


@pytest.mark.parametrize(
    "prompt", ["Write a poem", "Translate hello to German", "Who wrote Faust?", "Summarise this: a b"]
)
def test_it_says_what_it_cannot_do(talker: Demo, prompt: str) -> None:
    assert re.search(r"cannot|no facts|real model|nothing", reply(talker, prompt))


def test_words_come_back_with_me_and_you_exchanged(talker: Demo) -> None:
    assert "I like your dog" in reply(talker, "I think you like my dog")
    assert "help me" in reply(talker, "I want to help you.")


def test_the_word_of_highest_rank_is_answered(talker: Demo) -> None:
    assert "ELIZA" in reply(talker, "Hello there, my friend. Who are you?")


def test_it_remembers_a_name_from_earlier_in_the_conversation_only(talker: Demo) -> None:
    assert "Ada" in reply(talker, "My name is Ada and I am new here", "The sea is calm.", "What is my name?")
    assert "not told me" in reply(talker, "What is my name?")


def test_it_comes_back_to_an_earlier_statement_when_it_knows_nothing_to_say(talker: Demo) -> None:
    assert "your brother" in reply(talker, "I worry about my brother.", "Hm, the sea looks calm.")


def test_the_same_body_gets_the_same_words(talker: Demo) -> None:
    first, second = answer(talker, talk("Hello")), answer(Demo(Task.CHAT, "demo", Tokenizer()), talk("Hello"))

    assert first["choices"] == second["choices"]
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{32}", first["id"])
    assert first["id"] != second["id"]


def test_the_same_words_said_again_get_another_reply(talker: Demo) -> None:
    assert reply(talker, "Hello") != reply(talker, "Hello", "Hello")


def test_without_a_word_of_the_user_it_opens_the_conversation(talker: Demo) -> None:
    body = {"messages": [{"role": "system", "content": "Be brief."}]}

    assert "demo endpoint" in chat.answer_text(answer(talker, body))


def test_parts_of_text_are_read(talker: Demo) -> None:
    parts = [{"type": "text", "text": "What is 6 times 7?"}, {"type": "image_url", "image_url": {"url": "x"}}]

    assert "42" in chat.answer_text(answer(talker, {"messages": [{"role": "user", "content": parts}]}))


@pytest.mark.parametrize(
    ("asked", "value"),
    [
        ("what is 12*7", "84"),
        ("What's 2 plus 2 times 3?", "8"),
        ("0.1 + 0.2", "0.3"),
        ("calculate (1,000 - 1) / 3 =", "333"),
        ("2 to the power of -1", "0.5"),
        ("10 ÷ 4", "2.5"),
    ],
)
def test_it_works_out_sums(asked: str, value: str) -> None:
    result = calculate(asked)

    assert result is not None
    assert result[1] == value


@pytest.mark.parametrize(
    "text",
    ["1/0", "9**9**9", "(-8)**0.5", "7", "1 +", "2024-01-05", "I paid 3 + 4", "__import__('os')", "9" * 5000, "((1"],
)
def test_what_is_no_sum_is_left_to_the_script(text: str) -> None:
    assert calculate(text) is None


@settings(deadline=None, max_examples=300)
@example(["yeſ", "I think ı am myſelf"])
@example(["my ſon", "\x00 \ud800"])
@given(st.lists(st.one_of(st.text(), st.text("imyou ,.(){}[]*+'10"), st.sampled_from(PROMPTS)), max_size=4))
def test_whatever_is_said_gets_an_answer(talker: Demo, said: list[str]) -> None:
    body = talk(*said) if said else {"messages": [{"role": "system", "content": ""}]}

    assert answer(talker, body)["choices"][0]["message"]["content"]


def test_of_a_book_only_the_beginning_is_read() -> None:
    script, book = Script.shipped(), "my dog and if you are what i am to my cat, " * 30_000

    assert script.reply([book] * 20) == script.reply([book[:2000]] * 20)


def test_every_reply_of_the_script_has_the_words_it_uses() -> None:
    document = yaml.safe_load(resources.files("llmops.providers").joinpath("demo_script.yaml").read_bytes())
    rules = [rule for keyword in document["keywords"] for rule in keyword["rules"]] + document["memory"]
    kept = [(compiled(rule.get("recall", rule.get("match", "*"))).groups, rule["say"]) for rule in rules]

    for groups, says in [*kept, (0, document["opening"]), (2, document["sums"]), (1, document["topic"])]:
        words = ["", *("word" for _ in range(groups))]
        assert all(say.format(*words, said=words) for say in says)
    assert all(isinstance(word, str) for keyword in document["keywords"] for word in keyword["words"])
