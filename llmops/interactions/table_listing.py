"""What tables there are, how large they are, and their newest rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
from deltalake.exceptions import TableNotFoundError
from deltalake.fs import DeltaStorageHandler

from llmops.errors import Conflict, InvalidParameter, NotFound
from llmops.interactions.delta import Table, exists
from llmops.interactions.delta_files import Row, options
from llmops.interactions.delta_trouble import explained
from llmops.interactions.table_place import TableName
from llmops.interactions.table_upkeep import opened
from llmops.settings import Settings


@dataclass(frozen=True, slots=True)
class TableSummary:
    """How large a table is.

    Attributes:
        size_bytes: Of the files that hold its rows now; replaced ones are there besides until they are vacuumed.
        problem: Why it cannot be looked into: it is not one of ours. None where it can.
    """

    name: str
    uri: str
    rows: int = 0
    files: int = 0
    size_bytes: int = 0
    problem: str | None = None


def tables(settings: Settings) -> list[TableName]:
    """Every Delta table under the root, ours or not, in the order of their names.

    Raises:
        Unavailable: The root cannot be read.
    """
    with explained(settings.table_root):
        try:
            root = pafs.PyFileSystem(DeltaStorageHandler(settings.table_root, options(settings.table_root)))
        except TableNotFoundError:
            return []  # A directory that is made with the first table.
        found = [name for name in _names(root) if exists(name.uri(settings))]
    return sorted(found, key=str)


def existing(settings: Settings, name: str) -> Table:
    """A table that is there, by its full name.

    Raises:
        InvalidParameter: It is no name of a table.
        NotFound: There is none of that name.
        Unavailable, Conflict: See `Table`.
    """
    parsed = TableName.parse(name)
    if not exists(parsed.uri(settings)):
        raise NotFound(f"there is no table '{name}' in {settings.table_root}: llmops tables list shows those there are")
    return opened(settings, parsed)


def summary(settings: Settings, name: TableName) -> TableSummary:
    """How large a table is that is there.

    Raises:
        Unavailable: It cannot be read.
    """
    uri = name.uri(settings)
    try:
        files = opened(settings, name).files()
    except Conflict as err:
        return TableSummary(str(name), uri, problem=err.message)
    rows, size_bytes = (sum(file[key] or 0 for file in files) for key in ("num_records", "size_bytes"))
    return TableSummary(str(name), uri, rows, len(files), size_bytes)


def newest(table: Table, count: int) -> list[Row]:
    """The rows of the latest times, newest first; payloads of others are not read.

    Raises:
        Unavailable, Conflict: See `Table`.
    """
    key, time = table.design.key, table.design.time
    chosen: list[tuple[Any, str]] = []
    held: list[Any] = []
    files = sorted(table.files(), key=lambda file: str(file.get(f"max.{time}") or "9"), reverse=True)
    for file in files:
        largest = file.get(f"max.{time}")
        if len(chosen) == count and largest is not None and largest < chosen[-1][0]:
            break
        held.append(file)
        pieces = (piece.to_pydict() for piece in table.read(file, [time, key]))
        found = [pair for piece in pieces for pair in zip(piece[time], piece[key], strict=True)]
        chosen = sorted([*chosen, *found], reverse=True)[:count]
    wanted = pa.array([one for _, one in chosen], pa.string())
    rows: list[Row] = []
    for file in held:
        for piece in table.read(file):
            rows += piece.filter(pc.is_in(piece.column(key), wanted)).to_pylist()
    return sorted(rows, key=lambda row: (row[time], row[key]), reverse=True)[:count]


def _names(root: pafs.PyFileSystem) -> Iterator[TableName]:
    for catalog in _folders(root, ""):
        for schema in _folders(root, catalog):
            for table in _folders(root, f"{catalog}/{schema}"):
                try:
                    yield TableName.parse(f"{catalog}.{schema}.{table}")
                except InvalidParameter:
                    continue  # Somebody's own folder.


def _folders(root: pafs.PyFileSystem, path: str) -> list[str]:
    found = root.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    return [one.base_name for one in found if one.type == pafs.FileType.Directory]
