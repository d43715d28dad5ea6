"""What was logged, as people ask for it: one interaction, its whole story, and figures over many."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from llmops.interactions.record import Attempt


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which interactions are asked for; None asks for any.

    Attributes:
        endpoint: An endpoint's name; ``_rejected`` for calls of unknown names and unreadable bodies.
        status: HTTP status of the answer.
        since_ms: Epoch milliseconds; received then or later.
    """

    endpoint: str | None = None
    user: str | None = None
    session: str | None = None
    status: int | None = None
    client_request_id: str | None = None
    since_ms: int | None = None


@dataclass(frozen=True, slots=True)
class LoggedInteraction:
    """One interaction, in short.

    Attributes:
        received_ms: Epoch milliseconds.
        first_token_ms: Milliseconds to the first byte of a streamed answer.
        cost_usd: None where no price is known.
        prompt: The beginning of what was asked.
        response: The beginning of what was answered, or the message of the failure.
    """

    interaction_id: str
    run_id: str
    trace_id: str
    endpoint: str
    received_ms: int
    status: int
    outcome: str
    error_code: str | None
    served_entity: str | None
    provider: str | None
    model: str | None
    task: str | None
    user: str | None
    session: str | None
    client_request_id: str | None
    latency_ms: float | None
    first_token_ms: float | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    prompt: str
    response: str

    def document(self) -> dict[str, object]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Page:
    """Some interactions, newest first.

    Attributes:
        token: Asks for the next page; None on the last.
    """

    interactions: tuple[LoggedInteraction, ...]
    token: str | None

    def document(self) -> dict[str, object]:
        """As JSON."""
        return {"interactions": [one.document() for one in self.interactions], "next_page_token": self.token}


@dataclass(frozen=True, slots=True)
class Story:
    """One interaction, whole.

    Attributes:
        request: The body as it came, parsed where it is JSON.
        response: The body of the answer, parsed where it is JSON; None where there was none.
        params: Everything that was sent with it, sampling parameters too, as MLflow keeps them.
    """

    interaction: LoggedInteraction
    request: object
    response: object
    attempts: tuple[Attempt, ...]
    params: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        """As JSON."""
        return {
            **self.interaction.document(),
            "params": dict(self.params),
            "attempts": [asdict(attempt) for attempt in self.attempts],
            "request": self.request,
            "response": self.response,
        }


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """Figures of one endpoint.

    Attributes:
        errors: Interactions that did not end with a whole answer; those the caller abandoned among them.
        latency_ms: The 50th, 95th and 99th percentile.
        first_token_ms: The median of streamed answers; None where nothing was streamed.
        cost_usd: The sum of known prices.
        unpriced: Interactions that used tokens whose price is not known: the sum is too low.
    """

    endpoint: str
    requests: int
    errors: int
    latency_ms: tuple[float, float, float]
    first_token_ms: float | None
    input_tokens: int
    output_tokens: int
    cost_usd: float
    unpriced: int

    def document(self) -> dict[str, object]:
        """As JSON."""
        p50, p95, p99 = self.latency_ms
        rest = {key: value for key, value in asdict(self).items() if key != "latency_ms"}
        return {**rest, "latency_p50_ms": p50, "latency_p95_ms": p95, "latency_p99_ms": p99}


def stats(endpoint: str, interactions: list[LoggedInteraction]) -> EndpointStats:
    """Sum up the interactions of one endpoint.

    Args:
        interactions: Length >= 1.
    """
    latencies = sorted(one.latency_ms for one in interactions if one.latency_ms is not None)
    firsts = sorted(one.first_token_ms for one in interactions if one.first_token_ms is not None)
    return EndpointStats(
        endpoint=endpoint,
        requests=len(interactions),
        errors=sum(one.outcome != "answered" for one in interactions),
        latency_ms=(_percentile(latencies, 50), _percentile(latencies, 95), _percentile(latencies, 99)),
        first_token_ms=_percentile(firsts, 50) if firsts else None,
        input_tokens=sum(one.input_tokens or 0 for one in interactions),
        output_tokens=sum(one.output_tokens or 0 for one in interactions),
        cost_usd=sum(one.cost_usd or 0.0 for one in interactions),
        unpriced=sum(one.cost_usd is None and one.input_tokens is not None for one in interactions),
    )


def _percentile(ordered: list[float], percent: int) -> float:
    """The smallest value that so many percent of all do not exceed; 0.0 of none."""
    return ordered[-(-len(ordered) * percent // 100) - 1] if ordered else 0.0
