"""What an endpoint's document may say about its log, and what is made of it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from llmops.endpoints.files import read_document, read_file
from llmops.endpoints.log_policy import LogPolicy
from llmops.errors import InvalidSpec
from llmops.interactions.record import new_id
from tests.server import demo

TABLE = {"enabled": True, "catalog_name": "main", "schema_name": "chat"}


def _document(**blocks: Any) -> dict[str, Any]:
    return {**demo("chat"), **blocks}


def _table(**fields: Any) -> dict[str, Any]:
    return _document(ai_gateway={"inference_table_config": {**TABLE, **fields}})


def test_without_a_word_everything_is_logged_and_nothing_goes_to_tables() -> None:
    assert read_document(demo()).log_policy == LogPolicy(
        "everything", mask=False, payload_table=None, usage_tracked=False
    )


def test_the_policy_is_what_the_document_says() -> None:
    document = _document(
        llmops={"log": "metadata", "mask_pii": True, "retention_days": 30, "table_sampling": 0.5},
        ai_gateway={"inference_table_config": TABLE, "usage_tracking_config": {"enabled": True}},
    )

    spec = read_document(document)

    assert spec.log_policy == LogPolicy(
        "metadata", mask=True, payload_table="main.chat.chat_payload", sampling=0.5, usage_tracked=True
    )
    assert spec.document()["llmops"] == document["llmops"]


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ({"lgo": "nothing"}, "llmops.lgo: unknown key; did you mean 'log'?"),
        (
            {"log": "metdata"},
            "llmops.log: 'metdata' is not one of 'everything', 'metadata' or 'nothing'; did you mean 'metadata'?",
        ),
        ({"retention_days": 0}, "llmops.retention_days: 0 is too small; at least 1"),
        ({"retention_days": True}, "llmops.retention_days: must be a whole number"),
        ({"table_sampling": 1.5}, "llmops.table_sampling: 1.5 is too large; at most 1"),
        ({"table_sampling": float("nan")}, "llmops.table_sampling: must be a number"),
    ],
)
def test_a_wrong_key_or_value_is_refused_with_its_place(tmp_path: Path, block: dict[str, Any], problem: str) -> None:
    path = tmp_path / "chat.yaml"
    path.write_text(yaml.safe_dump(_document(llmops=block)))
    line = (
        path.read_text()
        .splitlines()
        .index(f"  {next(iter(block))}: {yaml.safe_dump(next(iter(block.values()))).split()[0]}")
        + 1
    )

    assert read_file(path).problems == (f"{path}:{line}: {problem}",)
    with pytest.raises(InvalidSpec, match=problem.split("'")[0]):
        read_document(_document(llmops=block))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"catalog_name": None}, "catalog_name: needed where the inference table is enabled"),
        ({"schema_name": None}, "schema_name: needed where the inference table is enabled"),
        ({"schema_name": "../up"}, "'../up' is not a name: 1 to 247 letters, digits, dashes and underscores"),
        ({"catalog_name": ""}, "'' is not a name"),
        ({"catalog_name": "a.b"}, "'a.b' is not a name"),
        ({"table_name_prefix": "x" * 248}, "is not a name: 1 to 247"),
        ({"table_name_prefix": "a\n"}, "is not a name"),
    ],
)
def test_an_inference_table_needs_names_that_can_be_directories(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        read_document(_table(**fields))

    assert problem in refused.value.message
    assert refused.value.message.startswith("ai_gateway.inference_table_config")


@pytest.mark.parametrize(
    ("fields", "table"),
    [
        ({}, "main.chat.chat_payload"),
        ({"table_name_prefix": "Logs-2"}, "main.chat.Logs-2_payload"),
        ({"table_name_prefix": "x" * 247}, f"main.chat.{'x' * 247}_payload"),
        ({"enabled": False}, None),
        ({"enabled": None}, None),
    ],
)
def test_the_table_is_named_by_its_prefix_or_the_endpoint(fields: dict[str, Any], table: str | None) -> None:
    assert read_document(_table(**fields)).log_policy.payload_table == table


def test_the_old_key_for_inference_tables_means_the_same() -> None:
    old = demo("chat")
    old["config"]["auto_capture_config"] = {**TABLE, "table_name_prefix": "old"}

    assert read_document(old).log_policy.payload_table == "main.chat.old_payload"
    with pytest.raises(InvalidSpec, match=r"names the table main.chat.old_payload and .* main.chat.chat_payload"):
        read_document({**old, "ai_gateway": {"inference_table_config": TABLE}})


@pytest.mark.parametrize("block", [{"inference_table_config": TABLE}, {"usage_tracking_config": {"enabled": True}}])
def test_a_table_of_an_endpoint_that_logs_nothing_is_refused(block: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec, match=f"llmops.log is 'nothing', and {next(iter(block))} is enabled"):
        read_document(_document(llmops={"log": "nothing"}, ai_gateway=block))


@pytest.mark.parametrize("sampling", [0.0, 0.25, 1.0])
def test_sampling_takes_its_share_and_always_the_same_interactions(sampling: float) -> None:
    policy = LogPolicy(payload_table="a.b.c_payload", sampling=sampling)
    ids = [new_id() for _ in range(4000)]

    taken = [one for one in ids if policy.table(one) is not None]

    assert abs(len(taken) / 4000 - sampling) < (0.05 if 0 < sampling < 1 else 1e-9)
    assert taken == [one for one in ids if policy.table(one) == "a.b.c_payload"]
