"""What somebody thinks of one answer, as it travels from the door to the trace of that answer.

It may arrive before the trace: it waits in a spool of its own until the trace is there.
"""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import orjson

from llmops.errors import InvalidParameter
from llmops.interactions.record import new_id

#: The name of an assessment that was given none, and what MLflow's own examples call it.
DEFAULT_NAME = "user_feedback"
_FIELDS = ("interaction_id", "name", "value", "rationale", "user")
_ID = re.compile(r"(?:tr-)?([0-9a-f]{32})")
_NAME_CHARS, _TEXT_CHARS, _USER_CHARS = 250, 8000, 250
#: A clock that runs ahead of ours by more than this is wrong.
_CLOCK_SKEW_MS = 60_000


@dataclass(frozen=True, slots=True)
class Feedback:
    """One opinion about one interaction.

    Attributes:
        feedback_id: UUIDv7, 32 hex digits, made by the server.
        interaction_id: The interaction it is about.
        value: A yes or no, a score, or a comment.
        rationale: Why; None where nobody said.
        user: Whose opinion; None where nobody said.
        endpoints: Whose answer it may be; None: anybody's. Another's is not judged: who gave this may not query that.
    """

    feedback_id: str
    interaction_id: str
    name: str
    value: bool | int | float | str
    rationale: str | None
    user: str | None
    created_ms: int
    endpoints: tuple[str, ...] | None = None

    @property
    def trace_id(self) -> str:
        """The MLflow trace it becomes an assessment of."""
        return f"tr-{self.interaction_id}"

    @property
    def asked_ms(self) -> int:
        """When the interaction was received, in epoch milliseconds: its id begins with it."""
        return int(self.interaction_id[:12], 16)

    @classmethod
    def read(cls, body: Mapping[str, Any], user: str | None = None) -> Self:
        """Read the body of a feedback request.

        Args:
            body: ``interaction_id`` (or the trace's id), ``value``, and perhaps ``name``, ``rationale`` and ``user``.
            user: Owner of the caller's token; wins over the body's ``user``.

        Raises:
            InvalidParameter: A field is missing, wrong, or unknown.
        """
        strangers = sorted(set(body) - set(_FIELDS))
        if strangers:
            raise InvalidParameter(f"'{strangers[0][:60]}' is not a field of feedback; there are {', '.join(_FIELDS)}")
        value = body.get("value")
        if isinstance(value, str):
            value = _text(body, "value", _TEXT_CHARS)
        if not isinstance(value, bool | int | float | str) or (isinstance(value, float) and not math.isfinite(value)):
            raise InvalidParameter("'value' must be true, false, a number, or a text that is not empty")
        feedback = cls(
            feedback_id=new_id(),
            interaction_id=_interaction_id(body.get("interaction_id")),
            name=_text(body, "name", _NAME_CHARS) or DEFAULT_NAME,
            value=value,
            rationale=_text(body, "rationale", _TEXT_CHARS),
            user=user or _text(body, "user", _USER_CHARS),
            created_ms=time.time_ns() // 1_000_000,
        )
        if feedback.asked_ms > feedback.created_ms + _CLOCK_SKEW_MS:
            raise InvalidParameter("'interaction_id' is of a time that has not come; it is none of this server's")
        return feedback

    def encode(self) -> bytes:
        """Write the record as JSON."""
        return orjson.dumps(self)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote.

        Raises:
            ValueError: Not JSON, or a field is missing.
        """
        try:
            fields = orjson.loads(data)
            named = fields.get("endpoints")
            return cls(**{**fields, "endpoints": None if named is None else tuple(named)})
        except (TypeError, AttributeError) as err:
            raise ValueError(f"not a feedback record: {err}") from err


def _interaction_id(given: object) -> str:
    match = _ID.fullmatch(given) if isinstance(given, str) else None
    if match is None:
        raise InvalidParameter("'interaction_id' must be an answer's x-request-id: 32 hex digits, or 'tr-' and them")
    return match[1]


def _text(body: Mapping[str, Any], field: str, most_chars: int) -> str | None:
    given = body.get(field)
    if given is None:
        return None
    if not isinstance(given, str) or not given.strip() or len(given) > most_chars:
        raise InvalidParameter(f"'{field}' must be a text of 1 to {most_chars} characters")
    return given
