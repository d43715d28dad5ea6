"""Every management route, asked what nobody would ask: no answer from 500 on, no unhandled error, and on it goes.

Two ways: schemathesis, from the OpenAPI document that the server serves; and good bodies with everything odd in every
place of them. `make fuzz` lets the first go on for long.
"""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import psutil
import pytest
from hypothesis import HealthCheck, given, settings

from tests.conftest import NewServer
from tests.endpoints.specs import documents
from tests.fuzzing import spoiled
from tests.routes.callers import ADMIN_TOKEN, LOCKED
from tests.server import Server, demo

#: Schemathesis asks every route this often at random; what it works out from the document comes on top.
EXAMPLES = int(os.environ.get("LLMOPS_FUZZ_EXAMPLES", "4"))
#: The doors of invocations have tests of their own (tests/routes/test_hostile.py).
INVOCATIONS = r"(invocations|completions|embeddings|responses|messages|count_tokens)$"
CHECKS = "not_a_server_error,response_schema_conformance,content_type_conformance,status_code_conformance"
#: A worker has 125 MB; bodies of 16 MB come and go.
MOST_MB = 300


ENDPOINTS, SECRETS = "/api/2.0/serving-endpoints", "/api/2.0/secrets"
_FOUNDATION = {
    "name": "a",
    "entity_name": "llmops.a",
    "entity_version": "1",
    "workload_size": "Small",
    "min_provisioned_throughput": 1,
    "environment_vars": {"A": "{{secrets/a/b}}"},
    "instance_profile_arn": "arn:x",
    "llmops": {"engine": "demo", "task": "llm/v1/chat", "model": "m", "parallel": 2},
}
_EXTERNAL = {
    "name": "b",
    "external_model": {
        "name": "m",
        "provider": "openai",
        "task": "llm/v1/chat",
        "openai_config": {"openai_api_key": "{{secrets/a/b}}", "openai_api_base": "http://127.0.0.1:9/v1"},
    },
    "llmops": {"timeouts": {"total_s": 1.5}},
}
_CUSTOM = {
    "name": "c",
    "external_model": {
        "name": "m",
        "provider": "custom",
        "task": "llm/v1/chat",
        "custom_provider_config": {
            "custom_provider_url": "http://127.0.0.1:9/v1",
            "api_key_auth": {"key": "x-key", "value": "{{secrets/a/b}}"},
        },
    },
}
_SHARES = {"a": 50, "b": 30, "c": 20}
_ROUTES = [{"served_entity_name": name, "traffic_percentage": share} for name, share in _SHARES.items()]
_CONFIG = {"served_entities": [_FOUNDATION, _EXTERNAL, _CUSTOM], "traffic_config": {"routes": _ROUTES}}
_SMALL = {"served_entities": [{"entity_name": "llmops.a", "llmops": {"engine": "demo"}}]}
_KEY = {"custom_provider_url": "http://127.0.0.1:9/v1", "api_key_auth": {"key": "x-key", "value_plaintext": "sk-1"}}
_MODEL = {"name": "m", "provider": "custom", "task": "llm/v1/chat", "custom_provider_config": _KEY}
_IN_CLEAR = {"served_entities": [{"name": "c", "external_model": _MODEL}]}
_OLD = {"served_models": [{"name": "a", "model_name": "llmops.a", "model_version": "1", "llmops": {"engine": "demo"}}]}
_GATEWAY = {
    "fallback_config": {"enabled": True},
    "usage_tracking_config": {"enabled": True},
    "inference_table_config": {"enabled": False, "catalog_name": "c", "schema_name": "s", "table_name_prefix": "t"},
    "rate_limits": [{"calls": 1000, "renewal_period": "minute", "key": "user", "principal": "u"}],
    "guardrails": {},
}
_WHOLE = {
    "name": "other",
    "config": {**_CONFIG, "auto_capture_config": {"enabled": False, "catalog_name": "c"}},
    "ai_gateway": _GATEWAY,
    "tags": [{"key": "k", "value": "v"}],
    "description": "d",
    "route_optimized": False,
    "budget_policy_id": "b",
    "email_notifications": {"on_update_success": ["x"]},
    "telemetry_config": {"table_names": {"logs_table": "a.b.c"}},
    "llmops": {"log": "metadata", "mask_pii": True, "retention_days": 3, "table_sampling": 0.5},
}
_FEEDBACK = {"interaction_id": "0190" + "0" * 28, "value": "good", "name": "n", "rationale": "r", "user": "u"}
_GRANTS = [{"user_name": "u", "permission_level": "CAN_VIEW"}, {"group_name": "g", "permission_level": "CAN_QUERY"}]
_TOKEN = {"user": "u", "groups": ["g"], "admin": False, "comment": "c", "lifetime_seconds": 60}
_PERMISSIONS = "/api/2.0/permissions/serving-endpoints/{endpoint_id}"

#: A body for every route that takes one, in an order in which each is accepted.
GOOD: list[tuple[str, str, dict[str, Any]]] = [
    ("post", f"{SECRETS}/scopes/create", {"scope": "a", "initial_manage_principal": "users"}),
    ("post", f"{SECRETS}/put", {"scope": "a", "key": "k", "string_value": "v"}),
    ("post", f"{SECRETS}/put", {"scope": "a", "key": "b", "bytes_value": "dmFs"}),
    ("post", f"{SECRETS}/acls/put", {"scope": "a", "principal": "p", "permission": "READ"}),
    ("post", f"{SECRETS}/rotate-master", {}),
    ("post", ENDPOINTS, _WHOLE),
    ("put", f"{ENDPOINTS}/{{name}}", {"config": _SMALL, "tags": [{"key": "k"}]}),
    ("put", f"{ENDPOINTS}/{{name}}/config", _CONFIG),
    ("put", f"{ENDPOINTS}/{{name}}/config", _IN_CLEAR),
    ("put", f"{ENDPOINTS}/{{name}}/config", _OLD),
    ("put", f"{ENDPOINTS}/{{name}}/config", {"auto_capture_config": {"enabled": False, "catalog_name": "c"}}),
    ("put", f"{ENDPOINTS}/{{name}}/ai-gateway", _GATEWAY),
    ("patch", f"{ENDPOINTS}/{{name}}/tags", {"add_tags": [{"key": "k", "value": "v"}], "delete_tags": ["z"]}),
    ("put", f"{ENDPOINTS}/{{name}}/rate-limits", {"rate_limits": [{"calls": 1000, "renewal_period": "minute"}]}),
    ("patch", f"{ENDPOINTS}/{{name}}/notifications", {"email_notifications": {"on_update_success": ["x"]}}),
    ("patch", f"{ENDPOINTS}/{{name}}/telemetry-config", {"telemetry_config": {"table_names": {"logs_table": "a.b"}}}),
    ("post", f"{ENDPOINTS}/{{name}}/rollback", {"config_version": 1}),
    ("post", f"{ENDPOINTS}/pt", {"name": "provisioned", "config": _SMALL}),
    ("put", f"{ENDPOINTS}/pt/{{name}}/config", {"config": _SMALL}),
    ("put", _PERMISSIONS, {"access_control_list": _GRANTS}),
    ("patch", _PERMISSIONS, {"access_control_list": _GRANTS}),
    ("post", "/serving-endpoints/{name}/feedback", _FEEDBACK),
    ("post", "/serving-endpoints/feedback", _FEEDBACK),
    ("post", "/api/2.0/token/create", _TOKEN),
    # What is named here is not there; the others are accepted.
    ("post", "/api/2.0/token/delete", {"token_id": "0" * 32}),
    ("post", "/api/2.0/external-function", {"connection_name": "c", "headers": None}),
    ("post", f"{SECRETS}/acls/delete", {"scope": "a", "principal": "p"}),
    ("post", f"{SECRETS}/delete", {"scope": "a", "key": "k"}),
    ("post", f"{SECRETS}/scopes/delete", {"scope": "a"}),
]
#: As names in a path: what is no text, what is no name, and what some code could take for something else.
_NAMES = (
    *("%00", "%FF%FE", "%ED%A0%80", "..%2F..", "%2e%2e", "%F0%9F%99%82", "x" * 9000, "'\"", "%0d%0aa:%20b"),
    *("pt", "{name}", "%7Bname%7D", "0" * 32),
)
_HEADERS: tuple[Mapping[str, bytes], ...] = (
    *({"host": host} for host in (b"[", b"[::1", b"a b", b"\xff", b"x" * 5000, b"evil.example", b"127.0.0.1:99999999")),
    *({"origin": origin} for origin in (b"null", b"http://[", b"\xff\xfe")),
    *({"content-type": kind} for kind in (b"", b"\xff", b"text/html", b"application/json; charset=utf-7", b";;;")),
    *({"authorization": given} for given in (b"Bearer \xff", b"Basic !!!", b"Basic /////w==", b"Negotiate x")),
    {"accept": b"\xff/\xff", "cookie": b"\xff=;;", "traceparent": b"\xff", "x-forwarded-host": b"["},
    {"expect": b"100-continue", "range": b"bytes=9-1", "if-none-match": b"*"},
)
#: A client would not send these.
_LENGTHS = ("99999999999999999999", "-1", "1e3", "0x2")


class Target:
    """A running server and who asks it; notes every answer that should not be."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.client = httpx.Client(base_url=server.url, timeout=60)
        self.faults: list[tuple[str, ...]] = []
        self.asked = 0
        self.endpoint_id = ""

    def __enter__(self) -> "Target":
        self.client.__enter__()
        self.client.headers["authorization"] = f"Bearer {ADMIN_TOKEN}"
        made = self.ask("post", ENDPOINTS, json.dumps({"name": "mine", "config": _SMALL}).encode())
        self.endpoint_id = made.json()["id"]
        return self

    def __exit__(self, *exc: object) -> None:
        self.client.close()

    def path(self, path: str) -> str:
        """A path of the document with what is there in its place."""
        known = {"name": "mine", "served": "llmops-a", "endpoint_id": self.endpoint_id}
        return re.sub(r"\{(\w+)\}", lambda match: known[match[1]], path)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, bytes] | None = None
    ) -> httpx.Response:
        """Send one request, and look at its answer."""
        both = {"content-type": b"application/json", **(headers or {})}
        given = [(name.encode(), value) for name, value in both.items()]
        answer = self.client.request(method.upper(), path, content=body, headers=given)
        self.asked += 1
        fault = _fault(answer)
        if fault:
            self.faults.append((fault, method, path[:200], str((body or b"")[:400]), str(headers), answer.text[:200]))
        return answer

    def settled(self) -> None:
        """Assert that nothing went wrong, and that the server still stands."""
        assert self.faults == []
        assert self.client.get("/ready").status_code == 200
        assert self.client.get(f"{ENDPOINTS}/demo").status_code == 200
        assert _unhandled(self.server) == []
        assert max(worker.memory_info().rss for worker in _workers(self.server)) < MOST_MB << 20


def _fault(answer: httpx.Response) -> str:
    """What is wrong with an answer, whatever was asked; empty where nothing is."""
    # 408, 413, 422, 429 and 503 make clients repeat for minutes what cannot get better.
    if answer.status_code >= 500 or answer.status_code in (405, 408, 413, 422, 429):
        return f"status {answer.status_code}"
    if answer.status_code < 400:
        return ""
    if answer.headers.get("content-type") != "application/json":
        # What is no HTTP, uvicorn answers itself.
        return "" if answer.text == "Invalid HTTP request received." else "an error that is no JSON"
    told = answer.json()
    keys = told["error"].keys() if answer.url.path.startswith("/v1/") else told.keys()
    if keys not in ({"error_code", "message"}, {"message", "type", "param", "code"}):
        return "an error of another shape"
    return "a stack trace" if "Traceback" in answer.text or "Error:" in answer.text else ""


def _unhandled(server: Server) -> list[str]:
    """The lines of the log that tell of a failure nobody foresaw."""
    words = ("Traceback", "Exception", " ERROR ", " CRITICAL ", "_failed ", "_unreadable", "never awaited")
    return [line[:300] for line in server.logged().splitlines() if any(word in line for word in words)]


def _workers(server: Server) -> list[psutil.Process]:
    return server.processes("routes.worker")


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, methods in document["paths"].items():
        if not re.search(INVOCATIONS, path):
            yield from ((method, path, operation) for method, operation in methods.items())


@pytest.fixture(params=["sqlite", "postgres"])
def target(new_server: NewServer, request: pytest.FixtureRequest) -> Iterator[Target]:
    """A server that asks for tokens, with an endpoint `mine` that was created over REST."""
    with Target(new_server(demo(), store=request.param, environment=LOCKED)) as found:
        yield found


def test_every_body_is_described_and_good_ones_fit(server: Server) -> None:
    document = server.get("/openapi.json").json()
    operations = {(method, path): operation for method, path, operation in _operations(document)}
    with_body = {route: one["requestBody"] for route, one in operations.items() if "requestBody" in one}

    misfits = []
    for method, path, body in GOOD:
        schema = with_body[method, path]["content"]["application/json"]["schema"]
        checker = jsonschema.Draft202012Validator({**schema, "components": document["components"]})
        # A deprecated name is taken, and not offered.
        misfits += [(path, error.message) for error in checker.iter_errors(body) if body is not _OLD]

    assert misfits == []
    assert with_body.keys() == {(method, path) for method, path, _ in GOOD}
    assert len(operations) > 45


def test_nothing_odd_in_any_place_of_a_body_breaks_a_route(target: Target) -> None:
    refused = {"/api/2.0/token/delete": 404, "/api/2.0/external-function": 400}

    for method, path, body in GOOD:
        where = target.path(path)
        good = target.ask(method, where, json.dumps(body).encode())
        # Servers that share a database take their master key from the environment.
        assert good.status_code in (refused.get(path, 200), 400 if "rotate-master" in path else 200), good.text
        for spoilt in spoiled(body):
            answer = target.ask(method, where, spoilt)
            if path in (ENDPOINTS, f"{ENDPOINTS}/pt") and answer.status_code == 200:
                target.ask("delete", f"{ENDPOINTS}/{answer.json()['name']}")

    assert target.asked > 4000
    target.settled()


def test_no_name_or_header_breaks_a_route(new_server: NewServer) -> None:
    with Target(new_server(demo(), environment=LOCKED)) as target:
        operations = list(_operations(target.client.get("/openapi.json").json()))
        for method, path, operation in operations:
            body = b"{}" if "requestBody" in operation else None
            if "{" in path:
                for name in _NAMES:
                    target.ask(method, re.sub(r"\{\w+\}", name, path), body)
            if method == "get":
                target.ask(method, target.path(path) + "?scope=%00&key=%ED%A0%80&principal=%FF&&=&scope[]=")
                for headers in _HEADERS:
                    target.ask(method, target.path(path), None, headers)
        for headers in _HEADERS:
            target.ask("post", ENDPOINTS, b"{}", headers)
        for length in _LENGTHS:
            assert _said(target, length).startswith(b"HTTP/1.1 400 "), length

        assert target.asked > 800
        target.settled()


def _said(target: Target, length: str) -> bytes:
    """What the server says to a body of a length that is none."""
    host, port = target.client.base_url.host, target.client.base_url.port
    head = f"POST {ENDPOINTS} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-length: {length}\r\n\r\n{{}}"
    with socket.create_connection((host, port or 80), timeout=60) as connection:
        connection.sendall(head.encode())
        return connection.recv(1000)


def _stays_here(document: Mapping[str, Any]) -> bool:
    """Whether nothing is started for a document, and no name is asked for."""
    models = [entity.get("external_model", {"provider": "custom"}) for entity in document["config"]["served_entities"]]
    return all(model["provider"] in ("openai", "custom") for model in models) and "https://" not in json.dumps(document)


def test_what_is_accepted_can_be_read_changed_rolled_back_and_deleted(new_server: NewServer) -> None:
    valid = documents.filter(_stays_here)
    with Target(new_server(demo(), environment=LOCKED)) as target:

        @settings(max_examples=10 * EXAMPLES, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
        @given(first=valid, second=valid)
        def live(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
            path = f"{ENDPOINTS}/{first['name']}"
            made = target.ask("post", ENDPOINTS, json.dumps(first).encode())
            target.ask("put", f"{path}/config", json.dumps(second["config"]).encode())
            target.ask("put", f"{path}/ai-gateway", json.dumps(second.get("ai_gateway", {})).encode())
            back = target.ask("post", f"{path}/rollback", b'{"config_version":1}')
            told = [target.ask("get", path + part) for part in ("", "/versions", "/openapi", "/metrics")]
            gone = target.ask("delete", path)

            assert [answer.status_code for answer in (made, back, *told, gone)] == [200] * 7, made.text + back.text
            assert target.ask("get", path).status_code == 404

        live()
        target.settled()


@pytest.mark.parametrize("environment", [{}, LOCKED] if "LLMOPS_FUZZ_SECONDS" in os.environ else [LOCKED])
def test_schemathesis_finds_nothing(new_server: NewServer, tmp_path: Path, environment: Mapping[str, str]) -> None:
    """Its phases: every boundary of every schema, random data, and sequences of requests that use former answers."""
    server = new_server(demo(), environment=environment)
    # With the first token everybody is asked for one, and nothing would be tried any more.
    without = INVOCATIONS if environment else f"{INVOCATIONS}|/token/create$"
    fixed = ["--generation-deterministic", "--seed", "4", "--no-shrink"]
    seconds = os.environ.get("LLMOPS_FUZZ_SECONDS")
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "--no-color", "run", f"{server.url}/openapi.json"),
        *("--exclude-path-regex", without, "--checks", CHECKS, "--suppress-health-check", "all"),
        *("--header", f"Authorization: Bearer {ADMIN_TOKEN}", "--warnings", "off", "--continue-on-failure"),
        *(("--max-time", seconds) if seconds else ("--max-examples", str(EXAMPLES), *fixed)),
    ]

    # Away from the repository: it keeps notes of what it did.
    done = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert re.search(r"(\d+) generated, \1 passed", done.stdout), done.stdout[-2000:]
    with Target(server) as target:
        target.settled()
