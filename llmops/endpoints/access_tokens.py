"""Access tokens: who calls. A value is told once and kept as its SHA-256 only, so that no database gives one away.

A token is found by the whole digest: what an attacker guesses has nothing in common with what is compared.
"""

import hashlib
import secrets
import string
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass

import orjson

from llmops.endpoints.caller import ADMIN, Caller
from llmops.endpoints.secret_database import Ask, Rows, SecretDatabase
from llmops.endpoints.secret_store import USERS
from llmops.errors import Conflict, InvalidParameter, NotFound

#: The group of every admin, in which nobody is put by name.
ADMINS = "admins"
MOST_NAME_CHARS = 255
MOST_GROUPS = 100
LONGEST_LIFE_S = 100 * 365 * 86400

_ALPHABET = string.digits + string.ascii_letters
#: So many digits of base 62 hold 256 bits.
_DIGITS = 43
_COLUMNS = "token_id, digest, owner, group_names, admin, comment, created_by, created_ms, expires_ms"
_LIVING_ADMINS = "SELECT token_id FROM access_tokens WHERE admin = 1 AND (expires_ms IS NULL OR expires_ms > ?)"


@dataclass(frozen=True, slots=True)
class Token:
    """A token without its value.

    Attributes:
        id: 32 hex digits; says nothing of the value.
        created_by: The user who made it.
        expires_ms: When it stops working, since the epoch; None: never.
    """

    id: str
    caller: Caller
    comment: str
    created_by: str
    created_ms: int
    expires_ms: int | None

    def expired(self) -> bool:
        """Whether it has stopped working."""
        return self.expires_ms is not None and self.expires_ms <= _now_ms()


class AccessTokens:
    """The tokens of a server; every method may block, and raises Unavailable while a shared database is away."""

    def __init__(self, database: SecretDatabase) -> None:
        self._database = database

    def create(
        self, owner: Caller, created_by: str, *, lifetime_s: int | None, comment: str, locked: bool
    ) -> tuple[str, Token]:
        """Make a token.

        Args:
            lifetime_s: After so long it stops working; None: never.
            locked: Whether this server has an admin's token by setting; otherwise the first one must be an admin's.

        Returns:
            Its value, which nobody can be told again, and the token.

        Raises:
            InvalidParameter: It cannot have that owner, life or comment, or nobody could manage the server.
        """
        _check(owner, lifetime_s, comment)
        value, now_ms = f"llmops-{_base62(secrets.token_bytes(32))}", _now_ms()
        expires_ms = None if lifetime_s is None else now_ms + lifetime_s * 1000
        token = Token(uuid.uuid4().hex, owner, comment, created_by, now_ms, expires_ms)
        with self._database.write() as ask:
            if not owner.admin and not locked and not ask(_LIVING_ADMINS, (now_ms,)):
                raise InvalidParameter(
                    "with its first token a server asks everybody for one, and nobody could manage it: make an admin's"
                    " token first (--admin), or start the server with LLMOPS_TOKEN"
                )
            groups = orjson.dumps(sorted(owner.groups)).decode()
            row = (token.id, digest(value), owner.user, groups, int(owner.admin), comment, created_by, now_ms)
            ask("INSERT INTO access_tokens VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, expires_ms))
        return value, token

    def all(self) -> list[Token]:
        """Every token that was not revoked, the oldest first; expired ones too."""
        self._database.pull()
        return sorted(self.known().values(), key=lambda token: (token.created_ms, token.id))

    def revoke(self, token_id: str, *, locked: bool) -> Token:
        """Forget a token.

        Args:
            locked: As for `create`.

        Raises:
            NotFound: There is none of that id.
            Conflict: It is the last one an admin has, and nobody could manage the server.
        """
        with self._database.write() as ask:
            found = ask(f"SELECT {_COLUMNS} FROM access_tokens WHERE token_id = ?", (token_id,))  # noqa: S608
            if not found:
                raise NotFound(f"Token {token_id[:64]} does not exist.")
            if not locked:
                self._refuse_last(ask, token_id)
            ask("DELETE FROM access_tokens WHERE token_id = ?", (token_id,))
        return _token(found[0])

    def known(self) -> dict[str, Token]:
        """Every token by its digest, as the file has it."""
        rows: Rows = self._database.read(f"SELECT {_COLUMNS} FROM access_tokens")  # noqa: S608 - our own columns
        return {row[1]: _token(row) for row in rows}

    def _refuse_last(self, ask: Ask, token_id: str) -> None:
        if [row[0] for row in ask(_LIVING_ADMINS, (_now_ms(),))] == [token_id]:
            raise Conflict(
                f"token {token_id} is the last one of an admin, and nobody could manage the server without it: create"
                " another with --admin first, or start the server with LLMOPS_TOKEN"
            )


def digest(value: str) -> str:
    """What a token's value is kept as."""
    return hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()


def check_name(name: str, what: str) -> None:
    """Check the name of a user, a group or a service principal.

    Raises:
        InvalidParameter: It cannot be one.
    """
    if not 0 < len(name) <= MOST_NAME_CHARS or not name.isprintable() or name != name.strip():
        raise InvalidParameter(
            f"{what} must be 1 to {MOST_NAME_CHARS} printable characters, without a space at either end"
        )


def _check(owner: Caller, lifetime_s: int | None, comment: str) -> None:
    check_name(owner.user, "user")
    if owner.user == ADMIN and not owner.admin:
        raise InvalidParameter(f"the user '{ADMIN}' is the admin: name another user, or say --admin")
    _check_groups(owner.groups)
    if lifetime_s is not None and not 0 < lifetime_s <= LONGEST_LIFE_S:
        raise InvalidParameter(f"lifetime_seconds must be 1 to {LONGEST_LIFE_S}; leave it out for a token that stays")
    if comment and (len(comment) > MOST_NAME_CHARS or not comment.isprintable()):
        raise InvalidParameter(f"comment must be at most {MOST_NAME_CHARS} printable characters")


def _check_groups(groups: Collection[str]) -> None:
    if len(groups) > MOST_GROUPS:
        raise InvalidParameter(f"a token has at most {MOST_GROUPS} groups, not {len(groups)}")
    for group in groups:
        check_name(group, "group")
        if group in (USERS, ADMINS):
            reason = "everybody is in it" if group == USERS else "say --admin"
            raise InvalidParameter(f"the group '{group}' is not given to a token: {reason}")


def _base62(data: bytes) -> str:
    number, digits = int.from_bytes(data, "big"), ""
    while len(digits) < _DIGITS:
        number, digit = divmod(number, len(_ALPHABET))
        digits += _ALPHABET[digit]
    return digits


def _token(row: Collection[object]) -> Token:
    token_id, _, owner, groups, admin, comment, created_by, created_ms, expires_ms = row
    caller = Caller(str(owner), frozenset(orjson.loads(str(groups))), admin == 1)
    expires = None if expires_ms is None else int(str(expires_ms))
    return Token(str(token_id), caller, str(comment), str(created_by), int(str(created_ms)), expires)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
