"""Calls that go only to addresses that were looked at, against a real upstream on loopback."""

import asyncio
from collections.abc import Iterable, Iterator

import pytest

from llmops.errors import EndpointNotReady, UpstreamMalformed, UpstreamUnreachable
from llmops.protocol.task import Task
from llmops.providers.egress import Egress
from llmops.providers.guarded import Checked, Guarded
from llmops.providers.provider import Answer, AnswerStream, Call, Limits
from llmops.providers.upstream import refusal
from tests.scripts import chat, redirect
from tests.upstream import Ear, Upstream, refused_url

HOST = "api.example.test"
LOOPBACK = Egress.read(["127.0.0.1"])


class Names:
    """A resolver whose next answers are written down."""

    def __init__(self, *answers: Iterable[str] | None) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str) -> Iterable[str]:
        assert host == HOST
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            raise OSError("Name or service not known")
        return answer


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        running.always(chat("Hello."))
        yield running


def ask(upstream: Upstream, *answers: Iterable[str] | None, times: int = 1, fresh_s: float = 0.0) -> list[int | str]:
    """Call the upstream by its name, one call after the other; the statuses, or what went wrong."""
    port = upstream.url.rpartition(":")[2]
    return calls(f"http://{HOST}:{port}/v1", Names(*answers), times=times, fresh_s=fresh_s)


def calls(url: str, names: Names, *, times: int = 1, fresh_s: float = 0.0) -> list[int | str]:
    async def run() -> list[int | str]:
        guarded = Guarded(Egress(LOOPBACK.networks, resolve=names), fresh_s)
        seen: list[int | str] = []
        try:
            for _ in range(times):
                try:
                    seen.append((await guarded.fetch("POST", url, {}, b"{}", 5, "entity"))[0])
                except (EndpointNotReady, UpstreamUnreachable) as err:
                    seen.append(f"{type(err).__name__}: {err.message}")
        finally:
            await guarded.aclose()
        return seen

    return asyncio.run(run())


def test_a_name_is_called_at_the_address_that_was_looked_at(upstream: Upstream) -> None:
    """The system's own resolver does not know the name: that the call arrives proves that it was not asked."""
    assert ask(upstream, ["127.0.0.1"]) == [200]
    assert upstream.requests[0].headers["host"].startswith(f"{HOST}:")


def test_a_name_that_leads_inside_later_is_refused_then(upstream: Upstream) -> None:
    first, second, third = ask(upstream, ["127.0.0.1"], ["127.0.0.2"], times=3)

    assert first == 200
    assert isinstance(second, str)
    assert second.startswith(f"EndpointNotReady: entity: the address of '{HOST}' is loopback")
    assert third == second
    assert len(upstream.requests) == 1


def test_between_two_looks_the_address_stays_the_one_that_was_looked_at(upstream: Upstream) -> None:
    assert ask(upstream, ["127.0.0.1"], ["127.0.0.2"], times=3, fresh_s=60) == [200, 200, 200]
    assert len(upstream.requests) == 3


def test_the_refused_addresses_of_a_name_are_not_even_tried(upstream: Upstream) -> None:
    with Ear("127.0.0.2", upstream) as ear:
        assert ask(upstream, ["127.0.0.2", "10.0.0.1", "127.0.0.1"]) == [200]
        assert not ear.heard


def test_connections_are_kept_while_the_address_stays(upstream: Upstream) -> None:
    """The client gives a connection back in a thread of its own, now and then after the next call has begun."""
    assert ask(upstream, ["127.0.0.1"], times=30) == [200] * 30
    assert upstream.accepted < 30


def test_a_resolver_that_falls_silent_stops_nobody_it_answered_before(upstream: Upstream) -> None:
    assert ask(upstream, ["127.0.0.1"], None, times=3) == [200, 200, 200]


def test_a_name_without_an_address_cannot_be_reached(upstream: Upstream) -> None:
    assert ask(upstream, None) == ["UpstreamUnreachable: entity cannot be reached (Name or service not known)"]


def test_a_literal_address_is_looked_at_too(upstream: Upstream) -> None:
    port = upstream.url.rpartition(":")[2]

    assert calls(upstream.url, Names(None)) == [200]
    (refused,) = calls(f"http://127.0.0.2:{port}", Names(None))
    assert "'127.0.0.2' is loopback" in str(refused)
    (mapped,) = calls(f"http://[::ffff:127.0.0.2]:{port}", Names(None))
    assert "is loopback" in str(mapped)
    (odd,) = calls(f"http://2130706433:{port}", Names(None))
    assert "entity: the URL names an address in an unusual way" in str(odd)


def test_a_proxy_of_the_environment_is_not_asked_to_connect(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, refused_url())

    assert ask(upstream, ["127.0.0.1"]) == [200]
    assert calls(upstream.url, Names(None)) == [200]


def test_many_first_calls_at_once_share_connections_to_one_host(upstream: Upstream) -> None:
    async def run() -> int:
        names = Names(["127.0.0.1"])
        guarded = Guarded(Egress(LOOPBACK.networks, resolve=names))
        url = f"http://{HOST}:{upstream.url.rpartition(':')[2]}"
        answers = await asyncio.gather(*(guarded.fetch("POST", url, {}, b"{}", 5, "entity") for _ in range(20)))
        again = await guarded.fetch("POST", url, {}, b"{}", 5, "entity")
        await guarded.aclose()
        assert {status for status, _, _ in (*answers, again)} == {200}
        return names.asked

    assert asyncio.run(run()) <= 20


def test_a_redirect_to_a_place_inside_is_not_followed(upstream: Upstream) -> None:
    upstream.play(redirect("http://127.0.0.2/secret"))

    (status,) = ask(upstream, ["127.0.0.1"])
    assert status == 307
    assert isinstance(refusal(307, {}, b"", "entity"), UpstreamMalformed)


class Inner:
    """A provider that counts the calls that reach it."""

    def __init__(self) -> None:
        self.calls = 0

    async def answer(self, call: Call) -> Answer:
        self.calls += 1
        return Answer(200, b"{}", {})

    async def stream(self, call: Call) -> AnswerStream:
        self.calls += 1
        raise NotImplementedError


CALL = Call(Task.CHAT, {}, False, Limits(), {})


def checked(url: str, *answers: Iterable[str], times: int = 1) -> tuple[int, str]:
    """Call a provider behind the check; how many calls reached it, and the last refusal."""

    async def run() -> tuple[int, str]:
        inner, said = Inner(), ""
        provider = Checked(inner, Egress(resolve=Names(*answers)), url, "entity", fresh_s=0)
        for _ in range(times):
            try:
                await provider.answer(CALL)
            except EndpointNotReady as err:
                said = err.message
        return inner.calls, said

    return asyncio.run(run())


def test_a_call_of_the_child_is_refused_once_its_name_leads_inside() -> None:
    reached, said = checked(f"https://{HOST}/v1", ["93.184.215.14"], ["10.0.0.1"], times=2)

    assert reached == 1
    assert said.startswith(f"entity: the address of '{HOST}' is private; ")


def test_a_call_of_the_child_that_a_proxy_would_make_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", refused_url())
    monkeypatch.setenv("no_proxy", "")

    reached, said = checked(f"https://{HOST}/v1", ["93.184.215.14"])
    assert reached == 0
    assert "the proxy of the environment would connect to it unseen; name the host in LLMOPS_ALLOWED_NETWORKS" in said
