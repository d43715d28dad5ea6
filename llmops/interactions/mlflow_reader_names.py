"""The names people call an interaction by: its id, its run's or its trace's, or the beginning of one."""

import re
from collections.abc import Sequence

from llmops.errors import InvalidParameter, NotFound

_BEGINNING = re.compile(r"(?:tr-)?([0-9a-f]{4,32})")


def stem(name: str) -> str:
    """The hex digits an id begins with.

    Raises:
        NotFound: No id looks like this.
    """
    match = _BEGINNING.fullmatch(name.strip().lower())
    if match is None:
        raise unknown(name, ())
    return match[1]


def unknown(name: str, nearest: Sequence[str]) -> NotFound:
    """What is said when nothing has this name.

    Args:
        nearest: The id most like it, or none.
    """
    hint = f"the nearest id is {nearest[0]}" if nearest else "`llmops interactions flush` waits for those on their way"
    return NotFound(f"there is no interaction, run or trace '{name[:80]}' in MLflow; {hint}")


def ambiguous(name: str, ids: Sequence[str]) -> InvalidParameter:
    """What is said when several begin so."""
    return InvalidParameter(
        f"several interactions begin with '{name}': {', '.join(sorted(ids))}, …; say more of the id"
    )
