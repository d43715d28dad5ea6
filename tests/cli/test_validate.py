import json
from pathlib import Path

import yaml

from llmops.endpoints.schema import text
from tests.cli.conftest import written
from tests.cli.shell import llmops
from tests.server import demo

WRONG = Path(__file__).parents[1] / "endpoints" / "wrong"


def test_the_shipped_files_have_no_problems() -> None:
    done = llmops("", "validate")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(" files, no problems\n")


def test_each_problem_is_a_line_with_file_line_and_field() -> None:
    path = WRONG / "traffic-above-hundred.yaml"

    done = llmops("", "validate", str(path))

    field = "config.traffic_config.routes[0].traffic_percentage"
    assert done.stdout == f"{path}:13: {field}: 110 is too large; at most 100\n"
    assert (done.returncode, done.stderr) == (1, "llmops: 1 problems in 1 of 1 files\n")


def test_files_and_directories_are_checked_together(tmp_path: Path) -> None:
    directory = written(tmp_path, demo("a"))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(demo("a")))

    done = llmops("", "validate", directory, str(tmp_path / "b.yaml"), "--json")

    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert told["problems"] == 2
    assert f"endpoint 'a' is also in {tmp_path}/b.yaml; keep one" in told["files"][0]["problems"][0]


def test_the_schema_is_printed_for_editors() -> None:
    assert llmops("", "validate", "--schema").stdout == text()


def test_a_directory_without_a_file_is_refused(tmp_path: Path) -> None:
    done = llmops("", "validate", str(tmp_path))

    assert (done.returncode, done.stderr) == (1, "llmops: no *.yaml file found; name files or a directory\n")
