"""One sink and the spools it is fed from, in a thread of its own: a sink that is away never holds up another."""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from llmops.errors import SpoolError, Unavailable
from llmops.interactions.damage import set_aside
from llmops.interactions.delivery import Delivery
from llmops.interactions.shipper_state import SinkState
from llmops.interactions.sink import Keeper, Sink
from llmops.interactions.spool import Record, spools
from llmops.interactions.spool_file import damaged
from llmops.interactions.spool_reader import SpoolReader

logger = logging.getLogger(__name__)

IDLE_S = 0.05
_SPOOL_WAIT_S = 1.0
#: While a sink is away: the first wait, doubled up to the second.
_FIRST_WAIT_S, _MOST_WAIT_S = 0.2, 10.0
#: What an Unavailable says that was told nothing; a sink that says more knows better than our back-off.
_DEFAULT_RETRY_AFTER_S = 2

T = TypeVar("T", bound=Record)


@dataclass(frozen=True, slots=True)
class Route(Generic[T]):
    """From where records go to where.

    Attributes:
        decode: Makes a record of what its `encode` wrote.
        prepare: See `Delivery`.
        sinks: All that get the records of this directory; their names differ from those of every other route.
    """

    spool_dir: Path
    decode: Callable[[bytes], T]
    prepare: Callable[[T], T]
    sinks: Sequence[Sink[T]]


class Consumer(Generic[T]):
    """Feeds one sink of a route. Used by one thread; `state` may be read by others.

    Attributes:
        sink: Not open yet.
        state: How it is doing; its counts of the spools are left to who counts.
    """

    def __init__(self, route: Route[T], sink: Sink[T], *, full_sync: bool) -> None:
        self.sink = sink
        self.state = SinkState(sink.name)
        self._route = route
        self._full_sync = full_sync
        self._delivery = Delivery(sink, route.prepare)
        self._readers: dict[Path, SpoolReader[T]] = {}
        self._keeper = sink if isinstance(sink, Keeper) else None
        self._is_open = False
        self._failures = 0
        #: Whether all that was leased last waits for what is on its way.
        self._postponed = False

    def run(self, stop: threading.Event, drain_s: float, changed: Callable[[], None]) -> None:
        """Ship until ``stop`` is set, finish the batch on its way, and go on for ``drain_s`` while there is more.

        Args:
            changed: Called after every step.
        """
        try:
            while not stop.is_set():
                wait_s = self.step()
                changed()
                stop.wait(wait_s)
            # Records are safe where they are: to wait for a sink that is away would only delay the end.
            if not self.away:
                self.drain(time.monotonic() + drain_s, ending=True)
        finally:
            self.close()

    def drain(self, deadline_s: float, *, ending: bool = False) -> None:
        """Ship until nothing waits, or until ``deadline_s`` on the monotonic clock. No record waits its time.

        Args:
            ending: Leave what waits for other records to the next shipper.
        """
        try:
            while (left_s := deadline_s - time.monotonic()) > 0:
                wait_s = self.step(patient=False)
                if wait_s and ((ending and self._postponed) or not self._waiting()):
                    return
                time.sleep(min(wait_s, left_s))
        finally:
            self.close()

    def step(self, *, patient: bool = True) -> float:
        """Ship one batch from every spool that has something.

        Args:
            patient: Whether records are left that linger, or that failed and whose time has not come.

        Returns:
            Seconds to wait before the next step; 0.0 where there may be more to do at once.
        """
        try:
            self._open()
            some, more, trouble = self._ship_all(patient=patient)
            if not more and self._keeper is not None:
                self._keeper.rest()
        except Unavailable as err:
            return self._fail(err.message, err.retry_after_s)
        except Exception as err:
            # The outer wall of this sink: the others go on, and it is tried again.
            logger.exception("event=sink_failed sink=%s", self.sink.name)
            return self._fail(f"{type(err).__name__}; see the shipper's log", None)
        if trouble:
            self._tell("waiting", trouble)
            return 0.0 if more else _SPOOL_WAIT_S
        if some or not self._failures:
            self._failures = 0
            self._tell("ready")
        return 0.0 if more else IDLE_S

    @property
    def away(self) -> bool:
        """Whether the sink could not be reached when it was last tried."""
        return self._failures > 0

    def close(self) -> None:
        """Let go of the spools and the sink."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        if self._is_open and self._keeper is not None:
            self._is_open = False
            self._keeper.close()

    def _open(self) -> None:
        if not self._is_open:
            self.sink.open()
            self._is_open, self._failures = True, 0

    def _ship_all(self, *, patient: bool) -> tuple[bool, bool, str]:
        """Ship a batch of each spool; a spool that fails does not keep the others.

        Returns:
            Whether there was anything, whether there may be more at once, and what is wrong with a spool, if anything.
        """
        some, more, moved, trouble = False, False, False, ""
        for path in spools(self._route.spool_dir):
            try:
                reader = self._reader(path)
                shipped = self._delivery.ship(reader, patient=patient)
                if shipped is None:
                    reader.tidy()
            except SpoolError as err:
                trouble = err.message
                self._give_up(path, err)
            else:
                if shipped is not None:
                    some, more, moved = True, more or shipped.more, moved or shipped.moved
                    self._count(shipped.arrived)
        self._postponed = some and not moved
        return some, more, trouble

    def _reader(self, path: Path) -> SpoolReader[T]:
        if path in self._readers and self._readers[path].replaced():
            self._forget(path)
        if path not in self._readers:
            names = [sink.name for sink in self._route.sinks]
            self._readers[path] = SpoolReader(
                path, self._route.decode, self.sink.name, names, full_sync=self._full_sync
            )
        return self._readers[path]

    def _give_up(self, path: Path, err: SpoolError) -> None:
        """Close a spool that cannot be used now, and move it aside where it never will be."""
        reader = self._readers.get(path)
        inode = reader.inode if reader is not None else None
        self._forget(path)
        if damaged(err.__cause__, path):
            aside = set_aside(path, inode)
            if aside is not None:
                logger.error("event=spool_damaged spool=%s moved_to=%s reason=%r", path, aside, err.message)

    def _forget(self, path: Path) -> None:
        reader = self._readers.pop(path, None)
        if reader is not None:
            reader.close()

    def _waiting(self) -> int:
        """What this sink has still to get, of the spools that can be read."""
        count = 0
        for path in spools(self._route.spool_dir):
            try:
                count += self._reader(path).waiting()
            except SpoolError:
                self._forget(path)
        return count

    def _count(self, shipped: int) -> None:
        if shipped:
            total, now_ms = self.state.shipped + shipped, time.time_ns() // 1_000_000
            self.state = replace(self.state, shipped=total, success_ms=now_ms)

    def _fail(self, reason: str, retry_after_s: int | None) -> float:
        self._failures += 1
        self._tell("waiting", reason)
        wait_s = _wait_s(self._failures)
        if retry_after_s is None or retry_after_s <= _DEFAULT_RETRY_AFTER_S:
            return wait_s
        return max(wait_s, float(retry_after_s))

    def _tell(self, state: str, reason: str = "") -> None:
        if state != self.state.state:
            level = logging.WARNING if state == "waiting" else logging.INFO
            name, shipped = self.sink.name, self.state.shipped
            logger.log(level, "event=shipper sink=%s state=%s shipped=%d reason=%r", name, state, shipped, reason)
        if (state, reason) != (self.state.state, self.state.reason):
            self.state = replace(self.state, state=state, reason=reason)


def _wait_s(failures: int) -> float:
    """Seconds after so many failures, >= 1: doubled each time, and jittered, so that shippers do not march in step."""
    longest_s = min(_FIRST_WAIT_S * 2.0 ** min(failures - 1, 32), _MOST_WAIT_S)
    return longest_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


AnyRoute = Route[Any]
