"""Delta tables as this house uses them: made, appended to exactly once, and rewritten.

delta-rs keeps the log; the Parquet files are written by `llmops.interactions.delta_files`. A commit carries the name of
its source and the number of its last row (an app transaction). delta-rs refuses a commit if another one of that source
came after the state it was decided on, so that what was looked up before it still holds: a compare-and-set.

Source: https://github.com/delta-io/delta/blob/master/PROTOCOL.md (transaction identifiers, add file, protocol)
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from llmops.errors import Conflict, Unavailable
from llmops.interactions.delta_files import Design, Files, Row, Stays, Written, options
from llmops.interactions.delta_trouble import explained

#: Features a table may demand of its writers that change nothing for who appends plain files.
_HARMLESS = frozenset({"appendOnly", "invariants", "timestampNtz"})
#: A commit is tried again after one of somebody else; appends give way to each other inside delta-rs.
_ATTEMPTS = 20
#: The name under which files are replaced.
_REWRITE = "llmops-rewrite"
#: The log is listed at every commit, so it is kept short: the table can be read as it was at any time of a day.
_LOG_HOURS, _TOMBSTONE_HOURS = 24, 168
#: The log cleans itself when the table is tidied, not at every commit.
_HOOKS = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)


@dataclass(frozen=True, slots=True)
class Numbered:
    """A row on its way into a table.

    Attributes:
        number: Its place with its source; names it for ever.
        repeated: Whether it may be in the table already, as far as the source knows.
    """

    number: int
    row: Row
    repeated: bool = False


def exists(uri: str) -> bool:
    """Whether a Delta table lies there, ours or not.

    Raises:
        Unavailable: The store cannot be asked.
    """
    with explained(uri):
        return DeltaTable.is_deltatable(uri, options(uri))


class Table:
    """One Delta table, open; made if it is not there. Used by one thread.

    Args:
        uri: A directory, or the address of one in an object store; its options come from the environment.

    Raises:
        Unavailable: From every method: the store is away, refuses, or is full. The message says what to do.
        Conflict: From every method: another kind of table lies there.
    """

    def __init__(self, uri: str, design: Design) -> None:
        self.uri = uri
        self.design = design
        with explained(uri):
            self._open()

    def append(self, source: str, rows: Sequence[Numbered]) -> int:
        """Add the rows that are not there yet, in one commit.

        A row is known by its key, so one that comes again under another number is not added again, if it is marked as
        repeated. Rows of one call have different keys.

        Args:
            source: Who numbers the rows; one writer at a time.

        Returns:
            How many were added.
        """
        with explained(self.uri):
            for attempt in range(_ATTEMPTS):
                self._refresh()
                held = self.last(source)
                # What its source has not seen fail, and numbers above all it has brought, cannot be there.
                doubtful = {one.row[self.design.key] for one in rows if one.repeated or one.number <= held or attempt}
                there = self._there(doubtful) if doubtful else set()
                fresh = [one.row for one in rows if one.row[self.design.key] not in there]
                number = max(held, *(one.number for one in rows))
                if not fresh or self._add(self._files.write(fresh), source, number):
                    return len(fresh)
        raise Unavailable(f"table {self.uri}: others change it too often; it is tried again")

    def advance(self, source: str, held: int, rows: Sequence[Row]) -> bool:
        """Add rows if nobody has brought anything under this name since `last` said ``held``.

        Returns:
            Whether they were added; False: look again at what is there, and decide anew.
        """
        with explained(self.uri):
            self._refresh()
            return self.last(source) == held and self._add(self._files.write(rows), source, held + 1)

    def last(self, source: str) -> int:
        """The largest number a source has brought; -1 where it has brought nothing."""
        number = self._delta.transaction_version(source)
        return -1 if number is None else number

    def refresh(self) -> None:
        """See what others have committed."""
        with explained(self.uri):
            self._refresh()

    def files(self) -> list[dict[str, Any]]:
        """Every file: path, size_bytes, num_records, partition.<column>, min.<column>, max.<column>."""
        with explained(self.uri):
            found: list[dict[str, Any]] = pa.table(self._delta.get_add_actions(flatten=True)).to_pylist()
        return found

    def read(self, file: Mapping[str, Any], columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of one of the files, a few megabytes at a time; of all columns, or of these."""
        with explained(self.uri):
            schema = self._schema()
            chosen = schema if columns is None else pa.schema([schema.field(name) for name in columns])
            yield from self._files.read(file, chosen)

    def rewrite(self, files: Sequence[Mapping[str, Any]], stays: Stays | None = None) -> int:
        """Replace files of one partition by one that holds their rows, or those of them that stay, in one commit.

        Rows that others append meanwhile are not touched, and do not stop it.

        Returns:
            How many rows did not stay.

        Raises:
            Unavailable: Also where somebody else replaced one of the files meanwhile; nothing is changed then.
        """
        with explained(self.uri):
            written = self._files.merge(files, self._schema(), stays)
            self._replace(files, written, change=stays is not None)
        return _rows(files) - sum(one.rows for one in written)

    def remove(self, files: Sequence[Mapping[str, Any]]) -> int:
        """Remove whole files in one commit, without reading them; returns how many rows that were."""
        with explained(self.uri):
            self._replace(files, [], change=True)
        return _rows(files)

    def tidy_log(self) -> None:
        """Sum the log up in one file, and delete what it is summed up from and nobody needs any more."""
        with explained(self.uri):
            self._delta.create_checkpoint()
            self._delta.cleanup_metadata()

    def vacuum(self, hours: int, *, lost: bool) -> int:
        """Delete files that were replaced so many hours ago, from the disk or the store.

        Args:
            hours: 0 leaves nothing to who reads an older version at this moment.
            lost: Delete also files that no log knows, left by who was killed while writing. Not below an hour: another
                writer's file is unknown until it is committed.

        Returns:
            How many were deleted.
        """
        with explained(self.uri):
            self._refresh()
            kept = max(hours, int(lost))
            found = self._delta.vacuum(kept, dry_run=True, enforce_retention_duration=False, full=lost)
            if found:  # To look first saves two commits where there is nothing.
                self._delta.vacuum(kept, dry_run=False, enforce_retention_duration=False, full=lost)
        return len(found)

    def _open(self) -> None:
        try:
            self._delta = DeltaTable(self.uri, storage_options=options(self.uri))
        except TableNotFoundError:
            self._delta = self._make()
        self._files = Files(self._delta, self.design)
        self._adopt()

    def _make(self) -> DeltaTable:
        configuration = {
            "delta.dataSkippingStatsColumns": f"{self.design.key},{self.design.time}",
            # A replaced file is found by the log alone for so long; when it is deleted is said to `vacuum`.
            "delta.deletedFileRetentionDuration": f"interval {_TOMBSTONE_HOURS} hours",
            "delta.logRetentionDuration": f"interval {_LOG_HOURS} hours",
        }
        try:
            return DeltaTable.create(
                self.uri,
                Schema.from_arrow(self.design.schema),
                partition_by=[self.design.partition] if self.design.partition else None,
                description=self.design.comment,
                configuration=configuration,
                storage_options=options(self.uri),
            )
        except DeltaError as err:
            # Of two who make it at once, one is told that it is there.
            try:
                return DeltaTable(self.uri, storage_options=options(self.uri))
            except TableNotFoundError:
                raise err from None

    def _refresh(self) -> None:
        self._delta.update_incremental()
        # delta-rs does not notice that a table was removed, and would go on with a log that has no beginning.
        if self._files.holds(f"_delta_log/{self._delta.version():020}.json"):
            self._adopt()
        else:
            self._open()

    def _adopt(self) -> None:
        """Make sure that the table is one of ours, and has the columns of this release."""
        there = {field.name: field for field in self._schema()}
        wanted = {field.name: field for field in pa.schema(Schema.from_arrow(self.design.schema).to_arrow())}
        other = [name for name, field in wanted.items() if name in there and there[name].type != field.type]
        missing = [name for name in wanted if name not in there]
        ours = [self.design.partition] if self.design.partition else []
        protocol, metadata = self._delta.protocol(), self._delta.metadata()
        if other or {self.design.key, self.design.time, *ours} & set(missing):
            problem = f"column {(other or missing)[0]} is {'of another type' if other else 'missing'}"
        elif metadata.partition_columns != ours:
            problem = f"it is partitioned by {metadata.partition_columns}, not by {ours}"
        elif demanded := sorted(set(protocol.writer_features or ()) - _HARMLESS):
            problem = f"it demands features this writer does not have: {', '.join(demanded)}"
        elif 2 < protocol.min_writer_version < 7:
            problem = f"it demands a writer of version {protocol.min_writer_version}"
        else:
            if missing:
                self._widen(missing)
            return
        raise Conflict(f"table {self.uri} is not one of ours: {problem}; move it away, or name another one")

    def _widen(self, names: Sequence[str]) -> None:
        schema = Schema.from_arrow(self.design.schema)
        with suppress(CommitFailedError):  # Somebody else of this release did it.
            self._delta.alter.add_columns([field for field in schema.fields if field.name in names])
        self._delta = DeltaTable(self.uri, storage_options=options(self.uri))
        self._files = Files(self._delta, self.design)

    def _schema(self) -> pa.Schema:
        return pa.schema(self._delta.schema().to_arrow())

    def _there(self, keys: set[str]) -> set[str]:
        """Those of the keys that are in the table; only files that may hold one are read."""
        least, largest = f"min.{self.design.key}", f"max.{self.design.key}"
        first, last = min(keys), max(keys)
        found: set[str] = set()
        for file in self.files():
            if (file.get(least) or first) <= last and (file.get(largest) or last) >= first:
                for piece in self.read(file, [self.design.key]):
                    found |= keys & set(piece.column(0).to_pylist())
        return found

    def _add(self, written: Sequence[Written], source: str, number: int) -> bool:
        """Put files into the log; False, and they are gone, where somebody came in between."""
        try:
            self._change([one.action for one in written], Transaction(source, number))
        except CommitFailedError:
            return self._landed(written)
        return True

    def _landed(self, written: Sequence[Written]) -> bool:
        """Whether a commit that was refused had happened: where its answer got lost, it stumbles over itself."""
        self._delta.update_incremental()
        landed = bool({one.action.path for one in written} & {file["path"] for file in self.files()})
        if not landed:
            self._files.drop(written)
        return landed

    def _replace(self, files: Sequence[Mapping[str, Any]], written: Sequence[Written], *, change: bool) -> None:
        for one in written:
            one.action.data_change = change
        removed = [self._files.removal(file, change=change) for file in files]
        # Of two commits that remove the same file, delta-rs 1.6.6 refuses the second only if rows change, and with two
        # compactions at once all rows are there twice. So everybody who replaces files takes turns under one name.
        turn = Transaction(_REWRITE, self.last(_REWRITE) + 1)
        try:
            self._change([*(one.action for one in written), *removed], turn)
        except CommitFailedError:
            if not self._landed(written):
                raise

    def _change(self, actions: list[AddAction | RemoveAction], *transactions: Transaction) -> None:
        self._delta.create_write_transaction(
            actions,
            "append",
            self._delta.schema(),
            [self.design.partition] if self.design.partition else None,
            commit_properties=CommitProperties(app_transactions=list(transactions), max_commit_retries=_ATTEMPTS),
            post_commithook_properties=_HOOKS,
        )
        self._delta.update_incremental()


def _rows(files: Sequence[Mapping[str, Any]]) -> int:
    return sum(int(file["num_records"] or 0) for file in files)
