"""A real server of this project for tests: `llmops serve` as a process, on a free port, with its own data directory."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import yaml

from llmops.settings import Settings

#: The shipper is at nice 19, and other tests run beside: an event that comes is waited for, however busy the machine.
READY_WITHIN_S, EVENT_WITHIN_S = 90.0, 120.0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """One `llmops serve`; a context manager.

    Args:
        folder: Gets ``configs``, ``data`` and ``serve.log``.
        endpoints: Documents written as endpoint files before the start.
        environment: Added to the environment, secrets and databases for example.
        limit_file_kb: No file of the server may grow larger: a disk that gets full.
    """

    def __init__(
        self,
        folder: Path,
        endpoints: tuple[Mapping[str, Any], ...] = (),
        *,
        environment: Mapping[str, str] | None = None,
        options: tuple[str, ...] = ("--no-mlflow-ui",),
        limit_file_kb: int | None = None,
    ) -> None:
        self.configs, self.data_dir, self.log = folder / "configs", folder / "data", folder / "serve.log"
        self.configs.mkdir(exist_ok=True)
        for document in endpoints:
            (self.configs / f"{document['name']}.yaml").write_text(yaml.safe_dump(dict(document)))
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("LLMOPS_", "MLFLOW_"))}
        self.environment = {**kept, **(environment or {})}
        self._options = options
        self._shell = [] if limit_file_kb is None else ["bash", "-c", f'ulimit -f {limit_file_kb}; exec "$@"', "-"]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def settings(self) -> Settings:
        """The settings that commands on this server's data directory use."""
        tracking_uri = self.environment.get("MLFLOW_TRACKING_URI")
        return Settings(self.data_dir, mlflow_tracking_uri=tracking_uri)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        where = ("--port", str(port), "--configs", str(self.configs), "--data-dir", str(self.data_dir))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._shell, sys.executable, "-m", "llmops.cli.main", "serve", *where, *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
            )
        self.wait(lambda: self._ready(), READY_WITHIN_S)

    def stop(self) -> int:
        """End it as a service manager would; returns its exit code."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout=60)

    def kill(self) -> None:
        """End it without warning, and wait until its whole tree is gone."""
        assert self._process is not None
        tree = [*psutil.Process(self._process.pid).children(recursive=True)]
        self._process.kill()
        self._process.wait(timeout=10)
        self._process = None
        # Workers and the shipper drain first, each within its grace.
        _, alive = psutil.wait_procs(tree, timeout=40)
        assert not alive, f"outlived their server: {alive}"

    def kill_all(self) -> None:
        """End it and its whole tree at once, as a power switch does: nobody drains."""
        assert self._process is not None
        tree = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(timeout=10)
        self._process = None
        psutil.wait_procs(tree[1:], timeout=10)

    def answers(self, timeout_s: float = 60.0) -> None:
        """Wait until it is ready, whoever kills and starts it meanwhile."""
        deadline = time.monotonic() + timeout_s
        while not self._ready():
            assert time.monotonic() < deadline, f"not in {timeout_s} s; the log says:\n{self.logged()[-4000:]}"
            time.sleep(0.02)

    def processes(self, part: str) -> list[psutil.Process]:
        """The server's processes whose command line holds a text."""
        assert self._process is not None
        tree = psutil.Process(self._process.pid).children(recursive=True)
        found = []
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                if part in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def wait(self, condition: Callable[[], bool], timeout_s: float = EVENT_WITHIN_S) -> None:
        """Ask until a condition of the running server holds; it has no event to wait for."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not in {timeout_s} s; the log says:\n{self.logged()[-4000:]}"
            assert self._process is None or self._process.poll() is None, f"the server ended:\n{self.logged()[-4000:]}"
            time.sleep(0.02)

    def logged(self) -> str:
        """Everything the server and its processes logged."""
        logs = [self.log, *sorted((self.data_dir / "logs").glob("*.log"))]
        return "\n".join(f"== {path.name}\n{path.read_text('utf-8', 'replace')}" for path in logs if path.exists())

    def endpoint(self, name: str) -> dict[str, Any]:
        """An endpoint as the server tells it."""
        found: dict[str, Any] = self.get(f"/api/2.0/serving-endpoints/{name}").json()
        return found

    def get(self, path: str, **options: Any) -> httpx.Response:
        """GET a path."""
        return httpx.get(self.url + path, timeout=30, **options)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """POST JSON to a path."""
        return httpx.post(self.url + path, json=body, timeout=60, **options)

    def post_bytes(
        self, path: str, body: bytes | Iterable[bytes], headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """POST bytes as they are."""
        kind = {"content-type": "application/json"}
        return httpx.post(self.url + path, content=body, headers={**kind, **(headers or {})}, timeout=60)

    def ask(self, endpoint: str, prompt: str = "hello", **fields: Any) -> httpx.Response:
        """Send one chat prompt to an endpoint."""
        body = {"messages": [{"role": "user", "content": prompt}], **fields}
        return self.post(f"/serving-endpoints/{endpoint}/invocations", body)

    def _ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/ready", timeout=5).status_code == 200
        return False


def demo(name: str = "demo", task: str = "llm/v1/chat") -> dict[str, Any]:
    """An endpoint of the demo provider."""
    entity = {"name": "eliza", "entity_name": "llmops.eliza", "llmops": {"engine": "demo", "task": task}}
    return {"name": name, "config": {"served_entities": [entity]}}


def external(name: str, url: str, *, task: str = "llm/v1/chat", **extras: Any) -> dict[str, Any]:
    """An endpoint of an OpenAI model behind a URL; its key is the secret ``test/key``."""
    return {"name": name, "config": {"served_entities": [entity(name, url, task=task, **extras)]}}


def entity(name: str, url: str, *, task: str = "llm/v1/chat", **extras: Any) -> dict[str, Any]:
    """A served entity of an OpenAI model behind a URL."""
    config = {"openai_api_key": "{{secrets/test/key}}"}
    model = {"name": f"{name}-model", "provider": "openai", "task": task, "openai_config": config}
    return {"name": name, "external_model": model, "llmops": {"api_base": f"{url}/v1", **extras}}
