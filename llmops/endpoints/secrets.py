"""Secret references in documents, and where their values come from.

A document holds ``{{secrets/<scope>/<key>}}``. The value is read when a call needs it, is never stored, and is looked
for in the environment (``LLMOPS_SECRET_<SCOPE>_<KEY>``) and then in a mounted directory (``scope/key`` files).
"""

import os
import re
import time
from pathlib import Path

from llmops.errors import EndpointNotReady

REFERENCE = re.compile(r"\{\{secrets/([\w.-]{1,128})/([\w.-]{1,128})\}\}")
#: A value read is used this long; a rotated key needs no endpoint change, only these seconds.
CACHE_S = 5.0


def parse(reference: str) -> tuple[str, str]:
    """Split a reference into scope and key.

    Raises:
        ValueError: Not of the form ``{{secrets/scope/key}}``.
    """
    match = REFERENCE.fullmatch(reference)
    if match is None or ".." in reference:
        raise ValueError("not a secret reference; write {{secrets/<scope>/<key>}}")
    return match[1], match[2]


def variable(scope: str, key: str) -> str:
    """The environment variable a secret is looked for in."""
    return "LLMOPS_SECRET_" + re.sub(r"\W", "_", f"{scope}_{key}").upper()


class Secrets:
    """Reads secret values.

    Args:
        directory: Holds ``scope/key`` files, Kubernetes style; None where none is mounted.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._cache: dict[str, tuple[float, str]] = {}

    def get(self, reference: str) -> str:
        """The value behind a reference.

        Raises:
            EndpointNotReady: There is none; the message says where to put it.
        """
        cached = self._cache.get(reference)
        if cached is not None and time.monotonic() - cached[0] < CACHE_S:
            return cached[1]
        scope, key = parse(reference)
        value = (os.environ.get(variable(scope, key)) or self._file(scope, key) or "").strip()
        if not value:
            raise EndpointNotReady(
                f"secret {scope}/{key} is missing: set the environment variable {variable(scope, key)} on the server"
            )
        if "\n" not in value and not (value.isascii() and value.isprintable()):
            # An HTTP client would show the value in its own error. Keys of several lines go into no header.
            raise EndpointNotReady(f"secret {scope}/{key} holds characters that a header cannot carry; set it anew")
        self._cache[reference] = (time.monotonic(), value)
        return value

    def _file(self, scope: str, key: str) -> str | None:
        if self._directory is None:
            return None
        try:
            return (self._directory / scope / key).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return None
