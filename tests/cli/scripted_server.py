"""A server that answers the command line as ours does, from a script: endpoints in memory, invocations as told."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

from tests.scripts import USAGE, WORDS, chat_stream, document, obliging
from tests.upstream import Upstream
from tests.wire import Reply, Request, Script

INTERACTION, RUN = "0" * 31 + "1", "0" * 31 + "2"
FACTS = {
    "x-request-id": INTERACTION,
    "x-mlflow-trace-id": f"tr-{INTERACTION}",
    "x-mlflow-run-id": RUN,
    "served-model-name": "demo-entity",
}
_ENDPOINTS = "/api/2.0/serving-endpoints"


def endpoint(name: str, task: str = "llm/v1/chat", reason: str = "") -> dict[str, Any]:
    """An endpoint document; NOT_READY where a reason is given."""
    entity = {"name": f"{name}-entity", "state": {"deployment_state_message": reason}}
    state = {"ready": "NOT_READY" if reason else "READY", "config_update": "NOT_UPDATING"}
    return {"name": name, "task": task, "state": state, "config": {"served_entities": [entity]}}


def error(code: int, error_code: str, message: str) -> Script:
    """An error as our Databricks routes answer it."""
    return document({"error_code": error_code, "message": message}, code=code)


def told(script: Script, facts: Mapping[str, str] = FACTS) -> Script:
    """The same reply, with the headers that name the interaction."""

    def reply(request: Request) -> Reply:
        before = script(request)
        lines = "".join(f"\r\n{name}: {value}" for name, value in facts.items()).encode()
        return replace(before, head=before.head.replace(b"\r\n\r\n", lines + b"\r\n\r\n", 1))

    return reply


@dataclass
class Server:
    """The scripted server.

    Attributes:
        endpoints: By name; requests change it as they do on a real server.
        answers: The scripts of the next invocations; when they are used up, each is answered by its task.
    """

    upstream: Upstream
    endpoints: dict[str, dict[str, Any]]
    answers: list[Script] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.upstream.url

    @property
    def invocations(self) -> list[Request]:
        """The invocations received so far, in order."""
        return [request for request in self.upstream.requests if request.path.endswith("/invocations")]

    def __call__(self, request: Request) -> Reply:
        """Answer one request."""
        if request.path == "/ready":
            return document({})(request)
        if request.path.startswith(_ENDPOINTS):
            return self._manage(request)
        name = unquote(request.path.split("/")[2])
        if name not in self.endpoints:
            return error(404, "ENDPOINT_NOT_FOUND", f"there is no endpoint '{name}'")(request)
        return told(self.answers.pop(0) if self.answers else self._obliging(name))(request)

    def _obliging(self, name: str) -> Script:
        paths = {"llm/v1/chat": "/chat/completions", "llm/v1/completions": "/completions"}
        path = paths.get(self.endpoints[name]["task"], "/embeddings")
        return lambda request: obliging()(replace(request, path=path))

    def _manage(self, request: Request) -> Reply:
        name, _, rest = request.path.removeprefix(_ENDPOINTS).removeprefix("/").partition("/")
        name = unquote(name)
        if request.method == "POST":
            return self._create(request)
        if not name:
            return document({"endpoints": list(self.endpoints.values())})(request)
        if name not in self.endpoints:
            return error(404, "RESOURCE_DOES_NOT_EXIST", f"there is no endpoint '{name}'")(request)
        if request.method == "DELETE":
            del self.endpoints[name]
            return document({})(request)
        if rest == "config":
            self.endpoints[name]["config"] = request.json
        return document(self.endpoints[name])(request)

    def _create(self, request: Request) -> Reply:
        name = request.json["name"]
        if name in self.endpoints:
            return error(409, "RESOURCE_ALREADY_EXISTS", f"endpoint '{name}' exists")(request)
        self.endpoints[name] = endpoint(name) | request.json
        return document(self.endpoints[name])(request)


@contextmanager
def serving(*documents: dict[str, Any]) -> Iterator[Server]:
    """Run a server with these endpoints; `demo` alone where none is given."""
    known = documents or (endpoint("demo"),)
    with Upstream() as upstream:
        server = Server(upstream, {known["name"]: known for known in known})
        upstream.always(server)
        yield server


def streamed(*words: str, **options: Any) -> Script:
    """A streamed chat answer with its usage."""
    return chat_stream(words or WORDS, usage=USAGE, **options)
