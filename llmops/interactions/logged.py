"""What was logged, as people ask for it: which interactions, in short, and one with its whole story."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from llmops.errors import InvalidParameter
from llmops.interactions.logged_stats import EndpointStats, Period
from llmops.interactions.record import Attempt

#: What `Wanted.status` may be besides an HTTP status and a class of them.
OUTCOMES = ("answered", "failed", "cut", "abandoned")
#: Any outcome but answered.
ERROR = "error"
_STATUS = re.compile(r"[1-5](\d\d|xx)")
#: A zero byte, and what is left of bytes that are no UTF-8.
_UNWRITABLE = re.compile("[\x00\ud800-\udfff]")
#: SQLite refuses a pattern of more than 50,000 bytes; a character may become twelve.
_CONTAINS_CHARS = 2000


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which interactions are asked for; None asks for any.

    Attributes:
        endpoint: An endpoint's name; ``_rejected`` for calls of unknown names and unreadable bodies.
        status: HTTP status of the answer, ``502``; a class of them, ``5xx``; an outcome (answered, failed, cut,
            abandoned); or ``error``: any outcome but answered.
        since_ms: Epoch milliseconds; received then or later.
        until_ms: Epoch milliseconds; received before.
        min_cost_usd: Cost so much or more; one whose price is not known did not.
        contains: Part of the request or the response, whole; case is not looked at.

    Raises:
        InvalidParameter: The status is none of these, or a text cannot be looked for.
    """

    endpoint: str | None = None
    user: str | None = None
    session: str | None = None
    status: str | None = None
    client_request_id: str | None = None
    model: str | None = None
    served_entity: str | None = None
    provider: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    min_cost_usd: float | None = None
    min_latency_ms: float | None = None
    contains: str | None = None

    def __post_init__(self) -> None:
        texts = (self.endpoint, self.client_request_id, self.contains, *self.tags().values(), *self.params().values())
        if any(text is not None and _UNWRITABLE.search(text) for text in texts):
            raise InvalidParameter("a text to look for has a character no database can hold")
        if self.contains is not None and not 0 < len(self.contains) <= _CONTAINS_CHARS:
            raise InvalidParameter(
                f"a text to look for in requests and responses has 1 to {_CONTAINS_CHARS} characters"
            )
        if self.status is None or self.status in (*OUTCOMES, ERROR) or _STATUS.fullmatch(self.status):
            return
        kinds = f"an HTTP status (502), a class of them (5xx), {ERROR}, {', '.join(OUTCOMES)}"
        raise InvalidParameter(f"'{self.status}' is none of: {kinds}")

    @property
    def status_pattern(self) -> str | None:
        """The status with a ``_`` for any digit, as LIKE has it; None where none or an outcome is asked for."""
        return self.status.replace("x", "_") if self.status and self.status[0].isdigit() else None

    def tags(self) -> dict[str, str]:
        """The tags of a run that must have these values."""
        tags = {"user": self.user, "session": self.session, "client_request_id": self.client_request_id}
        outcome = {"outcome": self.status if self.status in OUTCOMES else None}
        return {key: value for key, value in {**tags, **outcome}.items() if value is not None}

    def params(self) -> dict[str, str]:
        """The params of a run that must have these values."""
        params = {"model": self.model, "served_entity": self.served_entity, "provider": self.provider}
        return {key: value for key, value in params.items() if value is not None}

    def metrics(self) -> dict[str, float]:
        """The metrics of a run that must be at least so high."""
        metrics = {"cost_usd": self.min_cost_usd, "latency_ms": self.min_latency_ms}
        return {key: value for key, value in metrics.items() if value is not None}


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
        token: Asks for the next page; None on the last. A page with a token may be short, or empty.
    """

    interactions: tuple[LoggedInteraction, ...]
    token: str | None

    def document(self) -> dict[str, object]:
        """As JSON."""
        return {"interactions": [one.document() for one in self.interactions], "next_page_token": self.token}


@dataclass(frozen=True, slots=True)
class Assessment:
    """What somebody thinks of an answer.

    Attributes:
        value: A yes or no, a score, or a comment.
        source: Who: a person, a judge, a program.
    """

    name: str
    value: Any
    source: str
    rationale: str | None
    created_ms: int | None


@dataclass(frozen=True, slots=True)
class Story:
    """One interaction, whole.

    Attributes:
        request: The body as it came, parsed where it is JSON.
        response: The body of the answer, parsed where it is JSON; None where there was none.
        params: Everything that was sent with it, sampling parameters too, as MLflow keeps them.
        message: Why it failed, in one line; None where it did not.
        guardrails: What each check said, in the order they ran.
        assessments: In the order they were made.
        wire: How the caller spoke, as in the record.
    """

    interaction: LoggedInteraction
    request: object
    response: object
    attempts: tuple[Attempt, ...]
    params: Mapping[str, str] = field(default_factory=dict)
    message: str | None = None
    guardrails: tuple[Mapping[str, Any], ...] = ()
    assessments: tuple[Assessment, ...] = ()
    wire: str = ""

    def document(self) -> dict[str, object]:
        """As JSON."""
        return {
            **self.interaction.document(),
            "message": self.message,
            "wire": self.wire,
            "params": dict(self.params),
            "attempts": [asdict(attempt) for attempt in self.attempts],
            "guardrails": [dict(verdict) for verdict in self.guardrails],
            "assessments": [asdict(assessment) for assessment in self.assessments],
            "request": self.request,
            "response": self.response,
        }


class Reader(Protocol):
    """Reads what was logged. Only complete interactions are seen. Every method may raise `Unavailable`."""

    def page(self, wanted: Wanted, limit: int, token: str | None = None) -> Page:
        """List interactions, newest first.

        Args:
            limit: 1 to 1000.
            token: From the page before; of the same ``wanted``.

        Raises:
            InvalidParameter: The token is none of ours.
        """
        ...

    def arrived(self, wanted: Wanted, since_ms: int) -> list[str]:
        """List the ids of interactions received since then, oldest first."""
        ...

    def named(self, ids: Sequence[str]) -> list[LoggedInteraction]:
        """Read interactions of which the last `arrived` gave the ids, in this order; one that is gone is left out."""
        ...

    def stats(self, wanted: Wanted, period: Period | None = None) -> tuple[EndpointStats, ...]:
        """Sum up interactions for each endpoint, by name, and for each period; what has none is left out."""
        ...

    def show(self, name: str) -> Story:
        """Tell the whole story of one interaction.

        Args:
            name: The id of an interaction, of its run, or of its trace, or so much of its beginning as only one has.

        Raises:
            NotFound: There is no such interaction; the message names the one most like it.
            InvalidParameter: Several begin so.
        """
        ...
