"""Brings what happens to served entities into their table: created, changed, and gone with their endpoint.

The store says what is, not what was, so the two are compared: what the store has and the table has not is a change, and
what this server once wrote and the store has no more was deleted. Of changes that follow each other faster than anybody
looks, the last one is seen.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from llmops.endpoints.store import StoredEndpoint
from llmops.errors import Unavailable
from llmops.interactions.delta import Table, exists
from llmops.interactions.delta_files import Row
from llmops.interactions.table_place import SERVED_ENTITIES, readable, tracked, workspace_id
from llmops.interactions.usage_tables import SERVED_ENTITIES as DESIGN
from llmops.interactions.usage_tables import entity_rows
from llmops.settings import Settings

#: All servers that write one table take turns under this name, so that two that share their endpoints write one row.
_SOURCE = "llmops-served-entities"
_ATTEMPTS = 20


class EntityLog:
    """Keeps the table of served entities up to date; used by one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def update(self, endpoints: Sequence[StoredEndpoint]) -> int:
        """Write what has happened since the last time, whoever looked then.

        Args:
            endpoints: All that this server's store has.

        Returns:
            How many rows were added.

        Raises:
            Unavailable, Conflict: See `Table`.
        """
        uri = SERVED_ENTITIES.uri(self._settings)
        if not exists(uri) and not any(map(tracked, endpoints)):
            return 0
        workspace, table = workspace_id(self._settings), Table(uri, DESIGN)
        for _ in range(_ATTEMPTS):
            held = table.last(_SOURCE)
            known = [row for file in table.files() for piece in table.read(file) for row in piece.to_pylist()]
            rows = list(_changes(endpoints, known, workspace))
            if not rows or table.advance(_SOURCE, held, rows):
                return len(rows)
        raise Unavailable(f"table {table.uri}: others change it too often; it is tried again")


def _changes(endpoints: Sequence[StoredEndpoint], known: Sequence[Row], workspace: str) -> Iterator[Row]:
    """The rows the table lacks."""
    there = {(row["served_entity_id"], row["endpoint_config_version"]) for row in known}
    followed = {row["endpoint_id"] for row in known}
    for endpoint in endpoints:
        spec = readable(endpoint)
        if spec is not None and (tracked(endpoint) or endpoint.id in followed):
            for row in entity_rows(endpoint, spec, workspace):
                if (row["served_entity_id"], row["endpoint_config_version"]) not in there:
                    yield row
    now = datetime.now(UTC)
    for row in _latest(known):
        # Another server's endpoints are not in our store, and not for us to declare deleted.
        if row["workspace_id"] == workspace and row["endpoint_id"] not in {endpoint.id for endpoint in endpoints}:
            yield {**row, "change_time": now, "endpoint_delete_time": now}


def _latest(known: Sequence[Row]) -> list[Row]:
    """The rows of each endpoint's last config, of endpoints that are not deleted."""
    deleted = {row["endpoint_id"] for row in known if row["endpoint_delete_time"] is not None}
    last: dict[str, int] = {}
    for row in known:
        last[row["endpoint_id"]] = max(row["endpoint_config_version"], last.get(row["endpoint_id"], 0))
    return [
        row
        for row in known
        if row["endpoint_id"] not in deleted and row["endpoint_config_version"] == last[row["endpoint_id"]]
    ]
