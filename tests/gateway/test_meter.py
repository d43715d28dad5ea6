"""The counts of one machine, with a clock of the test's own, and from processes that are killed."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.gateway.meter import BUCKETS, Held, Meter, Refused, shared_memory
from llmops.gateway.quota import CALLS, TOKENS, Cell, Condition

ONE = {CALLS: 1}


@dataclass
class Clock:
    """Seconds, as the test says."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def condition(*limits: tuple[str, int], key: str = "endpoint", unit: str = CALLS) -> Condition:
    return Condition(key, unit, tuple(Cell(name.encode().ljust(16, b"."), most) for name, most in limits))


def admitted(meter: Meter, conditions: Sequence[Condition], count: int) -> int:
    return sum(isinstance(meter.take(conditions, ONE), Held) for _ in range(count))


@settings(max_examples=200, deadline=None)
@given(
    most=st.integers(0, 7),
    steps=st.lists(
        st.tuples(st.floats(0, 70), st.integers(0, 2), st.sampled_from(["ann", "bob"]), st.integers(1, 3)),
        max_size=80,
    ),
)
def test_no_sixty_seconds_admit_more_than_the_limit(most: int, steps: list[tuple[float, int, str, int]]) -> None:
    """Whatever workers take whenever: the endpoint's limit and each user's hold in every 60 s, wherever they begin."""
    clock, memory = Clock(), shared_memory()
    workers = [Meter(memory, clock) for _ in range(3)]
    log: list[tuple[float, str, int]] = []

    for wait, worker, user, amount in steps:
        clock.now += wait
        demanded = [condition(("all", 2 * most)), condition((user, most), key="user")]
        if isinstance(workers[worker].take(demanded, {CALLS: amount}), Held):
            log.append((clock.now, user, amount))
    os.close(memory)

    for begin, _, _ in log:
        window = [(user, amount) for at, user, amount in log if begin <= at <= begin + 60]
        used = Counter[str]()
        for user, amount in window:
            used[user] += amount
        assert used.total() <= 2 * most
        assert max(used.values()) <= most


@settings(max_examples=100, deadline=None)
@given(
    most=st.integers(1, 5),
    waits=st.lists(st.floats(0, 30), max_size=20),
    needed=st.integers(1, 5),
)
def test_who_waits_as_long_as_told_is_let_in_and_not_a_second_before(
    most: int, waits: list[float], needed: int
) -> None:
    clock = Clock()
    meter, demanded = Meter(clock=clock), [condition(("all", most))]
    for wait in waits:
        clock.now += wait
        meter.take(demanded, ONE)
    clock.now = float(int(clock.now))

    told = meter.take(demanded, {CALLS: needed})

    if isinstance(told, Refused) and not told.hopeless:
        clock.now += told.wait_s - 1
        assert isinstance(meter.take(demanded, {CALLS: needed}), Refused)
        clock.now += 1
        assert isinstance(meter.take(demanded, {CALLS: needed}), Held)
    else:
        assert isinstance(told, Refused) == (needed > most)


def test_a_burst_at_the_turn_of_a_minute_is_no_special_case() -> None:
    clock = Clock(59.9)
    meter, demanded = Meter(clock=clock), [condition(("all", 10))]

    before = admitted(meter, demanded, 20)
    clock.now = 60.1
    after = admitted(meter, demanded, 20)

    assert (before, after) == (10, 0)


def test_a_refused_request_is_charged_nowhere() -> None:
    meter = Meter(clock=Clock())
    narrow, wide = condition(("user", 1), key="user"), condition(("all", 3))

    assert admitted(meter, [wide, narrow], 5) == 1
    assert admitted(meter, [wide], 5) == 2


def test_a_member_of_two_groups_is_refused_when_both_are_used_up() -> None:
    meter = Meter(clock=Clock())

    assert admitted(meter, [condition(("a", 2), ("b", 4), key="user_group")], 9) == 4


def test_the_refusal_names_the_limit_that_takes_longest() -> None:
    clock = Clock()
    meter, calls, tokens = Meter(clock=clock), condition(("c", 1)), condition(("t", 5), unit=TOKENS)
    meter.take([calls], ONE)
    clock.now += 30
    meter.take([tokens], {TOKENS: 5})

    told = meter.take([calls, tokens], {CALLS: 1, TOKENS: 3})

    assert told == Refused(tokens, BUCKETS)
    assert meter.refusals()[("endpoint", TOKENS)] == 1


def test_a_request_beyond_the_whole_limit_is_told_so() -> None:
    meter, tokens = Meter(clock=Clock()), condition(("t", 5), unit=TOKENS)

    told = meter.take([tokens], {TOKENS: 6})

    assert isinstance(told, Refused)
    assert told.hopeless


@pytest.mark.parametrize(("change", "left"), [(-8, 8), (-10, 10), (0, 0), (5, 0)])
def test_what_was_charged_is_corrected_when_the_answer_has_ended(change: int, left: int) -> None:
    meter, tokens = Meter(clock=Clock()), condition(("t", 10), unit=TOKENS)
    held = meter.take([tokens], {TOKENS: 10})
    assert isinstance(held, Held)

    meter.settle(held, [tokens], {TOKENS: change})

    assert admitted_tokens(meter, tokens) == left


def test_what_an_answer_took_beyond_its_estimate_counts_from_its_end() -> None:
    clock = Clock()
    meter, tokens = Meter(clock=clock), condition(("t", 10), unit=TOKENS)
    held = meter.take([tokens], {TOKENS: 1})
    assert isinstance(held, Held)
    clock.now += 40
    meter.settle(held, [tokens], {TOKENS: 9})

    clock.now += 30

    assert admitted_tokens(meter, tokens) == 1


def test_what_was_charged_long_ago_is_given_back_to_nobody() -> None:
    clock = Clock()
    meter, tokens = Meter(clock=clock), condition(("t", 10), unit=TOKENS)
    held = meter.take([tokens], {TOKENS: 10})
    assert isinstance(held, Held)
    clock.now += BUCKETS
    meter.take([tokens], {TOKENS: 10})

    meter.settle(held, [tokens], {TOKENS: -10})

    assert admitted_tokens(meter, tokens) == 0


def test_a_clock_that_steps_back_stands_still() -> None:
    clock = Clock()
    meter, demanded = Meter(clock=clock), [condition(("all", 2))]
    meter.take(demanded, ONE)

    clock.now -= 500

    assert admitted(meter, demanded, 5) == 1


def test_a_place_is_used_again_when_its_minute_is_over_and_refused_while_there_is_none() -> None:
    """64 counts whose names point to one place are all the places there are for it."""
    clock = Clock()
    meter, names = Meter(clock=clock), [f"same    {number:08}" for number in range(65)]
    for name in names[:64]:
        assert admitted(meter, [condition((name, 1))], 2) == 1

    before = admitted(meter, [condition((names[64], 1))], 1)
    clock.now += BUCKETS

    assert before == 0
    assert admitted(meter, [condition((names[64], 1))], 2) == 1
    assert admitted(meter, [condition((names[63], 1))], 2) == 1


def test_processes_share_their_counts_and_one_that_is_killed_stops_nobody() -> None:
    """Each of six is killed in the middle of its work; what the others and we are given stays within the limit."""
    memory, most = shared_memory(), 10_000_000
    program = (
        "import sys; from llmops.gateway.meter import Meter; from tests.gateway.test_meter import ONE, condition\n"
        f"meter, all_, none = Meter({memory}), [condition(('all', {most}))], [condition(('none', 0))]\n"
        "print('begun', flush=True)\n"
        "while True: meter.take(all_, ONE); meter.take(none, ONE)\n"
    )
    for _ in range(3):
        pair = [
            subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, pass_fds=(memory,))
            for _ in range(2)
        ]
        for process in pair:
            assert process.stdout is not None
            process.stdout.readline()
        for process in pair:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    meter, whole = Meter(memory), [condition(("all", most))]

    given = sum(
        step for step in (100_000, 1000, 1) for _ in range(1000) if isinstance(meter.take(whole, {CALLS: step}), Held)
    )
    left = admitted(meter, whole, 10)
    fresh = admitted(meter, [condition(("fresh", 3))], 5)
    os.close(memory)

    assert given < most, "nobody else counted"
    assert (left, fresh) == (0, 3)


def test_nothing_is_mapped_until_something_is_counted() -> None:
    memory = shared_memory()
    meter = Meter(memory)

    refusals, alone = meter.refusals(), meter.alone()

    assert os.fstat(memory).st_size == 0
    assert (set(refusals.values()), alone) == ({0}, 0)
    os.close(memory)


def admitted_tokens(meter: Meter, tokens: Condition) -> int:
    return sum(isinstance(meter.take([tokens], {TOKENS: 1}), Held) for _ in range(20))
