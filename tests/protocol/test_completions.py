"""A streamed completion, joined, is what a plain call would have answered."""

from itertools import zip_longest
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.protocol import completions

_HEAD = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}


def chunk(index: int, text: str | None, finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    return _HEAD | {"choices": [{"index": index, "text": text, "finish_reason": finish_reason, **more}]}


@settings(deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=3), st.integers(1, 40))
def test_a_folded_stream_is_the_plain_answer(texts: list[str], width: int) -> None:
    choices = [{"index": i, "text": text, "finish_reason": "length"} for i, text in enumerate(texts)]
    pieces = zip_longest(*([text[start : start + width] for start in range(0, len(text), width)] for text in texts))
    chunks = [chunk(i, piece) for turn in pieces for i, piece in enumerate(turn) if piece is not None]
    chunks += [chunk(i, "", "length") for i in range(len(texts))]

    assert completions.fold(chunks) == _HEAD | {"choices": choices}


def test_log_probabilities_are_joined_in_order() -> None:
    chunks = [chunk(0, word, logprobs={"tokens": [word], "text_offset": [i]}) for i, word in enumerate(("a", "b"))]

    choice = completions.fold([*chunks, chunk(0, None, "stop", logprobs=None)])["choices"][0]

    assert choice["logprobs"] == {"tokens": ["a", "b"], "text_offset": [0, 1]}
    assert choice["text"] == "ab"


def test_usage_is_there_only_if_a_chunk_carried_it() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}

    assert "usage" not in completions.fold([chunk(0, "a") | {"usage": None}])
    assert completions.fold([chunk(0, "a"), _HEAD | {"choices": [], "usage": usage}])["usage"] == usage


def test_nothing_cannot_be_folded() -> None:
    with pytest.raises(ValueError, match="at least one chunk"):
        completions.fold([])


def test_the_prompt_is_one_text_or_several() -> None:
    assert completions.prompt_text({"prompt": "one"}) == "one"
    assert completions.prompt_text({"prompt": ["one", "two"]}) == "one\ntwo"
    assert completions.prompt_text({"prompt": [[1, 2]]}) == ""


@pytest.mark.parametrize(("prompt", "count"), [("a", 1), (["a", "b"], 2), ([1, 2], 1), ([[1], [2], [3]], 3), ([], 1)])
def test_prompts_are_counted(prompt: Any, count: int) -> None:
    assert completions.prompts({"prompt": prompt}) == count


def test_the_text_of_an_answer_is_that_of_the_first_choice() -> None:
    assert completions.answer_text(chunk(0, "a")) == "a"
    assert completions.answer_text(chunk(1, "a")) == ""
    assert completions.answer_text({"choices": None}) == ""
