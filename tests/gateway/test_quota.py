"""Which limits a request is under, as section 7.2 of the contract has it."""

from typing import Any

from llmops.endpoints.rate_limits import RateLimit
from llmops.gateway.quota import Quota, Who

APPLICATION = "8f4c1d1e-6a0c-4f0e-9d5b-2b6f3f6f0b11"


def limit(key: str, principal: str | None = None, **amount: int) -> RateLimit:
    said: dict[str, Any] = {"renewal_period": "minute", "key": key, "principal": principal, **amount}
    return RateLimit.model_validate(said)


def asked(limits: list[RateLimit], user: str, *groups: str) -> list[tuple[str, str, tuple[int, ...]]]:
    """The conditions of a user's request: for whom, of what, and how much."""
    quota = Quota.of("chat", limits)
    assert quota is not None
    found = quota.conditions(Who(user, frozenset(groups)))
    return [(one.key, one.unit, tuple(cell.most for cell in one.cells)) for one in found]


def test_no_limits_are_no_quota() -> None:
    assert Quota.of("chat", []) is None


def test_everybody_is_under_the_endpoints_limit_and_the_default_of_users() -> None:
    limits = [limit("user", calls=2), limit("endpoint", calls=9), limit("endpoint", tokens=500)]

    assert asked(limits, "ann") == [
        ("endpoint", "calls", (9,)),
        ("user", "calls", (2,)),
        ("endpoint", "tokens", (500,)),
    ]


def test_a_limit_of_ones_own_replaces_the_default_and_that_of_groups() -> None:
    limits = [limit("user", calls=2), limit("user", "ann", calls=7), limit("user_group", "staff", calls=3)]

    assert asked(limits, "ann", "staff") == [("user", "calls", (7,))]
    assert asked(limits, "bob", "staff") == [("user", "calls", (2,)), ("user_group", "calls", (3,))]


def test_a_limit_of_ones_own_calls_leaves_the_default_of_tokens() -> None:
    limits = [limit("user", tokens=100), limit("user", "ann", calls=7)]

    assert asked(limits, "ann") == [("user", "calls", (7,)), ("user", "tokens", (100,))]


def test_groups_are_one_condition_of_several_cells() -> None:
    groups = [limit("user_group", name, calls=most) for name, most in (("a", 3), ("b", 5), ("c", 8))]

    assert asked(groups, "ann", "a", "b") == [("user_group", "calls", (3, 5))]
    assert asked(groups, "bob") == []


def test_a_service_principal_has_its_own_limit_its_own_default_or_that_of_users() -> None:
    own, default, users = (
        limit("service_principal", APPLICATION, calls=4),
        limit("service_principal", calls=3),
        limit("user", calls=2),
    )

    assert asked([own, default, users], APPLICATION) == [("service_principal", "calls", (4,))]
    assert asked([default, users], APPLICATION) == [("service_principal", "calls", (3,))]
    assert asked([users], APPLICATION) == [("user", "calls", (2,))]
    assert asked([own, default, users], "ann") == [("user", "calls", (2,))]


def test_of_two_limits_for_the_same_the_stricter_holds() -> None:
    assert asked([limit("endpoint", calls=9), limit("endpoint", calls=4)], "ann") == [("endpoint", "calls", (4,))]


def test_one_principal_named_in_two_ways_is_counted_once() -> None:
    twice = [limit("user", APPLICATION, calls=9), limit("service_principal", APPLICATION, calls=4)]

    assert asked(twice, APPLICATION) == [("service_principal", "calls", (4,))]


def test_a_count_is_the_same_whatever_limit_looks_at_it() -> None:
    """A user who gets a limit of their own does not begin anew."""
    default, own = Quota.of("chat", [limit("user", calls=2)]), Quota.of("chat", [limit("user", "ann", calls=7)])
    assert default is not None
    assert own is not None
    who = Who("ann", frozenset())

    assert default.conditions(who)[0].cells[0].name == own.conditions(who)[0].cells[0].name
    assert default.conditions(Who("bob", frozenset()))[0].cells[0].name != own.conditions(who)[0].cells[0].name


def test_what_no_one_can_be_named_is_counted_too() -> None:
    """A body may name any user, also one that is no text of UTF-8."""
    assert asked([limit("user", calls=2)], "\ud800") == [("user", "calls", (2,))]
