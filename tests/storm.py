"""A storm: many kinds of requests at full speed while processes are killed, and the account of what was answered."""

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from tests.server import Server, demo, entity, external
from tests.upstream import refused_url

HELLO = {"messages": [{"role": "user", "content": "hello there"}]}
#: Requests at once.
CLIENTS = 8


def endpoints(url: str) -> list[dict[str, Any]]:
    """What the storm asks: every endpoint keeps its payloads in a table of the schema `storm`, and tracks usage.

    Args:
        url: An obliging upstream.
    """
    shares = [{"served_entity_name": name, "traffic_percentage": share} for name, share in (("one", 100), ("two", 0))]
    config = {"served_entities": [entity("one", refused_url()), entity("two", url)]}
    fall = {"name": "fall", "config": {**config, "traffic_config": {"routes": shares}}}
    table = {"enabled": True, "catalog_name": "main", "schema_name": "storm"}
    kept = {"inference_table_config": table, "usage_tracking_config": {"enabled": True}}
    documents = [demo(), external("up", url), external("down", refused_url()), fall]
    return [{**one, "ai_gateway": {"fallback_config": {"enabled": one["name"] == "fall"}, **kept}} for one in documents]


@dataclass
class Account:
    """What came of the requests.

    Attributes:
        answered: Ids of interactions whose whole answer arrived, be it an error: each must be in the log, once.
        begun: Ids seen at all; those not answered may be in the log.
        unanswered: Requests that a kill cut.
    """

    answered: set[str] = field(default_factory=set)
    begun: set[str] = field(default_factory=set)
    unanswered: int = 0


class Storm:
    """Asks a server in every way it can be asked.

    Args:
        server: Running; may be killed and started again meanwhile.
    """

    def __init__(self, server: Server, seed: int) -> None:
        self._server = server
        self._pause_s = 0.0
        self._seed = seed
        self._lock = threading.Lock()
        self._calm = threading.Event()
        self.account = Account()
        self._left = 0
        self._enough: Callable[[], bool] = lambda: True

    def rage(self, requests: int, enough: Callable[[], bool], pause_s: float = 0.0) -> None:
        """Send so many requests, and more until it is enough, however many of them are answered.

        Args:
            pause_s: Between two requests of one client: for a place that takes a few interactions a second only.
        """
        self._left = requests
        self._pause_s = pause_s
        self._enough = enough
        with ThreadPoolExecutor(CLIENTS) as pool:
            for done in [pool.submit(self._ask_on, number) for number in range(CLIENTS)]:
                done.result()

    def _ask_on(self, number: int) -> None:
        chance = random.Random(self._seed + number)
        with httpx.Client(timeout=60) as client:
            while self._take():
                url = self._server.url
                try:
                    interaction_id, answered = chance.choice(WAYS)(client, url, chance)
                except httpx.HTTPError:
                    with self._lock:
                        self.account.unanswered += 1
                    # The listener may be gone for a while; a refused connection costs no time at all.
                    self._server.answers()
                else:
                    self._note(interaction_id, answered=answered)
                self._calm.wait(self._pause_s)

    def _take(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0 or not self._enough()

    def _note(self, interaction_id: str, *, answered: bool) -> None:
        with self._lock:
            assert interaction_id not in self.account.begun, "two interactions have one id"
            self.account.begun.add(interaction_id)
            if answered:
                self.account.answered.add(interaction_id)


Seen = tuple[str, bool]


def _whole(response: httpx.Response) -> Seen:
    return response.headers["x-request-id"], True


def _plain(client: httpx.Client, url: str, chance: random.Random) -> Seen:
    name = chance.choice(("demo", "up", "fall"))
    return _whole(client.post(f"{url}/serving-endpoints/{name}/invocations", json=HELLO))


def _plain_openai(client: httpx.Client, url: str, chance: random.Random) -> Seen:
    return _whole(client.post(f"{url}/v1/chat/completions", json={"model": chance.choice(("demo", "fall")), **HELLO}))


def _plain_model(client: httpx.Client, url: str, chance: random.Random) -> Seen:
    body = {"model": chance.choice(("up", "fall")), **HELLO}
    return _whole(client.post(f"{url}/serving-endpoints/chat/completions", json=body))


def _streamed(client: httpx.Client, url: str, chance: random.Random) -> Seen:
    return _read(client, f"{url}/serving-endpoints/{chance.choice(('demo', 'up', 'fall'))}/invocations", HELLO)


def _streamed_openai(client: httpx.Client, url: str, chance: random.Random) -> Seen:
    return _read(client, f"{url}/v1/chat/completions", {"model": chance.choice(("demo", "up")), **HELLO})


def _messages(client: httpx.Client, url: str, chance: random.Random) -> Seen:
    body = {"model": chance.choice(("demo", "fall")), "max_tokens": 50, **HELLO}
    return _whole(client.post(f"{url}/v1/messages", json=body))


def _streamed_messages(client: httpx.Client, url: str, chance: random.Random) -> Seen:
    body = {"model": chance.choice(("demo", "up")), "max_tokens": 50, **HELLO}
    return _read(client, f"{url}/v1/messages", body, b'data: {"type":"message_stop"}\n\n')


def _responses(client: httpx.Client, url: str, chance: random.Random) -> Seen:
    body = {"model": chance.choice(("demo", "fall")), "input": "hello there"}
    return _whole(client.post(f"{url}/v1/responses", json=body))


def _streamed_responses(client: httpx.Client, url: str, chance: random.Random) -> Seen:
    body = {"model": chance.choice(("demo", "up")), "input": "hello there"}
    with client.stream("POST", f"{url}/v1/responses", json={**body, "stream": True}) as response:
        return response.headers["x-request-id"], b"event: response.completed" in response.read()


def _read(client: httpx.Client, url: str, body: dict[str, Any], end: bytes = b"data: [DONE]\n\n") -> Seen:
    with client.stream("POST", url, json={**body, "stream": True}) as response:
        return response.headers["x-request-id"], response.read().endswith(end)


def _leave(client: httpx.Client, url: str, chance: random.Random) -> Seen:
    """Leave after the first bytes: it is recorded soon after, unless a kill comes first."""
    body = {"model": chance.choice(("demo", "up")), "stream": True, **HELLO}
    with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        next(response.iter_raw(), b"")
        return response.headers["x-request-id"], False


def _unknown(client: httpx.Client, url: str, chance: random.Random) -> Seen:
    return _whole(client.post(f"{url}/serving-endpoints/nobody/invocations", json=HELLO))


def _down(client: httpx.Client, url: str, chance: random.Random) -> Seen:
    return _whole(client.post(f"{url}/serving-endpoints/down/invocations", json=HELLO))


def _unreadable(client: httpx.Client, url: str, chance: random.Random) -> Seen:
    kind = {"content-type": "application/json"}
    return _whole(client.post(f"{url}/serving-endpoints/demo/invocations", content=b'{"messages": [', headers=kind))


WAYS = (
    *(_plain, _plain_openai, _plain_model, _streamed, _streamed_openai, _messages, _streamed_messages),
    *(_responses, _streamed_responses, _leave, _unknown, _down, _unreadable),
)


@contextmanager
def killing(server: Server, every_s: float, seed: int) -> Iterator[list[str]]:
    """Kill a random process of the server, or all of them, every few seconds; gives the list of what was killed."""
    killed: list[str] = []
    stop = threading.Event()
    chance = random.Random(seed)
    failures: list[BaseException] = []

    def kill_on() -> None:
        ways: tuple[Callable[[], str], ...] = (
            lambda: _kill_one(server, "routes.worker", chance),
            lambda: _kill_one(server, "interactions.shipper", chance),
            lambda: _kill_all(server),
        )
        number = 0
        try:
            while not stop.wait(every_s * chance.uniform(0.5, 1.5)):
                killed.append(ways[number % len(ways)]())
                number += 1
        except BaseException as err:  # noqa: BLE001 - shown in the test's own thread.
            failures.append(err)

    thread = threading.Thread(target=kill_on)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()
    if failures:
        raise failures[0]


def _kill_one(server: Server, part: str, chance: random.Random) -> str:
    found = server.processes(part)
    with contextlib.suppress(psutil.NoSuchProcess, IndexError):
        chance.choice(found).kill()
    return part


def _kill_all(server: Server) -> str:
    server.kill_all()
    server.start()
    return "all"
