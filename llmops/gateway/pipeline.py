"""One request, from its bytes to its answer: the page to read first.

Two rules carry it. The first byte of the answer is the commit point: before it an error is a status, and another
served entity may be tried; after it an error is a last event of the stream, and nothing is tried again. And there is
one recording, opened here and closed once, by whoever ends the story.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from llmops.errors import BadRequest, ClientGone, EndpointNotReady, LlmopsError
from llmops.gateway.relay import Cut, Relay
from llmops.gateway.table import LiveEndpoint, LiveEntity, Table
from llmops.gateway.traffic import order
from llmops.interactions.recorder import Asked, Recorder, Recording
from llmops.protocol import chat, completions, invocation
from llmops.protocol.task import Task, check, detect
from llmops.protocol.usage import Usage
from llmops.providers.provider import Answer, Call
from llmops.providers.tokens import Tokenizer

logger = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back to the caller.

    Attributes:
        body: Whole, or a relay that the route reads to its end and closes.
    """

    status: int
    headers: Headers
    body: bytes | Relay


class Gateway:
    """Serves invocations.

    Args:
        table: Gives the routing table of this moment.
        find_again: Called when a name is not in it: another worker may just have created it.
    """

    def __init__(
        self,
        table: Callable[[], Table],
        find_again: Callable[[], None],
        recorder: Recorder,
        tokenizer: Tokenizer,
    ) -> None:
        self._table = table
        self._find_again = find_again
        self._recorder = recorder
        self._tokenizer = tokenizer

    async def invoke(self, asked: Asked) -> Reply:
        """Serve one invocation.

        Raises:
            LlmopsError: The answer is an error status; it is recorded, and its headers name the interaction.
            asyncio.CancelledError: The caller left before the first byte; that is recorded too.
        """
        recording = self._recorder.open(asked)
        try:
            endpoint, call = self._open(asked, recording)
            return await self._try(endpoint, call, recording, adds_usage=asked.adds_usage)
        except LlmopsError as err:
            recording.failed(err)
            err.headers = headers(recording)
            raise
        except asyncio.CancelledError:
            recording.abandoned(ClientGone("the caller left before the first byte of the answer"))
            raise
        except Exception as err:
            # The outer wall: what nobody foresaw is recorded too, and the server goes on.
            logger.exception("event=invocation_bug interaction_id=%s", recording.interaction_id)
            bug = LlmopsError(f"the server failed in a way nobody foresaw ({type(err).__name__}); its log says more")
            recording.failed(bug)
            bug.headers = headers(recording)
            raise bug from err

    def _open(self, asked: Asked, recording: Recording) -> tuple[LiveEndpoint, Call]:
        """Read the body, find the endpoint, and check that they fit."""
        if asked.endpoint is not None:
            recording.endpoint_id = self._known_id(asked.endpoint)
        if asked.problem is not None:
            raise asked.problem
        told = recording.invocation = invocation.read(asked.raw)
        name = asked.endpoint or told.model
        if not name:
            raise BadRequest("'model' is missing: it names the endpoint")
        recording.endpoint = name
        endpoint = self._find(name)
        recording.endpoint_id = endpoint.stored.id
        if endpoint.task is None:
            raise EndpointNotReady(f"endpoint '{name}' is not ready: {endpoint.stored.problem}")
        recording.task = endpoint.task
        task = asked.task or detect(told.body)
        if task is not endpoint.task:
            raise BadRequest(f"endpoint '{name}' has task {endpoint.task}, and this is a request for {task}")
        check(task, told.body)
        if told.stream and task is Task.EMBEDDINGS:
            raise BadRequest("embeddings are not streamed; leave out 'stream'")
        passed_on = {"traceparent": asked.traceparent} if asked.traceparent else {}
        return endpoint, Call(task, told.body, told.stream, endpoint.entities[0].limits, passed_on)

    async def _try(self, endpoint: LiveEndpoint, call: Call, recording: Recording, *, adds_usage: bool) -> Reply:
        """Ask the served entities in turn until one answers."""
        entities = order(endpoint, random.random())  # noqa: S311 - a traffic split, not a secret
        for entity in entities[:-1]:
            try:
                return await self._ask(entity, call, recording, adds_usage=adds_usage, final=False)
            except LlmopsError as err:
                if not err.retryable:
                    raise
        return await self._ask(entities[-1], call, recording, adds_usage=adds_usage, final=True)

    async def _ask(
        self, entity: LiveEntity, call: Call, recording: Recording, *, adds_usage: bool, final: bool
    ) -> Reply:
        """One attempt, noted in the record however it ends."""
        started_ms = recording.elapsed_ms()
        call = Call(call.task, call.body, call.stream, entity.limits, call.headers)
        try:
            if call.stream:
                reply = await self._stream(entity, call, recording, adds_usage=adds_usage)
            else:
                answer = await entity.provider.answer(call)
                recording.tried(entity.served, started_ms, None)
                return self._whole(answer, call, recording)
        except LlmopsError as err:
            recording.tried(entity.served, started_ms, err, final=final or not err.retryable)
            raise
        except asyncio.CancelledError:
            recording.tried(entity.served, started_ms, ClientGone("the caller left before the answer began"))
            raise
        recording.tried(entity.served, started_ms, None)
        return Reply(200, headers(recording, b"text/event-stream"), reply)

    def _whole(self, answer: Answer, call: Call, recording: Recording) -> Reply:
        text = (completions if call.task is Task.COMPLETIONS else chat).answer_text(answer.document)
        reported = Usage.read(answer.document)
        recording.usage = reported or self._tokenizer.estimate(call.task, call.body, text)
        recording.first_byte()
        recording.answered(answer.status, answer.body)
        return Reply(answer.status, headers(recording, b"application/json"), answer.body)

    async def _stream(self, entity: LiveEntity, call: Call, recording: Recording, *, adds_usage: bool) -> Relay:
        """Wait for the first events: until they are here, another entity may still answer."""
        stream = await entity.provider.stream(call)
        try:
            first = await stream.next()
            if first is None:
                raise Cut(f"{entity.served[0]} ended its answer before it began")
            relay = Relay(stream, recording, self._tokenizer, adds_usage=adds_usage)
            relay.begin(first)
        except BaseException:
            await stream.aclose()
            raise
        return relay

    def _find(self, name: str) -> LiveEndpoint:
        if name not in self._table().endpoints:
            self._find_again()
        return self._table().find(name)

    def _known_id(self, name: str) -> str | None:
        found = self._table().endpoints.get(name)
        return found.stored.id if found else None


def headers(recording: Recording, kind: bytes | None = None) -> Headers:
    """The headers that name an interaction and the served entity that answered it."""
    named = recording.interaction_id.encode()
    out = [(b"x-request-id", named), (b"x-mlflow-trace-id", b"tr-" + named)]
    if recording.served is not None:
        out.append((b"served-model-name", recording.served[0].encode()))
    if kind is not None:
        out.append((b"content-type", kind))
    return out
