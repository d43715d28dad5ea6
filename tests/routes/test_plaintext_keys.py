"""Keys that documents from REST give in clear: they reach the vendor, and all that is told is a reference."""

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.endpoints.specs import PROVIDERS
from tests.routes.callers import LOCKED, Person, admin, allow, person
from tests.scripts import chat
from tests.server import Server, external
from tests.upstream import Upstream

API, SCOPE = "/api/2.0/serving-endpoints", "llmops-endpoints"
KEY, OTHER = "sk-canary/Zm9v+0123456789==", "sk-canary/second+987654321=="
REFERENCE = re.compile(r"\{\{secrets/llmops-endpoints/([\w.-]+)\}\}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for tokens, and has no secret at first."""
    with Server(tmp_path_factory.mktemp("clear"), environment=LOCKED) as running:
        yield running


@pytest.fixture
def operator(server: Server) -> Iterator[Person]:
    """The admin; what he makes is deleted, and no key may be left of it."""
    operator = admin(server)
    yield operator
    for name in operator.sees():
        assert operator.send("DELETE", f"{API}/{name}").status_code == 200
    assert _kept(operator) == []


def _document(name: str, url: str, key: Any = KEY, **more: Any) -> dict[str, Any]:
    document = external(name, url)
    document["config"]["served_entities"][0]["external_model"]["openai_config"] = {
        "openai_api_key_plaintext": key,
        **more,
    }
    return document


def _kept(operator: Person) -> list[str]:
    """The keys of our scope, which is there as soon as one was kept."""
    answer = operator.get(f"/api/2.0/secrets/list?scope={SCOPE}")
    return [secret["key"] for secret in answer.json().get("secrets", [])]


def _config(answer: httpx.Response) -> Mapping[str, Any]:
    assert answer.status_code == 200, answer.text
    config: Mapping[str, Any] = answer.json()["config"]
    return config


def _named(answer: httpx.Response) -> str:
    """The reference of the one key of an endpoint."""
    config: Mapping[str, str] = _config(answer)["served_entities"][0]["external_model"]["openai_config"]
    assert set(config) == {"openai_api_key"}
    return config["openai_api_key"]


def test_a_key_in_clear_reaches_the_vendor_and_is_told_as_a_reference(operator: Person, upstream: Upstream) -> None:
    upstream.always(chat("aye"))
    made = operator.post(API, _document("clear", upstream.url))

    told = [made, *(operator.get(f"{API}{path}") for path in ("", "/clear", "/clear/versions", "/clear/openapi"))]
    answered = operator.ask("clear")

    assert answered.status_code == 200
    assert upstream.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    found = REFERENCE.fullmatch(_named(made))
    assert found is not None
    assert re.fullmatch(r"clear\.clear\.openai_api_key\.[0-9a-f]{8}", found[1])
    assert [answer.url for answer in told if "canary" in answer.text] == []
    assert all(found[0] in answer.text for answer in told[:4])
    assert _kept(operator) == [found[1]]


def test_another_key_is_a_new_version_and_the_same_one_is_none(operator: Person, upstream: Upstream) -> None:
    upstream.always(chat("aye"))
    first = operator.post(API, _document("clear", upstream.url))
    path = f"{API}/clear"

    same = operator.send("PUT", f"{path}/config", _document("clear", upstream.url)["config"])
    other = operator.send("PUT", path, _document("clear", upstream.url, OTHER))
    operator.ask("clear")
    back = operator.post(f"{path}/rollback", {"config_version": 1})
    operator.ask("clear")

    assert _named(first) == _named(same) == _named(back) != _named(other)
    assert [_config(answer)["config_version"] for answer in (first, same, other, back)] == [1, 1, 2, 3]
    sent = [request.headers["authorization"] for request in upstream.requests[-2:]]
    assert sent == [f"Bearer {OTHER}", f"Bearer {KEY}"]
    assert len(_kept(operator)) == 2


#: Each config with its keys in clear, and what stays as it is.
CONFIGS: Mapping[str, Any] = {
    "openai": {
        "openai_api_type": "azure",
        "openai_api_base": "http://127.0.0.1:9",
        "openai_api_version": "1",
        "openai_deployment_name": "d",
        "openai_api_key_plaintext": KEY,
    },
    "anthropic": {"anthropic_api_key_plaintext": KEY},
    "cohere": {"cohere_api_key_plaintext": KEY, "cohere_api_key": None},
    "ai21labs": {"ai21labs_api_key_plaintext": KEY},
    "palm": {"palm_api_key_plaintext": KEY},
    "amazon-bedrock": {
        "aws_region": "eu-west-1",
        "bedrock_provider": "anthropic",
        "aws_access_key_id_plaintext": KEY,
        "aws_secret_access_key_plaintext": OTHER,
    },
    "google-cloud-vertex-ai": {"project_id": "p", "region": "r", "private_key_plaintext": f"{KEY}\n{OTHER}"},
    "databricks-model-serving": {
        "databricks_workspace_url": "http://127.0.0.1:9",
        "databricks_api_token_plaintext": KEY,
    },
    "custom": {"custom_provider_url": "http://127.0.0.1:9", "bearer_token_auth": {"token_plaintext": KEY}},
    "custom, in a header": {
        "custom_provider_url": "http://127.0.0.1:9",
        "api_key_auth": {"key": "x-key", "value_plaintext": KEY},
    },
}


def test_every_key_of_every_provider_can_be_given_in_clear(operator: Person) -> None:
    assert {name.partition(",")[0] for name in CONFIGS} == set(PROVIDERS)
    for number, (name, config) in enumerate(CONFIGS.items()):
        provider = name.partition(",")[0]
        block = "custom_provider_config" if provider == "custom" else f"{provider.replace('-', '_')}_config"
        model = {"name": "m", "provider": provider, "task": "llm/v1/chat", block: config}
        document = {"name": f"clear{number}", "config": {"served_entities": [{"external_model": model}]}}

        made = operator.post(API, document)

        told = _config(made)["served_entities"][0]
        assert told["state"]["deployment"] == "DEPLOYMENT_READY", told
        assert "canary" not in made.text
        shown = REFERENCE.sub("KEY", str(told["external_model"][block]))
        assert shown.count("KEY") == len(re.findall("_plaintext'", str(config)))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"openai_api_key_plaintext": ""}, "openai_config.openai_api_key_plaintext: must be a text that is not empty"),
        ({"openai_api_key_plaintext": ["sk-canary"]}, "openai_api_key_plaintext: must be a text that is not empty"),
        (
            {"openai_api_key_plaintext": "sk-canary", "openai_api_key": "{{secrets/a/b}}"},
            "'openai_api_key' and 'openai_api_key_plaintext' exclude each other; keep openai_api_key, a reference",
        ),
        ({"openai_api_key_plaintext": "sk-canary", "openai_api_key": "sk-canary"}, "exclude each other"),
        ({"openai_api_key_plaintext": "sk-canary", "openai_api_type": "azuread"}, "'azuread' is not served yet"),
        ({"openai_api_key_plaintext": "sk-canary" * 20_000}, "a value has 1 to 131072 bytes, not 180000"),
        ({"openai_api_base_plaintext": "sk-canary", "openai_api_key": "{{secrets/a/b}}"}, "is refused: no key is kept"),
    ],
)
def test_a_wrong_key_is_said_without_its_value_and_none_is_kept(
    operator: Person, config: Mapping[str, Any], told: str
) -> None:
    model = {"name": "m", "provider": "openai", "task": "llm/v1/chat", "openai_config": config}
    answer = operator.post(API, {"name": "wrong", "config": {"served_entities": [{"external_model": model}]}})

    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert told in answer.json()["message"]
    assert "canary" not in answer.text
    assert _kept(operator) == []


def test_a_refused_create_changes_no_key_of_the_one_that_is_there(operator: Person, upstream: Upstream) -> None:
    upstream.always(chat("aye"))
    operator.post(API, _document("clear", upstream.url))
    kept = _kept(operator)

    refused = operator.post(API, _document("clear", upstream.url, OTHER))
    operator.ask("clear")

    assert refused.json()["error_code"] == "RESOURCE_ALREADY_EXISTS"
    assert upstream.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    assert _kept(operator) == kept


def test_of_creates_at_once_one_wins_with_its_own_key(operator: Person, upstream: Upstream) -> None:
    upstream.always(chat("aye"))
    with ThreadPoolExecutor(6) as pool:
        documents = [_document("race", upstream.url, f"sk-{number}") for number in range(6)]
        answers = list(pool.map(lambda document: operator.post(API, document), documents))
    operator.ask("race")

    winners = [number for number, answer in enumerate(answers) if answer.status_code == 200]
    assert len(winners) == 1
    assert upstream.requests[-1].headers["authorization"] == f"Bearer sk-{winners[0]}"
    assert len(_kept(operator)) == 1


def test_a_deleted_endpoint_takes_its_own_keys_along(operator: Person, upstream: Upstream) -> None:
    upstream.always(chat("aye"))
    long = "l" * 63
    for name in ("a", "a-b", long):
        assert operator.post(API, _document(name, upstream.url)).status_code == 200
    borrowed = external("borrows", upstream.url)
    model = borrowed["config"]["served_entities"][0]["external_model"]
    model["openai_config"]["openai_api_key"] = _named(operator.get(f"{API}/a-b"))
    operator.post(API, borrowed)

    for name in ("a", "borrows"):
        operator.send("DELETE", f"{API}/{name}")
    operator.ask("a-b")

    assert [key.partition(".")[0] for key in _kept(operator)] == ["a-b", long]
    assert upstream.requests[-1].headers["authorization"] == f"Bearer {KEY}"


def test_who_is_no_admin_cannot_try_whether_a_key_is_the_one(operator: Person, upstream: Upstream) -> None:
    operator.post(API, _document("clear", upstream.url))
    kept, ann = _kept(operator), person(operator.server, "ann")
    allow(operator.server, "clear", {"user_name": "ann", "permission_level": "CAN_MANAGE"})

    tried = [
        ann.send("PUT", f"{API}/clear/config", _document("clear", upstream.url, key)["config"]) for key in (KEY, OTHER)
    ]

    assert [answer.status_code for answer in tried] == [403, 403]
    assert tried[0].text == tried[1].text
    assert _kept(operator) == kept
