"""A logged interaction as a question that can be asked again: what was asked and how, not by whom, when and where."""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import orjson

from llmops.errors import BadRequest
from llmops.interactions.logged import LoggedInteraction, Reader, Story, Wanted
from llmops.protocol import chat, completions
from llmops.protocol.task import Task, check, detect
from llmops.protocol.wires import WIRES

#: What a body says of its caller, its place and its way: a question has none of it.
_WHO = frozenset({"user", "safety_identifier", "prompt_cache_key", "client_request_id", "usage_context"})
_WHERE = frozenset({"model", "databricks_options"})
_OURS = frozenset({"client_request_id", "usage_context", "databricks_options", "extra_params"})
_HOW = frozenset({"stream", "stream_options"})
_PAGE = 200


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked.

    Attributes:
        body: The field of the task, and parameters.
        answer: The text of the whole answer, tool calls as JSON, vectors as JSON; None where there was no whole one.
    """

    interaction: LoggedInteraction
    task: Task
    body: Mapping[str, Any]
    answer: str | None

    @property
    def prompt(self) -> str:
        """What was asked last, as text."""
        if self.task is Task.CHAT:
            return chat.last_user_text(self.body) or chat.prompt_text(self.body)
        return completions.prompt_text(self.body) or self.interaction.prompt


@dataclass(frozen=True, slots=True)
class Unfit:
    """An interaction that cannot be asked again.

    Attributes:
        reason: In words that fit many of them.
    """

    reason: str


def question(story: Story) -> Question | Unfit:
    """Read the question of a story."""
    if story.request in (None, ""):
        return Unfit("the request was not logged (log: metadata)")
    if not isinstance(story.request, dict):
        return Unfit("the request is not a JSON object")
    wire = WIRES.get(story.wire)
    try:
        body = _asked(story.request if wire is None else wire.translate(_told(story.request)).chat)
        task = Task(story.interaction.task) if story.interaction.task in tuple(Task) else detect(body)
        check(task, body)
    except BadRequest:
        return Unfit("the request has no messages, prompt or input")
    whole = story.interaction.outcome == "answered" and isinstance(story.response, dict)
    if isinstance(story.response, dict) and whole and wire is not None:
        said = wire.answer_text(story.response) or _as_text(wire.calls(story.response))
        return Question(story.interaction, task, body, said)
    return Question(story.interaction, task, body, answer(task, story.response) if whole else None)


def answer(task: Task, response: Any) -> str:
    """What was answered, as text."""
    if task is Task.EMBEDDINGS:
        rows = response.get("data") or ()
        return orjson.dumps([row.get("embedding") for row in rows if isinstance(row, dict)]).decode()
    if task is Task.COMPLETIONS:
        return completions.answer_text(response)
    return chat.answer_text(response) or _tool_calls(response)


def newest(reader: Reader, wanted: Sequence[Wanted], limit: int, now_ms: int) -> Iterator[LoggedInteraction]:
    """Read interactions page by page, newest first.

    Args:
        wanted: Each once; an interaction that several of them choose comes several times.
        now_ms: What is received later is left out, so that pages do not move.
    """
    pages = (_paged(reader, replace(one, until_ms=min(one.until_ms or now_ms, now_ms)), limit) for one in wanted)
    return islice(heapq.merge(*pages, key=lambda one: -one.received_ms), limit)


def _paged(reader: Reader, wanted: Wanted, limit: int) -> Iterator[LoggedInteraction]:
    token: str | None = None
    while True:
        page = reader.page(wanted, min(_PAGE, limit), token)
        yield from page.interactions
        token = page.token
        if token is None:
            return


def _asked(request: Mapping[str, Any]) -> dict[str, Any]:
    # As the server reads it: what is in extra_params counts as if it stood beside.
    extra = request.get("extra_params")
    whole = {**request, **(extra if isinstance(extra, dict) else {})}
    body = {key: value for key, value in whole.items() if key not in _WHO | _WHERE | _HOW | {"extra_params"}}
    metadata = body.get("metadata")
    if isinstance(metadata, dict):
        # It would put the question into the caller's session.
        kept = {key: value for key, value in metadata.items() if key != "session_id"}
        body = {**body, "metadata": kept} if kept else {key: body[key] for key in body if key != "metadata"}
    return body


def _told(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request as its translation takes it: without the fields that are ours on every wire."""
    extra = request.get("extra_params")
    whole = {**request, **(extra if isinstance(extra, dict) else {})}
    return {key: value for key, value in whole.items() if key not in _OURS}


def _as_text(calls: Sequence[Mapping[str, str]]) -> str:
    return orjson.dumps(calls).decode() if calls else ""


def _tool_calls(response: Mapping[str, Any]) -> str:
    """The calls of the first choice, without their ids, which are new each time; empty where there is none."""
    choices = response.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = first.get("message")
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    if not isinstance(calls, list) or not calls:
        return ""
    return orjson.dumps([call.get("function") for call in calls if isinstance(call, dict)]).decode()
