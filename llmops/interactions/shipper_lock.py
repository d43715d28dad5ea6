"""The lock of the one shipper of a data directory."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(data_dir: Path) -> Iterator[bool]:
    """Hold the lock of the one shipper of a data directory, if it is free; the kernel lets go of a dead one's."""
    with (data_dir / "shipper.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        else:
            free = True
        yield free
