"""The spool: where a worker writes interactions down, and where the shipper finds them.

One SQLite file for each worker, in WAL mode. The worker only appends, one commit each; everything slow is the
reader's: it moves the log into the file (checkpoints) at its own priority, and remembers in the file which records
it has tried, so that a shipper that takes over a killed one knows what may have been delivered already.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from llmops.errors import SpoolError
from llmops.interactions.record import Interaction
from llmops.interactions.spool_file import explained, open_file

#: The worker checkpoints only when no reader does: 16 MB of log, a few milliseconds once in thousands of appends.
_WRITER_CHECKPOINT_PAGES = 4096
_READER_CHECKPOINT_PAGES = 256
#: An append blocks the worker's loop: a lock held longer than this is an error, not a wait.
_WRITER_PATIENCE_S = 1.0
_READER_PATIENCE_S = 10.0
#: A lease ends after this many bytes of records, whatever its limit: a record may have 32 MB.
_LEASE_BYTES = 32 * 1024 * 1024
#: A record that failed this often is leased alone, so that it cannot take others down with it.
ALONE_FROM_TRIES = 3
_FOREVER_MS = 1 << 62

_Row = tuple[int, bytes, int]


class Spool:
    """The writing side: one worker's own file.

    Args:
        path: Made if it is not there, with its directory.
        full_sync: True makes an append survive a power loss, not only a killed process.

    Raises:
        SpoolError: The file cannot be made, opened or written.
    """

    def __init__(self, path: Path, *, full_sync: bool = False) -> None:
        self.path = path
        with explained(path):
            self._db = open_file(path, _WRITER_PATIENCE_S, _WRITER_CHECKPOINT_PAGES, full_sync=full_sync)

    def append(self, interaction: Interaction) -> None:
        """Write one record; durable when it returns. Safe from any thread.

        Raises:
            SpoolError: It is not written: disk full, read-only, locked, or the record is no JSON.
        """
        try:
            record = interaction.encode()
        except TypeError as err:
            raise SpoolError(f"interaction {interaction.interaction_id} cannot be written as JSON: {err}") from err
        with explained(self.path):
            self._db.execute("INSERT INTO interaction (record) VALUES (?)", (record,))

    def check(self) -> None:
        """Prove that a record could be written now, by writing as much and taking it back.

        Raises:
            SpoolError: It could not.
        """
        # Two commits, not one transaction: an append of another thread would become part of it.
        with explained(self.path):
            self._db.execute("INSERT INTO probe VALUES (zeroblob(8192))")
            self._db.execute("DELETE FROM probe")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


@dataclass(frozen=True, slots=True)
class Leased:
    """One record the shipper is about to deliver.

    Attributes:
        tries: Deliveries begun, this one included; above 1 an earlier one may have happened in part or in whole.
        seq: Its place in the spool it came from.
    """

    interaction: Interaction
    tries: int
    seq: int
    spool: Path


class SpoolReader:
    """The reading side: leases records, and settles each by ack, release or bury.

    One reader of a file at a time. A lease lasts until it is settled or until the next `lease`, of this reader or of
    one that takes over.

    Args:
        full_sync: As the writer's: True makes the count of tries survive a power loss too.

    Raises:
        SpoolError: From every method: the file cannot be read or written.
    """

    def __init__(self, path: Path, *, full_sync: bool = False) -> None:
        self.path = path
        with explained(path):
            self._db = open_file(path, _READER_PATIENCE_S, _READER_CHECKPOINT_PAGES, full_sync=full_sync)

    def lease(self, limit: int, now_ms: int | None) -> list[Leased]:
        """Take the oldest records that are due, and write down that they are tried before returning them.

        Args:
            limit: At most so many; >= 1.
            now_ms: Epoch milliseconds; records released until later are left. None leaves none, and takes those last
                that failed often.

        Returns:
            In the order they were appended; one alone where it has failed often. Records that cannot be decoded are
            buried and left out.
        """
        with explained(self.path):
            rows = self._failing(now_ms) if now_ms is not None else []
            rows = rows or self._due(limit, now_ms) or self._failing(now_ms)
            if rows:
                self._db.execute(
                    "INSERT INTO lease (seq, tries, retry_at_ms) SELECT value, 1, 0 FROM json_each(?) WHERE true "
                    "ON CONFLICT (seq) DO UPDATE SET tries = tries + 1",
                    (_seqs(seq for seq, _, _ in rows),),
                )
        leased = (self._decoded(seq, record, tries + 1) for seq, record, tries in rows)
        return [one for one in leased if one is not None]

    def ack(self, leased: Sequence[Leased]) -> None:
        """Forget records that are delivered."""
        if not leased:
            return
        with explained(self.path):
            self._db.execute(
                "DELETE FROM interaction WHERE seq IN (SELECT value FROM json_each(?))",
                (_seqs(one.seq for one in leased),),
            )

    def release(self, leased: Sequence[Leased], reason: str, retry_at_ms: int) -> None:
        """Give records back, not to be leased before ``retry_at_ms`` (epoch milliseconds)."""
        with explained(self.path):
            self._db.execute(
                "UPDATE lease SET retry_at_ms = ?, reason = ? WHERE seq IN (SELECT value FROM json_each(?))",
                (retry_at_ms, reason, _seqs(one.seq for one in leased)),
            )

    def bury(self, leased: Sequence[Leased], reason: str) -> None:
        """Move records that can never be delivered to the dead letters."""
        self._bury([one.seq for one in leased], reason)

    def depth(self) -> int:
        """Count the records that are not delivered yet."""
        return self._count("interaction")

    def dead(self) -> int:
        """Count the dead letters."""
        return self._count("dead")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _failing(self, now_ms: int | None) -> list[_Row]:
        """The record that failed often and waited longest, if one is due."""
        found = self._db.execute(
            "SELECT seq, record, tries FROM lease JOIN interaction USING (seq) "
            "WHERE tries >= ? AND retry_at_ms <= ? ORDER BY retry_at_ms LIMIT 1",
            (ALONE_FROM_TRIES, _FOREVER_MS if now_ms is None else now_ms),
        )
        return found.fetchall()

    def _due(self, limit: int, now_ms: int | None) -> list[_Row]:
        cursor = self._db.execute(
            "SELECT seq, record, coalesce(tries, 0) FROM interaction LEFT JOIN lease USING (seq) "
            "WHERE coalesce(tries, 0) < ? AND coalesce(retry_at_ms, 0) <= ? ORDER BY seq LIMIT ?",
            (ALONE_FROM_TRIES, _FOREVER_MS if now_ms is None else now_ms, limit),
        )
        rows: list[_Row] = []
        size_bytes = 0
        for row in cursor:
            rows.append(row)
            size_bytes += len(row[1])
            if size_bytes >= _LEASE_BYTES:
                break
        cursor.close()
        return rows

    def _decoded(self, seq: int, record: bytes, tries: int) -> Leased | None:
        try:
            return Leased(Interaction.decode(record), tries, seq, self.path)
        except (ValueError, TypeError, AttributeError) as err:
            self._bury([seq], f"the record cannot be decoded: {type(err).__name__}")
            return None

    def _bury(self, seqs: Iterable[int], reason: str) -> None:
        chosen = _seqs(seqs)
        with explained(self.path), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(
                "INSERT INTO dead (record, reason, buried_ms) SELECT record, ?, ? FROM interaction "
                "WHERE seq IN (SELECT value FROM json_each(?))",
                (reason, time.time_ns() // 1_000_000, chosen),
            )
            self._db.execute("DELETE FROM interaction WHERE seq IN (SELECT value FROM json_each(?))", (chosen,))

    def _count(self, table: str) -> int:
        with explained(self.path):
            (count,) = self._db.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - our own names
        return int(count)


def spools(spool_dir: Path) -> list[Path]:
    """Every spool file of a directory, by name; none where the directory is not there."""
    return sorted(spool_dir.glob("*.db"))


def depth(spool_dir: Path) -> int:
    """Count the records of all spools that are not delivered yet.

    Raises:
        SpoolError: A file cannot be read.
    """
    return sum(_counted(path) for path in spools(spool_dir))


def _counted(path: Path) -> int:
    reader = SpoolReader(path)
    try:
        return reader.depth()
    finally:
        reader.close()


def _seqs(seqs: Iterable[int]) -> str:
    return orjson.dumps(list(seqs)).decode()
