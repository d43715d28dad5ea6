"""Writes interactions into their tables. Imported when the first one asks for it, because the libraries are large."""

from collections.abc import Sequence

import pyarrow as pa

from llmops.endpoints.store import StoredEndpoint
from llmops.errors import Conflict, InvalidParameter, Unavailable
from llmops.interactions import payload_table, table_place, usage_tables
from llmops.interactions.delta import Numbered, Table
from llmops.interactions.delta_files import Row
from llmops.interactions.record import Interaction
from llmops.interactions.sink import Delivered, Outcome, Refused
from llmops.interactions.spool import Leased
from llmops.interactions.table_entities import EntityLog
from llmops.interactions.table_place import TableName, workspace_id
from llmops.interactions.table_upkeep import Upkeep, design
from llmops.settings import Settings

_Rows = dict[tuple[TableName, str], list[Numbered]]


class TableWriter:
    """Keeps tables open and appends to them; used by one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._workspace_id = workspace_id(settings)
        self._entities = EntityLog(settings)
        self._upkeep = Upkeep(settings)
        self._tables: dict[TableName, Table] = {}
        self._commits: dict[TableName, int] = {}
        # Arrow's own pools keep tens of megabytes between two batches that MLflow, in this process too, could use.
        pa.set_memory_pool(pa.system_memory_pool())

    def write(self, batch: Sequence[Leased[Interaction]]) -> list[Outcome]:
        """Append every record that asks for it, to each of its tables.

        Returns:
            Refused where a record can never be written as things are: then it is in no table.

        Raises:
            Unavailable: The tables are away; what was written is not written again.
        """
        outcomes: list[Outcome] = [Delivered()] * len(batch)
        foreign: dict[TableName, str] = {}
        rows: _Rows = {}
        for place, leased in enumerate(batch):
            try:
                made = self._rows(leased.record, foreign)
            except (Conflict, InvalidParameter) as err:
                outcomes[place] = Refused(err.message)
            except (TypeError, ValueError, AttributeError, OverflowError) as err:
                outcomes[place] = Refused(f"the record cannot be a row: {type(err).__name__}")
            else:
                for name, row in made:
                    # A source is a spool: its reader is the only one, and its numbers never repeat.
                    source = f"llmops-{leased.spool_id}"
                    rows.setdefault((name, source), []).append(Numbered(leased.seq, row, leased.tries > 1))
        for (name, source), group in rows.items():
            self._append(name, source, group)
        pa.default_memory_pool().release_unused()
        return outcomes

    def follow(self, endpoints: Sequence[StoredEndpoint]) -> None:
        """Write down what happened to endpoints, as far as it is not written yet.

        Raises:
            Unavailable, Conflict: See `Table`.
        """
        self._entities.update(endpoints)

    def tidy(self) -> None:
        """Have tables tidied, in another process, that got many commits or were found with many files."""
        due = [name for name, count in self._commits.items() if count >= self._settings.table_compact_every]
        if due and self._upkeep.tidy(due):
            self._commits.update(dict.fromkeys(due, 0))

    def close(self) -> None:
        """End what runs besides."""
        self._upkeep.close()

    def _rows(self, one: Interaction, foreign: dict[TableName, str]) -> list[tuple[TableName, Row]]:
        """The rows of a record. All are made, and their tables looked at, before one is written.

        Args:
            foreign: Why tables cannot be written to; added to.
        """
        rows: list[tuple[TableName, Row]] = []
        if one.payload_table is not None:
            rows.append((TableName.parse(one.payload_table), payload_table.payload_row(one)))
        if one.usage_tracked:
            rows.append((table_place.ENDPOINT_USAGE, usage_tables.usage_row(one, self._workspace_id)))
        for name, _ in rows:
            if name not in foreign and name not in self._tables:
                try:
                    self._open(name)
                except Conflict as err:
                    foreign[name] = err.message
            if name in foreign:
                raise Conflict(foreign[name])
        return rows

    def _open(self, name: TableName) -> None:
        table = Table(name.uri(self._settings), design(name))
        self._tables[name] = table
        self._commits.setdefault(name, len(table.files()))

    def _append(self, name: TableName, source: str, rows: Sequence[Numbered]) -> None:
        # Taken out, so that after any trouble it is opened, and looked at, anew.
        table = self._tables.pop(name)
        try:
            table.append(source, rows)
        except Conflict as err:
            raise Unavailable(err.message) from err
        self._tables[name] = table
        self._commits[name] += 1
