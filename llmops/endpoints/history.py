"""Every config an endpoint has had, kept by the database itself: triggers write them, whoever changes an endpoint.

A version is an endpoint's ``config`` under its ``config_version``. It is kept in the same transaction as the endpoint,
so none is missing and none was never served, and it goes with its endpoint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

#: For SQLite. Where endpoints are shared, a copy of them is replaced all the time: a version that is there stays.
TABLES = """
CREATE TABLE IF NOT EXISTS versions (
    id TEXT NOT NULL,
    version INTEGER NOT NULL,
    document TEXT NOT NULL,
    changed_ms INTEGER NOT NULL,
    PRIMARY KEY (id, version)
);
CREATE TRIGGER IF NOT EXISTS keep_first AFTER INSERT ON endpoints
BEGIN
    INSERT OR IGNORE INTO versions VALUES (NEW.id, NEW.config_version, NEW.document, NEW.updated_ms);
END;
CREATE TRIGGER IF NOT EXISTS keep_next AFTER UPDATE OF config_version ON endpoints
BEGIN
    INSERT OR IGNORE INTO versions VALUES (NEW.id, NEW.config_version, NEW.document, NEW.updated_ms);
END;
CREATE TRIGGER IF NOT EXISTS forget AFTER DELETE ON endpoints
BEGIN
    DELETE FROM versions WHERE id = OLD.id;
END;
INSERT OR IGNORE INTO versions SELECT id, config_version, document, updated_ms FROM endpoints;
"""
#: The same for PostgreSQL. The whole document, because its functions of JSON refuse what JSON may hold (NUL).
SHARED_TABLES = """
CREATE TABLE llmops.versions (
    id TEXT NOT NULL,
    version BIGINT NOT NULL,
    document TEXT NOT NULL,
    changed_ms BIGINT NOT NULL,
    PRIMARY KEY (id, version)
);
CREATE FUNCTION llmops.keep_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO llmops.versions VALUES (NEW.id, NEW.config_version, NEW.document, NEW.updated_ms)
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE FUNCTION llmops.forget_versions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM llmops.versions WHERE id = OLD.id;
    RETURN NULL;
END $$;
CREATE TRIGGER keep_version AFTER INSERT OR UPDATE OF config_version ON llmops.endpoints
    FOR EACH ROW EXECUTE FUNCTION llmops.keep_version();
CREATE TRIGGER forget_versions AFTER DELETE ON llmops.endpoints
    FOR EACH ROW EXECUTE FUNCTION llmops.forget_versions();
INSERT INTO llmops.versions SELECT id, config_version, document, updated_ms FROM llmops.endpoints;
"""
OF = "SELECT version, document, changed_ms FROM versions WHERE id = ? ORDER BY version DESC"


@dataclass(frozen=True, slots=True)
class Version:
    """One config of an endpoint.

    Attributes:
        number: Its ``config_version``.
        changed_ms: When it became the endpoint's config, in milliseconds of Unix time.
    """

    number: int
    config: Mapping[str, Any]
    changed_ms: int

    def document(self) -> dict[str, Any]:
        """The version as plain JSON."""
        return {"config_version": self.number, "timestamp": self.changed_ms, "config": dict(self.config)}


def versions(rows: Sequence[Sequence[Any]]) -> list[Version]:
    """The versions of rows of `OF`; a file that was wrong for a while had no config then."""
    read = [(number, orjson.loads(document).get("config"), changed_ms) for number, document, changed_ms in rows]
    return [Version(number, config, changed_ms) for number, config, changed_ms in read if config is not None]
