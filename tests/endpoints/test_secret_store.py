"""The encrypted store of secrets, in its file alone and with a PostgreSQL database behind it."""

import sqlite3
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from llmops.endpoints import secret_store
from llmops.endpoints.secret_seal import KEY_BYTES
from llmops.endpoints.secret_store import Acl, SecretStore
from llmops.errors import AlreadyExists, BadRequest, InvalidParameter, NotFound, Unavailable
from tests.endpoints.secret_stores import opened
from tests.postgres import Line, run

Opener = Callable[[], SecretStore]
GIVEN = b64encode(b"k" * KEY_BYTES).decode()
VALUE = b"sk-canary-\xf0\x9f\x94\x91-\"'\\"


@pytest.fixture(params=["file", "postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Where secrets are shared; None where they lie in the file."""
    return request.getfixturevalue("postgres") if request.param == "postgres" else None


@pytest.fixture
def open_store(tmp_path: Path, url: str | None) -> Iterator[Opener]:
    """Opens the store of one server, as each of its processes does."""
    with ExitStack() as closing:

        def open_one() -> SecretStore:
            store = opened(tmp_path, given=GIVEN, url=url)
            closing.callback(store.close)
            return store

        yield open_one


def test_what_was_put_is_read_by_every_process(open_store: Opener) -> None:
    one, other = open_store(), open_store()
    one.create_scope("team@home", "ann")

    one.put("team@home", "key.1", VALUE)

    assert one.read("team@home", "key.1") == other.read("team@home", "key.1") == VALUE
    assert [key for key, _ in other.secrets("team@home")] == ["key.1"]
    assert other.acls("team@home") == [Acl("ann", "MANAGE")]
    assert one.read("team@home", "none") is one.read("none", "key.1") is None


def test_a_name_that_no_database_can_keep_is_one_there_is_not(open_store: Opener) -> None:
    store, odd = open_store(), "a\0b"
    store.create_scope("s", "ann")

    asked: list[Callable[[], object]] = [
        lambda: store.delete_scope(odd),
        lambda: store.put(odd, "key", VALUE),
        lambda: store.delete("s", odd),
        lambda: store.delete_acl("s", odd),
    ]

    for ask in asked:
        with pytest.raises(NotFound):
            ask()


def test_a_change_is_seen_once_by_every_process(open_store: Opener) -> None:
    one, other = open_store(), open_store()
    one.create_scope("s", "ann")
    assert (one.changed(), other.changed()) == (True, True)
    assert (one.changed(), other.changed()) == (False, False)

    one.put("s", "k", VALUE)

    assert (one.changed(), other.changed()) == (True, True)


def test_putting_again_replaces_and_deleting_forgets(open_store: Opener) -> None:
    store = open_store()
    store.create_scope("s", "ann")
    store.put("s", "k", b"old")
    before = store.secrets("s")[0][1]

    store.put("s", "k", b"new")
    after = store.secrets("s")
    value = store.read("s", "k")
    store.delete("s", "k")

    assert value == b"new"
    assert after[0][1] >= before
    assert store.read("s", "k") is None
    with pytest.raises(NotFound, match="Secret does not exist with scope: s and key: k"):
        store.delete("s", "k")


def test_a_scope_goes_with_its_secrets_and_acls(open_store: Opener) -> None:
    store = open_store()
    store.create_scope("s", "ann")
    store.put("s", "k", VALUE)
    store.put_acl("s", "bob", "READ")

    store.delete_scope("s")
    store.create_scope("s", "eve")

    assert store.scopes() == ["s"]
    assert store.secrets("s") == []
    assert store.acls("s") == [Acl("eve", "MANAGE")]
    with pytest.raises(AlreadyExists):
        store.create_scope("s", "ann")


def test_what_is_not_there_is_said_with_the_nearest_name(open_store: Opener) -> None:
    store = open_store()
    store.create_scope("openai", "ann")
    store.put("openai", "key", VALUE)

    for call in (
        lambda: store.put("openia", "key", VALUE),
        lambda: store.secrets("openia"),
        lambda: store.delete("openia", "key"),
        lambda: store.delete_scope("openia"),
        lambda: store.acls("openia"),
        lambda: store.put_acl("openia", "ann", "READ"),
    ):
        with pytest.raises(NotFound, match=r"Scope openia does not exist! Did you mean 'openai'\?"):
            call()
    with pytest.raises(NotFound, match=r"scope: openai and key: kye\. Did you mean 'key'\?"):
        store.delete("openai", "kye")


@pytest.mark.parametrize("name", ["", "a/b", "a b", "ä", "..", ".", "x" * 129, "a\0", "'; DROP TABLE secrets; --"])
def test_a_name_that_cannot_be_one_is_refused(open_store: Opener, name: str) -> None:
    store = open_store()
    store.create_scope("s", "ann")

    with pytest.raises(InvalidParameter, match="scope must be 1 to 128 of letters"):
        store.create_scope(name, "ann")
    with pytest.raises(InvalidParameter, match="key must be 1 to 128 of letters"):
        store.put("s", name, VALUE)
    with pytest.raises(InvalidParameter, match="key must be"):
        store.put("s", "a@b", VALUE)


def test_a_value_has_a_size(open_store: Opener) -> None:
    store = open_store()
    store.create_scope("s", "ann")
    largest = b"x" * 131072

    store.put("s", "k", largest)

    assert store.read("s", "k") == largest
    for wrong in (b"", largest + b"x"):
        with pytest.raises(InvalidParameter, match=f"secret s/k: a value has 1 to 131072 bytes, not {len(wrong)}"):
            store.put("s", "k", wrong)


def test_a_full_scope_takes_no_new_key_and_still_a_new_value(
    open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secret_store, "MOST_SECRETS", 2)
    monkeypatch.setattr(secret_store, "MOST_SCOPES", 1)
    store = open_store()
    store.create_scope("s", "ann")
    store.put("s", "one", VALUE)
    store.put("s", "two", VALUE)

    with pytest.raises(BadRequest) as full:
        store.put("s", "three", VALUE)
    with pytest.raises(BadRequest) as scopes:
        store.create_scope("t", "ann")
    store.put("s", "two", b"new")

    assert full.value.error_code == scopes.value.error_code == "RESOURCE_LIMIT_EXCEEDED"
    assert store.read("s", "two") == b"new"


def test_acls_say_who_is_allowed_what(open_store: Opener) -> None:
    store = open_store()
    store.create_scope("s", "ann")
    store.create_scope("open", "users")
    store.put_acl("s", "bob", "MANAGE")
    store.put_acl("s", "bob", "WRITE")
    store.put_acl("s", "readers", "READ")

    assert store.acl("s", "bob") == Acl("bob", "WRITE")
    assert store.allowed("ann", "s", "MANAGE")
    assert [store.allowed("bob", "s", right) for right in ("READ", "WRITE", "MANAGE")] == [True, True, False]
    assert not store.allowed("eve", "s", "READ")
    assert store.allowed("eve", "s", "READ", groups=("readers",))
    assert not store.allowed("eve", "s", "WRITE", groups=("readers",))
    assert store.allowed("eve", "open", "MANAGE")
    assert not store.allowed("eve", "none", "READ")
    store.delete_acl("s", "bob")
    assert not store.allowed("bob", "s", "READ")
    for call in (lambda: store.acl("s", "bob"), lambda: store.delete_acl("s", "bob")):
        with pytest.raises(NotFound, match="principal 'bob'"):
            call()
    with pytest.raises(InvalidParameter, match="permission must be READ, WRITE or MANAGE"):
        store.put_acl("s", "bob", "CAN_MANAGE")
    with pytest.raises(InvalidParameter, match="principal must be"):
        store.put_acl("s", "bob\n", "READ")


def test_of_many_scopes_at_once_of_one_name_one_is_made(open_store: Opener) -> None:
    stores = [open_store() for _ in range(4)]
    start, won, lost = threading.Barrier(len(stores)), [], []

    def create(number: int) -> None:
        start.wait()
        try:
            stores[number].create_scope("s", f"user{number}")
            won.append(Acl(f"user{number}", "MANAGE"))
        except AlreadyExists:
            lost.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(len(stores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(won), len(lost)) == (1, 3)
    assert all(store.acls("s") == won for store in stores)


def test_no_file_holds_a_value(open_store: Opener, tmp_path: Path) -> None:
    store = open_store()
    store.create_scope("s", "ann")
    store.put("s", "k", VALUE)

    forms = (VALUE, VALUE[:10], b64encode(VALUE)[:12])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if any(form in path.read_bytes() for form in forms)] == []


@pytest.mark.parametrize("moved", ["version", "wrapped, sealed", "sealed", "wrapped, sealed, version"])
def test_rows_that_were_swapped_are_not_read(tmp_path: Path, moved: str) -> None:
    store = opened(tmp_path, given=GIVEN)
    store.create_scope("s", "ann")
    store.put("s", "mine", b"mine")
    store.put("s", "theirs", b"theirs")
    database = sqlite3.connect(tmp_path / "llmops.db")
    database.execute(
        f"UPDATE secrets SET ({moved}) = (SELECT {moved} FROM secrets WHERE key = 'theirs') WHERE key = 'mine'"
    )
    database.commit()
    database.close()

    with pytest.raises(BadRequest, match="its row in the store is not what was written there; put the secret anew"):
        store.read("s", "mine")
    store.put("s", "mine", b"anew")

    assert store.read("s", "mine") == b"anew"
    assert store.read("s", "theirs") == b"theirs"
    store.close()


def test_a_version_is_never_used_again(tmp_path: Path) -> None:
    """An old row put back after its secret was deleted and put anew would be read otherwise."""
    store = opened(tmp_path, given=GIVEN)
    database = sqlite3.connect(tmp_path / "llmops.db")
    store.create_scope("s", "ann")
    versions = []
    for _ in range(3):
        store.put("s", "k", VALUE)
        versions.append(database.execute("SELECT version FROM secrets").fetchone()[0])
        store.delete("s", "k")
    database.close()
    store.close()

    assert len(set(versions)) == 3


def test_servers_share_secrets_and_read_them_while_the_database_is_away(tmp_path: Path, postgres: str) -> None:
    with Line(postgres) as line:
        one, other = (opened(tmp_path / name, given=GIVEN, url=line.url) for name in ("one", "other"))
        one.create_scope("s", "ann")
        one.put("s", "k", VALUE)
        assert other.secrets("s")

        line.cut()

        assert one.read("s", "k") == other.read("s", "k") == VALUE
        assert other.allowed("ann", "s", "WRITE")
        for call in (lambda: one.put("s", "k", b"new"), lambda: other.secrets("s"), lambda: other.rotate()):
            with pytest.raises(Unavailable, match=r"the database postgresql://127\.0\.0\.1:"):
                call()
        one.close()
        other.close()


def test_a_server_without_the_others_master_key_says_so_and_seals_nothing(tmp_path: Path, postgres: str) -> None:
    one, other = opened(tmp_path / "one", url=postgres), opened(tmp_path / "other", url=postgres)
    one.create_scope("s", "ann")
    one.put("s", "k", VALUE)

    assert other.secrets("s")
    with pytest.raises(BadRequest, match="it is sealed with the master key"):
        other.read("s", "k")
    with pytest.raises(BadRequest, match="secret s/k cannot be read: it is sealed with the master key"):
        other.put("s", "other", VALUE)
    with pytest.raises(BadRequest, match="servers that share a database take the master key from LLMOPS_MASTER_KEY"):
        one.rotate()

    assert not (tmp_path / "other" / "master.key").exists()
    assert one.read("s", "k") == VALUE
    one.close()
    other.close()


def test_another_database_behind_the_same_server_is_copied_whole(tmp_path: Path, postgres: str) -> None:
    store = opened(tmp_path, given=GIVEN, url=postgres)
    store.create_scope("s", "ann")
    store.put("s", "k", VALUE)
    store.close()
    run(postgres, "DROP SCHEMA llmops CASCADE")

    again = opened(tmp_path, given=GIVEN, url=postgres)

    assert again.read("s", "k") == VALUE
    assert again.scopes() == []
    assert again.read("s", "k") is None
    again.close()
