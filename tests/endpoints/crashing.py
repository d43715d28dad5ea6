"""Creates and updates endpoints, killed at every line of ours in turn: `python -m tests.endpoints.crashing DIR [URL]`.

Each try is a process of its own, which counts the lines it runs and kills itself with SIGKILL at the one that is its
turn. Afterwards another process looks at what is left, and repeats the request. The last try comes to its end.
It prints what it found as one JSON object: how many tries there were, and every sentence about what was left wrong.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

from llmops.endpoints.access import Access
from llmops.endpoints.plaintext_keys import PlaintextKeys
from llmops.endpoints.secret_store import SecretStore
from llmops.endpoints.secrets import Secrets
from llmops.endpoints.spec import EndpointSpec
from llmops.endpoints.store import Store
from llmops.errors import AlreadyExists, NotFound
from llmops.gateway.lifecycle import Lifecycle
from llmops.gateway.workshop import Workshop
from llmops.providers.children import Children
from llmops.providers.egress import Egress
from llmops.providers.guarded import Guarded
from llmops.providers.tokens import Tokenizer
from llmops.providers.upstream import Upstreams
from llmops.settings import Settings
from routes.serving_endpoints import Endpoints

ROOT = Path(__file__).parent.parent.parent
#: The steps of a change; what they call cannot leave anything behind.
STEPS = ("routes/serving_endpoints.py", "llmops/endpoints/store")
Act = Callable[[Endpoints, str], Awaitable[Any]]


def document(name: str, model: str, weights: str | None = None) -> dict[str, Any]:
    """An endpoint of an engine where weights are named, else of a vendor."""
    if weights:
        engine = {"engine": "llama_cpp", "source": weights}
        entity: dict[str, Any] = {"name": "a", "entity_name": f"llmops.{model}", "llmops": engine}
    else:
        key = {"openai_api_key": "{{secrets/a/b}}"}
        external = {"name": model, "provider": "openai", "task": "llm/v1/chat", "openai_config": key}
        entity = {"name": "a", "external_model": external}
    return EndpointSpec.model_validate({"name": name, "config": {"served_entities": [entity]}}).document()


class Place:
    """A server's stores, opened by one process."""

    def __init__(self, settings: Settings) -> None:
        self.store = Store(settings.store_path, settings.database_url)
        self._secrets = SecretStore.open(settings)
        self._access = Access.open(settings)
        self._upstreams = Upstreams()
        guarded = Guarded(Egress.read(settings.allowed_networks, loopback=True))
        keys = Secrets(settings.secrets_dir, self._secrets)
        workshop = Workshop(settings, keys, Children(), self._upstreams, guarded, Tokenizer())
        self.lifecycle = Lifecycle(self.store, workshop)
        self.endpoints = Endpoints(self.store, self.lifecycle, self._access, PlaintextKeys(self._secrets))

    def close(self) -> None:
        self._secrets.close()
        self._access.close()
        self.store.close()


def killed(settings: Settings, act: Act, name: str, line: int) -> bool:
    """Run a change in a process that is killed at its n-th line; False if it came to its end before."""
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
            raise SystemExit(f"the change failed with {os.WEXITSTATUS(status)}")
        return os.WIFSIGNALED(status)
    place, count = Place(settings), 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        where = frame.f_code.co_filename
        if event == "call":
            return trace if where.startswith(str(ROOT)) and where[len(str(ROOT)) + 1 :].startswith(STEPS) else None
        count += event == "line"
        if count > line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    async def run() -> None:
        place.lifecycle.refresh()
        threading.settrace(trace)
        sys.settrace(trace)
        await act(place.endpoints, name)

    try:
        asyncio.run(run())
        os._exit(0)
    finally:
        os._exit(3)


def left(settings: Settings, name: str, before: dict[str, Any] | None, after: dict[str, Any]) -> list[str]:
    """What is wrong with what a killed change left: it must be all of one state or all of the other."""
    place = Place(settings)
    try:
        found = place.store.get(name)
        place.lifecycle.refresh()
        versions = [version.number for version in place.store.versions(name)]
        serving = place.store.serving().get(found.id)
        served = place.lifecycle.table().endpoints[name]
        newest = 2 if before is not None and found.document == after else 1
        told = {
            "document": found.document in (before, after),
            "version": found.config_version == newest,
            "history": versions == list(range(newest, 0, -1)),
            "serving": serving is None or serving.version == newest - 1,
            "table": served.task is not None and len(served.entities) == 1,
        }
        return [f"{name}: {what} is wrong: {found} {versions} {serving}" for what, right in told.items() if not right]
    except NotFound:
        return [] if before is None and not place.lifecycle.table().endpoints.get(name) else [f"{name}: is gone"]
    finally:
        place.close()


def repeated(settings: Settings, act: Act, name: str, after: dict[str, Any]) -> list[str]:
    """What is wrong with the same change, sent once more."""
    place = Place(settings)
    try:
        place.lifecycle.refresh()
        asyncio.run(_once_more(act, place.endpoints, name))
        made = place.store.get(name).document == after
        place.store.delete(name)  # The next try is to count the lines of one endpoint only.
        return [] if made else [f"{name}: the repeated change was not made"]
    finally:
        place.close()


async def _once_more(act: Act, endpoints: Endpoints, name: str) -> None:
    try:
        await act(endpoints, name)
    except AlreadyExists:
        return


def main() -> None:
    """Try every line of a create and of an update, to and from an engine."""
    settings = Settings(data_dir=Path(sys.argv[1]), database_url=sys.argv[2] if len(sys.argv) > 2 else None)
    place = Place(settings)
    place.store.begin()
    place.close()
    weights = str(settings.data_dir / "missing.gguf")
    tries, wrong = 0, []
    for updating, first, second in ((False, None, weights), (True, None, weights), (True, weights, None)):
        line, going = 0, True
        while going:
            name = f"e{tries}"
            before = document(name, "one", first) if updating else None
            after = document(name, "two", second)

            async def act(endpoints: Endpoints, name: str) -> None:
                await (endpoints.replace(name, after) if updating else endpoints.create(after, None))  # noqa: B023

            if before is not None:
                place = Place(settings)
                place.store.settle(place.store.create(EndpointSpec.model_validate(before), None))
                place.close()
            going = killed(settings, act, name, line)
            wrong += left(settings, name, before, after) + repeated(settings, act, name, after)
            tries, line = tries + 1, line + 1
    sys.stdout.write(json.dumps({"tries": tries, "wrong": wrong}))


if __name__ == "__main__":
    main()
