"""Master keys: where they come from, how they are replaced, and what is said of one that is lost."""

import signal
import sqlite3
import subprocess
import sys
import threading
from base64 import b64encode
from pathlib import Path

import pytest

from llmops.endpoints.master_keys import MasterKeys
from llmops.endpoints.secret_seal import KEY_BYTES, MasterKey
from llmops.errors import BadRequest
from tests.endpoints.secret_stores import mode, opened, whole

OLD, NEW = (b64encode(letter * KEY_BYTES).decode() for letter in (b"o", b"n"))
VALUES = {("s", "one"): b"first value", ("s", "two"): b"second value", ("t", "one"): b"third value"}

#: In a fresh folder for each, runs a step of the store and kills itself at one line of our code after the other.
_KILLED_AT_EVERY_LINE = """
import os, shutil, signal, sys
from pathlib import Path
from tests.endpoints.secret_stores import opened
template, folders, step = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def run(folder, last):
    left = last
    def trace(frame, event, _):
        nonlocal left
        if "llmops/endpoints/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    store = opened(folder)
    sys.settrace(trace)
    store.rotate() if step == "rotate" else store.put("s", "new", b"new value")
    sys.settrace(None)
    os._exit(0)

last = 0
while True:
    last += 1
    folder = folders / f"{last:04}"
    shutil.copytree(template, folder)
    child = os.fork()
    if child == 0:
        run(folder, last)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status):
        sys.exit(os.WEXITSTATUS(status))
"""
#: Rotates once for every line it reads.
_ROTATES = """
import sys
from pathlib import Path
from tests.endpoints.secret_stores import opened
store = opened(Path(sys.argv[1]))
for _ in sys.stdin:
    store.rotate()
"""


def _filled(folder: Path, given: str | None = None) -> None:
    store = opened(folder, given=given)
    store.create_scope("s", "ann")
    store.create_scope("t", "ann")
    for (scope, key), value in VALUES.items():
        store.put(scope, key, value)
    store.close()


def test_the_first_secret_makes_a_master_key_that_only_its_owner_reads(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.create_scope("s", "ann")
    assert not (tmp_path / "master.key").exists()

    store.put("s", "k", b"value")
    store.put("s", "l", b"value")

    assert mode(tmp_path / "master.key") == 0o600
    assert len(_keys(tmp_path)) == 1
    assert MasterKey.read(_keys(tmp_path)[0])
    store.close()


def test_of_many_first_secrets_at_once_none_is_lost(tmp_path: Path) -> None:
    opened(tmp_path).create_scope("s", "ann")
    start = threading.Barrier(4)

    def put(number: int) -> None:
        store = opened(tmp_path)
        start.wait()
        store.put("s", f"k{number}", b"%d" % number)
        store.close()

    threads = [threading.Thread(target=put, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    names = [("s", f"k{number}") for number in range(4)]
    assert whole(tmp_path, names) == {name: name[1][1:].encode() for name in names}
    assert len(_keys(tmp_path)) == 1


def test_rotating_changes_the_key_and_no_value(tmp_path: Path) -> None:
    _filled(tmp_path)
    running, rotating = opened(tmp_path), opened(tmp_path)
    assert running.read("s", "one") == b"first value"
    before, rows = _keys(tmp_path), _rows(tmp_path)

    count = rotating.rotate()

    assert count == 3
    assert len(_keys(tmp_path)) == 1
    assert _keys(tmp_path) != before
    assert mode(tmp_path / "master.key") == 0o600
    assert {name: running.read(*name) for name in VALUES} == whole(tmp_path, VALUES) == VALUES
    assert not {wrapped for _, wrapped, _ in rows} & {wrapped for _, wrapped, _ in _rows(tmp_path)}
    assert {sealed for _, _, sealed in rows} == {sealed for _, _, sealed in _rows(tmp_path)}
    running.put("s", "after", b"after")
    assert rotating.read("s", "after") == b"after"
    running.close()
    rotating.close()


@pytest.mark.parametrize("step", ["put", "rotate"])
@pytest.mark.parametrize("filled", [True, False])
def test_killed_at_any_line_it_loses_nothing(tmp_path: Path, step: str, filled: bool) -> None:
    template, folders = tmp_path / "template", tmp_path / "killed"
    template.mkdir()
    folders.mkdir()
    if filled:
        _filled(template)
    else:
        opened(template).create_scope("s", "ann")
    names = [*VALUES, ("s", "new")] if filled else [("s", "new")]
    kept = VALUES if filled else {}

    command = [sys.executable, "-c", _KILLED_AT_EVERY_LINE, str(template), str(folders), step]
    done = subprocess.run(command, timeout=120, check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    killed = sorted(folders.iterdir())
    assert len(killed) > 30
    for folder in killed:
        found = whole(folder, names)
        assert found.pop(("s", "new"), None) in (None, b"new value"), folder
        assert found == kept, folder
        again = opened(folder)
        again.put("s", "new", b"newer")
        again.rotate()
        again.close()
        assert whole(folder, names) == {**kept, ("s", "new"): b"newer"}, folder
        assert [path.name for path in folder.glob("master*")] == ["master.key"]
        assert len(_keys(folder)) == 1


def test_rotations_killed_at_random_while_others_put_lose_nothing(tmp_path: Path) -> None:
    _filled(tmp_path)
    store, put = opened(tmp_path), dict(VALUES)

    for number in range(4):
        with subprocess.Popen([sys.executable, "-c", _ROTATES, str(tmp_path)], stdin=subprocess.PIPE) as rotating:
            assert rotating.stdin is not None
            rotating.stdin.write(b"again\n" * 5)
            rotating.stdin.flush()
            before = keys = _keys(tmp_path)
            while keys == before:
                keys = _keys(tmp_path)
            for turn in range(6):
                put["s", f"k{number}-{turn}"] = b"%d" % turn
                store.put("s", f"k{number}-{turn}", b"%d" % turn)
            rotating.send_signal(signal.SIGKILL)
        assert whole(tmp_path, put) == put
    store.close()


def test_a_lost_key_is_told_with_the_secret_it_is_needed_for(tmp_path: Path) -> None:
    _filled(tmp_path)
    lost = tmp_path / "master.key"
    kept = lost.read_bytes()
    lost.unlink()
    store = opened(tmp_path)

    with pytest.raises(BadRequest) as reading:
        store.read("s", "one")
    with pytest.raises(BadRequest) as rotating:
        store.rotate()
    with pytest.raises(BadRequest) as putting:
        store.put("s", "two", b"new")

    told = f"sealed with the master key {MasterKey.read(kept.decode().split()[-1]).id}, and this server has none"
    for error, before in ((reading, ""), *((one, "secret s/one cannot be read: ") for one in (rotating, putting))):
        assert error.value.message.startswith(f"{before}it is {told}: bring that key back (")
        assert "value" not in error.value.message
        assert "\n" not in error.value.message
    assert not lost.exists()
    lost.touch(0o600)
    lost.write_bytes(kept)
    assert store.read("s", "one") == b"first value"
    store.close()


def test_without_its_key_what_is_lost_can_be_deleted_and_put_anew(tmp_path: Path) -> None:
    _filled(tmp_path)
    (tmp_path / "master.key").unlink()
    store = opened(tmp_path)

    store.delete_scope("s")
    store.delete("t", "one")
    store.put("t", "one", b"anew")

    assert store.read("t", "one") == b"anew"
    store.close()


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_may_read_is_not_used(tmp_path: Path, bits: int) -> None:
    _filled(tmp_path)
    path = tmp_path / "master.key"
    path.chmod(bits)
    store = opened(tmp_path)

    for call in (lambda: store.read("s", "one"), lambda: store.put("s", "one", b"new"), store.rotate):
        with pytest.raises(BadRequest, match=f"{path} can be read by others and is not used: chmod 600 {path}"):
            call()
    path.chmod(0o600)

    assert store.read("s", "one") == b"first value"
    store.close()


@pytest.mark.parametrize("text", ["no key", b64encode(b"short").decode(), f"{NEW}\nrest", f"{NEW[:-4]}===="])
def test_a_file_that_holds_no_key_is_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "master.key"
    path.touch(0o600)
    path.write_text(text)
    store = opened(tmp_path)
    store.create_scope("s", "ann")

    with pytest.raises(BadRequest) as error:
        store.put("s", "k", b"value")

    assert error.value.message.startswith(f"{path} is not the base64 of 32 bytes; `openssl rand -base64 32` makes one")
    store.close()


@pytest.mark.parametrize("given", ["secret", OLD[:-1], f"{OLD},", b64encode(b"x" * 16).decode(), "ключ"])
def test_a_setting_that_is_no_key_is_said_without_it(tmp_path: Path, given: str) -> None:
    store = opened(tmp_path, given=given)
    store.create_scope("s", "ann")

    with pytest.raises(BadRequest) as error:
        store.put("s", "k", b"value")

    told = "LLMOPS_MASTER_KEY is not the base64 of 32 bytes; `openssl rand -base64 32` makes one"
    assert error.value.message == told
    assert not (tmp_path / "master.key").exists()
    store.close()


def test_a_key_of_the_setting_needs_no_file_and_is_rotated_by_naming_two(tmp_path: Path) -> None:
    _filled(tmp_path, OLD)
    with pytest.raises(BadRequest, match="LLMOPS_MASTER_KEY begins with the key that is in use: set it to '<new>,<old"):
        opened(tmp_path, given=OLD).rotate()

    both = opened(tmp_path, given=f"{NEW},{OLD}")
    before = {name: both.read(*name) for name in VALUES}
    both.put("s", "one", b"first value")  # Still under the old one.
    both.rotate()
    newest = opened(tmp_path, given=NEW)

    assert before == VALUES == {name: newest.read(*name) for name in VALUES}
    assert not (tmp_path / "master.key").exists()
    with pytest.raises(BadRequest, match="it is sealed with the master key"):
        opened(tmp_path, given=OLD).read("s", "one")


def test_the_setting_takes_over_from_the_file(tmp_path: Path) -> None:
    _filled(tmp_path)

    store = opened(tmp_path, given=NEW)
    before = {name: store.read(*name) for name in VALUES}
    store.rotate()
    (tmp_path / "master.key").unlink()
    alone = opened(tmp_path, given=NEW)

    assert before == VALUES == {name: alone.read(*name) for name in VALUES}


def test_nothing_shows_a_key(tmp_path: Path) -> None:
    key = MasterKey.read(NEW)
    sealed = key.seal("s", "k", 1, b"a value")

    shown = repr(key) + str(key) + repr(MasterKeys(tmp_path / "master.key", NEW)) + repr(sealed)
    assert not any(form in shown for form in (NEW, repr(b"n" * 32), "a value", b64encode(b"a value").decode()))


def _keys(folder: Path) -> list[str]:
    return [line for line in (folder / "master.key").read_text().splitlines() if not line.startswith("#")]


def _rows(folder: Path) -> list[tuple[str, str, str]]:
    database = sqlite3.connect(folder / "llmops.db")
    try:
        return database.execute("SELECT master_id, wrapped, sealed FROM secrets").fetchall()
    finally:
        database.close()
