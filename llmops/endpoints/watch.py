"""Endpoint files that change while a server runs: what is to be served now, looked at again and again.

A file that is wrong for the moment - half written, or with a typing mistake - takes nothing down: what it said before
goes on being served, and the problem is told once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llmops.endpoints.files import EndpointFile, read_directory
from llmops.errors import InvalidSpec

_State = dict[Path, tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class News:
    """What a look at a directory brought.

    Attributes:
        files: What is to be served.
        lines: What to tell whoever started the server: each problem of a file that was just changed.
    """

    files: tuple[EndpointFile, ...]
    lines: tuple[str, ...]


class Watch:
    """Watches one directory; `look` is cheap where nothing changed.

    Args:
        files: What is served of it, as it was read before.
    """

    def __init__(self, directory: Path, files: Iterable[EndpointFile]) -> None:
        self._directory = directory
        self._served = {file.path: file for file in files}
        self._read: _State | None = None
        self._before: _State | None = None

    def look(self) -> News | None:
        """Read the directory if a file was changed, added or removed, and nobody is writing now.

        Returns:
            None where there is nothing new, or where it has changed since the last look and may be changing still.
        """
        now = self._state()
        settled, self._before = now == self._before, now
        if not settled or now == self._read or now is None:
            return None
        first, self._read = self._read is None, now
        try:
            found = read_directory(self._directory)
        except (InvalidSpec, OSError):
            return None  # It was taken away meanwhile; what is served stays.
        changed = [file for file in found if file != self._served.get(file.path)]
        gone = self._served.keys() - {file.path for file in found}
        if first and not changed and not gone:
            return None
        return self._news(found, changed)

    def _news(self, found: list[EndpointFile], changed: list[EndpointFile]) -> News:
        lines = tuple(problem for file in changed for problem in file.problems)
        kept = [self._good(file) for file in found]
        # A wrong file must not take the name of one that is served.
        names = {file.name for file in kept if not file.problems}
        served = [file for file in kept if not file.problems or file.name not in names]
        self._served = {file.path: file for file in kept}
        return News(tuple(served), lines)

    def _good(self, file: EndpointFile) -> EndpointFile:
        """A file, or what it said when it had no problem."""
        before = self._served.get(file.path)
        return before if file.problems and before is not None and not before.problems else file

    def _state(self) -> _State | None:
        """What tells one version of each file from another; None where the directory is not there now."""
        try:
            paths = [path for path in self._directory.iterdir() if path.suffix in (".yaml", ".yml")]
            stats = [(path, path.stat()) for path in paths]
        except OSError:
            return None
        return {path: (stat.st_mtime_ns, stat.st_size, stat.st_ino) for path, stat in stats}
