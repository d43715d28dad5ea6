"""The encrypted store of secrets: scopes, the secrets in them, and who may do what with a scope.

Values are sealed (`llmops.endpoints.secret_seal`) before they reach the database, and opened only for a call that
needs one. Limits and words are those of Databricks' secrets API.

Source: ../shared/reference/databricks_contract.md 8.1
"""

import difflib
import re
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Literal, get_args

from llmops.endpoints.master_keys import MasterKeys, MissingMasterKey
from llmops.endpoints.secret_database import Ask, SecretDatabase
from llmops.endpoints.secret_seal import MasterKey, Sealed
from llmops.endpoints.secrets import KEY_NAME, SCOPE_NAME, master_key
from llmops.errors import AlreadyExists, BadRequest, InvalidParameter, NotFound
from llmops.settings import Settings

MOST_SCOPES = 1000
MOST_SECRETS = 1000
MOST_BYTES = 128 * 1024
MOST_PRINCIPAL_CHARS = 255

Permission = Literal["READ", "WRITE", "MANAGE"]
#: From the weakest; each includes those before it.
PERMISSIONS: tuple[str, ...] = get_args(Permission)
#: The group everybody is in.
USERS = "users"

_SEALED = "scope, key, version, master_id, wrapped, sealed"
_PUT = """INSERT INTO secrets VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (scope, key) DO UPDATE
SET version = excluded.version, master_id = excluded.master_id, wrapped = excluded.wrapped, sealed = excluded.sealed,
updated_ms = excluded.updated_ms"""
_GRANT = """INSERT INTO secret_acls VALUES (?, ?, ?)
ON CONFLICT (scope, principal) DO UPDATE SET permission = excluded.permission"""


@dataclass(frozen=True, slots=True)
class Acl:
    """What one principal, a user or a group, may do with a scope."""

    principal: str
    permission: str


class SecretStore:
    """Scopes, secrets and their ACLs; safe to use from several threads and processes. All but `read` may block.

    Where servers share a database, every method but `read` raises Unavailable while it is away.
    """

    def __init__(self, database: SecretDatabase, keys: MasterKeys) -> None:
        self._database = database
        self._keys = keys

    @classmethod
    def open(cls, settings: Settings) -> "SecretStore":
        """The secrets of a server. A master key that is wrong or missing is told when it is needed."""
        keys = MasterKeys(settings.data_dir / "master.key", master_key())
        return cls(SecretDatabase(settings.store_path, settings.database_url), keys)

    async def follow(self) -> None:
        """Copy what other servers change, until cancelled; returns at once where nothing is shared."""
        await self._database.follow()

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def changed(self) -> bool:
        """Whether a secret may have changed since this was last asked."""
        return self._database.changed()

    def read(self, scope: str, key: str) -> bytes | None:
        """The value of a secret; None where there is none. Waits for no network.

        Raises:
            BadRequest: It cannot be opened; the message says why, and does not name the secret.
        """
        statement = f"SELECT {_SEALED} FROM secrets WHERE scope = ? AND key = ?"  # noqa: S608 - our own columns
        before = ""
        while rows := self._database.read(statement, (scope, key)):
            sealed = Sealed(*rows[0])
            try:
                return self._keys.find(sealed.master_id).open(sealed)
            except MissingMasterKey:
                # A rotation may have ended between the two reads, of the row and of the file.
                if sealed.master_id == before:
                    raise
                before = sealed.master_id
        return None

    def scopes(self) -> list[str]:
        """The name of every scope, sorted."""
        self._database.pull()
        return [row[0] for row in self._database.read("SELECT name FROM secret_scopes ORDER BY name")]

    def create_scope(self, scope: str, manager: str) -> None:
        """Make an empty scope that a principal may MANAGE.

        Raises:
            AlreadyExists: There is one of that name.
            InvalidParameter: The name cannot be one.
            BadRequest: There are as many as there may be.
        """
        _check(scope, SCOPE_NAME, "scope")
        with self._database.write() as ask:
            if ask("SELECT 1 FROM secret_scopes WHERE name = ?", (scope,)):
                raise AlreadyExists(f"Scope {scope} already exists!")
            if ask("SELECT COUNT(*) FROM secret_scopes", ())[0][0] >= MOST_SCOPES:
                raise _limit(f"there are {MOST_SCOPES} scopes, and no more may be made; delete one")
            ask("INSERT INTO secret_scopes VALUES (?, ?)", (scope, _now_ms()))
            ask(_GRANT, (scope, manager, "MANAGE"))

    def delete_scope(self, scope: str) -> None:
        """Forget a scope with its secrets and ACLs.

        Raises:
            NotFound: There is none of that name.
        """
        with self._database.write() as ask:
            self._require(ask, scope)
            ask("DELETE FROM secrets WHERE scope = ?", (scope,))
            ask("DELETE FROM secret_acls WHERE scope = ?", (scope,))
            ask("DELETE FROM secret_scopes WHERE name = ?", (scope,))

    def secrets(self, scope: str) -> list[tuple[str, int]]:
        """Key and time of the last change (ms since the epoch) of every secret of a scope, sorted.

        Raises:
            NotFound: There is no such scope.
        """
        self._database.pull()
        self._require(self._database.read, scope)
        rows = self._database.read("SELECT key, updated_ms FROM secrets WHERE scope = ? ORDER BY key", (scope,))
        return [(key, updated_ms) for key, updated_ms in rows]

    def put(self, scope: str, key: str, value: bytes) -> None:
        """Keep a secret, in the place of the one of that name if there is one.

        Raises:
            NotFound: There is no such scope.
            InvalidParameter: The key cannot be one, or the value is empty or too long.
            BadRequest: The scope is full, or there is no master key to seal it with.
        """
        _check_value(scope, key, value)
        with self._database.write() as ask:
            self._require(ask, scope)
            known = ask("SELECT 1 FROM secrets WHERE scope = ? AND key = ?", (scope, key))
            if not known and ask("SELECT COUNT(*) FROM secrets WHERE scope = ?", (scope,))[0][0] >= MOST_SECRETS:
                raise _limit(f"scope {scope} holds {MOST_SECRETS} secrets, and no more may be put; delete one")
            self._seal(ask, scope, key, value)

    def keep(self, scope: str, values: Mapping[str, bytes]) -> None:
        """Keep secrets that the server itself names, by key, all or none; the scope is made, and holds any number.

        Raises:
            InvalidParameter: As for `put`.
            BadRequest: There is no master key to seal them with.
        """
        for key, value in values.items():
            _check_value(scope, key, value)
        with self._database.write() as ask:
            ask("INSERT INTO secret_scopes VALUES (?, ?) ON CONFLICT (name) DO NOTHING", (scope, _now_ms()))
            for key, value in values.items():
                self._seal(ask, scope, key, value)

    def drop(self, scope: str, keys: Iterable[str]) -> None:
        """Forget secrets, those that are there."""
        with self._database.write() as ask:
            for key in keys:
                ask("DELETE FROM secrets WHERE scope = ? AND key = ?", (scope, key))

    def delete(self, scope: str, key: str) -> None:
        """Forget a secret.

        Raises:
            NotFound: There is no such scope, or no such key in it; the message names the nearest.
        """
        with self._database.write() as ask:
            self._require(ask, scope)
            if not ask("DELETE FROM secrets WHERE scope = ? AND key = ? RETURNING key", (scope, key)):
                keys = (row[0] for row in ask("SELECT key FROM secrets WHERE scope = ?", (scope,)))
                raise NotFound(f"Secret does not exist with scope: {scope} and key: {key}.{_nearest(key, keys)}")

    def acls(self, scope: str) -> list[Acl]:
        """Who may do what with a scope, by principal.

        Raises:
            NotFound: There is no such scope.
        """
        self._database.pull()
        self._require(self._database.read, scope)
        statement = "SELECT principal, permission FROM secret_acls WHERE scope = ? ORDER BY principal"
        return [Acl(*row) for row in self._database.read(statement, (scope,))]

    def acl(self, scope: str, principal: str) -> Acl:
        """What one principal may do with a scope.

        Raises:
            NotFound: There is no such scope, or it has no ACL of that principal.
        """
        for acl in self.acls(scope):
            if acl.principal == principal:
                return acl
        raise NotFound(f"Failed to get secret acl for principal '{principal}' of scope '{scope}': there is none")

    def put_acl(self, scope: str, principal: str, permission: str) -> None:
        """Let a principal do something with a scope, in the place of what it might do before.

        Raises:
            NotFound: There is no such scope.
            InvalidParameter: There is no such permission, or this can be no principal.
        """
        if permission not in PERMISSIONS:
            raise InvalidParameter(f"permission must be {', '.join(PERMISSIONS[:-1])} or {PERMISSIONS[-1]}")
        if not 0 < len(principal) <= MOST_PRINCIPAL_CHARS or not principal.isprintable():
            raise InvalidParameter(
                f"principal must be the name of a user or group, 1 to {MOST_PRINCIPAL_CHARS} characters"
            )
        with self._database.write() as ask:
            self._require(ask, scope)
            ask(_GRANT, (scope, principal, permission))

    def delete_acl(self, scope: str, principal: str) -> None:
        """Let a principal do nothing with a scope any more.

        Raises:
            NotFound: There is no such scope, or it has no ACL of that principal.
        """
        with self._database.write() as ask:
            self._require(ask, scope)
            statement = "DELETE FROM secret_acls WHERE scope = ? AND principal = ? RETURNING principal"
            if not ask(statement, (scope, principal)):
                raise NotFound(f"scope '{scope}' has no acl of principal '{principal}'")

    def allowed(self, principal: str, scope: str, permission: Permission, groups: Collection[str] = ()) -> bool:
        """Whether a user may do something with a scope, as its ACLs say; an admin needs none. Waits for no network.

        Args:
            groups: Those the user is in, besides the one of all users.
        """
        rows = self._database.read("SELECT principal, permission FROM secret_acls WHERE scope = ?", (scope,))
        names = {principal, USERS, *groups}
        enough = PERMISSIONS[PERMISSIONS.index(permission) :]
        return any(name in names and granted in enough for name, granted in rows)

    def rotate(self) -> int:
        """Wrap the data key of every secret with a new master key, and forget the old one.

        Killed at any moment, it leaves secrets that can be read: the file of master keys holds both until all are
        wrapped with the new one.

        Returns:
            How many secrets there are.

        Raises:
            BadRequest: One of them cannot be opened, which is named, or there is no new key; nothing has changed then.
        """
        if self._database.shared and not self._keys.by_setting:
            raise BadRequest(
                "servers that share a database take the master key from LLMOPS_MASTER_KEY: set it to '<new>,<old>' on"
                " every server, the old one being that of master.key, restart, and repeat"
            )
        with self._database.write() as ask:
            rows = ask(f"SELECT {_SEALED} FROM secrets", ())  # noqa: S608 - our own columns
            opened = [(sealed, self._unwrapped(sealed)) for sealed in (Sealed(*row) for row in rows)]
            new = self._keys.renew(ask("SELECT master_id FROM secret_state", ())[0][0])
            statement = "UPDATE secrets SET master_id = ?, wrapped = ? WHERE scope = ? AND key = ?"
            for sealed, data_key in opened:
                ask(statement, (new.id, new.wrap(sealed, data_key).wrapped, sealed.scope, sealed.key))
            ask("UPDATE secret_state SET master_id = ?", (new.id,))
        with self._database.write() as ask:
            # Under the lock again: another rotation may have begun meanwhile.
            used = [row[0] for row in ask("SELECT master_id FROM secrets UNION SELECT master_id FROM secret_state", ())]
            self._keys.retire(used)
        return len(opened)

    def _seal(self, ask: Ask, scope: str, key: str, value: bytes) -> None:
        version = ask("SELECT version FROM secret_state", ())[0][0]
        sealed = self._master_key(ask).seal(scope, key, version, value)
        ask(_PUT, (*astuple(sealed), _now_ms()))

    def _unwrapped(self, sealed: Sealed) -> bytes:
        try:
            return self._keys.find(sealed.master_id).unwrap(sealed)
        except BadRequest as err:
            raise BadRequest(f"secret {sealed.scope}/{sealed.key} cannot be read: {err.message}") from err

    def _master_key(self, ask: Ask) -> MasterKey:
        """The key that secrets are sealed with now. A lost one is not replaced while anything is sealed with it."""
        current = ask("SELECT master_id FROM secret_state", ())[0][0]
        if current is not None:
            try:
                return self._keys.find(current)
            except MissingMasterKey as err:
                sealed = ask("SELECT scope, key FROM secrets ORDER BY scope, key LIMIT 1", ())
                if sealed:
                    raise BadRequest(f"secret {sealed[0][0]}/{sealed[0][1]} cannot be read: {err.message}") from err
        key = self._keys.first()
        ask("UPDATE secret_state SET master_id = ?", (key.id,))
        return key

    def _require(self, ask: Ask, scope: str) -> None:
        if not ask("SELECT 1 FROM secret_scopes WHERE name = ?", (scope,)):
            names = (row[0] for row in ask("SELECT name FROM secret_scopes", ()))
            raise NotFound(f"Scope {scope} does not exist!{_nearest(scope, names)}")


def _check(name: str, pattern: re.Pattern[str], what: str) -> None:
    if not pattern.fullmatch(name) or name in (".", ".."):
        allowed = "letters, digits, '-', '_', '.' and '@'" if what == "scope" else "letters, digits, '-', '_' and '.'"
        raise InvalidParameter(f"{what} must be 1 to 128 of {allowed}")


def _check_value(scope: str, key: str, value: bytes) -> None:
    _check(key, KEY_NAME, "key")
    if not 0 < len(value) <= MOST_BYTES:
        raise InvalidParameter(f"secret {scope}/{key}: a value has 1 to {MOST_BYTES} bytes, not {len(value)}")


def _nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1) if len(name) <= 128 else []
    return f" Did you mean '{near[0]}'?" if near else ""


def _limit(message: str) -> BadRequest:
    error = BadRequest(message)
    error.error_code = "RESOURCE_LIMIT_EXCEEDED"
    return error


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
