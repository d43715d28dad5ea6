"""Dead letters: records a sink will not get unless somebody asks for it again."""

import difflib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from llmops.errors import NotFound
from llmops.interactions.spool import spools
from llmops.interactions.spool_file import NEXT_SEQ, explained, open_file, transaction
from llmops.settings import Settings

_PATIENCE_S = 10.0
_CHECKPOINT_PAGES = 256
#: Of the interactions' spools first.
_FEEDBACK = "feedback."


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One record that one sink refused, or failed at for too long.

    Attributes:
        dead_id: Names it on this machine: its spool and its number there, ``worker-0.7``.
        interaction_id: None where the record cannot be read.
        tries: Deliveries begun.
        content: The record as it was written.
    """

    dead_id: str
    sink: str
    interaction_id: str | None
    reason: str
    tries: int
    buried_ms: int
    content: bytes

    def document(self) -> dict[str, Any]:
        """It as JSON, without the record."""
        fields = ("dead_id", "sink", "interaction_id", "reason", "tries", "buried_ms")
        return {name: getattr(self, name) for name in fields}

    @property
    def record(self) -> Any:
        """The record as JSON; as text where it is none."""
        try:
            return orjson.loads(self.content)
        except orjson.JSONDecodeError:
            return self.content.decode("utf-8", "replace")


class DeadLetters:
    """The dead letters of a data directory; a server may run meanwhile.

    Every method raises SpoolError where a spool cannot be read or written.
    """

    def __init__(self, settings: Settings) -> None:
        self._files = {path.stem: path for path in spools(settings.spool_dir)}
        self._files |= {_FEEDBACK + path.stem: path for path in spools(settings.feedback_dir)}

    def all(self) -> list[DeadLetter]:
        """Every one, newest first."""
        found = [letter for stem, path in self._files.items() for letter in _letters(stem, path)]
        return sorted(found, key=lambda letter: letter.buried_ms, reverse=True)

    def find(self, names: Sequence[str]) -> list[DeadLetter]:
        """Those of these ids, or of the interactions of these ids.

        Raises:
            NotFound: There is none of a name; the message says which is near.
        """
        known = self.all()
        found: dict[str, DeadLetter] = {}
        for name in names:
            named = [letter for letter in known if name in (letter.dead_id, letter.interaction_id)]
            if not named:
                raise NotFound(f"there is no dead letter '{name[:80]}'{_nearest(name, known)}")
            found |= {letter.dead_id: letter for letter in named}
        return list(found.values())

    def retry(self, letters: Sequence[DeadLetter]) -> int:
        """Put records back, each for the one sink that did not take it, as if they were new.

        Returns:
            How many there still were.

        Raises:
            NotFound: A sink is not configured any more; those of others may be back already.
        """
        return sum(self._retry(stem, numbers) for stem, numbers in _by_spool(letters))

    def drop(self, letters: Sequence[DeadLetter]) -> int:
        """Delete records for ever.

        Returns:
            How many there still were.
        """
        count = 0
        for stem, numbers in _by_spool(letters):
            path = self._files[stem]
            with explained(path), closing(_opened(path)) as database, transaction(database):
                for number in numbers:
                    count += database.execute("DELETE FROM dead WHERE id = ?", (number,)).rowcount
        return count

    def _retry(self, stem: str, numbers: Sequence[int]) -> int:
        path, now_ms, count = self._files[stem], time.time_ns() // 1_000_000, 0
        with explained(path), closing(_opened(path)) as database:
            sinks = [name for (name,) in database.execute("SELECT name FROM consumer ORDER BY name")]
            for number in numbers:
                row = database.execute("SELECT consumer FROM dead WHERE id = ?", (number,)).fetchone()
                if row is not None and row[0] not in sinks:
                    raise NotFound(
                        f"'{row[0]}', the sink of dead letter {stem}.{number}, is not configured here; "
                        f"there are {', '.join(sinks) or 'none'}"
                    )
                # One commit each: a worker that wants to append waits for no more than that.
                with transaction(database):
                    count += database.execute(
                        f"INSERT INTO record (seq, content, written_ms, only_for) "  # noqa: S608 - our own words
                        f"SELECT {NEXT_SEQ}, content, ?, consumer FROM dead WHERE id = ?",
                        (now_ms, number),
                    ).rowcount
                    database.execute("DELETE FROM dead WHERE id = ?", (number,))
        return count


def _letters(stem: str, path: Path) -> Iterator[DeadLetter]:
    with explained(path), closing(_opened(path)) as database:
        for number, *fields in database.execute(
            "SELECT id, consumer, interaction_id, reason, tries, buried_ms, content FROM dead ORDER BY id"
        ):
            yield DeadLetter(f"{stem}.{number}", *fields)


def _by_spool(letters: Sequence[DeadLetter]) -> Iterator[tuple[str, list[int]]]:
    grouped: dict[str, list[int]] = {}
    for letter in letters:
        stem, _, number = letter.dead_id.rpartition(".")
        grouped.setdefault(stem, []).append(int(number))
    return ((stem, sorted(numbers)) for stem, numbers in grouped.items())


def _opened(path: Path) -> sqlite3.Connection:
    return open_file(path, _PATIENCE_S, _CHECKPOINT_PAGES, full_sync=False)


def _nearest(name: str, known: Sequence[DeadLetter]) -> str:
    ids = [one for letter in known for one in (letter.dead_id, letter.interaction_id) if one is not None]
    near = difflib.get_close_matches(name, ids, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]}?"
    return "; `llmops interactions dead list` names them" if ids else "; there are none"
