"""A key is where it is needed, and nowhere else: in no answer, log, run, trace, spool, store file or export.

One server has a key of its own for every provider and every way to give one. It is driven through everything that
could repeat a key, in front of an upstream that repeats every header it gets; then every byte is searched.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from llmops.endpoints.secrets import variable
from tests import faults
from tests.canaries import CONTROL, Search, Secret, command_lines, dumped, environments, secret, stored
from tests.keyed_endpoints import GRANTED, MISHAPS, Keyed, aside, asked, every_vendor, in_clear, success
from tests.logged import flush
from tests.server import Server
from tests.upstream import Upstream
from tests.wire import Request

#: Given by callers: the operator's token, and keys sent or written down where none may stand.
TOKEN, PLAIN, SENT = (secret(name, "caller") for name in ("token", "plain", "sent"))
API = "/api/2.0/serving-endpoints"


@dataclass
class Seen:
    """What one server told, and what it left behind.

    Attributes:
        told: Answers with their headers, outputs of commands, and command lines of processes, by what was asked.
        kept: All that its files held, before and after everything was delivered.
        processes: The environments of its processes, by their command line.
    """

    endpoints: Sequence[Keyed]
    told: list[tuple[str, bytes]] = field(default_factory=list)
    kept: list[tuple[str, bytes]] = field(default_factory=list)
    processes: list[tuple[str, bytes]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    @property
    def secrets(self) -> dict[str, Secret]:
        """Every key that a server was given."""
        return {one.scope: one for endpoint in self.endpoints for one in endpoint.secrets}

    @property
    def search(self) -> Search:
        """Looks for every secret there is."""
        texts = {scope: one.needles for scope, one in self.secrets.items()}
        return Search({**texts, **{one.scope: one.needles for one in (TOKEN, PLAIN, SENT)}, "granted": [GRANTED]})


@dataclass(frozen=True)
class Drive:
    """Asks one server everything, and notes what it tells."""

    server: Server
    upstream: Upstream
    seen: Seen
    folder: Path
    client: httpx.Client

    def send(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """Send one request, and note its answer with its headers."""
        answer = self.client.request(method, self.server.url + path, json=body, **options)
        head = b"\n".join(name + b": " + value for name, value in answer.headers.raw)
        self.seen.told.append((f"{method} {path}", head + b"\n\n" + answer.content))
        return answer

    def run(self, *args: str, piped: bytes = b"") -> str:
        """Run a command, and note all it prints."""
        environment = {**self.server.environment, "LLMOPS_HOST": self.server.url, "LLMOPS_TOKEN": TOKEN.value}
        command = [sys.executable, "-m", "llmops.cli.main", *args]
        done = subprocess.run(command, input=piped, capture_output=True, env=environment, timeout=120, check=False)
        self.seen.told.append((f"llmops {' '.join(args[:2])}", done.stdout + b"\n" + done.stderr))
        return done.stdout.decode()

    def ask_all(self, streamed: bool | None = None) -> list[httpx.Response]:
        """Ask every endpoint, some at a time; plain, streamed, or both ways."""
        bodies = [(one, body) for one in self.seen.endpoints for body in asked(one, f"Say {CONTROL}.")]
        calls = [(one, body) for one, body in bodies if streamed in (None, "stream" in body)]
        with ThreadPoolExecutor(6) as pool:
            return list(
                pool.map(
                    lambda call: self.send("POST", f"/serving-endpoints/{call[0].name}/invocations", call[1]), calls
                )
            )


def _place(folder: Path, endpoints: Sequence[Keyed]) -> dict[str, str]:
    """Put the keys where a server finds them; returns its environment. Those of the store come later."""
    environment = {
        "LLMOPS_TOKEN": TOKEN.value,
        "LLMOPS_SECRETS_DIR": str(folder / "mounted"),
        "LLMOPS_TABLE_LINGER_S": "1",
    }
    for one in {one.scope: one for endpoint in endpoints for one in endpoint.secrets}.values():
        if one.source == "environment":
            environment[variable(one.scope, "key")] = one.value
        elif one.source == "mounted":
            (folder / "mounted" / one.scope).mkdir(parents=True)
            (folder / "mounted" / one.scope / "key").write_text(one.value)
    return environment


def _of_files(endpoints: Sequence[Keyed]) -> list[Keyed]:
    """Those that are described by files; the others come over REST, and some of them hold their keys."""
    return [one for one in list(endpoints)[::4] if all(key.source != "clear" for key in one.secrets)]


def _create(drive: Drive) -> None:
    kept = [one for one in drive.seen.secrets.values() if one.source == "store"]
    drive.run("secrets", "put", kept[0].scope, "key", piped=kept[0].value.encode())
    for one in kept[1:]:
        put = {"scope": one.scope, "key": "key", "string_value": one.value}
        drive.send("POST", "/api/2.0/secrets/scopes/create", {"scope": one.scope})
        assert drive.send("POST", "/api/2.0/secrets/put", put).status_code == 200
    of_files = _of_files(drive.seen.endpoints)
    for endpoint in drive.seen.endpoints:
        if endpoint not in of_files:
            assert drive.send("POST", API, endpoint.document).status_code == 200, drive.seen.told[-1]


def _invoke(drive: Drive) -> None:
    drive.upstream.always(success())
    answers = drive.ask_all()
    failed = {answer.url.path: answer.text for answer in answers if answer.status_code != 200}
    # litellm 1.106 reads no stream of Cohere's v2: it takes `event:` and `data:` lines for JSON.
    assert {path.split("/")[2] for path in failed} - {"silent"} == {"refused", "cohere"}, failed
    for script, streamed in MISHAPS.values():
        drive.upstream.always(script)
        drive.ask_all(streamed)
    silent = next(one for one in drive.seen.endpoints if one.name == "silent")
    drive.upstream.always(faults.accept_and_stall())
    for body in asked(silent, CONTROL):
        assert drive.send("POST", "/serving-endpoints/silent/invocations", body).status_code == 504
    drive.upstream.always(success())


def _invoke_wrongly(drive: Drive) -> None:
    """Keys where none may stand: in bodies, documents and headers."""
    chat = {"messages": [{"role": "user", "content": "x"}]}
    for extra in (
        {"api_key": SENT.value},
        {"extra_params": {"api_key": SENT.value}},
        {"extra_headers": {"x": SENT.value}},
    ):
        assert (
            drive.send(
                "POST", f"/serving-endpoints/{drive.seen.endpoints[-1].name}/invocations", {**chat, **extra}
            ).status_code
            == 400
        )
    for headers in ({"authorization": f"Bearer {SENT.value}"}, {"authorization": "", "x-api-key": SENT.value}):
        assert drive.send("POST", "/v1/chat/completions", {"model": "any", **chat}, headers=headers).status_code == 401
    for config in (
        {"openai_api_key_plaintext": [PLAIN.value]},
        {"openai_api_key_plaintext": PLAIN.value, "openai_api_type": "azuread"},
        {"openai_api_key_plaintext": PLAIN.value, "openai_api_key": PLAIN.value},
        {"openai_api_key": PLAIN.value},
        {"openai_api_key": [PLAIN.value]},
    ):
        assert drive.send("POST", API, _plain(config)).status_code == 400


def _plain(config: Any) -> dict[str, Any]:
    model = {"name": "m", "provider": "openai", "task": "llm/v1/chat", "openai_config": config}
    return {"name": "plain", "config": {"served_entities": [{"name": "e", "external_model": model}]}}


def _manage(drive: Drive) -> None:
    over_rest = [one for one in drive.seen.endpoints if one not in _of_files(drive.seen.endpoints)]
    for endpoint in drive.seen.endpoints:
        path = f"{API}/{endpoint.name}"
        parts = ("", "/versions", "/metrics", "/openapi", f"/served-models/{endpoint.name}/logs")
        for part in (*parts, f"/served-models/{endpoint.name}/build-logs"):
            drive.send("GET", path + part)
    for endpoint in over_rest:
        path, config = f"{API}/{endpoint.name}", endpoint.document["config"]
        assert drive.send("PUT", f"{path}/config", config).status_code == 200
        assert drive.send("POST", f"{path}/rollback", {"config_version": 1}).status_code == 200
        drive.send("PATCH", f"{path}/tags", {"add_tags": [{"key": "k", "value": "v"}]})
    pages = ("/metrics", "/ready", "/health", "/ui", "/openapi.json", "/v1/models", "/api/2.0/endpoints")
    for path in (
        API,
        *pages,
        "/api/2.0/secrets/scopes/list",
        *(f"/api/2.0/secrets/{verb}?scope=bedrock-secret&key=key" for verb in ("list", "get")),
        "/api/2.0/secrets/list?scope=llmops-endpoints",
        "/api/2.0/token/list",
    ):
        drive.send("GET", path)


def _command(drive: Drive) -> None:
    """The commands that show endpoints, secrets and files."""
    plain, gateway = drive.folder / "plain.yaml", drive.folder / "litellm.yaml"
    plain.write_text(yaml.safe_dump(_plain({"openai_api_key": PLAIN.value, "openai_api_type": 7})))
    parameters = {"model": "openai/gpt-4o-mini", "api_key": PLAIN.value}
    gateway.write_text(yaml.safe_dump({"model_list": [{"model_name": "gpt", "litellm_params": parameters}]}))
    exported, imported = drive.folder / "exported", drive.folder / "imported"
    commands: list[tuple[str, ...]] = [
        ("endpoints", "get", "bedrock", "--json"),
        ("endpoints", "history", "azure"),
        ("secrets", "list"),
        ("validate", str(plain)),
        ("import", str(gateway), "-o", str(imported)),
        ("--debug", "endpoints", "create", "-f", str(plain)),
        ("query", "header", CONTROL, "--json"),
        ("export", "-o", str(exported)),
    ]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda command: drive.run(*command), commands))
    drive.run("plan", str(exported))
    drive.seen.kept += [*stored(exported), *stored(imported)]
    assert len(list(exported.iterdir())) > 15
    assert len(list(imported.iterdir())) == 1


def _read_log(drive: Drive) -> None:
    """What is logged, as people read it."""
    where = ("--data-dir", str(drive.server.data_dir))
    listed = json.loads(drive.run("interactions", "list", "--json", "--limit", "50", *where))
    ids = [one["interaction_id"] for one in listed["interactions"]]
    opinion = {"interaction_id": ids[0], "value": False, "rationale": "wrong"}
    assert drive.send("POST", "/serving-endpoints/feedback", opinion).status_code == 200
    drive.run("interactions", "show", ids[0], "--json", *where)


STEPS: tuple[Callable[[Drive], None], ...] = (_create, _invoke, _invoke_wrongly, _manage, _command)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Seen:
    """A server that was asked everything; it has ended."""
    folder = tmp_path_factory.mktemp("canary")
    with Upstream() as upstream:
        endpoints = [*every_vendor(upstream.url), *aside(upstream.url), *in_clear(upstream.url)]
        found, environment = Seen(endpoints), _place(folder, endpoints)
        of_files = tuple(one.document for one in _of_files(endpoints))
        server = Server(folder, of_files, environment=environment)
        server.data_dir.mkdir()
        shutil.copy(mlflow_template, server.data_dir / "mlflow.db")
        with server, httpx.Client(headers={"authorization": f"Bearer {TOKEN.value}"}, timeout=60) as client:
            drive = Drive(server, upstream, found, folder, client)
            for step in STEPS:
                step(drive)
            found.kept += stored(server.data_dir)
            flush(server)
            _read_log(drive)
            found.told += command_lines()
            assert server._process is not None
            found.processes = environments(psutil.Process(server._process.pid))
        found.kept += [*stored(server.data_dir), ("serve.log", server.log.read_bytes())]
        found.requests = upstream.requests
    return found


def test_every_key_reaches_its_vendor_in_its_header_and_nowhere_else(seen: Seen) -> None:
    arrived: dict[str, set[tuple[str, str]]] = {}
    for request in seen.requests:
        assert "canary" not in request.path
        assert "canary" not in request.body.decode().replace("canary.example", "")
        for name, value in request.headers.items():
            for scope, one in seen.secrets.items():
                if one.value in value:
                    form = "Credential={}" if "Credential=" in value else value.replace(one.value, "{}")
                    arrived.setdefault(scope, set()).add((name, form))

    expected = {one.secrets[0].scope: {one.header} for one in seen.endpoints if one.header is not None}
    assert arrived == expected


def test_no_answer_no_output_and_no_command_line_holds_a_key(seen: Seen) -> None:
    assert len(seen.told) > 500
    assert sorted(seen.search.places(seen.told)) == []


def test_no_file_holds_a_key(seen: Seen) -> None:
    names = {name for name, _ in seen.kept}
    assert {"llmops.db", "mlflow.db read", "worker-0.db read", "logs/litellm.log", "logs/worker-0.log"} <= names
    assert sorted(seen.search.places(seen.kept)) == []


def test_the_search_finds_what_is_there(seen: Seen) -> None:
    found = Search({"control": [CONTROL]}).places([*seen.told, *seen.kept])

    places = {place for place, _ in found}
    assert {"llmops interactions list", "mlflow.db read"} <= places
    assert {"openai_payload read", "anthropic_payload read"} <= places


def test_only_workers_have_keys_in_their_environment(seen: Seen) -> None:
    given = Search({one.scope: [one.value] for one in seen.secrets.values() if one.source == "environment"})
    token = Search({TOKEN.scope: [TOKEN.value]})

    holders = {command for command, _ in given.places(seen.processes)}
    assert holders == {command for command, _ in token.places(seen.processes)}
    assert {"routes.worker" in command for command in holders} == {True}
    assert len(seen.processes) > len(holders)


def test_no_row_of_postgres_holds_a_key(on_postgres: Mapping[str, str], tmp_path: Path) -> None:
    with Upstream() as upstream:
        names = ("embeddings", "completions", "bearer", "azure", "openai-clear")
        endpoints = [one for one in (*every_vendor(upstream.url), *in_clear(upstream.url)) if one.name in names]
        seen = Seen(endpoints)
        server = Server(tmp_path, environment={**_place(tmp_path, endpoints), **on_postgres})
        with server, httpx.Client(headers={"authorization": f"Bearer {TOKEN.value}"}, timeout=60) as client:
            drive = Drive(server, upstream, seen, tmp_path, client)
            _create(drive)
            for script in (success(), *(script for script, _ in list(MISHAPS.values())[:3])):
                upstream.always(script)
                drive.ask_all()
            _invoke_wrongly(drive)
            flush(server)
    urls = [on_postgres["LLMOPS_DATABASE_URL"], on_postgres["MLFLOW_TRACKING_URI"].replace("+psycopg2", "")]
    rows = [row for url in urls for row in dumped(url)]

    assert {"secrets", "endpoints", "runs", "spans"} <= {table for table, _ in rows}
    assert {table for table, _ in Search({"control": [CONTROL]}).places(rows)} >= {"spans", "tags"}
    assert sorted(seen.search.places([*rows, *seen.told, *stored(server.data_dir)])) == []
