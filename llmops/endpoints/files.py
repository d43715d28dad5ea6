"""Endpoint files: YAML in, checked specs out, and every problem with its file, line and field."""

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import orjson
import yaml
from pydantic import BaseModel, ValidationError

from llmops.endpoints.document import Document
from llmops.endpoints.spec import EndpointSpec
from llmops.errors import InvalidSpec

Place = tuple[str | int, ...]

MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class EndpointFile:
    """One file as it was read.

    Attributes:
        name: The endpoint's name; the file's stem where the file does not say.
        spec: None where the file has problems.
        problems: One line each: file, line, field, what is wrong and what to do.
    """

    path: Path
    name: str
    spec: EndpointSpec | None
    problems: tuple[str, ...] = ()


@dataclass(slots=True)
class _Lines:
    """The line of every key and item of a YAML document, by its place in it."""

    at: dict[Place, int] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)

    def line(self, place: Place) -> int:
        """The line of a place, or of the nearest place above it that was written down."""
        while place and place not in self.at:
            place = place[:-1]
        return self.at.get(place, 1)


def read_directory(directory: Path) -> list[EndpointFile]:
    """Read every ``*.yaml`` and ``*.yml`` file of a directory, by file name; a bad one never stops the others.

    Two files that name one endpoint are both refused.

    Raises:
        InvalidSpec: The directory does not exist.
    """
    if not directory.is_dir():
        raise InvalidSpec(f"{directory}: no such directory of endpoint files; create it or name one with --configs")
    paths = sorted(path for path in directory.iterdir() if path.suffix in (".yaml", ".yml") and path.is_file())
    files = [read_file(path) for path in paths]
    claims: dict[str, list[EndpointFile]] = {}
    for file in files:
        claims.setdefault(file.name, []).append(file)
    return [_claimed_once(file, claims[file.name]) for file in files]


def read_file(path: Path) -> EndpointFile:
    """Read one endpoint file; problems are returned, not raised, because the house opens all the same."""
    try:
        document, lines = _parse(_read(path))
    except (OSError, UnicodeDecodeError) as err:
        return EndpointFile(path, path.stem, None, (f"{path}: cannot be read: {err}",))
    except yaml.YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        return EndpointFile(path, path.stem, None, (f"{where}: not YAML: {getattr(err, 'problem', None) or err}",))
    except (ValueError, RecursionError) as err:
        # What YAML takes for a date or a number and Python cannot make one of; lists in lists without end.
        return EndpointFile(path, path.stem, None, (f"{path}: not YAML: {str(err)[:200]}",))
    name = document.get("name") if isinstance(document, dict) else None
    name = name if isinstance(name, str) and name else path.stem
    try:
        return EndpointFile(path, name, _checked(document))
    except ValidationError as err:
        problems = [f"{path}:{lines.line(place)}: {text}" for place, text in _problems(err)]
        return EndpointFile(path, name, None, tuple(problems))
    except InvalidSpec as err:
        return EndpointFile(path, name, None, (f"{path}: {err.message}",))


def read_document(document: object) -> EndpointSpec:
    """Check a document that came over REST; fields we do not know are left out.

    Raises:
        InvalidSpec: With one problem for each field that is wrong.
    """
    try:
        return _checked(document, extra="ignore")
    except ValidationError as err:
        problems = tuple(text for _, text in _problems(err))
        raise InvalidSpec("; ".join(problems), problems) from None


def _checked(document: object, extra: Literal["forbid", "ignore"] = "forbid") -> EndpointSpec:
    spec = EndpointSpec.model_validate(document, extra=extra)
    try:
        orjson.dumps(spec.document())
    except (TypeError, ValueError, RecursionError) as err:
        raise InvalidSpec(f"cannot be kept as JSON: {err}") from None
    return spec


def _read(path: Path) -> str:
    if (size_bytes := path.stat().st_size) > MAX_FILE_BYTES:
        raise OSError(f"{size_bytes} bytes are too many for an endpoint; at most {MAX_FILE_BYTES}")
    return path.read_text("utf-8")


def _claimed_once(file: EndpointFile, claimants: list[EndpointFile]) -> EndpointFile:
    others = [other.path.name for other in claimants if other.path != file.path]
    if not others:
        return file
    problem = f"{file.path}:1: name: endpoint '{file.name}' is also in {', '.join(others)}; keep one"
    return EndpointFile(file.path, file.name, None, (*file.problems, problem))


def _parse(text: str) -> tuple[Any, _Lines]:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        lines = _Lines()
        if node is not None:
            _note(node, (), lines)
        return (loader.construct_document(node) if node is not None else {}), lines
    finally:
        loader.dispose()


def _note(node: yaml.Node, place: Place, lines: _Lines) -> None:
    if isinstance(node, yaml.CollectionNode):
        if id(node) in lines.seen:
            raise yaml.constructor.ConstructorError(None, None, "aliases are not taken; write it out", node.start_mark)
        lines.seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*place, str(key.value))
            if here in lines.at:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' stands twice", key.start_mark)
            lines.at[here] = key.start_mark.line + 1
            _note(value, here, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines.at[(*place, index)] = value.start_mark.line + 1
            _note(value, (*place, index), lines)


def _problems(err: ValidationError) -> list[tuple[Place, str]]:
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
    if problem["type"] == "missing":
        return "is missing"
    if problem["type"] in ("literal_error", "enum"):
        near = difflib.get_close_matches(str(problem["input"]), _choices(problem), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"'{problem['input']}' is not one of {problem['ctx']['expected']}{hint}"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    return str(problem["msg"][:1].lower() + problem["msg"][1:])


def _choices(problem: Any) -> list[str]:
    return [choice.strip("' ") for choice in problem["ctx"]["expected"].replace(" or ", ", ").split(",")]


def _fields(place: Place) -> list[str]:
    """The fields that exist at a place of the document."""
    model: type[BaseModel] | None = EndpointSpec
    for part in place:
        if isinstance(part, str):
            known = model.model_fields.get(part) if model else None
            model = _model_in(known.annotation) if known else None
    return list(model.model_fields) if model else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, Document):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
