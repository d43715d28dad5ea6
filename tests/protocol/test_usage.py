"""Token counts are read as vendors report them, or not at all."""

import pytest

from llmops.protocol.usage import Usage


def test_counts_and_their_details_are_read() -> None:
    usage = Usage.read(
        {
            "usage": {
                "prompt_tokens": 12,
                "completion_tokens": 7,
                "total_tokens": 19,
                "prompt_tokens_details": {"cached_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 5},
            }
        }
    )

    assert usage == Usage(12, 7, cached_tokens=4, reasoning_tokens=5)
    assert usage.total_tokens == 19


def test_what_is_not_reported_stays_unknown() -> None:
    assert Usage.read({"usage": {"prompt_tokens": 3, "completion_tokens": 0}}) == Usage(3, 0, None, None)
    assert Usage.read({"usage": {"prompt_tokens": 3, "prompt_tokens_details": None}}) == Usage(3, 0)
    assert Usage.read({"usage": {"prompt_tokens": 3}, "choices": []}) is None


@pytest.mark.parametrize(
    "usage",
    [
        None,
        "12",
        {},
        {"completion_tokens": 1},
        {"prompt_tokens": "3"},
        {"prompt_tokens": -1},
        {"prompt_tokens": True},
        {"prompt_tokens": 3, "completion_tokens": 1.5},
    ],
)
def test_a_wrong_count_is_never_guessed(usage: object) -> None:
    assert Usage.read({"usage": usage}) is None
    assert Usage.read({}) is None


def test_the_document_is_what_openai_answers() -> None:
    assert Usage(3, 4).document() == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert Usage.read({"usage": Usage(3, 4).document()}) == Usage(3, 4)
