"""Waiting until what was answered is where it belongs. Imports no sink: most often a server's shipper does the work."""

import subprocess
import sys
import time

from llmops.interactions.consumer import IDLE_S
from llmops.interactions.damage import unread_files
from llmops.interactions.shipper_lock import alone
from llmops.interactions.spool import depth
from llmops.settings import Settings, child_environment


def waiting(settings: Settings) -> int:
    """Count the records of all spools that not every sink has; a damaged file that is to be salvaged counts as one.

    Raises:
        SpoolError: A spool cannot be read.
    """
    return sum(depth(folder) + len(unread_files(folder)) for folder in (settings.spool_dir, settings.feedback_dir))


def flush(settings: Settings, timeout_s: float) -> int:
    """Wait until the spools are empty; where no shipper runs, run one that ends when they are.

    Returns:
        How many records are left; 0 unless the time was not enough.

    Raises:
        SpoolError: A spool cannot be read.
    """
    deadline_s = time.monotonic() + timeout_s
    while (left := waiting(settings)) and (left_s := deadline_s - time.monotonic()) > 0:
        with alone(settings.data_dir) as free:
            pass
        if free:
            _ship(settings, left_s)
        time.sleep(IDLE_S)
    return left


def _ship(settings: Settings, limit_s: float) -> None:
    where = ("--data-dir", str(settings.data_dir), "--drain", f"{limit_s:g}")
    # Its stdin is the leash: it ends with us.
    command, environment = [sys.executable, "-m", "llmops.interactions.shipper", *where], child_environment(settings)
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as shipper:
        shipper.wait()
