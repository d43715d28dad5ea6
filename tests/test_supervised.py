"""One process that is kept alive: started again when it ends, and ended when it does not answer."""

import asyncio
import os
import signal
from pathlib import Path

from llmops.providers.upstream import Upstreams
from llmops.supervised import Command, Supervised


async def _replaced(log_dir: Path) -> tuple[int, int]:
    """Stop a process as SIGSTOP does, and wait for the next one."""
    upstreams, replaced, pids = Upstreams(), asyncio.Event(), list[int]()
    command = Command("sleeper", ("-c", "import time; time.sleep(600)"))

    async def alive() -> bool:
        assert supervised.pid is not None
        if not pids:
            os.kill(supervised.pid, signal.SIGSTOP)
        if supervised.pid not in pids:
            pids.append(supervised.pid)
        if len(pids) == 2:
            replaced.set()
        # The one that is stopped is silent; the next one speaks.
        return supervised.pid != pids[0]

    supervised = Supervised(command, dict(os.environ), log_dir, upstreams, alive=alive, look_every_s=0.05)
    supervised.start()
    try:
        async with asyncio.timeout(20):
            await replaced.wait()
    finally:
        await supervised.stop(5)
        await upstreams.aclose()
    return pids[0], pids[1]


def test_a_process_that_lives_and_does_not_answer_is_replaced(tmp_path: Path) -> None:
    first, second = asyncio.run(_replaced(tmp_path))

    assert first != second
    assert not Path(f"/proc/{first}").exists()
