"""Fetches model files from the Hugging Face hub: resumes what was cut, checks what arrived.

The hub's client gives addresses, credentials (``HF_TOKEN``), mirrors (``HF_ENDPOINT``) and what a file should be. The
download itself is here, because the client drops what it has when its process ends (huggingface_hub 1.33,
`_download_to_tmp_and_move`), and a 40 GB download does not start twice.
"""

import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import WeakFileLock, build_hf_headers, get_session, hf_raise_for_status

from llmops.errors import (
    LlmopsError,
    NotFound,
    PermissionDenied,
    UpstreamError,
    UpstreamMalformed,
    UpstreamUnreachable,
)
from llmops.providers.model_files import PARTIAL, HubFile, locate, parts

# The client would tell the hub which coding agent runs it, having fetched a list of agents to look for.
constants.HF_HUB_DISABLE_TELEMETRY = True

#: Called with the file's name, the bytes here, and the bytes there are.
Progress = Callable[[str, int, int], None]

#: Tries in a row that bring not one byte before the download is given up.
FRUITLESS_TRIES: Final = 3
_PIECE_BYTES: Final = 1 << 20
_COMMIT: Final = re.compile("[0-9a-f]{40}")
_DIGEST: Final = re.compile("[0-9a-f]{40}([0-9a-f]{24})?")
_BY_HAND = "or put the .gguf file on this machine and name its path as the source"


@dataclass(frozen=True, slots=True)
class _Remote:
    """What the hub says a file is.

    Attributes:
        digest: sha256 of a large file, git's sha1 of a small one, in hex.
    """

    url: str
    commit: str
    digest: str
    size_bytes: int


def pull(source: str, model_dir: Path, progress: Progress, hub: str = constants.ENDPOINT) -> Path:
    """Make a model's files be here.

    Goes on where an interrupted pull stopped. Fetches nothing where they are here already. Blocks; two processes that
    pull the same file take turns.

    Args:
        source: ``hf://org/repo/file.gguf[@revision]``; of a model in parts any part stands for all.
        progress: Called at least once for each file, in this thread.
        hub: Root URL of the hub; ``HF_ENDPOINT`` by default.

    Returns:
        The file the engine opens.

    Raises:
        InvalidParameter: The source has another form.
        NotFound: The hub has no such repository, revision or file.
        PermissionDenied: The repository wants a token, or terms to be accepted.
        UpstreamUnreachable: No connection to the hub, or it broke; what arrived is kept.
        UpstreamMalformed: What arrived is not what the hub says the file is; it is removed.
        UpstreamError: The hub answered something else.
        LlmopsError: The files cannot be written here.
    """
    wanted = HubFile.parse(source)
    found = locate(source, model_dir)
    if found is not None:
        return found
    try:
        return _fetch_parts(wanted, model_dir, progress, hub)
    except (httpx.HTTPError, OSError) as err:
        raise _explained(err, wanted, model_dir, hub) from err


def _fetch_parts(wanted: HubFile, model_dir: Path, progress: Progress, hub: str) -> Path:
    folder = wanted.folder(model_dir)
    first, *others = parts(wanted.path)
    remote = _look_up(hub, wanted.repo, first, wanted.revision)
    if remote.commit != wanted.revision:
        reference = folder / "refs" / wanted.revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(remote.commit)
    snapshot = folder / "snapshots" / remote.commit
    _fetch(remote, snapshot / first, progress)
    for part in others:  # Of the same commit, also when someone pushes in between.
        _fetch(_look_up(hub, wanted.repo, part, remote.commit), snapshot / part, progress)
    return snapshot / first


def _look_up(hub: str, repo: str, part: str, revision: str) -> _Remote:
    metadata = get_hf_file_metadata(hf_hub_url(repo, part, revision=revision, endpoint=hub))
    commit, digest, size = metadata.commit_hash or "", metadata.etag or "", metadata.size
    if not (_COMMIT.fullmatch(commit) and _DIGEST.fullmatch(digest) and size):
        raise UpstreamMalformed(
            f"{hub} does not say which commit, digest and size {part} has, so a download could not be checked;"
            f" is it a Hugging Face hub? Correct HF_ENDPOINT, {_BY_HAND}"
        )
    return _Remote(hf_hub_url(repo, part, revision=commit, endpoint=hub), commit, digest, size)


def _explained(err: Exception, wanted: HubFile, model_dir: Path, hub: str) -> LlmopsError:
    where = f"{hub}/{wanted.repo}"
    match err:
        case OfflineModeIsEnabled():
            return UpstreamUnreachable(f"HF_HUB_OFFLINE is set, so nothing is fetched: unset it, {_BY_HAND}")
        case GatedRepoError():
            return PermissionDenied(f"{where} is gated: accept its terms there and set HF_TOKEN")
        case RepositoryNotFoundError():
            return NotFound(f"{where} does not exist, or is private and wants HF_TOKEN")
        case RevisionNotFoundError():
            return NotFound(f"{where} has no revision '{wanted.revision}'")
        case RemoteEntryNotFoundError():
            return NotFound(f"{where} has no file {wanted.path} at revision '{wanted.revision}'")
        case HfHubHTTPError():
            return UpstreamError(f"{where} answered {err.response.status_code}; try again later, {_BY_HAND}")
        case OSError():
            return LlmopsError(f"cannot write to {model_dir}: {err.strerror or err}")
        case _:
            return UpstreamUnreachable(
                f"cannot reach {hub}: {str(err) or type(err).__name__}; check the network and HTTPS_PROXY,"
                f" set HF_ENDPOINT to a mirror, {_BY_HAND}"
            )


def _fetch(remote: _Remote, path: Path, progress: Progress) -> None:
    partial = path.with_name(path.name + PARTIAL)
    path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(partial.with_name(f".{path.name}.lock")):
        if not path.is_file():
            _download(remote, partial, path.name, progress)
            _check(remote, partial)
            partial.replace(path)
    progress(path.name, remote.size_bytes, remote.size_bytes)


def _download(remote: _Remote, partial: Path, name: str, progress: Progress) -> None:
    fruitless = 0
    while (have := _size(partial)) < remote.size_bytes:
        free = shutil.disk_usage(partial.parent).free
        if free < remote.size_bytes - have:
            raise LlmopsError(
                f"{name} needs {remote.size_bytes - have:,} more bytes in {partial.parent}, {free:,} are free"
            )
        broken: httpx.TransportError | None = None
        try:
            _append(remote, partial, have, lambda done: progress(name, done, remote.size_bytes))
        except httpx.TransportError as err:
            broken = err
        fruitless = 0 if _size(partial) > have else fruitless + 1
        if fruitless == FRUITLESS_TRIES:
            raise _cut(remote, partial, broken) from broken


def _cut(remote: _Remote, partial: Path, broken: httpx.TransportError | None) -> UpstreamUnreachable:
    reason = (broken and str(broken)) or "the server ends it early"
    return UpstreamUnreachable(
        f"the download stopped at {_size(partial):,} of {remote.size_bytes:,} bytes: {reason};"
        " pull again to go on from there"
    )


def _append(remote: _Remote, partial: Path, have: int, arrived: Callable[[int], None]) -> None:
    headers = {**build_hf_headers(), "accept-encoding": "identity"}
    if have:
        headers["range"] = f"bytes={have}-"
    with get_session().stream(
        "GET", remote.url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    ) as response:
        hf_raise_for_status(response)
        resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        # A server that does not know ranges starts again, and so do we.
        with partial.open("ab" if resumed else "wb") as file:
            for piece in response.iter_raw():  # As they come: collecting them would lose what a kill interrupts.
                file.write(piece)
                arrived(file.tell())


def _check(remote: _Remote, partial: Path) -> None:
    if len(remote.digest) == 64:
        digest = hashlib.sha256()
    else:  # A small file is a blob of git, not of its large file storage.
        digest = hashlib.sha1(b"blob %d\0" % _size(partial), usedforsecurity=False)
    with partial.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    if digest.hexdigest() != remote.digest:
        partial.unlink()
        raise UpstreamMalformed(
            f"{partial.name.removesuffix(PARTIAL)} arrived damaged: its digest is {digest.hexdigest()[:12]}…, the hub"
            f" says {remote.digest[:12]}…; it was removed, pull again"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
