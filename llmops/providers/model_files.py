"""Model files on this machine: where the local engine finds the weights an endpoint names.

A source is a path of a GGUF file, or `hf://org/repo/file.gguf[@revision]`. Files of the second kind lie under the
model directory as the Hugging Face hub's own client keeps them (its layout without symbolic links), so that its tools
can share them:

    models--org--repo/refs/main                      the commit that `main` was when it was pulled
    models--org--repo/snapshots/COMMIT/file.gguf     the file

Only paths are handled here, no network and no hub client: gateway workers import this. Fetching is `model_hub`.

Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from os.path import expanduser, isdir, isfile
from pathlib import Path
from typing import Self

from llmops.endpoints import weights
from llmops.errors import InvalidParameter

SCHEME, SUFFIX = weights.SCHEME, weights.SUFFIX
#: Ends the name of a download that is not complete yet.
PARTIAL = ".incomplete"

#: Big models come in parts; the engine opens the first and finds the others beside it.
_PART = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf", re.ASCII)


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository of the Hugging Face hub.

    Attributes:
        repo: ``org/name``.
        path: Inside the repository; of a model in parts any one of them.
        revision: Branch, tag or commit.
    """

    repo: str
    path: str
    revision: str = "main"

    @classmethod
    def parse(cls, source: str) -> Self:
        """Read an ``hf://`` source.

        Raises:
            InvalidParameter: It has another form, or a part of it would lead out of the model directory.
        """
        try:
            found = weights.parse(source)
        except ValueError as err:
            raise InvalidParameter(str(err)) from None
        if found is None:
            raise InvalidParameter(f"model source '{source}' is a path; only hf://org/repo/file.gguf is on the hub")
        return cls(*found)

    def __str__(self) -> str:
        """The source it was read from."""
        return f"{SCHEME}{self.repo}/{self.path}" + (f"@{self.revision}" if self.revision != "main" else "")

    def folder(self, model_dir: Path) -> Path:
        """Where everything of the repository lies."""
        return model_dir / f"models--{self.repo.replace('/', '--')}"

    def snapshot(self, model_dir: Path) -> Path | None:
        """Where the files of the revision lie; None where nothing of it was pulled."""
        folder = self.folder(model_dir)
        reference = folder / "refs" / self.revision
        commit = reference.read_text().strip() if isfile(reference) else self.revision
        snapshot = folder / "snapshots" / commit
        return snapshot if isdir(snapshot) else None


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model that is here, or on its way.

    Attributes:
        path: The file; of a model in parts the first.
        size_bytes: Of what is here of all its parts.
        complete: False where its pull was interrupted; the next one goes on from there.
    """

    source: str
    path: Path
    size_bytes: int
    complete: bool


def parts(path: str) -> list[str]:
    """The names of all parts of a model, in order; one name where it is a single file."""
    found = _PART.fullmatch(path)
    if found is None:
        return [path]
    count = int(found["count"])
    return [f"{found['stem']}-{number:05}-of-{count:05}{SUFFIX}" for number in range(1, count + 1)]


def locate(source: str, model_dir: Path) -> Path | None:
    """Find the file the engine has to open.

    Returns:
        Of a model in parts the first. None where the file, or one of its parts, is not here.

    Raises:
        InvalidParameter: The source is neither a path of a GGUF file nor an ``hf://`` source.
    """
    if source.startswith(SCHEME):
        wanted = HubFile.parse(source)
        folder, name = wanted.snapshot(model_dir), wanted.path
    else:
        path = Path(expanduser(source))
        folder, name = path.parent, path.name
        if path.suffix != SUFFIX:
            raise InvalidParameter(
                f"model source '{source}': the local engine opens .gguf files and hf:// sources only"
            )
    if folder is None:
        return None
    found = [folder / part for part in parts(name)]
    # Not `Path.is_file`: it raises where a folder may not be entered, and one endpoint would stop all others.
    return found[0] if all(isfile(path) for path in found) else None


def missing(source: str, endpoint: str) -> str:
    """Say in one sentence that the weights are not here, and what to do."""
    if source.startswith(SCHEME):
        return f"weights of {source} are not here: run `llmops models pull {endpoint}`"
    return f"model file {source} of endpoint '{endpoint}' does not exist: put it there, or change llmops.source"


def listing(model_dir: Path) -> list[ModelFile]:
    """Every model pulled from the hub, and every one on its way, by source."""
    found = {}
    for folder in sorted(model_dir.glob("models--*--*")):
        for path in sorted(folder.glob("snapshots/*/**/*")):
            name = path.name.removesuffix(PARTIAL)
            if name.endswith(SUFFIX) and path.is_file():
                first = path.with_name(parts(name)[0])
                found[first] = _describe(folder, first)
    return list(found.values())


def remove(source: str, model_dir: Path) -> int:
    """Delete a model that was pulled from the hub, finished or not.

    Returns:
        Bytes freed; 0 where nothing was here.

    Raises:
        InvalidParameter: Not an ``hf://`` source: a file at a path is its owner's to delete.
    """
    wanted = HubFile.parse(source)
    snapshot = wanted.snapshot(model_dir)
    if snapshot is None:
        return 0
    freed = 0
    for path in list(_files(snapshot, wanted.path)):
        freed += path.stat().st_size
        # The hub's own client, where it filled this directory, keeps the content behind a link.
        content = path.resolve()
        if content.is_relative_to(model_dir.resolve()):
            content.unlink()
        path.unlink(missing_ok=True)
    folder = wanted.folder(model_dir)
    if not any(path.is_file() and path.suffix != ".lock" for path in folder.glob("snapshots/**/*")):
        shutil.rmtree(folder)
    return freed


def _files(snapshot: Path, name: str) -> Iterator[Path]:
    for part in parts(name):
        yield from (path for path in (snapshot / part, snapshot / (part + PARTIAL)) if path.is_file())


def _describe(folder: Path, first: Path) -> ModelFile:
    snapshots = folder / "snapshots"
    commit, *inside = first.relative_to(snapshots).parts
    name = "/".join(inside)
    names = {path.read_text().strip(): path.relative_to(folder / "refs").as_posix() for path in _refs(folder)}
    source = HubFile(folder.name.removeprefix("models--").replace("--", "/", 1), name, names.get(commit, commit))
    size = sum(path.stat().st_size for path in _files(snapshots / commit, name))
    complete = all((snapshots / commit / part).is_file() for part in parts(name))
    return ModelFile(str(source), first, size, complete)


def _refs(folder: Path) -> list[Path]:
    # `main` last, so that it wins where two names point to one commit.
    refs = [path for path in folder.glob("refs/**/*") if path.is_file()]
    return sorted(refs, key=lambda path: path.name == "main")
