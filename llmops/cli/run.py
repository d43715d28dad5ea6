"""`llmops run`, behind `make run`: the whole walk once, from an endpoint file to an MLflow run."""

import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from llmops.cli.terminal import note
from llmops.client import Client
from llmops.deployments import databricks_client
from llmops.endpoints.files import read_directory
from llmops.errors import CommandError, NotFound
from llmops.interactions.logged import LoggedInteraction
from llmops.interactions.mlflow_reader import MlflowReader
from llmops.protocol import chat as chat_wire
from llmops.providers.model_files import locate
from llmops.settings import ClientSettings, Settings, server_settings
from llmops.supervisor import free_port

T = TypeVar("T")

PROMPT = "Hello! Who are you, and what can you do?"
READY_WITHIN_S = 60.0
#: The first run makes MLflow's database, which takes ten seconds on a slow machine.
LOGGED_WITHIN_S = 120.0


@click.command()
@click.argument("endpoint", required=False)
@click.option("--prompt", default=PROMPT, show_default=True)
@click.option("--configs", default="endpoint_configs", show_default=True, type=click.Path(path_type=Path))
@click.option("--data-dir", type=click.Path(path_type=Path), help="Store, spools, MLflow files.  [default: .llmops]")
def run(endpoint: str | None, prompt: str, configs: Path, data_dir: Path | None) -> None:
    """Start a server, ask ENDPOINT through the MLflow Deployments client, and show the MLflow run.

    Without ENDPOINT: local-qwen3 when its weights are here, else demo. On a terminal the chat opens then; without one
    the command ends when the run is in MLflow.
    """
    settings = server_settings(data_dir=data_dir, port=free_port(), configs=configs, mlflow_ui=sys.stdin.isatty())
    name = endpoint or _default(configs, settings)
    with _server(settings, configs) as client:
        client_request_id = str(uuid.uuid4())
        began = time.perf_counter()
        answer = _ask(client, name, prompt, client_request_id)
        latency_ms = (time.perf_counter() - began) * 1000
        click.echo(f"you > {prompt}")
        click.echo(f"{name} > {chat_wire.answer_text(answer)}")
        click.echo(_facts(answer, latency_ms))
        _show(_logged(settings, client_request_id), settings)
        if sys.stdin.isatty():
            command = [sys.executable, "-m", "llmops.cli.main", "chat", name, "--host", client.url]
            subprocess.run(command, check=False)


def _default(configs: Path, settings: Settings) -> str:
    """The local model when its weights are here, else the demo; never a vendor who is paid."""
    for file in read_directory(configs):
        if file.name == "local-qwen3" and file.spec is not None:
            sources = (entity.llmops.source for entity in file.spec.config.served_entities)
            if all(source and locate(source, settings.model_dir) for source in sources):
                return file.name
    return "demo"


def _ask(client: Client, name: str, prompt: str, client_request_id: str) -> dict[str, Any]:
    endpoint = client.get_endpoint(name)
    if not endpoint.ready and "CREATING" not in str(endpoint.document):
        raise CommandError(f"endpoint '{name}' is not ready: {endpoint.reason}")
    inputs = {"messages": [{"role": "user", "content": prompt}], "client_request_id": client_request_id}
    deployments = databricks_client(ClientSettings(client.url, server_settings().token))
    return dict(deployments.predict(endpoint=name, inputs=inputs))


def _facts(answer: dict[str, Any], latency_ms: float) -> str:
    usage = answer.get("usage") or {}
    tokens = f"{usage.get('prompt_tokens', '?')} tokens in, {usage.get('completion_tokens', '?')} out"
    return f"{tokens} · {latency_ms:.0f} ms · through mlflow.deployments.get_deploy_client('databricks')"


def _logged(settings: Settings, client_request_id: str) -> LoggedInteraction:
    """The interaction as MLflow has it; it is shipped in the background, so wait for it."""
    note("waiting for the run in MLflow (the first one makes MLflow's database) ...")

    def found() -> LoggedInteraction | None:
        try:
            return next(iter(MlflowReader(settings).find_by_request_id(client_request_id)), None)
        except NotFound:
            return None

    _until((settings.data_dir / "shipper.json").exists, LOGGED_WITHIN_S, "the shipper did not start")
    return _until(
        found, LOGGED_WITHIN_S, "the interaction is spooled, but not in MLflow yet: `llmops interactions flush`"
    )


def _show(logged: LoggedInteraction, settings: Settings) -> None:
    click.echo(f"MLflow run   {logged.run_id}   (found by the tag client_request_id={logged.client_request_id})")
    click.echo(f"MLflow trace {logged.trace_id}")
    facts = (
        *(("endpoint", logged.endpoint), ("served_entity", logged.served_entity), ("model", logged.model)),
        *(("status", logged.status), ("latency_ms", round(logged.latency_ms or 0, 1))),
        *(
            ("input_tokens", logged.input_tokens),
            ("output_tokens", logged.output_tokens),
            ("cost_usd", logged.cost_usd),
        ),
    )
    click.echo("  " + "  ".join(f"{key}={value}" for key, value in facts if value is not None))
    click.echo(f"  tracking store: {settings.tracking_uri}")


@contextmanager
def _server(settings: Settings, configs: Path) -> Iterator[Client]:
    """`llmops serve` as a process of its own, ended with the block."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = ("--port", str(settings.port), "--configs", str(configs), "--data-dir", str(settings.data_dir))
    ui = () if settings.mlflow_ui else ("--no-mlflow-ui",)
    log_path = settings.data_dir / "serve.log"
    with log_path.open("wb") as log:
        # On a leash: when this process is gone, however it ended, the server goes too.
        command = [sys.executable, "-m", "llmops.leash", sys.executable, "-m", "llmops.cli.main", "serve"]
        process = subprocess.Popen([*command, *options, *ui], stdin=subprocess.PIPE, stdout=log, stderr=log)
    client = Client(ClientSettings(settings.url, settings.token))

    def ready() -> bool:
        if process.poll() is not None:
            raise CommandError(_last_line(log_path))
        return client.ready()

    try:
        _until(ready, READY_WITHIN_S, f"the server is not ready; see {log_path}")
        yield client
    finally:
        process.terminate()
        process.wait(timeout=60)


def _until(ask: Callable[[], T | None], limit_s: float, otherwise: str) -> T:
    """Ask until there is an answer.

    Raises:
        CommandError: None came in time.
    """
    deadline = time.monotonic() + limit_s
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise CommandError(otherwise)
        time.sleep(0.05)
    return answer


def _last_line(path: Path) -> str:
    lines = path.read_text("utf-8", "replace").strip().splitlines()
    return (lines[-1] if lines else "the server ended without a word").removeprefix("llmops: ")
