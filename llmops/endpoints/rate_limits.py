"""Rate limits of an endpoint, as its document has them.

Source: ../shared/reference/databricks_contract.md 7.1, 7.2
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from llmops.endpoints.document import Document

MOST_LIMITS = 20
MOST_GROUP_LIMITS = 5
#: Of an int64, as Databricks has it.
_LARGEST = 2**63 - 1
_LONGEST_PRINCIPAL = 255

Amount = Annotated[int, Field(ge=0, le=_LARGEST, strict=True)]


class RateLimit(Document):
    """How much may be asked in any 60 seconds: calls or tokens.

    Attributes:
        renewal_period: Only minute.
        calls: Requests that are let in.
        tokens: Tokens of requests and answers together.
        key: endpoint (everybody together), user (each one alone), user_group (all members together) or
            service_principal.
        principal: The one user, group or service principal it is for; without it a user's or a service principal's
            limit is everybody's own.
    """

    renewal_period: Literal["minute"]
    calls: Amount | None = None
    tokens: Amount | None = None
    key: Literal["user", "endpoint", "user_group", "service_principal"] = "endpoint"
    principal: str | None = None

    @model_validator(mode="after")
    def _one_amount_for_one_principal(self) -> Self:
        if (self.calls is None) == (self.tokens is None):
            raise ValueError("needs calls or tokens, one of the two; a limit of both is two entries")
        if self.principal is None:
            if self.key == "user_group":
                raise ValueError("needs a principal: the name of the group that shares the limit")
        elif self.key == "endpoint":
            raise ValueError("key 'endpoint' is for everybody; remove principal, or choose another key")
        elif not 0 < len(self.principal.strip()) <= _LONGEST_PRINCIPAL or not self.principal.isprintable():
            raise ValueError(f"principal must be 1 to {_LONGEST_PRINCIPAL} printable characters")
        return self

    @property
    def unit(self) -> Literal["calls", "tokens"]:
        """What it counts."""
        return "tokens" if self.calls is None else "calls"

    @property
    def most(self) -> int:
        """How many of them."""
        return (self.tokens if self.calls is None else self.calls) or 0


class CallLimit(Document):
    """A limit of the deprecated top-level ``rate_limits``.

    Attributes:
        calls: Requests that are let in within 60 seconds.
        renewal_period: Only minute.
        key: endpoint (everybody together) or user (each one alone).
    """

    calls: Amount
    renewal_period: Literal["minute"]
    key: Literal["user", "endpoint"] = "endpoint"

    def limit(self) -> RateLimit:
        """The same as ``ai_gateway.rate_limits`` says it."""
        return RateLimit(calls=self.calls, renewal_period=self.renewal_period, key=self.key)


def _one_for_each(limits: list[RateLimit]) -> list[RateLimit]:
    _check_twice(limits)
    groups = sum(limit.key == "user_group" for limit in limits)
    if groups > MOST_GROUP_LIMITS:
        raise ValueError(f"has {groups} limits of groups; at most {MOST_GROUP_LIMITS}")
    return limits


def _check_twice(limits: Sequence[RateLimit | CallLimit]) -> None:
    seen = set()
    for limit in limits:
        whole = limit if isinstance(limit, RateLimit) else limit.limit()
        named = (whole.unit, whole.key, whole.principal)
        if named in seen:
            whom = f"{whole.key} '{whole.principal}'" if whole.principal else f"key '{whole.key}'"
            raise ValueError(f"has two limits of {whole.unit} for {whom}; keep one")
        seen.add(named)


def _one_call_limit_for_each(limits: list[CallLimit]) -> list[CallLimit]:
    _check_twice(limits)
    return limits


RateLimits = Annotated[list[RateLimit], Field(max_length=MOST_LIMITS), AfterValidator(_one_for_each)]
CallLimits = Annotated[list[CallLimit], Field(max_length=MOST_LIMITS), AfterValidator(_one_call_limit_for_each)]
