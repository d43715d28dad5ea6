"""PostgreSQL databases of a test's own, on the server of LLMOPS_TEST_POSTGRES_URL, and a way to them that breaks.

Where there is no such server, see `tests.services`.
"""

import socket
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg2

from tests.services import service


def server_url() -> str:
    """The server's URL; skips the test where there is none."""
    return service("LLMOPS_TEST_POSTGRES_URL", "postgresql://user@host/database")


@contextmanager
def postgres_database(template: str | None = None) -> Iterator[str]:
    """Make a database, give its `postgresql://` URL, and drop it afterwards, with whoever is still connected.

    Args:
        template: URL of the database it is a copy of; nobody may be connected to that. None makes an empty one.
    """
    server = server_url()
    name = f"llmops_{uuid.uuid4().hex}"
    run(server, f"CREATE DATABASE {name}" + (f" TEMPLATE {urlsplit(template).path[1:]}" if template else ""))
    try:
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
    finally:
        run(server, f"DROP DATABASE {name} WITH (FORCE)")


def stores(store_url: str, mlflow_url: str) -> Mapping[str, str]:
    """The environment of a server that keeps its endpoints and its runs in these databases."""
    return {"LLMOPS_DATABASE_URL": store_url, "MLFLOW_TRACKING_URI": tracking_uri(mlflow_url)}


def tracking_uri(url: str) -> str:
    """A database as MLflow names it: without a driver in the name, SQLAlchemy 2.1 takes one that is not installed."""
    return urlsplit(url)._replace(scheme="postgresql+psycopg2").geturl()


def hang_up(url: str) -> int:
    """End every connection to a database, as its restart would; returns how many there were."""
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
    return len(run(server_url(), others, [urlsplit(url).path[1:]]))


def run(url: str, statement: str, values: list[Any] | None = None) -> list[tuple[Any, ...]]:
    """Run one statement, and commit it."""
    connection = psycopg2.connect(url, connect_timeout=5)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


class Line:
    """A TCP way to a database that can be cut or fall silent; a context manager.

    Attributes:
        url: The database's URL by this way.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 5432)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._port = self._listening.getsockname()[1]
        user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        self.url = parts._replace(netloc=f"{user}127.0.0.1:{self._port}").geturl()
        self._flowing = threading.Event()
        self._flowing.set()
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._accept(self._listening)
        return self

    def __exit__(self, *exc: object) -> None:
        self.cut()

    def cut(self) -> None:
        """Break every connection, and refuse new ones."""
        self._flowing.set()
        for one in (self._listening, *self._open):
            # Closing alone would not wake a thread that waits for it.
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def mend(self) -> None:
        """Take connections again, at the same address."""
        self._listening = socket.create_server(("127.0.0.1", self._port))
        self._accept(self._listening)

    def fall_silent(self) -> None:
        """Pass nothing on any more; connections stay, and new ones are taken."""
        self._flowing.clear()

    def speak(self) -> None:
        """Pass on what was held back."""
        self._flowing.set()

    def _accept(self, listening: socket.socket) -> None:
        def accept() -> None:
            with suppress(OSError):
                while True:
                    near, _ = listening.accept()
                    far = socket.create_connection(self._target)
                    self._open += [near, far]
                    self._pump(near, far)
                    self._pump(far, near)

        threading.Thread(target=accept, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        def pump() -> None:
            with suppress(OSError):
                while piece := source.recv(65536):
                    self._flowing.wait()
                    target.sendall(piece)
            for one in (source, target):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=pump, daemon=True).start()
