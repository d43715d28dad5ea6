"""What a scripted upstream says: the replies of an OpenAI-compatible server. How they break is in tests/faults.py.

A behaviour is a `Script`: called with the request, it gives the reply.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from tests.wire import End, Gate, Piece, Reply, Request, Script, head

WORDS = ("Hello", " there", ",", " friend", ".")
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
DONE = b"data: [DONE]\n\n"

JSON = "application/json"
SSE = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


def whole(
    body: bytes, *, code: int = 200, content_type: str = JSON, headers: Mapping[str, str] | None = None
) -> Script:
    """A body with its length; `headers` win over those two."""
    computed = {"content-type": content_type, "content-length": str(len(body))}
    return lambda request: Reply(head(code, computed | dict(headers or {})), (body,))


def document(value: Any, *, code: int = 200, headers: Mapping[str, str] | None = None) -> Script:
    """Any value as JSON."""
    return whole(orjson.dumps(value), code=code, headers=headers)


def status(code: int, body: Any = None, headers: Mapping[str, str] | None = None) -> Script:
    """An error, in OpenAI's shape unless a body is given."""
    error = {"message": f"scripted {code}", "type": "scripted_error", "param": None, "code": str(code)}
    return document({"error": error} if body is None else body, code=code, headers=headers)


def redirect(url: str, code: int = 307) -> Script:
    """Send the client elsewhere."""
    return whole(b"", code=code, headers={"location": url})


def chat(
    text: str = "".join(WORDS),
    model: str = "m",
    usage: Mapping[str, Any] | None = USAGE,
    finish_reason: str = "stop",
    **message: Any,
) -> Script:
    """A chat completion; further fields go into the message (``tool_calls=[...]``)."""
    said = {"role": "assistant", "content": text} | message
    choice = {"index": 0, "message": said, "finish_reason": finish_reason}
    return document(_object("chat.completion", model, [choice], usage))


def completion(text: str = "".join(WORDS), model: str = "m", usage: Mapping[str, Any] | None = USAGE) -> Script:
    """A completion."""
    return document(_object("text_completion", model, [{"index": 0, "text": text, "finish_reason": "stop"}], usage))


def embeddings(*vectors: Sequence[float], model: str = "m") -> Script:
    """One vector for each text of the request, these in turn (default: one of length 3)."""

    def reply(request: Request) -> Reply:
        given = request.json.get("input")
        count = len(given) if isinstance(given, list) else 1
        known = vectors or ((1.0, 0.0, 0.0),)
        rows = [
            {"object": "embedding", "index": index, "embedding": list(known[index % len(known)])}
            for index in range(count)
        ]
        answer = {"object": "list", "data": rows, "model": model, "usage": {"prompt_tokens": 7, "total_tokens": 7}}
        return document(answer)(request)

    return reply


def echo() -> Script:
    """A chat completion of the model that was asked for; its text is the JSON list of the body's keys, sorted."""
    return lambda request: chat(orjson.dumps(sorted(request.json)).decode(), model=str(request.json.get("model")))(
        request
    )


def obliging(words: Iterable[str] = WORDS) -> Script:
    """What was asked for, by path and ``stream``: chat, completion or embeddings, usage as OpenAI sends it."""
    words = tuple(words)

    def reply(request: Request) -> Reply:
        if request.path.endswith("/embeddings"):
            return embeddings()(request)
        body = request.json
        chat_wanted, model = request.path.endswith("/chat/completions"), str(body.get("model"))
        if not body.get("stream"):
            return (chat if chat_wanted else completion)("".join(words), model)(request)
        usage = USAGE if (body.get("stream_options") or {}).get("include_usage") else None
        return (chat_stream if chat_wanted else completion_stream)(words, model, usage)(request)

    return reply


def stream(*pieces: Piece, ending: End = End.KEEP) -> Script:
    """Server-sent events, each piece one HTTP chunk."""
    return lambda request: Reply(head(200, SSE | {"transfer-encoding": "chunked"}), pieces, True, ending)


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def chat_stream(
    words: Iterable[str] = WORDS,
    model: str = "m",
    usage: Mapping[str, Any] | None = None,
    *,
    finish_reason: str | None = "stop",
    done: bool = True,
    pause: Gate | None = None,
) -> Script:
    """A streamed chat completion.

    Args:
        words: One chunk each; the first also carries the role.
        usage: Sent, where given, in a last chunk without choices, whether it was asked for or not.
        finish_reason: Sent in a chunk of its own after the words; None leaves that chunk out.
        done: False leaves out ``[DONE]``; the stream still ends as HTTP says.
        pause: Waited at after the first word.
    """
    deltas: list[dict[str, Any]] = [{"content": word} for word in words]
    if deltas:
        deltas[0] = {"role": "assistant"} | deltas[0]
    choices: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    if finish_reason is not None:
        choices.append({"index": 0, "delta": {}, "finish_reason": finish_reason})
    return _streamed("chat.completion.chunk", model, choices, usage, done, pause)


def completion_stream(
    words: Iterable[str] = WORDS, model: str = "m", usage: Mapping[str, Any] | None = None, *, done: bool = True
) -> Script:
    """A streamed completion, as `chat_stream`."""
    choices: list[dict[str, Any]] = [{"index": 0, "text": word, "finish_reason": None} for word in words]
    choices.append({"index": 0, "text": "", "finish_reason": "stop"})
    return _streamed("text_completion", model, choices, usage, done, None)


def _streamed(
    kind: str,
    model: str,
    choices: Sequence[Mapping[str, Any]],
    usage: Mapping[str, Any] | None,
    done: bool,
    pause: Gate | None,
) -> Script:
    pieces: list[Piece] = [event(_object(kind, model, [choice])) for choice in choices]
    if pause is not None:
        pieces.insert(1, pause)
    if usage is not None:
        pieces.append(event(_object(kind, model, [], usage)))
    return stream(*pieces, *([DONE] if done else []))


def _object(
    kind: str, model: str, choices: Sequence[Mapping[str, Any]], usage: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    answer = {"id": "scripted-1", "object": kind, "created": 1_750_000_000, "model": model, "choices": choices}
    return answer if usage is None else answer | {"usage": usage}
