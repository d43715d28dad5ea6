"""Deletes one person's records from spools, before they are shipped, and dead letters: theirs, and those too old."""

import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import orjson

from llmops.interactions.replays import PREFIX, original
from llmops.interactions.spool import spools
from llmops.interactions.spool_file import explained, open_file, transaction

_PATIENCE_S = 10.0
#: A worker that wants to append waits for a transaction: a few milliseconds for so many records.
_CHUNK = 200
_CHECKPOINT_PAGES = 256
_RECORDS = "SELECT seq, content FROM record ORDER BY seq"
_TEXT = "CAST(content AS TEXT)"
_VALID = f"json_valid({_TEXT})"
#: The endpoint that a dead letter is of, and when its interaction was received; of what cannot be read, when it was
#: buried. Feedback may be for answers of several endpoints.
_ENDPOINT = (
    f"CASE WHEN {_VALID} THEN coalesce(nullif(json_extract({_TEXT}, '$.endpoint'), ''), "
    f"CASE json_array_length({_TEXT}, '$.endpoints') WHEN 1 THEN json_extract({_TEXT}, '$.endpoints[0]') END) END"
)
_RECEIVED_MS = (
    f"coalesce(CASE WHEN {_VALID} THEN coalesce(json_extract({_TEXT}, '$.received_ns') / 1000000, "
    f"json_extract({_TEXT}, '$.created_ms')) END, buried_ms)"
)
_DEAD = "SELECT id, content FROM dead ORDER BY id"
#: Given to a sink and neither settled nor given back.
_IN_HAND = "EXISTS (SELECT 1 FROM lease WHERE lease.seq = record.seq AND retry_at_ms = 0)"


@dataclass(frozen=True, slots=True)
class Spooled:
    """A person's records in spools.

    Attributes:
        waiting: Not at every sink yet.
        leased: Others of this kind, given to a sink and not settled: if a shipper runs, it is delivering them.
        dead: Dead letters.
    """

    waiting: int = 0
    leased: int = 0
    dead: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(self.waiting + other.waiting, self.leased + other.leased, self.dead + other.dead)


def count_spooled(spool_dir: Path, user: str, ids: Collection[str] = ()) -> Spooled:
    """Count a person's records in all spools of a directory, reading one after the other, however many wait.

    Args:
        ids: Of interactions of theirs: records that repeat one are theirs, too.

    Raises:
        SpoolError: A spool cannot be read.
    """
    return sum((_count(path, user, ids) for path in spools(spool_dir)), Spooled())


def delete_spooled(spool_dir: Path, user: str, ids: Collection[str] = (), *, leased: bool) -> Spooled:
    """Delete a person's records from all spools of a directory.

    Args:
        ids: As for `count_spooled`.
        leased: Whether those go too that may be on their way. They are counted as `Spooled.waiting` too if they do.

    Raises:
        SpoolError: A spool cannot be read or written.
    """
    return sum((_delete(path, user, ids, leased=leased) for path in spools(spool_dir)), Spooled())


def dead_before(
    spool_dir: Path, before_ms: Callable[[str | None], int | None], *, delete: bool, pause: Callable[[], None]
) -> int:
    """Count or delete the dead letters of a directory that are too old, some hundred at a time.

    Args:
        before_ms: For the name of an endpoint, the epoch millisecond before which its dead letters are too old; None
            where they are kept. Asked with None for those that name no endpoint.
        pause: Called after each deletion: somebody may wait for the lock.

    Returns:
        How many are too old.

    Raises:
        SpoolError: A spool cannot be read or written.
    """
    count = 0
    for path in spools(spool_dir):
        with _opened(path) as database:
            names = [name for (name,) in database.execute(f"SELECT DISTINCT {_ENDPOINT} FROM dead")]  # noqa: S608
            for name in names:
                limit_ms = before_ms(name)
                for chunk in _chunks([] if limit_ms is None else _dead_ids(database, name, limit_ms)):
                    count += len(chunk)
                    if delete:
                        ids = (_json(chunk),)
                        database.execute("DELETE FROM dead WHERE id IN (SELECT value FROM json_each(?))", ids)
                        pause()
    return count


def _dead_ids(database: sqlite3.Connection, endpoint: str | None, before_ms: int) -> list[int]:
    query = f"SELECT id FROM dead WHERE {_ENDPOINT} IS ? AND {_RECEIVED_MS} < ?"  # noqa: S608 - our own words
    return [key for (key,) in database.execute(query, (endpoint, before_ms))]


def _count(path: Path, user: str, ids: Collection[str]) -> Spooled:
    with _opened(path) as database:
        seqs, dead = (_keys(database, query, user, ids) for query in (_RECORDS, _DEAD))
        leased = sum(_leased(database, chunk) for chunk in _chunks(seqs))
    return Spooled(len(seqs) - leased, leased, len(dead))


def _delete(path: Path, user: str, ids: Collection[str], *, leased: bool) -> Spooled:
    with _opened(path) as database:
        seqs, dead = (_keys(database, query, user, ids) for query in (_RECORDS, _DEAD))
        held = 0
        for chunk in _chunks(seqs):
            with transaction(database):
                held += _leased(database, chunk)
                _delete_records(database, chunk, leased=leased)
        for chunk in _chunks(dead):
            database.execute("DELETE FROM dead WHERE id IN (SELECT value FROM json_each(?))", (_json(chunk),))
    return Spooled(len(seqs) - (0 if leased else held), held, len(dead))


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with explained(path), closing(open_file(path, _PATIENCE_S, _CHECKPOINT_PAGES, full_sync=False)) as database:
        database.execute("PRAGMA secure_delete = ON")
        yield database


def _keys(database: sqlite3.Connection, query: str, user: str, ids: Collection[str]) -> list[int]:
    """Keys of the records that are this person's; one that cannot be decoded is nobody's, and is never delivered."""
    # As it stands in a record of theirs; others are not worth decoding.
    marks = [orjson.dumps(user), *([f'"{PREFIX}'.encode()] if ids else [])]
    with closing(database.execute(query)) as rows:
        return [key for key, content in rows if any(one in content for one in marks) and _is_of(content, user, ids)]


def _is_of(content: bytes, user: str, ids: Collection[str]) -> bool:
    try:
        record = orjson.loads(content)
    except orjson.JSONDecodeError:
        return False
    if not isinstance(record, dict):
        return False
    return record.get("user") == user or original(record.get("client_request_id")) in ids


def _leased(database: sqlite3.Connection, seqs: Sequence[int]) -> int:
    query = f"SELECT count(*) FROM record WHERE seq IN (SELECT value FROM json_each(?)) AND {_IN_HAND}"  # noqa: S608
    return int(database.execute(query, (_json(seqs),)).fetchone()[0])


def _delete_records(database: sqlite3.Connection, seqs: Sequence[int], *, leased: bool) -> None:
    # The number of a record is never given again: sinks know records by it.
    database.execute("UPDATE spool SET floor = max(floor, (SELECT coalesce(max(seq), 0) FROM record))")
    spared = "" if leased else f" AND NOT {_IN_HAND}"
    chosen = (_json(seqs),)
    database.execute(f"DELETE FROM record WHERE seq IN (SELECT value FROM json_each(?)){spared}", chosen)  # noqa: S608
    database.execute(
        "DELETE FROM lease WHERE seq IN (SELECT value FROM json_each(?)) "
        "AND NOT EXISTS (SELECT 1 FROM record WHERE record.seq = lease.seq)",
        chosen,
    )


def _chunks(keys: Sequence[int]) -> Iterator[Sequence[int]]:
    return (keys[first : first + _CHUNK] for first in range(0, len(keys), _CHUNK))


def _json(keys: Sequence[int]) -> str:
    return orjson.dumps(keys).decode()
