"""How a logged question that was asked again names the interaction it repeats, and where replays are compared.

A replay is asked in nobody's name. This is what leads from a person's interactions to the copies of them.
"""

import re

#: What the client_request_id of a replay begins with; MLflow keeps 50 characters of it on a trace.
PREFIX = "replay-"
#: Not one of an endpoint's: a comparison is no interaction.
EXPERIMENT = "llmops-replays"
_RUN_CHARS = 8
_ID = re.compile(rf"{PREFIX}.{{{_RUN_CHARS}}}-([0-9a-f]{{32}})", re.DOTALL)
#: Where the id of the repeated interaction begins.
ORIGINAL_AT = len(PREFIX) + _RUN_CHARS + 1


def request_id(run_id: str, interaction_id: str) -> str:
    """The client_request_id of a replay.

    Args:
        run_id: Of the comparison.
        interaction_id: Of what is asked again.
    """
    return f"{PREFIX}{run_id[:_RUN_CHARS]}-{interaction_id}"


def original(client_request_id: object) -> str | None:
    """The id of the interaction that a replay repeats; None where it is no replay's."""
    match = _ID.fullmatch(client_request_id) if isinstance(client_request_id, str) else None
    return match[1] if match else None
