"""Spools and their readers, as tests open them."""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from llmops.interactions.record import Interaction
from llmops.interactions.spool import Leased, Spool
from llmops.interactions.spool_reader import SpoolReader
from tests.interactions.records import plain

SINK = "mlflow"


def reading(path: Path, consumer: str = SINK, *others: str) -> SpoolReader[Interaction]:
    """A reader for one sink of a spool that feeds these others, too."""
    return SpoolReader(path, Interaction.decode, consumer, [consumer, *others])


def append(spool: Spool[Interaction], interactions: Iterable[Interaction]) -> None:
    """Append records."""
    for interaction in interactions:
        spool.append(interaction)


def plains(count: int) -> list[Interaction]:
    """Plain chats."""
    return [plain() for _ in range(count)]


def fill(spool: Spool[Interaction], count: int) -> list[Interaction]:
    """Append plain chats, and return them."""
    interactions = plains(count)
    append(spool, interactions)
    return interactions


def ids(interactions: Iterable[Interaction]) -> list[str]:
    """Their ids, sorted."""
    return sorted(interaction.interaction_id for interaction in interactions)


def seqs(leased: Sequence[Leased[Interaction]]) -> list[int]:
    """Their places in the spool."""
    return [one.seq for one in leased]


def dead_letters(path: Path) -> list[tuple[str, str]]:
    """The sink and the reason of each dead letter."""
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT consumer, reason FROM dead ORDER BY id").fetchall()


def stored(path: Path) -> int:
    """How many records a file really holds."""
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT count(*) FROM record").fetchone()[0])
