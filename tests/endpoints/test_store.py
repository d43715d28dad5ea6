"""The store of endpoints, in its file alone and with a PostgreSQL database behind it."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmops.endpoints.files import EndpointFile
from llmops.endpoints.spec import EndpointSpec
from llmops.endpoints.store import Child, Store
from llmops.errors import AlreadyExists, Conflict, NotFound
from tests.server import demo

Opener = Callable[[], Store]

#: Creates endpoints until it is killed, and prints the name of each one that was acked.
_WRITER = """
import sys
from pathlib import Path
from llmops.endpoints.spec import EndpointSpec
from llmops.endpoints.store import Store
from tests.server import demo
store = Store(Path(sys.argv[1]), sys.argv[2] or None)
for number in range(1_000_000):
    name = f"e{number}"
    store.create(EndpointSpec.model_validate(demo(name)), None)
    print(name, flush=True)
"""


@pytest.fixture(params=["file", "postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Where endpoints are shared; None where they lie in the file."""
    return request.getfixturevalue("postgres") if request.param == "postgres" else None


@pytest.fixture
def opened(tmp_path: Path, url: str | None) -> Iterator[Opener]:
    """Opens the store of one server, as each of its processes does; the first one begins."""
    with ExitStack() as closing:
        begun: list[Store] = []

        def open_store() -> Store:
            store = Store(tmp_path / "llmops.db", url)
            closing.callback(store.close)
            if not begun:
                store.begin()
            begun.append(store)
            return store

        yield open_store


def spec(name: str, text: str | None = None) -> EndpointSpec:
    """An endpoint of the demo; the text makes it a different one."""
    return EndpointSpec.model_validate({**demo(name), "description": text})


def test_what_was_created_is_there_for_every_process(opened: Opener) -> None:
    one, other = opened(), opened()

    made = one.create(spec("chat", "ünï\u0000code"), "ann")

    assert other.get("chat") == made
    assert other.all() == [made]
    assert made.document["description"] == "ünï\u0000code"
    assert (made.creator, made.config_version, made.revision, made.source) == ("ann", 1, 1, None)
    assert len(made.id) == 32
    assert opened().all() == [made]


def test_a_change_is_seen_once_by_every_process(opened: Opener) -> None:
    one, other = opened(), opened()
    assert (one.changed(), other.changed()) == (True, True)
    assert (one.changed(), other.changed()) == (False, False)

    one.create(spec("chat"), None)

    assert (one.changed(), other.changed()) == (True, True)
    assert (one.changed(), other.changed()) == (False, False)


def test_of_many_creates_at_once_one_wins(opened: Opener) -> None:
    stores = [opened() for _ in range(6)]
    start, won, lost = threading.Barrier(len(stores)), [], []

    def create(store: Store, number: int) -> None:
        start.wait()
        try:
            won.append(store.create(spec("chat", str(number)), None))
        except AlreadyExists as err:
            lost.append(err.message)

    threads = [threading.Thread(target=create, args=(store, number)) for number, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 1
    assert lost == ["Endpoint with name 'chat' already exists."] * (len(stores) - 1)
    assert all(store.all() == won for store in stores)


def test_an_update_counts_what_changed(opened: Opener) -> None:
    store = opened()
    made = store.create(spec("chat"), None)
    config = demo("chat", "llm/v1/completions")

    described = store.update(made, spec("chat", "better"))
    configured = store.update(described, EndpointSpec.model_validate(config))

    assert (described.revision, described.config_version) == (2, 1)
    assert (configured.revision, configured.config_version) == (3, 2)
    assert configured.id == made.id
    assert configured.updated_ms >= made.updated_ms


def test_an_update_of_what_somebody_else_changed_is_refused(opened: Opener) -> None:
    one, other = opened(), opened()
    read = one.create(spec("chat"), None)
    newest = other.update(read, spec("chat", "theirs"))

    with pytest.raises(Conflict, match="was changed by somebody else"):
        one.update(read, spec("chat", "ours"))

    assert one.get("chat") == newest


def test_an_update_of_what_was_deleted_and_made_anew_is_refused(opened: Opener) -> None:
    store = opened()
    old = store.create(spec("chat"), None)
    store.delete("chat")
    new = store.create(spec("chat"), None)

    with pytest.raises(Conflict):
        store.update(old, spec("chat", "for the old one"))

    assert store.get("chat") == new


@pytest.mark.parametrize("name", ["nope", "a\0b", "'; DROP TABLE endpoints; --", "100%s", ""])
def test_a_name_that_is_none_is_not_found(opened: Opener, name: str) -> None:
    store = opened()
    kept = store.create(spec("chat"), "o'neil\0 %s")

    with pytest.raises(NotFound):
        store.get(name)
    with pytest.raises(NotFound):
        store.delete(name)
    assert store.all() == [kept]


def test_deleted_is_gone_for_every_process(opened: Opener) -> None:
    one, other = opened(), opened()
    one.create(spec("chat"), None)

    other.delete("chat")

    assert one.all() == other.all() == []
    with pytest.raises(NotFound):
        one.get("chat")


def test_files_own_what_they_declare_and_give_it_up(opened: Opener, tmp_path: Path) -> None:
    store = opened()
    made = store.create(spec("rest"), None)
    files = [file(tmp_path, "rest"), file(tmp_path, "file")]

    refused = store.sync(files)
    owned = store.get("file")

    assert refused == [
        f"{files[0].path}: endpoint 'rest' was created over REST; delete it or rename this one",
    ]
    assert owned.source == str(files[1].path)
    assert store.get("rest") == made
    for change in (lambda: store.update(owned, spec("file", "x")), lambda: store.delete("file")):
        with pytest.raises(Conflict, match="is owned by the file"):
            change()
    with pytest.raises(AlreadyExists):
        store.create(spec("file"), None)
    store.sync([])
    assert [endpoint.name for endpoint in store.all()] == ["rest"]


def test_a_file_that_did_not_change_changes_nothing(opened: Opener, tmp_path: Path) -> None:
    store = opened()
    store.sync([file(tmp_path, "file")])
    before = store.get("file")

    store.sync([file(tmp_path, "file")])

    assert store.get("file") == before


def test_children_are_seen_by_every_process_and_forgotten_by_the_next_start(opened: Opener) -> None:
    supervisor, worker = opened(), opened()
    child = Child("engine", "ready", "http://127.0.0.1:1")
    supervisor.put_child(child)

    assert worker.children() == {"engine": child}
    supervisor.begin()
    assert worker.children() == {}


def test_what_was_acked_survives_the_kill_of_its_writer(opened: Opener, tmp_path: Path, url: str | None) -> None:
    reader = opened()
    command = [sys.executable, "-c", _WRITER, str(tmp_path / "llmops.db"), url or ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acked = [writer.stdout.readline().strip() for _ in range(25)]
        writer.kill()
        acked += writer.stdout.read().split()

    reader.create(spec("after"), None)
    found = {endpoint.name for endpoint in reader.all()} - {"after"}

    assert set(acked) <= found
    # The last one may have been written, and its ack not.
    assert len(found - set(acked)) <= 1


@given(steps=st.lists(st.tuples(st.sampled_from("cud"), st.sampled_from("abc"), st.integers(0, 1)), max_size=12))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_changes_by_two_processes_is_what_both_see(
    opened: Opener, steps: list[tuple[str, str, int]]
) -> None:
    stores, kept = (opened(), opened()), dict[str, str | None]()
    for endpoint in stores[0].all():
        stores[0].delete(endpoint.name)

    for number, (what, name, at) in enumerate(steps):
        change = {"c": _create, "u": _update, "d": _delete}[what]
        done = change(stores[at], name, str(number))
        assert done == ((name in kept) != (what == "c"))
        if done:
            kept.pop(name, None)
            kept.update({} if what == "d" else {name: str(number)})

    for store in stores:
        assert {endpoint.name: endpoint.document.get("description") for endpoint in store.all()} == kept
    for store in stores:
        store.close()


def _create(store: Store, name: str, text: str) -> bool:
    return _done(lambda: store.create(spec(name, text), None))


def _update(store: Store, name: str, text: str) -> bool:
    return _done(lambda: store.update(store.get(name), spec(name, text)))


def _delete(store: Store, name: str, _: str) -> bool:
    return _done(lambda: store.delete(name))


def _done(change: Callable[[], object]) -> bool:
    try:
        change()
    except (AlreadyExists, NotFound):
        return False
    return True


def file(folder: Path, name: str) -> EndpointFile:
    return EndpointFile(folder / f"{name}.yaml", name, spec(name))


def test_a_new_config_serves_once_it_is_settled_and_until_then_what_served_before(opened: Opener) -> None:
    store = opened()
    document = EndpointSpec.model_validate(_engine("a"))
    made = store.create(document, None)
    first = store.serving()[made.id]
    store.settle(made)
    second = store.update(made, EndpointSpec.model_validate(_engine("b")))
    third = store.update(second, EndpointSpec.model_validate(_engine("c")))
    store.settle(second)
    store.fail(second, "too late")
    store.fail(third, "no weights")
    store.fail(third, "still none")
    failed = store.serving()[made.id]
    fourth = store.update(third, EndpointSpec.model_validate(_engine("d")))
    renewed = store.serving()[made.id]
    store.settle(fourth)

    assert (first.version, first.failed) == (0, None)
    assert (failed.version, failed.config, failed.failed) == (1, document.document()["config"], "no weights")
    assert (renewed.version, renewed.failed) == (1, None)
    assert store.serving() == {}


def test_a_config_without_an_engine_is_settled_when_it_is_written(opened: Opener) -> None:
    store = opened()
    made = store.create(EndpointSpec.model_validate(demo()), None)
    store.update(made, EndpointSpec.model_validate({**_engine("a"), "name": made.name}))
    waits = store.serving()[made.id].version
    store.update(store.get(made.name), EndpointSpec.model_validate(demo()))

    assert waits == 1
    assert store.serving() == {}


def test_what_serves_is_forgotten_with_its_endpoint(opened: Opener) -> None:
    store = opened()
    made = store.create(EndpointSpec.model_validate(_engine("a")), None)
    store.delete(made.name)

    assert store.serving() == {}


def _engine(source: str) -> dict[str, Any]:
    engine = {"engine": "llama_cpp", "source": f"/{source}.gguf"}
    entity = {"name": "tiny", "entity_name": "llmops.tiny", "llmops": engine}
    return {"name": "e", "config": {"served_entities": [entity]}}
