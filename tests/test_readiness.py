"""What the person who started a server is told of its readiness: each change, once."""

from llmops.readiness import Readiness

READY = Readiness()


def test_nothing_new_says_nothing() -> None:
    assert list(READY.news(READY)) == []


def test_every_change_is_one_line() -> None:
    damaged = frozenset({"worker-0.db.damaged-1"})
    broken = Readiness(
        "the disk is full", full=True, damaged=damaged, limits="Redis is away, each machine counts", dead=2
    )

    assert [line.split(":")[0] for line in broken.news(READY)] == [
        "not ready",
        "the interaction log is full",
        "rate limits",
        "2 records could not be delivered (); `llmops interactions dead list` names them, and `llmops interactions dead"
        " retry --all` sends them again",
        "a damaged interaction log was moved aside",
    ]
    assert list(Readiness(damaged=broken.damaged).news(broken)) == [
        "ready again",
        "the interaction log has room again",
        "rate limits are counted together again",
    ]
