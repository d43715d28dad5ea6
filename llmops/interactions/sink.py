"""What the shipper asks of a sink: a place where interactions end up (MLflow, an inference table)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llmops.interactions.spool import Leased


@dataclass(frozen=True, slots=True)
class Delivered:
    """The sink holds the record, whole."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Not this time; the same record may be taken later."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The sink will never take this record; it becomes a dead letter."""

    reason: str


Outcome = Delivered | Retry | Refused


class Sink(Protocol):
    """A place where interactions end up. Used by one thread of one process.

    Attributes:
        batch: How many records one delivery takes at best.
    """

    @property
    def batch(self) -> int: ...

    def open(self) -> None:
        """Make the sink ready; called until it succeeds, before the first delivery. May take seconds.

        Raises:
            Unavailable: The sink is away; the message says why.
        """
        ...

    def deliver(self, batch: Sequence[Leased]) -> list[Outcome]:
        """Store records. Idempotent by interaction id: a record delivered twice, or half and then whole, is there once.

        Args:
            batch: In the order they were written down, length >= 1, priced. ``tries`` above 1 marks a redelivery.

        Returns:
            One outcome for each record, in the batch's order.

        Raises:
            Unavailable: The sink is away; every record of the batch will be delivered again.
        """
        ...
