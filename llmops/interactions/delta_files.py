"""The Parquet files of a Delta table: written in small pieces, read in small pieces, and described for the log.

delta-rs writes files too, and keeps hundreds of megabytes doing it: measured with rows of 32 MB, its process grew from
100 to 680 MB, and with this one from 100 to 260 MB. Here a piece is a few megabytes, or one row where a row is larger.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction, RemoveAction

Row = dict[str, Any]
#: Which rows of a piece stay: an array of booleans.
Stays = Callable[[pa.RecordBatch], pa.Array]

#: What one piece holds; in memory at a time is a small multiple of it.
_PIECE_BYTES = 4 * 1024 * 1024
_PIECE_ROWS = 8192
_ROW_BYTES = 256


@dataclass(frozen=True, slots=True)
class Design:
    """What a table of ours looks like.

    The log keeps the least and the largest ``key`` and ``time`` of each file, so that readers can skip files, and of no
    other column: least and largest of a payload would be payload, in a log that outlives what it describes.

    Attributes:
        key: The column that names a row; sorted by time.
        time: The column that says when.
        whole: Columns of long texts.
        partition: The column of dates that files lie by; None where they lie together.
    """

    comment: str
    schema: pa.Schema
    key: str
    time: str
    whole: tuple[str, ...] = ()
    partition: str | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written, and what the log will say of it."""

    action: AddAction
    rows: int


def options(uri: str) -> dict[str, str] | None:
    """How patient an object store is waited for; whose it is and how it is reached stands in the environment.

    Its client would try for three minutes; who calls us tries again anyway, and says meanwhile what is wrong.
    """
    if "://" not in uri or uri.startswith("file://"):
        return None
    return {"max_retries": "3", "retry_timeout": "15s", "timeout": "30s", "connect_timeout": "5s"}


class Files:
    """The files of one table; used by one thread."""

    def __init__(self, table: DeltaTable, design: Design) -> None:
        # The handler wants delta-rs's own object, and there is no public door to it.
        self._files = pafs.PyFileSystem(DeltaStorageHandler.from_table(table._table, options(table.table_uri)))
        self._design = design

    def holds(self, path: str) -> bool:
        """Whether a file of that path is there."""
        return bool(self._files.get_file_info(path).type == pafs.FileType.File)

    def write(self, rows: Sequence[Row]) -> list[Written]:
        """Write rows, one file for each partition; all or none."""
        schema = self._stored(self._design.schema)
        groups: dict[Any, list[Row]] = {}
        for row in rows:
            groups.setdefault(row[self._design.partition] if self._design.partition else None, []).append(row)
        written: list[Written] = []
        try:
            for day, group in groups.items():
                pieces = (pa.RecordBatch.from_pylist(piece, schema=schema) for piece in self._pieces(group))
                written += self._write(day, schema, pieces)
        except BaseException:
            self.drop(written)
            raise
        return written

    def merge(self, files: Sequence[Mapping[str, Any]], schema: pa.Schema, stays: Stays | None) -> list[Written]:
        """Write the rows of several files of one partition into one, or those of them that stay.

        Args:
            schema: The table's, which may have columns the design does not know.

        Returns:
            Nothing where no row stays.
        """
        pieces = (piece for file in files for piece in self.read(file, schema))
        kept = pieces if stays is None else (piece.filter(stays(piece)) for piece in pieces)
        stored = self._stored(schema)
        written = (piece.select(stored.names) for piece in kept if piece.num_rows)
        return self._write(self._day_of(files[0]), stored, written)

    def read(self, file: Mapping[str, Any], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The rows of a file, piece by piece, with these columns; those it does not have are null."""
        given = {self._design.partition: self._day_of(file)} if self._design.partition else {}
        with self._files.open_input_file(file["path"]) as source, pq.ParquetFile(source) as content:
            there = [field.name for field in content.schema_arrow if field.name in schema.names]
            for number in range(content.num_row_groups):
                group = content.metadata.row_group(number)
                rows = _PIECE_BYTES * group.num_rows // max(group.total_byte_size, 1)
                size = min(max(rows, 1), _PIECE_ROWS)
                for piece in content.iter_batches(batch_size=size, row_groups=[number], columns=there):
                    yield _fitted(piece, schema, given)

    def drop(self, written: Iterable[Written]) -> None:
        """Remove files that did not get into the log."""
        for one in written:
            self._discard(one.action.path)

    def removal(self, file: Mapping[str, Any], *, change: bool) -> RemoveAction:
        """What the log will say of a file that is replaced; ``change``: rows go with it."""
        return RemoveAction(file["path"], change, _now_ms(), file["size_bytes"], self._values(self._day_of(file)))

    def _stored(self, schema: pa.Schema) -> pa.Schema:
        """A partition is in the path of a file, not in it."""
        place = schema.get_field_index(self._design.partition) if self._design.partition else -1
        return schema if place < 0 else schema.remove(place)

    def _day_of(self, file: Mapping[str, Any]) -> Any:
        return file[f"partition.{self._design.partition}"] if self._design.partition else None

    def _values(self, day: date | None) -> dict[str, str | None]:
        return {self._design.partition: day.isoformat() if day else None} if self._design.partition else {}

    def _pieces(self, rows: Iterable[Row]) -> Iterator[list[Row]]:
        piece: list[Row] = []
        size_bytes = 0
        for row in rows:
            piece.append(row)
            size_bytes += _ROW_BYTES + sum(len(row[name] or "") for name in self._design.whole)
            if size_bytes >= _PIECE_BYTES:
                yield piece
                piece, size_bytes = [], 0
        if piece:
            yield piece

    def _write(self, day: date | None, schema: pa.Schema, pieces: Iterable[pa.RecordBatch]) -> list[Written]:
        name = f"part-00000-{uuid.uuid4()}-c000.zstd.parquet"
        path = f"{self._design.partition}={day}/{name}" if self._design.partition else name
        summary = _Summary(self._design)
        try:
            with self._files.open_output_stream(path) as out:
                self._fill(out, schema, pieces, summary)
            size_bytes = self._files.get_file_info(path).size
        except BaseException:
            # A full disk must not be filled further by what is left of every try.
            self._discard(path)
            raise
        if not summary.rows:
            self._discard(path)
            return []
        action = AddAction(path, size_bytes, self._values(day), _now_ms(), True, summary.document())
        return [Written(action, summary.rows)]

    def _fill(self, out: Any, schema: pa.Schema, pieces: Iterable[pa.RecordBatch], summary: "_Summary") -> None:
        described = [self._design.key, self._design.time]
        plain = {*described, *self._design.whole}
        # A dictionary of whole payloads is work for nothing, and their least and largest are payload.
        repeated = [field.name for field in schema if field.name not in plain]
        with pq.ParquetWriter(
            out, schema, compression="zstd", use_dictionary=repeated, write_statistics=described
        ) as writer:
            for piece in pieces:
                writer.write_batch(piece)
                summary.add(piece)

    def _discard(self, path: str) -> None:
        # What stays behind all the same is found by the next vacuum.
        with suppress(OSError):
            self._files.delete_file(path)


class _Summary:
    """Counts and bounds of a file, as the log tells them.

    Source: https://github.com/delta-io/delta/blob/master/PROTOCOL.md#per-file-statistics
    """

    def __init__(self, design: Design) -> None:
        self.rows = 0
        self._names = (design.key, design.time)
        self._bounds: dict[str, list[Any]] = {name: [] for name in self._names}
        self._nulls = dict.fromkeys(self._names, 0)

    def add(self, piece: pa.RecordBatch) -> None:
        """Take note of rows that were written."""
        self.rows += piece.num_rows
        for name in self._names:
            column = piece.column(name)
            found = pc.min_max(column).as_py()
            self._nulls[name] += column.null_count
            self._bounds[name] += [value for value in found.values() if value is not None]

    def document(self) -> str:
        """The statistics as the log has them: JSON in a text."""
        least = {name: _bound(min(bounds)) for name, bounds in self._bounds.items() if bounds}
        largest = {name: _bound(max(bounds), up=True) for name, bounds in self._bounds.items() if bounds}
        document = {"numRecords": self.rows, "minValues": least, "maxValues": largest, "nullCount": self._nulls}
        return orjson.dumps(document).decode()


def _bound(value: Any, *, up: bool = False) -> Any:
    """A bound as the log writes it: times in milliseconds, rounded away from what lies between the bounds."""
    if not isinstance(value, datetime):
        return value
    rounded = value + timedelta(microseconds=999 if up else 0)
    return rounded.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fitted(piece: pa.RecordBatch, schema: pa.Schema, given: Mapping[str, Any]) -> pa.RecordBatch:
    """A piece of a file with the columns its table has now."""
    there = set(piece.schema.names)
    columns = [
        piece.column(field.name).cast(field.type)
        if field.name in there
        else pa.repeat(pa.scalar(given.get(field.name), field.type), piece.num_rows)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
