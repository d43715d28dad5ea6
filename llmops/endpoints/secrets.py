"""Secret references in documents, and where their values come from.

A document holds ``{{secrets/<scope>/<key>}}``. The value is read when a call needs it, is never kept in clear, and is
looked for in the environment (``LLMOPS_SECRET_<SCOPE>_<KEY>``), then in a mounted directory (``scope/key`` files), then
in the encrypted store (`llmops.endpoints.secret_store`).
"""

import os
import re
import time
from pathlib import Path
from typing import Protocol

from llmops.errors import BadRequest, EndpointNotReady

#: Source: ../shared/reference/databricks_contract.md 8.1
SCOPE_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,128}")
KEY_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
REFERENCE = re.compile(rf"\{{\{{secrets/({SCOPE_NAME.pattern})/({KEY_NAME.pattern})\}}\}}")
#: A value read is used this long; a rotated key needs no endpoint change, only these seconds.
CACHE_S = 5.0


class Kept(Protocol):
    """The encrypted store, as far as a call needs it."""

    def changed(self) -> bool:
        """Whether a secret may have changed since this was last asked."""

    def read(self, scope: str, key: str) -> bytes | None:
        """The value of a secret; None where there is none."""


def parse(reference: str) -> tuple[str, str]:
    """Split a reference into scope and key.

    Raises:
        ValueError: Not of the form ``{{secrets/scope/key}}``.
    """
    match = REFERENCE.fullmatch(reference)
    # Both become the names of a directory and a file.
    if match is None or {match[1], match[2]} & {".", ".."}:
        raise ValueError("not a secret reference; write {{secrets/<scope>/<key>}}")
    return match[1], match[2]


def variable(scope: str, key: str) -> str:
    """The environment variable a secret is looked for in."""
    return "LLMOPS_SECRET_" + re.sub(r"\W", "_", f"{scope}_{key}").upper()


def master_key() -> str | None:
    """What the environment names as the master key of the encrypted store."""
    return os.environ.get("LLMOPS_MASTER_KEY") or None


class Secrets:
    """Reads secret values.

    Args:
        directory: Holds ``scope/key`` files, Kubernetes style; None where none is mounted.
        kept: The encrypted store; None where there is none.
    """

    def __init__(self, directory: Path | None = None, kept: Kept | None = None) -> None:
        self._directory = directory
        self._kept = kept
        #: When a value was read, the value, and whether the encrypted store had it.
        self._cache: dict[str, tuple[float, str, bool]] = {}

    def get(self, reference: str) -> str:
        """The value behind a reference.

        Raises:
            EndpointNotReady: There is none, or it cannot be read; the message says what to do.
        """
        if (cached := self._cached(reference)) is not None:
            return cached
        scope, key = parse(reference)
        given = os.environ.get(variable(scope, key)) or self._file(scope, key)
        value = (given or self._stored(scope, key)).strip()
        if not value:
            raise EndpointNotReady(
                f"secret {scope}/{key} is missing: set the environment variable {variable(scope, key)} on the server,"
                f" or keep it there with `llmops secrets put {scope} {key}`"
            )
        if "\n" not in value and not (value.isascii() and value.isprintable()):
            # An HTTP client would show the value in its own error. Keys of several lines go into no header.
            raise EndpointNotReady(f"secret {scope}/{key} holds characters that a header cannot carry; set it anew")
        self._cache[reference] = (time.monotonic(), value, not given)
        return value

    def _cached(self, reference: str) -> str | None:
        read_s, value, stored = self._cache.get(reference, (0.0, None, False))
        if value is None or time.monotonic() - read_s >= CACHE_S:
            return None
        # The store can be asked whether it changed, at every call; the places before it it cannot overrule.
        if stored and self._kept is not None and self._kept.changed():
            self._cache.clear()
            return None
        return value

    def _file(self, scope: str, key: str) -> str | None:
        if self._directory is None:
            return None
        try:
            return (self._directory / scope / key).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def _stored(self, scope: str, key: str) -> str:
        if self._kept is None:
            return ""
        try:
            return (self._kept.read(scope, key) or b"").decode()
        except BadRequest as err:
            raise EndpointNotReady(f"secret {scope}/{key} cannot be read: {err.message}") from err
        except UnicodeDecodeError:
            raise EndpointNotReady(f"secret {scope}/{key} holds bytes that are no text; set it anew") from None
