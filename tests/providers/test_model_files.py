"""Model files through the command line, from a hub on loopback that answers as the Hugging Face hub does."""

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pexpect
import pytest
from huggingface_hub import try_to_load_from_cache

from llmops.errors import InvalidParameter, LlmopsError, NotFound, UpstreamMalformed, UpstreamUnreachable
from llmops.providers import model_files, model_hub
from tests.scripts import whole
from tests.upstream import Upstream, refused_url
from tests.wire import End, Reply, Request, head

REPO = "org/tiny-GGUF"
SOURCE = f"hf://{REPO}/tiny.gguf"
COMMIT = "c0ffee" + 34 * "0"
CONTENT = random.Random(7).randbytes(600_000)
WAIT_S = 30


class Hub:
    """A script for `Upstream`: a repository, its files, and what is wrong with them today.

    Attributes:
        files: By path. A file is served by way of a redirect to `cdn`, as large files are.
        cdn: Where downloads go: this hub, unless another server is named.
        cut_at: Downloads end there, without the rest; None lets them end well.
        ending: How a cut download ends.
        claimed: The digest the hub tells, where it is not the file's.
        refusal: Status and headers that answer instead.
        ranges: Whether the middle of a file can be asked for.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"tiny.gguf": CONTENT}
        self.cdn = ""
        self.cut_at: int | None = None
        self.ending = End.CLOSE
        self.claimed: str | None = None
        self.refusal: tuple[int, Mapping[str, str]] | None = None
        self.ranges = True

    def __call__(self, request: Request) -> Reply:
        """Answer as the hub answers ``resolve``, or as its file storage answers a download."""
        resolve = re.fullmatch(rf"/{REPO}/resolve/(main|v1|{COMMIT})/(.+)", request.path)
        if resolve is not None and self.refusal is not None:
            status, headers = self.refusal
            return whole(b"", code=status, headers=headers)(request)
        if resolve is not None and resolve[2] in self.files:
            content = self.files[resolve[2]]
            headers = {
                "x-repo-commit": COMMIT,
                "x-linked-etag": f'"{self.claimed or hashlib.sha256(content).hexdigest()}"',
                "x-linked-size": str(len(content)),
                "location": f"{self.cdn}/cdn/{resolve[2]}",
            }
            return whole(b"", code=302, headers=headers)(request)
        if request.path.startswith("/cdn/"):
            return self._download(request, self.files[request.path.removeprefix("/cdn/")])
        return whole(b"", code=404, headers={"x-error-code": "EntryNotFound"})(request)

    def _download(self, request: Request, content: bytes) -> Reply:
        start = int(request.headers.get("range", "bytes=0-")[6:-1]) if self.ranges else 0
        length = {"content-length": str(len(content) - start)}
        first = head(206, length | {"content-range": f"bytes {start}-/{len(content)}"}) if start else head(200, length)
        if self.cut_at is None:
            return Reply(first, (content[start:],))
        return Reply(first, (content[start : self.cut_at],), ending=self.ending)


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def upstream(hub: Hub) -> Iterator[Upstream]:
    with Upstream() as upstream:
        upstream.always(hub)
        hub.cdn = elsewhere(upstream)
        yield upstream


def elsewhere(upstream: Upstream) -> str:
    """The same server under another host name, as file storage is: the hub's client asks hosts of the hub itself."""
    return upstream.url.replace("127.0.0.1", "localhost")


def environment(tmp_path: Path, endpoint: str, **more: str) -> dict[str, str]:
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "LLMOPS_DATA_DIR": str(tmp_path)}
    return {**os.environ, **own, "DO_NOT_TRACK": "1", "NO_COLOR": "1", **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "llmops.cli.main", "models", *arguments]


def llmops(tmp_path: Path, endpoint: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    given = environment(tmp_path, endpoint)
    return subprocess.run(command(*arguments), env=given, capture_output=True, text=True, timeout=WAIT_S, check=False)


def pull(upstream: Upstream, model_dir: Path, source: str = SOURCE) -> Path:
    return model_hub.pull(source, model_dir, lambda name, done, total: None, upstream.url)


def downloads(upstream: Upstream) -> list[Request]:
    return [request for request in upstream.requests if request.path.startswith("/cdn/")]


def test_a_pull_brings_the_file_and_its_removal_takes_it_away(upstream: Upstream, tmp_path: Path) -> None:
    pulled = llmops(tmp_path, upstream.url, "pull", SOURCE)
    listed = llmops(tmp_path, upstream.url, "list", "--json")
    removed = llmops(tmp_path, upstream.url, "remove", SOURCE, "--json")

    path = tmp_path / "models" / "models--org--tiny-GGUF" / "snapshots" / COMMIT / "tiny.gguf"
    assert (pulled.returncode, pulled.stdout) == (0, f"{path}\n")
    assert pulled.stderr.splitlines()[-1] == "tiny.gguf: 100 % of 0.6 MB"
    assert json.loads(listed.stdout) == [
        {"source": SOURCE, "path": str(path), "size_bytes": len(CONTENT), "complete": True}
    ]
    assert json.loads(removed.stdout) == {"freed_bytes": len(CONTENT)}
    assert model_files.listing(tmp_path / "models") == []


def test_a_second_pull_asks_nobody(upstream: Upstream, tmp_path: Path) -> None:
    path = pull(upstream, tmp_path)
    asked = len(upstream.requests)

    assert pull(upstream, tmp_path) == path
    assert path.read_bytes() == CONTENT
    assert len(upstream.requests) == asked


def test_a_pull_survives_kill_nine(hub: Hub, upstream: Upstream, tmp_path: Path) -> None:
    hub.cut_at, hub.ending = 300_000, End.STALL
    given = environment(tmp_path, upstream.url)
    with subprocess.Popen(command("pull", SOURCE), env=given, stderr=subprocess.PIPE, text=True) as first:
        assert first.stderr is not None
        assert "tiny.gguf: 50 % of 0.6 MB\n" in iter(first.stderr.readline, "")
        first.kill()
    listed = llmops(tmp_path, upstream.url, "list")
    hub.cut_at = None
    second = llmops(tmp_path, upstream.url, "pull", SOURCE)

    assert "incomplete" in listed.stdout
    assert downloads(upstream)[-1].headers["range"] == "bytes=300000-"
    assert Path(second.stdout.strip()).read_bytes() == CONTENT


def test_a_cut_download_is_kept_and_says_where_it_stopped(hub: Hub, upstream: Upstream, tmp_path: Path) -> None:
    hub.cut_at = 300_000
    with pytest.raises(UpstreamUnreachable, match="the download stopped at 300,000 of 600,000 bytes"):
        pull(upstream, tmp_path)
    hub.cut_at = None

    assert pull(upstream, tmp_path).read_bytes() == CONTENT
    assert downloads(upstream)[-1].headers["range"] == "bytes=300000-"


def test_a_server_without_ranges_sends_all_again(hub: Hub, upstream: Upstream, tmp_path: Path) -> None:
    hub.cut_at, hub.ranges = 300_000, False
    with pytest.raises(UpstreamUnreachable):
        pull(upstream, tmp_path)
    hub.cut_at = None

    assert pull(upstream, tmp_path).read_bytes() == CONTENT


def test_a_damaged_file_is_removed_and_the_next_pull_starts_clean(hub: Hub, upstream: Upstream, tmp_path: Path) -> None:
    hub.claimed = 64 * "0"
    with pytest.raises(UpstreamMalformed, match=r"tiny\.gguf arrived damaged"):
        pull(upstream, tmp_path)
    hub.claimed = None

    assert pull(upstream, tmp_path).read_bytes() == CONTENT
    assert "range" not in downloads(upstream)[-1].headers


def test_a_small_file_is_checked_by_gits_digest(hub: Hub, upstream: Upstream, tmp_path: Path) -> None:
    hub.claimed = hashlib.sha1(b"blob 600000\0" + CONTENT).hexdigest()

    assert pull(upstream, tmp_path).read_bytes() == CONTENT


def test_offline_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    offline = llmops(tmp_path, refused_url(), "pull", SOURCE)

    assert offline.returncode == 69
    assert re.fullmatch(r"llmops: cannot reach http://127\.0\.0\.1:1: .+; check the network.+\n", offline.stderr)


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (403, "GatedRepo", "accept its terms there and set HF_TOKEN"),
        (404, "RepoNotFound", "does not exist, or is private"),
        (404, "RevisionNotFound", "has no revision 'main'"),
        (404, "EntryNotFound", "has no file tiny.gguf"),
        (503, "", "answered 503"),
        (200, "", "is it a Hugging Face hub?"),
    ],
)
def test_a_refusal_of_the_hub_is_explained_in_one_line(
    hub: Hub, upstream: Upstream, tmp_path: Path, status: int, code: str, says: str
) -> None:
    hub.refusal = (status, {"x-error-code": code})
    with pytest.raises(LlmopsError) as refused:
        pull(upstream, tmp_path)

    assert says in refused.value.message
    assert "\n" not in refused.value.message


def test_the_token_goes_to_the_hub_and_not_to_the_file_storage(
    hub: Hub, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with Upstream() as storage:
        storage.always(hub)
        hub.cdn = elsewhere(storage)
        pull(upstream, tmp_path)

        assert {request.headers.get("authorization") for request in upstream.requests} == {"Bearer hf_secret"}
        assert ["authorization" in request.headers for request in storage.requests] == [False]


def test_a_model_in_parts_is_here_when_all_parts_are(hub: Hub, upstream: Upstream, tmp_path: Path) -> None:
    first, second = "big-00001-of-00002.gguf", "big-00002-of-00002.gguf"
    source = f"hf://{REPO}/{first}@v1"
    hub.files = {first: CONTENT}
    with pytest.raises(NotFound):
        pull(upstream, tmp_path, source)
    located = model_files.locate(source, tmp_path)
    hub.files[second] = CONTENT[::-1]
    path = pull(upstream, tmp_path, source)

    assert located is None
    assert model_files.locate(source, tmp_path) == path
    assert [(file.source, file.size_bytes) for file in model_files.listing(tmp_path)] == [(source, 2 * len(CONTENT))]


def test_an_endpoint_stands_for_its_weights(upstream: Upstream, tmp_path: Path) -> None:
    configs = tmp_path / "configs"
    configs.mkdir()
    entity = {"entity_name": "llmops.tiny", "llmops": {"engine": "llama_cpp", "source": SOURCE}}
    (configs / "tiny.yaml").write_text(json.dumps({"name": "local", "config": {"served_entities": [entity]}}))
    pulled = llmops(tmp_path, upstream.url, "pull", "local", "--configs", str(configs))
    unknown = llmops(tmp_path, upstream.url, "pull", "remote", "--configs", str(configs))

    assert Path(pulled.stdout.strip()).read_bytes() == CONTENT
    assert unknown.stderr.endswith("nor an endpoint of " + str(configs) + " with weights: local\n")


def test_a_terminal_shows_a_bar(upstream: Upstream, tmp_path: Path) -> None:
    program, *arguments = command("pull", SOURCE)
    given = environment(tmp_path, upstream.url, TERM="xterm")
    terminal = pexpect.spawn(program, arguments, env=given, dimensions=(24, 120), timeout=WAIT_S, encoding="utf-8")
    terminal.expect(r"tiny\.gguf .*600\.0/600\.0 kB .*B/s")
    terminal.expect(pexpect.EOF)
    terminal.close()

    assert terminal.exitstatus == 0


@pytest.mark.parametrize(
    "source",
    [
        "hf://org/repo",
        "hf://org/repo/file.bin",
        "hf://org/../file.gguf",
        "hf://org/repo/../../file.gguf",
        "hf://org/repo/a//b.gguf",
        "hf://org/repo/.hidden.gguf",
        "hf://org/repo/file.gguf@../../main",
        "hf://org/repo/file.gguf@/etc",
        "hf://org--other/repo/file.gguf",
        "hf://org/repo/file.gguf\n",
        "/etc/passwd",
        "",
    ],
)
def test_a_source_that_is_no_model_or_leads_elsewhere_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="model source"):
        model_files.locate(source, tmp_path)


def test_a_path_is_a_regular_file_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "file.gguf").touch()

    assert model_files.locate(str(tmp_path / "file.gguf"), tmp_path) == tmp_path / "file.gguf"
    assert model_files.locate(str(tmp_path / "folder.gguf"), tmp_path) is None
    assert model_files.locate(str(tmp_path / "nothing.gguf"), tmp_path) is None


def test_the_layout_is_the_hub_clients(upstream: Upstream, tmp_path: Path) -> None:
    """Its own tools find what we pulled."""
    path = pull(upstream, tmp_path)

    assert try_to_load_from_cache(REPO, "tiny.gguf", tmp_path) == str(path)


def test_missing_weights_say_what_to_run() -> None:
    assert model_files.missing(SOURCE, "local") == (f"weights of {SOURCE} are not here: run `llmops models pull local`")
