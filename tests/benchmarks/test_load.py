"""The load generator and what it is measured against: every count is what the other side counted."""

import asyncio
import json
from array import array
from dataclasses import replace

import pytest

from benchmarks import systems
from benchmarks.load import Plan, run
from benchmarks.tally import Tally, percentiles
from benchmarks.upstream import BODY_BYTES, Served, completion, serve
from tests import faults
from tests.scripts import chat_stream, obliging, status
from tests.upstream import Upstream, refused_url
from tests.wire import Script

SHORT = Plan("", connections=4, seconds=0.2)


def play(plan: Plan) -> tuple[Tally, Served]:
    """Play a plan against the fixed upstream; what the load saw, and what the upstream served."""

    async def both() -> tuple[Tally, Served]:
        server, served = await serve(chunks=20)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await run(replace(plan, url=f"http://127.0.0.1:{port}/v1/chat/completions")), served

    return asyncio.run(both())


def test_the_fixed_answer_is_a_chat_completion_of_the_size_it_claims() -> None:
    answer = json.loads(completion())

    assert len(completion()) == BODY_BYTES
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_plain_answers_are_counted_as_the_upstream_counts_them() -> None:
    tally, served = play(SHORT)

    assert tally.answered == served.plain > 4
    assert (tally.statuses, tally.failed) == ({200: served.plain}, 0)
    assert tally.body_bytes == BODY_BYTES * served.plain
    assert len(tally.latencies) == len(tally.first_bytes) == served.plain


@pytest.mark.parametrize("gap_ms", [0, 1])
def test_streams_and_their_events_are_counted_as_the_upstream_counts_them(gap_ms: int) -> None:
    tally, served = play(replace(SHORT, stream=True, gap_ms=gap_ms))

    assert tally.answered == served.streams >= 4
    assert tally.events == served.chunks == 20 * served.streams
    assert all(first < last for first, last in zip(tally.first_bytes, tally.latencies, strict=True))


def test_an_open_loop_sends_its_rate_times_its_seconds() -> None:
    tally, served = play(replace(SHORT, rate=200.0))

    assert tally.answered == served.plain == 40


@pytest.mark.parametrize(
    ("script", "counted"),
    [
        (faults.reset_before_headers(), {"reset": 1}),
        (faults.reset_in_body(), {"cut": 1}),
        (faults.cut(chat_stream(), 2), {"cut": 1}),
        (faults.raw(b"no http\r\n\r\n"), {"malformed": 1}),
        (chat_stream(done=False), {"no_done": 1}),
        (faults.accept_and_stall(), {"unfinished": 1}),
    ],
)
def test_a_broken_answer_is_an_error_and_nothing_else(script: Script, counted: dict[str, int]) -> None:
    with Upstream() as upstream:
        upstream.play(script)
        upstream.always(obliging())
        url = f"{upstream.url}/v1/chat/completions"
        tally = asyncio.run(run(Plan(url, connections=1, seconds=0.1, stream=True, drain_s=0.1)))

        assert tally.errors == counted
        assert tally.answered == len(upstream.requests) - 1
        assert tally.failed == 1


def test_an_error_status_is_a_failure_and_no_latency() -> None:
    with Upstream() as upstream:
        upstream.always(status(503))
        tally = asyncio.run(run(Plan(upstream.url, connections=2, seconds=0.05)))

        assert tally.statuses == {503: len(upstream.requests)}
        assert (tally.answered, tally.failed) == (0, len(upstream.requests))
        assert tally.summary()["latency_ms"]["p50"] is None


def test_requests_that_became_due_behind_a_stalled_one_are_failures() -> None:
    with Upstream() as upstream:
        upstream.play(faults.accept_and_stall())
        tally = asyncio.run(run(Plan(upstream.url, connections=1, seconds=0.1, rate=100.0, drain_s=0.1)))

        assert len(upstream.requests) == 1
    assert (tally.errors, tally.answered) == ({"unfinished": 10}, 0)


def test_a_connection_nobody_accepts_is_an_error() -> None:
    tally = asyncio.run(run(Plan(refused_url(), connections=2, seconds=0.1)))

    assert (tally.errors, tally.answered) == ({"connect": 2}, 0)


def test_the_pass_through_gives_back_what_the_upstream_said() -> None:
    with systems.upstream() as direct, systems.passthrough(direct) as passthrough:
        plain = asyncio.run(run(replace(SHORT, url=passthrough.url)))
        streamed = asyncio.run(run(replace(SHORT, url=passthrough.url, stream=True)))
        rss_mb = passthrough.worker_rss_mb()

    assert (plain.failed, plain.body_bytes) == (0, BODY_BYTES * plain.answered)
    assert (streamed.failed, streamed.events) == (0, 200 * streamed.answered)
    assert plain.answered > 0 < streamed.answered
    assert 10 < rss_mb < 150


def test_a_frozen_system_answers_again_when_it_is_thawed() -> None:
    with systems.upstream() as direct, systems.passthrough(direct) as passthrough:
        passthrough.freeze()
        frozen = asyncio.run(run(replace(SHORT, url=passthrough.url, drain_s=0.1)))
        passthrough.thaw()
        thawed = asyncio.run(run(replace(SHORT, url=passthrough.url)))

    assert (frozen.answered, frozen.errors) == (0, {"unfinished": SHORT.connections})
    assert thawed.answered > 0 == thawed.failed


def test_percentiles_are_by_nearest_rank() -> None:
    times = array("d", (n / 1000 for n in range(100, 0, -1)))

    assert percentiles(times) == {"p50": 50.0, "p99": 99.0, "p999": 100.0, "max": 100.0}
