"""The real clients at their newest versions, unmodified: every call of theirs, against a server that asks for tokens.

Their tests are in tests/clients/, and are run by the Python of .venv-clients. Here each of them is one test again.
"""

import ast
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.conftest import KEY
from tests.server import Server, demo
from tests.services import missing

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
TOKEN = "the-token-of-the-clients"
#: How long the calls of one process may take, on a busy machine, the first import of its packages included.
LIMIT_S = 240.0
#: Warnings of the imports of the clients, and of connections that they have no way to close; any other is an error.
ALLOWED = ("-W", "ignore:Support for class-based:DeprecationWarning", "-W", "ignore::ResourceWarning")

#: What runs in one process, because most of the time goes into imports, and the files of its calls.
PROCESSES = {
    "mlflow and databricks-sdk": (
        *("mlflow_databricks", "mlflow_http", "mlflow_llmops", "mlflow_command"),
        *("databricks_sdk_endpoints", "databricks_sdk_parts", "databricks_sdk_workspace"),
    ),
    "openai and what stands on it": ("openai_client", "databricks_langchain_client", "databricks_openai_client"),
}
FILES = {file: process for process, files in PROCESSES.items() for file in files}
#: The rows of the README's table, and the files whose calls they name.
ROWS = {
    "mlflow, target `databricks`": ("mlflow_databricks",),
    "mlflow, target `http://host`": ("mlflow_http",),
    "mlflow, target `llmops`": ("mlflow_llmops",),
    "`mlflow deployments … -t llmops`": ("mlflow_command",),
    "databricks-sdk, `serving_endpoints`": ("databricks_sdk_endpoints", "databricks_sdk_parts"),
    "databricks-sdk, the rest": ("databricks_sdk_workspace",),
    "openai": ("openai_client",),
    "databricks-langchain": ("databricks_langchain_client",),
    "databricks-openai": ("databricks_openai_client",),
}


@dataclass(frozen=True)
class Call:
    """One test of a client.

    Attributes:
        made: The calls it is marked with.
        refused: Those it is marked with as refused by the server.
        used: Every attribute and text in it, where those calls must be.
    """

    file: str
    test: str
    made: frozenset[str]
    refused: frozenset[str]
    used: frozenset[str]


@cache
def calls(file: str) -> tuple[Call, ...]:
    """The tests of a file, read without importing it: its imports are not in this environment."""
    tree = ast.parse((ROOT / "tests" / "clients" / f"{file}.py").read_text("utf-8"))
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            marks = {mark: _marked(node, mark) for mark in ("call", "refused")}
            found.append(Call(file, node.name, marks["call"], marks["refused"], _used(node)))
    return tuple(found)


def _used(test: ast.FunctionDef) -> frozenset[str]:
    """The attributes and texts of a test, those of the marks that name its calls left out."""
    own = [mark for mark in test.decorator_list if not re.match(r"pytest\.mark\.(call|refused)\(", ast.unparse(mark))]
    parts = [part for node in (*own, *test.body) for part in ast.walk(node)]
    texts = {str(part.value) for part in parts if isinstance(part, ast.Constant)}
    return frozenset(texts | {part.attr for part in parts if isinstance(part, ast.Attribute)})


def _marked(test: ast.FunctionDef, mark: str) -> frozenset[str]:
    marks = [one for one in test.decorator_list if isinstance(one, ast.Call)]
    return frozenset(
        ast.literal_eval(name) for one in marks if ast.unparse(one.func) == f"pytest.mark.{mark}" for name in one.args
    )


def every_call() -> list[Any]:
    """Every test of every client, with the process it runs in, for parametrization."""
    return [
        pytest.param(process, call, id=f"{file}-{call.test.removeprefix('test_')}")
        for file, process in FILES.items()
        for call in calls(file)
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for a token."""
    if not PYTHON.exists():
        missing("needs the clients' own environment: make .venv-clients/.ready")
    secrets = {"LLMOPS_SECRET_TEST_KEY": KEY, "LLMOPS_TOKEN": TOKEN}
    endpoints = (demo(), demo("demo-embeddings", "llm/v1/embeddings"))
    with Server(tmp_path_factory.mktemp("clients"), endpoints, environment=secrets) as running:
        yield running


@dataclass(frozen=True)
class Run:
    """The calls of one process, made.

    Attributes:
        failures: Of each test that ran, by its file and its name; empty where it passed.
    """

    failures: Mapping[tuple[str, str], list[str]]
    output: str


@pytest.fixture(scope="module")
def runs(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Run]:
    """The run of each process; it is made when it is first wanted."""
    return _Runs(server, tmp_path_factory.mktemp("runs"))


class _Runs(dict[str, Run]):
    def __init__(self, server: Server, folder: Path) -> None:
        super().__init__()
        self._server, self._folder = server, folder

    def __missing__(self, process: str) -> Run:
        self[process] = run = self._make(process)
        return run

    def _make(self, process: str) -> Run:
        report = self._folder / f"{process}.xml"
        files = [f"tests/clients/{file}.py" for file in PROCESSES[process]]
        # The fixtures of tests/ import what is not in that environment.
        options = ["--noconftest", "-p", "no:cacheprovider", "-p", "tests.clients.stage", f"--junitxml={report}"]
        try:
            done = subprocess.run(
                [str(PYTHON), "-m", "pytest", *options, *ALLOWED, *files],
                cwd=ROOT,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as err:
            return Run({}, f"not done in {LIMIT_S} s: {(err.output or b'')[-4000:]!r}")
        return Run(_failures(report), done.stdout)

    def _environment(self) -> dict[str, str]:
        """The server and the token where each client looks for them."""
        foreign = ("LLMOPS_", "MLFLOW_", "DATABRICKS_", "OPENAI_", "LANGCHAIN_", "LANGSMITH_", "PYTEST_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        host = {"DATABRICKS_HOST": self._server.url, "LLMOPS_HOST": self._server.url}
        token = dict.fromkeys(("DATABRICKS_TOKEN", "LLMOPS_TOKEN", "MLFLOW_TRACKING_TOKEN"), TOKEN)
        # langsmith and anyio bring plugins of pytest.
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        return {**kept, **host, **token, **quiet}


def _failures(report: Path) -> dict[tuple[str, str], list[str]]:
    """What went wrong in each test, nothing where it passed; a test is its file and its name without parameters."""
    found: dict[tuple[str, str], list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        test = (case.get("classname", "").rpartition(".")[2], case.get("name", "").partition("[")[0])
        wrong = [part for part in case if part.tag in ("failure", "error", "skipped")]
        found.setdefault(test, []).extend(f"{case.get('name')}:\n{part.text}" for part in wrong)
    return found


@pytest.mark.parametrize(("process", "call"), every_call())
def test_the_client_makes_the_call(process: str, call: Call, runs: Mapping[str, Run]) -> None:
    run = runs[process]

    assert (call.file, call.test) in run.failures, f"it did not run:\n{run.output}"
    wrong = run.failures[call.file, call.test]
    assert not wrong, "\n".join(wrong)


def test_each_call_is_made_where_it_is_named() -> None:
    unmade = [
        f"{call.file}.{call.test}: {name}"
        for file in FILES
        for call in calls(file)
        for name in call.made | call.refused
        if name.rpartition(".")[2] not in call.used
    ]

    assert unmade == []


def test_every_file_of_calls_is_run_and_in_the_readme() -> None:
    files = {path.stem for path in (ROOT / "tests" / "clients").glob("*.py")} - {"__init__", "stage"}

    assert files == set(FILES) == {file for files in ROWS.values() for file in files}


def test_the_readmes_table_of_clients_is_complete() -> None:
    table = (ROOT / "README.md").read_text("utf-8").partition("| client | calls | refused")[2].partition("\n\n")[0]
    rows = [line.removeprefix("| ").split(" | ") for line in table.splitlines()[2:]]
    told = {client: tuple(set(re.findall("`([^`]+)`", cell)) for cell in cells) for client, *cells in rows}

    for row, files in ROWS.items():
        marked = [call for file in files for call in calls(file)]
        refused = {name for call in marked for name in call.refused}
        assert told[row] == ({name for call in marked for name in call.made} - refused, refused), row
    assert set(told) == set(ROWS)


def test_neither_litellm_nor_spark_is_among_the_clients() -> None:
    """litellm holds openai below 3, and beside that openai pip quietly takes databricks-langchain 0.3."""
    locked = dict(re.findall(r"^([a-z0-9-]+)==([0-9]+)\.", (ROOT / "requirements-clients.lock").read_text(), re.M))

    assert not {"litellm", "pyspark", "databricks-connect"} & set(locked)
    assert {"mlflow", "databricks-sdk", "databricks-langchain", "databricks-openai"} <= set(locked)
    assert int(locked["openai"]) >= 3
