"""Invocations over HTTP: what passes through, what is refused, and in which shape."""

import orjson
import pytest

from llmops.interactions.shipper_state import ShipperState
from tests import faults
from tests.conftest import KEY, NewServer
from tests.logged import flush, runs
from tests.scripts import chat, completion, echo, embeddings, status
from tests.server import Server, demo, external
from tests.upstream import Upstream, refused_url
from tests.wire import Script

MESSAGES = [{"role": "user", "content": "hi"}]


def test_an_answer_passes_through_byte_for_byte(server: Server, upstream: Upstream) -> None:
    odd = b'{"choices":[{"message":{"role":"assistant","content":"a"},"finish_reason":"stop"}],  "x":1.50,"usage":null}'
    upstream.play(faults.raw(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(odd) + odd))

    answer = server.ask("up")

    assert answer.status_code == 200
    assert answer.content == odd


def test_unknown_fields_survive_and_ours_are_taken_out(server: Server, upstream: Upstream) -> None:
    upstream.play(chat())

    server.ask(
        "up",
        a_vendors_new_field={"deep": [1]},
        client_request_id="c-1",
        usage_context={"team": "x"},
        databricks_options={},
    )

    assert upstream.requests[-1].json == {
        "model": "up-model",
        "messages": [{"role": "user", "content": "hello"}],
        "a_vendors_new_field": {"deep": [1]},
    }


def test_extra_params_are_merged_into_the_top_level(server: Server, upstream: Upstream) -> None:
    upstream.play(echo())

    answer = server.ask("up", extra_params={"top_p": "0.5"})

    assert orjson.loads(answer.json()["choices"][0]["message"]["content"]) == ["messages", "model", "top_p"]


def test_the_key_goes_upstream_and_nowhere_else(server: Server, upstream: Upstream) -> None:
    upstream.play(status(401, {"error": {"message": "bad key"}}))

    answer = server.ask("up")

    assert upstream.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in answer.text + str(answer.headers) + server.logged()
    assert KEY not in server.get("/api/2.0/serving-endpoints").text


def test_the_answer_names_its_interaction_and_its_entity(server: Server, upstream: Upstream) -> None:
    upstream.play(chat())

    headers = server.ask("up").headers

    assert len(headers["x-request-id"]) == 32
    assert headers["x-mlflow-trace-id"] == f"tr-{headers['x-request-id']}"
    assert headers["served-model-name"] == "up"


def test_every_answer_names_the_run_it_becomes(new_server: NewServer) -> None:
    """Once the shipper has said that it chooses the ids of runs; plain, streamed, refused, of an unknown endpoint."""
    server = new_server(demo(), external("down", refused_url()), environment={"LLMOPS_SECRET_TEST_KEY": KEY})
    server.wait(lambda: (told := ShipperState.read(server.data_dir)) is not None and told.run_ids, 120)
    server.wait(lambda: "x-mlflow-run-id" in server.ask("demo").headers)

    answers = [server.ask("demo"), server.ask("demo", stream=True), server.ask("down"), server.ask("nobody")]
    flush(server)

    named = [answer.headers["x-mlflow-run-id"] for answer in answers]
    assert named == [answer.headers["x-request-id"] for answer in answers]
    assert set(named) <= {run.info.run_id for run in runs(server)}


def test_a_clients_own_request_id_is_not_taken(server: Server, upstream: Upstream) -> None:
    upstream.play(chat())
    answer = server.post(
        "/serving-endpoints/up/invocations", {"messages": MESSAGES}, headers={"x-request-id": "f" * 32}
    )

    assert answer.headers["x-request-id"] != "f" * 32


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "up", "messages": MESSAGES}),
        ("/serving-endpoints/chat/completions", {"model": "up", "messages": MESSAGES}),
        ("/serving-endpoints/up/invocations", {"messages": MESSAGES}),
    ],
)
def test_every_chat_route_reaches_the_endpoint(server: Server, upstream: Upstream, path: str, body: object) -> None:
    upstream.play(chat("Hello."))

    assert server.post(path, body).json()["choices"][0]["message"]["content"] == "Hello."
    assert upstream.requests[-1].path == "/v1/chat/completions"


def test_completions_and_embeddings_reach_theirs(server: Server, upstream: Upstream) -> None:
    upstream.play(completion("and on"), embeddings((0.5, 0.5)))

    completed = server.post("/v1/completions", {"model": "up-completions", "prompt": "go"})
    embedded = server.post("/serving-endpoints/up-embeddings/invocations", {"input": ["x"]})

    assert completed.json()["choices"][0]["text"] == "and on"
    assert embedded.json()["data"][0]["embedding"] == [0.5, 0.5]
    assert [request.path for request in upstream.requests[-2:]] == ["/v1/completions", "/v1/embeddings"]


BAD = [
    ("up", b"{", "the body is not JSON: "),
    ("up", b"[]", "the body must be a JSON object"),
    ("up", b'{"messages":"hi"}', "'messages' must be a non-empty list of objects with 'role' and 'content'"),
    ("up", b'{"messages":[]}', "'messages' must be a non-empty list"),
    ("up", b'{"nothing":1}', "the body has none of 'messages' (chat), 'prompt' (completions), 'input' (embeddings)"),
    ("up", b'{"prompt":"x"}', "endpoint 'up' has task llm/v1/chat, and this is a request for llm/v1/completions"),
    ("up", b'{"messages":[{}],"stream":"yes"}', "'stream' must be true or false"),
    ("up", b'{"messages":[{}],"usage_context":3}', "'usage_context' must be an object"),
    ("up", b'{"messages":[{}],"api_base":"http://evil"}', "'api_base' may not be sent"),
    ("up", b'{"messages":[{}],"extra_params":{"api_key":"x"}}', "'api_key' may not be sent"),
    ("up-embeddings", b'{"input":["x"],"stream":true}', "embeddings are not streamed"),
]


@pytest.mark.parametrize(("endpoint", "body", "message"), BAD)
def test_a_bad_body_gets_one_clear_line(server: Server, endpoint: str, body: bytes, message: str) -> None:
    answer = server.post_bytes(f"/serving-endpoints/{endpoint}/invocations", body)

    assert answer.status_code == 400
    assert answer.json()["error_code"] == "BAD_REQUEST"
    assert answer.json()["message"].startswith(message)
    assert len(answer.headers["x-request-id"]) == 32


def test_an_unknown_endpoint_gets_the_nearest_name(server: Server) -> None:
    databricks = server.ask("dmeo")
    openai = server.post("/v1/chat/completions", {"model": "dmeo", "messages": MESSAGES})

    assert databricks.status_code == openai.status_code == 404
    message = "endpoint 'dmeo' does not exist; did you mean 'demo'?"
    assert databricks.json() == {"error_code": "ENDPOINT_NOT_FOUND", "message": message}
    assert openai.json()["error"] == {
        "message": message,
        "type": "not_found_error",
        "param": None,
        "code": "endpoint_not_found",
    }


def test_a_body_over_16_mb_is_refused_once_and_the_server_goes_on(server: Server) -> None:
    body = b'{"messages":[{"role":"user","content":"' + b"x" * (16 << 20) + b'"}]}'

    announced = server.post_bytes("/serving-endpoints/up/invocations", body)
    chunked = server.post_bytes(
        "/serving-endpoints/up/invocations", (body[i : i + 65536] for i in range(0, len(body), 65536))
    )

    for answer in (announced, chunked):
        assert answer.status_code == 400
        assert answer.json()["message"] == "the body is larger than 16777216 bytes (16 MB)"
    assert server.ask("demo").status_code == 200


def test_a_form_is_refused_because_a_web_page_can_send_one(server: Server) -> None:
    answer = server.post_bytes(
        "/serving-endpoints/demo/invocations", b'{"messages":[{}]}', headers={"content-type": "text/plain"}
    )

    assert answer.status_code == 400
    assert answer.json()["message"].startswith("content-type must be application/json, not text/plain")


FAULTS = [
    ("up", faults.reset_before_headers(), 502, "INTERNAL_ERROR", "up cannot be reached ("),
    ("up", faults.reset_in_body(), 502, "INTERNAL_ERROR", "up broke off in the middle of its answer ("),
    ("up", faults.html(), 502, "INTERNAL_ERROR", "up answered with something that is not JSON: '<!doctype"),
    ("up", faults.error_with_200(), 502, "INTERNAL_ERROR", "up answered 200 with an error: "),
    ("up", faults.wrong_length(), 502, "INTERNAL_ERROR", "up broke off in the middle of its answer ("),
    ("quick", faults.accept_and_stall(), 504, "DEADLINE_EXCEEDED", "quick did not answer within 0.4 s"),
    ("up", status(400), 400, "BAD_REQUEST", "up answered 400: "),
    ("up", status(401), 403, "PERMISSION_DENIED", "up refused the endpoint's credentials (401): "),
    ("up", status(422), 400, "BAD_REQUEST", "up answered 422: "),
    ("up", status(413), 400, "BAD_REQUEST", "up answered 413: "),
    ("up", status(500), 500, "INTERNAL_ERROR", "up answered 500: "),
    ("up", status(503), 503, "TEMPORARILY_UNAVAILABLE", "up answered 503: "),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("endpoint", "fault", "code", "error_code", "message"), FAULTS)
def test_an_upstream_that_fails_before_its_answer_gives_a_status(
    server: Server,
    upstream: Upstream,
    endpoint: str,
    fault: Script,
    code: int,
    error_code: str,
    message: str,
    stream: bool,
) -> None:
    upstream.play(fault)

    answer = server.ask(endpoint, stream=stream)

    assert answer.status_code == code
    assert answer.json()["error_code"] == error_code
    if not stream or code not in (502,):
        assert answer.json()["message"].startswith(message)


def test_an_upstream_that_is_not_there_gives_a_status(server: Server) -> None:
    answer = server.ask("down")

    assert answer.status_code == 502
    assert answer.json()["message"] == "down cannot be reached (Connection refused (os error 111))"


def test_retry_after_of_the_upstream_is_passed_on(server: Server, upstream: Upstream) -> None:
    upstream.play(status(429, headers={"retry-after": "17"}), status(429))

    told, untold = server.ask("up"), server.ask("up")

    assert (told.status_code, told.headers["retry-after"]) == (429, "17")
    assert (untold.status_code, untold.headers["retry-after"]) == (429, "2")


def test_a_missing_secret_says_what_to_do_and_is_not_retried(server: Server) -> None:
    answer = server.ask("keyless")

    assert answer.status_code == 400
    assert "set the environment variable LLMOPS_SECRET_NOWHERE_KEY" in answer.json()["message"]
    assert server.endpoint("keyless")["state"]["ready"] == "NOT_READY"


def test_fallback_answers_when_the_first_entity_cannot_be_reached(server: Server, upstream: Upstream) -> None:
    upstream.play(chat("from the second"))

    answer = server.ask("fall")

    assert answer.json()["choices"][0]["message"]["content"] == "from the second"
    assert answer.headers["served-model-name"] == "second"


def test_fallback_leaves_a_callers_mistake_alone(server: Server, upstream: Upstream) -> None:
    before = len(upstream.requests)
    upstream.play(status(400))

    assert server.ask("both").status_code == 400
    assert len(upstream.requests) == before + 1


def test_when_all_entities_fail_the_last_failure_is_the_answer(server: Server, upstream: Upstream) -> None:
    upstream.play(status(503))

    answer = server.ask("fall")

    assert answer.status_code == 503
    assert answer.headers["served-model-name"] == "second"


def test_an_answer_of_100_mb_is_refused_and_the_server_goes_on(server: Server, upstream: Upstream) -> None:
    upstream.play(faults.big())

    assert server.ask("up").status_code == 502
    assert server.ask("demo").status_code == 200


def test_a_redirect_is_not_followed(server: Server, upstream: Upstream) -> None:
    upstream.play(faults.raw(b"HTTP/1.1 307 x\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"))

    answer = server.ask("up")

    assert answer.status_code == 502
    assert "redirect (307), which is not followed" in answer.json()["message"]


def test_a_compressed_answer_is_read(server: Server, upstream: Upstream) -> None:
    upstream.play(faults.gzipped(chat("plain again")))

    assert server.ask("up").json()["choices"][0]["message"]["content"] == "plain again"
