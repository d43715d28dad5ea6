"""The shipper: takes records from the spools of all workers and brings them to the sinks.

One process for each data directory, at low priority, so that logging never slows an invocation:

    python -m llmops.interactions.shipper --data-dir DIR [--grace SECONDS | --drain SECONDS]

It runs until SIGTERM, or until the pipe on its stdin ends (llmops/leash.py); with ``--drain`` until every spool is
empty, or the time is over.
"""

import argparse
import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llmops.errors import SpoolError
from llmops.interactions.consumer import IDLE_S, AnyRoute, Consumer, Route
from llmops.interactions.damage import salvage
from llmops.interactions.feedback import Feedback
from llmops.interactions.mlflow_feedback import FeedbackSink
from llmops.interactions.mlflow_sink import MlflowSink
from llmops.interactions.pricing import PriceList
from llmops.interactions.record import Interaction
from llmops.interactions.retention import keep_pruning
from llmops.interactions.shipper_lock import alone
from llmops.interactions.shipper_state import Account, Counts
from llmops.interactions.spool import spools
from llmops.interactions.spool_size import SpoolSize, measure, total
from llmops.interactions.table_sink import TableSink
from llmops.leash import hold
from llmops.settings import Settings, price_list, server_settings

logger = logging.getLogger(__name__)

#: How often damaged spools are looked for and the account is renewed.
_TICK_S = 1.0
#: Containers made and not yet freed before the youngest are looked at: about a batch's.
_COLLECT_EVERY = 50_000
#: The batch on its way may take so much longer than the grace.
_BATCH_S = 5.0


class Shipper:
    """Empties the spools of a data directory into every sink, each in a thread of its own."""

    def __init__(self, settings: Settings, routes: Sequence[AnyRoute]) -> None:
        self._routes = routes
        full_sync = settings.spool_full_sync
        self.consumers = [Consumer(route, sink, full_sync=full_sync) for route in routes for sink in route.sinks]
        self._account = Account(settings.data_dir, self._counts)
        self._changed = threading.Event()
        self._tell()

    def run(self, stop: threading.Event, drain_s: float) -> None:
        """Ship until ``stop`` is set; then the batches on their way are finished, and what is left for ``drain_s``."""
        self._salvage()
        threads = [
            threading.Thread(
                target=consumer.run, args=(stop, drain_s, self._changed.set), name=consumer.sink.name, daemon=True
            )
            for consumer in self.consumers
        ]
        for thread in threads:
            thread.start()
        looked_s = time.monotonic()
        while any(thread.is_alive() for thread in threads) and not stop.is_set():
            self._changed.wait(_TICK_S)
            self._changed.clear()
            if time.monotonic() - looked_s >= _TICK_S:
                looked_s = time.monotonic()
                self._salvage()
            self._tell()
            # Steps come by the hundred in a second; a state is old news for a moment.
            stop.wait(IDLE_S)
        self._join(threads, time.monotonic() + drain_s + _BATCH_S)

    def drain(self, deadline_s: float) -> None:
        """Ship until every spool is empty, or until ``deadline_s`` on the monotonic clock. No record waits its time."""
        self._salvage()
        threads = [
            threading.Thread(target=consumer.drain, args=(deadline_s,), name=consumer.sink.name, daemon=True)
            for consumer in self.consumers
        ]
        for thread in threads:
            thread.start()
        self._join(threads, deadline_s + _BATCH_S)

    def _join(self, threads: Sequence[threading.Thread], deadline_s: float) -> None:
        while (alive := [thread for thread in threads if thread.is_alive()]) and time.monotonic() < deadline_s:
            alive[0].join(IDLE_S)
            self._tell()
        self._tell()

    def _salvage(self) -> None:
        for route in self._routes:
            try:
                salvage(route.spool_dir, [sink.name for sink in route.sinks])
            except (SpoolError, OSError):
                # The damaged file stays where it is; the next look may find more room on the disk.
                logger.exception("event=salvage_failed directory=%s", route.spool_dir)

    def _tell(self) -> None:
        writers = [consumer.sink for consumer in self.consumers if consumer.sink.name == MlflowSink.name]
        run_ids = any(getattr(writer, "chooses_run_ids", False) for writer in writers)
        notice = "; ".join(getattr(writer, "notice", "") for writer in writers)
        self._account.tell([consumer.state for consumer in self.consumers], run_ids=run_ids, notice=notice)

    def _counts(self) -> Counts:
        """What lies in the spools that can be read."""
        sizes: list[SpoolSize] = []
        for path in (path for route in self._routes for path in spools(route.spool_dir)):
            try:
                sizes.append(measure(path))
            except SpoolError:
                continue
        dead = total(size.dead for size in sizes)
        return Counts(
            depth=sum(size.depth for size in sizes),
            dead=sum(dead.values()),
            oldest_ms=min((size.oldest_ms for size in sizes if size.oldest_ms is not None), default=None),
            waiting_of=total(size.waiting for size in sizes),
            dead_of=dead,
        )


def routes(settings: Settings) -> tuple[AnyRoute, ...]:
    """Where records come from and where they end up: one row for each directory of spools."""
    prices = PriceList.read(price_list())

    def priced(one: Interaction) -> Interaction:
        if one.cost_usd is not None:
            return one
        return replace(one, cost_usd=prices.price(one.model, one.provider, one.usage))

    return (
        Route(settings.spool_dir, Interaction.decode, priced, (MlflowSink(settings), TableSink(settings))),
        Route(settings.feedback_dir, Feedback.decode, lambda feedback: feedback, (FeedbackSink(settings),)),
    )


def _drain(settings: Settings, limit_s: float) -> None:
    """Ship until every spool is empty, unless another shipper does."""
    with alone(settings.data_dir) as free:
        if free:
            Shipper(settings, routes(settings)).drain(time.monotonic() + limit_s)


def spare_the_collector() -> None:
    """Keep Python's garbage collector off what lives as long as the process: MLflow alone is a million objects.

    Looking at them again and again took a tenth of the time a batch takes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY)


def _ship_until(settings: Settings, stop: threading.Event, grace_s: float) -> None:
    while not stop.is_set():
        with alone(settings.data_dir) as free:
            if not free:
                # An older one is still finishing; its records are in good hands.
                stop.wait(1.0)
                continue
            # It deletes while the others write; daemonic, because a deletion can be broken off at any point.
            threading.Thread(target=keep_pruning, args=(settings, stop), name="retention", daemon=True).start()
            Shipper(settings, routes(settings)).run(stop, grace_s)


def main() -> int:
    """Run the shipper of a data directory until it is asked to end."""
    parser = argparse.ArgumentParser(prog="llmops.interactions.shipper")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--grace", type=float, default=10.0, help="seconds to go on shipping after SIGTERM")
    parser.add_argument("--drain", type=float, help="ship what there is, for so many seconds at most, and end")
    given = parser.parse_args()
    level = logging.INFO if given.drain is None else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    stop = threading.Event()
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, lambda *_: stop.set())
    hold(grace_s=given.grace + 5.0)
    settings = server_settings(data_dir=given.data_dir)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    spare_the_collector()
    if given.drain is not None:
        _drain(settings, given.drain)
    else:
        _ship_until(settings, stop, given.grace)
    return 0


if __name__ == "__main__":
    sys.exit(main())
