"""Removes everything that was logged of one person: from spools, MLflow, and the inference tables.

A record travels: worker, spool, shipper, sinks. So places are emptied in that order, and looked at again until nothing
is found twice; a record that a running shipper holds in its hands is waited for, since nobody could take it back.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from llmops.interactions.damage import damaged_files
from llmops.interactions.deletion import Deletion, Removed
from llmops.interactions.erasure import erase_free_space
from llmops.interactions.mlflow_deletion import open_deletion
from llmops.interactions.shipper_lock import alone
from llmops.interactions.spool import spools
from llmops.interactions.spool_deletion import Spooled, count_spooled, delete_spooled
from llmops.interactions.table_deletion import count_user, delete_user
from llmops.settings import Settings

#: Between two looks while a shipper runs, and how long a record is waited for that it is about to deliver.
_LOOK_EVERY_S, _MOST_WAIT_S = 1.0, 60.0
#: A worker's append waits a second at most, and a spool is rewritten at some hundred megabytes a second.
_SPOOL_PATIENCE_S, _MOST_SPOOL_BYTES = 0.3, 64_000_000
_DATABASE_PATIENCE_S = 10.0


@dataclass(slots=True)
class Forgotten:
    """What was found of a person, by place.

    Attributes:
        rows: Of inference tables, by table.
        kept: What could not be removed, one line each.
        marks_only: See `Deletion`.
    """

    mlflow: Removed = field(default_factory=Removed)
    interactions: Spooled = field(default_factory=Spooled)
    feedback: Spooled = field(default_factory=Spooled)
    rows: dict[str, int] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    marks_only: bool = False

    @property
    def found(self) -> int:
        """How many things were removed."""
        spooled = sum(one.waiting + one.dead for one in (self.interactions, self.feedback))
        one = self.mlflow
        mlflow = one.interactions + one.sessions + one.assessments + one.copies + one.comparisons
        return mlflow + spooled + sum(self.rows.values())

    @property
    def held(self) -> int:
        """How many records were in the hands of a shipper, if one runs."""
        return self.interactions.leased + self.feedback.leased

    def add(self, look: "Forgotten") -> None:
        """Count what one look removed."""
        self.mlflow += look.mlflow
        self.interactions += replace(look.interactions, leased=0)
        self.feedback += replace(look.feedback, leased=0)
        for table, rows in look.rows.items():
            self.rows[table] = self.rows.get(table, 0) + rows


Progress = Callable[[Removed], None]


def count(settings: Settings, user: str) -> Forgotten:
    """Count what `forget` would remove.

    Raises:
        Unavailable: MLflow is away.
        SpoolError: A spool cannot be read.
    """
    deletion = open_deletion(settings)
    ids = deletion.ids_of(user)
    return Forgotten(
        mlflow=deletion.count_of_user(user),
        interactions=count_spooled(settings.spool_dir, user, ids),
        feedback=count_spooled(settings.feedback_dir, user),
        rows=count_user(settings, user, ids),
        kept=_unreadable(settings),
        marks_only=deletion.marks_only,
    )


def forget(settings: Settings, user: str, progress: Progress = lambda _removed: None) -> Forgotten:
    """Remove everything that was logged of a person; the name must match exactly.

    Can be repeated after it failed or was killed. What is written by calls that are still running is not found.

    Args:
        user: Not empty.
        progress: Told what each chunk deleted from MLflow.

    Raises:
        Unavailable: MLflow or a table is away; what was removed before stays removed.
        SpoolError: A spool cannot be read or written.
    """
    deletion = open_deletion(settings)
    deletion.secure = True
    total = Forgotten(marks_only=deletion.marks_only)
    # Kept over all looks: what repeats an interaction may arrive when that is gone, and names it only.
    ids: set[str] = set()
    with alone(settings.data_dir) as free:
        deadline_s = time.monotonic() + _MOST_WAIT_S
        quiet = 0
        while quiet < (1 if free else 2):
            late = not free and time.monotonic() > deadline_s
            look = _look(settings, deletion, user, ids, progress, leased=free or late)
            total.add(look)
            held = 0 if free else look.held
            if held and late:
                total.kept.append(f"{held} records were on their way for a minute: repeat this when they have arrived")
                held = 0
            quiet = 0 if look.found or held else quiet + 1
            if not free and quiet < 2:
                time.sleep(_LOOK_EVERY_S)
        total.kept += [*_erase(settings), *_unreadable(settings)]
    return total


def _look(
    settings: Settings, deletion: Deletion, user: str, ids: set[str], progress: Progress, *, leased: bool
) -> Forgotten:
    """Empty every place once, in the order a record passes them; MLflow last, which alone knows what is whose.

    Args:
        ids: Of interactions of theirs; those that are found are added.
    """
    ids |= deletion.ids_of(user)
    look = Forgotten(
        interactions=delete_spooled(settings.spool_dir, user, ids, leased=leased),
        feedback=delete_spooled(settings.feedback_dir, user, leased=leased),
    )
    look.rows = delete_user(settings, user, ids)
    for removed in deletion.of_user(user, ids):
        look.mlflow += removed
        progress(removed)
    return look


def _erase(settings: Settings) -> Iterator[str]:
    """Get rid of the bytes that deleted rows leave in SQLite files; what hinders is said, for the rows are gone."""
    for path in [*spools(settings.spool_dir), *spools(settings.feedback_dir)]:
        why = erase_free_space(path, patience_s=_SPOOL_PATIENCE_S, most_bytes=_MOST_SPOOL_BYTES)
        if why:
            yield f"deleted bytes may still be in {path}, until it is used again: {why}"
    database = settings.tracking_uri.removeprefix("sqlite:///")
    if database == settings.tracking_uri:
        yield "deleted bytes stay in a database until it reuses or vacuums them, and in its log and backups"
    elif why := erase_free_space(Path(database), patience_s=_DATABASE_PATIENCE_S):
        yield f"deleted bytes may still be in {database}: {why}; repeat this"


def _unreadable(settings: Settings) -> list[str]:
    files = [*damaged_files(settings.spool_dir), *damaged_files(settings.feedback_dir)]
    return [f"{path} is damaged and may hold anybody's records: delete it" for path in files]
