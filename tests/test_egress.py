"""Where traffic may go, through the front door: a server that other machines can reach, and configs sent to it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.shell import llmops
from tests.conftest import KEY, NewServer
from tests.providers.anthropic_upstream import text_reply
from tests.scripts import chat, redirect
from tests.server import Server, entity, external
from tests.upstream import Ear, Upstream, refused_url

TOKEN = "the-token-of-the-test"
HEADERS = {"authorization": f"Bearer {TOKEN}"}
ENDPOINTS = "/api/2.0/serving-endpoints"
OPEN = ("--no-mlflow-ui", "--host", "0.0.0.0")
ALLOWED = "LLMOPS_ALLOWED_NETWORKS"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        running.always(chat("Hello."))
        yield running


def environment(**more: str) -> dict[str, str]:
    return {"LLMOPS_TOKEN": TOKEN, "LLMOPS_SECRET_TEST_KEY": KEY, **more}


def create(server: Server, document: dict[str, Any]) -> httpx.Response:
    return server.post(ENDPOINTS, document, headers=HEADERS)


def ask(server: Server, endpoint: str) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "hello"}]}
    return server.post(f"/serving-endpoints/{endpoint}/invocations", body, headers=HEADERS)


def anthropic(name: str, url: str) -> dict[str, Any]:
    config = {"anthropic_api_key": "{{secrets/test/key}}"}
    model = {"name": "claude-x", "provider": "anthropic", "task": "llm/v1/chat", "anthropic_config": config}
    return {
        "name": name,
        "config": {"served_entities": [{"name": name, "external_model": model, "llmops": {"api_base": url}}]},
    }


def configured(**external_model: Any) -> dict[str, Any]:
    """An endpoint whose external model names its address in its own config."""
    model = {"name": "m", "task": "llm/v1/chat", **external_model}
    return {"name": "made", "config": {"served_entities": [{"name": "made", "external_model": model}]}}


def openai(url: str) -> dict[str, Any]:
    config = {"openai_api_key": "{{secrets/test/key}}", "openai_api_base": url}
    return configured(provider="openai", openai_config=config)


def test_a_config_from_rest_may_not_lead_inside_and_a_file_may(new_server: NewServer, upstream: Upstream) -> None:
    upstream.play(text_reply("From a file."))
    server = new_server(
        anthropic("file-claude", upstream.url),
        external("file", upstream.url),
        options=OPEN,
        environment=environment(),
    )

    assert ask(server, "file-claude").json()["choices"][0]["message"]["content"] == "From a file."
    assert ask(server, "file").status_code == 200
    before = len(upstream.requests)
    refused = {
        "config.served_entities[0].external_model.openai_config.openai_api_base": openai(upstream.url),
        "config.served_entities[0].llmops.api_base": external("made", upstream.url),
        "config.served_entities[0].llmops.vendor": {
            "name": "made",
            "config": {
                "served_entities": [
                    {
                        "name": "m",
                        "entity_name": "llmops.m",
                        "llmops": {"engine": "openai_compatible", "vendor": "ollama"},
                    }
                ]
            },
        },
        "config.served_entities[0].external_model.cohere_config.cohere_api_base": configured(
            provider="cohere",
            cohere_config={"cohere_api_key": "{{secrets/test/key}}", "cohere_api_base": upstream.url},
        ),
        "config.served_entities[0].external_model.custom_provider_config.custom_provider_url": configured(
            provider="custom", custom_provider_config={"custom_provider_url": upstream.url}
        ),
        "config.served_entities[0].external_model.databricks_model_serving_config.databricks_workspace_url": configured(
            provider="databricks-model-serving",
            databricks_model_serving_config={
                "databricks_workspace_url": upstream.url,
                "databricks_api_token": "{{secrets/test/key}}",
            },
        ),
    }
    for field, document in refused.items():
        answer = create(server, document)

        assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE"), field
        assert answer.json()["message"] == (
            f"{field}: the address of '127.0.0.1' is loopback; a config that came over REST may lead there only if"
            f" {ALLOWED} of the server names it (a network or a host)"
        )
    _refuses_tricks_and_updates(server)
    assert len(upstream.requests) == before


def _refuses_tricks_and_updates(server: Server) -> None:
    tricks = {
        "http://localhost:1": "'localhost' is loopback",
        "http://10.0.0.1": "'10.0.0.1' is private",
        "http://169.254.169.254/latest": "'169.254.169.254' is metadata service",
        "http://metadata.google.internal": "is metadata service",
        "http://[fd00:ec2::254]": "is metadata service",
        "http://[::ffff:127.0.0.1]": "is loopback",
        "http://[::]:80": "is unspecified",
        "http://2130706433": "unusual way",
        "http://0x7f.1": "unusual way",
        "http://localhost.": "not written plainly",
        "http://[fe80::1%25lo]": "not written plainly",
        "http://１２７.0.0.1": "not written plainly",
        "http://127.0.0.1\\x": "not written plainly",
    }
    for url, reason in tricks.items():
        answer = create(server, openai(url))

        assert answer.status_code == 400, url
        assert reason in answer.json()["message"]
    assert create(server, openai("https://not-yet.invalid/v1")).status_code == 200
    config = openai("http://10.0.0.1")["config"]
    moved = httpx.put(f"{server.url}{ENDPOINTS}/made/config", json=config, headers=HEADERS, timeout=30)
    assert "'10.0.0.1' is private" in moved.json()["message"]
    # What no name leads to now is looked at when it is asked.
    assert (ask(server, "made").status_code, ask(server, "made").json()["error_code"]) == (502, "INTERNAL_ERROR")


def test_what_the_setting_names_is_served(new_server: NewServer, upstream: Upstream) -> None:
    server = new_server(options=OPEN, environment=environment(**{ALLOWED: "10.0.0.0/8, 127.0.0.1, Localhost"}))
    named = upstream.url.replace("127.0.0.1", "localhost")

    for name, url in (("by-network", upstream.url), ("by-name", named)):
        assert create(server, external(name, url)).status_code == 200
        assert ask(server, name).status_code == 200
    upstream.play(text_reply("From Claude."))
    assert create(server, anthropic("claude", upstream.url)).status_code == 200
    assert ask(server, "claude").json()["choices"][0]["message"]["content"] == "From Claude."
    assert "is loopback" in create(server, external("beside", upstream.url.replace(".0.1", ".0.2"))).json()["message"]
    upstream.play(redirect("http://127.0.0.2/secret"))
    assert "redirect (307), which is not followed" in ask(server, "by-network").json()["message"]


def test_an_endpoint_is_held_to_the_setting_of_today(new_server: NewServer, upstream: Upstream) -> None:
    """A stored config is looked at with every call; where it is refused, another served entity may answer."""
    server = new_server(options=OPEN, environment=environment(**{ALLOWED: "127.0.0.0/8"}))
    moved = entity("inside", upstream.url.replace("127.0.0.1", "127.0.0.2"))
    routes = [
        {"served_entity_name": "inside", "traffic_percentage": 100},
        {"served_entity_name": "spare", "traffic_percentage": 0},
    ]
    config = {"served_entities": [moved, entity("spare", upstream.url)], "traffic_config": {"routes": routes}}
    falls = {"name": "falls", "config": config, "ai_gateway": {"fallback_config": {"enabled": True}}}
    for document in (external("alone", upstream.url), anthropic("claude", upstream.url), falls):
        assert create(server, document).status_code == 200
    server.stop()
    server.environment[ALLOWED] = "127.0.0.1"
    server.start()

    with Ear("127.0.0.2", upstream) as ear:
        answer = ask(server, "falls")

        assert (answer.status_code, answer.headers["served-model-name"]) == (200, "spare")
        assert not ear.heard
    server.stop()
    server.environment[ALLOWED] = "10.0.0.0/8"
    server.start()
    before = len(upstream.requests)
    for name in ("alone", "claude"):
        answer = ask(server, name)

        assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST")
        assert answer.json()["message"].startswith(f"{name}: the address of '127.0.0.1' is loopback; ")
    assert len(upstream.requests) == before


def test_a_server_on_loopback_allows_loopback_and_no_more(server: Server) -> None:
    assert "'10.0.0.1' is private" in server.post(ENDPOINTS, openai("http://10.0.0.1")).json()["message"]
    made = external("on-loopback", refused_url())
    assert server.post(ENDPOINTS, made).status_code == 200
    assert httpx.delete(f"{server.url}{ENDPOINTS}/on-loopback", timeout=30).status_code == 200


@pytest.mark.parametrize(
    "field", ["api_base", "base_url", "api_key", "extra_headers", "litellm_params", "aws_region_name"]
)
def test_a_request_may_not_say_where_it_goes(server: Server, field: str) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}]}
    for sent in ({**body, field: "http://10.0.0.1"}, {**body, "extra_params": {field: "http://10.0.0.1"}}):
        answer = server.post("/serving-endpoints/up/invocations", sent)

        assert answer.status_code == 400
        assert f"'{field}' may not be sent" in answer.json()["message"]


def test_a_setting_that_is_no_network_stops_the_start(tmp_path: Path) -> None:
    more = {ALLOWED: "10.0.0.0/8,10.0.0/33"}
    said = llmops(refused_url(), "serve", "--data-dir", str(tmp_path), more=more)

    assert said.returncode == 1
    assert f"{ALLOWED} has '10.0.0/33'; it must be networks and names of hosts with commas between" in said.stderr
