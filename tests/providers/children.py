"""Starts a child program as the supervisor does, on a leash and with the internal key, and talks to it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, Self

import httpx

from llmops.settings import CHILD_ENVIRONMENT

KEY = "internal-key-of-the-test"
WAIT_S = 30


class Child:
    """A child process and the one line it wrote to its stdout.

    Attributes:
        line: ``{"address": ...}`` or ``{"error": ...}``; empty where it wrote none.
    """

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        given = {**os.environ, **CHILD_ENVIRONMENT, "LLMOPS_INTERNAL_KEY": KEY, **(environment or {})}
        # A file, not a pipe: nobody reads while the child runs.
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in __exit__)
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=given,
        )
        assert self.process.stdout is not None
        self.line: dict[str, str] = json.loads(self.process.stdout.readline() or "{}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._log.close()

    @property
    def log(self) -> str:
        """What it wrote to stderr so far."""
        self._log.seek(0)
        return self._log.read()

    def stop(self) -> None:
        """Let go of the leash and wait for the end."""
        self.process.communicate(timeout=WAIT_S)

    def client(self, key: str | None = KEY) -> httpx.Client:
        """A client of its server that sends the key; the caller closes it."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.line["address"], headers=headers, timeout=WAIT_S)


def events(response: httpx.Response) -> list[Any]:
    """The data of a streamed answer's events, parsed; ``[DONE]`` as it is."""
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    return [item if item == "[DONE]" else json.loads(item) for item in data]
