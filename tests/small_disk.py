"""A real disk of a few hundred kilobytes, in memory.

Only root can mount one; for others see `tests.services`.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.services import missing


@contextmanager
def small_disk(folder: Path, kb: int) -> Iterator[None]:
    """Put a disk of this size in a folder's place for a while."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kb}k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        missing(f"needs the right to mount a disk: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
