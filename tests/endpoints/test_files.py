"""Every rule of an endpoint file has a file in ``wrong/`` that breaks it, and begins with the exact messages."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from llmops.endpoints import problems
from llmops.endpoints.files import read_directory, read_file, read_paths
from llmops.endpoints.schema import schema
from llmops.endpoints.spec import EndpointSpec
from llmops.errors import InvalidSpec
from tests.server import demo

WRONG = sorted((Path(__file__).parent / "wrong").glob("*.yaml"))
MODULES = ["spec", "served_entity", "external_model", "foundation_model", "ai_gateway", "log_policy", "document"]
MODULES += ["weights", "secrets", "rate_limits"]
#: What each word of a schema is called by pydantic when it is broken.
TYPES = {
    "minimum": "greater_than_equal",
    "exclusiveMinimum": "greater_than",
    "maximum": "less_than_equal",
    "minLength": "string_too_short",
    "minItems": "too_short",
    "maxItems": "too_long",
}


def _expected(path: Path) -> list[str]:
    lines = path.read_text("utf-8").splitlines()
    told = [line for line in lines if line.startswith("# FILE")]
    return [line.removeprefix("# ").replace("FILE", str(path), 1) for line in told]


def _broken() -> Iterator[Any]:
    """What pydantic says of every wrong file that is YAML."""
    for path in WRONG:
        try:
            EndpointSpec.model_validate(yaml.safe_load(path.read_text("utf-8")))
        except ValidationError as err:
            yield from err.errors()
        except (yaml.YAMLError, ValueError):
            continue


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.stem)
def test_a_wrong_file_gets_exactly_its_message(path: Path) -> None:
    file = read_file(path)

    assert list(file.problems) == _expected(path) != []
    assert file.spec is None


def test_no_message_holds_a_key() -> None:
    assert any("sk-canary" in path.read_text("utf-8") for path in WRONG)
    assert not any("sk-canary" in problem for path in WRONG for problem in read_file(path).problems)


def test_every_rule_that_is_code_is_broken_by_a_file() -> None:
    raised = set()
    for problem in _broken():
        trace = problem.get("ctx", {}).get("error").__traceback__ if problem["type"] == "value_error" else None
        while trace is not None:
            raised.add((Path(trace.tb_frame.f_code.co_filename).stem, trace.tb_lineno))
            trace = trace.tb_next
    rules = set()
    for name in MODULES:
        module = importlib.import_module(f"llmops.endpoints.{name}")
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Raise) and "ValueError" in ast.dump(node):
                rules.add((name, node.lineno))

    assert rules - raised == set()


def test_every_rule_that_is_data_is_broken_by_a_file() -> None:
    """Ranges, lengths and required fields, field by field; choices and patterns, each kind."""
    found = [(problem["loc"][-1] if problem["loc"] else "", problem) for problem in _broken()]
    fields = {(field, problem["type"]) for field, problem in found}
    expected = set()
    whole = schema()
    for part in (whole, *whole["$defs"].values()):
        expected |= {(field, "missing") for field in part.get("required", ())}
        for field, said in part.get("properties", {}).items():
            words = {word for one in (said, *said.get("anyOf", ())) for word in one if isinstance(one, dict)}
            expected |= {(field, TYPES[word]) for word in words & TYPES.keys()}

    assert expected - fields == set()
    patterns = {problem["ctx"]["pattern"] for _, problem in found if problem["type"] == "string_pattern_mismatch"}
    assert patterns == set(problems.PATTERNS)


def test_every_text_of_a_problem_is_shown_by_a_file() -> None:
    seen = {problem["type"] for problem in _broken()}

    assert set(problems.TEXTS) - seen == set()


@pytest.mark.parametrize("ending", ["yaml", "yml"])
def test_two_files_that_name_one_endpoint_are_both_refused(tmp_path: Path, ending: str) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / f"b.{ending}"
    for path in (first, second):
        path.write_text(yaml.safe_dump(demo()))

    files = read_directory(tmp_path)

    assert [file.problems for file in files] == [
        (f"{first}:1: name: endpoint 'demo' is also in {second.name}; keep one",),
        (f"{second}:1: name: endpoint 'demo' is also in {first.name}; keep one",),
    ]


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(demo()))

    assert [file.name for file in read_paths([tmp_path, path])] == ["demo"]


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="there is no such file or directory"):
        read_paths([tmp_path / "nowhere"])
