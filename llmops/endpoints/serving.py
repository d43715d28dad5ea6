"""Which config of an endpoint a server serves while its newest one is not ready: kept by the database itself.

An endpoint serves its newest config unless it has a row here. A row comes with every new config, by a trigger, in the
same transaction: whoever ends in the middle leaves both, or neither. It goes once the newest config is ready
(`llmops.gateway.rollout`), or needs no engine at all. Every server has rows of its own, because every server has
engines of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

#: An endpoint's own file is served as it is after a start: only one created over REST is new when it appears.
TABLE = """
CREATE TABLE IF NOT EXISTS serving (
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    document TEXT NOT NULL,
    failed TEXT
);
CREATE TRIGGER IF NOT EXISTS serve_nothing AFTER INSERT ON endpoints WHEN NEW.source IS NULL
BEGIN
    INSERT OR REPLACE INTO serving VALUES (NEW.id, 0, '{}', NULL);
END;
CREATE TRIGGER IF NOT EXISTS serve_old AFTER UPDATE OF config_version ON endpoints
WHEN OLD.config_version != NEW.config_version AND OLD.id = NEW.id
BEGIN
    INSERT OR IGNORE INTO serving VALUES (OLD.id, OLD.config_version, OLD.document, NULL);
    UPDATE serving SET failed = NULL WHERE id = OLD.id;
END;
CREATE TRIGGER IF NOT EXISTS serve_no_more AFTER DELETE ON endpoints
BEGIN
    DELETE FROM serving WHERE id = OLD.id;
END;
"""
ALL = "SELECT id, version, document, failed FROM serving"
#: What a start forgets.
FORGET = "DELETE FROM serving WHERE id NOT IN (SELECT id FROM endpoints WHERE source IS NULL)"
#: Values: id, id, config_version.
SETTLE = "DELETE FROM serving WHERE id = ? AND EXISTS (SELECT 1 FROM endpoints WHERE id = ? AND config_version = ?)"
#: Values: reason, id, id, config_version. The first reason stays: an engine that is tried again has not got better yet.
FAIL = (
    "UPDATE serving SET failed = ? WHERE failed IS NULL AND id = ?"
    " AND EXISTS (SELECT 1 FROM endpoints WHERE id = ? AND config_version = ?)"
)


@dataclass(frozen=True, slots=True)
class Serving:
    """What an endpoint serves until its newest config is ready.

    Attributes:
        version: The ``config_version`` that serves; 0 where none has been ready yet.
        config: Of that version; empty where there is none.
        failed: Why the newest config is not ready and may never be; None while nothing went wrong.
    """

    version: int
    config: Mapping[str, Any]
    failed: str | None


def serving(rows: Sequence[Sequence[Any]]) -> dict[str, Serving]:
    """The rows of `ALL`, by the id of their endpoint."""
    read = ((id_, version, orjson.loads(document).get("config"), failed) for id_, version, document, failed in rows)
    # A file that was wrong had no config that could serve.
    return {id_: Serving(version if config else 0, config or {}, failed) for id_, version, config, failed in read}
