"""Rate limits of a real server with four workers: at every door, exact, and settled with what answers really took."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmops.protocol.task import PATH, Task
from routes.invocations import NAMED_DOORS, TASK_DOORS
from tests.logged import flush, runs
from tests.postgres import Line
from tests.redis_server import own_name, redis_url
from tests.routes.callers import LOCKED, Person, admin, person
from tests.scripts import DONE, chat, chat_stream, document, event, status, stream
from tests.server import Server, demo, external
from tests.upstream import Upstream
from tests.wire import Gate

KEY = {"LLMOPS_SECRET_TEST_KEY": "sk-test"}
HELLO = {"messages": [{"role": "user", "content": "x"}]}
APPLICATION = "8f4c1d1e-6a0c-4f0e-9d5b-2b6f3f6f0b11"
#: What a scripted answer says it took, and the most that three of them leave room for.
TOOK, THREE_FIT = 12, 30
KINDS = ("plain", "stream", "failed", "left", "held", "call", "call-stream", "thought", "thought-stream")
CALLS = "User defined rate limit(s) exceeded for '{}'. Requests-per-minute (RPM) rate limit exceeded for {}"
TOKENS = "User defined rate limit(s) exceeded for '{}'. Tokens-per-minute (TPM) rate limit exceeded for {}"


def limited(document: Mapping[str, Any], *limits: Mapping[str, Any]) -> dict[str, Any]:
    """An endpoint with limits."""
    given = [{"renewal_period": "minute", **limit} for limit in limits]
    return {**document, "ai_gateway": {"rate_limits": given}}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path, upstream: Upstream) -> Iterator[Server]:
    """Four workers that ask for tokens; each test has an endpoint of its own."""
    url, tokens = upstream.url, {"tokens": THREE_FIT}
    endpoints = (
        limited(external("burst", url), {"calls": 10}),
        limited(external("shut", url), {"calls": 0}),
        limited(demo("each"), {"calls": 2, "key": "user"}, {"calls": 1, "key": "service_principal"}),
        limited(demo("own"), {"calls": 1, "key": "user"}, {"calls": 3, "key": "user", "principal": "ann"}),
        limited(demo("groups"), *({"calls": n, "key": "user_group", "principal": g} for g, n in (("a", 2), ("b", 4)))),
        {**demo("old"), "rate_limits": [{"calls": 1, "renewal_period": "minute", "key": "user"}]},
        *(limited(external(f"tokens-{kind}", url), tokens) for kind in KINDS),
        limited(demo("kept"), {"calls": 1}),
        limited(demo("logged"), {"calls": 1}),
    )
    folder = tmp_path_factory.mktemp("limited")
    running = Server(folder, endpoints, environment={**KEY, **LOCKED}, options=("--no-mlflow-ui", "--workers", "4"))
    running.data_dir.mkdir()
    shutil.copy(mlflow_template, running.data_dir / "mlflow.db")
    with running:
        yield running


@pytest.fixture
def scripted(upstream: Upstream) -> Upstream:
    upstream.forget()
    return upstream


def statuses(who: Person, endpoint: str, count: int) -> list[int]:
    return [who.ask(endpoint).status_code for _ in range(count)]


def storm(urls: list[str], count: int, headers: Mapping[str, str]) -> list[httpx.Response]:
    """Ask so many times at once, in turn at each URL."""

    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=count), timeout=60, headers=headers) as client:
            return await asyncio.gather(*(client.post(urls[n % len(urls)], json=HELLO) for n in range(count)))

    return asyncio.run(run())


def scraped(who: Person) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(who.get("/metrics").text)
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_two_hundred_at_once_against_a_limit_of_ten_admit_ten_with_four_workers(
    server: Server, scripted: Upstream
) -> None:
    headers, before = {"authorization": f"Bearer {admin(server).token}"}, len(scripted.requests)
    scripted.play(*(chat() for _ in range(200)))

    answers = storm([f"{server.url}/serving-endpoints/burst/invocations"], 200, headers)

    assert len(server.processes("routes.worker")) == 4
    assert Counter(answer.status_code for answer in answers) == {200: 10, 429: 190}
    assert len(scripted.requests) == before + 10
    waits = {answer.headers["retry-after"] for answer in answers if answer.status_code == 429}
    assert all(re.fullmatch(r"\d+", wait) and 1 <= int(wait) <= 61 for wait in waits)


def doors(endpoint: str, served: str) -> list[tuple[str, dict[str, Any]]]:
    """Every path at which a chat can be asked, with its body."""
    named = [f"{prefix}{endpoint}/invocations" for prefix in NAMED_DOORS]
    named.append(f"/serving-endpoints/{endpoint}/served-models/{served}/invocations")
    tasks = [(prefix + PATH[Task.CHAT], {**HELLO, "model": endpoint}) for prefix in TASK_DOORS]
    return [*((path, HELLO) for path in named), *tasks]


@pytest.mark.parametrize(("path", "body"), doors("shut", "shut"))
@pytest.mark.parametrize("stream", [False, True])
def test_every_door_refuses_in_its_own_shape_before_a_model_is_asked(
    server: Server, scripted: Upstream, path: str, body: dict[str, Any], stream: bool
) -> None:
    before = len(scripted.requests)

    answer = admin(server).post(path, {**body, "stream": stream})

    told, message = answer.json(), f"{CALLS.format('shut', 'endpoint')}; this request needs more than the whole limit"
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
    if path.startswith("/v1/"):
        assert (told["error"]["type"], told["error"]["code"]) == ("rate_limit_error", "request_limit_exceeded")
        assert told["error"]["message"].startswith(message)
    else:
        assert told == {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": f"{message} by itself"}
    assert len(scripted.requests) == before


def test_users_have_their_own_share_and_service_principals_theirs(server: Server) -> None:
    ann, bob, application = (person(server, user) for user in ("ann", "bob", APPLICATION))

    assert [statuses(who, "each", 3) for who in (ann, bob)] == [[200, 200, 429]] * 2
    assert statuses(application, "each", 2) == [200, 429]
    refusals = [who.ask("each").json()["message"] for who in (ann, application)]
    assert refusals == [CALLS.format("each", word) for word in ("user", "service principal")]


def test_a_limit_of_ones_own_is_taken_instead_of_the_default(server: Server) -> None:
    assert statuses(person(server, "ann"), "own", 4) == [200, 200, 200, 429]
    assert statuses(person(server, "bob"), "own", 2) == [200, 429]


def test_members_share_the_limit_of_their_group(server: Server) -> None:
    ann, bob, both, neither = (
        person(server, "ann", "a"),
        person(server, "bob", "a"),
        person(server, "both", "a", "b"),
        person(server, "neither"),
    )

    assert statuses(ann, "groups", 1) + statuses(bob, "groups", 2) == [200, 200, 429]
    assert statuses(both, "groups", 5) == [200, 200, 200, 200, 429]
    assert both.ask("groups").json()["message"] == CALLS.format("groups", "user group")
    assert statuses(neither, "groups", 3) == [200] * 3


def test_the_deprecated_key_is_enforced_too(server: Server) -> None:
    assert statuses(person(server, "ann"), "old", 2) == [200, 429]
    assert statuses(person(server, "bob"), "old", 1) == [200]


@pytest.mark.parametrize("kind", ["plain", "stream"])
def test_tokens_are_settled_with_what_the_answer_took(server: Server, scripted: Upstream, kind: str) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": TOOK}
    scripted.play(*(chat_stream(usage=usage) if kind == "stream" else chat(usage=usage) for _ in range(3)))
    body = {**HELLO, "stream": kind == "stream"}

    answers = [admin(server).post(f"/serving-endpoints/tokens-{kind}/invocations", body) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[3].json()["message"] == TOKENS.format(f"tokens-{kind}", "endpoint")


def test_what_failed_before_its_answer_costs_no_tokens(server: Server, scripted: Upstream) -> None:
    scripted.play(*(status(500) for _ in range(4)))
    body = {**HELLO, "max_tokens": THREE_FIT - 5}

    answers = [admin(server).post("/serving-endpoints/tokens-failed/invocations", body) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [500] * 4


def test_a_stream_that_is_left_costs_what_it_had_taken(server: Server, scripted: Upstream) -> None:
    url, before = f"{server.url}/serving-endpoints/tokens-left/invocations", scripted.cancelled
    headers = {"authorization": f"Bearer {admin(server).token}"}
    body = {**HELLO, "max_tokens": THREE_FIT - 5, "stream": True}
    scripted.play(chat_stream(pause=Gate()))
    with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as answer:
        lines = answer.iter_lines()  # Kept: httpx hangs up when nobody holds it any more.
        next(lines)
        meanwhile = httpx.post(url, json=body, headers=headers, timeout=60)
    scripted.wait_for(lambda: scripted.cancelled == before + 1)
    scripted.play(chat_stream())

    after = httpx.post(url, json={**body, "max_tokens": THREE_FIT - 10}, headers=headers, timeout=60)

    assert (meanwhile.status_code, answer.status_code, after.status_code) == (429, 200, 200)


def test_a_request_that_can_never_fit_is_told_so(server: Server, scripted: Upstream) -> None:
    body, before = {**HELLO, "max_completion_tokens": THREE_FIT}, len(scripted.requests)

    answer = admin(server).post("/serving-endpoints/tokens-held/invocations", body)

    more = "; this request needs more than the whole limit by itself: send less, or a smaller max_tokens"
    assert (answer.status_code, answer.json()["message"]) == (429, TOKENS.format("tokens-held", "endpoint") + more)
    assert len(scripted.requests) == before


LONG = "one two three four five six seven eight nine ten " * 4


@pytest.mark.parametrize(
    "body",
    [
        {"max_tokens": 12, "n": 3},
        {"tools": [{"type": "function", "function": {"name": "f", "description": LONG}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": LONG}}},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": LONG}}]}]},
    ],
)
def test_all_that_is_asked_is_held_before_the_answer(server: Server, scripted: Upstream, body: dict[str, Any]) -> None:
    before = len(scripted.requests)

    answer = admin(server).post("/serving-endpoints/tokens-held/invocations", {**HELLO, **body})

    assert answer.status_code == 429
    assert len(scripted.requests) == before


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": LONG}}


SAID = {
    "call": {"content": None, "tool_calls": [{"index": 0, **CALL}]},
    "thought": {"content": "", "reasoning_content": LONG},
}


@pytest.mark.parametrize("kind", SAID)
@pytest.mark.parametrize("way", ["", "-stream"])
def test_what_a_model_gave_without_a_usage_costs_whatever_form_it_has(
    server: Server, scripted: Upstream, kind: str, way: str
) -> None:
    """A usage that tells of the prompt alone is none."""
    choice = {"index": 0, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1}
    streamed = [event({"choices": [{**choice, "delta": SAID[kind]}]}), event({"choices": [], "usage": usage}), DONE]
    plain = document({"choices": [{**choice, "message": SAID[kind]}], "usage": usage})
    scripted.play(stream(*streamed) if way else plain)

    path = f"/serving-endpoints/tokens-{kind}{way}/invocations"
    answers = [admin(server).post(path, {**HELLO, "stream": bool(way)}) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 429]


def test_a_refusal_is_recorded_once_and_counted_by_key_and_unit(server: Server) -> None:
    who, path = admin(server), "/serving-endpoints/logged/invocations"
    before = scraped(who)
    for name in ("let-in", "refused"):
        who.post(path, {**HELLO, "client_request_id": name})

    after = scraped(who)
    flush(server)

    counted = ("llmops_rate_limited_requests_total", "endpoint", "calls")
    assert after[counted] == before[counted] + 1
    found = [run.data for run in runs(server) if run.data.tags.get("client_request_id") in ("let-in", "refused")]
    told = {(run.tags["client_request_id"], run.tags["outcome"], run.tags["status"]) for run in found}
    assert told == {("let-in", "answered", "200"), ("refused", "failed", "429")}
    assert len(found) == 2
    assert {run.metrics["attempts"] for run in found} == {0.0, 1.0}


def test_workers_that_are_killed_go_on_counting_where_they_were(server: Server) -> None:
    assert statuses(admin(server), "kept", 2) == [200, 429]
    old = server.processes("routes.worker")

    for worker in old:
        worker.kill()
    server.wait(lambda: len({one.pid for one in server.processes("routes.worker")} - {one.pid for one in old}) == 4)
    server.answers()

    assert statuses(admin(server), "kept", 4) == [429] * 4


@pytest.fixture
def machines(tmp_path: Path, mlflow_template: Path) -> Iterator[Any]:
    """Starts servers that share a Redis, each in a folder of its own."""
    with ExitStack() as running:

        def start(name: str, endpoint: Mapping[str, Any], **environment: str) -> Server:
            folder = tmp_path / name
            folder.mkdir()
            server = Server(folder, (endpoint,), environment={**KEY, **environment})
            server.data_dir.mkdir()
            shutil.copy(mlflow_template, server.data_dir / "mlflow.db")
            return running.enter_context(server)

        yield start


def test_machines_share_their_limits_and_each_counts_for_itself_while_redis_is_away(machines: Any) -> None:
    name = own_name()
    endpoint = limited(demo(name), {"calls": 10}, {"tokens": 1_000_000})
    with Line(redis_url()) as line:
        one, other = (machines(folder, endpoint, LLMOPS_REDIS_URL=line.url) for folder in ("one", "other"))
        paths = [f"{server.url}/serving-endpoints/{name}/invocations" for server in (one, other)]

        together = Counter(answer.status_code for answer in storm(paths, 100, {}))
        ready = one.get("/ready").json()["rate_limits"]
        line.cut()
        one.wait(lambda: one.get("/ready").json()["rate_limits"]["problem"] is not None)
        away, alone = one.get("/ready").json()["rate_limits"], statuses_at(paths[0], 11)
        metrics = one.get("/metrics").text
        line.mend()
        one.wait(lambda: one.get("/ready").json()["rate_limits"]["problem"] is None)
        again = statuses_at(paths[0], 1)

    assert together == {200: 10, 429: 90}
    assert ready == {"counted": "shared", "problem": None}
    assert away["counted"] == "here"
    assert away["problem"].startswith("Redis is away, each machine counts for itself: ")
    assert alone == [200] * 10 + [429]
    assert "\nllmops_rate_limits_shared 0.0" in metrics
    assert "\nllmops_rate_limits_alone_total 11.0" in metrics
    assert "\nllmops_rate_limits_dropped_total " in metrics
    assert again == [429]
    assert "event=limits_not_shared" in one.logged()
    assert "event=limits_shared_again" in one.logged()


def test_nobody_is_let_in_uncounted_where_that_is_set(machines: Any) -> None:
    name = own_name()
    with Line(redis_url()) as line:
        line.cut()
        closed = {"LLMOPS_REDIS_URL": line.url, "LLMOPS_LIMITS_WHEN_AWAY": "closed"}
        server = machines("closed", limited(demo(name), {"calls": 10}), **closed)
        server.post("/api/2.0/serving-endpoints", demo("free")).raise_for_status()

        answer, free = server.ask(name), server.ask("free")
        ready = server.get("/ready")

    assert (answer.status_code, answer.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
    assert answer.headers["retry-after"] == "2"
    assert "Redis is away" in answer.json()["message"]
    assert free.status_code == 200
    assert (ready.status_code, ready.json()["rate_limits"]["counted"]) == (200, "refused")


def statuses_at(url: str, count: int) -> list[int]:
    return [httpx.post(url, json=HELLO, timeout=60).status_code for _ in range(count)]


def test_a_url_that_is_none_of_a_redis_stops_the_start_in_one_line_without_its_password(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmops.cli.main", "serve", "--configs", str(tmp_path), "--data-dir", str(tmp_path)],
        env={**os.environ, "LLMOPS_REDIS_URL": "http://user:hunter2@host"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr == "llmops: LLMOPS_REDIS_URL must be redis://host:6379/0, rediss://… or unix://…\n"
