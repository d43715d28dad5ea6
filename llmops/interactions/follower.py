"""Follows the log: gives every interaction once, when it has arrived in MLflow.

MLflow tells nobody what is new, and an interaction may arrive long after it was received: its spool waited for MLflow
to come back. So the ids of the last hour are read again and again, those of the last minute more often, and what was
not there before is new.
"""

import time

from llmops.interactions.logged import LoggedInteraction, Reader, Wanted

_RECENT_MS, _LATE_MS = 60_000, 3_600_000
_EVERY_S, _LATE_EVERY_S = 1.0, 10.0
#: Reading may keep the store busy for a twentieth of the time.
_REST = 19


class Follower:
    """Interactions as they arrive; what has arrived before it was made is old.

    Args:
        late_ms: An interaction that arrives so long after it was received is still seen.

    Attributes:
        pause_s: How long to wait before the next `news`.
    """

    def __init__(self, reader: Reader, wanted: Wanted, late_ms: int = _LATE_MS) -> None:
        self._reader = reader
        self._wanted = wanted
        self._late_ms = late_ms
        self._known: set[str] = set()
        self._look_back_at = 0.0
        self.pause_s = _EVERY_S
        self._known.update(self._new_ids())

    def skip(self, interactions: tuple[LoggedInteraction, ...]) -> None:
        """Take these for old."""
        self._known.update(one.interaction_id for one in interactions)

    def look_back(self) -> None:
        """Look for late ones with the next `news`, which otherwise does so every ten seconds."""
        self._look_back_at = 0.0

    def news(self) -> list[LoggedInteraction]:
        """What has arrived since the last call; in the order it was received.

        Raises:
            Unavailable: MLflow is away; what arrives meanwhile comes with a later call.
        """
        ids = self._new_ids()
        found = self._reader.named(ids) if ids else []
        self._known.update(ids)
        return found

    def _new_ids(self) -> list[str]:
        began = time.monotonic()
        now_ms = time.time_ns() // 1_000_000
        late = began >= self._look_back_at
        ids = self._reader.arrived(self._wanted, now_ms - (self._late_ms if late else _RECENT_MS))
        took_s = time.monotonic() - began
        self.pause_s = max(_EVERY_S, took_s * _REST)
        if late:
            self._look_back_at = began + max(_LATE_EVERY_S, took_s * _REST)
            # An id begins with the milliseconds it was made at: the oldest will not be asked for again.
            oldest = f"{max(now_ms - 2 * self._late_ms, 0):012x}"
            self._known.difference_update([one for one in self._known if one < oldest])
        return [one for one in ids if one not in self._known]
