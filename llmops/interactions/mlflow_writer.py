"""What the MLflow sink asks of a writer: a way into the tracking store."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from mlflow.entities import Span

from llmops.interactions.mlflow_entities import RunEntities, SessionEntities, run_entities, session_entities
from llmops.interactions.mlflow_trace import spans
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
    spans: list[Span]

    @classmethod
    def of(cls, leased: Leased) -> Self:
        """Map a record.

        Raises:
            TypeError, ValueError, AttributeError: A field holds what it may not.
        """
        one = leased.interaction
        return cls(one, leased.tries, run_entities(one), session_entities(one), spans(one))


class Writer(Protocol):
    """Puts records into a tracking store. The client writer does it through the API; a faster one may not."""

    @property
    def batch(self) -> int:
        """How many records one `write` takes at best."""
        ...

    def write(self, experiment_id: str, batch: Sequence[Mapped]) -> list[Outcome]:
        """Write records of one experiment; idempotent, returns and raises as `Sink.deliver`."""
        ...
