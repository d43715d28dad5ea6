"""What the shipper tells the other processes about itself: one small JSON file in the data directory."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import orjson

_FILE = "shipper.json"
#: Counts are told at most this often, and an unchanged state as often as the second.
_FRESH_S, _ALIVE_S = 1.0, 5.0


@dataclass(frozen=True, slots=True)
class SinkState:
    """How one sink is doing.

    Attributes:
        name: See `Sink.name`.
        state: starting (it is being made ready), ready, or waiting (it or a spool is away).
        reason: Why it waits, in one line; empty otherwise.
        shipped: Records it took since the shipper started.
        waiting: Records it has still to get; at most a few seconds old.
        dead: Its dead letters.
        success_ms: Epoch milliseconds of the last delivery it took something of; None before the first.
    """

    name: str
    state: str = "starting"
    reason: str = ""
    shipped: int = 0
    waiting: int = 0
    dead: int = 0
    success_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """What lies in the spools.

    Attributes:
        depth: Records not every sink has.
        dead: Dead letters of all sinks, former ones too.
        oldest_ms: Epoch milliseconds at which the oldest waiting record was written; None where none waits.
        waiting_of: Records each sink has still to get.
        dead_of: Dead letters of each sink.
    """

    depth: int = 0
    dead: int = 0
    oldest_ms: int | None = None
    waiting_of: Mapping[str, int] = field(default_factory=dict)
    dead_of: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShipperState:
    """A shipper's own account of itself.

    Attributes:
        state: starting (a sink is being made ready), ready, or waiting (a sink or a spool is away).
        reason: Why it waits, in one line that names the sink; empty otherwise.
        shipped: Records delivered since it started, by all sinks together.
        depth: Records not every sink has; at most a few seconds old.
        dead: Dead letters in all spools.
        updated_ms: Epoch milliseconds of this account; an idle shipper renews it every five seconds.
        run_ids: Whether the MLflow sink gives runs the ids of their interactions, so that answers can name them.
        notice: What people should know of how the MLflow sink writes; empty where there is nothing.
        oldest_ms: Epoch milliseconds at which the oldest waiting record was written; None where none waits.
    """

    state: str
    reason: str
    shipped: int
    depth: int
    dead: int
    pid: int
    updated_ms: int
    run_ids: bool = False
    notice: str = ""
    oldest_ms: int | None = None
    sinks: tuple[SinkState, ...] = ()

    @classmethod
    def read(cls, data_dir: Path) -> Self | None:
        """Read the last account; None where there is none, or none that can be read."""
        try:
            document = orjson.loads((data_dir / _FILE).read_bytes())
            sinks = tuple(SinkState(**_known(SinkState, sink)) for sink in document.get("sinks", ()))
            return cls(**{**_known(cls, document), "sinks": sinks})
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def write(self, data_dir: Path) -> None:
        """Replace the account in one step: a reader sees the old one or this one.

        Raises:
            OSError: The file cannot be written.
        """
        fresh = data_dir / f".{_FILE}.{self.pid}"
        fresh.write_bytes(orjson.dumps(asdict(self)))
        fresh.replace(data_dir / _FILE)

    def sink(self, name: str) -> SinkState | None:
        """The state of one sink; None where the shipper has none of that name."""
        return next((sink for sink in self.sinks if sink.name == name), None)

    @property
    def age_s(self) -> float:
        """Seconds since this account was given."""
        return max(0.0, time.time_ns() / 1e9 - self.updated_ms / 1e3)


class Account:
    """Keeps the file current.

    Args:
        counts: What lies in the spools; called at most once a second, because counting reads.
    """

    def __init__(self, data_dir: Path, counts: Callable[[], Counts]) -> None:
        self._data_dir = data_dir
        self._counts = counts
        self._told: tuple[object, ...] = ()
        self._told_s = 0.0

    def tell(self, sinks: Sequence[SinkState], *, run_ids: bool, notice: str, trouble: str = "") -> None:
        """Say how the sinks are; written at once where a state changed, else now and then.

        Args:
            trouble: What is wrong with the shipper itself, in one line.
        """
        states = tuple((sink.name, sink.state, sink.reason) for sink in sinks)
        news = (states, run_ids, notice, trouble)
        shipped = sum(sink.shipped for sink in sinks)
        age_s = time.monotonic() - self._told_s
        if self._told[:-1] == news and age_s < (_ALIVE_S if self._told[-1] == shipped else _FRESH_S):
            return
        self._write(sinks, run_ids, notice, trouble)
        self._told, self._told_s = (*news, shipped), time.monotonic()

    def _write(self, sinks: Sequence[SinkState], run_ids: bool, notice: str, trouble: str) -> None:
        counts = self._counts()
        waiting = [f"{sink.name}: {sink.reason}" for sink in sinks if sink.state == "waiting"]
        waiting += [trouble] if trouble else []
        ready = all(sink.state == "ready" for sink in sinks)
        state = ShipperState(
            state="waiting" if waiting else "ready" if ready else "starting",
            reason="; ".join(waiting),
            shipped=sum(sink.shipped for sink in sinks),
            depth=counts.depth,
            dead=counts.dead,
            pid=os.getpid(),
            updated_ms=time.time_ns() // 1_000_000,
            run_ids=run_ids,
            notice=notice,
            oldest_ms=counts.oldest_ms,
            sinks=tuple(
                replace(sink, waiting=counts.waiting_of.get(sink.name, 0), dead=counts.dead_of.get(sink.name, 0))
                for sink in sinks
            ),
        )
        # An account that cannot be written is missed by /ready and nobody else; shipping goes on.
        with suppress(OSError):
            state.write(self._data_dir)


def _known(kind: type, document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a document that this release knows."""
    return {name: document[name] for name in (one.name for one in fields(kind)) if name in document}
