"""Rate limits at the door: a request is charged before any model is asked, and corrected when its story has ended.

What it will cost in tokens is not known before: all a model reads of it is counted, `max_tokens` is added where it was
sent, once for each answer asked for, and the real usage takes the place of both. Counts are this machine's, or of all
machines that name one Redis; while that is away, by setting, each machine counts for itself, or requests of endpoints
with limits are refused.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from llmops.endpoints.access_tokens import ADMINS
from llmops.endpoints.caller import Caller
from llmops.endpoints.secret_store import USERS
from llmops.errors import LimitExceeded, Unavailable
from llmops.gateway.meter import Amounts, Held, Meter, Refused
from llmops.gateway.quota import CALLS, TOKENS, WORDS, Condition, Quota, Who
from llmops.protocol import completions
from llmops.protocol.task import Task
from llmops.protocol.usage import Usage
from llmops.providers.provider import Call
from llmops.providers.tokens import Tokenizer
from llmops.settings import Settings

_NAMES: Mapping[str, str] = {CALLS: "Requests-per-minute (RPM)", TOKENS: "Tokens-per-minute (TPM)"}
_NO_GROUP = frozenset({USERS})

#: Takes how a story ended and with which usage: answered, failed, cut or abandoned.
Settle = Callable[[str, Usage | None], None]


class Shared(Protocol):
    """Counts that machines share: a `SharedMeter`."""

    away: str

    async def take(self, endpoint: str, conditions: Sequence[Condition], amounts: Amounts) -> Held | Refused | None:
        """Charge a request, or not; None where that cannot be done now."""
        ...

    def settle(self, endpoint: str, held: Held, conditions: Sequence[Condition], changes: Amounts) -> None:
        """Correct a charge."""
        ...

    async def look(self) -> None:
        """Find out whether it counts."""
        ...

    async def follow(self) -> None:
        """Keep it in order until cancelled."""
        ...

    async def aclose(self) -> None:
        """Let go of it."""
        ...


class Limits:
    """Lets requests in as the limits of their endpoints say.

    Args:
        meter: Counts for this machine.
        shared: Counts for several; None where there is no Redis.
        closed: Whether nobody is let in while the shared counts are away.

    Attributes:
        meter: The same.
    """

    def __init__(self, meter: Meter, tokenizer: Tokenizer, shared: Shared | None = None, *, closed: bool = False):
        self.meter = meter
        self._tokenizer = tokenizer
        self._shared = shared
        self._closed = closed

    @classmethod
    def open(cls, settings: Settings, tokenizer: Tokenizer, memory: int | None) -> "Limits":
        """The limits of a worker.

        Args:
            memory: Of the meter that all workers of this machine share; None where there is one worker.

        Raises:
            CommandError: The URL of Redis is none.
        """
        meter, shared = Meter(memory), None
        if settings.redis_url is not None:
            # Its client takes half a second and 20 MB: only who uses it loads it.
            kind = importlib.import_module("llmops.gateway.meter_redis").SharedMeter
            shared = kind(settings.redis_url, meter.count_dropped)
        return cls(meter, tokenizer, shared, closed=settings.limits_when_away == "closed")

    @property
    def is_shared(self) -> bool:
        """Whether machines share their counts."""
        return self._shared is not None

    @property
    def away(self) -> str:
        """Why the shared counts cannot be used now; empty where they can, or there are none."""
        return self._shared.away if self._shared is not None else ""

    def told(self) -> dict[str, str | None]:
        """How limits are counted, for `/ready`."""
        if not self.away:
            return {"counted": "shared" if self.is_shared else "here", "problem": None}
        then = "requests of endpoints with limits are refused" if self._closed else "each machine counts for itself"
        return {"counted": "refused" if self._closed else "here", "problem": f"Redis is away, {then}: {self.away}"}

    async def admit(self, quota: Quota, caller: Caller | None, user: str, call: Call) -> Settle:
        """Let a request in, or not.

        Args:
            user: The caller's, or who the body says where no token is asked for.

        Returns:
            What to call when its story has ended, once.

        Raises:
            LimitExceeded: A limit is used up.
            Unavailable: The shared counts are away, and this server lets nobody in then.
        """
        groups = _NO_GROUP if caller is None else caller.groups | ({USERS, ADMINS} if caller.admin else _NO_GROUP)
        conditions = quota.conditions(Who(user, groups))
        prompt, answer = self._estimate(call) if quota.counts_tokens else (0, 0)
        amounts = {CALLS: 1, TOKENS: prompt + answer}
        taken = await self._take(quota, conditions, amounts)
        if isinstance(taken, Refused):
            raise _exceeded(quota.endpoint, taken)
        held = taken

        def settle(outcome: str, usage: Usage | None) -> None:
            # A request that failed before its answer cost nothing; one that was left had its prompt read.
            unknown = 0 if outcome == "failed" else prompt
            change = (usage.total_tokens if usage is not None else unknown) - amounts[TOKENS]
            if not change or not quota.counts_tokens:
                return
            if self._shared is None or held.alone:
                self.meter.settle(held, conditions, {TOKENS: change})
            else:
                self._shared.settle(quota.endpoint, held, conditions, {TOKENS: change})

        return settle

    async def begin(self) -> None:
        """Know before the first request whether the shared counts are there."""
        if self._shared is not None:
            await self._shared.look()

    async def follow(self) -> None:
        """Keep the shared counts in order until cancelled."""
        if self._shared is not None:
            await self._shared.follow()

    async def aclose(self) -> None:
        """Let go of the shared counts."""
        if self._shared is not None:
            await self._shared.aclose()

    async def _take(self, quota: Quota, conditions: Sequence[Condition], amounts: Amounts) -> Held | Refused:
        if self._shared is None:
            return self.meter.take(conditions, amounts)
        taken = await self._shared.take(quota.endpoint, conditions, amounts)
        if taken is not None:
            if isinstance(taken, Refused):
                self.meter.count_refused(taken.condition)
            return taken
        self.meter.count_alone()
        if self._closed:
            raise Unavailable(
                f"the rate limits of endpoint '{quota.endpoint}' cannot be counted, because Redis is away; ask again"
                " later, or set LLMOPS_LIMITS_WHEN_AWAY=open"
            )
        alone = self.meter.take(conditions, amounts)
        return Held(alone.second, alone=True) if isinstance(alone, Held) else alone

    def _estimate(self, call: Call) -> tuple[int, int]:
        """Tokens of the prompt, and those that may be asked for."""
        body = call.body
        most = _count(body.get("max_completion_tokens")) or _count(body.get("max_tokens"))
        answers = max(1, _count(body.get("n")), _count(body.get("best_of")))
        prompts = completions.prompts(body) if call.task is Task.COMPLETIONS else 1
        return self._tokenizer.estimate(call.task, body, {}).input_tokens, most * answers * prompts


def _count(value: Any) -> int:
    """A number of a body that was asked for; 0 where it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _exceeded(endpoint: str, refused: Refused) -> LimitExceeded:
    condition = refused.condition
    message = (
        f"User defined rate limit(s) exceeded for '{endpoint}'. {_NAMES[condition.unit]} rate limit exceeded for"
        f" {WORDS[condition.key]}"
    )
    if refused.hopeless:
        message += "; this request needs more than the whole limit by itself"
        message += ": send less, or a smaller max_tokens" if condition.unit == TOKENS else ""
    return LimitExceeded(message, retry_after_s=refused.wait_s)
