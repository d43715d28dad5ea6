"""Two answers to the same question side by side, and the figures of many."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmops.experiments.replay import Reply
from llmops.interactions.logged import LoggedInteraction
from llmops.interactions.logged_stats import percentile
from llmops.protocol.task import Task

#: What is kept of a prompt and of an answer, after they were compared whole.
_TEXT_CHARS = 4000
_BLANK = re.compile(r"\s+")
_PIECE = 3
_SUMS = ("input_tokens", "output_tokens", "cost_usd")


@dataclass(frozen=True, slots=True)
class Side:
    """One answer.

    Attributes:
        answer: Its beginning; None where there was no whole one.
        failure: Why there was none.
        logged: Whether times, tokens and cost are the log's; else the client's, which knows no cost.
    """

    answer: str | None
    failure: str | None
    latency_ms: float | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    endpoint: str
    model: str | None
    interaction_id: str | None
    logged: bool = True

    @property
    def trace_id(self) -> str | None:
        """The trace in MLflow; None where it did not arrive."""
        return f"tr-{self.interaction_id}" if self.logged and self.interaction_id else None


@dataclass(frozen=True, slots=True)
class Row:
    """One question with both answers.

    Attributes:
        exact: Whether the answers are the same; None where one is missing.
        similarity: 0 to 1; None where one is missing, and of embeddings.
    """

    prompt: str
    before: Side
    after: Side
    exact: bool | None
    similarity: float | None

    @property
    def answered(self) -> bool:
        """Whether both answered; figures that are compared are those of such rows."""
        return self.before.answer is not None and self.after.answer is not None


def compare(reply: Reply, endpoint: str) -> Row:
    """Put a reply beside the logged answer, measured by the client until its interaction arrives.

    Args:
        endpoint: Which gave the reply.
    """
    question = reply.question
    one, usage = question.interaction, reply.usage
    before, after = question.answer, reply.answer
    both = before is not None and after is not None
    text = both and question.task is not Task.EMBEDDINGS
    return Row(
        prompt=question.prompt[:_TEXT_CHARS],
        before=_logged(one, before, None if before is not None else one.response or one.outcome),
        after=Side(
            answer=_cut(after),
            failure=_cut(reply.failure),
            latency_ms=reply.latency_ms,
            input_tokens=usage.input_tokens if usage else None,
            output_tokens=usage.output_tokens if usage else None,
            cost_usd=None,
            endpoint=endpoint,
            model=None,
            interaction_id=reply.interaction_id,
            logged=False,
        ),
        exact=(before or "").strip() == (after or "").strip() if both else None,
        similarity=similarity(before or "", after or "") if text else None,
    )


def arrived(row: Row, one: LoggedInteraction) -> Row:
    """The row with what the log says of its new interaction."""
    after = _logged(one, row.after.answer, row.after.failure)
    return Row(row.prompt, row.before, after, row.exact, row.similarity)


def similarity(one: str, other: str) -> float:
    """How much of two texts is the same, 0 to 1: the share of three-character pieces they have in common, in any order.

    Linear in their length, and the same in every language.
    """
    a, b = _pieces(one), _pieces(other)
    total = a.total() + b.total()
    return 2 * (a & b).total() / total if total else 1.0


def figures(rows: Sequence[Row]) -> dict[str, float]:
    """The metrics of a comparison; what cannot be known is left out.

    Times, tokens and costs are those of questions that both answered. A cost counts what has a known price;
    ``…_unpriced`` says how many have none, and a difference is there only if every price is known.
    """
    both = [row for row in rows if row.answered]
    found: dict[str, float] = {
        "questions": len(rows),
        "answered": sum(row.after.answer is not None for row in rows),
        "failed": sum(row.after.answer is None for row in rows),
        "failed_before": sum(row.before.answer is None for row in rows),
        "compared": len(both),
        "not_logged": sum(not row.after.logged for row in rows),
    }
    if both:
        found["exact_agreement"] = sum(row.exact is True for row in both) / len(both)
    similar = [row.similarity for row in both if row.similarity is not None]
    if similar:
        found["similarity"] = sum(similar) / len(similar)
    before, after = dict(_measured([row.before for row in both])), dict(_measured([row.after for row in both]))
    found |= {f"before_{key}": value for key, value in before.items()}
    found |= {f"after_{key}": value for key, value in after.items()}
    found |= {f"difference_{key}": after[key] - before[key] for key in before if key in after and _known(both, key)}
    return found


def _measured(sides: Sequence[Side]) -> Iterator[tuple[str, float]]:
    latencies = [side.latency_ms for side in sides if side.latency_ms is not None]
    if latencies:
        yield "latency_mean_ms", sum(latencies) / len(latencies)
        yield "latency_p50_ms", percentile(latencies, 50) or 0.0
        yield "latency_p95_ms", percentile(latencies, 95) or 0.0
    for name in _SUMS:
        known = [value for side in sides if (value := getattr(side, name)) is not None]
        if known:
            yield name, sum(known)
    if sides:
        yield "unpriced", sum(side.cost_usd is None for side in sides)


def _known(rows: Sequence[Row], figure: str) -> bool:
    """Whether a figure is of all rows, on both sides; percentiles and means always are."""
    if figure in _SUMS:
        return all(getattr(side, figure) is not None for row in rows for side in (row.before, row.after))
    return figure.startswith("latency")


def _logged(one: LoggedInteraction, answer: str | None, failure: str | None) -> Side:
    return Side(
        answer=_cut(answer),
        failure=_cut(failure),
        latency_ms=one.latency_ms,
        input_tokens=one.input_tokens,
        output_tokens=one.output_tokens,
        cost_usd=one.cost_usd,
        endpoint=one.endpoint,
        model=one.model,
        interaction_id=one.interaction_id,
    )


def _cut(text: str | None) -> str | None:
    return None if text is None else text[:_TEXT_CHARS]


def _pieces(text: str) -> Counter[str]:
    plain = f" {_BLANK.sub(' ', text.casefold()).strip()} "
    return Counter(plain[start : start + _PIECE] for start in range(len(plain) - _PIECE + 1))
