"""Tokens are counted with a real vocabulary, from files we have, and by a stated rule without one."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.protocol.task import Task
from llmops.protocol.usage import Usage
from llmops.providers.tokens import EXACT_CHARACTERS, Tokenizer

_COUNT = """
import sys
from llmops.providers.tokens import Tokenizer
tokenizer = Tokenizer()
tokenizer.load()
print(tokenizer.count("hello world, hello tokens"), "litellm" in sys.modules)
"""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    loaded = Tokenizer()
    loaded.load()
    return loaded


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a new process, where nothing leaves the machine: its only proxy refuses."""
    closed = {"HTTPS_PROXY": "http://127.0.0.1:1", "PATH": "", **environment}
    return subprocess.run([sys.executable, "-c", script], env=closed, capture_output=True, text=True, timeout=60)


def test_the_vocabulary_comes_from_the_shipped_files() -> None:
    """Without a network, and without importing the package that ships them."""
    done = run(_COUNT)

    assert done.stdout.split() == ["5", "False"], done.stderr


def test_a_vocabulary_that_cannot_be_loaded_leaves_the_rule_in_force(tmp_path: Path) -> None:
    done = run(_COUNT, TIKTOKEN_CACHE_DIR=str(tmp_path))

    assert done.stdout.split() == [str((len("hello world, hello tokens") + 1) // 4), "False"], done.stderr
    assert "vocabulary=cl100k_base loaded=false" in done.stderr


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("hi", 0), ("abc", 1), ("abcdef", 1), ("a" * 1_000_000, 250_000)]
)
def test_without_a_vocabulary_four_characters_are_a_token(text: str, tokens: int) -> None:
    assert Tokenizer().count(text) == tokens


@pytest.mark.parametrize("text", ["", "hello world", "naïve 漢字 😀", "<|endoftext|> <|im_start|>", "a\n\n  b"])
def test_counts_are_those_of_tiktoken(tokenizer: Tokenizer, text: str) -> None:
    encoding = tiktoken.get_encoding("cl100k_base")

    assert tokenizer.count(text) == len(encoding.encode(text, disallowed_special=()))


def test_the_name_of_a_special_token_is_plain_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.count("<|endoftext|>") > 1


def test_half_a_character_is_counted(tokenizer: Tokenizer) -> None:
    assert tokenizer.count("\ud83d") >= 1


def test_a_huge_text_is_counted_by_samples_to_within_two_percent(tokenizer: Tokenizer) -> None:
    parts = [f"Line {i}: the price of item {i * 7919 % 1000} rose by {i % 13} percent.\n" for i in range(10_000)]
    text = "".join(parts)
    exact = sum(map(tokenizer.count, parts))

    assert len(text) > 4 * EXACT_CHARACTERS
    assert tokenizer.count(text) == pytest.approx(exact, rel=0.02)


@settings(deadline=None)
@given(st.text(max_size=60), st.integers(1, 20))
def test_a_cut_text_is_the_beginning_of_it(tokenizer: Tokenizer, text: str, limit: int) -> None:
    short = tokenizer.cut(text, limit)

    assert text.startswith(short)
    assert short == text or tokenizer.count(text) > limit


def test_a_text_is_cut_between_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.cut("one two three four", 3) == "one two three"
    assert tokenizer.cut("one two three four", 4) == "one two three four"
    assert Tokenizer().count(Tokenizer().cut("abcdefghijklmnop", 2)) == 2


def test_an_estimate_counts_the_text_of_the_request_and_of_the_answer(tokenizer: Tokenizer) -> None:
    chat = {"messages": [{"role": "user", "content": "hello world"}]}
    answer = {"choices": [{"message": {"content": "one two three"}}]}

    assert tokenizer.estimate(Task.CHAT, chat, answer) == Usage(2, 3, estimated=True)
    assert tokenizer.estimate(Task.COMPLETIONS, {"prompt": "hello world"}, {}) == Usage(2, 0, estimated=True)
    assert tokenizer.estimate(Task.EMBEDDINGS, {"input": ["hello", "world"]}, {"data": []}).input_tokens == 3
    assert tokenizer.estimate(Task.CHAT, {"messages": "odd"}, {}) == Usage(0, 0, estimated=True)
    assert tokenizer.estimate(Task.CHAT, {"messages": [7]}, {"choices": [7, {}]}) == Usage(0, 0, estimated=True)


def test_an_estimate_counts_what_is_not_words_too(tokenizer: Tokenizer) -> None:
    arguments = '{"city": "Bern"}'
    call = {"id": "c1", "function": {"name": "find", "arguments": arguments}}
    asked = {"messages": [{"role": "assistant", "tool_calls": [call]}], "tools": [{"function": {"name": "find"}}]}
    message = {"reasoning_content": "hm hm", "reasoning": "hm hm", "content": "so", "tool_calls": [call]}
    choices = [{"message": message}, {"message": {"content": [{"type": "text", "text": "or so"}]}}]

    found = tokenizer.estimate(Task.CHAT, asked, {"choices": choices})

    assert found.input_tokens > tokenizer.count(arguments)
    assert found.output_tokens == tokenizer.count(f"hm hm\nso\nfind\n{arguments}\nor so")
    two = {"choices": [{"text": "one two"}, {"index": 1, "text": "three"}]}
    assert tokenizer.estimate(Task.COMPLETIONS, {"prompt": "x"}, two).output_tokens == tokenizer.count("one two\nthree")


def test_counting_while_the_vocabulary_loads_is_by_the_rule_or_exact() -> None:
    tokenizer = Tokenizer()
    with ThreadPoolExecutor(5) as pool:
        loading = pool.submit(tokenizer.load)
        counts = set(pool.map(tokenizer.count, ["hello world"] * 2_000))
        loading.result()

    assert counts <= {2, 3}
    assert tokenizer.count("hello world") == 2
