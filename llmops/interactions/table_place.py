"""Where inference tables lie: ``<root>/<catalog>/<schema>/<table>``, in a directory or an object store."""

import re
import uuid
from dataclasses import dataclass
from typing import Self

from pydantic import ValidationError

from llmops.endpoints.spec import EndpointSpec
from llmops.endpoints.store import StoredEndpoint
from llmops.errors import InvalidParameter, Unavailable
from llmops.settings import Settings

#: A part of a name becomes a directory: no dot, no slash, nothing a file system or a store reads otherwise.
_PART = re.compile(r"[A-Za-z0-9_-]{1,255}")
_WORKSPACE = "workspace_id"


@dataclass(frozen=True, slots=True)
class TableName:
    """The full name of a table; its text is ``catalog.schema.table``."""

    catalog: str
    schema: str
    table: str

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read a full name.

        Raises:
            InvalidParameter: Not three parts of letters, digits, dashes and underscores.
        """
        parts = name.split(".")
        if len(parts) != 3 or not all(_PART.fullmatch(part) for part in parts):
            raise InvalidParameter(
                f"'{name[:200]}' is not the name of a table: catalog.schema.table, each of letters, digits, _ and -"
            )
        return cls(*parts)

    def uri(self, settings: Settings) -> str:
        """Where the table lies."""
        return f"{settings.table_root}/{self.catalog}/{self.schema}/{self.table}"

    def __str__(self) -> str:
        return f"{self.catalog}.{self.schema}.{self.table}"


ENDPOINT_USAGE = TableName("system", "serving", "endpoint_usage")
SERVED_ENTITIES = TableName("system", "serving", "served_entities")


def has_workspace(settings: Settings) -> bool:
    """Whether this server has ever written a table."""
    return (settings.data_dir / _WORKSPACE).exists()


def workspace_id(settings: Settings) -> str:
    """What tells the rows of this server from those of others in the same table: 32 hex digits, the same for ever.

    Raises:
        Unavailable: It cannot be kept in the data directory.
    """
    path = settings.data_dir / _WORKSPACE
    try:
        if not path.exists():
            fresh = path.with_name(f".{_WORKSPACE}.{uuid.uuid4().hex}")
            fresh.write_text(uuid.uuid4().hex)
            fresh.rename(path)
        return path.read_text().strip()
    except OSError as err:
        raise Unavailable(f"{path}: {err.strerror}; the data directory must be writable") from err


def readable(endpoint: StoredEndpoint) -> EndpointSpec | None:
    """What an endpoint is; None where its document cannot be read, of which its workers tell."""
    if endpoint.problem is not None:
        return None
    try:
        return EndpointSpec.model_validate(endpoint.document, extra="ignore")
    except ValidationError:
        return None


def tracked(endpoint: StoredEndpoint) -> bool:
    """Whether an endpoint has an inference table, or tracks its usage."""
    spec = readable(endpoint)
    return spec is not None and (spec.log_policy.payload_table is not None or spec.log_policy.usage_tracked)
