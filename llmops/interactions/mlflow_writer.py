"""What the MLflow sink asks of a writer: a way into the tracking store."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from mlflow.entities import Span

from llmops.interactions.mlflow_entities import RunEntities, SessionEntities, run_entities, session_entities
from llmops.interactions.mlflow_spans import SpanDraft, drafts, spans
from llmops.interactions.record import Interaction
from llmops.interactions.sink import Outcome
from llmops.interactions.spool import Leased


@dataclass(frozen=True, slots=True)
class Mapped:
    """A record with what MLflow is to hold of it; the head of the trace is missing, it names the run.

    Attributes:
        tries: As `Leased.tries`.
    """

    interaction: Interaction
    tries: int
    run: RunEntities
    session: SessionEntities | None
    drafts: list[SpanDraft]

    @classmethod
    def of(cls, leased: Leased[Interaction]) -> Self:
        """Map a record.

        Raises:
            TypeError, ValueError, AttributeError, OverflowError: A field holds what it may not.
        """
        one = leased.record
        return cls(one, leased.tries, run_entities(one), session_entities(one), drafts(one))

    @property
    def spans(self) -> list[Span]:
        """The spans of the trace, made anew each time: the SQL writer needs none, and making them takes a while."""
        return spans(self.interaction, self.drafts)


class Writer(Protocol):
    """Puts records into a tracking store. The client writer does it through the API, the SQL writer does not."""

    @property
    def batch(self) -> int:
        """How many records one `write` takes at best."""
        ...

    @property
    def lanes(self) -> int:
        """How many threads may call `write` at once, each with other records; all of a session in the same call."""
        ...

    def write(self, batch: Sequence[Mapped]) -> list[Outcome]:
        """Write records; idempotent, returns and raises as `Sink.deliver`."""
        ...
