"""What the shipper tells the other processes about itself: one small JSON file in the data directory."""

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import orjson

logger = logging.getLogger(__name__)

_FILE = "shipper.json"
#: Counts are told at most this often, and an unchanged state as often as the second.
_FRESH_S, _ALIVE_S = 1.0, 5.0


@dataclass(frozen=True, slots=True)
class ShipperState:
    """A shipper's own account of itself.

    Attributes:
        state: starting (the sinks are being made ready), ready, or waiting (a sink or a spool is away).
        reason: Why it waits, in one line; empty otherwise.
        shipped: Records delivered since it started.
        depth: Records not delivered yet; at most a few seconds old.
        dead: Dead letters in all spools.
        updated_ms: Epoch milliseconds of this account; an idle shipper renews it every five seconds.
    """

    state: str
    reason: str
    shipped: int
    depth: int
    dead: int
    pid: int
    updated_ms: int

    @classmethod
    def read(cls, data_dir: Path) -> Self | None:
        """Read the last account; None where there is none, or none that can be read."""
        try:
            return cls(**orjson.loads((data_dir / _FILE).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, data_dir: Path) -> None:
        """Replace the account in one step: a reader sees the old one or this one.

        Raises:
            OSError: The file cannot be written.
        """
        fresh = data_dir / f".{_FILE}.{self.pid}"
        fresh.write_bytes(orjson.dumps(asdict(self)))
        fresh.replace(data_dir / _FILE)


class Account:
    """Keeps the file current and logs every change of state, once.

    Args:
        counts: Gives depth and dead letters; called at most once a second, because counting reads.
    """

    def __init__(self, data_dir: Path, counts: Callable[[], tuple[int, int]]) -> None:
        self._data_dir = data_dir
        self._counts = counts
        self._state, self._reason, self._shipped = "", "", 0
        self._told_s = 0.0
        self._told_shipped = 0

    def add(self, shipped: int) -> None:
        """Count records that were delivered."""
        self._shipped += shipped

    def tell(self, state: str, reason: str = "") -> None:
        """Say how the shipper is."""
        if (state, reason) == (self._state, self._reason):
            self.renew()
            return
        if state != self._state:
            level = logging.WARNING if state == "waiting" else logging.INFO
            logger.log(level, "event=shipper state=%s shipped=%d reason=%r", state, self._shipped, reason)
        self._state, self._reason = state, reason
        self._write()

    def renew(self) -> None:
        """Say that the shipper is as it was; written only now and then."""
        age_s = time.monotonic() - self._told_s
        if age_s >= (_ALIVE_S if self._shipped == self._told_shipped else _FRESH_S):
            self._write()

    def _write(self) -> None:
        # An account that cannot be written is missed by /ready and nobody else; shipping goes on.
        with suppress(OSError):
            now_ms = time.time_ns() // 1_000_000
            state = ShipperState(self._state, self._reason, self._shipped, *self._counts(), os.getpid(), now_ms)
            state.write(self._data_dir)
        self._told_s, self._told_shipped = time.monotonic(), self._shipped
