"""How old interactions may get: what endpoints say, what those said that are gone, or what whoever asks says."""

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from llmops.endpoints.former import Former
from llmops.endpoints.store import Store, StoredEndpoint
from llmops.errors import NotFound
from llmops.interactions.table_place import ENDPOINT_USAGE, has_workspace, readable
from llmops.settings import Settings

_MS_PER_DAY = 86_400_000


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
        nobodys_ms: The same for dead letters that name no endpoint; None keeps them.
        all_ms: The same for all dead letters; None where each endpoint has its own limit.
    """

    before_ms: Mapping[str, int] = field(default_factory=dict)
    tables: Sequence[TableLimit] = ()
    nobodys_ms: int | None = None
    all_ms: int | None = None

    def dead_before_ms(self, endpoint: str | None) -> int | None:
        """Before when a dead letter of an endpoint is too old; None where it is kept."""
        if self.all_ms is not None:
            return self.all_ms
        return self.nobodys_ms if endpoint is None else self.before_ms.get(endpoint)


def kept(settings: Settings, endpoint: str | None = None) -> Limits:
    """What is too old at this moment by what endpoints say, of one or of all; by what they last said, if deleted."""
    if not settings.data_dir.exists():
        return Limits()
    with closing(Store(settings.store_path, settings.database_url)) as store:
        endpoints, former = store.all(), store.former()
    days = {one.name: one.retention_days for one in former}
    days |= {one.name: (one.document.get("llmops") or {}).get("retention_days") for one in endpoints}
    now_ms = _now_ms()
    before_ms = {name: now_ms - many * _MS_PER_DAY for name, many in days.items() if many and endpoint in (None, name)}
    # What names no endpoint may be anybody's: the shortest retention holds.
    nobodys_ms = max(before_ms.values(), default=None) if endpoint is None else None
    return Limits(before_ms, _tables(settings, endpoints, former, before_ms), nobodys_ms)


def older_than(
    settings: Settings,
    age_ms: int,
    experiments: Collection[str],
    tables: Sequence[str],
    endpoint: str | None = None,
) -> Limits:
    """What is older than this, whatever endpoints say.

    Args:
        experiments: See `Deletion.experiments`; what is looked at where no endpoint is named.
        tables: Full names of the inference tables; the same.

    Raises:
        NotFound: Nothing was ever logged for the endpoint.
    """
    before_ms = _now_ms() - age_ms
    if endpoint is None:
        old = [TableLimit(name, before_ms) for name in tables]
        return Limits(dict.fromkeys(experiments, before_ms), old, all_ms=before_ms)
    if endpoint not in experiments:
        raise NotFound(f"nothing was ever logged for '{endpoint}' here")
    with closing(Store(settings.store_path, settings.database_url)) as store:
        limit = {endpoint: before_ms}
        return Limits(limit, _tables(settings, store.all(), store.former(), limit))


def _tables(
    settings: Settings, endpoints: Sequence[StoredEndpoint], former: Sequence[Former], before_ms: Mapping[str, int]
) -> list[TableLimit]:
    """The limits of the tables that endpoints write to, and of those they have written to."""
    writers: dict[str, set[str]] = {}
    for one in endpoints:
        spec = readable(one)
        if spec is not None and spec.log_policy.payload_table:
            writers.setdefault(spec.log_policy.payload_table, set()).add(one.name)
    for past in former:
        for table in past.tables:
            writers.setdefault(table, set()).add(past.name)
    found = []
    for table, names in writers.items():
        limits = {name: before_ms[name] for name in sorted(names) if name in before_ms}
        if len(names) > 1:
            found += [TableLimit(table, before, name) for name, before in limits.items()]
        if limits.keys() == names:
            # Also what reached no served entity, of which no row tells whose it is.
            found.append(TableLimit(table, min(limits.values())))
    if has_workspace(settings):
        # Whether or not usage is tracked now: it may have been.
        found += [TableLimit(str(ENDPOINT_USAGE), before, name) for name, before in before_ms.items()]
    return found


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
