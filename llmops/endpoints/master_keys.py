"""The master keys a server has: those of a setting, else those of a file that only its owner may read.

There is no key to begin with: the file is made for the first secret. It holds one key, and two for the time of a
rotation, so that whatever is sealed can be read at every moment of one. Whoever writes the file holds the write lock of
the store, so that no two write at once.
"""

import os
import stat
from collections.abc import Collection
from pathlib import Path

from llmops.endpoints.secret_seal import MasterKey
from llmops.errors import BadRequest

_HEAD = "# llmops master key. Whoever has it and the store reads every secret; without it none can be read.\n"
_MAKE = "`openssl rand -base64 32` makes one"


class MissingMasterKey(BadRequest):
    """A secret was sealed with a master key that is not here."""


class MasterKeys:
    """Finds master keys by their id, and makes new ones.

    Args:
        path: The file.
        given: The setting ``LLMOPS_MASTER_KEY``: base64 of 32 bytes, several separated by commas, the first for what
            is sealed from now on. None uses the file.
    """

    def __init__(self, path: Path, given: str | None) -> None:
        self._path = path
        self._given = given
        self._known: dict[str, MasterKey] = {}

    @property
    def by_setting(self) -> bool:
        """Whether the setting names the key for new secrets."""
        return self._given is not None

    def find(self, master_id: str) -> MasterKey:
        """The key of an id; the file is read again for one that is not known yet.

        Raises:
            MissingMasterKey: It is not here.
            BadRequest: The file or the setting cannot be used.
        """
        if master_id not in self._known:
            self._known = {key.id: key for key in (*self._of_setting(), *self._of_file())}
        found = self._known.get(master_id)
        if found is None:
            held = ", ".join(self._known) or "none"
            raise MissingMasterKey(
                f"it is sealed with the master key {master_id}, and this server has {held}: bring that key back"
                f" ({self._path} or LLMOPS_MASTER_KEY), or delete the secret and put it anew"
            )
        return found

    def first(self) -> MasterKey:
        """The key for a store that has no secret yet; made if there is none.

        Raises:
            BadRequest: The file or the setting cannot be used.
        """
        keys = self._of_setting() or self._of_file()
        return keys[0] if keys else self._add([])

    def renew(self, master_id: str | None) -> MasterKey:
        """The key that is to take the place of the one in use: the setting's first, else a new one in the file.

        Raises:
            BadRequest: The setting names no other one, or the file cannot be used.
        """
        if not self.by_setting:
            return self._add(self._of_file())
        new = self._of_setting()[0]
        if new.id == master_id:
            raise BadRequest(
                "LLMOPS_MASTER_KEY begins with the key that is in use: set it to '<new>,<old>' on every server,"
                f" restart, and repeat ({_MAKE})"
            )
        return new

    def retire(self, used: Collection[str]) -> None:
        """Take keys out of the file that no secret is sealed with."""
        if self.by_setting:
            return
        keys = self._of_file()
        kept = [key for key in keys if key.id in used]
        if len(kept) < len(keys):
            self._write(kept)
        self._known = {key.id: key for key in kept}

    def _add(self, keys: list[MasterKey]) -> MasterKey:
        new = MasterKey.random()
        self._write([*keys, new])
        return new

    def _of_setting(self) -> list[MasterKey]:
        return [_read(text, "LLMOPS_MASTER_KEY") for text in (self._given or "").split(",") if self.by_setting]

    def _of_file(self) -> list[MasterKey]:
        try:
            with self._path.open(encoding="utf-8", errors="replace") as file:
                mode = os.fstat(file.fileno()).st_mode
                lines = file.read().splitlines()
        except FileNotFoundError:
            return []
        except OSError as err:
            raise BadRequest(f"{self._path} cannot be read: {err.strerror}") from None
        if stat.S_IMODE(mode) & 0o077:
            raise BadRequest(f"{self._path} can be read by others and is not used: chmod 600 {self._path}")
        return [_read(line, str(self._path)) for line in lines if line and not line.startswith("#")]

    def _write(self, keys: list[MasterKey]) -> None:
        """Replace the file as a whole, and have it on the disk."""
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            # One that a crash left here may have any mode, or be a link.
            fresh.unlink(missing_ok=True)
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(_HEAD + "".join(f"{key.write()}\n" for key in keys))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
            _sync(self._path.parent)
        except OSError as err:
            raise BadRequest(f"{self._path} cannot be written: {err.strerror}") from None


def _read(text: str, source: str) -> MasterKey:
    try:
        return MasterKey.read(text.strip())
    except ValueError:
        raise BadRequest(f"{source} is not the base64 of 32 bytes; {_MAKE}") from None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
