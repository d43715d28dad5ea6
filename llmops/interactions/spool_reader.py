"""The reading side of a spool: what one sink still has to get from one file, leased to it and settled by it.

Every sink that is configured is a consumer of the file, with a position (it was given everything up to there), leases
(what it was given and has not settled), and dead letters. A record goes when its last consumer has settled it. All of
this is in the file, so that a shipper that takes over a killed one knows what may have been delivered already.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import orjson

from llmops.interactions.spool import Leased, Record
from llmops.interactions.spool_file import explained, inode_of, open_file, transaction
from llmops.interactions.spool_size import unread, waiting

_CHECKPOINT_PAGES = 1024
_PATIENCE_S = 10.0
#: A lease ends after this many bytes of records, whatever its limit: a record may have 32 MB.
_LEASE_BYTES = 8 * 1024 * 1024
#: A record that failed this often is leased alone, so that it cannot take others down with it.
ALONE_FROM_STRIKES = 3
#: One that was under way so often when the shipper ended may be what ends it: others pass it for a minute.
_SUSPECT_FROM_STRIKES, _SUSPECT_WAIT_MS = 8, 60_000
#: Records leased or settled in one transaction: the worker's next append waits for it, and at low priority it is slow.
_CHUNK = 50
#: Between two such transactions the file is free for longer than a worker that waits takes to look again.
_GAP_S = 0.0005
#: An emptied spool is made small again from this waste on, as long as that is quick: 64 MB, and 16 MB left.
_SPARE_PAGES, _SMALL_PAGES = 16_384, 4096

S = TypeVar("S")
T = TypeVar("T", bound=Record)


class _Row(NamedTuple):
    seq: int
    content: bytes
    tries: int
    strikes: int


class SpoolReader(Generic[T]):
    """Leases records to one sink, and settles each by ack, release or bury.

    One reader of a file for each sink at a time. A lease lasts until it is settled or until the next `lease`, of this
    reader or of one that takes over.

    Args:
        decode: Makes a record of bytes; raises ValueError, TypeError or AttributeError where they are none.
        consumer: The sink's name.
        consumers: The names of all sinks that are configured for this file, this one among them. A new one starts
            with the records that are there; what a former one did not get, it does not hold any more.
        full_sync: As the writer's: True makes the count of tries survive a power loss too.

    Raises:
        SpoolError: From every method: the file cannot be read or written.
    """

    def __init__(
        self,
        path: Path,
        decode: Callable[[bytes], T],
        consumer: str,
        consumers: Iterable[str],
        *,
        full_sync: bool = False,
    ) -> None:
        self.path = path
        self.consumer = consumer
        self._names = sorted({consumer, *consumers})
        self._decode = decode
        with explained(path):
            self._db = open_file(path, _PATIENCE_S, _CHECKPOINT_PAGES, full_sync=full_sync)
            self.inode = inode_of(path)
            self._register(self._names)
            (self._spool_id,) = self._db.execute("SELECT spool_id FROM spool").fetchone()

    def lease(self, limit: int, now_ms: int, *, patient: bool = True, linger_s: float = 0.0) -> list[Leased[T]]:
        """Take the oldest records that are due, and write down that they are tried before returning them.

        Args:
            limit: At most so many; >= 1.
            now_ms: Epoch milliseconds; records released until later are left.
            patient: False waits for nothing: neither lingers, nor leaves records that were released until later.
            linger_s: Fewer records than the limit are left until the oldest of them is so old.

        Returns:
            In the order they were appended; one alone where it has failed often. Records that cannot be decoded are
            buried and left out.
        """
        with explained(self.path):
            rows, position = self._failing(now_ms), 0
            if not rows:
                rows, position = self._due(limit, now_ms, 0.0 if not patient else linger_s)
            if not rows and not patient:
                rows = self._late(limit)
            if rows or position:
                self._note(rows, position, now_ms)
        leased = (self._decoded(row) for row in rows)
        return [one for one in leased if one is not None]

    def ack(self, leased: Sequence[Leased[T]]) -> None:
        """Forget records that this sink has."""
        with explained(self.path):
            self._settle([one.seq for one in leased])

    def release(self, leased: Sequence[Leased[T]], reason: str, retry_at_ms: int, *, blamed: bool = True) -> None:
        """Give records back, not to be leased before ``retry_at_ms`` (epoch milliseconds).

        Args:
            blamed: Whether it may be the records' fault: those that are blamed often are leased alone.
        """
        with explained(self.path):
            self._db.execute(
                "UPDATE lease SET retry_at_ms = ?, reason = ?, strikes = strikes - ? "
                "WHERE consumer = ? AND seq IN (SELECT value FROM json_each(?))",
                (retry_at_ms, reason, 0 if blamed else 1, self.consumer, _seqs(one.seq for one in leased)),
            )

    def bury(self, leased: Leased[T], reason: str) -> None:
        """Move a record that can never be delivered to the dead letters of this sink."""
        self._bury(leased.seq, leased.record.interaction_id, leased.tries, reason)

    def waiting(self) -> int:
        """Count the records that this sink has still to get."""
        with explained(self.path):
            return waiting(self._db, self.consumer)

    def replaced(self) -> bool:
        """Whether the path is another file by now: a damaged one was moved aside, or somebody deleted it."""
        return inode_of(self.path) != self.inode

    def tidy(self) -> None:
        """Give the disk back what an emptied spool does not need any more; for a moment when there is nothing to do."""
        with explained(self.path):
            (pages,) = self._db.execute("PRAGMA page_count").fetchone()
            (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
            if free > _SPARE_PAGES and pages - free < _SMALL_PAGES:
                self._db.execute("VACUUM")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _register(self, names: Sequence[str]) -> None:
        known = {name for (name,) in self._db.execute("SELECT name FROM consumer")}
        former = sorted(known.difference(names))
        if known == set(names):
            return
        with transaction(self._db):
            self._db.executemany("INSERT OR IGNORE INTO consumer VALUES (?, 0)", [(name,) for name in names])
        if not former:
            return
        for name in former:
            for (seq,) in self._db.execute("SELECT seq FROM record WHERE only_for = ?", (name,)).fetchall():
                self._bury(seq, None, 0, "its sink is not configured any more", of=name)
        # First what they held, then themselves: a shipper killed in between does it again.
        while self._sweep(names):
            pass
        with transaction(self._db):
            self._db.executemany("DELETE FROM lease WHERE consumer = ?", [(name,) for name in former])
            self._db.executemany("DELETE FROM consumer WHERE name = ?", [(name,) for name in former])

    def _sweep(self, names: Sequence[str]) -> int:
        """Delete some of the records that none of these consumers needs."""
        chosen = orjson.dumps(names).decode()
        with transaction(self._db):
            (low,) = self._db.execute(
                "SELECT min(position) FROM consumer WHERE name IN (SELECT value FROM json_each(?))", (chosen,)
            ).fetchone()
            found = self._db.execute(
                "SELECT seq FROM record WHERE seq <= ? AND only_for IS NULL AND NOT EXISTS (SELECT 1 FROM lease "
                "WHERE lease.seq = record.seq AND consumer IN (SELECT value FROM json_each(?))) LIMIT ?",
                (low, chosen, _CHUNK),
            ).fetchall()
            self._db.executemany("DELETE FROM record WHERE seq = ?", found)
            self._raise_floor(low)
        return len(found)

    def _failing(self, now_ms: int) -> list[_Row]:
        """The record that failed often and waited longest, if one is due."""
        found = self._db.execute(
            "SELECT seq, content, tries, strikes FROM lease JOIN record USING (seq) "
            "WHERE consumer = ? AND strikes >= ? AND retry_at_ms <= ? ORDER BY retry_at_ms, seq LIMIT 1",
            (self.consumer, ALONE_FROM_STRIKES, now_ms),
        )
        return [_row(*row) for row in found]

    def _late(self, limit: int) -> list[_Row]:
        """What waits for a later time: first many that failed seldom, then one that failed often."""
        for strikes, many in (("<", limit), (">=", 1)):
            found = self._db.execute(
                f"SELECT seq, content, tries, strikes FROM lease JOIN record USING (seq) "  # noqa: S608 - our own words
                f"WHERE consumer = ? AND strikes {strikes} ? ORDER BY retry_at_ms, seq LIMIT ?",
                (self.consumer, ALONE_FROM_STRIKES, many),
            )
            rows = _cut(_row(*row) for row in found)
            if rows:
                return sorted(rows)
        return []

    def _due(self, limit: int, now_ms: int, linger_s: float) -> tuple[list[_Row], int]:
        """What it was given and gave back, then what it was never given.

        Returns:
            The rows, and the position it has with them; 0 where that does not change.
        """
        leased = self._db.execute(
            "SELECT seq, content, tries, strikes FROM lease JOIN record USING (seq) "
            "WHERE consumer = ? AND strikes < ? AND retry_at_ms <= ? ORDER BY seq LIMIT ?",
            (self.consumer, ALONE_FROM_STRIKES, now_ms, limit),
        )
        rows = _cut(_row(*row) for row in leased)
        left_bytes = _LEASE_BYTES - sum(len(row.content) for row in rows)
        (position,) = self._db.execute("SELECT position FROM consumer WHERE name = ?", (self.consumer,)).fetchone()
        if len(rows) == limit or left_bytes <= 0 or (not rows and self._lingers(position, limit, now_ms, linger_s)):
            return rows, 0
        fresh = self._db.execute(
            "SELECT seq, content, only_for FROM record WHERE seq > ? ORDER BY seq LIMIT ?",
            (position, limit - len(rows)),
        )
        reached = 0
        for seq, content, only_for in fresh:
            reached = seq
            # A name that nobody has is damage: everybody gets it.
            if only_for == self.consumer or only_for not in self._names:
                # One that is for one sink only was a dead letter: a part of it may be there.
                rows.append(_row(seq, content, 0 if only_for is None else 1, 0))
                left_bytes -= len(rows[-1].content)
            if left_bytes <= 0:
                break
        fresh.close()
        return rows, reached

    def _lingers(self, position: int, limit: int, now_ms: int, linger_s: float) -> bool:
        if not linger_s or unread(self._db, position) >= limit:
            return False
        oldest = self._db.execute(
            "SELECT written_ms FROM record WHERE seq > ? ORDER BY seq LIMIT 1", (position,)
        ).fetchone()
        # A clock that was set back must not hold a record for longer.
        return oldest is not None and 0 <= now_ms - _number(oldest[0]) < linger_s * 1000

    def _note(self, rows: Sequence[_Row], position: int, now_ms: int) -> None:
        """Write down that rows are tried, oldest first, and at the end the position reached with them."""
        retry_at_ms = now_ms + _SUSPECT_WAIT_MS
        for chunk in _chunks(rows) if rows else [rows]:
            last = not rows or chunk[-1] is rows[-1]
            reached = position if last else min(position, chunk[-1].seq)
            with transaction(self._db):
                self._db.execute(
                    "INSERT INTO lease (consumer, seq, tries, strikes, retry_at_ms) "
                    "SELECT ?, value, 1, 1, 0 FROM json_each(?) WHERE true "
                    "ON CONFLICT (consumer, seq) DO UPDATE SET tries = tries + 1, strikes = strikes + 1, "
                    "retry_at_ms = CASE WHEN strikes >= ? THEN ? ELSE 0 END",
                    (self.consumer, _seqs(row.seq for row in chunk), _SUSPECT_FROM_STRIKES, retry_at_ms),
                )
                self._db.execute(
                    "UPDATE consumer SET position = ? WHERE name = ? AND position < ?",
                    (reached, self.consumer, reached),
                )

    def _settle(self, seqs: Sequence[int]) -> None:
        for chunk in _chunks(seqs):
            with transaction(self._db):
                self._settle_chunk(chunk, self.consumer)

    def _settle_chunk(self, seqs: Sequence[int], consumer: str) -> None:
        chosen = _seqs(seqs)
        self._db.execute(
            "DELETE FROM lease WHERE consumer = ? AND seq IN (SELECT value FROM json_each(?))", (consumer, chosen)
        )
        self._db.execute(
            "DELETE FROM record WHERE seq IN (SELECT value FROM json_each(?)) "
            "AND (only_for IS NOT NULL OR seq <= (SELECT min(position) FROM consumer)) "
            "AND NOT EXISTS (SELECT 1 FROM lease WHERE lease.seq = record.seq)",
            (chosen,),
        )
        self._raise_floor(max(seqs))

    def _raise_floor(self, seq: int) -> None:
        self._db.execute("UPDATE spool SET floor = ? WHERE floor < ?", (seq, seq))

    def _decoded(self, row: _Row) -> Leased[T] | None:
        try:
            record = self._decode(row.content)
        except (ValueError, TypeError, AttributeError) as err:
            self._bury(row.seq, None, row.tries + 1, f"the record cannot be decoded: {type(err).__name__}")
            return None
        return Leased(record, row.tries + 1, row.seq, self.path, self._spool_id, row.strikes + 1)

    def _bury(self, seq: int, interaction_id: str | None, tries: int, reason: str, of: str | None = None) -> None:
        consumer = of or self.consumer
        with explained(self.path), transaction(self._db):
            self._db.execute(
                "INSERT INTO dead (consumer, interaction_id, content, reason, tries, buried_ms) "
                "SELECT ?, ?, coalesce(content, x''), ?, ?, ? FROM record WHERE seq = ?",
                (consumer, interaction_id, reason, tries, time.time_ns() // 1_000_000, seq),
            )
            self._settle_chunk([seq], consumer)


def _chunks(many: Sequence[S]) -> Iterator[Sequence[S]]:
    """Parts of what is done to the file in one transaction each; waits between them."""
    for start in range(0, len(many), _CHUNK):
        if start:
            time.sleep(_GAP_S)
        yield many[start : start + _CHUNK]


def _row(seq: int, content: object, tries: int, strikes: int) -> _Row:
    """A row whose content is bytes, whatever a damaged page says."""
    return _Row(seq, content if isinstance(content, bytes) else b"", tries, strikes)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _cut(rows: Iterable[_Row]) -> list[_Row]:
    """Rows up to the most bytes of a lease."""
    taken: list[_Row] = []
    size_bytes = 0
    for row in rows:
        taken.append(row)
        size_bytes += len(row.content)
        if size_bytes >= _LEASE_BYTES:
            break
    return taken


def _seqs(seqs: Iterable[int]) -> str:
    return orjson.dumps(list(seqs)).decode()
