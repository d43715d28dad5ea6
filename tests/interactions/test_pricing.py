"""Prices: what is known is exact, and what is not known is never 0."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from llmops.interactions.pricing import PriceList
from llmops.protocol.usage import Usage
from llmops.settings import price_list

USAGE = Usage(input_tokens=1000, output_tokens=100)


@pytest.fixture(scope="module")
def shipped() -> PriceList:
    return PriceList.read(price_list())


def made(**prices: object) -> PriceList:
    return PriceList({"m": {"litellm_provider": "openai", **prices}})


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o-mini"),
        ("openai", "text-embedding-3-small"),
        ("anthropic", "claude-sonnet-4-5"),
        ("azure", "gpt-4o"),
        ("deepseek", "deepseek-chat"),
        ("mistral", "mistral-large-latest"),
        ("together", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
        ("databricks-model-serving", "databricks-meta-llama-3-3-70b-instruct"),
        ("palm", "gemini-2.5-pro"),
    ],
)
def test_the_shipped_list_prices_every_kind_of_vendor(shipped: PriceList, provider: str, model: str) -> None:
    price = shipped.price(model, provider, USAGE)

    assert price is not None
    assert price > 0


def test_input_and_output_have_their_own_rates() -> None:
    prices = made(input_cost_per_token=2e-6, output_cost_per_token=8e-6)

    assert prices.price("m", "openai", USAGE) == pytest.approx(1000 * 2e-6 + 100 * 8e-6)


def test_cached_input_is_cheaper() -> None:
    prices = made(input_cost_per_token=2e-6, cache_read_input_token_cost=1e-6, output_cost_per_token=0.0)

    assert prices.price("m", "openai", Usage(1000, 0, cached_tokens=400)) == pytest.approx(600 * 2e-6 + 400 * 1e-6)


def test_long_prompts_have_their_own_rate() -> None:
    prices = made(
        input_cost_per_token=1e-6,
        input_cost_per_token_above_200k_tokens=2e-6,
        output_cost_per_token=4e-6,
        output_cost_per_token_above_200k_tokens=6e-6,
    )

    assert prices.price("m", "openai", Usage(200_000, 1)) == pytest.approx(0.2 + 4e-6)
    assert prices.price("m", "openai", Usage(200_001, 1)) == pytest.approx(0.400002 + 6e-6)


@pytest.mark.parametrize("provider", ["demo", "llama_cpp"])
def test_a_model_that_runs_here_is_free(shipped: PriceList, provider: str) -> None:
    assert shipped.price("anything", provider, USAGE) == 0.0


def test_an_unknown_price_is_none_and_warned_of_once(shipped: PriceList, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    prices = [shipped.price("house-model", "custom", USAGE) for _ in range(3)]

    assert prices == [None, None, None]
    assert [record.getMessage() for record in caplog.records] == [
        "event=price_unknown provider=custom model=house-model cost_usd=null"
    ]


def test_another_vendors_price_is_not_taken(shipped: PriceList) -> None:
    assert shipped.price("gpt-4o-mini", "groq", USAGE) is None


def test_nothing_used_costs_nothing_known(shipped: PriceList, caplog: pytest.LogCaptureFixture) -> None:
    assert shipped.price("gpt-4o-mini", "openai", None) is None
    assert shipped.price(None, None, USAGE) is None
    assert not caplog.records


def test_without_a_list_only_local_models_have_a_price() -> None:
    prices = PriceList.read(None)

    assert prices.price("m", "demo", USAGE) == 0.0
    assert prices.price("gpt-4o-mini", "openai", USAGE) is None


def test_a_list_is_read_from_its_file_without_litellm(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"m": {"litellm_provider": "openai", "input_cost_per_token": 1e-3}}))
    program = (
        "import sys; from pathlib import Path; from llmops.interactions.pricing import PriceList;"
        "from llmops.protocol.usage import Usage;"
        f"print(PriceList.read(Path({str(path)!r})).price('m', 'openai', Usage(5, 5)), 'litellm' in sys.modules)"
    )

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert said.split() == ["0.005", "False"]
