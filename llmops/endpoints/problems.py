"""What is wrong with a document, in one line each: the field, what is wrong, and what to do."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from llmops.endpoints.document import URL_PATTERN, Document
from llmops.endpoints.external_model import HEADER_PATTERN, REGION_PATTERN
from llmops.endpoints.spec import EndpointSpec

Place = tuple[str | int, ...]

PATTERNS = {
    URL_PATTERN: "is not a URL of a server; write http:// or https://, a host and a path, with no key and no {} in it",
    HEADER_PATTERN: "holds what no header can carry; write letters, digits, dashes, dots and underscores",
    REGION_PATTERN: "is not a region; write small letters, digits and dashes, as eu-west-1",
}

#: By pydantic's type of error; a value is repeated only where it cannot be a key.
TEXTS: Mapping[str, Callable[[Any], str]] = {
    "missing": lambda problem: "is missing; add it",
    "string_type": lambda problem: "must be text; put it in quotes",
    "string_too_short": lambda problem: "is empty; write something",
    "string_pattern_mismatch": lambda problem: PATTERNS[problem["ctx"]["pattern"]],
    "bool_type": lambda problem: "must be true or false",
    "bool_parsing": lambda problem: "must be true or false",
    "int_type": lambda problem: "must be a whole number",
    "int_parsing": lambda problem: "must be a whole number",
    "int_from_float": lambda problem: "must be a whole number",
    "float_type": lambda problem: "must be a number",
    "float_parsing": lambda problem: "must be a number",
    "finite_number": lambda problem: "must be a number",
    "greater_than": lambda problem: f"{problem['input']} is too small; more than {problem['ctx']['gt']:g}",
    "greater_than_equal": lambda problem: f"{problem['input']} is too small; at least {problem['ctx']['ge']:g}",
    "less_than_equal": lambda problem: f"{problem['input']} is too large; at most {problem['ctx']['le']:g}",
    "list_type": lambda problem: "must be a list; begin each item with '- '",
    "dict_type": lambda problem: "must be a mapping of keys and values",
    "model_type": lambda problem: "must be a mapping of keys and values",
    "too_short": lambda problem: f"has too few items; at least {problem['ctx']['min_length']}",
    "too_long": lambda problem: f"has too many items; at most {problem['ctx']['max_length']}",
    "value_error": lambda problem: str(problem["ctx"]["error"]),
}


def listed(err: ValidationError) -> list[tuple[Place, str]]:
    """Every problem of a validation as its place and one line."""
    return [(problem["loc"], f"{_dotted(problem['loc'])}{_explain(problem)}") for problem in err.errors()]


def _dotted(place: Place) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in place]
    return "".join(parts).lstrip(".") + ": " if parts else ""


def _explain(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        key = str(problem["loc"][-1])
        near = difflib.get_close_matches(key, _fields(problem["loc"][:-1]), n=1)
        return f"unknown key; did you mean '{near[0]}'?" if near else "unknown key; remove it"
    if problem["type"] in ("literal_error", "enum"):
        near = difflib.get_close_matches(str(problem["input"]), _choices(problem), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"'{problem['input']}' is not one of {problem['ctx']['expected']}{hint}"
    known = TEXTS.get(problem["type"])
    return known(problem) if known else str(problem["msg"][:1].lower() + problem["msg"][1:])


def _choices(problem: Any) -> list[str]:
    return [choice.strip("' ") for choice in problem["ctx"]["expected"].replace(" or ", ", ").split(",")]


def _fields(place: Place) -> list[str]:
    """The fields that exist at a place of the document."""
    model: type[BaseModel] | None = EndpointSpec
    for part in place:
        if isinstance(part, str):
            known = model.model_fields.get(part) if model else None
            model = model_in(known.annotation) if known else None
    return list(model.model_fields) if model else []


def model_in(annotation: Any) -> type[Document] | None:
    """The model a field holds, itself, in a list or as an alternative; None where it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, Document):
        return annotation
    return next((found for part in get_args(annotation) if (found := model_in(part))), None)
