"""One request, from its bytes to its answer: the page to read first.

Two rules carry it. The first byte of the answer is the commit point: before it an error is a status, and another
served entity may be tried; after it an error is a last event of the stream, and nothing is tried again. And there is
one recording, opened here and closed once, by whoever ends the story.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import orjson

from llmops.endpoints.access import Access
from llmops.endpoints.caller import Caller
from llmops.endpoints.permissions import Level
from llmops.errors import BadRequest, ClientGone, EndpointNotFound, EndpointNotReady, LlmopsError, UpstreamMalformed
from llmops.gateway.counts import Counts
from llmops.gateway.limits import Limits
from llmops.gateway.relay import Cut, Relay
from llmops.gateway.table import LiveEndpoint, LiveEntity, Table
from llmops.gateway.traffic import order
from llmops.interactions.recorder import Asked, Recorder, Recording
from llmops.protocol import chat, invocation
from llmops.protocol.invocation import Invocation
from llmops.protocol.task import Task, check, detect
from llmops.protocol.translation import Translation
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
        counts: Counts,
        access: Access,
        limits: Limits,
    ) -> None:
        self._table = table
        self._find_again = find_again
        self._recorder = recorder
        self._tokenizer = tokenizer
        self._counts = counts
        self._access = access
        self._limits = limits

    async def invoke(self, asked: Asked, served: str | None = None) -> Reply:
        """Serve one invocation.

        Args:
            served: The served entity to ask, and no other; None where the endpoint's traffic config chooses.

        Raises:
            LlmopsError: The answer is an error status; it is recorded, and its headers name the interaction.
            asyncio.CancelledError: The caller left before the first byte; that is recorded too.
        """
        recording = self._recorder.open(asked)
        try:
            endpoint, call = self._open(asked, recording)
            entities = self._chosen(endpoint, served)
            if endpoint.quota is not None:
                user = recording.user or ""
                recording.settle = await self._limits.admit(endpoint.quota, asked.caller, user, call)
            reply = await self._try(entities, call, recording, adds_usage=asked.adds_usage)
            self._count(recording, reply.status)
            await recording.written()
            return reply
        except LlmopsError as err:
            recording.failed(err)
            self._count(recording, err.status)
            err.headers = headers(recording)
            await recording.written()
            raise
        except asyncio.CancelledError:
            recording.abandoned(ClientGone("the caller left before the first byte of the answer"))
            self._count(recording, ClientGone.status)
            raise
        except Exception as err:
            # The outer wall: what nobody foresaw is recorded too, and the server goes on.
            logger.exception("event=invocation_bug interaction_id=%s", recording.interaction_id)
            bug = _unforeseen(err)
            recording.failed(bug)
            self._count(recording, bug.status)
            bug.headers = headers(recording)
            await recording.written()
            raise bug from err

    def count(self, asked: Asked) -> Reply:
        """Count the tokens of a chat request, by tiktoken; no model is asked, so nothing is recorded.

        Raises:
            LlmopsError: The body cannot be read, or names no chat endpoint the caller may query.
        """
        try:
            return self._counted(asked)
        except LlmopsError:
            raise
        except Exception as err:
            # The outer wall, as of `invoke`.
            logger.exception("event=count_bug")
            raise _unforeseen(err) from err

    def _counted(self, asked: Asked) -> Reply:
        if asked.problem is not None:
            raise asked.problem
        told = invocation.read(asked.raw)
        if not told.model:
            raise BadRequest("'model' is missing: it names the endpoint")
        endpoint = self._find(told.model, asked.caller)
        self._access.require(asked.caller, endpoint.stored, Level.CAN_QUERY)
        if endpoint.task not in (Task.CHAT, None):
            raise BadRequest(f"endpoint '{told.model}' has task {endpoint.task}, and this is a request for {Task.CHAT}")
        body = asked.translate(told.body).chat if asked.translate is not None else told.body
        check(Task.CHAT, body)
        counted = {"input_tokens": self._tokenizer.count(chat.whole_text(body)), "estimated": True}
        return Reply(200, [(b"content-type", b"application/json")], orjson.dumps(counted))

    def _open(self, asked: Asked, recording: Recording) -> tuple[LiveEndpoint, Call]:
        """Read the body, find the endpoint, and check that they fit."""
        if asked.endpoint is not None and (known := self._table().endpoints.get(asked.endpoint)) is not None:
            # Already here, so that a body that cannot be read is recorded as its endpoint wants it.
            _belongs(recording, known)
        if asked.problem is not None:
            raise asked.problem
        told = recording.invocation = invocation.read(asked.raw)
        name = asked.endpoint or told.model
        if not name:
            raise BadRequest("'model' is missing: it names the endpoint")
        recording.endpoint = name
        endpoint = self._find(name, asked.caller)
        _belongs(recording, endpoint)
        recording.admit()
        self._access.require(asked.caller, endpoint.stored, Level.CAN_QUERY)
        if endpoint.task is None:
            raise EndpointNotReady(f"endpoint '{name}' is not ready: {endpoint.stored.problem}")
        recording.task = endpoint.task
        task = asked.task or detect(told.body)
        if task is not endpoint.task:
            raise BadRequest(f"endpoint '{name}' has task {endpoint.task}, and this is a request for {task}")
        if asked.translate is not None:
            told = _translated(told, asked.translate(told.body), recording)
        check(task, told.body)
        if told.stream and task is Task.EMBEDDINGS:
            raise BadRequest("embeddings are not streamed; leave out 'stream'")
        passed_on = {"traceparent": asked.traceparent} if asked.traceparent else {}
        translated = recording.translation is not None
        return endpoint, Call(task, told.body, told.stream, endpoint.entities[0].limits, passed_on, translated)

    async def _try(self, entities: list[LiveEntity], call: Call, recording: Recording, *, adds_usage: bool) -> Reply:
        """Ask the served entities in turn until one answers."""
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
        recording.served_entity_id = entity.id
        call = Call(call.task, call.body, call.stream, entity.limits, call.headers, call.translated)
        try:
            if call.stream:
                reply = await self._stream(entity, call, recording, adds_usage=adds_usage)
            else:
                answer = await entity.provider.answer(call)
                if recording.translation is not None and not answer.document.get("choices"):
                    raise UpstreamMalformed(f"{entity.served[0]} gave an answer without 'choices'")
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
        reported = Usage.read(answer.document)
        recording.usage = reported or self._tokenizer.estimate(call.task, call.body, answer.document)
        body = answer.body
        if recording.translation is not None:
            telling = recording.translation.telling(recording.interaction_id)
            telling.whole(answer.document)
            body = orjson.dumps(telling.document(recording.usage))
        recording.first_byte()
        recording.answered(answer.status, body)
        return Reply(answer.status, headers(recording, b"application/json"), body)

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

    def _chosen(self, endpoint: LiveEndpoint, served: str | None) -> list[LiveEntity]:
        """The served entities to ask, in turn."""
        if served is None:
            return order(endpoint, random.random())  # noqa: S311 - a traffic split, not a secret
        found = [entity for entity in endpoint.entities if entity.served[0] == served]
        if not found:
            names = ", ".join(entity.served[0] for entity in endpoint.entities)
            raise EndpointNotFound(f"endpoint '{endpoint.stored.name}' has no served entity '{served[:63]}': {names}")
        return found

    def _count(self, recording: Recording, status: int) -> None:
        self._counts.note(recording.endpoint_id, status, recording.elapsed_ms())

    def _find(self, name: str, caller: Caller | None) -> LiveEndpoint:
        if name not in self._table().endpoints:
            self._find_again()
        if caller is not None and not caller.admin and name not in self._table().endpoints:
            # The nearest name may be one that this caller may not know.
            raise EndpointNotFound(f"endpoint '{name[:63]}' does not exist")
        return self._table().find(name)


def _translated(told: Invocation, translation: Translation, recording: Recording) -> Invocation:
    """What the model is asked, in place of what the caller's own wire says."""
    recording.translation = translation
    recording.invocation = replace(told, body=translation.chat, user=told.user or translation.user or None)
    return recording.invocation


def _unforeseen(err: Exception) -> LlmopsError:
    return LlmopsError(f"the server failed in a way nobody foresaw ({type(err).__name__}); its log says more")


def _belongs(recording: Recording, endpoint: LiveEndpoint) -> None:
    recording.endpoint_id, recording.policy = endpoint.stored.id, endpoint.policy


def headers(recording: Recording, kind: bytes | None = None) -> Headers:
    """The headers that name an interaction, its trace and run where there will be any, and who answered it."""
    named = recording.interaction_id.encode()
    out = [(b"x-request-id", named)]
    if recording.recorded:
        out.append((b"x-mlflow-trace-id", b"tr-" + named))
    if recording.names_run:
        out.append((b"x-mlflow-run-id", named))
    if recording.served is not None:
        out.append((b"served-model-name", recording.served[0].encode()))
    if kind is not None:
        out.append((b"content-type", kind))
    return out
