"""MLflow's own command line, `mlflow deployments … -t llmops`."""

import sys
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result
from mlflow.deployments.cli import commands

from tests.clients.stage import BODIES, SAID, Stage, named


def deployments(*arguments: str, target: str = "llmops") -> Result:
    """`mlflow deployments …` in this process; tests/test_deployments.py starts the installed command."""
    return CliRunner().invoke(commands, [arguments[0], "-t", target, *arguments[1:]])


@pytest.mark.call("list-endpoints")
def test_endpoints_are_listed(stage: Stage) -> None:
    name = stage.make()

    done = deployments("list-endpoints")

    assert done.exit_code == 0, done.output
    assert done.output.startswith("List of all endpoints:\n[")
    assert f"'{name}'" in done.output


@pytest.mark.call("get-endpoint", "get")
@pytest.mark.parametrize(("command", "option"), [("get-endpoint", "--endpoint"), ("get", "--name")])
def test_an_endpoint_is_got(stage: Stage, command: str, option: str) -> None:
    name = stage.make()

    done = deployments(command, option, name)

    assert done.exit_code == 0, done.output
    assert {f"name: {name}", "task: llm/v1/chat"} <= set(done.output.splitlines())


@pytest.mark.call("delete-endpoint", "delete")
@pytest.mark.parametrize(("command", "option"), [("delete-endpoint", "--endpoint"), ("delete", "--name")])
def test_an_endpoint_is_deleted(stage: Stage, command: str, option: str) -> None:
    name = stage.make()

    done = deployments(command, option, name)

    assert done.exit_code == 0, done.output
    assert f"{name} is deleted" in done.output
    assert not stage.exists(name)


@pytest.mark.call("list")
def test_deployments_are_listed(stage: Stage) -> None:
    name = stage.make()

    done = deployments("list")

    assert done.exit_code == 0, done.output
    assert f"'{name}'" in done.output


@pytest.mark.call("predict")
@pytest.mark.parametrize("option", ["--endpoint", "--name"])
def test_it_predicts_and_prints(stage: Stage, tmp_path: Path, option: str) -> None:
    name, asked = stage.make(), tmp_path / "body.json"
    asked.write_bytes(orjson.dumps([BODIES["llm/v1/chat"]]))

    done = deployments("predict", option, name, "-I", str(asked))

    assert done.exit_code == 0, done.output
    assert orjson.loads(done.output)["choices"][0]["message"]["content"] == SAID
    assert stage.sent["messages"] == BODIES["llm/v1/chat"]["messages"]


@pytest.mark.call("predict")
def test_it_predicts_into_a_file(stage: Stage, tmp_path: Path) -> None:
    name, asked, into = stage.make("llm/v1/embeddings"), tmp_path / "body.json", tmp_path / "answer.json"
    asked.write_bytes(orjson.dumps(BODIES["llm/v1/embeddings"]))

    done = deployments("predict", "--endpoint", name, "-I", str(asked), "-O", str(into))

    assert (done.exit_code, done.output) == (0, "")
    assert len(orjson.loads(into.read_bytes())["data"]) == 2


@pytest.mark.refused("create", "update")
@pytest.mark.parametrize("command", ["create", "update"])
def test_a_registered_model_is_refused_in_one_line(command: str) -> None:
    done = deployments(command, "--name", "mine", "-m", "models:/m/1")

    assert done.exit_code == 1
    assert done.output.startswith("Error: 'models:/m/1' cannot be deployed: this version serves no registered models")
    assert done.output.count("\n") == 1


@pytest.mark.refused("run-local")
def test_a_registered_model_does_not_run_locally() -> None:
    done = deployments("run-local", "--name", "mine", "-m", "models:/m/1")

    assert (done.exit_code, done.output[:36]) == (1, "Error: 'models:/m/1' cannot be deplo")


@pytest.mark.refused("update-endpoint")
def test_an_endpoint_is_updated(stage: Stage) -> None:
    """The options of that command are texts: what they can say is a config that is refused, in one line."""
    name = stage.make()

    with pytest.warns((UserWarning, FutureWarning), match="update_endpoint.*is deprecated"):
        done = deployments("update-endpoint", "--endpoint", name, "-C", "served_entities=x")

    assert done.exit_code == 1
    assert done.output.startswith("Error: ")
    assert "served_entities" in done.output


@pytest.mark.call("help")
def test_help_names_the_targets() -> None:
    done = deployments("help")

    assert done.exit_code == 0
    assert "llmops+https://host[:port] a server, over HTTPS" in done.output
    assert "`create-endpoint` fails for every target" in done.output


@pytest.mark.parametrize("target", ["llmops", "databricks"])
def test_create_endpoint_fails_for_every_target_before_it_is_asked(target: str) -> None:
    """MLflow's own mistake: its option is ``endpoint``, its parameter ``name``. When it passes, tell the README."""
    done = deployments("create-endpoint", "--endpoint", "mine", target=target)

    assert isinstance(done.exception, TypeError)


def test_no_command_is_left_out() -> None:
    # `explain` explains predictions of flavours that MLflow serves itself.
    assert set(commands.commands) - named(sys.modules[__name__]) == {"create-endpoint", "explain"}
