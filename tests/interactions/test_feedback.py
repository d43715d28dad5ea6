from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import InvalidParameter
from llmops.interactions.feedback import Feedback
from llmops.interactions.record import new_id


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"value": True}, "'interaction_id' must be"),
        ({"interaction_id": "abc", "value": True}, "'interaction_id' must be"),
        ({"interaction_id": "f" * 32, "value": True}, "of a time that has not come"),
        ({"interaction_id": new_id()}, "'value' must be"),
        ({"interaction_id": new_id(), "value": " "}, "'value' must be"),
        ({"interaction_id": new_id(), "value": float("nan")}, "'value' must be"),
        ({"interaction_id": new_id(), "value": {"a": 1}}, "'value' must be"),
        ({"interaction_id": new_id(), "value": 1, "name": ""}, "'name' must be"),
        ({"interaction_id": new_id(), "value": 1, "rationale": 3}, "'rationale' must be"),
        ({"interaction_id": new_id(), "value": 1, "comment": "x"}, "'comment' is not a field of feedback"),
    ],
)
def test_a_wrong_field_is_named(body: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        Feedback.read(body)


def test_the_trace_and_the_token_s_owner_are_what_counts() -> None:
    interaction_id = new_id()

    feedback = Feedback.read({"interaction_id": f"tr-{interaction_id}", "value": False, "user": "body"}, "owner")

    assert (feedback.interaction_id, feedback.user, feedback.name) == (interaction_id, "owner", "user_feedback")


@given(
    st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text("aß👋")
)
def test_what_is_written_down_is_read_back(value: bool | int | float | str) -> None:
    feedback = Feedback.read({"interaction_id": new_id(), "value": value or "x", "rationale": "why"})
    named = replace(feedback, endpoints=("chat", "other"))

    assert Feedback.decode(feedback.encode()) == feedback
    assert Feedback.decode(named.encode()) == named
