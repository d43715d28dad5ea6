"""Counts of the last minute, exact among the workers of one machine: memory they share, and a lock of the kernel.

Each cell has a bucket for each second, and what lies in the last 61 of them counts: no 60 seconds, wherever they
begin, see more admitted than the limit, and a burst at the boundary of a minute is no special case. One lock for all
cells is held for microseconds; the kernel takes it from a worker that is killed, and whatever it had written by then
can only make a count too high, for a minute. The memory is the supervisor's: a worker that is started anew goes on
counting, a server begins anew.
"""

import fcntl
import mmap
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from llmops.errors import Unavailable
from llmops.gateway.quota import CALLS, TOKENS, WORDS, Condition

WINDOW_S = 60
#: The second that is going on, and those of the 60 s before it.
BUCKETS = WINDOW_S + 1
#: What one request is charged at most: far beyond every model, and never too much for a bucket.
MOST_AMOUNT = 2**40

#: Cells of 512 bytes; the memory is 16 MB, of which pages that were touched exist.
_SLOTS = 32_768
#: A cell lies at most so far from where its name points; only with tens of thousands in use it finds no place.
_PROBES = 64
_WORDS = 64
_LAST, _FIRST_BUCKET = 2, 3
_BYTES = (_SLOTS + 1) * _WORDS * 8
#: Words of the header.
_REFUSED, _ALONE, _DROPPED = 1, 16, 17


@dataclass(frozen=True, slots=True)
class Held:
    """A request that was let in.

    Attributes:
        second: When it was charged, by the meter's clock.
        alone: Whether this machine counted it for itself, the meter that machines share being away.
    """

    second: int
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that was not.

    Attributes:
        wait_s: The same request has room after so long, if nobody else takes it; 1 to 61.
        hopeless: Whether it needs more than the limit by itself.
    """

    condition: Condition
    wait_s: int
    hopeless: bool = False


Amounts = Mapping[str, int]


class Clock(Protocol):
    """Seconds that go on evenly, the same for all workers."""

    def __call__(self) -> float: ...


class Meter:
    """The counts of one machine.

    Args:
        memory: A file descriptor from `shared_memory`; None counts for this process alone.
        clock: Tells seconds; one that steps back stands still meanwhile.
    """

    def __init__(self, memory: int | None = None, clock: Clock = time.monotonic) -> None:
        self._fd = shared_memory() if memory is None else memory
        self._clock = clock
        self._map: memoryview | None = None

    def take(self, conditions: Sequence[Condition], amounts: Amounts) -> Held | Refused:
        """Charge every cell of the conditions if all are met, and none otherwise.

        Args:
            amounts: What the request needs, for each unit.

        Raises:
            Unavailable: There is no memory to count in.
        """
        with self._locked() as words:
            now = self._now(words)
            bases: list[tuple[int, int]] = []
            refused: Refused | None = None
            for condition in conditions:
                amount = min(amounts[condition.unit], MOST_AMOUNT)
                slots = [self._slot(words, cell.name, now) for cell in condition.cells]
                waits = [
                    _wait(words, slot, cell.most, amount, now)
                    for slot, cell in zip(slots, condition.cells, strict=True)
                ]
                bases += [(slot, amount) for slot in slots if slot is not None]
                if (wait := min(waits)) and (refused is None or wait > refused.wait_s):
                    refused = Refused(condition, wait, all(cell.most < amount for cell in condition.cells))
            if refused is not None:
                words[_refusals(refused.condition)] += 1
                return refused
            for base, amount in bases:
                words[base + _FIRST_BUCKET + now % BUCKETS] += amount
            return Held(now)

    def settle(self, held: Held, conditions: Sequence[Condition], changes: Amounts) -> None:
        """Correct what was charged: what is more counts from now on, what is less is given back where it was taken."""
        with self._locked() as words:
            now = self._now(words)
            for condition in conditions:
                change = min(changes.get(condition.unit, 0), MOST_AMOUNT)
                second = now if change > 0 else held.second
                if not change or second + BUCKETS <= now:
                    continue
                for cell in condition.cells:
                    if (base := self._slot(words, cell.name, now)) is not None:
                        at = base + _FIRST_BUCKET + second % BUCKETS
                        words[at] = max(words[at] + change, 0)

    def count_refused(self, condition: Condition) -> None:
        """Count a request that another meter refused."""
        with self._locked() as words:
            words[_refusals(condition)] += 1

    def count_alone(self) -> None:
        """Count a request that came while the meter that machines share was away."""
        with self._locked() as words:
            words[_ALONE] += 1

    def count_dropped(self, count: int) -> None:
        """Count charges that another meter will not be told the correction of."""
        with self._locked() as words:
            words[_DROPPED] += count

    def refusals(self) -> dict[tuple[str, str], int]:
        """Requests refused on this machine since the server started, by key and unit."""
        pairs = [(key, unit) for key in WORDS for unit in (CALLS, TOKENS)]
        if os.fstat(self._fd).st_size < _BYTES:
            return dict.fromkeys(pairs, 0)  # Nothing was counted yet, so there is no memory yet.
        with self._locked() as words:
            return {(key, unit): words[_refusals(Condition(key, unit, ()))] for key, unit in pairs}

    def alone(self) -> int:
        """Requests of this machine since the server started that it counted, or refused, for itself."""
        return self._word(_ALONE)

    def dropped(self) -> int:
        """Corrections of this machine since the server started that the machines' meter was not told."""
        return self._word(_DROPPED)

    def _word(self, at: int) -> int:
        if os.fstat(self._fd).st_size < _BYTES:
            return 0
        with self._locked() as words:
            return words[at]

    @contextmanager
    def _locked(self) -> Iterator[memoryview]:
        # Of the process, so that workers may hold one inherited descriptor; released however a process ends.
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, 0)
        try:
            yield self._map if self._map is not None else self._open()
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, 0)

    def _open(self) -> memoryview:
        """Made by the first request that is counted: a server without limits has no such memory."""
        try:
            if os.fstat(self._fd).st_size < _BYTES:
                os.ftruncate(self._fd, _BYTES)
            self._map = memoryview(mmap.mmap(self._fd, _BYTES)).cast("Q")
        except OSError as err:
            raise Unavailable(f"rate limits cannot be counted: no memory for it ({err.strerror})") from err
        return self._map

    def _now(self, words: memoryview) -> int:
        """The second that is going on; never one before what another worker saw."""
        words[0] = now = max(int(self._clock()), words[0])
        return now

    def _slot(self, words: memoryview, name: bytes, now: int) -> int | None:
        """Where a cell is, made anew if it is nowhere; None where there is no place."""
        high, low = int.from_bytes(name[:8], "big") or 1, int.from_bytes(name[8:], "big")
        free = None
        for probe in range(_PROBES):
            base = (1 + (high + probe) % _SLOTS) * _WORDS
            if words[base] == high and words[base + 1] == low:
                _advance(words, base, now)
                return base
            if free is None and (not words[base] or words[base + _LAST] + BUCKETS <= now):
                free = base
            if not words[base]:
                break
        if free is not None:
            # In this order a worker may be killed between any two: a count without its name, or one of zeros.
            _advance(words, free, now)
            words[free], words[free + 1] = high, low
        return free


def shared_memory() -> int:
    """Anonymous memory for a meter, as a file descriptor that worker processes inherit; it takes no room yet."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("llmops-limits")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _advance(words: memoryview, base: int, now: int) -> None:
    """Empty the buckets of the seconds that have passed since a cell was last looked at."""
    last, first = words[base + _LAST], base + _FIRST_BUCKET
    for second in range(max(last + 1, now - WINDOW_S), now + 1):
        words[first + second % BUCKETS] = 0
    words[base + _LAST] = now


def _wait(words: memoryview, base: int | None, most: int, amount: int, now: int) -> int:
    """Seconds until a cell has room for an amount; 0 where it has."""
    if base is None or amount > most:
        return WINDOW_S
    first = base + _FIRST_BUCKET
    missing = sum(words[first : first + BUCKETS]) + amount - most
    if missing <= 0:
        return 0
    for second in range(now - WINDOW_S, now + 1):
        missing -= words[first + second % BUCKETS]
        if missing <= 0:
            return second + BUCKETS - now
    return BUCKETS


def _refusals(condition: Condition) -> int:
    """The word of the header that counts what a limit of this kind refused."""
    return _REFUSED + list(WORDS).index(condition.key) * 2 + (condition.unit == TOKENS)
