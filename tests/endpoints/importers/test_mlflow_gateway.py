import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.gateway.config import GatewayConfig

from llmops.endpoints.export import text
from tests.endpoints.importers.foreign import CANARY, entity_of, gateway, left, made


@pytest.mark.parametrize(
    ("provider", "config", "name", "expected"),
    [
        ("openai", {"openai_api_key": "$OPENAI_API_KEY"}, "gpt-4o", ("openai", "{{secrets/openai/api_key}}")),
        ("anthropic", {"anthropic_api_key": CANARY}, "claude", ("anthropic", "{{secrets/anthropic/key}}")),
        ("cohere", {"cohere_api_key": CANARY}, "command", ("cohere", "{{secrets/cohere/key}}")),
        ("ai21labs", {"ai21labs_api_key": CANARY}, "j2-ultra", ("ai21labs", "{{secrets/ai21labs/key}}")),
        ("palm", {"palm_api_key": CANARY}, "gemini-2.5-flash", ("palm", "{{secrets/palm/key}}")),
        ("gemini", {"gemini_api_key": CANARY}, "gemini-2.5-flash", ("palm", "{{secrets/palm/key}}")),
        ("mistral", {"mistral_api_key": CANARY}, "mistral-small", ("custom", "{{secrets/mistral/key}}")),
        ("togetherai", {"togetherai_api_key": CANARY}, "llama", ("custom", "{{secrets/together/key}}")),
        ("groq", {"api_key": "$GROQ_API_KEY"}, "llama", ("custom", "{{secrets/groq/api_key}}")),
        (
            "bedrock",
            {"aws_config": {"aws_region": "eu", "aws_access_key_id": CANARY, "aws_secret_access_key": CANARY + "2"}},
            "anthropic.claude-v2",
            ("amazon-bedrock", "{{secrets/aws/key}}"),
        ),
        (
            "databricks",
            {"host": "https://h.example", "token": CANARY},
            "m",
            ("databricks-model-serving", "{{secrets/databricks/key}}"),
        ),
        (
            "vertex_ai",
            {"vertex_project": "p", "vertex_location": "us", "vertex_credentials": CANARY},
            "gemini-2.5-pro",
            ("google-cloud-vertex-ai", "{{secrets/google-vertex/key}}"),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isalnum() else "",
)
def test_a_provider_of_mlflow_becomes_an_external_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str, config: dict[str, Any], name: str, expected: Any
) -> None:
    document = gateway(provider, config, name)
    for variable in ("OPENAI_API_KEY", "GROQ_API_KEY"):
        monkeypatch.setenv(variable, "x")
    GatewayConfig.model_validate(json.loads(json.dumps(document)))  # MLflow itself takes this file.

    found = made(tmp_path, document)

    model = entity_of(found)["external_model"]
    references = found.specs[0].config.served_entities[0].external_model
    assert references is not None
    assert (model["provider"], model["name"]) == (expected[0], name)
    assert expected[1] in references.config.references().values()
    assert found.left == []
    assert CANARY not in repr(found) + text(found.specs[0])


def test_azure_of_mlflow_keeps_its_deployment_and_an_unquoted_date(tmp_path: Path) -> None:
    found = made(
        tmp_path,
        """
        endpoints:
          - name: e
            endpoint_type: llm/v1/chat
            model:
              provider: openai
              name: gpt-35
              config:
                openai_api_type: azure
                openai_api_key: $AZURE_OPENAI_API_KEY
                openai_api_base: https://x.openai.azure.com
                openai_api_version: 2023-05-15
                openai_deployment_name: mine
        """,
    )

    assert entity_of(found)["external_model"]["openai_config"] == {
        "openai_api_key": "{{secrets/azure/openai_api_key}}",
        "openai_api_type": "azure",
        "openai_api_base": "https://x.openai.azure.com",
        "openai_api_version": "2023-05-15",
        "openai_deployment_name": "mine",
    }


def test_what_mlflow_has_and_we_have_not_is_listed_by_its_place(tmp_path: Path) -> None:
    document = gateway(
        "anthropic",
        {"anthropic_api_key": CANARY, "anthropic_version": "2023-06-01"},
        limit={"calls": 10, "renewal_period": "minute"},
    )
    tgi = {"provider": "huggingface-text-generation-inference", "name": "x", "config": {"hf_server_url": "http://h"}}
    document["endpoints"].append({"name": "tgi", "endpoint_type": "llm/v1/completions", "model": tgi})

    found = made(tmp_path, document)

    assert [spec.name for spec in found.specs] == ["e"]
    assert left(found) == {
        "endpoints[0].limit": "counts by a caller's address; ai_gateway.rate_limits count by endpoint, user or group",
        "endpoints[0].model.config.anthropic_version": "has no counterpart here",
        "endpoints[1].model": "provider 'huggingface-text-generation-inference' is not served; a server that answers"
        " /v1/chat/completions is engine openai_compatible; endpoint 'tgi' is left out",
    }


def test_a_traffic_route_of_mlflow_is_an_endpoint_of_several_entities(tmp_path: Path) -> None:
    one = {"provider": "openai", "name": "gpt", "config": {"openai_api_key": "$K_A"}}
    endpoints = [{"name": name, "endpoint_type": "llm/v1/chat", "model": one} for name in ("a", "b")]
    destinations = [{"name": "a", "traffic_percentage": 80}, {"name": "b", "traffic_percentage": 20}]
    route = {"name": "split", "task_type": "llm/v1/chat", "destinations": destinations}

    found = made(tmp_path, {"endpoints": endpoints, "routes": [route]})

    assert [spec.name for spec in found.specs] == ["a", "b", "split"]
    assert found.specs[2].config.percentages == [80, 20]
    assert found.left == []
