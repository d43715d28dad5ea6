"""Endpoint files: YAML in, checked specs out, and every problem with its file, line and field."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson
import yaml
from pydantic import ValidationError

from llmops.endpoints import problems
from llmops.endpoints.problems import Place
from llmops.endpoints.spec import EndpointSpec
from llmops.errors import InvalidSpec

MAX_FILE_BYTES = 1 << 20
#: A key in the text of a problem, as ``llmops.log``.
_WORD = re.compile(r"\w+(?:\.\w+)*")


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

    def told(self, place: Place, text: str) -> int:
        """The line of a problem: of the first key below its place that its text names, else of the place."""
        for word in _WORD.findall(text):
            named = (*place, *word.split("."))
            if named in self.at:
                return self.at[named]
        return self.line(place)


def read_paths(paths: Sequence[Path]) -> list[EndpointFile]:
    """Read files, and the ``*.yaml`` and ``*.yml`` files of directories by name; a bad one never stops the others.

    Two files that name one endpoint are both refused.

    Raises:
        InvalidSpec: A path does not exist.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        found |= {file.resolve(): file for file in _files(path)}
    files = [read_file(path) for path in found.values()]
    claims: dict[str, list[EndpointFile]] = {}
    for file in files:
        claims.setdefault(file.name, []).append(file)
    return [_claimed_once(file, claims[file.name]) for file in files]


def read_directory(directory: Path) -> list[EndpointFile]:
    """Read the endpoint files of a directory, as `read_paths` does.

    Raises:
        InvalidSpec: The directory does not exist.
    """
    if not directory.is_dir():
        raise InvalidSpec(f"{directory}: no such directory of endpoint files; create it or name one with --configs")
    return read_paths([directory])


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise InvalidSpec(f"{path}: there is no such file or directory; name endpoint files, or their directory")
    if not path.is_dir():
        return [path]
    return sorted(one for one in path.iterdir() if one.suffix in (".yaml", ".yml") and one.is_file())


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
        return EndpointFile(path, path.stem, None, (f"{path}: not YAML: {str(err)[:200]}; put it in quotes",))
    name = document.get("name") if isinstance(document, dict) else None
    name = name if isinstance(name, str) and name else path.stem
    try:
        return EndpointFile(path, name, _checked(document))
    except ValidationError as err:
        found = [f"{path}:{lines.told(place, text)}: {text}" for place, text in problems.listed(err)]
        return EndpointFile(path, name, None, tuple(found))
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
        found = tuple(text for _, text in problems.listed(err))
        raise InvalidSpec("; ".join(found), found) from None


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
    others = [
        other.path.name if other.path.parent == file.path.parent else str(other.path)
        for other in claimants
        if other.path != file.path
    ]
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
    if isinstance(node, yaml.ScalarNode) and not _whole(node.value):
        raise yaml.constructor.ConstructorError(
            None, None, "holds half of a character (a lone surrogate); write the whole one", node.start_mark
        )
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _note(key, (*place, str(key.value)), lines)
            here = (*place, str(key.value))
            if here in lines.at:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key.value}' stands twice; keep one", key.start_mark
                )
            lines.at[here] = key.start_mark.line + 1
            _note(value, here, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines.at[(*place, index)] = value.start_mark.line + 1
            _note(value, (*place, index), lines)


def _whole(text: str) -> bool:
    """Whether every character is one: an escape can name half of a pair, which nothing could write down again."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
