"""A sink in memory that does what the test says with each record."""

import time
from collections.abc import Callable, Sequence

from llmops.errors import Unavailable
from llmops.interactions.consumer import Route
from llmops.interactions.record import Interaction
from llmops.interactions.sink import Delivered, Outcome
from llmops.interactions.spool import Leased
from llmops.settings import Settings


class Scripted:
    """Holds what it was given.

    Attributes:
        away: What it says instead of taking anything; None while it is there.
        seen: (spool_id, seq) of every record it was given, in order.
    """

    def __init__(self, name: str = "mlflow", batch: int = 8, linger_s: float = 0.0) -> None:
        self.name, self.batch, self.linger_s = name, batch, linger_s
        self.held: list[Interaction] = []
        self.tries: list[int] = []
        self.seen: list[tuple[str, int]] = []
        self.away: str | None = None
        self.retry_after_s = 2
        self.verdict: Callable[[Interaction], Outcome] = lambda interaction: Delivered()

    def open(self) -> None:
        """Ready, unless it is away."""
        if self.away:
            raise Unavailable(self.away, retry_after_s=self.retry_after_s)

    def deliver(self, batch: Sequence[Leased[Interaction]]) -> list[Outcome]:
        """Give each record its verdict."""
        self.open()
        self.tries += [one.tries for one in batch]
        self.seen += [(one.spool_id, one.seq) for one in batch]
        outcomes = [self.verdict(one.record) for one in batch]
        pairs = zip(batch, outcomes, strict=True)
        self.held += [one.record for one, outcome in pairs if isinstance(outcome, Delivered)]
        return outcomes

    @property
    def held_ids(self) -> list[str]:
        """The ids of what it holds, sorted."""
        return sorted(interaction.interaction_id for interaction in self.held)


def route(settings: Settings, *sinks: Scripted) -> Route[Interaction]:
    """Interactions on their way to these sinks."""
    return Route(settings.spool_dir, Interaction.decode, lambda one: one, sinks)


def until(condition: Callable[[], bool], limit_s: float = 30) -> None:
    """Ask until a condition of another thread or process holds; it has no event to wait for."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come to pass")
        time.sleep(0.01)
