"""How two answers are compared, and what is summed up of many."""

from dataclasses import replace

import pytest

from llmops.experiments.comparison import Row, Side, figures, similarity
from llmops.experiments.comparison_page import figure_lines, page


def side(endpoint: str, answer: str | None = "yes", **figures: float | None) -> Side:
    known = {"latency_ms": 10.0, "input_tokens": 3, "output_tokens": 2, "cost_usd": 0.5, **figures}
    failure = None if answer is not None else "it failed"
    return Side(answer=answer, failure=failure, endpoint=endpoint, model="m", interaction_id="0" * 32, **known)  # type: ignore[arg-type]


def row(before: Side, after: Side) -> Row:
    both = before.answer is not None and after.answer is not None
    return Row("why?", before, after, before.answer == after.answer if both else None, 1.0 if both else None)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("", "", 1.0),
        ("Hello there", "  hello\n THERE ", 1.0),
        ("abc", "xyz", 0.0),
        ("the cat sat", "sat the cat", pytest.approx(10 / 11)),
        ("这是一只猫", "这是一只狗", pytest.approx(0.6, abs=0.01)),
    ],
)
def test_similarity_is_the_share_of_pieces_in_common(one: str, other: str, alike: float) -> None:
    assert similarity(one, other) == alike
    assert similarity(other, one) == alike


def test_similarity_of_long_texts_takes_no_time() -> None:
    assert similarity("word " * 200_000, "other " * 200_000) < 0.5


def test_only_questions_that_both_answered_are_measured() -> None:
    slow = side("a", latency_ms=100.0)
    rows = [row(slow, side("b", latency_ms=50.0)), row(side("a", latency_ms=9999.0), side("b", None))]

    found = figures(rows)

    assert (found["questions"], found["answered"], found["failed"], found["compared"]) == (2, 1, 1, 1)
    assert (found["before_latency_p95_ms"], found["difference_latency_p95_ms"]) == (100.0, -50.0)
    assert found["exact_agreement"] == 1.0


def test_a_cost_that_is_not_known_is_counted_and_never_compared() -> None:
    rows = [row(side("a"), side("b")), row(side("a"), side("b", cost_usd=None))]

    found = figures(rows)

    assert (found["before_cost_usd"], found["after_cost_usd"], found["after_unpriced"]) == (1.0, 0.5, 1)
    assert "difference_cost_usd" not in found
    assert found["difference_output_tokens"] == 0


def test_a_difference_has_its_sign_and_no_minus_before_a_zero() -> None:
    rows = [row(side("a"), side("b", latency_ms=9.99, output_tokens=5, cost_usd=None))]

    lines = {label: cells for label, *cells in figure_lines(figures(rows))}

    assert lines["latency, p50 ms"] == ["10.0", "10.0", "+0.0"]
    assert lines["output tokens"] == ["2", "5", "+3"]
    assert lines["cost, USD"] == ["0.500000", "", ""]


def test_of_no_rows_nothing_but_counts_is_said() -> None:
    assert set(figures([]).values()) == {0}
    assert list(figure_lines(figures([]))) == []


def test_a_page_runs_nothing_that_a_model_wrote() -> None:
    evil = "<script>alert(1)</script>"
    rows = [row(side(evil, evil), side("b", None)), row(side("a"), side("b"))]
    rows.append(replace(rows[0], prompt=evil, after=side("b", evil)))

    text = page(rows, figures(rows))

    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 4
    assert text.count("<circle") == 2
