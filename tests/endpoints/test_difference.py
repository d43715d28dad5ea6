from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings

from llmops.endpoints.detail import EntityState, detail
from llmops.endpoints.difference import Change, asked, changes, plain
from llmops.endpoints.export import text, write
from llmops.endpoints.files import read_file
from llmops.endpoints.spec import EndpointSpec
from llmops.endpoints.store import StoredEndpoint
from llmops.errors import CommandError
from tests.endpoints.specs import documents
from tests.server import demo

CAPTURE = {"catalog_name": "main", "schema_name": "llm", "enabled": True}
ENTITY = "config.served_entities[eliza]"


def _answered(spec: EndpointSpec) -> dict[str, Any]:
    """What a server answers about an endpoint, through JSON."""
    stored = StoredEndpoint(spec.name, "0" * 32, spec.document(), "a.yaml", None, "me", 1, 2, 3, 4)
    states = {entity.name: EntityState("DEPLOYMENT_READY") for entity in spec.config.served_entities}
    told: dict[str, Any] = orjson.loads(orjson.dumps(detail(stored, states)))
    return told


def test_what_was_asked_for_last_counts_while_it_is_on_its_way() -> None:
    old, new = _spec(demo()), _spec(_two())
    told = {**_answered(old), "pending_config": _answered(new)["config"]}

    assert changes(asked(told), new) == []


def _two(**more: Any) -> dict[str, Any]:
    first, second = demo()["config"]["served_entities"][0], {**demo()["config"]["served_entities"][0], "name": "b"}
    routes = [
        {"served_entity_name": "eliza", "traffic_percentage": 90},
        {"served_entity_name": "b", "traffic_percentage": 10},
    ]
    config = {"served_entities": [first, second], "traffic_config": {"routes": routes}, **more}
    return {"name": "demo", "config": config}


def _spec(document: dict[str, Any]) -> EndpointSpec:
    return EndpointSpec.model_validate(document)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=documents)
@example(document={**demo(), "ai_gateway": {}, "tags": [], "llmops": {}})
@example(document={"name": "e", "config": {**demo()["config"], "auto_capture_config": CAPTURE}})
def test_an_exported_endpoint_is_a_valid_file_and_leaves_no_difference(
    document: dict[str, Any], tmp_path: Path
) -> None:
    spec = _spec(document)
    path = tmp_path / "exported.yaml"

    path.write_text(text(asked(_answered(spec))), "utf-8")
    file = read_file(path)

    assert file.problems == ()
    assert file.spec is not None
    assert changes(asked(_answered(spec)), file.spec) == []
    assert changes(spec, file.spec) == []
    assert text(file.spec) == path.read_text("utf-8")


def test_an_export_holds_nothing_the_server_added() -> None:
    exported = yaml.safe_load(text(asked(_answered(_spec(demo())))))

    assert exported == demo()


@pytest.mark.parametrize(
    ("field", "value", "change"),
    [
        ("description", "x", Change("description", None, "x")),
        ("tags", [{"key": "a", "value": "1"}], Change("tags[a].value", None, "1")),
        ("tags", [{"key": "a"}], Change("tags[a]", None, {})),
        (
            "ai_gateway",
            {"usage_tracking_config": {"enabled": True}},
            Change("ai_gateway.usage_tracking_config.enabled", None, True),
        ),
        ("llmops", {"log": "metadata"}, Change("llmops.log", None, "metadata")),
    ],
)
def test_a_field_that_differs_is_named_with_both_values(field: str, value: Any, change: Change) -> None:
    old, new = _spec(demo()), _spec({**demo(), field: value})

    assert changes(old, new) == [change]
    assert changes(new, old) == [Change(change.field, change.new, change.old)]


def test_a_served_entity_is_found_by_its_name() -> None:
    old, new = demo(), demo()
    new["config"]["served_entities"][0]["llmops"]["parallel"] = 4

    assert changes(_spec(old), _spec(new)) == [Change(f"{ENTITY}.llmops.parallel", None, 4)]


def test_the_order_of_served_entities_is_a_difference_and_that_of_routes_is_none() -> None:
    turned, routes = _two(), _two()
    turned["config"]["served_entities"].reverse()
    routes["config"]["traffic_config"]["routes"].reverse()

    in_order = Change("config.served_entities in order", ["eliza", "b"], ["b", "eliza"])
    assert changes(_spec(_two()), _spec(turned)) == [in_order]
    assert changes(_spec(_two()), _spec(routes)) == []


@pytest.mark.parametrize(
    "same",
    [
        {"ai_gateway": {}},
        {"tags": []},
        {"llmops": {"log": "everything", "table_sampling": 1}},
        {"description": None},
        {"email_notifications": {"on_update_failure": []}},
    ],
    ids=str,
)
def test_what_means_the_same_is_no_difference(same: dict[str, Any]) -> None:
    assert changes(_spec(demo()), _spec({**demo(), **same})) == []
    assert plain(_spec({**demo(), **same})) == demo()


def test_the_default_prefix_of_a_table_is_no_difference_where_it_is_written_down() -> None:
    table = {"enabled": True, "catalog_name": "main", "schema_name": "llm"}
    short = {**demo(), "ai_gateway": {"inference_table_config": table}}
    long = {**demo(), "ai_gateway": {"inference_table_config": {**table, "table_name_prefix": "demo"}}}

    assert changes(_spec(short), _spec(long)) == []
    assert _answered(_spec(short))["ai_gateway"] == long["ai_gateway"]


def test_two_tags_of_one_key_are_compared_whole() -> None:
    tags = [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]

    assert changes(_spec(demo()), _spec({**demo(), "tags": tags})) == [Change("tags", None, tags)]


def test_an_endpoint_that_is_not_there_is_all_new() -> None:
    found = changes(None, _spec(demo()))

    assert Change("name", None, "demo") in found
    assert all(change.old is None for change in found)


def test_a_file_is_left_as_it_is_unless_it_says_something_else(tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text(f"# mine\n{yaml.safe_dump({**demo(), 'tags': []})}")
    other = _spec({**demo(), "description": "x"})

    assert write(tmp_path, _spec(demo())) is False
    with pytest.raises(CommandError, match=r"demo\.yaml: there is such a file, and it says something else; --force"):
        write(tmp_path, other)
    assert path.read_text().startswith("# mine\n")
    assert write(tmp_path, other, force=True) is True
    assert read_file(path).spec == other
    assert [file.name for file in tmp_path.iterdir()] == ["demo.yaml"]
