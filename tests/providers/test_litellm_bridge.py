"""External models as litellm's arguments."""

import json

import pytest

from llmops.errors import InvalidParameter
from llmops.providers import litellm_bridge

ACCOUNT = {"type": "service_account", "client_email": "me@project.example", "private_key": "PEM"}
AWS = {"aws_region": "eu-west-1", "aws_access_key_id": "AKIA", "aws_secret_access_key": "secret"}


@pytest.mark.parametrize(
    ("provider", "model", "config", "expected"),
    [
        (
            "anthropic",
            "claude-sonnet-4-5",
            {"anthropic_api_key": "k"},
            {"model": "anthropic/claude-sonnet-4-5", "api_key": "k", "api_base": "https://api.anthropic.com"},
        ),
        (
            "cohere",
            "command-a",
            {"cohere_api_key": "k"},
            {"model": "cohere/command-a", "api_key": "k", "api_base": "https://api.cohere.com"},
        ),
        (
            "cohere",
            "command-a",
            {"cohere_api_key": "k", "cohere_api_base": "https://eu.example"},
            {"model": "cohere/command-a", "api_key": "k", "api_base": "https://eu.example"},
        ),
        (
            "ai21labs",
            "jamba-mini",
            {"ai21labs_api_key": "k"},
            {"model": "ai21_chat/jamba-mini", "api_key": "k", "api_base": "https://api.ai21.com/studio/v1"},
        ),
        (
            "palm",
            "gemini-2.5-flash",
            {"palm_api_key": "k"},
            {
                "model": "gemini/gemini-2.5-flash",
                "api_key": "k",
                "api_base": "https://generativelanguage.googleapis.com/v1beta",
            },
        ),
        (
            "amazon-bedrock",
            "eu.anthropic.claude-sonnet-4-5-v1:0",
            {**AWS, "bedrock_provider": "Anthropic"},
            {
                "model": "bedrock/eu.anthropic.claude-sonnet-4-5-v1:0",
                "aws_region_name": "eu-west-1",
                "aws_access_key_id": "AKIA",
                "aws_secret_access_key": "secret",
            },
        ),
        (
            "google-cloud-vertex-ai",
            "gemini-2.5-pro",
            {"project_id": "p", "region": "europe-west4", "private_key": json.dumps(ACCOUNT)},
            {
                "model": "vertex_ai/gemini-2.5-pro",
                "vertex_project": "p",
                "vertex_location": "europe-west4",
                "vertex_credentials": ACCOUNT,
            },
        ),
    ],
)
def test_an_external_model_is_called_as_litellm_knows_it(
    provider: str, model: str, config: dict[str, str], expected: dict[str, object]
) -> None:
    assert litellm_bridge.arguments(provider, model, config, None) == expected


@pytest.mark.parametrize(
    ("vendor", "model", "expected"),
    [
        ("ai21labs", "jamba-1-5-mini-v1:0", "bedrock/ai21.jamba-1-5-mini-v1:0"),
        ("amazon", "nova-lite-v1:0", "bedrock/amazon.nova-lite-v1:0"),
        ("cohere", "cohere.embed-english-v3", "bedrock/cohere.embed-english-v3"),
        (
            "anthropic",
            "arn:aws:bedrock:eu-west-1:1:inference-profile/x",
            "bedrock/arn:aws:bedrock:eu-west-1:1:inference-profile/x",
        ),
    ],
)
def test_a_bedrock_model_may_be_named_with_or_without_its_vendor(vendor: str, model: str, expected: str) -> None:
    config = {**AWS, "bedrock_provider": vendor}

    assert litellm_bridge.arguments("amazon-bedrock", model, config, None)["model"] == expected


def test_an_endpoints_own_address_wins() -> None:
    found = litellm_bridge.arguments("anthropic", "claude", {"anthropic_api_key": "k"}, "http://127.0.0.1:9")

    assert found["api_base"] == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("provider", "config", "says"),
    [
        ("anthropic", {}, "needs anthropic_api_key"),
        ("amazon-bedrock", {**AWS}, "needs bedrock_provider"),
        (
            "google-cloud-vertex-ai",
            {"project_id": "p", "region": "r", "private_key": "-----BEGIN"},
            "whole JSON key file",
        ),
        ("databricks-model-serving", {}, "not reached through litellm"),
    ],
)
def test_a_config_that_cannot_work_names_the_field(provider: str, config: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidParameter, match=says):
        litellm_bridge.arguments(provider, "m", config, None)


def test_the_header_brings_the_arguments_across() -> None:
    given = {"model": "vertex_ai/m", "vertex_credentials": ACCOUNT, "timeout": 1.5}

    assert litellm_bridge.read(litellm_bridge.header(given)) == given


@pytest.mark.parametrize("value", ["", "c2VjcmV0", "not base64", litellm_bridge.header({"api_key": "secret"})])
def test_a_broken_header_is_refused_without_being_repeated(value: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        litellm_bridge.read(value)

    assert "c2Vj" not in refused.value.message
