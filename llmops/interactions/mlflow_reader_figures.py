"""Figures over interactions, summed up by the database that holds MLflow's tables.

Three statements for any number of interactions. Percentiles are picked by the place of a value among its group's, which
every database can number; only those few rows are read.
"""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from llmops.interactions.logged_stats import PERCENTS, EndpointStats, Period, latencies, rank
from llmops.interactions.mlflow_reader_choice import METRICS, RUNS, TAGS, Condition

#: The id of an experiment, and the number of a period where figures are by period.
Group = tuple[int, ...]
Columns = list[sa.ColumnElement[int]]


def figures(
    connection: sa.Connection, chosen: Condition, names: Mapping[int, str], period: Period | None
) -> tuple[EndpointStats, ...]:
    """Sum up the chosen runs.

    Args:
        connection: In a transaction that sees one state of the database.
        names: The endpoint of each experiment.
    """
    columns = _columns(period)
    latency = _percentiles(connection, chosen, "latency_ms", columns)
    first = _percentiles(connection, chosen, "time_to_first_token_ms", columns)
    found = []
    for row in connection.execute(_sums(chosen, columns)):
        group = tuple(row[: len(columns)])
        one = EndpointStats(
            endpoint=names[group[0]],
            period=period.start(group[1]) if period else None,
            requests=row.requests,
            errors=row.errors,
            latency_ms=latencies(latency.get(group, {})),
            first_token_ms=first.get(group, {}).get(50),
            input_tokens=int(row.input_tokens or 0),
            output_tokens=int(row.output_tokens or 0),
            cost_usd=float(row.cost_usd or 0.0),
            unpriced=row.unpriced,
        )
        found.append(one)
    return tuple(sorted(found, key=lambda one: (one.endpoint, one.period or "")))


def _columns(period: Period | None) -> Columns:
    """What interactions are grouped by."""
    columns: Columns = [RUNS.c.experiment_id]
    if period is not None:
        # Literals: where the numbers come apart from the statement, PostgreSQL cannot see that what is selected is
        # what is grouped by.
        offset, length = (sa.literal_column(str(ms), sa.BigInteger) for ms in (period.offset_ms, period.length_ms))
        columns.append((RUNS.c.start_time + offset) // length)
    return columns


def _sums(chosen: Condition, columns: Columns) -> sa.Select[Any]:
    metrics = {key: METRICS.alias(key) for key in ("input_tokens", "output_tokens", "cost_usd")}
    source = RUNS.join(TAGS, (TAGS.c.run_uuid == RUNS.c.run_uuid) & (TAGS.c.key == "outcome"))
    for key, table in metrics.items():
        source = source.outerjoin(table, (table.c.run_uuid == RUNS.c.run_uuid) & (table.c.key == key))
    unpriced = metrics["cost_usd"].c.value.is_(None) & metrics["input_tokens"].c.value.is_not(None)
    sums: tuple[sa.ColumnElement[Any], ...] = (
        sa.func.count().label("requests"),
        sa.func.sum(sa.case((TAGS.c.value != "answered", 1), else_=0)).label("errors"),
        *(sa.func.sum(table.c.value).label(key) for key, table in metrics.items()),
        sa.func.sum(sa.case((unpriced, 1), else_=0)).label("unpriced"),
    )
    every: list[sa.ColumnElement[Any]] = [*columns, *sums]
    return sa.select(*every).select_from(source).where(chosen).group_by(*columns)


def _percentiles(
    connection: sa.Connection, chosen: Condition, metric: str, columns: Columns
) -> dict[Group, dict[int, float]]:
    """The percentiles of a metric, by percent, for each group that has the metric."""
    group = [column.label(f"group_{index}") for index, column in enumerate(columns)]
    place = sa.func.row_number().over(partition_by=columns, order_by=METRICS.c.value).label("place")
    total = sa.func.count().over(partition_by=columns).label("total")
    source = RUNS.join(METRICS, METRICS.c.run_uuid == RUNS.c.run_uuid)
    ranked = sa.select(*group, METRICS.c.value.label("measured"), place, total).select_from(source)
    ranked_rows = ranked.where(METRICS.c.key == metric, chosen).subquery()
    places = [(ranked_rows.c.total * percent + 99) // 100 for percent in PERCENTS]
    found: dict[Group, dict[int, float]] = {}
    for row in connection.execute(sa.select(ranked_rows).where(ranked_rows.c.place.in_(places))):
        percents = {percent: row.measured for percent in PERCENTS if rank(row.total, percent) == row.place}
        found.setdefault(tuple(row[: len(columns)]), {}).update(percents)
    return found
