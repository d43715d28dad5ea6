"""One commit for records that come in the same few turns of the event loop: it costs as much as many records.

Taking a record is synchronous, so that it works while a task is being cancelled; who must not go on before it is
written waits with `written`.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
#: Turns that a record waits at most; it waits for a further one only if others came in the last.
_TURNS = 5


class GroupCommit(Generic[T]):
    """Gathers records while more of them come. Belongs to one event loop; without one, each is written at once.

    Args:
        write: Writes records down, and raises nothing.
    """

    def __init__(self, write: Callable[[Sequence[T]], None]) -> None:
        self._write = write
        self._gathered: list[T] = []
        self._waiters: list[asyncio.Future[None]] = []

    def take(self, record: T, *, alone: bool) -> None:
        """Write a record soon.

        Args:
            alone: Whether no other can come: then it is written at once.
        """
        loop = _running_loop()
        if loop is None or (alone and not self._gathered):
            self._write((record,))
            return
        if not self._gathered:
            loop.call_soon(self._turn, loop, 0, 1)
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
        try:
            if gathered:
                self._write(gathered)
        finally:
            # Whatever happened: no caller must wait for ever.
            for waiter in waiters:
                if not waiter.done():  # Its task may have been cancelled.
                    waiter.set_result(None)

    def _turn(self, loop: asyncio.AbstractEventLoop, before: int, number: int) -> None:
        """End a turn, at whose begin so many were gathered."""
        if before < len(self._gathered) and number < _TURNS:
            loop.call_soon(self._turn, loop, len(self._gathered), number + 1)
        else:
            self.flush()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
