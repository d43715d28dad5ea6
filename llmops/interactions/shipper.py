"""The shipper: takes interactions from the spools of all workers and brings them to the sinks.

One process for each data directory, at low priority, so that logging never slows an invocation:

    python -m llmops.interactions.shipper --data-dir DIR [--grace SECONDS]

It runs until SIGTERM, or until the pipe on its stdin ends (llmops/leash.py).
"""

import argparse
import fcntl
import logging
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from llmops.errors import SpoolError, Unavailable
from llmops.interactions.delivery import Delivery
from llmops.interactions.mlflow_sink import MlflowSink
from llmops.interactions.pricing import PriceList
from llmops.interactions.shipper_state import Account
from llmops.interactions.sink import Sink
from llmops.interactions.spool import SpoolReader, depth, spools
from llmops.leash import hold
from llmops.settings import Settings, price_list, server_settings

_IDLE_S = 0.05
_SPOOL_WAIT_S = 1.0
#: While a sink is away: the first wait, doubled up to the second.
_FIRST_WAIT_S, _MOST_WAIT_S = 0.2, 10.0


class Shipper:
    """Empties the spools of a data directory, for as long as it is told to.

    Args:
        sinks: See `Delivery`; not open yet.
    """

    def __init__(self, settings: Settings, sinks: Sequence[Sink]) -> None:
        self._settings = settings
        self._unopened = list(sinks)
        self._delivery = Delivery(sinks, PriceList.read(price_list()))
        self._readers: dict[Path, SpoolReader] = {}
        self._account = Account(settings.data_dir, self._counts)
        self._failures = 0
        self._account.tell("starting")

    def run(self, stop: threading.Event) -> None:
        """Ship until ``stop`` is set; the batch on its way is finished first."""
        while not stop.wait(self.step()):
            pass

    def drain(self, deadline_s: float) -> None:
        """Ship until every spool is empty, or until ``deadline_s`` on the monotonic clock. No record waits its time."""
        while (left_s := deadline_s - time.monotonic()) > 0:
            wait_s = self.step(patient=False)
            if wait_s and not self._counts()[0]:
                return
            time.sleep(min(wait_s, left_s))

    def step(self, *, patient: bool = True) -> float:
        """Ship one batch from every spool that has something.

        Args:
            patient: Whether records that failed are left until their time has come.

        Returns:
            Seconds to wait before the next step; 0.0 where there may be more to do at once.
        """
        try:
            self._open()
            busy, trouble = self._ship_all(time.time_ns() // 1_000_000 if patient else None)
        except Unavailable as err:
            self._failures += 1
            self._account.tell("waiting", err.message)
            return _wait_s(self._failures)
        if trouble:
            self._account.tell("waiting", trouble)
            return 0.0 if busy else _SPOOL_WAIT_S
        if busy or not self._failures:
            self._failures = 0
            self._account.tell("ready")
        else:
            self._account.renew()
        return 0.0 if busy else _IDLE_S

    @property
    def away(self) -> bool:
        """Whether a sink could not be reached when it was last tried."""
        return self._failures > 0

    def close(self) -> None:
        """Let go of the spools."""
        for reader in self._readers.values():
            reader.close()

    def _open(self) -> None:
        while self._unopened:
            self._unopened[0].open()
            del self._unopened[0]
            self._failures = 0

    def _ship_all(self, now_ms: int | None) -> tuple[bool, str]:
        """Ship a batch of each spool; a spool that fails does not keep the others.

        Returns:
            Whether there was anything, and what is wrong with a spool, if anything.
        """
        busy, trouble = False, ""
        for path in spools(self._settings.spool_dir):
            try:
                shipped = self._delivery.ship(self._reader(path), now_ms)
            except SpoolError as err:
                trouble = err.message
                self._forget(path)
            else:
                busy = busy or shipped is not None
                self._account.add(shipped or 0)
        return busy, trouble

    def _reader(self, path: Path) -> SpoolReader:
        if path not in self._readers:
            self._readers[path] = SpoolReader(path, full_sync=self._settings.spool_full_sync)
        return self._readers[path]

    def _forget(self, path: Path) -> None:
        reader = self._readers.pop(path, None)
        if reader is not None:
            reader.close()

    def _counts(self) -> tuple[int, int]:
        """Records and dead letters of all spools that can be read."""
        counts = [(0, 0)]
        for path in spools(self._settings.spool_dir):
            with suppress(SpoolError):
                counts.append((self._reader(path).depth(), self._reader(path).dead()))
        depths, dead = zip(*counts, strict=True)
        return sum(depths), sum(dead)


def sinks(settings: Settings) -> tuple[Sink, ...]:
    """Where interactions end up."""
    return (MlflowSink(settings),)


def flush(settings: Settings, timeout_s: float) -> int:
    """Wait until the spools are empty; where no shipper runs, ship in this process.

    Returns:
        How many records are left; 0 unless the time was not enough.

    Raises:
        SpoolError: A spool cannot be read.
    """
    deadline_s = time.monotonic() + timeout_s
    while (left := depth(settings.spool_dir)) and time.monotonic() < deadline_s:
        with _alone(settings.data_dir) as alone:
            if alone:
                shipper = Shipper(settings, sinks(settings))
                shipper.drain(deadline_s)
                shipper.close()
        time.sleep(_IDLE_S)
    return left


@contextmanager
def _alone(data_dir: Path) -> Iterator[bool]:
    """Hold the lock of the one shipper of a data directory, if it is free; the kernel lets go of a dead one's."""
    with (data_dir / "shipper.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        else:
            alone = True
        yield alone


def _wait_s(failures: int) -> float:
    """Seconds after so many failures, >= 1: doubled each time, and jittered, so that shippers do not march in step."""
    longest_s = min(_FIRST_WAIT_S * 2.0 ** min(failures - 1, 32), _MOST_WAIT_S)
    return longest_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def _ship_until(settings: Settings, stop: threading.Event, grace_s: float) -> None:
    while not stop.is_set():
        with _alone(settings.data_dir) as alone:
            if not alone:
                # An older one is still finishing; its records are in good hands.
                stop.wait(1.0)
                continue
            shipper = Shipper(settings, sinks(settings))
            shipper.run(stop)
            # Records are safe where they are: to wait for a sink that is away would only delay the end.
            if not shipper.away:
                shipper.drain(time.monotonic() + grace_s)
            shipper.close()


def main() -> int:
    """Run the shipper of a data directory until it is asked to end."""
    parser = argparse.ArgumentParser(prog="llmops.interactions.shipper")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--grace", type=float, default=10.0, help="seconds to go on shipping after SIGTERM")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    stop = threading.Event()
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, lambda *_: stop.set())
    hold(grace_s=given.grace + 5.0)
    settings = server_settings(data_dir=given.data_dir)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    _ship_until(settings, stop, given.grace)
    return 0


if __name__ == "__main__":
    sys.exit(main())
