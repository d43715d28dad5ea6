"""The local engine in its child process: llama.cpp itself, on a tiny model made here."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import httpx
import pytest

from llmops.protocol import chat
from llmops.protocol.usage import Usage
from tests.providers import gguf_model
from tests.providers.children import KEY, WAIT_S, Child, events

pytest.importorskip("xllamacpp")

MODULE = "llmops.providers.llama_cpp"
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 6, "temperature": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_model.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[Child]:
    with Child(MODULE, "--model", str(model), "--alias", "tiny", "--parallel", "2") as child:
        yield child


@pytest.fixture
def client(engine: Child) -> Iterator[httpx.Client]:
    with engine.client() as client:
        yield client


def test_a_chat_is_answered_by_the_model(client: httpx.Client) -> None:
    answer = client.post("/v1/chat/completions", json=HELLO).json()

    assert answer["model"] == "tiny"
    assert set(chat.answer_text(answer).split()) <= set(gguf_model.WORDS)
    usage = Usage.read(answer)
    assert usage is not None
    assert usage.output_tokens == 6


def test_a_streamed_chat_is_the_plain_one_in_pieces(client: httpx.Client) -> None:
    plain = client.post("/v1/chat/completions", json=HELLO).json()
    asked = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, done = events(client.post("/v1/chat/completions", json=asked))

    assert done == "[DONE]"
    assert sum(1 for chunk in chunks if chat.delta_text(chunk)) == 6
    assert chat.answer_text(chat.fold(chunks)) == chat.answer_text(plain)
    assert Usage.read(chat.fold(chunks)) is not None


def test_a_completion_is_answered(client: httpx.Client) -> None:
    answer = client.post("/v1/completions", json={"prompt": "hello", "max_tokens": 3}).json()

    assert len(answer["choices"][0]["text"].split()) == 3


def test_one_request_may_use_all_of_the_context(client: httpx.Client) -> None:
    body = {**HELLO, "max_tokens": 3 * gguf_model.CONTEXT // 4}
    answer = client.post("/v1/chat/completions", json=body).json()

    assert answer["usage"]["completion_tokens"] == 3 * gguf_model.CONTEXT // 4


@pytest.mark.parametrize("key", [None, "wrong", KEY[:-1]])
def test_nothing_is_answered_without_the_key(engine: Child, key: str | None) -> None:
    with engine.client(key) as client:
        statuses = {client.post(f"/v1/{path}", json=HELLO).status_code for path in ("chat/completions", "completions")}
        statuses |= {client.get(path).status_code for path in ("/props", "/slots", "/v1/models", "/metrics")}

        assert statuses == {401}
        assert client.get("/health").status_code == 200


def test_the_engine_has_no_pages_and_lists_no_prompts(client: httpx.Client) -> None:
    assert client.get("/").status_code == 404
    assert client.get("/slots").status_code == 501


def test_embeddings_have_the_models_width_and_tell_texts_apart(model: Path) -> None:
    with Child(MODULE, "--model", str(model), "--embeddings") as child, child.client() as client:
        answer = client.post("/v1/embeddings", json={"input": ["one river", "one river", "the old engine"]}).json()

    first, same, other = (row["embedding"] for row in answer["data"])
    assert len(first) == gguf_model.WIDTH
    assert first == pytest.approx(same, abs=1e-4)
    assert first != pytest.approx(other, abs=1e-2)
    assert answer["usage"]["prompt_tokens"] > 0


@pytest.mark.parametrize(("length", "says"), [(0, "cannot load"), (300_000, "cannot load"), (None, "does not exist")])
def test_a_bad_model_file_is_one_line(model: Path, tmp_path: Path, length: int | None, says: str) -> None:
    broken = tmp_path / "broken.gguf"
    if length is not None:
        broken.write_bytes(model.read_bytes()[:length])
    with Child(MODULE, "--model", str(broken)) as child:
        assert child.process.wait(WAIT_S) == 1

        assert says in child.line["error"]
        assert str(broken) in child.line["error"]
        assert child.line["error"] in child.log


def test_the_engine_does_not_start_without_a_key(model: Path) -> None:
    with Child(MODULE, "--model", str(model), environment={"LLMOPS_INTERNAL_KEY": ""}) as child:
        assert "LLMOPS_INTERNAL_KEY" in child.line["error"]


def test_a_missing_wheel_says_what_to_install(model: Path, tmp_path: Path) -> None:
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('no wheel for this machine')")
    with Child(MODULE, "--model", str(model), environment={"PYTHONPATH": str(tmp_path)}) as child:
        assert child.line["error"].endswith("pip install 'llmops[local]'")


def read(client: httpx.Client) -> Generator[str]:
    """A long answer in the making, line by line."""
    body = {**HELLO, "max_tokens": 400, "ignore_eos": True, "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        yield from response.iter_lines()


def test_sigterm_lets_an_engine_finish_what_it_has_begun(model: Path) -> None:
    with Child(MODULE, "--model", str(model)) as child, child.client() as client:
        answering = read(client)
        assert next(answering)
        child.process.send_signal(signal.SIGTERM)
        rest = [line for line in answering if line]

        assert rest[-1] == "data: [DONE]"
        assert len(rest) > 300
        assert child.process.wait(WAIT_S) == 0


def test_an_engine_at_work_whose_reader_leaves_ends_cleanly(model: Path) -> None:
    """Its destructor crashes while it generates, so it must not run."""
    with Child(MODULE, "--model", str(model)) as child, child.client() as client:
        answering = read(client)
        assert next(answering)
        child.process.send_signal(signal.SIGTERM)
        answering.close()

        assert child.process.wait(WAIT_S) == 0


def test_the_engine_dies_with_a_killed_parent(model: Path) -> None:
    parent = (
        "import subprocess, sys, signal\n"
        "child = subprocess.Popen([sys.executable, *sys.argv[1:]], stdin=subprocess.PIPE)\nsignal.pause()"
    )
    command = [sys.executable, "-c", parent, "-m", MODULE, "--model", str(model)]
    environment = {**os.environ, "LLMOPS_INTERNAL_KEY": KEY}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        assert process.stdout is not None
        assert b"address" in process.stdout.readline()
        process.kill()

        # The pipe ends when its last holder, the engine, has ended.
        out, _ = process.communicate(timeout=WAIT_S)
        assert out == b""
