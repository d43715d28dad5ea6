"""Deletes interactions that are older than their endpoints say: retention.

An endpoint's document says it: ``llmops: {retention_days: 90}``. Whoever runs this may be killed at any moment, and
others write meanwhile: a chunk is deleted at a time, whole, with a pause after it.
"""

import importlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Protocol, cast

from llmops.endpoints.store import Store, StoredEndpoint
from llmops.errors import LlmopsError, NotFound
from llmops.interactions.deletion import Deletion, Removed
from llmops.interactions.mlflow_deletion import open_deletion
from llmops.interactions.table_place import ENDPOINT_USAGE, readable
from llmops.settings import Settings

logger = logging.getLogger(__name__)

_MS_PER_DAY = 86_400_000
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

    def tables(self, settings: Settings) -> list[str]: ...

    def delete_before(self, settings: Settings, table: str, before_ms: int, *, endpoint: str | None = None) -> int: ...


@dataclass(frozen=True, slots=True)
class TableLimit:
    """What is too old in one inference table.

    Attributes:
        name: Full name: ``catalog.schema.table``.
        endpoint: Only rows of this one, where several share the table; None: all rows.
    """

    name: str
    before_ms: int
    endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What is too old.

    Attributes:
        before_ms: By endpoint: interactions received before this epoch millisecond.
    """

    before_ms: Mapping[str, int] = field(default_factory=dict)
    tables: Sequence[TableLimit] = ()


@dataclass(slots=True)
class Pruned:
    """What was deleted.

    Attributes:
        endpoints: From MLflow, by endpoint.
        rows: Of inference tables, by table.
        finished: False where the time was not enough; what is left is deleted by the next prune.
    """

    endpoints: dict[str, Removed] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    finished: bool = True


def kept(settings: Settings, endpoint: str | None = None) -> Limits:
    """What is too old at this moment by what endpoints say, of one or of all."""
    if not settings.data_dir.exists():
        return Limits()
    with closing(Store(settings.store_path, settings.database_url)) as store:
        endpoints = store.all()
    days = {one.name: (one.document.get("llmops") or {}).get("retention_days") for one in endpoints}
    now_ms = _now_ms()
    before_ms = {name: now_ms - many * _MS_PER_DAY for name, many in days.items() if many and endpoint in (None, name)}
    return Limits(before_ms, _tables(endpoints, before_ms))


def older_than(settings: Settings, age_ms: int, experiments: Collection[str], endpoint: str | None = None) -> Limits:
    """What is older than this, whatever endpoints say.

    Args:
        experiments: See `Deletion.experiments`; what is looked at where no endpoint is named.

    Raises:
        NotFound: Nothing was ever logged for the endpoint.
        Unavailable: The inference tables cannot be listed.
    """
    before_ms = _now_ms() - age_ms
    if endpoint is None:
        return Limits(
            dict.fromkeys(experiments, before_ms),
            [TableLimit(name, before_ms) for name in _deletion().tables(settings)],
        )
    if endpoint not in experiments:
        raise NotFound(f"nothing was ever logged for '{endpoint}' here")
    with closing(Store(settings.store_path, settings.database_url)) as store:
        return Limits({endpoint: before_ms}, _tables(store.all(), {endpoint: before_ms}))


def count(deletion: Deletion, limits: Limits) -> dict[str, Removed]:
    """Count what `prune` would delete from MLflow, by endpoint; endpoints with nothing logged are left out.

    Raises:
        Unavailable: The tracking store is away.
    """
    ids = deletion.experiments()
    return {name: deletion.count_before(ids[name], before) for name, before in limits.before_ms.items() if name in ids}


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
    """
    deadline_s = time.monotonic() + budget_s
    pruned = Pruned()
    ids = deletion.experiments()
    for name in sorted(limits.before_ms.keys() & ids.keys()):
        for removed in deletion.before(ids[name], limits.before_ms[name]):
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
            rows, finished = sum(pruned.rows.values()), pruned.finished
            logger.info("event=pruned interactions=%d table_rows=%d finished=%s", interactions, rows, finished)


def _tables(endpoints: Sequence[StoredEndpoint], before_ms: Mapping[str, int]) -> list[TableLimit]:
    """The limits of the tables that endpoints write to now."""
    policies = {one.name: spec.log_policy for one in endpoints if (spec := readable(one)) is not None}
    writers = Counter(policy.payload_table for policy in policies.values())
    found = []
    for name, policy in policies.items():
        if name in before_ms and policy.payload_table:
            shared = writers[policy.payload_table] > 1
            found.append(TableLimit(policy.payload_table, before_ms[name], name if shared else None))
        if name in before_ms and policy.usage_tracked:
            found.append(TableLimit(str(ENDPOINT_USAGE), before_ms[name], name))
    return found


def _deletion() -> _TableDeletion:
    # Not at the top: a shipper without inference tables would pay for delta-rs and Arrow.
    return cast(_TableDeletion, importlib.import_module("llmops.interactions.table_deletion"))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


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
