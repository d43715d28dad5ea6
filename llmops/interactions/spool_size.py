"""How much a spool holds: read from the ends of its tables, never by counting a million records."""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from llmops.interactions.spool_file import explained, open_to_read

#: The log file of a spool never gets shorter. What it holds is counted in the pages; only what it wastes is not.
_USUAL_LOG_BYTES = 32_000_000


@dataclass(frozen=True, slots=True)
class SpoolSize:
    """What waits in one spool file.

    Attributes:
        depth: Records that not every sink has; a moment's truth, and never too low.
        oldest_ms: Epoch milliseconds at which the oldest of them was written; None where there is none.
        live_bytes: Of records, dead letters and their tables; the file itself never shrinks while it is in use.
        waiting: Records each sink has still to get.
        dead: Dead letters of each sink, of former ones too.
        last_death: Why the youngest of them is one; empty where there is none.
    """

    depth: int
    oldest_ms: int | None
    live_bytes: int
    waiting: Mapping[str, int]
    dead: Mapping[str, int]
    last_death: str = ""


def measure(path: Path) -> SpoolSize:
    """Measure a spool file, without changing it.

    Raises:
        SpoolError: It cannot be read.
    """
    with explained(path), closing(open_to_read(path)) as database:
        database.execute("BEGIN")
        consumers = database.execute("SELECT name, position FROM consumer").fetchall()
        dead = database.execute("SELECT consumer, count(*) FROM dead GROUP BY consumer").fetchall()
        last_death = database.execute("SELECT reason FROM dead ORDER BY id DESC LIMIT 1").fetchone()
        low = min((position for _, position in consumers), default=0)
        first = database.execute("SELECT written_ms FROM record ORDER BY seq LIMIT 1").fetchone()
        return SpoolSize(
            depth=unread(database, low)
            + _number(database, "SELECT count(DISTINCT seq) FROM lease WHERE seq <= ?", low),
            oldest_ms=first[0] if first and isinstance(first[0], int) else None,
            live_bytes=live_bytes(database, path),
            waiting={name: waiting(database, name) for name, _ in consumers},
            dead=dict(dead),
            last_death=str(last_death[0]) if last_death else "",
        )


def oldest_of(path: Path, consumer: str) -> int | None:
    """When the oldest record was written that a sink has still to get, in epoch milliseconds; None where none is.

    Raises:
        SpoolError: The file cannot be read.
    """
    with explained(path), closing(open_to_read(path)) as database:
        database.execute("BEGIN")
        row = database.execute("SELECT position FROM consumer WHERE name = ?", (consumer,)).fetchone()
        first = "SELECT written_ms FROM record WHERE seq > ? ORDER BY seq LIMIT 1"
        held = "SELECT written_ms FROM lease JOIN record USING (seq) WHERE consumer = ? ORDER BY seq LIMIT 1"
        found = [
            *database.execute(first, (row[0] if row else 0,)).fetchall(),
            *database.execute(held, (consumer,)).fetchall(),
        ]
    return min((written_ms for (written_ms,) in found if isinstance(written_ms, int)), default=None)


def waiting(database: sqlite3.Connection, consumer: str) -> int:
    """Count what a sink has still to get: what lies behind its position, and what it was given and has not settled."""
    row = database.execute("SELECT position FROM consumer WHERE name = ?", (consumer,)).fetchone()
    leased = _number(database, "SELECT count(*) FROM lease WHERE consumer = ?", consumer)
    return unread(database, row[0] if row else 0) + leased


def unread(database: sqlite3.Connection, position: int) -> int:
    """Count the records behind a position. Their numbers have few gaps, so the ends are enough."""
    # Two statements: SQLite reads the whole table for the two ends in one.
    (first,) = database.execute("SELECT min(seq) FROM record").fetchone()
    (last,) = database.execute("SELECT max(seq) FROM record").fetchone()
    return 0 if first is None else max(0, int(last) - max(position, int(first) - 1))


def live_bytes(database: sqlite3.Connection, path: Path) -> int:
    """Size of what is in use, with the part of the log beyond what is usual: a reader that hangs lets it grow."""
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    (free,) = database.execute("PRAGMA freelist_count").fetchone()
    (page_bytes,) = database.execute("PRAGMA page_size").fetchone()
    try:
        log_bytes = path.with_name(path.name + "-wal").stat().st_size
    except OSError:
        log_bytes = 0
    return int((pages - free) * page_bytes + max(0, log_bytes - _USUAL_LOG_BYTES))


def total(sizes: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add counts by sink."""
    sums: dict[str, int] = {}
    for counts in sizes:
        for name, count in counts.items():
            sums[name] = sums.get(name, 0) + count
    return sums


def _number(database: sqlite3.Connection, query: str, value: object) -> int:
    return int(database.execute(query, (value,)).fetchone()[0])
