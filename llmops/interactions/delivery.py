"""One batch on its way from a spool to one sink: leased, prepared, delivered, settled."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Generic, NamedTuple, TypeVar

from llmops.errors import Unavailable
from llmops.interactions.sink import Delivered, Later, Outcome, Refused, Retry, Sink
from llmops.interactions.spool import Leased, Record
from llmops.interactions.spool_reader import ALONE_FROM_STRIKES, SpoolReader

logger = logging.getLogger(__name__)

#: After so many tries, about ten minutes, a record is buried, if the sink takes others.
_MAX_STRIKES = 16
#: What a record waits that fails alone, or that comes before what it needs; doubled each time.
_FIRST_WAIT_MS, _MOST_WAIT_MS = 500, 60_000

T = TypeVar("T", bound=Record)


class Shipment(NamedTuple):
    """What came of one batch.

    Attributes:
        arrived: How many records the sink has now.
        more: Whether the next batch should follow at once. A few fresh records are worth a wait: every batch takes the
            lock that the worker needs to append.
        moved: Whether a record met its fate, or failed; not where all of them wait for what is on its way.
    """

    arrived: int
    more: bool
    moved: bool


class Delivery(Generic[T]):
    """Brings batches to a sink, and settles every record by what the sink says of it.

    Args:
        prepare: Completes a record before it is delivered, with its price for example.
    """

    def __init__(self, sink: Sink[T], prepare: Callable[[T], T]) -> None:
        self._sink = sink
        self._prepare = prepare
        #: Whether the sink took or refused something since it last took nothing.
        self._heard = False
        self._crash = ""

    def ship(self, reader: SpoolReader[T], *, patient: bool = True) -> Shipment | None:
        """Ship one batch of a spool.

        Args:
            patient: As for `SpoolReader.lease`.

        Returns:
            What arrived; None where there was none to ship.

        Raises:
            Unavailable: No record was taken or refused: the sink is away. They are back in the spool.
            SpoolError: The spool cannot be read or written.
        """
        limit = self._sink.batch
        batch = reader.lease(limit, _now_ms(), patient=patient, linger_s=self._sink.linger_s)
        if not batch:
            return None
        try:
            outcomes = self._outcomes(batch)
        except Unavailable as err:
            self._heard = False
            reader.release(batch, err.message, 0, blamed=False)
            raise
        moved = any(not isinstance(outcome, Later) for outcome in outcomes)
        # Or who drains would ask again and again for what is on its way.
        more = moved and (len(batch) == limit or batch[0].tries > 1)
        return Shipment(self._settle(reader, batch, outcomes), more, moved)

    def _outcomes(self, batch: Sequence[Leased[T]]) -> list[Outcome]:
        try:
            outcomes = self._sink.deliver([replace(one, record=self._prepare(one.record)) for one in batch])
            if len(outcomes) != len(batch):
                raise RuntimeError(f"{self._sink.name} gave {len(outcomes)} outcomes for {len(batch)} records")
        except Unavailable:
            raise
        except Exception as err:  # The outer wall: one bad record must not end the shipper.
            reason = f"{type(err).__name__} while delivering"
            if reason != self._crash:
                logger.exception("event=delivery_failed sink=%s reason=%r", self._sink.name, reason)
            self._crash = reason
            return [Retry(reason)] * len(batch)
        return outcomes

    def _settle(self, reader: SpoolReader[T], batch: Sequence[Leased[T]], outcomes: Sequence[Outcome]) -> int:
        pairs = list(zip(batch, outcomes, strict=True))
        delivered = [leased for leased, outcome in pairs if isinstance(outcome, Delivered)]
        reader.ack(delivered)
        self._heard = self._heard or any(isinstance(outcome, Delivered | Refused) for outcome in outcomes)
        for leased, outcome in pairs:
            match outcome:
                case Refused(reason):
                    self._bury(reader, leased, reason)
                case Retry(reason) if leased.strikes >= _MAX_STRIKES and self._heard:
                    self._bury(reader, leased, f"failed {leased.strikes} times: {reason}")
                case Later(reason):
                    reader.release([leased], reason, _now_ms() + _later_ms(leased.tries), blamed=False)
                case Retry(reason):
                    reader.release([leased], reason, _now_ms() + _wait_ms(leased.strikes))
        reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, Retry)]
        if len(reasons) == len(batch):
            self._heard = False
            raise Unavailable(reasons[0])
        return len(delivered)

    def _bury(self, reader: SpoolReader[T], leased: Leased[T], reason: str) -> None:
        reader.bury(leased, reason)
        name, interaction_id = self._sink.name, leased.record.interaction_id
        logger.error("event=dead_letter sink=%s interaction_id=%s reason=%r", name, interaction_id, reason)


def _wait_ms(strikes: int) -> int:
    """Nothing while it may be another record's fault; one that failed alone waits, or it would be all we try."""
    alone = strikes - ALONE_FROM_STRIKES
    return min(_FIRST_WAIT_MS << (alone - 1), _MOST_WAIT_MS) if alone > 0 else 0


def _later_ms(tries: int) -> int:
    """Doubled with each look, up to the most: a backlog may take hours."""
    return min(_FIRST_WAIT_MS << min(tries - 1, 16), _MOST_WAIT_MS)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
