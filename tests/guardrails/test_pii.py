"""Personal data is found as people write it, what only looks like it is left alone, and no text makes it slow."""

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.guardrails.pii import find, mask, mask_document

ROOT = Path(__file__).parent.parent.parent
PERSONAL = {
    "EMAIL_ADDRESS": [
        "ada@example.com",
        "ada.lovelace+x@mail.example.co.uk",
        "müller@münchen.de",
        "ada%40example.com",
        "ada@xn--mnchen-3ya.de",
    ],
    "PHONE_NUMBER": [
        *("+1 212 555 1234", "+493012345678", "+49 (0)30 1234567", "0049 30 1234567", "(212) 555-1234"),
        *(
            "212-555-1234",
            "212.555.1234",
            "1-800-555-0199",
            "555‑123‑4567",
            "+33\u202f6\u202f12\u202f34\u202f56\u202f78",
        ),
        *("030 1234567", "030/1234567", "06 12 34 56 78", "020 7946 0958", "0171-2345678"),
    ],
    "CREDIT_CARD": [
        *("4111111111111111", "4111 1111 1111 1111", "4111-1111-1111-1111", "4222222222222", "5555555555554444"),
        *("2223003122003222", "378282246310005", "3782 822463 10005", "6011111111111117", "3530111333300000"),
        *("30569309025904", "4000 0000 0000 0000 006"),
    ],
    "IBAN_CODE": [
        *("DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "GB82 WEST 1234 5698 7654 32", "NO9386011117947"),
        *("de89370400440532013000", "MT84MALT011000012345MTLCAST001S", "FR14-2004-1010-0505-0001-3M02-606"),
    ],
    "US_SSN": ["123-45-6789", "123 45 6789"],
    "IP_ADDRESS": ["192.168.1.10", "8.8.8.8", "2001:db8::1", "fe80::1", "::ffff:10.0.0.1", "2001:0db8:0:0:0:0:0:1"],
}
ALL = [(kind, text) for kind, texts in PERSONAL.items() for text in texts]
HARMLESS = [
    *(
        "2024-01-31 12:34:56.789",
        "2024-01-31T12:34:56+00:00",
        "[10/Oct/2000:13:55:36 -0700]",
        "01-02-2024 10:30",
        "12:34:56",
    ),
    *("1700000000", "1700000000000", "1700000000000000", "1700000000000000000", "order 1234567890123456"),
    *(
        "550e8400-e29b-41d4-a716-446655440000",
        "41111111-1111-1111-1111-111111111111",
        "tr-0198f0e2c5a17b3c8d9e0f1a2b3c4d5e",
    ),
    *(
        "v1.2.3.4",
        "version 1.2.3.4",
        "Chrome/120.0.0.0",
        "1.2.3",
        "10.0.19041.1",
        "10.1.0.0/16",
        "lodash@4.17.21",
        "@types/node",
        "a @ b.c",
    ),
    *(
        "0.4111111111111111",
        "3.14159265358979",
        "+1.2345678",
        "1,234,567,890",
        "01 02 03 04 05 06",
        "1 2 3 4 5 6 7 8 9 10",
    ),
    *("x[::2]", "a[1::2]", "std::vector", "DB::ad", "00:1a:2b:3c:4d:5e", "127.0.0.1:8080", "::1", "978-3-16-148410-0"),
    *("4111111111111112", "DE89370400440532013001", "000-45-6789", "666-45-6789", "900-45-6789", "phone: 2024-01-31"),
    *("10.0.0.256", "https://medium.com/@user.name", "HTTP/1.1 200 5123 1234", "data: none"),
]
AROUND = ["{}", "It is {}.", "({})", '"{}"', "a: {}, b", "x={}&y=1", "**{}**", "{}\nnext", "<{}>", "ask {}!"]


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize(("kind", "text"), ALL)
def test_personal_data_is_found_whatever_stands_around_it(kind: str, text: str, around: str) -> None:
    assert mask(around.format(text)) == around.format(f"<{kind}>")


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_personal_data_is_left_alone(text: str) -> None:
    assert find(text) == []


@pytest.mark.parametrize("prefix", ["/24", "/16", "/32", "/24x", "/24/me"])
def test_an_address_with_a_prefix_is_a_machine_unless_it_names_a_network(prefix: str) -> None:
    assert mask(f"from 10.1.2.3{prefix}") == f"from <IP_ADDRESS>{prefix}"
    assert (mask(f"from 10.1.2.0{prefix}") == f"from 10.1.2.0{prefix}") == (prefix == "/24")


@pytest.mark.parametrize("path", ["README.md", "llmops/settings.py", "llmops/interactions/record.py"])
def test_program_text_and_prose_are_left_alone(path: str) -> None:
    text = (ROOT / path).read_text("utf-8")

    assert [text[span.start : span.end] for span in find(text)] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("call me at 2125551234", "call me at <PHONE_NUMBER>"),
        ("Telefon: 01712345678", "Telefon: <PHONE_NUMBER>"),
        ("build 2125551234", "build 2125551234"),
    ],
)
def test_digits_alone_are_a_telephone_only_after_a_word_that_says_so(text: str, expected: str) -> None:
    assert mask(text) == expected


def test_several_in_one_text_are_each_found() -> None:
    text = (
        "ada@example.com or bob@example.com, 212-555-1234 4111 1111 1111 1111 from 10.1.2.3; 4242 5555 5555 5555 4444"
    )

    assert mask(text) == (
        "<EMAIL_ADDRESS> or <EMAIL_ADDRESS>, <PHONE_NUMBER> <CREDIT_CARD> from <IP_ADDRESS>; 4242 <CREDIT_CARD>"
    )


def test_escapes_are_read_as_what_they_mean() -> None:
    assert mask(r'up said {"e": "ada\u0040example.com"}') == 'up said {"e": "<EMAIL_ADDRESS>"}'
    assert mask(r"caf\u00e9, nobody") == r"caf\u00e9, nobody"


def test_a_document_keeps_its_shape_and_its_keys() -> None:
    document = {"a@b.de": ["ada@example.com", 1, 1.5, None, True, {"x": "8.8.8.8"}], "n": 4111111111111111}

    assert mask_document(document) == {
        "a@b.de": ["<EMAIL_ADDRESS>", 1, 1.5, None, True, {"x": "<IP_ADDRESS>"}],
        "n": 4111111111111111,
    }
    assert document["a@b.de"][0] == "ada@example.com"  # type: ignore[index]


def test_json_inside_a_string_is_masked_and_stays_json() -> None:
    arguments = r'{"to": "ada\u0040example.com", "text": "line\nbob@example.com", "deep": "[\"c@d.org\"]"}'

    masked = orjson.loads(mask_document({"arguments": arguments})["arguments"])

    assert masked == {"to": "<EMAIL_ADDRESS>", "text": "line\n<EMAIL_ADDRESS>", "deep": '["<EMAIL_ADDRESS>"]'}


def test_json_inside_a_string_without_personal_data_stays_as_it_was_written() -> None:
    assert mask_document('{ "a": 1.0 }') == '{ "a": 1.0 }'


def test_a_key_that_stands_twice_hides_nothing() -> None:
    assert "ada" not in mask_document('{"a": "ada@example.com", "a": "nobody"}')


def test_an_image_is_left_alone() -> None:
    image = "data:image/png;base64," + "4111111111111111" * 100

    assert mask_document({"url": image}) == {"url": image}
    assert mask("data:ada@example.com") == "data:<EMAIL_ADDRESS>"


BRICKS = st.sampled_from(
    [
        *"@.:+-(/)0149 aF%\n",
        "::",
        "0049 ",
        "4111 ",
        "DE89",
        "a@",
        "a.",
        "phone 1",
        "\\u0040",
        "f::",
        "1.",
        "{",
        '"',
        "é",
    ]
)


@settings(max_examples=30, deadline=None)
@given(unit=st.lists(BRICKS, min_size=1, max_size=12).map("".join), tail=st.text(max_size=5))
def test_no_text_makes_it_slow(unit: str, tail: str) -> None:
    """Ten times the text takes about ten times as long; a quadratic search would take a hundred times."""
    short, long = ((unit * (length // len(unit) + 1))[:length] + tail for length in (10_000, 100_000))

    find(short), find(long)
    shortest = min(_seconds(short) for _ in range(3))

    assert min(_seconds(long) for _ in range(3)) < 40 * shortest + 0.05


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(BRICKS, st.sampled_from([text for _, text in ALL]), st.text(max_size=4))).map("".join))
def test_what_is_found_is_in_order_and_apart(text: str) -> None:
    spans = find(text)

    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert all(one.end <= other.start for one, other in pairwise(spans))
    assert mask(text).count("<") >= len(spans)


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**53), 2**53),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
    ),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_any_document_stays_json_with_its_shape(document: Any) -> None:
    assert _shape(orjson.loads(orjson.dumps(mask_document(document)))) == _shape(document)


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shape(one) for key, one in value.items()}
    return [_shape(one) for one in value] if isinstance(value, list) else type(value)


def _seconds(text: str) -> float:
    begun = time.perf_counter()
    find(text)
    return time.perf_counter() - begun
