"""The state of the whole interaction log of this machine, as any worker can read it from the data directory."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.errors import SpoolError
from llmops.interactions.damage import damaged_files
from llmops.interactions.shipper_state import ShipperState
from llmops.interactions.spool import spools
from llmops.interactions.spool_size import SpoolSize, measure, total
from llmops.interactions.worker_state import WorkerState, worker_states
from llmops.settings import Settings

#: A shipper that lives gives an account every five seconds; one that writes a large batch may be late.
STALE_S = 30.0


@dataclass(frozen=True, slots=True)
class SpoolState:
    """One spool file.

    Attributes:
        kind: What it holds: interactions or feedback.
        name: Of the file, without its end.
        size: None where it cannot be read.
        problem: Why it cannot; empty otherwise.
    """

    kind: str
    name: str
    size: SpoolSize | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything that lies between an answer and its run.

    Attributes:
        damaged: Files that were moved aside.
        shipper: Its last account; None where there never was one.
        limit_bytes: A spool of this size is full.
    """

    spools: Sequence[SpoolState]
    damaged: Sequence[Path]
    shipper: ShipperState | None
    workers: Sequence[WorkerState]
    limit_bytes: int
    now_s: float

    @classmethod
    def read(cls, settings: Settings, own: WorkerState | None = None) -> "Overview":
        """Read it all; takes a fraction of a millisecond for each spool, whatever that holds.

        Args:
            own: The state of the worker that asks, which is fresher than its file.
        """
        folders = {"interactions": settings.spool_dir, "feedback": settings.feedback_dir}
        workers = {state.worker: state for state in worker_states(settings.spool_dir)}
        if own is not None:
            workers[own.worker] = own
        return cls(
            spools=[_state(kind, path) for kind, folder in folders.items() for path in spools(folder)],
            damaged=[path for folder in folders.values() for path in damaged_files(folder)],
            shipper=ShipperState.read(settings.data_dir),
            workers=[workers[number] for number in sorted(workers)],
            limit_bytes=settings.spool_max_mb * 1_000_000,
            now_s=time.time(),
        )

    @property
    def sizes(self) -> list[SpoolSize]:
        """Of the spools that can be read."""
        return [spool.size for spool in self.spools if spool.size is not None]

    @property
    def waiting(self) -> Mapping[str, int]:
        """Records each sink has still to get."""
        return total(size.waiting for size in self.sizes)

    @property
    def dead(self) -> Mapping[str, int]:
        """Dead letters of each sink."""
        return total(size.dead for size in self.sizes)

    @property
    def shipping(self) -> bool:
        """Whether a shipper runs."""
        return self.shipper is not None and self.shipper.age_s < STALE_S

    def age_s(self, epoch_ms: int | None) -> float | None:
        """Seconds since then."""
        return None if epoch_ms is None else round(max(0.0, self.now_s - epoch_ms / 1000), 3)

    def short(self) -> dict[str, Any]:
        """What a person wants to know first."""
        oldest_ms = min((size.oldest_ms for size in self.sizes if size.oldest_ms is not None), default=None)
        return {
            "spool": {
                "records": sum(size.depth for size in self.sizes),
                "bytes": sum(size.live_bytes for size in self.sizes),
                "limit_bytes_each": self.limit_bytes,
                "oldest_age_s": self.age_s(oldest_ms),
                "full": any(worker.full for worker in self.workers),
                "problems": [spool.problem for spool in self.spools if spool.problem],
                "damaged_files": [path.name for path in self.damaged],
            },
            "not_recorded": {
                "lost": sum(worker.lost for worker in self.workers),
                "sampled_out": sum(worker.sampled_out for worker in self.workers),
                "refused": sum(worker.refused for worker in self.workers),
            },
            "dead_letters": {
                "records": sum(self.dead.values()),
                "last_reason": next((size.last_death for size in self.sizes if size.last_death), None),
            },
            "shipper": self._shipper(),
        }

    def _shipper(self) -> dict[str, Any]:
        state = self.shipper
        if state is None:
            return {"state": "absent", "reason": "no shipper has run yet"}
        reason = state.reason if self.shipping else f"it gave its last account {state.age_s:.0f} seconds ago"
        sinks = [
            {
                "name": sink.name,
                "state": sink.state,
                "reason": sink.reason,
                "waiting": self.waiting.get(sink.name, 0),
                "dead_letters": self.dead.get(sink.name, 0),
                "last_success_age_s": self.age_s(sink.success_ms),
            }
            for sink in state.sinks
        ]
        return {
            "state": state.state if self.shipping else "absent",
            "reason": reason,
            "notice": state.notice,
            "sinks": sinks,
        }


def _state(kind: str, path: Path) -> SpoolState:
    try:
        return SpoolState(kind, path.stem, measure(path))
    except SpoolError as err:
        return SpoolState(kind, path.stem, None, err.message)
