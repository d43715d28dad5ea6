"""A real MLflow tracking server on SQLite, and a front: a reverse proxy before it that fails as a script says.

with MlflowServer(folder, template) as server, Front(server.url) as front:
    front.play("runs/create", cut(after=True))         # the next such request reaches the server, its answer nobody
    ...
    assert front.seen("runs/create") == 2
"""

import http.client
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from llmops.settings import Settings, child_environment

#: Not `uvicorn --fd`, which takes the socket for a Unix one and leaves Nagle's algorithm on: 40 ms for every answer.
_SERVE = """
import socket, sys, uvicorn
config = uvicorn.Config("mlflow.server.fastapi_app:app", log_level="error")
uvicorn.Server(config).run([socket.socket(fileno=int(sys.argv[1]))])
"""


class MlflowServer:
    """MLflow's own tracking server, started without its command line, which takes three times as long.

    Args:
        folder: Becomes its data directory.
        template: An MLflow database with tables and nothing in them.

    Attributes:
        url: ``http://127.0.0.1:PORT``; known once entered.
    """

    def __init__(self, folder: Path, template: Path) -> None:
        self.url = ""
        self._settings = Settings(data_dir=folder)
        shutil.copy(template, folder / "mlflow.db")

    def __enter__(self) -> Self:
        environment = {
            **child_environment(self._settings),
            "_MLFLOW_SERVER_FILE_STORE": self._settings.tracking_uri,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": self._settings.artifact_root,
        }
        with socket.create_server(("127.0.0.1", 0)) as listening:
            fd = str(listening.fileno())
            self._address = listening.getsockname()
            command = [sys.executable, "-c", _SERVE, fd]
            self._process = subprocess.Popen(command, env=environment, pass_fds=[int(fd)], stderr=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{self._address[1]}"
        # The socket listens already: the answer comes as soon as there is someone to give it.
        connection = http.client.HTTPConnection(self._address[0], self._address[1], timeout=60)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self._process.wait(30)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client gets for one request."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Passing:
    """A request on its way; a fault may let it through, once or never."""

    path: str
    body: bytes
    through: Callable[[], Answer]


#: Says what the client gets for a request; None closes the connection.
Fault = Callable[[Passing], Answer | None]


def answer(status: int, body: str = "", content_type: str = "text/html", **headers: str) -> Fault:
    """Answer in the server's place; an underscore in a header's name is a hyphen."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda passing: Answer(status, {"Content-Type": content_type, **named}, body.encode())


def cut(*, after: bool) -> Fault:
    """Close the connection without an answer: before the server has the request, or when it has done it."""

    def cutting(passing: Passing) -> None:
        if after:
            passing.through()

    return cutting


def held(until: threading.Event) -> Fault:
    """Let requests through when the event is set."""

    def holding(passing: Passing) -> Answer:
        assert until.wait(30)
        return passing.through()

    return holding


def gathered(barrier: threading.Barrier) -> Fault:
    """Let requests through when as many as the barrier asks for are on their way at once."""

    def gathering(passing: Passing) -> Answer:
        barrier.wait(30)
        return passing.through()

    return gathering


def at_most(size_bytes: int) -> Fault:
    """Refuse larger bodies, as nginx does."""

    def measuring(passing: Passing) -> Answer:
        if len(passing.body) > size_bytes:
            return Answer(413, {"Content-Type": "text/html"}, b"<h1>413 Request Entity Too Large</h1>")
        return passing.through()

    return measuring


class Turnstile:
    """A fault that lets as many requests through as it was given leave for, and asks the others to wait.

    Attributes:
        passed: How many went through, by path.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = 0
        self.passed: Counter[str] = Counter()

    def allow(self, requests: int) -> None:
        """Let so many more through."""
        with self._lock:
            self._left = requests

    def __call__(self, passing: Passing) -> Answer:
        """Play the fault."""
        with self._lock:
            if not self._left:
                return Answer(429, {"Content-Type": "text/plain", "Retry-After": "7"}, b"slow down")
            self._left -= 1
            self.passed[passing.path] += 1
        return passing.through()


class Front:
    """A reverse proxy before a tracking server. Everything here may be called from any thread.

    Attributes:
        url: ``http://127.0.0.1:PORT``; the same before and after `away`.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream).netloc
        self._lock = threading.Condition()
        self._queues: dict[str, list[Fault]] = {}
        self._always: dict[str, Fault] = {}
        self._seen: Counter[str] = Counter()
        self._now = self._most = 0
        self._server: _Listener | None = None
        self._port = 0
        self.url = ""

    def __enter__(self) -> Self:
        self.back()
        self.url = f"http://127.0.0.1:{self._port}"
        return self

    def __exit__(self, *exc: object) -> None:
        self.away()

    def play(self, path: str, *faults: Fault) -> None:
        """Let these happen to the next requests whose path ends like this, one each."""
        with self._lock:
            self._queues.setdefault(path, []).extend(faults)

    def always(self, path: str, fault: Fault) -> None:
        """Let this happen to every request whose path ends like this and for which nothing is queued."""
        with self._lock:
            self._always[path] = fault

    def heal(self) -> None:
        """Forget every fault and every count."""
        with self._lock:
            self._queues.clear()
            self._always.clear()
            self._seen.clear()
            self._most = 0

    def seen(self, path: str = "") -> int:
        """How many requests came whose path ends like this."""
        with self._lock:
            return sum(count for one, count in self._seen.items() if one.endswith(path))

    @property
    def most_at_once(self) -> int:
        """The most requests that were on their way at one time."""
        return self._most

    def wait_idle(self) -> None:
        """Wait until no request is on its way, those included whose client has left."""
        with self._lock:
            assert self._lock.wait_for(lambda: self._now == 0, 30)

    def away(self) -> None:
        """Refuse every connection, and break those that are open."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def back(self) -> None:
        """Listen again, on the same port."""
        self._server = _Listener(("127.0.0.1", self._port), self)
        self._port = self._server.server_port

    def through(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer | None:
        """Take one request to the server, or as far as the script lets it."""
        path = target.partition("?")[0]
        fault = self._entered(path)
        try:
            return fault(Passing(path, body, lambda: self._forwarded(method, target, headers, body)))
        finally:
            with self._lock:
                self._now -= 1
                self._lock.notify_all()

    def _entered(self, path: str) -> Fault:
        with self._lock:
            self._seen[path] += 1
            self._now += 1
            self._most = max(self._most, self._now)
            for end, queue in self._queues.items():
                if path.endswith(end) and queue:
                    return queue.pop(0)
            found = (fault for end, fault in self._always.items() if path.endswith(end))
            return next(found, lambda passing: passing.through())

    def _forwarded(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        connection = http.client.HTTPConnection(self._upstream, timeout=60)
        try:
            sent = {key: value for key, value in headers.items() if key.lower() not in ("connection", "host")}
            connection.request(method, target, body, sent)
            response = connection.getresponse()
            kept = {"Content-Type": response.headers.get("Content-Type") or "application/octet-stream"}
            return Answer(response.status, kept, response.read())
        finally:
            connection.close()


class _Listener(ThreadingHTTPServer):
    """The socket of a front, with a thread for each connection."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], front: Front) -> None:
        super().__init__(address, _Request)
        self.front = front
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name="front", daemon=True)
        self._thread.start()

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        """Keep the connection in sight: to stop is to break it."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        """Let a connection go."""
        self._open.discard(request)
        super().shutdown_request(request)

    def stop(self) -> None:
        """Stop listening first, so that who is cut off cannot come back."""
        self.shutdown()
        self.socket.close()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._thread.join(10)


class _Request(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: _Listener

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answered = self.server.front.through(self.command, self.path, dict(self.headers), body)
        if answered is None:
            self.close_connection = True
            return
        head = {**answered.headers, "Content-Length": str(len(answered.body))}
        lines = [f"HTTP/1.1 {answered.status} Scripted", *(f"{name}: {value}" for name, value in head.items())]
        try:
            # In one piece: a client that waits for the second piece waits 40 ms (Nagle).
            self.wfile.write("\r\n".join([*lines, "", ""]).encode() + answered.body)
        except OSError:
            self.close_connection = True

    do_GET = do_POST = do_PATCH = do_DELETE = _any  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
