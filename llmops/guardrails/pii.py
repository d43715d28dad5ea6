"""Personal data in text: found by pattern, checked where it carries a check digit, replaced by a placeholder.

Linear in the length of the text, whatever the text: no search looks further than the longest thing of its kind.

Source: https://microsoft.github.io/presidio/supported_entities/ (the placeholders, which Databricks uses too)
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from llmops.guardrails.pii_addresses import machines, mailboxes
from llmops.guardrails.pii_numbers import Numbers

#: Without one of these no text holds anything that is looked for.
_PERHAPS = re.compile(r"[0-9@:]")
#: An image or a sound: it is long, and nobody can be read in it.
_BASE64 = re.compile(r"(?:data:[\w.+/-]{0,100}(?:;[\w.=+/-]{0,100}){0,5},)?[A-Za-z0-9+/_-]{256,}={0,2}", re.ASCII)
_LONG = 256
_ESCAPE = re.compile(r"\\u(?!d[89a-f])([0-9a-f]{4})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of personal data in a text.

    Attributes:
        kind: EMAIL_ADDRESS, PHONE_NUMBER, CREDIT_CARD, IBAN_CODE, US_SSN or IP_ADDRESS.
        start: Its place, as of a slice.
    """

    kind: str
    start: int
    end: int


def find(text: str) -> list[Span]:
    """Find personal data.

    Returns:
        In the order of the text, none overlapping. Empty where the whole text is base64, with or without ``data:``.
    """
    if not _PERHAPS.search(text) or (len(text) >= _LONG and _BASE64.fullmatch(text)):
        return []
    found = sorted(_all(text), key=lambda span: (span.start, -span.end))
    apart: list[Span] = []
    for span in found:
        if not apart or span.start >= apart[-1].end:
            apart.append(span)
        elif span.end > apart[-1].end:
            # What two kinds claim in part is covered as a whole.
            apart[-1] = Span(apart[-1].kind, apart[-1].start, span.end)
    return apart


def mask(text: str) -> str:
    """Replace personal data by placeholders: ``<EMAIL_ADDRESS>`` and its like.

    Where characters are written as JSON escapes, they are read as what they mean.
    """
    if "\\u" in text:
        read = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), text)
        text = read if len(find(read)) > len(find(text)) else text
    pieces, end = [], 0
    for span in find(text):
        pieces += [text[end : span.start], f"<{span.kind}>"]
        end = span.end
    return "".join([*pieces, text[end:]]) if pieces else text


def mask_document(value: Any) -> Any:
    """Mask every string of a parsed JSON document; a string that is JSON itself is masked inside, and stays JSON.

    Args:
        value: Not modified. Keys stay as they are.

    Returns:
        A value of the same shape.

    Raises:
        RecursionError: It is nested deeper than Python can follow.
    """
    if isinstance(value, str):
        return _mask_json(value) if value[:1] in ("{", "[") else mask(value)
    if isinstance(value, dict):
        return {key: mask_document(one) for key, one in value.items()}
    if isinstance(value, list):
        return [one if type(one) is float else mask_document(one) for one in value]
    return value


def _mask_json(text: str) -> str:
    """Mask what may be JSON, as the arguments of a tool call are."""
    try:
        document = orjson.loads(text)
    except ValueError:
        return mask(text)
    masked = mask_document(document)
    # As it was where nothing was found; but what a key that stands twice hides is found in the text only.
    if masked == document and not find(text):
        return text
    return orjson.dumps(masked).decode()


def _all(text: str) -> Iterator[Span]:
    numbers = Numbers.of(text)
    finders = (
        ("EMAIL_ADDRESS", mailboxes(text)),
        ("IBAN_CODE", numbers.accounts()),
        ("CREDIT_CARD", numbers.cards()),
        ("US_SSN", numbers.social_security()),
        ("IP_ADDRESS", machines(text)),
        ("PHONE_NUMBER", numbers.phones()),
    )
    return (Span(kind, *place) for kind, places in finders for place in places)
