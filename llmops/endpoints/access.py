"""Tokens and permissions as a worker asks for them at every request: in memory, following the database.

What another worker or server changes is seen within about a second, and a token that is not known is looked up at once.
While a shared database is away, what is known goes on, and nobody is refused for a token that could not be looked up.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Mapping

from llmops.endpoints.access_tokens import AccessTokens, Token, digest
from llmops.endpoints.caller import Caller
from llmops.endpoints.permissions import Acl, Level, Permissions, level
from llmops.endpoints.secret_database import FOLLOW_EVERY_S, SecretDatabase
from llmops.endpoints.store import StoredEndpoint
from llmops.errors import CommandError, PermissionDenied, Unauthenticated, Unavailable
from llmops.settings import Settings

logger = logging.getLogger(__name__)

#: A token may have been revoked elsewhere while the database was away: so long after it was last seen there, it serves.
TRUST_S = 900.0
NEEDED = "a valid token is needed: send it as 'Authorization: Bearer <token>'"


class Access:
    """Who calls, and what they may do.

    Attributes:
        tokens: Makes and revokes tokens.
        permissions: Sets permissions of endpoints.
    """

    def __init__(self, database: SecretDatabase) -> None:
        self.tokens = AccessTokens(database)
        self.permissions = Permissions(database)
        self._database = database
        self._tokens: Mapping[str, Token] = {}
        self._acls: Mapping[str, Acl] = {}
        self._looking = asyncio.Lock()
        self._looked_at = self._reached_at = -1.0
        self._due = True
        self._away = ""

    @classmethod
    def open(cls, settings: Settings) -> "Access":
        """The tokens and permissions of a server."""
        return cls(SecretDatabase(settings.store_path, settings.database_url))

    @property
    def on(self) -> bool:
        """Whether any token was made, and everybody needs one."""
        return bool(self._tokens)

    async def begin(self) -> None:
        """Have what is known, before the first request.

        Raises:
            Unavailable: What there is cannot be read; a server that did not know of its tokens would let everybody in.
        """
        self._reached_at = time.monotonic()
        await self.look()
        if self._due or (self._away and not self._database.copied):
            raise Unavailable(f"this server cannot know its tokens: {self._away}")

    async def follow(self) -> None:
        """Follow the database until cancelled."""
        while True:
            await asyncio.sleep(FOLLOW_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Take over what has changed; when this returns, all that was written before it began is known.

        Callers that wait at the same time share one look. A database that is away is noted, and what is known stays.
        """
        asked = time.monotonic()
        async with self._looking:
            if self._looked_at >= asked:
                return
            begun = time.monotonic()
            await asyncio.to_thread(self._read)
            self._looked_at = begun

    async def caller(self, value: str) -> Caller:
        """The owner of a token.

        Raises:
            Unauthenticated: There is no such token, or it has expired.
            Unavailable: It cannot be looked up: the database is away.
        """
        named = digest(value)
        token = self._tokens.get(named)
        if token is None:
            await self.look()
            token = self._tokens.get(named)
        away_too_long = self._away and time.monotonic() - self._reached_at > TRUST_S
        if away_too_long or (token is None and self._away):
            raise Unavailable(f"tokens cannot be looked up now: {self._away}")
        if token is None or token.expired():
            raise Unauthenticated(NEEDED if token is None else "the token has expired; ask an admin for another")
        return token.caller

    def level(self, caller: Caller | None, endpoint: StoredEndpoint) -> Level:
        """What a caller may do with an endpoint; None is a caller of whom no token is asked."""
        return level(caller, endpoint, self._acls.get(endpoint.id))

    def require(self, caller: Caller | None, endpoint: StoredEndpoint, needed: Level) -> None:
        """Check that a caller may do something with an endpoint.

        Raises:
            PermissionDenied: They may not.
        """
        if caller is not None and self.level(caller, endpoint) < needed:
            raise PermissionDenied(
                f"User '{caller.user}' does not have {needed.name} permission on endpoint '{endpoint.name}'; who may"
                " manage it, or an admin, can grant it"
            )

    def acl(self, endpoint: StoredEndpoint) -> Acl | None:
        """What was set for an endpoint; None where nothing was."""
        return self._acls.get(endpoint.id)

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def _read(self) -> None:
        away = ""
        try:
            self._database.pull()
            self._reached_at = time.monotonic()
        except (Unavailable, CommandError) as err:
            away = err.message
        except sqlite3.Error as err:
            away = f"the store cannot be written ({err})"
        try:
            self._due = self._database.changed() or self._due
            if self._due:
                self._tokens, self._acls = self.tokens.known(), self.permissions.known()
                self._due = False
        except sqlite3.Error as err:
            away = f"the store cannot be read ({err})"
        if bool(away) != bool(self._away):
            logger.warning("event=%s reason=%r", "tokens_not_followed" if away else "tokens_followed", away)
        self._away = away
