import contextlib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings

from llmops.endpoints.difference import plain
from llmops.endpoints.schema import SCHEMA_FILE, schema, text
from llmops.endpoints.spec import EndpointSpec
from tests.endpoints.specs import documents

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "endpoint_configs").glob("*.yaml"))
WRONG = sorted((Path(__file__).parent / "wrong").glob("*.yaml"))
#: What a schema cannot say: sums, names that must match or differ, what a value means for another block.
BEYOND = {
    *("entities-of-one-name", "entities-of-different-tasks", "traffic-missing", "traffic-to-a-stranger"),
    *("traffic-leaves-one-out", "traffic-route-twice", "traffic-sums-to-90"),
    *("two-tables", "log-nothing-and-a-table", "log-nothing-and-usage", "table-without-place", "table-name-with-dot"),
    *("llama-without-source", "source-not-weights", "compatible-without-address", "sampling-not-finite"),
    *("external-with-engine", "vendor-of-another-provider", "custom-without-address", "custom-with-two-keys"),
    *("limit-twice", "limits-of-six-groups", "limit-principal-empty", "old-limit-twice"),
    *("openai-key-missing", "openai-entra", "azure-incomplete", "half-a-character"),
}


@pytest.fixture(scope="module")
def validator() -> Any:
    return jsonschema.Draft202012Validator(schema())


def test_the_schema_is_one(validator: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(schema())

    assert validator.is_valid({"name": "x"}) is False


def test_the_shipped_schema_is_the_one_of_the_models() -> None:
    shipped = (ROOT / "endpoint_configs" / SCHEMA_FILE).read_text("utf-8")

    assert shipped == text(), "write it anew: llmops validate --schema > endpoint_configs/endpoint.schema.json"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_example_names_the_schema_and_fits_it(path: Path, validator: Any) -> None:
    written = path.read_text("utf-8")

    assert written.startswith(f"# yaml-language-server: $schema={SCHEMA_FILE}\n")
    assert [error.message for error in validator.iter_errors(yaml.safe_load(written))] == []


@settings(max_examples=100, deadline=None)
@given(document=documents)
def test_what_an_export_writes_fits_the_schema(document: dict[str, Any]) -> None:
    exported = plain(EndpointSpec.model_validate(document))

    assert [error.message for error in jsonschema.Draft202012Validator(schema()).iter_errors(exported)] == []


def test_wrong_files_do_not_fit_the_schema_as_far_as_it_can_say(validator: Any) -> None:
    fitting = set()
    for path in WRONG:
        with contextlib.suppress(yaml.YAMLError, ValueError):
            if validator.is_valid(yaml.safe_load(path.read_text("utf-8"))):
                fitting.add(path.stem)

    assert fitting == BEYOND


def test_editors_show_what_the_docstrings_say() -> None:
    part = schema()["$defs"]["EntityExtras"]["properties"]["source"]

    assert part["description"] == "Weights of engine ``llama_cpp``: a path, or ``hf://org/repo/file.gguf``."
