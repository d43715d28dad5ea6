"""Records of a few turns of the event loop are written together, and none waits for long."""

import asyncio
from collections.abc import Sequence

from llmops.interactions.group_commit import GroupCommit


class Written:
    """What was written, each time."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []

    def __call__(self, records: Sequence[int]) -> None:
        self.groups.append(list(records))


def test_what_comes_in_the_next_turn_is_written_with_it() -> None:
    written = Written()

    async def run() -> None:
        group = GroupCommit(written)
        for number in range(3):
            group.take(number, alone=False)
            await asyncio.sleep(0)
        await group.written()

    asyncio.run(run())

    assert written.groups == [[0, 1, 2]]


def test_a_record_waits_for_a_few_turns_however_many_come() -> None:
    written = Written()

    async def run() -> None:
        group = GroupCommit(written)
        for number in range(60):
            group.take(number, alone=False)
            await asyncio.sleep(0)
        await group.written()

    asyncio.run(run())

    assert [number for group in written.groups for number in group] == list(range(60))
    assert max(map(len, written.groups)) <= 6


def test_one_that_comes_alone_is_written_at_once() -> None:
    written = Written()

    async def run() -> list[list[int]]:
        GroupCommit(written).take(1, alone=True)
        return list(written.groups)

    assert asyncio.run(run()) == [[1]]


def test_without_an_event_loop_each_is_written_at_once() -> None:
    written = Written()
    group = GroupCommit(written)

    group.take(1, alone=False)
    group.take(2, alone=False)

    assert written.groups == [[1], [2]]


def test_what_still_waits_at_the_end_is_written_by_flush() -> None:
    written = Written()

    async def run() -> None:
        group = GroupCommit(written)
        group.take(1, alone=False)
        group.flush()
        await group.written()

    asyncio.run(run())

    assert written.groups == [[1]]


def test_nobody_waits_for_ever_for_a_write_that_breaks() -> None:
    def broken(_: Sequence[int]) -> None:
        raise RuntimeError("nobody foresaw it")

    async def run() -> list[str]:
        reported: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(str(context["exception"])))
        group = GroupCommit(broken)
        group.take(1, alone=False)
        async with asyncio.timeout(10):
            await group.written()
        return reported

    assert asyncio.run(run()) == ["nobody foresaw it"]
