"""Keys taken out of what an upstream sent."""

import json
from typing import Any

import pytest

from llmops.providers.veil import Veil, Veils
from tests.canaries import forms, secret, service_account

KEY = secret("veil", "test").value


@pytest.mark.parametrize("text", sorted(one.decode() for one in forms(KEY) if b"veil" in one))
def test_a_key_is_hidden_in_every_form_that_can_be_read(text: str) -> None:
    assert Veil([KEY]).hide(f"a{text}b".encode()) == b"a***b"


@pytest.mark.parametrize("times", [1, 2, 3])
def test_json_stays_json_and_the_rest_of_it_as_it_was(times: int) -> None:
    document = json.dumps({"before\\": f"the key {KEY}.", "after": ["/\\", 1]})
    for _ in range(times - 1):
        document = json.dumps(document)

    found: Any = Veil([KEY]).hide(document.replace("/", r"\/").encode()).decode()
    for _ in range(times):
        found = json.loads(found)

    assert found == {"before\\": "the key ***.", "after": ["/\\", 1]}


def test_the_longer_of_two_keys_is_hidden_whole() -> None:
    assert Veil(["abc-4567", "abc-4567/def"]).hide_text("abc-4567/def abc-4567/d") == "*** ***/d"


@pytest.mark.parametrize("word", ["1", "null", "none", "EMPTY", "ollama", "1234567", "Not-Needed", "placeholder"])
def test_a_word_that_stands_for_no_key_changes_no_answer(word: str, caplog: pytest.LogCaptureFixture) -> None:
    """Open-model servers ask for no key, and clients make people write something."""
    veils, answer = Veils("local"), f'{{"a":{{"{word}":"{word}"}},"b":1,"c":null}}'.encode()

    assert veils.over(word).hide(answer) == answer
    assert veils.over(word, KEY).hide(answer + KEY.encode()) == answer + b"***"
    assert veils.over(word, KEY).hide(answer) == answer
    assert [record.getMessage() for record in caplog.records] == ["event=key_not_hidden served_entity=local"] * 2
    assert KEY not in caplog.text


def test_of_a_service_account_the_private_key_is_hidden_and_what_it_is_given() -> None:
    account = service_account("veil", "test", "http://127.0.0.1:1/token")
    whole = json.loads(account.value)

    text = Veil([account.value]).hide_text(f"{json.dumps(whole)} {whole['private_key']} Bearer ya29.c.a-B_9!")

    assert [needle for needle in account.needles if needle in text] == []
    assert whole["client_email"] in text
    assert text.endswith("Bearer ***!")


def test_what_holds_no_key_is_the_same_bytes() -> None:
    data = b'{"choices": [], "ya29.": "ya29.other"}'

    assert Veil([KEY]).hide(data) is data
    assert Veil([]).hide(data) is data


def test_a_rotated_key_is_hidden_from_the_next_call_on() -> None:
    veils = Veils("entity")

    assert veils.over("key-one") is veils.over("key-one")
    assert veils.over("key-two-2").hide_text("key-one key-two-2") == "key-one ***"
    assert "two" not in repr(veils.over("key-two-2"))
