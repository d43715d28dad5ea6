"""Tokens and permissions in a worker's memory: following the database, and doing without it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from llmops.endpoints.access import TRUST_S, Access
from llmops.endpoints.access_tokens import digest
from llmops.endpoints.caller import Caller
from llmops.endpoints.permissions import Level, Principal, level, refuse_new_ways
from llmops.endpoints.secret_database import SecretDatabase
from llmops.endpoints.store import StoredEndpoint
from llmops.errors import PermissionDenied, Unauthenticated, Unavailable
from tests.postgres import Line

Opener = Callable[..., Access]
ANN, BOB = Caller("ann", frozenset({"developers"})), Caller("bob")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """Opens what a worker of a server of this name has."""
    with ExitStack() as closing:

        def open_(name: str = "one", url: str | None = None) -> Access:
            access = Access(SecretDatabase(tmp_path / name / "llmops.db", url))
            closing.callback(access.close)
            return access

        yield open_


def _token(access: Access, owner: Caller = ANN, lifetime_s: int | None = None) -> str:
    return access.tokens.create(owner, "admin", lifetime_s=lifetime_s, comment="", locked=True)[0]


def _endpoint(*, creator: str | None = None, source: str | None = None) -> StoredEndpoint:
    return StoredEndpoint("chat", "0" * 32, {}, source, None, creator, 0, 0, 1, 1)


def test_another_process_is_followed_and_a_miss_looks_at_once(opened: Opener) -> None:
    one, other = opened(), opened()

    async def seen() -> None:
        await other.begin()
        before, value = other.on, _token(one)
        assert await other.caller(value) == ANN
        assert (before, other.on) == (False, True)
        token = one.tokens.all()[0]
        one.tokens.revoke(token.id, locked=True)
        following = asyncio.create_task(other.follow())
        await _until(lambda: not other.on)
        following.cancel()
        with pytest.raises(Unauthenticated):
            await other.caller(value)

    asyncio.run(seen())


def test_misses_that_wait_together_share_a_look_and_none_misses_what_was_written_before(opened: Opener) -> None:
    one, other = opened(), opened()

    async def seen() -> list[Caller]:
        await other.begin()
        values = [_token(one, Caller(f"user-{number}")) for number in range(50)]
        return await asyncio.gather(*(other.caller(value) for value in values))

    assert [caller.user for caller in asyncio.run(seen())] == [f"user-{number}" for number in range(50)]


def test_while_the_database_is_away_known_tokens_serve_and_unknown_ones_are_not_refused(
    opened: Opener, postgres: str
) -> None:
    with Line(postgres) as line:
        access, other = opened("one", line.url), opened("other", postgres)

        async def asked() -> None:
            await access.begin()
            value = _token(access)
            assert await access.caller(value) == ANN
            line.cut()
            late = _token(other, BOB)
            for unknown in (late, "never-made"):
                with pytest.raises(Unavailable, match="tokens cannot be looked up now: the database postgresql://"):
                    await access.caller(unknown)
            assert await access.caller(value) == ANN

            # A worker that starts now has the copy of its server.
            worker = opened("one", line.url)
            await worker.begin()
            assert await worker.caller(value) == ANN

        asyncio.run(asked())


def test_a_worker_that_never_had_a_copy_lets_nobody_in(opened: Opener, postgres: str) -> None:
    with Line(postgres) as line:
        line.cut()
        worker = opened("new", line.url)

        with pytest.raises(Unavailable, match="this server cannot know its tokens: the database postgresql://"):
            asyncio.run(worker.begin())


def test_a_database_that_stays_away_is_not_trusted_for_ever(
    opened: Opener, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Line(postgres) as line:
        access = opened("one", line.url)

        async def asked() -> None:
            await access.begin()
            value = _token(access)
            line.cut()
            await access.look()
            assert await access.caller(value) == ANN
            monkeypatch.setattr("llmops.endpoints.access.TRUST_S", 0.0)
            with pytest.raises(Unavailable):
                await access.caller(value)

        assert 300 <= TRUST_S <= 900
        asyncio.run(asked())


def test_an_expired_token_is_refused_by_who_knew_it(opened: Opener, tmp_path: Path) -> None:
    access = opened()

    async def asked() -> None:
        await access.begin()
        value = _token(access, lifetime_s=60)
        assert await access.caller(value) == ANN
        database = SecretDatabase(tmp_path / "one" / "llmops.db")
        with database.write() as ask:
            ask("UPDATE access_tokens SET expires_ms = 1", ())
        database.close()
        await access.look()
        with pytest.raises(Unauthenticated, match="the token has expired"):
            await access.caller(value)

    asyncio.run(asked())


def test_a_digest_takes_whatever_a_header_can_hold() -> None:
    assert digest("\ud800") != digest("x")
    assert len(digest("")) == 64


def test_levels_are_the_highest_of_what_is_granted() -> None:
    acl = {
        Principal("user", "ann"): Level.CAN_VIEW,
        Principal("group", "developers"): Level.CAN_QUERY,
        Principal("group", "bob"): Level.CAN_MANAGE,
    }
    of_file, of_ann = _endpoint(source="chat.yaml"), _endpoint(creator="ann")

    assert level(ANN, _endpoint(), acl) is Level.CAN_QUERY
    assert level(BOB, _endpoint(), acl) is Level.NONE
    assert level(BOB, _endpoint(), {Principal("group", "users"): Level.CAN_VIEW}) is Level.CAN_VIEW
    assert (level(ANN, of_ann, {}), level(BOB, of_ann, None)) == (Level.CAN_MANAGE, Level.NONE)
    assert (level(BOB, of_file, None), level(BOB, of_file, {})) == (Level.CAN_QUERY, Level.NONE)
    assert level(Caller("root", admin=True), _endpoint(), {}) is level(None, _endpoint(), {}) is Level.CAN_MANAGE


def test_who_may_everything_with_an_endpoint_that_nobody_made_is_the_admin_alone() -> None:
    assert level(Caller("None"), _endpoint(creator=None), None) is Level.NONE


@pytest.mark.parametrize("away", ["external_model", "api_base"])
def test_only_an_admin_changes_a_config_that_leaves_the_machine(away: str) -> None:
    entity = {"external_model": {"name": "m"}} if away == "external_model" else {"llmops": {"api_base": "http://x"}}
    outside = {"name": "e", "config": {"served_entities": [entity]}}
    inside = {"name": "e", "config": {"served_entities": [{"llmops": {"engine": "demo"}}]}}

    for old, new in ((None, outside), (inside, outside), (outside, inside)):
        with pytest.raises(PermissionDenied):
            refuse_new_ways(ANN, old, new)
        refuse_new_ways(Caller("root", admin=True), old, new)
        refuse_new_ways(None, old, new)

    refuse_new_ways(ANN, outside, {**outside, "tags": []})
    refuse_new_ways(ANN, None, inside)


async def _until(condition: Callable[[], bool]) -> None:
    """Wait for what another task brings about."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)
