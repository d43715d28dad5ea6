"""One commit for all records of a turn of the event loop: a commit costs as much as a record, and more under load.

Taking a record is synchronous, so that it works while a task is being cancelled; who must not go on before it is
written waits with `written`.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class GroupCommit(Generic[T]):
    """Gathers records until the turn ends. Belongs to one event loop; without one, each record is written at once.

    Args:
        write: Writes records down, and raises nothing.
    """

    def __init__(self, write: Callable[[Sequence[T]], None]) -> None:
        self._write = write
        self._gathered: list[T] = []
        self._waiters: list[asyncio.Future[None]] = []

    def take(self, record: T, *, alone: bool) -> None:
        """Write a record at the end of this turn.

        Args:
            alone: Whether nobody else can come in this turn: then it is written at once.
        """
        loop = _running_loop()
        if loop is None or (alone and not self._gathered):
            self._write((record,))
            return
        if not self._gathered:
            loop.call_soon(self.flush)
        self._gathered.append(record)

    async def written(self) -> None:
        """Wait until everything that was taken is written."""
        if self._gathered:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def flush(self) -> None:
        """Write what was gathered, now."""
        gathered, self._gathered = self._gathered, []
        waiters, self._waiters = self._waiters, []
        if gathered:
            self._write(gathered)
        for waiter in waiters:
            if not waiter.done():  # Its task may have been cancelled.
                waiter.set_result(None)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
