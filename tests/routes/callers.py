"""Callers with different rights on one server that asks for tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from databricks.sdk import WorkspaceClient

from tests.server import Server

ADMIN_TOKEN = "the-operators-token"
LOCKED = {"LLMOPS_TOKEN": ADMIN_TOKEN}


@dataclass(frozen=True)
class Person:
    """Who calls a server, with a token."""

    server: Server
    token: str

    def send(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Send one request; a body is JSON."""
        headers = {"authorization": f"Bearer {self.token}"}
        return httpx.request(method, self.server.url + path, json=body, headers=headers, timeout=30)

    def get(self, path: str) -> httpx.Response:
        """GET a path."""
        return self.send("GET", path)

    def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """POST JSON to a path."""
        return self.send("POST", path, body)

    def ask(self, endpoint: str) -> httpx.Response:
        """Send one chat prompt to an endpoint."""
        return self.post(f"/serving-endpoints/{endpoint}/invocations", {"messages": [{"role": "user", "content": "x"}]})

    def sees(self) -> set[str]:
        """The names in the list of endpoints."""
        return {endpoint["name"] for endpoint in self.get("/api/2.0/serving-endpoints").json()["endpoints"]}

    def workspace(self) -> WorkspaceClient:
        """databricks-sdk for this person."""
        return WorkspaceClient(host=self.server.url, token=self.token)


def admin(server: Server) -> Person:
    """Who has the token of the setting."""
    return Person(server, ADMIN_TOKEN)


def person(server: Server, user: str, *groups: str, by: Person | None = None, **more: Any) -> Person:
    """Somebody with a new token."""
    made = (by or admin(server)).post("/api/2.0/token/create", {"user": user, "groups": groups, **more})
    assert made.status_code == 200, made.text
    return Person(server, made.json()["token_value"])


def allow(server: Server, endpoint: str, *entries: Mapping[str, str]) -> None:
    """Set the whole ACL of an endpoint."""
    endpoint_id = admin(server).get(f"/api/2.0/serving-endpoints/{endpoint}").json()["id"]
    path = f"/api/2.0/permissions/serving-endpoints/{endpoint_id}"
    answer = admin(server).send("PUT", path, {"access_control_list": entries})
    assert answer.status_code == 200, answer.text
