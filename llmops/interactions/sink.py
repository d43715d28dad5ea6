"""What the shipper asks of a sink: a place where records end up (MLflow, an inference table)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from llmops.interactions.spool import Leased, Record


@dataclass(frozen=True, slots=True)
class Delivered:
    """The sink holds the record, whole."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Not this time; the same record may be taken later."""

    reason: str


@dataclass(frozen=True, slots=True)
class Later:
    """Not yet, and for no fault of the record's: what it needs is on its way. It waits, however long, unblamed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The sink will never take this record; it becomes a dead letter."""

    reason: str


Outcome = Delivered | Retry | Later | Refused
T = TypeVar("T", bound=Record)


class Sink(Protocol[T]):
    """A place where records of one type end up. Used by one thread of one process.

    Attributes:
        name: One word; the spool remembers by it what this sink has. Never change it.
        batch: How many records one delivery takes at best; read before each.
        linger_s: How long a record may wait for others to be delivered with.
    """

    @property
    def name(self) -> str: ...

    @property
    def batch(self) -> int: ...

    @property
    def linger_s(self) -> float: ...

    def open(self) -> None:
        """Make the sink ready; called until it succeeds, before the first delivery. May take seconds.

        Raises:
            Unavailable: The sink is away; the message says why.
        """
        ...

    def deliver(self, batch: Sequence[Leased[T]]) -> list[Outcome]:
        """Store records. Idempotent by interaction id: a record delivered twice, or half and then whole, is there once.

        Records come in the order they were written. They come in no other order, redelivery of the last batch apart,
        to a sink that answers no Retry and no Later, and raises nothing but Unavailable.

        Args:
            batch: Of one spool file, length >= 1, priced. ``tries`` above 1 marks a redelivery.

        Returns:
            One outcome for each record, in the batch's order.

        Raises:
            Unavailable: The sink is away; every record of the batch will be delivered again, in order. Its
                ``retry_after_s`` is honoured where it is more than the default.
            Exception: Anything else is taken for the fault of a record: those of the batch are delivered again one
                by one, others pass them, and what fails 16 times while others arrive becomes a dead letter.
        """
        ...


@runtime_checkable
class Keeper(Protocol):
    """A sink that has more to do than to take records."""

    def rest(self) -> None:
        """Do what can wait; called often while there is nothing to deliver. Raises as `Sink.deliver`."""
        ...

    def close(self) -> None:
        """Let go of everything; `Sink.open` is called before the sink is used again."""
        ...
