"""The litellm child holds a call to the rule that came with it, whatever library connects."""

from collections.abc import Iterator

import httpx
import pytest

from llmops.providers import litellm_bridge
from tests.providers.anthropic_upstream import text_reply
from tests.providers.children import WAIT_S, Child
from tests.scripts import redirect
from tests.upstream import Upstream

HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 50}


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    with Child("llmops.providers.litellm") as child:
        yield child


@pytest.fixture
def client(child: Child) -> Iterator[httpx.Client]:
    with child.client() as client:
        yield client


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        running.always(text_reply("Hello."))
        yield running


def ask(
    client: httpx.Client, url: str, networks: str | None, provider: str = "anthropic", **body: object
) -> httpx.Response:
    config = {"anthropic_api_key": "k", "cohere_api_key": "k", "palm_api_key": "k", "ai21labs_api_key": "k"}
    arguments = litellm_bridge.arguments(provider, "a-model", config, url)
    headers = {litellm_bridge.HEADER: litellm_bridge.header({"timeout": WAIT_S, **arguments})}
    if networks is not None:
        headers[litellm_bridge.NETWORKS] = networks
    return client.post("/v1/chat/completions", json={**HELLO, **body}, headers=headers)


@pytest.mark.parametrize("provider", ["anthropic", "cohere", "palm", "ai21labs"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_confined_call_does_not_connect_inside(
    client: httpx.Client, upstream: Upstream, provider: str, stream: bool
) -> None:
    answer = ask(client, upstream.url, "", provider, stream=stream)

    assert answer.status_code == 502
    assert "the address is loopback; LLMOPS_ALLOWED_NETWORKS of the server does not name it" in answer.text
    assert upstream.accepted == 0


def test_a_name_that_leads_inside_is_refused_at_the_connection(client: httpx.Client, upstream: Upstream) -> None:
    answer = ask(client, upstream.url.replace("127.0.0.1", "localhost"), "10.0.0.0/8")

    assert answer.status_code == 502
    assert upstream.accepted == 0


def test_a_network_that_the_rule_names_is_connected_to(client: httpx.Client, upstream: Upstream) -> None:
    assert ask(client, upstream.url, "10.0.0.0/8,127.0.0.1/32").status_code == 200


def test_calls_without_a_rule_go_where_the_operator_says(client: httpx.Client, upstream: Upstream) -> None:
    """One call's rule is not the next one's, on the same connection to the child."""
    assert ask(client, upstream.url, "").status_code == 502
    assert ask(client, upstream.url, None).status_code == 200
    assert len(upstream.requests) == 1


def test_a_redirect_is_not_followed_and_no_key_goes_along(client: httpx.Client, upstream: Upstream) -> None:
    with Upstream() as elsewhere:
        elsewhere.always(text_reply("the wrong place"))
        upstream.play(redirect(f"{elsewhere.url}/v1/messages"))
        answer = ask(client, upstream.url, None)

        assert elsewhere.requests == []
        assert answer.status_code == 307


def test_a_picture_that_a_caller_names_is_not_fetched_inside(client: httpx.Client, upstream: Upstream) -> None:
    """litellm fetches pictures for vendors that take no URLs; it refuses private addresses itself."""
    with Upstream() as inside:
        picture = {"type": "image_url", "image_url": {"url": f"{inside.url}/picture.png"}}
        answer = ask(client, upstream.url, None, "palm", messages=[{"role": "user", "content": [picture]}])

        assert answer.status_code in (400, 502)
        assert inside.accepted == 0
