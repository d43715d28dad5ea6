"""What the tests of secrets share: opening the store of a folder, and reading all of it."""

import os
from collections.abc import Iterable
from pathlib import Path

from llmops.endpoints.master_keys import MasterKeys
from llmops.endpoints.secret_database import SecretDatabase
from llmops.endpoints.secret_store import SecretStore


def opened(folder: Path, *, given: str | None = None, url: str | None = None) -> SecretStore:
    """The store a process of a server opens.

    Args:
        given: The setting LLMOPS_MASTER_KEY.
        url: The database that is shared; None keeps all in the folder.
    """
    return SecretStore(SecretDatabase(folder / "llmops.db", url), MasterKeys(folder / "master.key", given))


def whole(folder: Path, names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], bytes | None]:
    """The value of every one of these secrets, read by a process that starts now."""
    store = opened(folder)
    try:
        return {(scope, key): store.read(scope, key) for scope, key in names}
    finally:
        store.close()


def mode(path: Path) -> int:
    """The permission bits of a file."""
    return os.stat(path).st_mode & 0o777
