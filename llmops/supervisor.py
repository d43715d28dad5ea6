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
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import IO

from pydantic import ValidationError

from llmops.endpoints.files import EndpointFile
from llmops.endpoints.secret_store import SecretStore
from llmops.endpoints.secrets import Secrets
from llmops.endpoints.served_entity import ServedEntity
from llmops.endpoints.spec import EndpointSpec
from llmops.endpoints.store import Child, Store
from llmops.endpoints.watch import Watch
from llmops.errors import CommandError, EndpointNotReady, UpstreamError
from llmops.gateway.meter import shared_memory
from llmops.gateway.rollout import settle
from llmops.interactions.shipper_state import ShipperState
from llmops.providers.children import ChildSpec, needed
from llmops.providers.upstream import Upstreams
from llmops.readiness import Readiness, readiness
from llmops.settings import Settings, child_environment
from llmops.supervised import HEALTH_LIMIT_S, Command, Supervised

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2
READY_EVERY_S = 5.0
#: A secret or a weights file may appear without a change of the store.
LOOK_AGAIN_EVERY_S = 2.0
WORKER_GRACE_S = 12.0
SHIPPER_GRACE_S = 15.0
CHILD_GRACE_S = 3.0
#: An engine that no config needs any more may answer for so long what it has begun.
LAST_ANSWERS_S = 60.0
#: With three looks ten seconds apart, a shipper that says nothing for a minute is started anew.
SHIPPER_SILENT_S = 35.0
#: A server that is not ready after so long says why.
START_PATIENCE_S = 15.0
#: A port whose last owner was killed a moment ago may still be taken.
BIND_PATIENCE_S = 3.0


class Supervisor:
    """Runs one server in the foreground.

    Args:
        files: What ``endpoint_configs/`` holds.
        say: Takes each line meant for the person who started it.
        watch: Looks for changes of the files while it runs; None reads them once.
    """

    def __init__(
        self,
        settings: Settings,
        files: Iterable[EndpointFile],
        say: Callable[[str], None],
        watch: Watch | None = None,
    ) -> None:
        self._settings = settings
        self._files = list(files)
        self._say = say
        self._watch = watch
        self._secrets = Secrets(settings.secrets_dir)
        self._children: dict[str, Supervised] = {}
        self._leaving: set[asyncio.Task[None]] = set()
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
            store, upstreams = Store(settings.store_path, settings.database_url), Upstreams()
            kept = SecretStore.open(settings)
            self._secrets = Secrets(settings.secrets_dir, kept)
            await asyncio.to_thread(store.begin)
            for line in store.sync(self._files):
                self._say(f"ignored: {line}")
            try:
                await self._serve(listener, store, upstreams)
            finally:
                await upstreams.aclose()
                kept.close()
                store.close()

    async def _serve(self, listener: socket.socket, store: Store, upstreams: Upstreams) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        own = [_own_listener() for _ in range(self._settings.workers)]
        counted = shared_memory()
        workers = [self._worker(number, (listener, door, counted), upstreams) for number, door in enumerate(own)]
        shipper = self._shipper(upstreams)
        for process in (*workers, shipper):
            process.start()
        ui: list[Supervised] = []
        tasks = [
            asyncio.create_task(store.follow()),
            asyncio.create_task(self._keep_children(store, upstreams)),
            asyncio.create_task(self._greet(store, upstreams, ui)),
            asyncio.create_task(self._watch_ready(upstreams)),
            asyncio.create_task(self._watch_files(store)),
        ]
        try:
            await self._stop.wait()
        finally:
            listener.close()  # Nobody new; the workers hold it until they have drained.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(worker.stop(WORKER_GRACE_S) for worker in workers))
            # Nobody is left who waits for their answers; what does not end now ends with its pipe to us.
            for leaving in self._leaving:
                leaving.cancel()
            await asyncio.gather(*self._leaving, return_exceptions=True)
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
            leaving = asyncio.create_task(self._children.pop(key).stop(LAST_ANSWERS_S))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        for key, child in wanted.items():
            if key not in self._children:
                command = Command(key, ("-m", child.module, *child.arguments), reports=True)
                self._children[key] = self._supervised(command, upstreams, store.put_child)
                self._children[key].start()
        settle(store, self._settings.model_dir)

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

    async def _watch_files(self, store: Store) -> None:
        """Serve what the files say from now on; requests that run keep what they began with."""
        while self._watch is not None:
            try:
                news = await asyncio.to_thread(self._watch.look)
                if news is not None:
                    refused = await asyncio.to_thread(store.sync, news.files)
                    for line in (*news.lines, *(f"ignored: {line}" for line in refused)):
                        self._say(line)
                    self._say(f"{self._settings.configs}: read again, {len(news.files)} files")
            except Exception:
                # The outer wall of this task: what is served stays, and the next change is looked at again.
                logger.exception("event=watch_failed")
            await asyncio.sleep(LOOK_EVERY_S)

    async def _watch_ready(self, upstreams: Upstreams) -> None:
        """Say on the terminal when interactions cannot be recorded any more, and when they can again.

        The workers' own logs may lie on the disk that is full.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(START_PATIENCE_S):
                await _until_ready(upstreams, self._settings.url)
        told = Readiness()
        while True:
            now = await readiness(upstreams, self._settings.url, READY_EVERY_S)
            for line in now.news(told):
                self._say(line)
            told = now
            await asyncio.sleep(READY_EVERY_S)

    def _worker(
        self, number: int, inherited: tuple[socket.socket, socket.socket, int], upstreams: Upstreams
    ) -> Supervised:
        """One worker.

        Args:
            inherited: The socket of all workers, one of its own so that it can be asked for its health, and the
                memory in which all of them count rate limits.
        """
        listener, own, counted = inherited
        settings, fds = self._settings, (listener.fileno(), own.fileno(), counted)
        where = ("--host", settings.host, "--data-dir", str(settings.data_dir.absolute()), "--limits-fd", str(counted))
        arguments = ("--worker", str(number), "--fd", str(fds[0]), "--own-fd", str(fds[1]), *where)
        address = f"http://127.0.0.1:{own.getsockname()[1]}"

        async def alive() -> bool:
            with suppress(UpstreamError):
                status, _, _ = await upstreams.fetch("GET", f"{address}/health", {}, None, HEALTH_LIMIT_S, "the worker")
                return status == 200
            return False

        command = Command(f"worker-{number}", ("-m", "routes.worker", *arguments), pass_fds=fds, keys=True)
        return self._supervised(command, upstreams, alive=alive)

    def _shipper(self, upstreams: Upstreams) -> Supervised:
        data_dir = self._settings.data_dir.absolute()

        async def alive() -> bool:
            state = await asyncio.to_thread(ShipperState.read, data_dir)
            # One that was started a moment ago has not spoken yet.
            return state is None or state.pid != shipper.pid or state.age_s < SHIPPER_SILENT_S

        command = Command("shipper", ("-m", "llmops.interactions.shipper", "--data-dir", str(data_dir)), niceness=19)
        shipper = self._supervised(command, upstreams, alive=alive)
        return shipper

    def _supervised(
        self,
        command: Command,
        upstreams: Upstreams,
        tell: Callable[[Child], None] = lambda _: None,
        alive: Callable[[], Awaitable[bool]] | None = None,
    ) -> Supervised:
        environment = child_environment(self._settings, keys=command.keys)
        return Supervised(command, environment, self._settings.log_dir, upstreams, tell, alive)


def _entities(store: Store) -> Iterable[ServedEntity]:
    """Every served entity of every endpoint whose document can be served, of the config that serves meanwhile too."""
    serving = store.serving()
    for stored in store.all():
        if stored.problem is not None:
            continue
        documents = [stored.document]
        if (older := serving.get(stored.id)) is not None and older.version:
            documents.append({**stored.document, "config": older.config})
        for document in documents:
            with suppress(ValidationError):
                yield from EndpointSpec.model_validate(document, extra="ignore").config.served_entities


def _ui_command(settings: Settings, port: int) -> Command:
    # MLflow's server forks: the leash ends the whole group.
    arguments = (
        "server",
        "--default-artifact-root",
        settings.artifact_root,
    )
    where = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    # Not 19, as the shipper: somebody waits for its pages, and on a busy machine they would never come.
    return Command("mlflow-ui", ("-m", "llmops.leash", sys.executable, "-m", "mlflow", *arguments, *where), niceness=10)


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


async def _until_shipping(settings: Settings) -> None:
    """Wait until the shipper has made MLflow's database: two that make it at once would collide."""
    began_ms = time.time_ns() // 1_000_000
    while True:
        state = ShipperState.read(settings.data_dir)
        sink = state.sink("mlflow") if state is not None and state.updated_ms >= began_ms else None
        if sink is not None and sink.state == "ready":
            return
        await asyncio.sleep(LOOK_EVERY_S)


def _own_listener() -> socket.socket:
    """A socket of loopback for one worker alone."""
    own = socket.socket()
    own.bind(("127.0.0.1", 0))
    own.listen(16)
    own.setblocking(False)
    return own


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
