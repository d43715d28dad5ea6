import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmops.endpoints.export import text
from llmops.endpoints.external_model import ExternalModel
from llmops.endpoints.importers.foreign import Harvest
from llmops.endpoints.importers.formats import FORMATS
from llmops.endpoints.spec import EndpointSpec
from llmops.errors import CommandError
from tests.endpoints.importers.foreign import gateway, made, proxy


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("a: [", r"foreign\.yaml:1: not YAML"),
        ("- a", "not a mapping"),
        ("a: b", "neither a config of MLflow's gateway"),
        ("\x00", "not YAML in UTF-8"),
        ("a: 2023-02-30", "not YAML in UTF-8"),
        ("? [a]\n: b", "not YAML|neither"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path, written: str, told: str) -> None:
    with pytest.raises(CommandError, match=told):
        made(tmp_path, written)


_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(), st.just("openai/gpt")
)
_KEYS = """
    model_list model_name litellm_params model api_key api_base model_info mode weight rpm timeout endpoints name
    endpoint_type provider config aws_config routes destinations traffic_percentage served_entities external_model
    openai_config openai_api_key_plaintext task traffic_config ai_gateway rate_limits tags router_settings fallbacks
    llmops openai_api_type openai_api_base
"""
_WORDS = st.sampled_from(_KEYS.split())
_KNOWN = st.sampled_from(
    ["openai", "azure", "bedrock", "llm/v1/chat", "chat", "gpt", "$K", "os.environ/K", "https://h"]
)
_VALUES = st.recursive(
    st.one_of(_LEAVES, _KNOWN),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(_WORDS, _LEAVES.filter(lambda leaf: leaf == leaf)), inner, max_size=5),
    ),
    max_leaves=25,
)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    document=st.dictionaries(_WORDS, _VALUES, max_size=5),
    format_=st.sampled_from([None, *FORMATS]),
)
def test_whatever_a_file_says_it_gives_valid_endpoints_or_one_line(
    document: dict[str, Any], format_: str | None, tmp_path: Path
) -> None:
    found = Harvest()
    with contextlib.suppress(CommandError):
        found = made(tmp_path, yaml.safe_dump(document), format_)

    assert all(left.place.isprintable() and left.reason.isprintable() for left in found.left)
    assert len({spec.name for spec in found.specs}) == len(found.specs)
    for spec in found.specs:
        assert EndpointSpec.model_validate(yaml.safe_load(text(spec))).document()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    params=st.dictionaries(_WORDS, _VALUES, max_size=4),
    provider=st.sampled_from(["openai", "azure", "bedrock", "vertex_ai", "groq", "ollama", "anthropic", "databricks"]),
)
def test_odd_values_in_the_right_place_never_end_an_import(
    params: dict[str, Any], provider: str, tmp_path: Path
) -> None:
    entry = {"model": f"{provider}/anthropic.m", **params}
    config = {"served_entities": [{"external_model": {"provider": provider, **params}}], **params}
    for document in (
        proxy(("e", entry), ("e", {"model": "openai/x", **params}), router_settings=params),
        gateway(provider, {"aws_config": params, **params}),
        {"endpoints": [{"name": "e", "model": {"provider": provider, "name": "m", "config": params}, **params}]},
        {"name": "e", "config": config, **params},
    ):
        found = made(tmp_path, yaml.safe_dump(document), None)
        assert all(isinstance(spec, EndpointSpec) for spec in found.specs)


def test_every_provider_of_ours_is_reached_by_an_importer(tmp_path: Path) -> None:
    """What one gateway calls a vendor, the other may call otherwise; together they reach all we serve."""
    params = {
        "api_base": "https://h",
        "api_version": "1",
        "aws_region_name": "eu",
        "vertex_project": "p",
        "vertex_location": "l",
        "vertex_credentials": "c",
    }
    words = ("openai", "anthropic", "cohere", "bedrock", "vertex_ai", "ai21", "databricks", "gemini", "groq")
    entries = [(word, {"model": f"{word}/anthropic.m", **params}) for word in words]

    found = made(tmp_path, proxy(*entries))

    models = [spec.config.served_entities[0].external_model for spec in found.specs]
    assert {model.provider for model in models if model} == set(ExternalModel.CONFIGS)
