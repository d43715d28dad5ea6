"""What a server says of its own readiness, as lines for the person who started it."""

from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from llmops.errors import UpstreamError
from llmops.providers.upstream import Upstreams


@dataclass(frozen=True, slots=True)
class Readiness:
    """One look at ``/ready``.

    Attributes:
        reason: Why the server is not ready; empty where it is.
        full: Whether the interaction log of a worker is full.
        damaged: Names of spool files that were moved aside.
        limits: Why rate limits are not counted as they should be; empty where they are.
        dead: Dead letters: records that a sink will not get unless somebody acts.
        dead_reason: Why one of them is one; empty where there is none.
    """

    reason: str = ""
    full: bool = False
    damaged: frozenset[str] = frozenset()
    limits: str = ""
    dead: int = 0
    dead_reason: str = ""

    def news(self, before: "Readiness") -> Iterator[str]:
        """What is different from the look before."""
        if self.reason != before.reason:
            yield f"not ready: {self.reason}" if self.reason else "ready again"
        if self.full != before.full:
            yield (
                "the interaction log is full: new interactions are not recorded as they should be; see /ready"
                if self.full
                else "the interaction log has room again"
            )
        if bool(self.limits) != bool(before.limits):
            yield f"rate limits: {self.limits}" if self.limits else "rate limits are counted together again"
        if self.dead > before.dead:
            yield (
                f"{self.dead} records could not be delivered ({self.dead_reason}); `llmops interactions dead list`"
                " names them, and `llmops interactions dead retry --all` sends them again"
            )
        for name in sorted(self.damaged - before.damaged):
            yield f"a damaged interaction log was moved aside: {name}; what can be read of it is delivered"


async def readiness(upstreams: Upstreams, url: str, limit_s: float) -> Readiness:
    """Ask a server whether it is ready."""
    try:
        status, _, body = await upstreams.fetch("GET", f"{url}/ready", {}, None, limit_s, "the worker")
        told = orjson.loads(body)
        # A file is renamed once more when its records have been brought out of it.
        damaged = frozenset(name.replace(".unread-", ".damaged-") for name in told["spool"]["damaged_files"])
        dead = told["dead_letters"]
        return Readiness(
            reason="" if status == 200 else str(told["reason"]),
            full=bool(told["spool"]["full"]),
            damaged=damaged,
            limits=str(told["rate_limits"]["problem"] or ""),
            dead=int(dead["records"]),
            dead_reason=str(dead["last_reason"] or ""),
        )
    except (UpstreamError, ValueError, KeyError, TypeError) as err:
        return Readiness(str(err) or type(err).__name__)
