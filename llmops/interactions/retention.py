"""Deletes interactions that are older than their endpoints say: retention.

An endpoint's document says it: ``llmops: {retention_days: 90}``. Whoever runs this may be killed at any moment, and
others write meanwhile: a chunk is deleted at a time, whole, with a pause after it.
"""

import importlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, cast

from llmops.errors import LlmopsError
from llmops.interactions.deletion import Deletion, Removed
from llmops.interactions.mlflow_deletion import open_deletion
from llmops.interactions.mlflow_entities import REJECTED
from llmops.interactions.retention_limits import Limits, kept
from llmops.interactions.spool_deletion import dead_before
from llmops.settings import Settings

logger = logging.getLogger(__name__)

#: After each chunk: whoever waits for SQLite's lock asks for it every tenth of a second.
_PAUSE_S = 0.12
#: When to look again: after all was looked at, where time was not enough, and where something is away.
_DONE_S, _MORE_S, _AWAY_S = 3600.0, 10.0, 300.0
#: How often a thread asks whether something is due.
_TICK_S = 5.0
_DUE = "prune-due"

Progress = Callable[[str, Removed], None]


class _TableDeletion(Protocol):
    """What is used of `llmops.interactions.table_deletion`."""

    def delete_before(self, settings: Settings, table: str, before_ms: int, *, endpoint: str | None = None) -> int: ...


@dataclass(slots=True)
class Pruned:
    """What was deleted.

    Attributes:
        endpoints: From MLflow, by endpoint; calls that reached it and could not be read among them.
        dead: Dead letters.
        rows: Of inference tables, by table.
        finished: False where the time was not enough; what is left is deleted by the next prune.
    """

    endpoints: dict[str, Removed] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    dead: int = 0
    finished: bool = True


def count(settings: Settings, deletion: Deletion, limits: Limits) -> Pruned:
    """Count what `prune` would delete; rows of tables are not counted.

    Raises:
        Unavailable: The tracking store is away.
        SpoolError: A spool cannot be read.
    """
    pruned = Pruned(dead=_dead(settings, limits, delete=False))
    for name, place in _places(deletion.experiments(), limits):
        found = deletion.count_before(place.experiment_id, limits.before_ms[name], place.endpoint)
        pruned.endpoints[name] = pruned.endpoints.get(name, Removed()) + found
    return pruned


def prune(
    settings: Settings,
    deletion: Deletion,
    limits: Limits,
    *,
    progress: Progress = lambda _endpoint, _removed: None,
    budget_s: float = float("inf"),
) -> Pruned:
    """Delete what is too old.

    Args:
        progress: Told what each chunk deleted.
        budget_s: Begins nothing more after so long.

    Raises:
        Unavailable, Conflict: MLflow or a table is away; what was deleted before stays deleted.
        SpoolError: A spool cannot be read or written.
    """
    deadline_s = time.monotonic() + budget_s
    pruned = Pruned(dead=_dead(settings, limits, delete=True))
    for name, place in _places(deletion.experiments(), limits):
        for removed in deletion.before(place.experiment_id, limits.before_ms[name], place.endpoint):
            pruned.endpoints[name] = pruned.endpoints.get(name, Removed()) + removed
            progress(name, removed)
            if time.monotonic() > deadline_s:
                pruned.finished = False
                return pruned
            time.sleep(_PAUSE_S)
    for table in limits.tables:
        if time.monotonic() > deadline_s:
            pruned.finished = False
            return pruned
        rows = _deletion().delete_before(settings, table.name, table.before_ms, endpoint=table.endpoint)
        pruned.rows[table.name] = pruned.rows.get(table.name, 0) + rows
    return pruned


def prune_due(settings: Settings, budget_s: float = 5.0) -> Pruned | None:
    """Prune what endpoints say is too old, about once an hour; for the shipper, which may call it every second.

    Costs one small file's read when nothing is due. What is due is deleted for at most about ``budget_s``, and goes
    on with a call ten seconds later.

    Returns:
        What was deleted; None where nothing is due.

    Raises:
        Unavailable, Conflict: MLflow or a table is away; it is tried again in five minutes.
    """
    if time.time() < _due_s(settings):
        return None
    # First of all: whatever happens from here on, it does not happen again in a moment.
    _look_again(settings, _AWAY_S)
    limits = kept(settings)
    pruned = prune(settings, open_deletion(settings), limits, budget_s=budget_s) if limits.before_ms else None
    _look_again(settings, _DONE_S if pruned is None or pruned.finished else _MORE_S)
    return pruned


def keep_pruning(settings: Settings, stop: threading.Event) -> None:
    """Prune what is due until ``stop`` is set; for a thread of the shipper. Logs what it does, and never raises."""
    while not stop.wait(_TICK_S):
        try:
            pruned = prune_due(settings)
        except Exception as err:  # noqa: BLE001 - the outer wall of a thread; shipping must go on.
            reason = err.message if isinstance(err, LlmopsError) else type(err).__name__
            logger.warning("event=prune_failed reason=%r", reason)
            continue
        if pruned is not None:
            interactions = sum(one.interactions for one in pruned.endpoints.values())
            rows, dead, finished = sum(pruned.rows.values()), pruned.dead, pruned.finished
            told = "event=pruned interactions=%d table_rows=%d dead_letters=%d finished=%s"
            logger.info(told, interactions, rows, dead, finished)


class _Place(NamedTuple):
    """Where interactions of an endpoint are in MLflow; the endpoint is named where it shares the experiment."""

    experiment_id: str
    endpoint: str | None


def _places(experiments: Mapping[str, str], limits: Limits) -> Iterator[tuple[str, _Place]]:
    for name in sorted(limits.before_ms):
        if name in experiments:
            yield name, _Place(experiments[name], None)
        # Calls that reached it and could not be read are with those that reached none.
        if REJECTED in experiments and REJECTED not in limits.before_ms:
            yield name, _Place(experiments[REJECTED], name)


def _dead(settings: Settings, limits: Limits, *, delete: bool) -> int:
    return sum(
        dead_before(folder, limits.dead_before_ms, delete=delete, pause=lambda: time.sleep(_PAUSE_S))
        for folder in (settings.spool_dir, settings.feedback_dir)
    )


def _deletion() -> _TableDeletion:
    # Not at the top: a shipper without inference tables would pay for delta-rs and Arrow.
    return cast(_TableDeletion, importlib.import_module("llmops.interactions.table_deletion"))


def _due_s(settings: Settings) -> float:
    """When to look for old interactions, in epoch seconds; a clock that was set back does not put it off for long."""
    try:
        due_s = float((settings.data_dir / _DUE).read_text())
    except (OSError, ValueError):
        return 0.0
    return due_s if due_s <= time.time() + _DONE_S else 0.0


def _look_again(settings: Settings, after_s: float) -> None:
    fresh = settings.data_dir / f".{_DUE}"
    fresh.write_text(str(time.time() + after_s))
    fresh.replace(settings.data_dir / _DUE)
