"""What is still to be said of endpoints that are gone, and of inference tables that were moved or turned off.

Interactions outlive what they were logged for, and are deleted by age. Triggers keep as much of a document as that
takes, whoever changes or deletes the endpoint: its retention, and what its table was. Every server keeps it of the
endpoints it has had; where they are shared, of their copies.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from llmops.endpoints.ai_gateway import InferenceTableConfig

_OLD = "CAST(OLD.document AS TEXT)"
_NEW = "CAST(NEW.document AS TEXT)"
_TABLES = (
    "json_array(json_extract({0}, '$.ai_gateway.inference_table_config'),"
    " json_extract({0}, '$.config.auto_capture_config'))"
)
_KEEP = f"""
    INSERT OR REPLACE INTO former VALUES (
        OLD.name, {_TABLES.format(_OLD)}, json_extract({_OLD}, '$.llmops.retention_days'));
"""  # noqa: S608 - our own words
#: A file that is wrong has no config for a while; what it said before still holds.
TABLE = f"""
CREATE TABLE IF NOT EXISTS former (
    name TEXT NOT NULL,
    tables TEXT NOT NULL,
    retention_days INTEGER,
    PRIMARY KEY (name, tables)
);
CREATE TRIGGER IF NOT EXISTS keep_deleted AFTER DELETE ON endpoints
WHEN json_extract({_OLD}, '$.config') IS NOT NULL
BEGIN{_KEEP}END;
CREATE TRIGGER IF NOT EXISTS keep_table AFTER UPDATE OF document ON endpoints
WHEN json_extract({_OLD}, '$.config') IS NOT NULL
    AND (json_extract({_NEW}, '$.config') IS NULL OR {_TABLES.format(_OLD)} != {_TABLES.format(_NEW)})
BEGIN{_KEEP}END;
"""
#: In the order it was written: the last of a name is the last that held.
ALL = "SELECT name, tables, retention_days FROM former ORDER BY rowid"


@dataclass(frozen=True, slots=True)
class Former:
    """What an endpoint was before it changed or was deleted.

    Attributes:
        tables: Full names of its inference tables; most often none or one.
        retention_days: None where it kept everything.
    """

    name: str
    tables: tuple[str, ...]
    retention_days: int | None


def former(rows: Iterable[Sequence[Any]]) -> list[Former]:
    """Read the rows of `ALL`."""
    return [Former(name, tuple(_tables(name, orjson.loads(tables))), days) for name, tables, days in rows]


def _tables(name: str, configs: Iterable[Any]) -> Iterable[str]:
    for config in configs:
        table = InferenceTableConfig.model_validate(config, extra="ignore").table(name) if config else None
        if table is not None:
            yield table
