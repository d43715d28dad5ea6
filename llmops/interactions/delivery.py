"""One batch on its way from a spool to the sinks: leased, priced, delivered, settled."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from llmops.errors import Unavailable
from llmops.interactions.pricing import PriceList
from llmops.interactions.sink import Delivered, Outcome, Refused, Retry, Sink
from llmops.interactions.spool import ALONE_FROM_TRIES, Leased, SpoolReader

logger = logging.getLogger(__name__)

#: After so many tries, about ten minutes, a record is buried, if the sinks take others.
_MAX_TRIES = 16
#: What a record waits that fails alone; doubled each time.
_FIRST_WAIT_MS, _MOST_WAIT_MS = 500, 60_000


class Delivery:
    """Brings batches to sinks, and settles every record by what the sinks say of it.

    Args:
        sinks: A record is delivered when every one of them has it; length >= 1.
    """

    def __init__(self, sinks: Sequence[Sink], prices: PriceList) -> None:
        self._sinks = sinks
        self._prices = prices
        #: Whether the sinks took or refused something since they last took nothing.
        self._heard = False
        self._crash = ""

    def ship(self, reader: SpoolReader, now_ms: int | None) -> int | None:
        """Ship one batch of a spool.

        Args:
            now_ms: As for `SpoolReader.lease`.

        Returns:
            How many records arrived; None where there was none to ship.

        Raises:
            Unavailable: No record was taken or refused: a sink is away. They are back in the spool.
            SpoolError: The spool cannot be read or written.
        """
        batch = reader.lease(min(sink.batch for sink in self._sinks), now_ms)
        if not batch:
            return None
        return self._settle(reader, batch, self._outcomes(batch))

    def _outcomes(self, batch: Sequence[Leased]) -> list[Outcome]:
        try:
            priced = [self._priced(leased) for leased in batch]
            answers = [sink.deliver(priced) for sink in self._sinks]
        except Unavailable as err:
            reason = err.message
        except Exception as err:  # The outer wall: one bad record must not end the shipper.
            reason = f"{type(err).__name__} while delivering"
            if reason != self._crash:
                logger.exception("event=delivery_failed reason=%r", reason)
            self._crash = reason
        else:
            return [_worst(outcomes) for outcomes in zip(*answers, strict=True)]
        return [Retry(reason)] * len(batch)

    def _priced(self, leased: Leased) -> Leased:
        one = leased.interaction
        if one.cost_usd is not None:
            return leased
        cost_usd = self._prices.price(one.model, one.provider, one.usage)
        return replace(leased, interaction=replace(one, cost_usd=cost_usd))

    def _settle(self, reader: SpoolReader, batch: Sequence[Leased], outcomes: Sequence[Outcome]) -> int:
        delivered = [leased for leased, outcome in zip(batch, outcomes, strict=True) if isinstance(outcome, Delivered)]
        reader.ack(delivered)
        self._heard = self._heard or any(not isinstance(outcome, Retry) for outcome in outcomes)
        for leased, outcome in zip(batch, outcomes, strict=True):
            match outcome:
                case Refused(reason):
                    _bury(reader, leased, reason)
                case Retry(reason) if leased.tries >= _MAX_TRIES and self._heard:
                    _bury(reader, leased, f"failed {leased.tries} times: {reason}")
                case Retry(reason):
                    reader.release([leased], reason, time.time_ns() // 1_000_000 + _wait_ms(leased.tries))
        reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, Retry)]
        if len(reasons) == len(batch):
            self._heard = False
            raise Unavailable(reasons[0])
        return len(delivered)


def _bury(reader: SpoolReader, leased: Leased, reason: str) -> None:
    reader.bury([leased], reason)
    logger.error("event=dead_letter interaction_id=%s reason=%r", leased.interaction.interaction_id, reason)


def _worst(outcomes: Sequence[Outcome]) -> Outcome:
    """What several sinks say of one record: first of all it is tried again, so that no sink misses it."""
    by_rank = [outcome for kind in (Retry, Refused) for outcome in outcomes if isinstance(outcome, kind)]
    return by_rank[0] if by_rank else Delivered()


def _wait_ms(tries: int) -> int:
    """Nothing while it may be another record's fault; one that failed alone waits, or it would be all we try."""
    alone = tries - ALONE_FROM_TRIES
    return min(_FIRST_WAIT_MS << (alone - 1), _MOST_WAIT_MS) if alone > 0 else 0
