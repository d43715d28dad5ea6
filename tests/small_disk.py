"""A real disk of a few hundred kilobytes, in memory.

Only root can mount one, and the tests are skipped for others; where LLMOPS_TEST_SERVICES is `required`, as in CI, a
skip is a failure.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, kb: int) -> Iterator[None]:
    """Put a disk of this size in a folder's place for a while."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kb}k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = f"needs the right to mount a disk: {done.stderr.strip()}"
        if os.environ.get("LLMOPS_TEST_SERVICES") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
