"""What happens to served entities is a row each, once, whoever looks how often."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmops.endpoints.detail import served_entity_id
from llmops.endpoints.spec import EndpointSpec
from llmops.endpoints.store import Store
from llmops.interactions.table_sink import TableSink
from llmops.settings import Settings
from tests.interactions.tables import ENTITIES, asked, delivered, recorded, rows


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    opened = Store(settings.store_path)
    yield opened
    opened.close()


def _spec(name: str = "chat", *entities: str, tracked: bool = True) -> EndpointSpec:
    served: list[dict[str, Any]] = [
        {"name": one, "entity_name": f"llmops.{one}", "llmops": {"engine": "demo"}} for one in entities or ("small",)
    ]
    shares = [100, *[0] * (len(served) - 1)]
    routes = [
        {"served_entity_name": one["name"], "traffic_percentage": share}
        for one, share in zip(served, shares, strict=True)
    ]
    config = {"served_entities": served, "traffic_config": {"routes": routes}}
    document = {"name": name, "config": config}
    return EndpointSpec.model_validate(document | ({"ai_gateway": _TRACKING} if tracked else {}))


_TRACKING = {"usage_tracking_config": {"enabled": True}}


def _looked(settings: Settings) -> None:
    """A server starts, and looks at its endpoints."""
    sink = TableSink(settings)
    sink.open()
    sink.close()


def _told(settings: Settings) -> list[tuple[Any, ...]]:
    query = "SELECT served_entity_name, endpoint_config_version, endpoint_delete_time IS NOT NULL FROM t"
    return sorted(asked(settings, query, ENTITIES))


def test_a_row_tells_what_an_entity_is(settings: Settings, store: Store) -> None:
    external = {"name": "gpt-4o", "provider": "openai", "task": "llm/v1/chat"}
    key = {"openai_config": {"openai_api_key": "{{secrets/openai/key}}"}}
    entity = {"name": "gpt", "external_model": external | key}
    spec = EndpointSpec.model_validate(
        {"name": "chat", "config": {"served_entities": [entity]}, "ai_gateway": _TRACKING}
    )
    endpoint = store.create(spec, "ada@example.com")
    _looked(settings)

    (row,) = rows(settings, ENTITIES)
    assert row.pop("change_time").timestamp() == endpoint.updated_ms / 1000
    assert row == {
        "served_entity_id": served_entity_id(endpoint.id, "gpt"),
        "account_id": None,
        "workspace_id": (settings.data_dir / "workspace_id").read_text(),
        "created_by": "ada@example.com",
        "endpoint_name": "chat",
        "endpoint_id": endpoint.id,
        "served_entity_name": "gpt",
        "entity_type": "EXTERNAL_MODEL",
        "entity_name": "gpt-4o",
        "entity_version": None,
        "endpoint_config_version": 1,
        "task": "llm/v1/chat",
        "external_model_config": {"provider": "openai"},
        "foundation_model_config": None,
        "custom_model_config": None,
        "feature_spec_config": None,
        "endpoint_delete_time": None,
    }


def test_each_change_is_a_row_however_often_somebody_looks(settings: Settings, store: Store) -> None:
    endpoint = store.create(_spec(), None)
    for _ in range(2):
        _looked(settings)
    endpoint = store.update(endpoint, _spec("chat", "small", "large"))
    for _ in range(2):
        _looked(settings)
    store.delete("chat")
    for _ in range(2):
        _looked(settings)

    assert _told(settings) == [
        ("large", 2, False),
        ("large", 2, True),
        ("small", 1, False),
        ("small", 2, False),
        ("small", 2, True),
    ]


def test_endpoints_that_nobody_tracks_make_no_table(settings: Settings, store: Store) -> None:
    store.create(_spec(tracked=False), None)
    _looked(settings)

    assert not Path(settings.table_root).exists()


def test_a_running_sink_sees_a_change_with_the_next_record(settings: Settings, store: Store) -> None:
    sink = TableSink(settings)
    sink.open()
    store.create(_spec(), None)
    sink._look_s = 0.0  # A second has passed.
    sink.deliver([])
    sink.close()

    assert _told(settings) == [("small", 1, False)]


def test_another_server_that_writes_the_table_is_left_alone(tmp_path: Path) -> None:
    """Its endpoints are not in our store, and are not deleted for that."""
    root = str(tmp_path / "tables")
    one, other = (Settings(data_dir=tmp_path / name, tables_uri=root) for name in ("one", "other"))
    for settings in (one, other):
        store = Store(settings.store_path)
        store.create(_spec(f"of-{settings.data_dir.name}", settings.data_dir.name), None)
        store.close()
        _looked(settings)
        _looked(one)

    assert _told(one) == [("one", 1, False), ("other", 1, False)]


def test_a_table_that_cannot_be_written_does_not_stop_payloads(settings: Settings, store: Store) -> None:
    store.create(_spec(), None)
    folder = Path(settings.table_root) / "system" / "serving"
    folder.mkdir(parents=True)
    (folder / "served_entities").write_text("a file")

    delivered(settings, recorded())

    assert len(rows(settings)) == 1
