"""Models that run in a child process: which child a served entity needs, and waiting until it answers.

The supervisor starts what `needed` names and writes each child's state into the store; a worker reads it there. So
all workers share one engine, and a worker that waits for one holds up nobody.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmops.endpoints.detail import CREATING, FAILED, READY, EntityState
from llmops.endpoints.served_entity import ServedEntity
from llmops.endpoints.store import Child
from llmops.errors import EndpointNotReady, Unavailable
from llmops.protocol.task import Task
from llmops.providers.model_files import locate, missing
from llmops.providers.provider import Answer, AnswerStream, Call, Provider
from llmops.providers.vendors import SPOKEN

BRIDGE = "litellm"
#: How long a request waits for a child that is starting: an import of litellm, a model being loaded.
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A child process to run.

    Attributes:
        key: Names it in the store and names its log file; the same for two entities that can share it.
        module: Run as ``python -m module``.
    """

    key: str
    module: str
    arguments: tuple[str, ...] = ()


def needed(entity: ServedEntity, model_dir: Path) -> ChildSpec | None:
    """The child that answers for a served entity; None where it needs none, or its weights are not here."""
    if entity.external_model is not None:
        bridged = entity.external_model.provider not in SPOKEN
        return ChildSpec(BRIDGE, "llmops.providers.litellm") if bridged else None
    if not entity.has_engine:
        return None
    weights = locate(entity.llmops.source or "", model_dir)
    return None if weights is None else _engine(entity, weights)


def engine_key(entity: ServedEntity) -> str:
    """The key of the engine of a ``llama_cpp`` entity: entities with the same weights and settings share one."""
    extras = entity.llmops
    parts = (extras.source, entity.task == Task.EMBEDDINGS, extras.context, extras.parallel, extras.threads)
    return f"llama_cpp-{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


def engine_state(endpoint: str, entity: ServedEntity, child: Child | None, model_dir: Path) -> EntityState:
    """Whether an entity of the local engine can answer.

    Args:
        child: The engine of its `engine_key`; None where it has not been started yet.
    """
    source = entity.llmops.source or ""
    if locate(source, model_dir) is None:
        return EntityState(FAILED, missing(source, endpoint))
    if child is None or child.state == "starting":
        return EntityState(CREATING, "the engine is loading the model")
    return EntityState(READY) if child.state == "ready" else EntityState(FAILED, child.message or "")


def _engine(entity: ServedEntity, weights: Path) -> ChildSpec:
    extras = entity.llmops
    arguments = ["--model", str(weights), "--parallel", str(extras.parallel), "--alias", entity.model]
    if extras.context is not None:
        arguments += ["--context", str(extras.context)]
    if extras.threads is not None:
        arguments += ["--threads", str(extras.threads)]
    if entity.task is Task.EMBEDDINGS:
        arguments.append("--embeddings")
    return ChildSpec(engine_key(entity), "llmops.providers.llama_cpp", tuple(arguments))


class Children:
    """What a worker knows of the children."""

    def __init__(self) -> None:
        self._known: Mapping[str, Child] = {}
        self._changed = asyncio.Event()

    def update(self, known: Mapping[str, Child]) -> None:
        """Take the states the supervisor wrote, and wake who waits for one."""
        self._known = known
        self._changed.set()
        self._changed = asyncio.Event()

    def get(self, key: str) -> Child | None:
        """The state of a child; None where the supervisor has not started it yet."""
        return self._known.get(key)

    def address(self, key: str) -> str:
        """The base URL of a child that is ready.

        Raises:
            Unavailable: It is not.
        """
        child = self._known.get(key)
        if child is None or child.address is None:
            raise Unavailable(f"the process '{key}' is not ready yet; repeat the request")
        return child.address

    async def wait(self, key: str) -> None:
        """Wait until a child is ready.

        Raises:
            EndpointNotReady: It failed; the message says why.
            Unavailable: It is still starting when patience ends.
        """
        try:
            async with asyncio.timeout(PATIENCE_S):
                while (child := self._known.get(key)) is None or child.state != "ready":
                    if child is not None and child.state == "failed":
                        raise EndpointNotReady(f"the process '{key}' failed: {child.message}")
                    await self._changed.wait()
        except TimeoutError:
            raise Unavailable(f"the process '{key}' is still starting; repeat the request", retry_after_s=5) from None


class BehindChild:
    """A provider whose model runs in a child process: every call waits until the child is there.

    Args:
        state: Of the served entity; where it says failed, nobody waits.
    """

    def __init__(self, children: Children, key: str, inner: Provider, state: Callable[[], EntityState]) -> None:
        self._children = children
        self._key = key
        self._inner = inner
        self._state = state

    async def answer(self, call: Call) -> Answer:
        """Ask for a whole answer; see `Provider`."""
        await self._there()
        return await self._inner.answer(call)

    async def stream(self, call: Call) -> AnswerStream:
        """Ask for a streamed answer; see `Provider`."""
        await self._there()
        return await self._inner.stream(call)

    async def _there(self) -> None:
        child = self._children.get(self._key)
        if child is not None and child.state == "ready":
            return
        # Weights or a key that are not there do not come by waiting.
        if (state := self._state()).deployment == FAILED:
            raise EndpointNotReady(state.message)
        await self._children.wait(self._key)
