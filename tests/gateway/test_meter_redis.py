"""The counts that machines share, in a real Redis; a way to it that breaks is in tests/test_rate_limits.py."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from llmops.errors import CommandError
from llmops.gateway.meter import Held, Refused
from llmops.gateway.meter_redis import MOST_WAITING, SharedMeter
from llmops.gateway.quota import CALLS, TOKENS, Cell, Condition
from tests.redis_server import own_name, redis_url

ONE = {CALLS: 1}


def condition(*limits: tuple[str, int], key: str = "endpoint", unit: str = CALLS) -> Condition:
    return Condition(key, unit, tuple(Cell(name.encode().ljust(16, b"."), most) for name, most in limits))


def with_two(
    test: Callable[[SharedMeter, SharedMeter, str], Awaitable[None]], dropped: Callable[[int], None] = print
) -> None:
    """Run a test with the meters of two machines and the name of an endpoint of its own."""
    url = redis_url()

    async def run() -> None:
        one, other = SharedMeter(url, dropped), SharedMeter(url, dropped)
        try:
            await test(one, other, own_name())
        finally:
            await one.aclose()
            await other.aclose()

    asyncio.run(run())


def key(endpoint: str, name: str) -> str:
    return f"llmops:limits:{{{endpoint}}}:{name.encode().ljust(16, b'.').hex()}"


def test_two_machines_at_once_admit_exactly_the_limit() -> None:
    async def test(one: SharedMeter, other: SharedMeter, endpoint: str) -> None:
        demanded = [condition(("all", 10)), condition(("ann", 30), key="user")]
        answers = await asyncio.gather(*(meter.take(endpoint, demanded, ONE) for meter in (one, other) * 50))

        refused = [answer for answer in answers if isinstance(answer, Refused)]
        assert sum(isinstance(answer, Held) for answer in answers) == 10
        assert len(refused) == 90
        assert all(answer.condition == demanded[0] and 1 <= answer.wait_s <= 61 for answer in refused)

    with_two(test)


def test_what_is_older_than_a_minute_counts_no_more_and_the_wait_is_for_the_oldest() -> None:
    async def test(one: SharedMeter, _: SharedMeter, endpoint: str) -> None:
        now = int(time.time())
        async with Redis.from_url(redis_url()) as redis:
            await redis.hset(key(endpoint, "all"), mapping={str(now - 70): 100, str(now - 40): 2, str(now - 20): 3})

        told = await one.take(endpoint, [condition(("all", 5))], ONE)
        room = await one.take(endpoint, [condition(("all", 6))], ONE)

        assert isinstance(told, Refused)
        assert 15 <= told.wait_s <= 21
        assert isinstance(room, Held)

    with_two(test)


def test_a_refused_request_is_charged_nowhere_and_groups_are_used_up_together() -> None:
    async def test(one: SharedMeter, other: SharedMeter, endpoint: str) -> None:
        none, all_ = condition(("none", 0)), condition(("all", 1))
        groups = condition(("a", 2), ("b", 4), key="user_group")

        assert isinstance(await one.take(endpoint, [all_, none], ONE), Refused)
        assert isinstance(await other.take(endpoint, [all_], ONE), Held)
        assert [isinstance(await one.take(endpoint, [groups], ONE), Held) for _ in range(6)] == [True] * 4 + [False] * 2

    with_two(test)


@pytest.mark.parametrize(("change", "left"), [(-8, 8), (-30, 10), (5, 0)])
def test_what_was_charged_is_corrected(change: int, left: int) -> None:
    async def test(one: SharedMeter, other: SharedMeter, endpoint: str) -> None:
        tokens = condition(("t", 10), unit=TOKENS)
        held = await one.take(endpoint, [tokens], {TOKENS: 10})
        assert isinstance(held, Held)

        one.settle(endpoint, held, [tokens], {TOKENS: change})
        await one.aclose()

        answers = [await other.take(endpoint, [tokens], {TOKENS: 1}) for _ in range(20)]
        assert sum(isinstance(answer, Held) for answer in answers) == left

    with_two(test)


def test_corrections_beyond_what_can_wait_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    dropped: list[int] = []

    async def test(one: SharedMeter, other: SharedMeter, endpoint: str) -> None:
        tokens = condition(("t", 2 * MOST_WAITING), unit=TOKENS)
        held = await one.take(endpoint, [tokens], {TOKENS: 2 * MOST_WAITING})
        assert isinstance(held, Held)

        for _ in range(MOST_WAITING + 3):
            one.settle(endpoint, held, [tokens], {TOKENS: -1})
        await one.aclose()

        async with Redis.from_url(redis_url()) as redis:
            left = await redis.hvals(key(endpoint, "t"))
        assert [int(count) for count in left] == [MOST_WAITING]

    with_two(test, dropped.append)

    assert dropped == [1, 1, 1]
    assert "event=limits_corrections_dropped count=1" in caplog.text


def test_tokens_of_a_caller_who_left_while_redis_counted_are_given_back() -> None:
    async def test(one: SharedMeter, other: SharedMeter, endpoint: str) -> None:
        tokens = condition(("t", 10), unit=TOKENS)
        asking = asyncio.ensure_future(one.take(endpoint, [tokens], {TOKENS: 10}))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await one.aclose()

        async with Redis.from_url(redis_url()) as redis:
            assert await redis.hvals(key(endpoint, "t")) == [b"0"]
        assert isinstance(await other.take(endpoint, [tokens], {TOKENS: 10}), Held)

    with_two(test)


def test_what_was_counted_goes_by_itself() -> None:
    async def test(one: SharedMeter, _: SharedMeter, endpoint: str) -> None:
        await one.take(endpoint, [condition(("all", 5))], ONE)

        async with Redis.from_url(redis_url()) as redis:
            assert 60 < await redis.ttl(key(endpoint, "all")) <= 122

    with_two(test)


def test_a_request_beyond_the_whole_limit_is_told_so() -> None:
    async def test(one: SharedMeter, _: SharedMeter, endpoint: str) -> None:
        told = await one.take(endpoint, [condition(("t", 5), unit=TOKENS)], {TOKENS: 6})

        assert isinstance(told, Refused)
        assert (told.hopeless, told.wait_s) == (True, 60)

    with_two(test)


def test_scripts_that_redis_forgot_are_sent_again() -> None:
    async def test(one: SharedMeter, _: SharedMeter, endpoint: str) -> None:
        await one.take(endpoint, [condition(("all", 5))], ONE)
        async with Redis.from_url(redis_url()) as redis:
            await redis.script_flush()

        assert isinstance(await one.take(endpoint, [condition(("all", 5))], ONE), Held)

    with_two(test)


def test_a_url_that_is_none_of_a_redis_is_refused_without_its_password() -> None:
    with pytest.raises(CommandError, match="LLMOPS_REDIS_URL") as refused:
        SharedMeter("http://user:hunter2@host", print)

    assert "hunter2" not in refused.value.message
