"""The child that speaks to vendors whose wire is not OpenAI's: an OpenAI-compatible server in front of litellm.

    python -m llmops.providers.litellm

It writes one line to stdout, {"address": "http://127.0.0.1:PORT"} once it answers, or {"error": "..."}. Every route but
/health wants the key in LLMOPS_INTERNAL_KEY. A request carries its vendor's arguments and secrets in one header
(`litellm_bridge`): they live for that call, and no answer and no log line repeats them.
"""

import asyncio
import hmac
import json
import logging
import socket
import sys
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import litellm
import orjson
import uvicorn
from litellm.litellm_core_utils.get_model_cost_map import get_model_cost_map_source_info
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from llmops import leash
from llmops.errors import EndpointNotReady, Unauthenticated, UpstreamMalformed
from llmops.protocol import embeddings, sse
from llmops.protocol.task import PATH, Task
from llmops.providers import confinement
from llmops.providers.litellm_failure import Failure, explain
from llmops.providers.litellm_request import Asked, read
from llmops.settings import server_settings

log = logging.getLogger(__name__)

#: JSON list of the fields of the body that did not reach the vendor.
DROPPED = "x-llmops-dropped"
_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class Wire:
    """The answer to one request: whole, or as events; an error takes the form that is still possible.

    Attributes:
        started: Whether the status has been sent.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def whole(
        self, document: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole answer."""
        response = Response(orjson.dumps(document), status, headers, media_type="application/json")
        await self._start(status, response.raw_headers)
        await self._send({"type": "http.response.body", "body": response.body})

    async def event(self, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send one event; the headers go with the first."""
        if not self.started:
            response = Response(None, 200, headers, media_type="text/event-stream")
            kept = [(name, value) for name, value in response.raw_headers if name != b"content-length"]
            await self._start(200, kept)
        await self._send({"type": "http.response.body", "body": sse.encode(data), "more_body": True})

    async def end(self) -> None:
        """End the events."""
        await self._send({"type": "http.response.body", "body": b""})

    async def fail(self, failure: Failure) -> None:
        """Send an error: a status, or a last event where events have begun (and then no ``[DONE]``)."""
        if self.started:
            await self.event(orjson.dumps(failure.document))
            await self.end()
        else:
            await self.whole(failure.document, failure.status, failure.headers)

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


class Door:
    """One route as an ASGI application. A caller that leaves cancels the call of the vendor."""

    def __init__(self, task: Task, key: str) -> None:
        self._task = task
        self._credential = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        try:
            data = await request.body()
        except ClientDisconnect:
            return
        serving = asyncio.create_task(self._serve(request.headers, data, Wire(send)))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait((serving, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            serving.cancel()
            leaving.cancel()
            await asyncio.gather(serving, leaving, return_exceptions=True)

    async def _serve(self, headers: Mapping[str, str], data: bytes, wire: Wire) -> None:
        arguments: Mapping[str, Any] = {}
        try:
            if not hmac.compare_digest(headers.get("authorization", "").encode(), self._credential):
                raise Unauthenticated("the internal key is missing or wrong")
            confinement.confine(headers)
            asked = read(self._task, headers, data)
            arguments = asked.arguments
            await _answer(asked, wire)
        except Exception as err:  # noqa: BLE001 - the outer wall; litellm raises anything.
            failure = explain(err, arguments)
            log.warning("model=%s status=%d error=%s", arguments.get("model"), failure.status, type(err).__name__)
            await wire.fail(failure)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(asked: Asked, wire: Wire) -> None:
    notes = _notes(asked)
    if asked.task is Task.EMBEDDINGS:
        vectors = await litellm.aembedding(**asked.keywords)
        await wire.whole(_embeddings(vectors.model_dump(exclude_none=True), asked.base64), headers=notes)
        return
    reply = await litellm.acompletion(**asked.keywords)
    if not asked.stream:
        await wire.whole(_shaped(asked.task, reply), headers=notes)
        return
    try:
        async for chunk in reply:
            document = _shaped(asked.task, chunk)
            _check_end(reply, document)
            await wire.event(orjson.dumps(document), notes)
        await wire.event(sse.DONE, notes)
        await wire.end()
    finally:
        await reply.aclose()


def _notes(asked: Asked) -> dict[str, str]:
    kind = "embeddings" if asked.task is Task.EMBEDDINGS else "chat_completion"
    dropped = asked.dropped(litellm.get_supported_openai_params(model=asked.model, request_type=kind) or ())
    if not dropped:
        return {}
    names = json.dumps(dropped)  # A caller chose them: no line break may reach the log or the header.
    log.info("model=%s dropped=%s", asked.model, names)
    return {DROPPED: names}


def _check_end(reply: Any, document: Mapping[str, Any]) -> None:
    """Refuse an end the vendor did not send: litellm makes one up when the vendor's stream is cut (1.106)."""
    if reply.received_finish_reason or reply.intermittent_finish_reason:
        return
    if any(choice["finish_reason"] for choice in document["choices"]):
        raise UpstreamMalformed("the vendor's stream ended before its answer did")


def _shaped(task: Task, reply: Any) -> dict[str, Any]:
    """A response or a chunk as OpenAI would send it: without litellm's empty fields, usage in a chunk of its own."""
    document: dict[str, Any] = reply.model_dump(exclude_none=True)
    if "usage" in document and document["object"] == "chat.completion.chunk":
        document["choices"] = []
        document["usage"].pop("cost", None)  # litellm's own price, in streams only.
    for choice in document["choices"]:
        choice.setdefault("finish_reason", None)
        if "message" in choice:
            choice["message"].setdefault("content", None)
    return document if task is Task.CHAT else _completion(document)


def _completion(document: dict[str, Any]) -> dict[str, Any]:
    choices = [
        {
            "index": choice["index"],
            "text": (choice.get("message") or choice.get("delta") or {}).get("content") or "",
            "finish_reason": choice["finish_reason"],
            "logprobs": None,
        }
        for choice in document["choices"]
    ]
    return {**document, "object": "text_completion", "choices": choices}


def _embeddings(document: dict[str, Any], base64: bool) -> dict[str, Any]:
    # Vendors do not know OpenAI's base64, which openai's client asks for.
    for row in document["data"] if base64 else ():
        row["embedding"] = embeddings.encode(row["embedding"])
    return document


async def _health(request: Request) -> Response:
    return PlainTextResponse("ok")


def _quiet() -> None:
    """Leave one voice in the log, ours: lines and warnings of libraries may hold prompts, answers, keys in URLs."""
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    litellm.redact_messages_in_exceptions = True
    # pydantic shows values of a vendor's odd answer in a warning (tests/test_canary.py).
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.CRITICAL, stream=sys.stderr, format=_FORMAT)
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in (__name__, "llmops", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)


def _check(key: str) -> None:
    """Refuse to serve where this process was not started as a child of llmops is.

    Raises:
        EndpointNotReady: Says all that is missing.
    """
    problems = []
    if not key:
        problems.append("LLMOPS_INTERNAL_KEY is not set, so anyone on this machine could call")
    if not get_model_cost_map_source_info()["is_env_forced"]:
        problems.append("LITELLM_LOCAL_MODEL_COST_MAP is not True, so litellm went to the network for its price list")
    if problems:
        raise EndpointNotReady(f"the litellm bridge does not start: {'; '.join(problems)}")


def main() -> int:
    """Run until the end of stdin or a signal."""
    report = leash.report_line()
    key = server_settings().internal_key
    try:
        _check(key)
    except EndpointNotReady as err:
        report.write(json.dumps({"error": err.message}) + "\n")
        sys.stderr.write(f"{err.message}\n")
        return 1
    leash.hold(grace_s=2 * leash.GRACE_S)  # uvicorn gives open answers the first half.
    _quiet()
    confinement.install()
    listener = socket.create_server(("127.0.0.1", 0))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        report.write(json.dumps({"address": f"http://127.0.0.1:{listener.getsockname()[1]}"}) + "\n")
        yield

    routes = [Route(f"/v1{path}", Door(task, key), methods=["POST"]) for task, path in PATH.items()]
    app = Starlette(routes=[*routes, Route("/health", _health)], lifespan=lifespan)
    # asyncio's loop, because uvloop connects without a word to Python (llmops.providers.confinement).
    config = uvicorn.Config(
        app, loop="asyncio", log_config=None, access_log=False, timeout_graceful_shutdown=int(leash.GRACE_S)
    )
    uvicorn.Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
