"""What the calls of a stock client stand on: a running server, an upstream of this process, and endpoints between them.

A pytest plugin of `.venv-clients`, whose Python runs the files beside this one. The server, and the credentials of
every client, are in the environment as people have them there; tests/test_clients.py sets it.
"""

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.scripts import obliging
from tests.server import external
from tests.upstream import Upstream

#: What one request of each task holds.
BODIES: dict[str, dict[str, Any]] = {
    "llm/v1/chat": {"messages": [{"role": "user", "content": "hello"}]},
    "llm/v1/completions": {"prompt": "hello"},
    "llm/v1/embeddings": {"input": ["hello", "there"]},
}
#: What the upstream says, and how it counts that.
SAID, TOKENS = "Hello there, friend.", (7, 5, 12)
MESSAGES = BODIES["llm/v1/chat"]["messages"]


@dataclass
class Stage:
    """A server, and an upstream behind the endpoints that are made here.

    Attributes:
        url: Of the server.
        rest: Plain HTTP to it, with the admin's token.
        upstream: Answers what it is asked, unless the test scripts something else.
    """

    url: str
    rest: httpx.Client
    upstream: Upstream
    _made: list[str] = field(default_factory=list)

    def document(self, task: str = "llm/v1/chat", name: str | None = None) -> dict[str, Any]:
        """An endpoint of the upstream that does not exist yet; it is deleted with the test, whoever makes it."""
        name = name or f"stage-{uuid.uuid4().hex[:8]}"
        self._made.append(name)
        return external(name, self.upstream.url, task=task)

    def make(self, task: str = "llm/v1/chat", **more: Any) -> str:
        """Make an endpoint by plain HTTP; returns its name, which its one served entity has too."""
        document = {**self.document(task), **more}
        self.rest.post("/api/2.0/serving-endpoints", json=document).raise_for_status()
        return str(document["name"])

    def tell(self, name: str) -> dict[str, Any]:
        """An endpoint as the server tells it."""
        told: dict[str, Any] = self.rest.get(f"/api/2.0/serving-endpoints/{name}").raise_for_status().json()
        return told

    def exists(self, name: str) -> bool:
        """Whether the server knows an endpoint."""
        return self.rest.get(f"/api/2.0/serving-endpoints/{name}").status_code == 200

    @property
    def sent(self) -> Any:
        """The body of the last request that reached the upstream."""
        return self.upstream.requests[-1].json

    def end(self) -> None:
        """Delete what was made."""
        for name in self._made:
            self.rest.delete(f"/api/2.0/serving-endpoints/{name}")


@pytest.fixture(scope="session")
def running() -> Iterator[Upstream]:
    """The upstream of this process."""
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="session")
def rest() -> Iterator[httpx.Client]:
    """One client for all tests: making one reads every certificate authority."""
    token = {"authorization": f"Bearer {os.environ['LLMOPS_TOKEN']}"}
    with httpx.Client(base_url=os.environ["LLMOPS_HOST"], headers=token, timeout=30) as client:
        yield client


@pytest.fixture
def stage(running: Upstream, rest: httpx.Client) -> Iterator[Stage]:
    """The server, and the upstream with nothing queued."""
    running.forget()
    running.always(obliging())
    stage = Stage(os.environ["LLMOPS_HOST"], rest, running)
    yield stage
    stage.end()


def named(*modules: Any) -> set[str]:
    """The calls that the tests of these modules are marked with, made or refused."""
    tests = [test for module in modules for test in vars(module).values()]
    marks = [mark for test in tests for mark in getattr(test, "pytestmark", [])]
    return {name for mark in marks if mark.name in ("call", "refused") for name in mark.args}


def unnamed(kind: type, prefix: str, *modules: Any) -> set[str]:
    """The public methods of a client that no test of these modules is marked with as a call.

    Args:
        prefix: How the calls of this kind begin in the marks, such as ``secrets.``.
    """
    known = named(*modules)
    public = {name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))}
    return {name for name in public if prefix + name not in known}
