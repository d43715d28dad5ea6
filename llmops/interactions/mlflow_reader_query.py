"""Which interactions are wanted, as a filter of MLflow's public API.

Such a filter compares a tag, a param or a metric of a run, joined by AND, and knows quotes but no escapes. What it
cannot say is looked for more widely, and what comes back must be looked at again.
"""

import re
from collections.abc import Iterator

from llmops.interactions.logged import ERROR, Wanted
from llmops.interactions.mlflow_entities import ID_TAG

_PLAIN = re.compile(r"[\w @.:/+\-=,#%]*")


def run_query(wanted: Wanted) -> str:
    """The filter of runs."""
    # A run that is RUNNING is still being written; one without the tag is not ours.
    parts = ["attributes.status != 'RUNNING'", f"tags.`{ID_TAG}` LIKE '%'", *_status_query(wanted)]
    parts += [f"tags.{key} {_equal(value)}" for key, value in wanted.tags().items()]
    parts += [f"params.{key} {_equal(value)}" for key, value in wanted.params().items()]
    parts += [f"metrics.{key} >= {least!r}" for key, least in wanted.metrics().items()]
    parts += [f"attributes.start_time {limit}" for limit in _times(wanted)]
    return " AND ".join(parts)


def _status_query(wanted: Wanted) -> Iterator[str]:
    if wanted.status_pattern is not None:
        yield f"tags.status LIKE '{wanted.status_pattern}'"
    if wanted.status == ERROR:
        yield "tags.outcome != 'answered'"


def _times(wanted: Wanted) -> Iterator[str]:
    if wanted.since_ms is not None:
        yield f">= {wanted.since_ms}"
    if wanted.until_ms is not None:
        yield f"< {wanted.until_ms}"


def _equal(value: str) -> str:
    """A comparison with a value; with one a filter cannot hold, a pattern that it fits."""
    if _PLAIN.fullmatch(value):
        return f"= '{value}'"
    return "LIKE '" + "".join(char if _PLAIN.fullmatch(char) else "%" for char in value) + "'"
