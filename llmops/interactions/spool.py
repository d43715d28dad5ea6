"""The spool: where a worker writes records down, one SQLite file for each worker, in WAL mode.

The worker only appends; everything slow is the reader's (spool_reader). Records may be interactions or anything else
that can write itself down.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from llmops.errors import SpoolError
from llmops.interactions.damage import set_aside
from llmops.interactions.spool_file import NEXT_SEQ, damaged, explained, inode_of, open_file, rolled_back_on_error
from llmops.interactions.spool_size import live_bytes, measure

logger = logging.getLogger(__name__)

#: The worker checkpoints only when no reader does, since its loop stands still for it: at 256 MB of log.
_CHECKPOINT_PAGES = 65_536
#: An append blocks the worker's loop: a lock held longer than this is an error, not a wait.
_PATIENCE_S = 1.0
_LOCK_STEP_S = 0.00005
#: How old the known size may be; a worker writes some megabytes in this time.
_LOOK_EVERY_S = 0.1
#: A spool that was full takes records again below this part of its limit.
_ROOM_AGAIN = 0.9

_APPEND = f"INSERT INTO record (seq, content, written_ms) VALUES ({NEXT_SEQ}, ?, ?)"  # noqa: S608 - our own words


class Record(Protocol):
    """What a spool can hold."""

    @property
    def interaction_id(self) -> str:
        """The interaction it is, or is about."""
        ...

    def encode(self) -> bytes:
        """Write it as bytes; raises TypeError where it cannot be."""
        ...


#: With its values.
Statement = tuple[str, tuple[object, ...]]
T = TypeVar("T", bound=Record)
T_in = TypeVar("T_in", bound=Record, contravariant=True)


class Spool(Generic[T_in]):
    """The writing side: one worker's own file.

    A file that cannot be opened now is opened by a later call; a damaged one is moved aside for the shipper to
    salvage, and a new one begun.

    Args:
        path: Made if it is not there, with its directory.
        full_sync: True makes an append survive a power loss, not only a killed process.
        max_mb: See `full`.
    """

    def __init__(self, path: Path, *, full_sync: bool = False, max_mb: float = 4096) -> None:
        self.path = path
        #: Files moved aside since the start, because they were damaged.
        self.damaged = 0
        self._full_sync = full_sync
        self._max_bytes = int(max_mb * 1_000_000)
        self._opened: tuple[sqlite3.Connection, int | None] | None = None
        self._opening = threading.RLock()
        self._full, self._looked_s = False, time.monotonic()
        try:
            self._write(("SELECT seq FROM record ORDER BY seq DESC LIMIT 1", ()))
        except SpoolError as err:
            logger.error("event=spool_unusable spool=%s reason=%r", path, err.message)

    @property
    def full(self) -> bool:
        """Whether it holds more than its limit; false again below nine tenths of it. Cheap: ask for each request."""
        self._look()
        return self._full

    def append(self, *records: T_in) -> None:
        """Write records in one commit, all or none; durable when it returns. Safe from any thread.

        Raises:
            SpoolError: They are not written: disk full, read-only, locked, or a record is no JSON.
        """
        now_ms = time.time_ns() // 1_000_000
        rows = [(_APPEND, (_encoded(record), now_ms)) for record in records]
        self._look()
        self._write(*rows)

    def check(self) -> None:
        """Prove that a record could be written now, by writing as much and taking it back.

        Raises:
            SpoolError: It could not.
        """
        self._look(at_once=True)
        # Two commits, not one transaction: an append of another thread would become part of it.
        self._write(("INSERT INTO probe VALUES (zeroblob(8192))", ()))
        self._write(("DELETE FROM probe", ()))

    def close(self) -> None:
        """Let go of the file."""
        with self._opening:
            if self._opened is not None:
                self._opened[0].close()
            self._opened = None

    def _write(self, *statements: Statement) -> None:
        """Run statements as one transaction."""
        # One thread at a time: another must not close what this one uses.
        with self._opening, explained(self.path):
            try:
                self._commit(statements)
            except sqlite3.DatabaseError as err:
                if not damaged(err, self.path):
                    raise
                self._begin_anew(str(err))
                self._commit(statements)

    def _commit(self, statements: Sequence[Statement]) -> None:
        if len(statements) == 1:
            self._execute(*statements[0])
            return
        self._execute("BEGIN IMMEDIATE")
        with rolled_back_on_error(self._file()):
            for statement in statements:
                self._execute(*statement)
            self._execute("COMMIT")

    def _execute(self, statement: str, values: tuple[object, ...] = ()) -> None:
        """Run a statement; wait for a reader's lock in shorter steps than SQLite, whose shortest is a millisecond."""
        began_s = time.monotonic()
        while True:
            try:
                self._file().execute(statement, values)
            except sqlite3.OperationalError as err:
                if err.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() - began_s > _PATIENCE_S:
                    raise
                time.sleep(_LOCK_STEP_S)
            else:
                return

    def _file(self) -> sqlite3.Connection:
        opened = self._opened
        if opened is not None:
            return opened[0]
        with self._opening:
            if self._opened is None:
                database = open_file(self.path, _PATIENCE_S, _CHECKPOINT_PAGES, full_sync=self._full_sync)
                database.execute("PRAGMA busy_timeout = 0")
                self._opened = database, inode_of(self.path)
            return self._opened[0]

    def _begin_anew(self, reason: str) -> None:
        """Give the damaged file up. What can still be read of it, the shipper brings back (damage.salvage)."""
        with self._opening:
            inode = self._opened[1] if self._opened is not None else None
            self.close()
            aside = set_aside(self.path, inode)
            self.damaged += 1
            logger.error("event=spool_damaged spool=%s moved_to=%s reason=%r", self.path, aside, reason)

    def _look(self, *, at_once: bool = False) -> None:
        """Learn the size now and then, and whether the path is still our file.

        The shipper moves a file aside that it finds damaged; one that was deleted would be written on for nobody.
        """
        now_s = time.monotonic()
        if now_s - self._looked_s < _LOOK_EVERY_S and not at_once:
            return
        self._looked_s = now_s
        with self._opening:
            self._look_now()

    def _look_now(self) -> None:
        if self._opened is not None and inode_of(self.path) != self._opened[1]:
            logger.error(
                "event=spool_gone spool=%s reason='the file was moved or deleted; a new one begins'", self.path
            )
            self.close()
        try:
            with explained(self.path):
                size_bytes = live_bytes(self._file(), self.path)
        except SpoolError:
            return  # An append will say it.
        limit = self._max_bytes
        self._full = size_bytes >= (limit * _ROOM_AGAIN if self._full else limit)


def _encoded(record: Record) -> bytes:
    try:
        return record.encode()
    except TypeError as err:
        raise SpoolError(f"interaction {record.interaction_id} cannot be written as JSON: {err}") from err


@dataclass(frozen=True, slots=True)
class Leased(Generic[T]):
    """One record the shipper is about to deliver to one sink.

    Attributes:
        tries: Deliveries begun, this one included; above 1 an earlier one may have happened in part or in whole.
        seq: Its place in the spool it came from. (spool_id, seq) never names another record.
        spool: The file.
        strikes: Deliveries begun that were not cut off by the sink being away, this one included.
    """

    record: T
    tries: int
    seq: int
    spool: Path
    spool_id: str = ""
    strikes: int = 1


def spools(spool_dir: Path) -> list[Path]:
    """Every spool file of a directory, by name; none where the directory is not there."""
    return sorted(spool_dir.glob("*.db"))


def depth(spool_dir: Path) -> int:
    """Count the records of all spools that not every sink has.

    Raises:
        SpoolError: A file cannot be read.
    """
    return sum(measure(path).depth for path in spools(spool_dir))
