"""Deletes rows from the inference tables: those of one person, and those that are too old.

A file that holds such rows is replaced by one that does not, a few megabytes in memory at a time; nothing is locked,
and a shipper that appends meanwhile is not disturbed. Then the replaced files are deleted from the disk or the store,
so that the bytes are gone, and nobody can read the table as it was before.

What cannot be deleted here: rows that a shipper still has in its spool (delete them there first), and copies in files
of writers killed within the last hour, which no log knows; the next `vacuum` finds those.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import CommitFailedError

from llmops.errors import Conflict, NotFound, Unavailable
from llmops.interactions import table_listing
from llmops.interactions.delta import Table
from llmops.interactions.replays import ORIGINAL_AT, PREFIX
from llmops.interactions.table_place import SERVED_ENTITIES, TableName
from llmops.interactions.table_upkeep import opened
from llmops.settings import Settings

_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class _OfUser:
    """The rows of one requester, and those that repeat them.

    Attributes:
        ids: Of interactions of theirs.
        columns: What has to be read to tell.
    """

    user: str
    ids: pa.Array
    columns: tuple[str, ...] = ("requester", "client_request_id")

    def rows(self, piece: pa.RecordBatch) -> pa.Array:
        """Which rows go: an array of booleans, none of them null."""
        theirs = pc.fill_null(pc.equal(piece.column("requester"), self.user), False)
        said = piece.column("client_request_id")
        again = pc.is_in(pc.utf8_slice_codeunits(said, ORIGINAL_AT), self.ids)
        return pc.or_(theirs, pc.fill_null(pc.and_(pc.starts_with(said, PREFIX), again), False))

    def whole(self, file: Mapping[str, Any]) -> bool | None:
        """Whether all rows of a file go, or none; None where it has to be read."""
        return None


@dataclass(frozen=True, slots=True)
class _Before:
    """The rows before a time, of all served entities or of some; see `_OfUser`."""

    when: datetime
    time: str
    entities: pa.Array | None
    columns: tuple[str, ...]

    def rows(self, piece: pa.RecordBatch) -> pa.Array:
        """See `_OfUser.rows`."""
        column = piece.column(self.time)
        old = pc.less(column, pa.scalar(self.when, column.type))
        if self.entities is not None:
            old = pc.and_kleene(old, pc.is_in(piece.column("served_entity_id"), self.entities))
        return pc.fill_null(old, False)

    def whole(self, file: Mapping[str, Any]) -> bool | None:
        """See `_OfUser.whole`."""
        least, largest = file.get(f"min.{self.time}"), file.get(f"max.{self.time}")
        if least is not None and least >= self.when:
            return False
        return True if self.entities is None and largest is not None and largest < self.when else None


_Doomed = _OfUser | _Before


def tables(settings: Settings) -> list[str]:
    """The full names of all tables that hold rows of interactions.

    Raises:
        Unavailable: The root of the tables cannot be read.
    """
    return [str(name) for name in table_listing.tables(settings) if name != SERVED_ENTITIES]


def count_user(settings: Settings, user: str, ids: Collection[str] = ()) -> dict[str, int]:
    """Count what `delete_user` would delete, by table; tables without such rows are left out.

    Raises:
        Unavailable: A table cannot be read.
    """
    found, doomed = {}, _OfUser(user, pa.array(sorted(ids), pa.string()))
    for name, table in _ours(settings):
        if count := sum(_count(table, file, doomed) for file in table.files()):
            found[name] = count
    return found


def delete_user(settings: Settings, user: str, ids: Collection[str] = ()) -> dict[str, int]:
    """Delete every row whose requester is this person; the name must match exactly.

    Args:
        ids: Of interactions of theirs: rows that repeat one (`llmops replay`) go, too.

    Returns:
        How many rows went, by full name of the table; tables without such rows are left out.

    Raises:
        Unavailable: A table cannot be read or written; what was deleted before stays deleted.
    """
    deleted, doomed = {}, _OfUser(user, pa.array(sorted(ids), pa.string()))
    for name, table in _ours(settings):
        if count := _delete(table, doomed):
            deleted[name] = count
        # Also where nothing was found: what an earlier deletion, compaction or killed writer left may hold them.
        table.vacuum(0, lost=False)
        table.vacuum(1, lost=True)
    return deleted


def delete_before(settings: Settings, table: str, before_ms: int, *, endpoint: str | None = None) -> int:
    """Delete the rows of a table received before an epoch millisecond.

    Files that are older as a whole are not read.

    Args:
        table: Full name; ``catalog.schema.prefix_payload`` or ``system.serving.endpoint_usage``.
        endpoint: Only rows of this endpoint, for tables that several share. Told by served_entity_id: rows of requests
            that reached no served entity stay.

    Returns:
        How many rows went; 0 where there is no such table.

    Raises:
        InvalidParameter: It is no name of a table.
        Unavailable, Conflict: See `llmops.interactions.delta.Table`.
    """
    try:
        found = table_listing.existing(settings, table)
    except NotFound:
        return 0
    time = found.design.time
    entities = None if endpoint is None else pa.array(_entity_ids(settings, endpoint), pa.string())
    columns = (time,) if entities is None else (time, "served_entity_id")
    deleted = _delete(found, _Before(datetime.fromtimestamp(before_ms / 1000, UTC), time, entities, columns))
    if deleted:
        found.vacuum(0, lost=False)
    return deleted


def _ours(settings: Settings) -> Iterator[tuple[str, Table]]:
    """The tables that hold rows of interactions; what others keep under the root is left alone."""
    for name in tables(settings):
        with suppress(Conflict):
            yield name, opened(settings, TableName.parse(name))


def _delete(table: Table, doomed: _Doomed) -> int:
    """Look through all files until none holds a row that goes; somebody may replace files meanwhile."""
    deleted = 0
    for attempt in range(1, _ATTEMPTS + 1):
        table.refresh()
        try:
            for count in _passed(table, doomed):
                deleted += count
        except Unavailable as err:
            if attempt == _ATTEMPTS or not isinstance(err.__cause__, CommitFailedError):
                raise
        else:
            break
    return deleted


def _passed(table: Table, doomed: _Doomed) -> Iterator[int]:
    """Delete from every file of the table as it is now; yields what each commit deleted."""
    files = table.files()
    whole = [file for file in files if doomed.whole(file)]
    if whole:
        yield table.remove(whole)
    for file in files:
        if doomed.whole(file) is None and (count := _count(table, file, doomed)):
            everything = count == file["num_records"]
            yield table.remove([file]) if everything else table.rewrite([file], lambda one: pc.invert(doomed.rows(one)))


def _count(table: Table, file: Mapping[str, Any], doomed: _Doomed) -> int:
    pieces = table.read(file, doomed.columns)
    return sum(int(pc.sum(doomed.rows(piece)).as_py() or 0) for piece in pieces)


def _entity_ids(settings: Settings, endpoint: str) -> list[str]:
    """The ids all served entities of an endpoint ever had; none where they were never written down."""
    try:
        table = table_listing.existing(settings, str(SERVED_ENTITIES))
    except NotFound:
        return []
    pieces = (piece for file in table.files() for piece in table.read(file, ["served_entity_id", "endpoint_name"]))
    rows = (row for piece in pieces for row in piece.to_pylist())
    return sorted({row["served_entity_id"] for row in rows if row["endpoint_name"] == endpoint})
