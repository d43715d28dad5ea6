"""Counts of the last minute that several machines share, in Redis: each decision is one script, which runs alone there.

A cell is a hash of seconds, by Redis' own clock; it goes by itself two minutes after the last request. Who asks waits
at most a second; from the first failure on nobody waits, until a look a second later finds Redis again. Nothing here
says the URL, a user or a password.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from llmops.errors import CommandError
from llmops.gateway.meter import BUCKETS, MOST_AMOUNT, WINDOW_S, Amounts, Held, Refused
from llmops.gateway.quota import TOKENS, Condition

logger = logging.getLogger(__name__)

#: For one answer of Redis, or for one connection to open.
LIMIT_S = 1.0
LOOK_EVERY_S = 1.0
_CONNECTIONS = 16
#: Corrections that wait; a reservation that is not corrected is gone after a minute.
MOST_WAITING = 10_000
#: Corrections that are sent together: Redis runs their scripts one after the other, and others wait meanwhile.
_BATCH = 200
#: A script's numbers are doubles, exact up to here; a limit beyond is none.
_MOST = 2**53

#: KEYS: a hash for each cell. ARGV: for each, the number of its condition, the limit, and what is needed.
#: Returns {1, second}, or {0, number of the condition that takes longest, seconds until it has room}.
_TAKE = f"""
local now = tonumber(redis.call('TIME')[1])
local met, waits, last = {{}}, {{}}, 0
for i, key in ipairs(KEYS) do
  local condition, most, amount = tonumber(ARGV[3*i-2]), tonumber(ARGV[3*i-1]), tonumber(ARGV[3*i])
  local flat, missing, seen = redis.call('HGETALL', key), amount - most, {{}}
  for j = 1, #flat, 2 do
    local second, count = tonumber(flat[j]), tonumber(flat[j+1])
    if second + {BUCKETS} <= now then
      redis.call('HDEL', key, flat[j])
    else
      missing = missing + count
      seen[#seen+1] = {{second, count}}
    end
  end
  if missing <= 0 then
    met[condition] = true
  else
    local wait = {WINDOW_S}
    if amount <= most then
      table.sort(seen, function(a, b) return a[1] < b[1] end)
      for _, one in ipairs(seen) do
        missing = missing - one[2]
        wait = math.max(1, math.min({BUCKETS}, one[1] + {BUCKETS} - now))
        if missing <= 0 then break end
      end
    end
    waits[condition] = math.min(waits[condition] or wait, wait)
  end
  last = math.max(last, condition)
end
local worst, longest = 0, 0
for condition = 1, last do
  if not met[condition] and waits[condition] > longest then
    worst, longest = condition, waits[condition]
  end
end
if worst > 0 then return {{0, worst, longest}} end
for i, key in ipairs(KEYS) do
  redis.call('HINCRBY', key, now, ARGV[3*i])
  redis.call('EXPIRE', key, {2 * BUCKETS})
end
return {{1, now}}
"""

#: KEYS: a hash for each cell. ARGV: the second it was charged in, then the change of each.
_SETTLE = f"""
local now = tonumber(redis.call('TIME')[1])
for i, key in ipairs(KEYS) do
  local change = tonumber(ARGV[i+1])
  if change > 0 then
    redis.call('HINCRBY', key, now, ARGV[i+1])
    redis.call('EXPIRE', key, {2 * BUCKETS})
  elseif tonumber(ARGV[1]) + {BUCKETS} > now then
    local count = redis.call('HGET', key, ARGV[1])
    if count then redis.call('HSET', key, ARGV[1], math.max(0, tonumber(count) + change)) end
  end
end
"""

_Call = tuple[list[str], list[int]]


class SharedMeter:
    """The counts of all machines that name the same Redis database.

    Args:
        dropped: Told how many corrections were given up.

    Attributes:
        away: Why Redis does not count now; empty while it does.
    """

    def __init__(self, url: str, dropped: Callable[[int], None]) -> None:
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=_CONNECTIONS,
                timeout=LIMIT_S,
                socket_timeout=LIMIT_S,
                socket_connect_timeout=LIMIT_S,
                # A connection that Redis closed meanwhile is opened anew; charged twice is better than not at all.
                retry=Retry(NoBackoff(), 1),
            )
        except ValueError:
            raise CommandError("LLMOPS_REDIS_URL is no URL of a Redis: redis://user:password@host:6379/0") from None
        self._redis = Redis(connection_pool=pool)
        self._take = self._redis.register_script(_TAKE)
        self._settle = self._redis.register_script(_SETTLE)
        self._waiting: deque[_Call] = deque()
        self._dropped = dropped
        self._asked: set[asyncio.Task[Any]] = set()
        self._due = asyncio.Event()
        self.away = ""

    async def take(self, endpoint: str, conditions: Sequence[Condition], amounts: Amounts) -> Held | Refused | None:
        """As of a `Meter`; None where Redis does not answer, or refuses."""
        if self.away:
            return None
        cells = [(number, one, cell) for number, one in enumerate(conditions, 1) for cell in one.cells]
        needs: list[int] = []
        for number, one, cell in cells:
            needs += [number, min(cell.most, _MOST), min(amounts[one.unit], MOST_AMOUNT)]
        asked = self._begin([_key(endpoint, cell.name) for _, _, cell in cells], needs)
        try:
            answer = await asyncio.shield(asked)
        except asyncio.CancelledError:
            # Redis may have charged it already: its answer is waited for elsewhere, and the tokens given back.
            asked.add_done_callback(lambda done: self._return(endpoint, done, conditions, amounts))
            raise
        if answer is None:
            return None
        if answer[0]:
            return Held(int(answer[1]))
        refused = conditions[answer[1] - 1]
        hopeless = all(cell.most < amounts[refused.unit] for cell in refused.cells)
        return Refused(refused, int(answer[2]), hopeless)

    def _begin(self, keys: list[str], needs: list[int]) -> asyncio.Task[list[int] | None]:
        asked = asyncio.create_task(self._ask(keys, needs))
        self._asked.add(asked)
        asked.add_done_callback(self._asked.discard)
        return asked

    async def _ask(self, keys: list[str], needs: list[int]) -> list[int] | None:
        try:
            async with asyncio.timeout(2 * LIMIT_S):
                answer: list[int] = await self._take(keys=keys, args=needs)
                return answer
        except (RedisError, OSError, TimeoutError) as err:
            self._lost(err)
            return None

    def _return(
        self, endpoint: str, asked: asyncio.Task[list[int] | None], conditions: Sequence[Condition], amounts: Amounts
    ) -> None:
        """Give back the tokens of a request whose caller left while it was charged; the call is counted."""
        answer = None if asked.cancelled() else asked.result()
        if answer is not None and answer[0] and amounts.get(TOKENS):
            self.settle(endpoint, Held(int(answer[1])), conditions, {TOKENS: -amounts[TOKENS]})

    def settle(self, endpoint: str, held: Held, conditions: Sequence[Condition], changes: Amounts) -> None:
        """As of a `Meter`; done a moment later, because who ends a request cannot wait."""
        cells = [(changes[one.unit], cell) for one in conditions if changes.get(one.unit) for cell in one.cells]
        if cells:
            keys = [_key(endpoint, cell.name) for _, cell in cells]
            if len(self._waiting) >= MOST_WAITING:
                self._drop(1)
                return
            self._waiting.append((keys, [held.second, *(min(change, MOST_AMOUNT) for change, _ in cells)]))
            self._due.set()

    async def look(self) -> None:
        """Find out whether Redis counts."""
        try:
            async with asyncio.timeout(2 * LIMIT_S):
                await self._redis.ping()
        except (RedisError, OSError, TimeoutError) as err:
            self._lost(err)
            return
        if self.away:
            logger.warning("event=limits_shared_again")
        self.away = ""

    async def follow(self) -> None:
        """Send corrections, and look whether Redis is there, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._due.wait()
            except TimeoutError:
                await self.look()
            await self._correct()

    async def aclose(self) -> None:
        """Send what waits, and hang up."""
        await asyncio.gather(*self._asked)
        await self._correct()
        await self._redis.aclose(close_connection_pool=True)

    async def _correct(self) -> None:
        self._due.clear()
        while self._waiting and not self.away:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            try:
                async with asyncio.timeout(2 * LIMIT_S), self._redis.pipeline(transaction=False) as pipe:
                    for keys, changes in batch:
                        await self._settle(keys=keys, args=changes, client=pipe)
                    await pipe.execute()
            except (RedisError, OSError, TimeoutError) as err:
                self._lost(err)
                self._drop(len(batch))
        if self._waiting:
            self._drop(len(self._waiting))
            self._waiting.clear()

    def _drop(self, count: int) -> None:
        logger.warning("event=limits_corrections_dropped count=%d", count)
        self._dropped(count)

    def _lost(self, err: Exception) -> None:
        reason = str(err) or type(err).__name__
        if not self.away:
            logger.error("event=limits_not_shared reason=%r", reason)
        self.away = reason


def _key(endpoint: str, name: bytes) -> str:
    """The key of a cell; the braces keep all cells of an endpoint on one node of a cluster."""
    return f"llmops:limits:{{{endpoint}}}:{name.hex()}"
