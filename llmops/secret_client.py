"""The calls of the command line to the server's encrypted store of secrets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from llmops.client import MANAGE_TIMEOUT_S, Client, Document

_SECRETS = "/api/2.0/secrets"


@dataclass(frozen=True, slots=True)
class SecretName:
    """A secret without its value.

    Attributes:
        updated_ms: When it was put, since the epoch.
    """

    scope: str
    key: str
    updated_ms: int


class SecretClient(Client):
    """The server's secrets; every method raises what those of `Client` raise."""

    def scopes(self) -> list[str]:
        """The name of every scope."""
        return [str(scope["name"]) for scope in self._get("/scopes/list").get("scopes") or []]

    def create_scope(self, scope: str) -> None:
        """Make an empty scope."""
        self._post("/scopes/create", {"scope": scope})

    def delete_scope(self, scope: str) -> None:
        """Forget a scope with everything in it."""
        self._post("/scopes/delete", {"scope": scope})

    def secrets(self, scope: str) -> list[SecretName]:
        """The secrets of a scope."""
        found = self._get("/list", scope=scope).get("secrets") or []
        return [SecretName(scope, str(one["key"]), int(one["last_updated_timestamp"])) for one in found]

    def put_secret(self, scope: str, key: str, value: str) -> None:
        """Keep a secret, in the place of the one of that name if there is one."""
        self._post("/put", {"scope": scope, "key": key, "string_value": value})

    def delete_secret(self, scope: str, key: str) -> None:
        """Forget a secret."""
        self._post("/delete", {"scope": scope, "key": key})

    def rotate_master(self) -> int:
        """Wrap every secret with a new master key; returns how many there are."""
        return int(self._post("/rotate-master", {})["secrets"])

    def _get(self, path: str, **query: str) -> Document:
        asked = f"?{urlencode(query)}" if query else ""
        with self._send("GET", _SECRETS + path + asked, timeout_s=MANAGE_TIMEOUT_S) as response:
            return self._document(response, None)

    def _post(self, path: str, body: Mapping[str, Any]) -> Document:
        with self._send("POST", _SECRETS + path, body, timeout_s=MANAGE_TIMEOUT_S) as response:
            return self._document(response, None)
