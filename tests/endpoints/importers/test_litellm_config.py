from pathlib import Path
from typing import Any

import pytest

from llmops.endpoints.export import text
from tests.endpoints.importers.foreign import CANARY, entity_of, key_of, left, made, proxy


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"model": "openai/gpt-4o", "api_key": CANARY}, ("openai", "gpt-4o")),
        ({"model": "gpt-4o", "api_key": CANARY}, ("openai", "gpt-4o")),
        ({"model": "claude-sonnet-4", "api_key": CANARY}, ("anthropic", "claude-sonnet-4")),
        ({"model": "gemini/gemini-2.5-pro", "api_key": CANARY}, ("palm", "gemini-2.5-pro")),
        ({"model": "groq/llama", "api_key": CANARY}, ("custom", "llama")),
        ({"model": "llama", "custom_llm_provider": "together_ai"}, ("custom", "llama")),
        ({"model": "openrouter/a/b"}, ("custom", "a/b")),
        ({"model": "cohere_chat/command-r"}, ("cohere", "command-r")),
        (
            {"model": "azure/gpt", "api_base": "https://h", "api_version": "2024-02-01", "api_key": CANARY},
            ("openai", "gpt"),
        ),
        (
            {"model": "bedrock/us.anthropic.claude-v2", "aws_region_name": "us"},
            ("amazon-bedrock", "us.anthropic.claude-v2"),
        ),
        ({"model": "databricks/m", "api_base": "https://h/serving-endpoints"}, ("databricks-model-serving", "m")),
        (
            {"model": "vertex_ai/g", "vertex_project": "p", "vertex_location": "l", "vertex_credentials": CANARY},
            ("google-cloud-vertex-ai", "g"),
        ),
    ],
    ids=lambda value: str(value.get("model")) if isinstance(value, dict) else "",
)
def test_a_model_of_litellm_becomes_an_external_model(tmp_path: Path, params: Any, expected: tuple[str, str]) -> None:
    found = made(tmp_path, proxy(("e", params)))

    model = entity_of(found)["external_model"]
    assert (model["provider"], model["name"]) == expected
    assert found.left == []
    assert found.keys
    assert CANARY not in repr(found) + text(found.specs[0])


def test_a_server_of_open_models_becomes_a_foundation_model(tmp_path: Path) -> None:
    found = made(tmp_path, proxy(("e", {"model": "ollama/llama3.2", "api_base": "http://127.0.0.1:11434"})))

    assert entity_of(found)["llmops"] == {
        "engine": "openai_compatible",
        "task": "llm/v1/chat",
        "model": "llama3.2",
        "vendor": "ollama",
        "api_base": "http://127.0.0.1:11434/v1",
    }
    assert found.keys == {}


@pytest.mark.parametrize(
    ("weights", "percentages"),
    [
        ([{}, {}, {}], [34, 33, 33]),
        ([{"weight": 3}, {"weight": 1}, {}], [75, 25, 0]),
        ([{"rpm": 6}, {"rpm": 3}, {"rpm": 1}], [60, 30, 10]),
        ([{"weight": 1, "rpm": 9}, {"rpm": 1}, {"rpm": 1}], [100, 0, 0]),
        ([{"tpm": 1e308}, {"tpm": 1e308}, {"tpm": 1e308}], [34, 33, 33]),
    ],
    ids=["even", "weight", "rpm", "weight-before-rpm", "huge"],
)
def test_entries_of_one_name_share_the_traffic_as_litellm_would(
    tmp_path: Path, weights: list[dict[str, float]], percentages: list[int]
) -> None:
    entries = [("e", {"model": "openai/gpt", "api_key": CANARY, **weight}) for weight in weights]

    (spec,) = made(tmp_path, proxy(*entries)).specs

    assert [entity.name for entity in spec.config.served_entities] == ["gpt", "gpt-2", "gpt-3"]
    assert spec.config.percentages == percentages


def test_a_fallback_of_litellm_is_a_served_entity_without_traffic(tmp_path: Path) -> None:
    document = proxy(
        ("a", {"model": "openai/gpt"}),
        ("b", {"model": "anthropic/claude"}),
        router_settings={"fallbacks": [{"a": ["b", "gone"]}]},
    )

    found = made(tmp_path, document)

    first = found.specs[0]
    assert [entity.name for entity in first.config.served_entities] == ["gpt", "claude"]
    assert first.config.percentages == [100, 0]
    assert first.ai_gateway is not None
    assert first.ai_gateway.fallback
    assert left(found) == {"router_settings.fallbacks[0].a": "'gone' is not among the models that were carried over"}


def test_what_litellm_has_and_we_have_not_is_listed_and_no_value_is(tmp_path: Path) -> None:
    document = proxy(
        ("gpt-4.1", {"model": "openai/gpt-4.1", "temperature": 0.5, "rpm": 3, "extra_headers": {"x": CANARY}}),
        ("all", {"model": "openai/*"}),
        ("rep", {"model": "replicate/meta/llama", "api_key": CANARY}),
        ("far", {"model": "openai/x", "api_base": f"https://me:{CANARY}@h"}),
        general_settings={"master_key": CANARY},
        environment_variables={"A": CANARY},
    )

    found = made(tmp_path, document)

    assert [spec.name for spec in found.specs] == ["gpt-4-1", "far"]
    assert set(left(found)) == {
        "model_list[0]",
        "model_list[0].litellm_params.temperature",
        "model_list[0].litellm_params.rpm",
        "model_list[0].litellm_params.extra_headers",
        "model_list[1]",
        "model_list[2].litellm_params.model",
        "model_list[3].litellm_params.api_base",
        "general_settings.master_key",
        "environment_variables",
    }
    assert left(found)["model_list[0]"] == "its name 'gpt-4.1' cannot be kept; the endpoint is 'gpt-4-1'"
    assert CANARY not in repr(found)


@pytest.mark.parametrize(
    ("mode", "task"),
    [("embedding", "llm/v1/embeddings"), ("completion", "llm/v1/completions"), ("chat", "llm/v1/chat")],
)
def test_the_mode_of_litellm_is_the_task(tmp_path: Path, mode: str, task: str) -> None:
    document = proxy(("e", {"model": "openai/x", "timeout": 30}))
    document["model_list"][0]["model_info"] = {"mode": mode}

    entity = entity_of(made(tmp_path, document))

    assert entity["external_model"]["task"] == task
    assert entity["llmops"] == {"timeouts": {"total_s": 30.0}}


def test_keys_that_differ_get_variables_that_differ(tmp_path: Path) -> None:
    document = proxy(
        ("a", {"model": "openai/a", "api_key": "os.environ/OPENAI_KEY"}),
        ("b", {"model": "openai/b", "api_key": CANARY}),
        ("c", {"model": "openai/c", "api_key": CANARY + "2"}),
        ("d", {"model": "openai/d", "api_key": CANARY}),
    )

    found = made(tmp_path, document)

    assert [(key.variable, key.origin) for key in found.keys.values()] == [
        ("LLMOPS_SECRET_OPENAI_KEY", "$OPENAI_KEY"),
        ("LLMOPS_SECRET_OPENAI_KEY_2", "model_list[1].litellm_params.api_key"),
        ("LLMOPS_SECRET_OPENAI_KEY_3", "model_list[2].litellm_params.api_key"),
    ]
    assert key_of(found.specs[1]) == key_of(found.specs[3]) == "{{secrets/openai/key-2}}"
