from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.shell import llmops

CANARY = "sk-canary-1234567890"


def _proxy(*names: str, **params: Any) -> dict[str, Any]:
    entry = {"model": "openai/gpt-4o", "api_key": CANARY, **params}
    return {"model_list": [{"model_name": name, "litellm_params": entry} for name in names]}


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(_proxy("a", "b", rpm=3)))
    return path


def test_an_import_writes_valid_files_and_says_what_to_set_and_what_was_left(foreign: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    done = llmops("", "import", str(foreign), "-o", str(out))
    valid = llmops("", "validate", str(out))

    assert done.returncode == valid.returncode == 0
    assert done.stdout == f"{out}/a.yaml: written\n{out}/b.yaml: written\n"
    reason = "is a share of the traffic here; limits are an endpoint's ai_gateway.rate_limits"
    assert done.stderr.splitlines() == [
        f"{foreign}: model_list[0].litellm_params.rpm: {reason}",
        f"{foreign}: model_list[1].litellm_params.rpm: {reason}",
        "set on the server: export LLMOPS_SECRET_OPENAI_KEY=..."
        f"  # the key at model_list[0].litellm_params.api_key of {foreign}",
    ]
    assert CANARY not in done.stdout + done.stderr + (out / "a.yaml").read_text()
    assert "'{{secrets/openai/key}}'" in (out / "a.yaml").read_text()


def test_a_variable_of_the_environment_is_passed_on_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(_proxy("a", api_key="os.environ/OPENAI_API_KEY")))

    done = llmops("", "import", str(path), "-o", str(tmp_path / "out"))

    assert done.stderr == 'set on the server: export LLMOPS_SECRET_OPENAI_API_KEY="$OPENAI_API_KEY"\n'


def test_strict_exits_1_where_a_field_was_left(foreign: Path, tmp_path: Path) -> None:
    done = llmops("", "import", str(foreign), "-o", str(tmp_path / "out"), "--strict")

    assert done.returncode == 1
    assert done.stderr.endswith("llmops: 2 fields could not be carried over\n")
    assert (tmp_path / "out" / "a.yaml").exists()


def test_an_import_overwrites_nothing_unless_it_is_forced(foreign: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.yaml").write_text("# mine\n")

    done = llmops("", "import", str(foreign), "-o", str(out))
    kept = (out / "a.yaml").read_text()
    forced = llmops("", "import", str(foreign), "-o", str(out), "--force")

    assert (done.returncode, kept) == (1, "# mine\n")
    assert f"{out}/a.yaml: there is such a file, and it says something else; --force overwrites it" in done.stderr
    assert done.stdout == f"{out}/b.yaml: written\n"
    assert (forced.returncode, forced.stdout) == (0, f"{out}/a.yaml: written\n{out}/b.yaml: unchanged\n")


@pytest.mark.parametrize(
    ("written", "code", "told"),
    [
        ("a: b", 1, "neither a config of MLflow's gateway (endpoints), nor of litellm (model_list)"),
        ("a: [", 1, "config.yaml:1: not YAML: "),
        ("model_list: []", 1, "no endpoint could be made of it"),
    ],
)
def test_a_file_that_gives_nothing_is_one_line(tmp_path: Path, written: str, code: int, told: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(written)

    done = llmops("", "import", str(path), "-o", str(tmp_path / "out"))

    assert done.returncode == code
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_format_that_is_told_is_not_found_out(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(_proxy("a")))

    done = llmops("", "import", str(path), "-o", str(tmp_path / "out"), "--format", "mlflow")
    wrong = llmops("", "import", str(path), "--format", "litelm")

    assert "model_list: has no counterpart here" in done.stderr
    assert wrong.returncode == 64
