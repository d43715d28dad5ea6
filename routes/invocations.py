"""The doors of invocations: plain ASGI in front of the framework, without its machinery."""

import asyncio
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from llmops.errors import BadRequest, LlmopsError
from llmops.gateway.pipeline import Gateway
from llmops.interactions.recorder import Asked
from llmops.protocol import messages, responses
from llmops.protocol.invocation import MAX_BODY_BYTES
from llmops.protocol.task import PATH, Task
from llmops.protocol.translation import Translate
from llmops.protocol.wires import WIRES
from routes import errors, ui
from routes.auth import OPEN_PATHS, Doorkeeper, require_json
from routes.streaming import Receive, Send, Watch, send_reply, send_whole

Scope = MutableMapping[str, Any]

_BEFORE, _SERVED, _AFTER = "/serving-endpoints/", "/served-models/", "/invocations"
#: MLflow's client of an ``http://`` target asks here.
_GATEWAY = "/endpoints/"

#: Doors whose path names the endpoint, and how they are named in the record.
NAMED_DOORS = {_BEFORE: "databricks", _GATEWAY: "gateway"}
#: Doors whose body names the endpoint; whether their streams of a chat end with usage unasked.
TASK_DOORS = {
    "/v1": ("openai", False),
    "/serving-endpoints": ("databricks", True),
    "/serving-endpoints/v1": ("databricks", True),
    "/ai-gateway/mlflow/v1": ("databricks", True),
    "/ai-gateway/openai/v1": ("openai", False),
}
#: Counts the tokens of a request of Messages.
COUNT_DOOR = "/v1/messages/count_tokens"
#: Doors to chat endpoints that speak another wire than chat, and how they are named in the record.
TRANSLATED_DOORS = {
    **{f"{prefix}/responses": responses.NAME for prefix in TASK_DOORS},
    "/v1/messages": messages.NAME,
    COUNT_DOOR: messages.NAME,
}


@dataclass(frozen=True, slots=True)
class Named:
    """What a path names.

    Attributes:
        endpoint: None where the body names it.
        served: The one served entity to ask; None where the traffic config chooses.
    """

    endpoint: str | None = None
    served: str | None = None


@dataclass(frozen=True, slots=True)
class Door:
    """One invocation route.

    Attributes:
        wire: How it is named in the record.
        task: What the route is for; None where the body tells.
        translate: Reads the body of a wire that is not the model's.
        counts: Whether the tokens of the request are what is asked for, and no answer.
    """

    gateway: Gateway
    doorkeeper: Doorkeeper
    wire: str
    task: Task | None = None
    adds_usage: bool = False
    translate: Translate | None = None
    counts: bool = False

    async def serve(self, to: Named, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; nothing but a cancellation comes out of here."""
        try:
            await self._serve(to, scope, receive, send)
        except LlmopsError as err:
            await send_whole(send, err.status, errors.headers(err), errors.body(err, scope["path"]))

    async def _serve(self, to: Named, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        caller = await self.doorkeeper.admit(headers)
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
            endpoint=to.endpoint,
            task=self.task,
            user=caller.user if caller is not None else None,
            caller=caller,
            session=_text(headers.get(b"x-session-id")),
            traceparent=_text(headers.get(b"traceparent")),
            adds_usage=self.adds_usage,
            problem=problem,
            translate=self.translate,
        )
        if self.counts:
            return await send_reply(send, self.gateway.count(asked))
        watch = Watch(receive)
        try:
            await send_reply(send, await self.gateway.invoke(asked, to.served))
        except asyncio.CancelledError:
            if not watch.gone:
                raise
        finally:
            watch.close()
        return None


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
        self._named = {prefix: Door(gateway, doorkeeper, wire) for prefix, wire in NAMED_DOORS.items()}
        self._doors = {
            prefix + path: Door(gateway, doorkeeper, wire, task, adds_usage and task is Task.CHAT)
            for prefix, (wire, adds_usage) in TASK_DOORS.items()
            for task, path in PATH.items()
        }
        self._doors |= {
            path: Door(gateway, doorkeeper, wire, Task.CHAT, translate=WIRES[wire].translate, counts=path == COUNT_DOOR)
            for path, wire in TRANSLATED_DOORS.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or one event of the server's life."""
        if scope["type"] == "http" and scope["method"] == "POST":
            door, to = self._door(scope["path"])
            if door is not None:
                return await door.serve(to, scope, receive, send)
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
                headers = dict(scope["headers"])
                scope["caller"] = caller = await self._doorkeeper.admit(headers)
                scope["principal"] = caller.user if caller is not None else None
                _refuse_large(headers)
            except LlmopsError as err:
                if err.status == 401 and scope["path"] == ui.PATH:
                    # A browser can send a token only once it has the page that asks for it.
                    return await send_whole(send, 401, [*ui.HEADERS, (b"www-authenticate", b"Bearer")], ui.SIGN_IN)
                return await send_whole(send, err.status, errors.headers(err), errors.body(err, scope["path"]))
        return await self.app(scope, receive, send)

    def _door(self, path: str) -> tuple[Door | None, Named]:
        """The door of a path and what the path names; None where it is no invocation."""
        if (door := self._doors.get(path)) is not None:
            return door, Named()
        prefix = next((prefix for prefix in self._named if path.startswith(prefix)), None)
        if prefix is None or not path.endswith(_AFTER):
            return None, Named()
        # Names hold no slash, so a path of another length is none of these.
        endpoint, separator, served = path[len(prefix) : -len(_AFTER)].partition(_SERVED)
        if "/" in endpoint or "/" in served or not endpoint or (separator and (not served or prefix != _BEFORE)):
            return None, Named()
        return self._named[prefix], Named(endpoint, served or None)


def _refuse_large(headers: Mapping[bytes, bytes]) -> None:
    announced = headers.get(b"content-length", b"0")
    if announced.isdigit() and int(announced[:20]) > MAX_BODY_BYTES:
        raise _too_large()


def _too_large() -> BadRequest:
    return BadRequest(f"the body is larger than {MAX_BODY_BYTES} bytes (16 MB)")


def _text(value: bytes | None) -> str | None:
    return value.decode("latin-1") if value else None
