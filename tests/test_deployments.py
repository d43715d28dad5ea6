"""MLflow's plugin of the target ``llmops``: found by its entry points, in Python and on MLflow's own command line."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from click.testing import CliRunner, Result
from mlflow.deployments import get_deploy_client
from mlflow.deployments.cli import commands
from mlflow.exceptions import MlflowException

from tests.cli.shell import llmops
from tests.conftest import NewServer
from tests.faults import cut_stream
from tests.scripts import chat, chat_stream, completion, embeddings
from tests.server import Server, demo, external
from tests.upstream import Upstream, refused_url

HELLO = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]}


@pytest.fixture
def target(server: Server) -> str:
    """The shared server as a target of the plugin."""
    return server.url.replace("http://", "llmops://")


@pytest.fixture
def client(target: str) -> Any:
    return get_deploy_client(target)


@pytest.fixture
def made(client: Any, upstream: Upstream) -> Iterator[str]:
    """An endpoint made by the client, and deleted by it."""
    client.create_endpoint(config=external("plugged", upstream.url))
    yield "plugged"
    client.delete_deployment("plugged")


def command(*arguments: str) -> Result:
    """`mlflow deployments …`, in this process."""
    return CliRunner().invoke(commands, [*arguments])


def body_file(folder: Path, body: Any) -> str:
    path = folder / "body.json"
    path.write_bytes(orjson.dumps(body))
    return str(path)


def test_the_plugin_does_what_the_client_of_databricks_does(client: Any, upstream: Upstream, made: str) -> None:
    upstream.play(chat("Hello."), chat_stream())

    answer = client.predict(endpoint=made, inputs=HELLO)
    chunks = list(client.predict_stream(endpoint=made, inputs=HELLO))
    config = client.update_endpoint_config(made, external("other", upstream.url)["config"]).config

    assert answer.choices[0]["message"]["content"] == "Hello."
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Hello there, friend."
    assert config["config_version"] == 2
    assert client.update_endpoint_tags(made, {"add_tags": [{"key": "k"}]}) == {"tags": [{"key": "k"}]}
    assert client.get_endpoint(made)["name"] == client.get_deployment(made)["name"] == made
    assert made in [endpoint["name"] for endpoint in client.list_endpoints()]
    assert client.list_deployments() == client.list_endpoints()


def test_a_stream_that_breaks_raises(client: Any, upstream: Upstream) -> None:
    upstream.play(cut_stream(after=2))

    with pytest.raises(MlflowException, match="the upstream ended its answer in the middle"):
        list(client.predict_stream(endpoint="up", inputs=HELLO))


def test_deleting_a_deployment_twice_is_fine(client: Any, upstream: Upstream) -> None:
    client.create_endpoint(config=external("twice", upstream.url))

    client.delete_deployment("twice")
    client.delete_deployment("twice")

    with pytest.raises(MlflowException, match="'twice' does not exist") as told:
        client.delete_endpoint("twice")
    assert told.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    assert told.value.get_http_status_code() == 404


def test_the_server_and_its_token_come_from_the_environment(
    new_server: NewServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = new_server(demo(), environment={"LLMOPS_TOKEN": "sesame"})
    monkeypatch.setenv("LLMOPS_HOST", server.url)

    with pytest.raises(MlflowException, match="a valid token is needed") as told:
        get_deploy_client("llmops").list_endpoints()
    monkeypatch.setenv("LLMOPS_TOKEN", "sesame")

    assert told.value.error_code == "UNAUTHENTICATED"
    assert [endpoint["name"] for endpoint in get_deploy_client("llmops").list_endpoints()] == ["demo"]


@pytest.mark.parametrize("scheme", ["llmops", "llmops+https"])
def test_a_server_that_is_not_there_is_one_line_at_once(scheme: str) -> None:
    url = refused_url().replace("http://", f"{scheme}://")
    began = time.monotonic()

    with pytest.raises(MlflowException) as told:
        get_deploy_client(url).list_endpoints()

    assert time.monotonic() - began < 3
    assert str(told.value).startswith("no server answers at http")
    assert "llmops serve" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("llmops://user:sesame@host", "the target holds a password"),
        ("llmops://host/path", "is no target"),
        ("llmops:host", "is no target"),
        ("llmops://host:99999", "is not a URI"),
    ],
)
def test_a_target_of_another_form_is_refused(target: str, message: str) -> None:
    with pytest.raises(MlflowException, match=message) as told:
        get_deploy_client(target)

    assert "sesame" not in str(told.value)


def test_what_is_no_llmops_server_is_told_apart(upstream: Upstream) -> None:
    with pytest.raises(MlflowException, match="not as an llmops server does"):
        get_deploy_client(upstream.url.replace("http://", "llmops://")).get_endpoint("x")


def test_a_registered_model_is_refused_clearly(client: Any, target: str) -> None:
    for refused in (client.create_deployment, client.update_deployment):
        with pytest.raises(MlflowException, match="'models:/m/1' cannot be deployed"):
            refused("name", "models:/m/1")

    done = command("create", "-t", target, "--name", "m", "-m", "models:/m/1")

    assert done.exit_code == 1
    assert done.output == (
        "Error: 'models:/m/1' cannot be deployed: this version serves no registered models; create_endpoint(config=…)"
        " makes an endpoint of a vendor's model or of a foundation model\n"
    )


def test_mlflows_command_line_lists_gets_and_deletes(client: Any, target: str, upstream: Upstream) -> None:
    client.create_endpoint(config=external("listed", upstream.url))

    listed = command("list-endpoints", "-t", target)
    got = command("get-endpoint", "-t", target, "--endpoint", "listed")
    deleted = command("delete-endpoint", "-t", target, "--endpoint", "listed")
    gone = command("get-endpoint", "-t", target, "--endpoint", "listed")

    assert "'name': 'listed'" in listed.output
    assert "name: listed\n" in got.output
    assert deleted.output == "\nEndpoint listed is deleted\n"
    assert (gone.exit_code, gone.output) == (1, "Error: Endpoint with name 'listed' does not exist.\n")


def test_mlflows_command_line_helps_with_the_target() -> None:
    done = command("help", "-t", "llmops")

    assert "LLMOPS_HOST" in done.output
    assert "llmops+https://host" in done.output


def test_the_command_that_the_help_names_instead_creates_an_endpoint(server: Server, tmp_path: Path) -> None:
    told = re.search(r"use `llmops (.+? FILE)`", command("help", "-t", "llmops").output)
    assert told is not None
    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump(demo("instead")))

    done = llmops(server.url, *told[1].replace("FILE", str(file)).split())

    assert (done.returncode, done.stdout) == (0, "endpoint 'instead' created, READY\n"), done.stderr
    assert llmops(server.url, "endpoints", "delete", "instead", "--yes").returncode == 0


@pytest.mark.parametrize(
    ("endpoint", "body", "sent"),
    [
        ("up", {**HELLO, "max_tokens": 5}, {**HELLO, "max_tokens": 5}),
        ("up", [{**HELLO, "temperature": 0.5}], {**HELLO, "temperature": 0.5}),
        ("up-completions", {"prompt": ["7"]}, {"prompt": ["7"]}),
        ("up-embeddings", [{"input": ["a", "b"]}], {"input": ["a", "b"]}),
    ],
)
def test_mlflows_command_line_predicts_from_the_frame_it_makes_of_a_file(
    target: str, upstream: Upstream, tmp_path: Path, endpoint: str, body: Any, sent: dict[str, Any]
) -> None:
    replies = {"up": chat("Hi."), "up-completions": completion("Hi."), "up-embeddings": embeddings((0.5,), (0.25,))}
    upstream.play(replies[endpoint])

    done = command("predict", "-t", target, "--endpoint", endpoint, "-I", body_file(tmp_path, body))

    assert done.exit_code == 0, done.output
    assert orjson.loads(done.output)["object"]
    assert upstream.requests[-1].json == {**sent, "model": f"{endpoint}-model"}


def test_mlflows_command_line_writes_the_answer_into_a_file(target: str, tmp_path: Path) -> None:
    into = tmp_path / "answer.json"

    done = command("predict", "-t", target, "--name", "demo", "-I", body_file(tmp_path, [HELLO]), "-O", str(into))

    assert done.exit_code == 0, done.output
    assert orjson.loads(into.read_bytes())["choices"]


@pytest.mark.parametrize(
    ("body", "message"),
    [([HELLO, HELLO], "holds 2 requests"), ([{"question": "why"}], "none of the fields messages, prompt, input")],
)
def test_a_frame_that_is_no_request_is_refused(target: str, tmp_path: Path, body: Any, message: str) -> None:
    done = command("predict", "-t", target, "--endpoint", "demo", "-I", body_file(tmp_path, body))

    assert done.exit_code == 1
    assert message in done.output


def test_the_installed_command_shows_one_line_and_no_stack_trace() -> None:
    mlflow = Path(sys.executable).parent / "mlflow"
    url = refused_url().replace("http://", "llmops://")

    done = subprocess.run(
        [mlflow, "deployments", "list-endpoints", "-t", url], capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: no server answers at http://127.0.0.1:1")
    assert "Traceback" not in done.stderr
