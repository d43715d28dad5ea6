"""What a worker tells the other processes about what it did not record: one small file beside its spool.

It has a fixed size and is written in place: a disk that is full, which is when it matters, takes that, too.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Protocol

import orjson

_FILE_BYTES = 1024


@dataclass(frozen=True, slots=True)
class WorkerState:
    """Counts of one worker since its data directory was made.

    Attributes:
        lost: Interactions that were answered and could not be written down.
        sampled_out: Answered and left out, because the spool was full.
        refused: Refused, because the spool was full.
        unlogged: Left out because their endpoint wants it so.
        full: Whether the spool is full.
    """

    worker: int
    lost: int = 0
    sampled_out: int = 0
    refused: int = 0
    unlogged: int = 0
    full: bool = False


class Counts(Protocol):
    """What is used of a recorder: counts since its process began."""

    lost: int
    sampled_out: int
    refused: int
    unlogged: int


class Tally:
    """Adds a worker's counts to those of the processes that had its number before.

    Args:
        folder: Where every worker of the machine has its file.
    """

    def __init__(self, folder: Path, worker: int) -> None:
        self._path = folder / f"worker-{worker}.tally"
        self._before = _read(self._path) or WorkerState(worker)
        self._told: WorkerState | None = None

    def now(self, counts: Counts, *, full: bool) -> WorkerState:
        """The state of this moment."""
        before = self._before
        return WorkerState(
            before.worker,
            before.lost + counts.lost,
            before.sampled_out + counts.sampled_out,
            before.refused + counts.refused,
            before.unlogged + counts.unlogged,
            full,
        )

    def tell(self, counts: Counts, *, full: bool) -> None:
        """Write the state down, if it changed. Blocks; a file that cannot be written is written the next time."""
        state = self.now(counts, full=full)
        if state == self._told:
            return
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.pwrite(file, orjson.dumps(asdict(state)).ljust(_FILE_BYTES), 0)
            finally:
                os.close(file)
            self._told = state


def worker_states(folder: Path) -> Sequence[WorkerState]:
    """What every worker told last, by number."""
    states = (_read(path) for path in folder.glob("worker-*.tally"))
    return sorted((state for state in states if state is not None), key=lambda state: state.worker)


def _read(path: Path) -> WorkerState | None:
    try:
        document = orjson.loads(path.read_bytes())
        return WorkerState(**{name: document[name] for name in (one.name for one in fields(WorkerState))})
    except (OSError, ValueError, TypeError, KeyError):
        return None
