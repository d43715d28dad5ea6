"""What becomes of a damaged spool: moved aside, and every record that can still be read brought into a new one.

The worker only renames, which takes no time; the shipper reads. The names tell how far it is: ``worker-0.db.unread-T``
is still to be salvaged, ``worker-0.db.damaged-T`` is done, for people to look at and to delete.
"""

import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from llmops.interactions.spool_file import explained, inode_of, open_file, transaction

logger = logging.getLogger(__name__)

_UNREAD, _DAMAGED = ".unread-", ".damaged-"
_COMPANIONS = ("-wal", "-shm")
_CHECKPOINT_PAGES = 4096
_CHUNK = 500
#: A worker has let go of a file that was moved aside after so long, even if it waited for a lock.
SETTLED_S = 3.0
#: Behind a hole so long nothing is looked for: a second of probing. A page that leads to others holds far less.
_LONGEST_HOLE = 100_000
_PAGE_BYTES = 4096

_Row = tuple[int, bytes, int, str | None]


def set_aside(path: Path, inode: int | None) -> Path | None:
    """Rename a damaged spool file, so that a new one can take its place.

    A worker that has it open goes on for a tenth of a second, which is why `salvage` waits for longer.

    Args:
        inode: Which file it is; None for the one that is there.

    Returns:
        Its new path; None where another file has its place already.

    Raises:
        OSError: It cannot be renamed.
    """
    if inode is not None and inode_of(path) != inode:
        return None
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    aside = path.with_name(f"{path.name}{_UNREAD}{stamp}-{os.getpid()}")
    # The file last: whoever finds it finds its log.
    for companion in (*_COMPANIONS, ""):
        with suppress(FileNotFoundError):
            path.with_name(path.name + companion).rename(aside.with_name(aside.name + companion))
    return aside


def damaged_files(spool_dir: Path) -> list[Path]:
    """Every damaged file that lies in a directory of spools, salvaged or not."""
    found = [*spool_dir.glob(f"*.db{_UNREAD}*"), *spool_dir.glob(f"*.db{_DAMAGED}*")]
    return sorted(path for path in found if not path.name.endswith(_COMPANIONS))


def unread_files(spool_dir: Path) -> list[Path]:
    """The damaged files that are still to be salvaged."""
    return [path for path in damaged_files(spool_dir) if _UNREAD in path.name]


def salvage(spool_dir: Path, consumers: Sequence[str], *, settled_s: float = SETTLED_S) -> int:
    """Bring the records of every damaged file that was not looked at yet into a new spool of the same directory.

    Args:
        consumers: The sinks that get a record where the file does not say any more which had it.
        settled_s: Files that were moved aside less than so long ago are left.

    Returns:
        How many files there were.

    Raises:
        SpoolError: The new file cannot be written.
    """
    # A rename changes the time of the last change of status.
    before_s = time.time() - settled_s
    files = [path for path in unread_files(spool_dir) if path.stat().st_ctime <= before_s]
    for aside in files:
        name, stamp = aside.name.split(f".db{_UNREAD}")
        done = spool_dir / f"{name}-salvaged-{stamp}.db"
        fresh = done.with_name(f"{done.name}.unfinished")
        if not done.exists():
            with explained(fresh):
                for companion in (*_COMPANIONS, ""):
                    fresh.with_name(fresh.name + companion).unlink(missing_ok=True)
                records = _bring(aside, fresh, consumers)
                fresh.rename(done)
            logger.error("event=spool_salvaged spool=%s records=%d into=%s", aside, records, done)
        for companion in (*_COMPANIONS, ""):
            with suppress(FileNotFoundError):
                old = aside.with_name(aside.name + companion)
                old.rename(old.with_name(old.name.replace(_UNREAD, _DAMAGED)))
    return len(files)


def _bring(aside: Path, fresh: Path, consumers: Sequence[str]) -> int:
    """Copy what can be read; returns how many records."""
    with closing(open_file(fresh, 10.0, _CHECKPOINT_PAGES, full_sync=False)) as new:
        new.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page_one = fresh.read_bytes()[:_PAGE_BYTES]
        with closing(_opened(aside, page_one)) as old:
            positions = dict(_rows(old, "SELECT name, position FROM consumer", ()))
            leases = {(name, seq): (tries, strikes) for name, seq, tries, strikes in _rows(old, _LEASES, ())}
            if not positions:
                # Whoever may have had it is told so: nobody gets it for the first time.
                new.executemany("INSERT INTO consumer VALUES (?, 0)", [(name,) for name in consumers])
            new.executemany("INSERT OR IGNORE INTO consumer VALUES (?, 0)", [(name,) for name in positions])
            count = 0
            chunk: list[_Row] = []
            for row in _records(old):
                chunk.append(row)
                if len(chunk) == _CHUNK:
                    count = _put(new, chunk, count, positions, leases, consumers)
                    chunk = []
            count = _put(new, chunk, count, positions, leases, consumers)
            with transaction(new):
                new.executemany(_BURY, _rows(old, _DEAD, ()))
                new.execute("UPDATE consumer SET position = ?", (count,))
        new.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return count


_LEASES = "SELECT consumer, seq, tries, strikes FROM lease"
_DEAD = "SELECT consumer, interaction_id, content, reason, tries, buried_ms FROM dead ORDER BY id"
_BURY = "INSERT INTO dead (consumer, interaction_id, content, reason, tries, buried_ms) VALUES (?, ?, ?, ?, ?, ?)"


def _put(
    new: sqlite3.Connection,
    rows: Sequence[_Row],
    count: int,
    positions: dict[str, int],
    leases: dict[tuple[str, int], tuple[int, int]],
    consumers: Sequence[str],
) -> int:
    """Write records under new numbers, leased to every sink that may still need them."""
    with transaction(new):
        for seq, content, written_ms, only_for in rows:
            count += 1
            new.execute("INSERT INTO record VALUES (?, ?, ?, ?)", (count, content, written_ms, only_for))
            for name in positions or consumers:
                given = leases.get((name, seq), (0, 0) if positions else (1, 0))
                if (name, seq) in leases or seq > positions.get(name, 0):
                    new.execute("INSERT INTO lease VALUES (?, ?, ?, ?, 0, NULL)", (name, count, *given))
    return count


def _opened(aside: Path, page_one: bytes) -> sqlite3.Connection:
    database = _connected(aside)
    try:
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        database.execute("SELECT seq FROM record LIMIT 0").fetchone()
    except sqlite3.DatabaseError:
        database.close()
        _replace_head(aside, page_one)
        return _connected(aside)
    return database


def _connected(aside: Path) -> sqlite3.Connection:
    database = sqlite3.connect(aside, isolation_level=None)
    # Texts may be broken too.
    database.text_factory = lambda value: value.decode("utf-8", "replace")
    return database


def _replace_head(aside: Path, page_one: bytes) -> None:
    """Give the file a new first page. It holds the tables' places, which are the same in every file of a release."""
    with aside.open("r+b") as file:
        pages = max(file.seek(0, os.SEEK_END) // _PAGE_BYTES, 1)
        # Size in pages, then no list of free pages. Source: https://www.sqlite.org/fileformat2.html#the_database_header
        head = page_one[:28] + pages.to_bytes(4, "big") + bytes(8) + page_one[40:]
        file.seek(0)
        file.write(head)


def _records(old: sqlite3.Connection) -> Iterator[_Row]:
    """Every record that can be read, in order; a page that cannot is a hole that is stepped over."""
    seq = 0
    last = next(_rows(old, "SELECT max(seq) FROM record", ()), (None,))[0] or 0
    while True:
        try:
            for row in old.execute(
                "SELECT seq, content, written_ms, only_for FROM record WHERE seq > ? ORDER BY seq", (seq,)
            ):
                if isinstance(row[0], int) and isinstance(row[1], bytes):
                    written_ms = row[2] if isinstance(row[2], int) else 0
                    yield row[0], row[1], written_ms, row[3] if isinstance(row[3], str) else None
                seq = row[0]
        except sqlite3.DatabaseError:
            behind = _behind(old, seq, last)
            if behind is None:
                return
            seq = behind
        else:
            return


def _behind(old: sqlite3.Connection, seq: int, last: int) -> int | None:
    """The number after which reading can go on; None where nothing is behind the hole."""
    for probe in range(seq + 1, min(last or seq + _LONGEST_HOLE, seq + _LONGEST_HOLE) + 1):
        try:
            found = old.execute("SELECT min(seq) FROM record WHERE seq >= ?", (probe,)).fetchone()[0]
        except sqlite3.DatabaseError:
            continue
        if found is None:
            return None
        # Its number can be read; whether its content can, the next look will tell: the first failed at it.
        return int(found) if probe == seq + 1 else int(found) - 1
    return None


def _rows(old: sqlite3.Connection, query: str, values: tuple[object, ...]) -> Iterator[Any]:
    """Rows until the first that cannot be read."""
    with suppress(sqlite3.DatabaseError):
        yield from old.execute(query, values)
