"""What deleting logged interactions from MLflow offers, however the tracking store has to be talked to."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Protocol, Self


@dataclass(frozen=True, slots=True)
class Removed:
    """How much was deleted from MLflow, or would be.

    Attributes:
        sessions: Runs of chat sessions that no interaction belongs to any more.
        assessments: Given by the person on other people's traces.
        artifacts: Runs whose files were deleted.
        copies: Records of evaluation datasets that were made from a person's traces.
        comparisons: Runs of replays that quote a person's interactions, with their files.
    """

    runs: int = 0
    traces: int = 0
    sessions: int = 0
    assessments: int = 0
    artifacts: int = 0
    copies: int = 0
    comparisons: int = 0

    def __add__(self, other: Self) -> Self:
        sums = {one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)}
        return type(self)(**sums)

    @property
    def interactions(self) -> int:
        """Each is a run, a trace, or both."""
        return max(self.runs, self.traces)


class Deletion(Protocol):
    """A way to delete interactions. Each step of an iterator is a whole piece of work; stopping between two is safe.

    Attributes:
        marks_only: Whether runs are only marked as deleted, until `mlflow gc` removes them.
        secure: Set it to have the bytes of what is deleted overwritten, where the database can.

    Every method, and each step, may raise `Unavailable`: the tracking store is away, or refuses.
    """

    marks_only: bool
    secure: bool

    def experiments(self) -> Mapping[str, str]:
        """The ids of our experiments by endpoint; ``_rejected`` and those of endpoints that are gone among them."""
        ...

    def count_before(self, experiment_id: str, before_ms: int, endpoint: str | None = None) -> Removed:
        """Count what `before` would delete; sessions are not counted."""
        ...

    def before(self, experiment_id: str, before_ms: int, endpoint: str | None = None) -> Iterator[Removed]:
        """Delete the interactions of an experiment received before an epoch millisecond, oldest first.

        Args:
            endpoint: Only calls of this name, where several share the experiment.

        Runs and traces that are no interaction of ours stay. Runs of sessions that began before and have no interaction
        left go too.
        """
        ...

    def ids_of(self, user: str) -> set[str]:
        """The ids of a person's interactions; the name must match exactly."""
        ...

    def count_of_user(self, user: str, ids: Collection[str] = ()) -> Removed:
        """Count what `of_user` would delete."""
        ...

    def of_user(self, user: str, ids: Collection[str] = ()) -> Iterator[Removed]:
        """Delete a person's interactions and assessments from all experiments of ours; the name must match exactly.

        With them go what was made of them: the interactions that repeat them (`llmops replay`), whole comparisons that
        quote one or were made of this person's alone, and records of evaluation datasets. The run of a session that
        others took part in stays, and no longer names this person.

        Args:
            ids: Of more interactions of theirs, which may be gone: what was made of those goes, too.
        """
        ...
