"""The HTTP client of the command line: one server, one call at a time, every answer or failure as a person needs it.

It stands on the standard library's sockets, because a person presses Ctrl-C: a waiting socket wakes up for it, and
closing it at once stops the answer upstream. A client that waits in native code does neither (pyreqwest 0.15: the
signal is not seen until the server speaks, and then aborts the process).
"""

import difflib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from http.client import HTTPException, HTTPResponse, IncompleteRead
from typing import Any, NoReturn, Self
from urllib.parse import quote, urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request

import orjson

from llmops.errors import CommandError, ServerRefused
from llmops.protocol import chat, completions
from llmops.protocol.sse import DONE, Decoder
from llmops.protocol.task import Task
from llmops.protocol.usage import Usage
from llmops.settings import LOOPBACK, ClientSettings

Document = dict[str, Any]

#: A whole answer may take the server's 290 s.
ANSWER_TIMEOUT_S = 300.0
MANAGE_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 5.0
#: Exit code of a command that cannot reach its server, and of one that was told a wrong address.
UNREACHABLE, USAGE = 69, 64

_ENDPOINTS = "/api/2.0/serving-endpoints"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as the server shows it.

    Attributes:
        state: READY or NOT_READY.
        reason: Why it is not ready, and what to do; empty where it is, and in a list that does not tell.
        document: All of it.
    """

    name: str
    state: str
    task: str
    served_entities: tuple[str, ...]
    reason: str
    document: Document

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        return self.state == "READY"

    @classmethod
    def read(cls, document: Document) -> Self:
        """Read an endpoint document; what is missing reads as empty, a missing task as chat."""
        config = document.get("config") or document.get("pending_config") or {}
        entities = config.get("served_entities") or []
        reasons = ((entity.get("state") or {}).get("deployment_state_message") for entity in entities)
        state = str((document.get("state") or {}).get("ready", ""))
        return cls(
            name=str(document.get("name", "")),
            state=state,
            task=str(document.get("task") or Task.CHAT),
            served_entities=tuple(str(entity.get("name") or entity.get("entity_name")) for entity in entities),
            reason="" if state == "READY" else "; ".join(dict.fromkeys(reason for reason in reasons if reason)),
            document=document,
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an invocation besides its answer.

    Attributes:
        latency_ms: From the send to the end of the answer, or to now while it still comes.
        first_token_ms: Until the first text of a streamed answer; None where it was not streamed, or had none.
        usage: None where the server reported none.
    """

    endpoint: str
    served_entity: str | None
    interaction_id: str | None
    trace_id: str | None
    run_id: str | None
    latency_ms: float
    first_token_ms: float | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    document: Document
    facts: Facts


class AnswerStream:
    """A streamed answer: iterate once over its chunks, inside ``with``. Leaving early cancels it upstream."""

    def __init__(self, response: HTTPResponse, endpoint: str, started: float) -> None:
        self._response = response
        self._started = started
        self._ended: float | None = None
        self._facts = _facts(response, endpoint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._response.close()

    @property
    def facts(self) -> Facts:
        """What is known so far; complete when the iteration has ended."""
        return replace(self._facts, latency_ms=_since(self._started, self._ended))

    def __iter__(self) -> Iterator[Document]:
        """Give each chunk when it comes.

        Raises:
            CommandError: The server ended the answer with an error, or the answer was cut short.
        """
        # Read on after [DONE]: to leave before the server has closed would look like an answer nobody wanted.
        for data in self._events():
            if data == DONE:
                self._ended = time.perf_counter()
            elif self._ended is None:
                yield self._chunk(data)
        if self._ended is None:
            self._cut("the stream ended without [DONE]")

    def _events(self) -> Iterator[bytes]:
        decoder = Decoder()
        try:
            while piece := self._response.read1():
                yield from decoder.feed(piece)
            yield from decoder.close()
        except (OSError, HTTPException, ValueError) as err:
            self._cut(_cause(err), err)

    def _chunk(self, data: bytes) -> Document:
        chunk = _object(data)
        if chunk is None:
            self._cut("a chunk is not a JSON object")
        if "error" in chunk:
            raise CommandError(_error_message(chunk) or f"endpoint '{self._facts.endpoint}' failed")
        usage = Usage.read(chunk) or self._facts.usage
        first_token_ms = self._facts.first_token_ms
        if first_token_ms is None and (chat.delta_text(chunk) or completions.answer_text(chunk)):
            first_token_ms = _since(self._started)
        self._facts = replace(self._facts, usage=usage, first_token_ms=first_token_ms)
        return chunk

    def _cut(self, cause: str, err: Exception | None = None) -> NoReturn:
        raise CommandError(f"the answer of endpoint '{self._facts.endpoint}' was cut short: {cause}") from err


class Client:
    """The server a command talks to.

    Args:
        answer_timeout_s: How long the server may be silent during an invocation.

    Raises:
        CommandError: The settings name no HTTP server. Every method raises it too: exit code 69 where no server
            answers, 1 with the server's own message where it refuses (then a ServerRefused).
    """

    def __init__(self, settings: ClientSettings, *, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self.url = settings.url
        self._answer_timeout_s = answer_timeout_s
        host = _host(settings.url)
        self._headers = {"Accept": "application/json", "User-Agent": "llmops"}
        if settings.token is not None:
            self._headers["Authorization"] = f"Bearer {_checked(settings.token)}"
        # Without a redirect and an error handler every status comes back as it is: a token follows no redirect.
        self._opener = OpenerDirector()
        for handler in (ProxyHandler({} if host in LOOPBACK else None), HTTPHandler(), HTTPSHandler()):
            self._opener.add_handler(handler)

    def ready(self) -> bool:
        """Tell whether the server takes requests; False too where none answers."""
        try:
            with self._send("GET", "/ready", timeout_s=READY_TIMEOUT_S) as response:
                return response.status == 200
        except CommandError:
            return False

    def list_endpoints(self) -> list[Endpoint]:
        """All endpoints, in the server's order."""
        found = self._manage("GET", "").get("endpoints") or []
        return [Endpoint.read(document) for document in found]

    def get_endpoint(self, name: str) -> Endpoint:
        """One endpoint, with the reason if it is not ready."""
        return Endpoint.read(self._manage("GET", f"/{quote(name, safe='')}", name=name))

    def create_endpoint(self, document: Mapping[str, Any]) -> Endpoint:
        """Create an endpoint from its document."""
        return Endpoint.read(self._manage("POST", "", document))

    def update_config(self, name: str, config: Mapping[str, Any]) -> Endpoint:
        """Change an endpoint's config: what ``config`` does not name stays."""
        return Endpoint.read(self._manage("PUT", f"/{quote(name, safe='')}/config", config, name=name))

    def replace_endpoint(self, name: str, document: Mapping[str, Any]) -> Endpoint:
        """Put a whole document in the place of an endpoint's, in one step."""
        return Endpoint.read(self._manage("PUT", f"/{quote(name, safe='')}", document, name=name))

    def list_versions(self, name: str) -> list[Document]:
        """Every config an endpoint has had, the newest first."""
        return list(self._manage("GET", f"/{quote(name, safe='')}/versions", name=name)["versions"])

    def rollback(self, name: str, version: int) -> Endpoint:
        """Make a former config of an endpoint its newest."""
        body = {"config_version": version}
        return Endpoint.read(self._manage("POST", f"/{quote(name, safe='')}/rollback", body, name=name))

    def delete_endpoint(self, name: str) -> None:
        """Delete an endpoint."""
        self._manage("DELETE", f"/{quote(name, safe='')}", name=name)

    def give_feedback(self, feedback: Mapping[str, Any]) -> Document:
        """Say what an answer is worth.

        Args:
            feedback: ``interaction_id`` and ``value``, perhaps ``name``, ``rationale`` and ``user``.
        """
        with self._send("POST", "/serving-endpoints/feedback", feedback, timeout_s=MANAGE_TIMEOUT_S) as response:
            return self._document(response, None)

    def invoke(self, name: str, body: Mapping[str, Any], session: str | None = None) -> Answer:
        """Ask an endpoint and wait for the whole answer.

        Args:
            body: Of the endpoint's task: ``messages``, ``prompt`` or ``input``, and parameters.
            session: Groups the interactions of one conversation.
        """
        started = time.perf_counter()
        with self._invoke(name, body, session) as response:
            document = self._document(response, name)
            facts = replace(_facts(response, name), latency_ms=_since(started), usage=Usage.read(document))
        return Answer(document, facts)

    def stream(self, name: str, body: Mapping[str, Any], session: str | None = None) -> AnswerStream:
        """Ask an endpoint for a streamed answer; returns when it begins. The caller closes it.

        Args:
            body: As for `invoke`; what asks for a stream, with its token counts, is added.
        """
        started = time.perf_counter()
        asked = {"stream_options": {"include_usage": True}, **body, "stream": True}
        response = self._invoke(name, asked, session)
        if response.status == 200 and response.headers.get_content_type() == "text/event-stream":
            return AnswerStream(response, name, started)
        with response:
            self._document(response, name)
        raise CommandError(f"endpoint '{name}' answered, but not as a stream: try --no-stream")

    def _invoke(self, name: str, body: Mapping[str, Any], session: str | None) -> HTTPResponse:
        headers = {} if session is None else {"X-Session-Id": session}
        path = f"/serving-endpoints/{quote(name, safe='')}/invocations"
        return self._send("POST", path, body, headers, timeout_s=self._answer_timeout_s)

    def _manage(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, name: str | None = None
    ) -> Document:
        with self._send(method, _ENDPOINTS + path, body, timeout_s=MANAGE_TIMEOUT_S) as response:
            return self._document(response, name)

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float,
    ) -> HTTPResponse:
        content = {} if body is None else {"Content-Type": "application/json"}
        request = Request(  # noqa: S310 - the opener knows HTTP and HTTPS, nothing else.
            self.url + path,
            data=None if body is None else orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS),
            headers={**self._headers, **content, **(headers or {})},
            method=method,
        )
        try:
            response: HTTPResponse = self._opener.open(request, timeout=timeout_s)
        except (OSError, HTTPException) as err:
            raise CommandError(self._unreachable(err, timeout_s), exit_code=UNREACHABLE) from err
        return response

    def _document(self, response: HTTPResponse, name: str | None) -> Document:
        try:
            document = _object(response.read())
        except (OSError, HTTPException) as err:
            raise CommandError(f"the answer of {self.url} was cut short: {_cause(err)}") from err
        if document is not None and 200 <= response.status < 300:
            return document
        message = _error_message(document or {})
        if message is None:
            answered = f"{response.status} {response.reason}"
            raise CommandError(f"{self.url} answered {answered}, not as an llmops server does: is LLMOPS_HOST right?")
        if response.status == 404 and name is not None:
            message = message.removesuffix(".") + self._nearest(name)
        wait_s = response.headers.get("Retry-After", "")
        raise ServerRefused(
            message,
            status=response.status,
            retry_after_s=int(wait_s) if wait_s.isdigit() else None,
            interaction_id=response.headers.get("x-request-id"),
        )

    def _nearest(self, name: str) -> str:
        try:
            names = [endpoint.name for endpoint in self.list_endpoints()]
        except CommandError:
            return ""
        near = difflib.get_close_matches(name, names, cutoff=0.4)
        if not near:
            return " (`llmops endpoints list` shows all)"
        return f" (did you mean {' or '.join(repr(other) for other in near)}?)"

    def _unreachable(self, err: Exception, timeout_s: float) -> str:
        match getattr(err, "reason", err):
            case ConnectionRefusedError():
                return f"no server answers at {self.url}: start one with `llmops serve`, or name it with LLMOPS_HOST"
            case TimeoutError():
                return f"the server at {self.url} did not answer within {timeout_s:g} s"
            case ConnectionError():
                return f"the server at {self.url} closed the connection before it answered"
        return f"cannot reach a server at {self.url}: {_cause(err)}; is LLMOPS_HOST right?"


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, scheme, user, _ = parts.hostname, parts.scheme, parts.username, parts.port
    except ValueError as err:
        raise CommandError(f"the server's address is not a URL: {err}", exit_code=USAGE) from err
    if user is not None:
        raise CommandError("the server's URL holds a password: name a token with LLMOPS_TOKEN", exit_code=USAGE)
    if host is None or scheme not in ("http", "https"):
        raise CommandError(f"the server's address '{url}' does not begin with http:// or https://", exit_code=USAGE)
    return host


def _checked(token: str) -> str:
    # http.client would show the token in its own error.
    if token.isascii() and token.isprintable():
        return token
    raise CommandError("the access token holds characters that a header cannot carry", exit_code=USAGE)


def _facts(response: HTTPResponse, endpoint: str) -> Facts:
    return Facts(
        endpoint=endpoint,
        served_entity=response.headers.get("served-model-name"),
        interaction_id=response.headers.get("x-request-id"),
        trace_id=response.headers.get("x-mlflow-trace-id"),
        run_id=response.headers.get("x-mlflow-run-id"),
        latency_ms=0.0,
    )


def _object(data: bytes) -> Document | None:
    try:
        value = orjson.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _error_message(document: Document) -> str | None:
    """The message of ``{"error_code", "message"}`` or of ``{"error": {"message"}}``."""
    error = document.get("error")
    message = document.get("message", error.get("message") if isinstance(error, dict) else error)
    return message if isinstance(message, str) and message else None


def _cause(err: Exception) -> str:
    if isinstance(err, IncompleteRead):
        return "the connection was closed"
    cause = getattr(err, "reason", err)
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


def _since(started: float, ended: float | None = None) -> float:
    return ((time.perf_counter() if ended is None else ended) - started) * 1000
