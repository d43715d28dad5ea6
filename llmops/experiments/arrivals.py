"""What became of the questions a replay asked: their interactions, read from the log they arrive in.

Both sides of a comparison are read from the same log, so that times, tokens and costs mean the same on both.
"""

import time
from collections.abc import Mapping

from llmops.interactions.logged import LoggedInteraction, Reader, Wanted

_LOOK_S = 0.2
#: The clock of the server may be behind.
_EARLIER_MS = 60_000


class Arrivals:
    """The interactions of a replay as they arrive in MLflow.

    Args:
        endpoint: Which is asked.
        since_ms: When the replay began.
    """

    def __init__(self, reader: Reader, endpoint: str, since_ms: int) -> None:
        self._reader = reader
        self._wanted = Wanted(endpoint=endpoint)
        self._since_ms = since_ms - _EARLIER_MS
        self._awaited: dict[str, float] = {}
        self._found: dict[str, LoggedInteraction] = {}

    @property
    def found(self) -> Mapping[str, LoggedInteraction]:
        """Those that arrived, by id."""
        return self._found

    @property
    def awaited(self) -> int:
        """How many are on their way."""
        return len(self._awaited)

    @property
    def oldest_s(self) -> float:
        """How long the one that was answered first is on its way; 0 where none is."""
        return time.monotonic() - min(self._awaited.values(), default=time.monotonic())

    def expect(self, interaction_id: str) -> None:
        """Look for this one from now on."""
        self._awaited[interaction_id] = time.monotonic()

    def look(self) -> None:
        """Read those that have arrived meanwhile.

        Raises:
            Unavailable: The tracking store is away.
        """
        if not self._awaited:
            return
        here = [one for one in self._reader.arrived(self._wanted, self._since_ms) if one in self._awaited]
        for one in self._reader.named(here):
            self._found[one.interaction_id] = one
            self._awaited.pop(one.interaction_id, None)

    def pause(self) -> None:
        """Wait a little for the next, and look."""
        time.sleep(_LOOK_S)
        self.look()

    def settle(self, patience_s: float) -> None:
        """Wait until all have arrived, or none has for so long."""
        self.look()
        news = time.monotonic()
        while self._awaited and time.monotonic() - news < patience_s:
            before = self.awaited
            self.pause()
            if self.awaited < before:
                news = time.monotonic()
