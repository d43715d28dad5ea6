"""The doors of invocations: plain ASGI in front of the framework, without its machinery."""

import asyncio
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from llmops.errors import BadRequest, LlmopsError
from llmops.gateway.pipeline import Gateway
from llmops.interactions.recorder import Asked
from llmops.protocol.invocation import MAX_BODY_BYTES
from llmops.protocol.task import PATH, Task
from routes import errors
from routes.auth import OPEN_PATHS, Doorkeeper, require_json
from routes.streaming import Receive, Send, Watch, send_reply, send_whole

Scope = MutableMapping[str, Any]

_BEFORE, _AFTER = "/serving-endpoints/", "/invocations"


@dataclass(frozen=True, slots=True)
class Door:
    """One invocation route.

    Attributes:
        wire: How it is named in the record.
        task: What the route is for; None where the body tells.
    """

    gateway: Gateway
    doorkeeper: Doorkeeper
    wire: str
    task: Task | None = None
    adds_usage: bool = False

    async def serve(self, name: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; nothing but a cancellation comes out of here.

        Args:
            name: The endpoint, from the path; None where the body names it.
        """
        try:
            await self._serve(name, scope, receive, send)
        except LlmopsError as err:
            await send_whole(send, err.status, errors.headers(err), errors.body(err, scope["path"]))

    async def _serve(self, name: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        user = self.doorkeeper.admit(headers)
        raw, problem = b"", None
        try:
            require_json(headers)
            raw = await read(receive, headers)
        except BadRequest as err:
            # The gateway answers with it, so that it is recorded like any other.
            problem = err
        asked = Asked(
            raw=raw,
            wire=self.wire,
            endpoint=name,
            task=self.task,
            user=user,
            session=_text(headers.get(b"x-session-id")),
            traceparent=_text(headers.get(b"traceparent")),
            adds_usage=self.adds_usage,
            problem=problem,
        )
        watch = Watch(receive)
        try:
            await send_reply(send, await self.gateway.invoke(asked))
        except asyncio.CancelledError:
            if not watch.gone:
                raise
        finally:
            watch.close()


async def read(receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
    """Read a body to its end.

    Returns:
        At most 16 MB.

    Raises:
        BadRequest: It is larger (413 would make MLflow's client send it again and again), or its sender left.
    """
    _refuse_large(headers)
    pieces: list[bytes] = []
    size_bytes, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("the caller left before its body was complete")
        pieces.append(message.get("body", b""))
        size_bytes += len(pieces[-1])
        if size_bytes > MAX_BODY_BYTES:
            raise _too_large()
        more = message.get("more_body", False)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Front:
    """Lets requests in, and takes invocations past the framework, whose middleware costs a third of a request.

    Args:
        app: Answers everything that is not an invocation.
    """

    def __init__(self, app: FastAPI, gateway: Gateway, doorkeeper: Doorkeeper) -> None:
        self.app = app
        self._doorkeeper = doorkeeper
        self._named = Door(gateway, doorkeeper, "databricks")
        self._doors = {
            prefix + path: Door(gateway, doorkeeper, wire, task, adds_usage and task is Task.CHAT)
            for prefix, wire, adds_usage in (("/v1", "openai", False), ("/serving-endpoints", "databricks", True))
            for task, path in PATH.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or one event of the server's life."""
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"]
            door, name = self._doors.get(path), None
            if door is None and path.startswith(_BEFORE) and path.endswith(_AFTER):
                door, name = self._named, path[len(_BEFORE) : -len(_AFTER)]
            if door is not None and name != "" and "/" not in (name or ""):
                return await door.serve(name, scope, receive, send)
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
                headers = dict(scope["headers"])
                scope["principal"] = self._doorkeeper.admit(headers)
                _refuse_large(headers)
            except LlmopsError as err:
                return await send_whole(send, err.status, errors.headers(err), errors.body(err, scope["path"]))
        return await self.app(scope, receive, send)


def _refuse_large(headers: Mapping[bytes, bytes]) -> None:
    announced = headers.get(b"content-length", b"0")
    if announced.isdigit() and int(announced[:20]) > MAX_BODY_BYTES:
        raise _too_large()


def _too_large() -> BadRequest:
    return BadRequest(f"the body is larger than {MAX_BODY_BYTES} bytes (16 MB)")


def _text(value: bytes | None) -> str | None:
    return value.decode("latin-1") if value else None
