"""What is taken out of a record before it is written down: words of people and models, or personal data in them."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from llmops.endpoints.log_policy import LogPolicy
from llmops.interactions.record import Interaction

logger = logging.getLogger(__name__)

#: Masks every string of a parsed JSON document, or one text; made by a guardrail, handed in by the application.
Mask = Callable[[Any], Any]


def redacted(interaction: Interaction, policy: LogPolicy, mask: Mask) -> Interaction:
    """What an endpoint's policy leaves of a record.

    If masking fails, nothing that should have been masked is kept: the record becomes metadata, and the log is loud.
    """
    kept = interaction if policy.log == "everything" else without_content(interaction)
    if not policy.mask:
        return kept
    try:
        return masked(kept, mask)
    except Exception as err:  # noqa: BLE001 - whatever it was, nothing unmasked may be kept
        # Its class only: its message may hold what it was to mask.
        logger.error("event=not_masked interaction_id=%s reason=%s", interaction.interaction_id, type(err).__name__)
        return replace(without_content(kept), usage_context={})


def without_content(interaction: Interaction) -> Interaction:
    """A record without a word of the caller or of the model.

    Messages of errors go too: what an upstream says often quotes what it was sent.
    """
    return replace(
        interaction,
        content="metadata",
        request="",
        response=None,
        message=None,
        params={},
        attempts=tuple(replace(attempt, message=None) for attempt in interaction.attempts),
        guardrails=(),
    )


def masked(interaction: Interaction, mask: Mask) -> Interaction:
    """A record whose texts are masked; what says whose it is (user, session, client_request_id) stays."""
    return replace(
        interaction,
        masked=True,
        request=_body(interaction.request, mask),
        response=None if interaction.response is None else _body(interaction.response, mask),
        message=mask(interaction.message),
        params=mask(interaction.params),
        usage_context=mask(interaction.usage_context),
        attempts=tuple(replace(attempt, message=mask(attempt.message)) for attempt in interaction.attempts),
        guardrails=tuple(mask(verdict) for verdict in interaction.guardrails),
    )


def _body(text: str, mask: Mask) -> str:
    try:
        document: Mapping[str, Any] = orjson.loads(text)
    except ValueError:
        return str(mask(text))
    # Always written anew: what a key that stands twice hides must not stay.
    return orjson.dumps(mask(document)).decode()
