"""Fields of a body that is translated: read with their types, and refused by name where chat cannot say them.

A null counts as absent everywhere: clients send it for what they leave out.
"""

from collections.abc import Collection, Mapping
from typing import Any

from llmops.errors import BadRequest

Fields = Mapping[str, Any]


def only(given: Fields, known: Collection[str], where: str = "") -> None:
    """Refuse what is not known: to leave it out could change what is meant.

    Args:
        where: Of the object in the body, with a dot at its end; empty for the body itself.

    Raises:
        BadRequest: Names the first field that is not known.
    """
    for name, value in given.items():
        if value is not None and name not in known:
            raise BadRequest(f"'{where}{name}' is not known here, and a chat endpoint could not be told: leave it out")


def refuse(given: Fields, reasons: Mapping[str, str]) -> None:
    """Refuse fields that are known and not served.

    Args:
        reasons: By field. A value that asks for nothing (null, false, an empty list or object) is no reason.

    Raises:
        BadRequest: Names the first of them, and why.
    """
    for name, reason in reasons.items():
        if given.get(name) not in (None, False, [], {}):
            raise BadRequest(f"'{name}' is not served: {reason}")


def text(given: Fields, name: str, where: str = "") -> str:
    """A field that must be a string.

    Raises:
        BadRequest: It is not, or it is missing.
    """
    value = given.get(name)
    if not isinstance(value, str):
        raise BadRequest(f"'{where}{name}' must be a string")
    return value


def object_(value: Any, where: str) -> Fields:
    """A value that must be an object, or absent; then it is empty.

    Raises:
        BadRequest: It is something else.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest(f"'{where}' must be an object")
    return value


def objects(value: Any, where: str) -> list[Fields]:
    """A value that must be a list of objects, or absent; then it is empty.

    Raises:
        BadRequest: It is something else.
    """
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise BadRequest(f"'{where}' must be a list of objects")
    return value


def kind_refused(where: str, kind: Any, taken: str) -> BadRequest:
    """The error of an object whose ``type`` chat has no word for."""
    return BadRequest(f"'{where}.type' is {str(kind)[:60]!r}; a chat endpoint takes {taken}")


def no_tools() -> BadRequest:
    """The error of a ``tool_choice`` that cannot be done."""
    return BadRequest("'tool_choice' asks for a tool, and there are no 'tools': add them, or leave it out")
