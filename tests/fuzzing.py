"""Requests nobody would send: good bodies with something odd in every place of them."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Place = tuple[str | int, ...]


def _deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


#: What JSON can say and a database, an encoder or careless code cannot take.
ODD: Sequence[Any] = (
    *(None, True, 0, -1, 1.5, 2**63, 2**64, 1e308, math.nan, math.inf),
    *(
        "",
        "\x00",
        "a\ud800",
        "\u202e",
        "\r\nx-evil: 1",
        "x" * 70_000,
        "{{secrets/a/b}}",
        "../..",
        "%s{0}",
        "http://[::1",
    ),
    *([], {}, [None], [[]], {"\x00": "\x00"}, {"\ud800": 1}, [{}], _deep(90), _deep(300)),
)
#: Names of keys that are odd, or that some code looks for.
ODD_KEYS = ("\ud800", "\x00", "x" * 300, "x_plaintext", "served_models")
#: Bodies that are no object, or no JSON.
BODIES: Sequence[bytes] = (
    *(b"", b"null", b"[]", b'"x"', b"0", b"{", b"\xff\xfe{", b'{"a":', b'{"a":1e999}', b'{"a":"\xed\xa0\x80"}'),
    *(b"[" * 5000, b'{"a":' * 5000, b"9" * 5000),
)


def places(value: Any, here: Place = ()) -> Iterator[Place]:
    """Every place in a JSON value, its root first."""
    yield here
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*here, key))


def put(value: Any, place: Place, new: Any) -> Any:
    """A JSON value with another one at a place."""
    if not place:
        return new
    first, rest = place[0], place[1:]
    if isinstance(value, dict):
        return {**value, str(first): put(value[str(first)], rest, new)}
    return [put(item, rest, new) if index == first else item for index, item in enumerate(value)]


def spoiled(body: Mapping[str, Any]) -> Iterator[bytes]:
    """A good body with everything odd in every place, and with odd keys in every object; then no bodies at all."""
    for place in places(body):
        for odd in ODD:
            yield json.dumps(put(body, place, odd)).encode()
        inner: Any = body
        for part in place:
            inner = inner[part]
        if isinstance(inner, dict):
            for key in ODD_KEYS:
                yield json.dumps(put(body, place, {**inner, key: 1})).encode()
    yield from BODIES
