"""An endpoint's document as people read it: one YAML file, references in the place of keys."""

from pathlib import Path

import yaml

from llmops.endpoints.difference import changes, plain
from llmops.endpoints.files import read_file
from llmops.endpoints.schema import SCHEMA_FILE
from llmops.endpoints.spec import EndpointSpec
from llmops.errors import CommandError

WIDTH = 120
#: What YAML takes for the end of a line, and folds where a text is not in double quotes.
_LINE_ENDS = frozenset("\x85\u2028\u2029")


class _Dumper(yaml.SafeDumper):
    """Writes every text so that it is read back as it was."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """A text, in double quotes where another style would change it."""
        if _LINE_ENDS.isdisjoint(data):
            return super().represent_str(data)
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"')


_Dumper.add_representer(str, _Dumper.represent_str)


def text(spec: EndpointSpec) -> str:
    """The YAML of a document; the same document gives the same bytes."""
    written: str = yaml.dump(plain(spec), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH)
    return written


def write(directory: Path, spec: EndpointSpec, *, force: bool = False) -> bool:
    """Write an endpoint's file, ``<name>.yaml``, whole or not at all.

    Returns:
        False where the file said the same already; it is left as it is, comments too.

    Raises:
        CommandError: There is a file of that name that says something else, and it was not forced.
    """
    path = directory / f"{spec.name}.yaml"
    if path.exists():
        old = read_file(path).spec
        if old is not None and not changes(old, spec):
            return False
        if not force:
            raise CommandError(f"{path}: there is such a file, and it says something else; --force overwrites it")
    directory.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(_head(directory) + text(spec), "utf-8")
    new.replace(path)
    return True


def _head(directory: Path) -> str:
    """The line by which editors find the schema, where it lies beside the file."""
    return f"# yaml-language-server: $schema={SCHEMA_FILE}\n" if (directory / SCHEMA_FILE).exists() else ""
