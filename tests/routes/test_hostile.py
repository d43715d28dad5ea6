"""What nobody sends by accident, and upstreams that cannot be trusted: one clear answer, one record, and on it goes."""

from pathlib import Path
from typing import Any

import pytest

from tests import faults
from tests.conftest import KEY, NewServer
from tests.scripts import event, status, stream
from tests.server import Server, demo, external
from tests.upstream import Upstream, refused_url


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "echo",
    [
        status(400, {"error": {"message": f"wrong key {KEY}"}}),
        status(401, {"error": {"message": f"wrong key {KEY}"}}),
        faults.html(f"<p>{KEY}</p>"),
        faults.error_with_200(),
    ],
)
def test_a_key_that_an_upstream_repeats_is_not_passed_on(server: Server, upstream: Upstream, echo: Any) -> None:
    upstream.play(echo, stream(event({"choices": [{"delta": {"content": KEY}}]}), event({"error": {"message": KEY}})))

    assert KEY not in server.ask("up").text
    assert KEY not in server.ask("up", stream=True).text
    assert KEY not in server.logged()


def test_a_secret_that_no_header_can_carry_is_not_shown(new_server: NewServer) -> None:
    with Upstream() as upstream:
        secret = "sk-one\x07two"
        server = new_server(external("up", upstream.url), environment={"LLMOPS_SECRET_TEST_KEY": secret})

        answer = server.ask("up")

        assert answer.status_code == 400
        assert answer.json()["message"] == "secret test/key holds characters that a header cannot carry; set it anew"
        assert "sk-one" not in server.logged()


def test_a_secrets_last_line_end_is_not_part_of_it(new_server: NewServer) -> None:
    with Upstream() as upstream:
        upstream.always(status(500))
        server = new_server(external("up", upstream.url), environment={"LLMOPS_SECRET_TEST_KEY": "sk-1\n"})
        server.ask("up")

        assert upstream.requests[-1].headers["authorization"] == "Bearer sk-1"


@pytest.mark.parametrize("choices", [[None], {"a": 1}, 5])
def test_a_malformed_chunk_ends_the_stream_with_an_error(server: Server, upstream: Upstream, choices: Any) -> None:
    good = event({"choices": [{"index": 0, "delta": {"content": "a"}}]})
    upstream.play(stream(good, event({"choices": choices})))

    answer = server.ask("up", stream=True)

    assert answer.text.rstrip().splitlines()[-1].startswith('data: {"error":')


def test_a_chunk_nested_beyond_all_reason_does_not_cost_the_record(server: Server, upstream: Upstream) -> None:
    upstream.play(stream(event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "x": _deep(250)}]})))
    before = server.get("/ready").json()["interactions_lost"]

    answer = server.ask("up", stream=True)

    assert answer.text.endswith("data: [DONE]\n\n")
    assert server.get("/ready").json()["interactions_lost"] == before


def test_a_body_nested_beyond_all_reason_is_refused(server: Server) -> None:
    body = b'{"messages":[{"role":"user","content":"x"}],"response_format":' + b"[" * 300 + b"]" * 300 + b"}"

    answer = server.post_bytes("/serving-endpoints/demo/invocations", body)

    assert answer.status_code == 400
    assert answer.json()["message"] == "the body is nested too deeply; at most 250 levels are taken"
    assert server.get("/ready").json()["interactions_lost"] == 0


def test_a_stream_that_never_ends_is_cut(server: Server, upstream: Upstream) -> None:
    piece = event({"choices": [{"index": 0, "delta": {"content": "x" * 100_000}}]})
    upstream.play(stream(*[piece] * 400))

    answer = server.ask("up", stream=True)

    assert "sent more than 33554432 bytes" in answer.text[-300:]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("openai_api_base", "{{oops}}"),
        ("openai_api_base", "file:///etc/passwd"),
        ("openai_api_base", "https://user:password@host/v1"),
        ("openai_organization", "a\nb"),
    ],
)
def test_a_field_that_would_break_requests_is_refused_at_once(server: Server, field: str, value: str) -> None:
    document = external("odd", refused_url())
    document["config"]["served_entities"][0]["external_model"]["openai_config"][field] = value

    answer = server.post("/api/2.0/serving-endpoints", document)

    assert answer.status_code == 400
    assert field in answer.json()["message"]
    assert server.get("/api/2.0/serving-endpoints/odd").status_code == 404


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"name": 1e999}', b'{"name":"x","config":{"a":18446744073709551616}}']
)
def test_a_management_body_that_is_odd_is_an_error_in_json(server: Server, body: bytes) -> None:
    answer = server.post_bytes("/api/2.0/serving-endpoints", body)

    assert answer.status_code == 400
    assert set(answer.json()) == {"error_code", "message"}


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/api/2.0/serving-endpoints", b'{"name":"\\ud800"}', "surrogates"),
        ("/api/2.0/token/delete", b'{"token_id":"\\ud800"}', "surrogates"),
        ("/api/2.0/external-function", b'{"connection_name":"\\ud800"}', "surrogates"),
        ("/serving-endpoints/feedback", b'{"\\ud800":1}', "surrogates"),
        ("/serving-endpoints/feedback", b'{"value":18446744073709551616}', "64-bit"),
        ("/api/2.0/secrets/rotate-master", b"{", "JSON"),
        ("/api/2.0/serving-endpoints", b'{"name":"x","config":{"served_models":5}}', "config.served_entities"),
    ],
)
def test_what_no_store_could_keep_is_refused_and_says_why(server: Server, path: str, body: bytes, reason: str) -> None:
    answer = server.post_bytes(path, body)

    assert answer.status_code == 400
    assert reason in answer.json()["message"]


def test_a_management_body_over_16_mb_is_refused(server: Server) -> None:
    answer = server.post_bytes("/api/2.0/serving-endpoints", b'{"name":"' + b"x" * (17 << 20) + b'"}')

    assert answer.status_code == 400


def test_a_name_ends_where_it_ends(server: Server) -> None:
    assert server.post("/api/2.0/serving-endpoints", demo("abc\n")).status_code == 400


@pytest.mark.parametrize("headers", [{"host": "["}, {"origin": "http://["}])
def test_a_header_that_is_no_host_is_refused(server: Server, headers: dict[str, str]) -> None:
    assert server.get("/v1/models", headers=headers).status_code == 403


def test_words_that_make_clients_repeat_are_not_passed_on(server: Server, upstream: Upstream) -> None:
    upstream.play(status(400, {"error": {"message": "Unexpected error while parsing"}}))

    assert "Unforeseen error while parsing" in server.ask("up").json()["message"]


def test_a_proxy_of_the_environment_does_not_see_this_machines_traffic(new_server: NewServer) -> None:
    with Upstream() as upstream, Upstream() as proxy:
        upstream.always(status(400))
        proxies = {"HTTP_PROXY": proxy.url, "http_proxy": proxy.url, "LLMOPS_SECRET_TEST_KEY": "sk"}
        server = new_server(external("up", upstream.url), environment=proxies)

        server.ask("up")

        assert len(upstream.requests) == 1
        assert proxy.requests == []


FILES = [
    ("description: 2024-13-45", "not YAML: month must be in 1..12"),
    ("config: " + "[" * 3000, "not YAML: "),
    ("config: &a [*a]", "aliases are not taken; write it out"),
    ("name: a\nname: b", "key 'name' stands twice"),
    ("\udcff", "cannot be read"),
]


@pytest.mark.parametrize(("text", "message"), FILES)
def test_no_file_can_keep_the_server_from_starting(
    new_server: NewServer, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "bad.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))

    server = new_server(demo())

    assert server.ask("demo").status_code == 200
    assert message in server.logged()


def test_prompts_lie_where_nobody_else_can_read_them(tmp_path: Path) -> None:
    with Server(tmp_path, (demo(),)) as server:
        assert server.data_dir.stat().st_mode & 0o077 == 0
