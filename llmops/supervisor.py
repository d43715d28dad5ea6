"""`llmops serve`: starts the processes of a server, watches them, and ends them in order.

Workers answer; the shipper ships what they recorded; children run engines and the litellm bridge, as the endpoints in
the store need them; MLflow's own server shows the runs. Only the supervisor starts processes.
"""

import asyncio
import fcntl
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import IO

import orjson
from pydantic import ValidationError

from llmops.endpoints.files import EndpointFile
from llmops.endpoints.secrets import Secrets
from llmops.endpoints.served_entity import ServedEntity
from llmops.endpoints.spec import EndpointSpec
from llmops.endpoints.store import Child, Store
from llmops.errors import CommandError, EndpointNotReady, UpstreamError
from llmops.interactions.shipper_state import ShipperState
from llmops.providers.children import ChildSpec, needed
from llmops.providers.upstream import Upstreams
from llmops.settings import Settings, child_environment
from llmops.supervised import Command, Supervised

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2
READY_EVERY_S = 5.0
#: A secret or a weights file may appear without a change of the store.
LOOK_AGAIN_EVERY_S = 2.0
WORKER_GRACE_S = 12.0
SHIPPER_GRACE_S = 15.0
CHILD_GRACE_S = 3.0
#: A port whose last owner was killed a moment ago may still be taken.
BIND_PATIENCE_S = 3.0


class Supervisor:
    """Runs one server in the foreground.

    Args:
        files: What ``endpoint_configs/`` holds.
        say: Takes each line meant for the person who started it.
    """

    def __init__(self, settings: Settings, files: Iterable[EndpointFile], say: Callable[[str], None]) -> None:
        self._settings = settings
        self._files = list(files)
        self._say = say
        self._environment = child_environment(settings)
        self._secrets = Secrets(settings.secrets_dir)
        self._children: dict[str, Supervised] = {}
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or Ctrl-C.

        Raises:
            CommandError: The port or the data directory is taken, or an address beyond loopback has no token.
        """
        settings = self._settings
        if not settings.loopback and settings.token is None:
            raise CommandError(
                f"{settings.host} can be reached by other machines: set LLMOPS_TOKEN first, or serve on 127.0.0.1"
            )
        # Prompts lie here: for nobody else to read. (`parents` would give the outer one the default mode.)
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings.log_dir.mkdir(exist_ok=True, mode=0o700)
        with _lock(settings), await _listen(settings) as listener:
            store, upstreams = Store(settings.store_path), Upstreams()
            store.drop_children()
            for line in store.sync(self._files):
                self._say(f"ignored: {line}")
            try:
                await self._serve(listener, store, upstreams)
            finally:
                await upstreams.aclose()
                store.close()

    async def _serve(self, listener: socket.socket, store: Store, upstreams: Upstreams) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        workers = [self._supervised(command, upstreams) for command in self._worker_commands(listener)]
        shipper = self._supervised(self._shipper_command(), upstreams)
        for process in (*workers, shipper):
            process.start()
        ui: list[Supervised] = []
        tasks = [
            asyncio.create_task(self._keep_children(store, upstreams)),
            asyncio.create_task(self._greet(store, upstreams, ui)),
            asyncio.create_task(self._watch_ready(upstreams)),
        ]
        try:
            await self._stop.wait()
        finally:
            listener.close()  # Nobody new; the workers hold it until they have drained.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(worker.stop(WORKER_GRACE_S) for worker in workers))
            await asyncio.gather(*(child.stop(CHILD_GRACE_S) for child in (*self._children.values(), *ui)))
            await shipper.stop(SHIPPER_GRACE_S)

    async def _keep_children(self, store: Store, upstreams: Upstreams) -> None:
        """Run exactly the children that the endpoints need."""
        looked = -LOOK_AGAIN_EVERY_S
        loop = asyncio.get_running_loop()
        while True:
            if store.changed() or loop.time() - looked > LOOK_AGAIN_EVERY_S:
                looked = loop.time()
                try:
                    await self._match_children(store, upstreams)
                except Exception:
                    # The outer wall of this task: the children stay as they are, and the next look may succeed.
                    logger.exception("event=match_failed")
            await asyncio.sleep(LOOK_EVERY_S)

    async def _match_children(self, store: Store, upstreams: Upstreams) -> None:
        wanted = {child.key: child for entity in _entities(store) if (child := self._wanted(entity)) is not None}
        for key in [key for key in self._children if key not in wanted]:
            # Forgotten before it ends: a worker would go on asking at its address.
            store.drop_child(key)
            await self._children.pop(key).stop(CHILD_GRACE_S)
        for key, child in wanted.items():
            if key not in self._children:
                command = Command(key, ("-m", child.module, *child.arguments), reports=True)
                self._children[key] = self._supervised(command, upstreams, store.put_child)
                self._children[key].start()

    def _wanted(self, entity: ServedEntity) -> ChildSpec | None:
        """The child an entity needs, if everything else it needs is there."""
        try:
            if entity.external_model is not None:
                for reference in entity.external_model.config.references().values():
                    self._secrets.get(reference)
        except EndpointNotReady:
            return None
        return needed(entity, self._settings.model_dir)

    async def _greet(self, store: Store, upstreams: Upstreams, ui: list[Supervised]) -> None:
        """Say where the server is once it answers, and start MLflow's server after it."""
        settings = self._settings
        await _until_ready(upstreams, settings.url)
        self._say(f"llmops serves {len(store.all())} endpoints at {settings.url}  (docs: {settings.url}/docs)")
        if not settings.mlflow_ui or settings.tracking_uri.startswith("http"):
            return
        await _until_shipping(settings)
        port = settings.mlflow_ui_port or free_port()
        ui.append(self._supervised(_ui_command(settings, port), upstreams))
        ui[0].start()
        self._say(f"MLflow shows runs and traces at http://127.0.0.1:{port} in a few seconds")

    async def _watch_ready(self, upstreams: Upstreams) -> None:
        """Say on the terminal when interactions cannot be recorded any more, and when they can again.

        The workers' own logs may lie on the disk that is full.
        """
        await _until_ready(upstreams, self._settings.url)
        told = ""
        while True:
            await asyncio.sleep(READY_EVERY_S)
            reason = await _not_ready(upstreams, self._settings.url)
            if reason != told:
                told = reason
                self._say(f"not ready: {reason}" if reason else "ready again")

    def _worker_commands(self, listener: socket.socket) -> list[Command]:
        settings, fd = self._settings, listener.fileno()
        common = ("--host", settings.host, "--data-dir", str(settings.data_dir.absolute()), "--fd", str(fd))
        return [
            Command(f"worker-{n}", ("-m", "routes.worker", "--worker", str(n), *common), pass_fds=(fd,))
            for n in range(settings.workers)
        ]

    def _shipper_command(self) -> Command:
        data_dir = str(self._settings.data_dir.absolute())
        return Command("shipper", ("-m", "llmops.interactions.shipper", "--data-dir", data_dir), niceness=19)

    def _supervised(
        self, command: Command, upstreams: Upstreams, tell: Callable[[Child], None] = lambda _: None
    ) -> Supervised:
        return Supervised(command, self._environment, self._settings.log_dir, upstreams, tell)


def _entities(store: Store) -> Iterable[ServedEntity]:
    """Every served entity of every endpoint whose document can be served."""
    for stored in store.all():
        if stored.problem is None:
            with suppress(ValidationError):
                yield from EndpointSpec.model_validate(stored.document, extra="ignore").config.served_entities


def _ui_command(settings: Settings, port: int) -> Command:
    # MLflow's server forks: the leash ends the whole group.
    arguments = (
        "server",
        "--default-artifact-root",
        settings.artifact_root,
    )
    where = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    return Command("mlflow-ui", ("-m", "llmops.leash", sys.executable, "-m", "mlflow", *arguments, *where), niceness=19)


def _lock(settings: Settings) -> IO[str]:
    """Take the data directory; the kernel gives it back however we end.

    Raises:
        CommandError: Another server has it.
    """
    file = (settings.data_dir / "serve.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise CommandError(f"another server uses {settings.data_dir}; stop it, or name another --data-dir") from None
    return file


async def _listen(settings: Settings) -> socket.socket:
    """Open the port; workers inherit it.

    Raises:
        CommandError: It is taken, or the host is none of this machine's.
    """
    deadline = asyncio.get_running_loop().time() + BIND_PATIENCE_S
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    while True:
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
            listener.listen(2048)
        except OSError as err:
            listener.close()
            if asyncio.get_running_loop().time() > deadline or isinstance(err, socket.gaierror):
                where = f"{settings.host}:{settings.port}"
                raise CommandError(
                    f"cannot listen on {where}: {err.strerror}; choose another --port or --host"
                ) from None
            await asyncio.sleep(LOOK_EVERY_S)
            continue
        listener.setblocking(False)
        return listener


async def _until_ready(upstreams: Upstreams, url: str) -> None:
    while True:
        with suppress(UpstreamError):
            status, _, _ = await upstreams.fetch("GET", f"{url}/ready", {}, None, 2.0, "the worker")
            if status == 200:
                return
        await asyncio.sleep(LOOK_EVERY_S / 4)


async def _not_ready(upstreams: Upstreams, url: str) -> str:
    """Why a worker is not ready; empty where it is."""
    try:
        status, _, body = await upstreams.fetch("GET", f"{url}/ready", {}, None, READY_EVERY_S, "the worker")
        return "" if status == 200 else str(orjson.loads(body)["reason"])
    except (UpstreamError, ValueError, KeyError) as err:
        return str(err)


async def _until_shipping(settings: Settings) -> None:
    """Wait until the shipper has made MLflow's database: two that make it at once would collide."""
    began_ms = time.time_ns() // 1_000_000
    while True:
        state = ShipperState.read(settings.data_dir)
        if state is not None and state.state == "ready" and state.updated_ms >= began_ms:
            return
        await asyncio.sleep(LOOK_EVERY_S)


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
