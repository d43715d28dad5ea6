"""Keeps tables quick to read: joins small files, deletes replaced ones, sums up the log.

In a process of its own, so that shipping goes on and its memory is not the shipper's; ended at any moment, it leaves
the table as it was, or further on:

    python -m llmops.interactions.table_upkeep --root URI --vacuum-hours HOURS NAME …
"""

import argparse
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.errors import LlmopsError
from llmops.interactions import table_place, usage_tables
from llmops.interactions.delta import Table
from llmops.interactions.delta_files import Design
from llmops.interactions.payload_table import PAYLOAD
from llmops.interactions.table_place import TableName
from llmops.leash import hold
from llmops.settings import Settings

logger = logging.getLogger(__name__)

#: Smaller files are joined, until one has the second size: a file is rewritten a few times in its life.
_SMALL_BYTES, _TARGET_BYTES = 32 * 1024 * 1024, 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Tidied:
    """What was done to a table.

    Attributes:
        joined: Small files that became few.
        vacuumed: Files that were deleted.
    """

    joined: int = 0
    vacuumed: int = 0


def design(name: TableName) -> Design:
    """What a table of that name looks like."""
    known = {
        table_place.ENDPOINT_USAGE: usage_tables.ENDPOINT_USAGE,
        table_place.SERVED_ENTITIES: usage_tables.SERVED_ENTITIES,
    }
    return known.get(name, PAYLOAD)


def opened(settings: Settings, name: TableName) -> Table:
    """A table that is there, or is made."""
    return Table(name.uri(settings), design(name))


def compact(table: Table) -> int:
    """Join the small files of each partition, one commit for each file that is made.

    Returns:
        How many were joined.

    Raises:
        Unavailable, Conflict: See `Table`; what was joined before stays so.
    """
    table.refresh()
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for file in table.files():
        if file["size_bytes"] < _SMALL_BYTES:
            groups.setdefault(file.get(f"partition.{table.design.partition}"), []).append(file)
    bins = [files for group in groups.values() for files in _bins(group, table.design.key) if len(files) > 1]
    for files in bins:
        table.rewrite(files)
    return sum(len(files) for files in bins)


def tidy(settings: Settings, name: TableName) -> Tidied:
    """Do all there is to do for a table.

    Raises:
        Unavailable, Conflict: See `Table`.
    """
    table = opened(settings, name)
    joined = compact(table)
    vacuumed = table.vacuum(settings.table_vacuum_hours, lost=True)
    table.tidy_log()
    return Tidied(joined, vacuumed)


class Upkeep:
    """Starts the upkeep process, one at a time. It ends with the process that started it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._child: subprocess.Popen[bytes] | None = None

    def tidy(self, names: Sequence[TableName]) -> bool:
        """Start to tidy tables; False where the last ones are still being tidied."""
        if self._child is not None and self._child.poll() is None:
            return False
        self.close()
        root, hours = self._settings.table_root, str(self._settings.table_vacuum_hours)
        command = [sys.executable, "-m", __name__, "--root", root, "--vacuum-hours", hours]
        self._child = subprocess.Popen([*command, *map(str, names)], stdin=subprocess.PIPE)
        return True

    def close(self) -> None:
        """End it, if it runs."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None


def _bins(files: Sequence[Mapping[str, Any]], key: str) -> list[list[Mapping[str, Any]]]:
    """Files in the order of their rows, as many together as make one of the size wanted."""
    bins: list[list[Mapping[str, Any]]] = []
    size_bytes = _TARGET_BYTES
    for file in sorted(files, key=lambda one: str(one.get(f"min.{key}") or "")):
        if size_bytes + file["size_bytes"] > _TARGET_BYTES:
            bins.append([])
            size_bytes = 0
        bins[-1].append(file)
        size_bytes += file["size_bytes"]
    return bins


def main() -> int:
    """Tidy the tables that are named."""
    parser = argparse.ArgumentParser(prog="llmops.interactions.table_upkeep")
    parser.add_argument("--root", required=True)
    parser.add_argument("--vacuum-hours", type=int, required=True)
    parser.add_argument("names", nargs="+", type=TableName.parse)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    # At once: nothing is lost, and delta-rs may hold the interpreter's lock for long.
    hold(at_once=True)
    settings = Settings(data_dir=Path(), tables_uri=given.root, table_vacuum_hours=given.vacuum_hours)
    logger.info("event=tidying_tables tables=%s", " ".join(map(str, given.names)))
    failed = False
    for name in given.names:
        try:
            done = tidy(settings, name)
        except LlmopsError as err:
            failed = True
            logger.warning("event=table_not_tidied table=%s reason=%r", name, err.message)
        else:
            logger.info("event=table_tidied table=%s joined=%d vacuumed=%d", name, done.joined, done.vacuumed)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
