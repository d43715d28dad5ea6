"""Tokens over REST: made once, seen by every worker, revoked, expired, and never told again."""

import sqlite3
import time
from collections.abc import Iterator

import pytest
from databricks.sdk.errors import InvalidParameterValue, NotFound, ResourceConflict

from tests.conftest import NewServer
from tests.logged import flush, runs
from tests.routes.callers import LOCKED, Person, admin, person
from tests.server import Server, demo

TOKENS = "/api/2.0/token"
TWO_WORKERS = ("--no-mlflow-ui", "--workers", "2")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two workers that asks for tokens."""
    folder = tmp_path_factory.mktemp("locked")
    with Server(folder, (demo(),), environment=LOCKED, options=TWO_WORKERS) as running:
        yield running


def _revoke(server: Server, token: Person) -> None:
    told = {one["user"]: one["token_id"] for one in admin(server).get(f"{TOKENS}/list").json()["token_infos"]}
    mine = token.get("/api/2.0/preview/scim/v2/Me").json()["userName"]
    assert admin(server).post(f"{TOKENS}/delete", {"token_id": told[mine]}).status_code == 200


def test_the_sdk_makes_lists_and_deletes_tokens(server: Server) -> None:
    tokens = admin(server).workspace().tokens

    made = tokens.create(comment="for the sdk", lifetime_seconds=3600)
    assert made.token_value is not None
    assert made.token_info is not None
    assert made.token_info.token_id is not None
    mine = Person(server, made.token_value)
    listed = {one.token_id: one for one in tokens.list()}
    codes = [mine.get("/metrics").status_code]
    tokens.delete(made.token_info.token_id)

    told = listed[made.token_info.token_id]
    assert (told.comment, codes) == ("for the sdk", [200])
    assert (told.expiry_time or 0) - (told.creation_time or 0) == 3_600_000
    assert made.token_info.token_id not in {one.token_id for one in tokens.list()}
    with pytest.raises(NotFound, match="does not exist"):
        tokens.delete(made.token_info.token_id)
    with pytest.raises(InvalidParameterValue, match="lifetime_seconds"):
        tokens.create(lifetime_seconds=0)


def test_a_value_is_long_random_and_kept_only_as_a_digest(server: Server) -> None:
    values = {person(server, "walter").token for _ in range(3)}

    server.stop()
    held = b"".join(path.read_bytes() for path in server.data_dir.rglob("*") if path.is_file())
    server.start()

    assert len(values) == 3
    for value in values:
        assert value.startswith("llmops-")
        assert len(value) == len("llmops-") + 43
        assert value[7:].isalnum()
        assert value[7:].encode() not in held
        assert value not in server.logged()
        assert Person(server, value).get("/v1/models").status_code == 200, "it lives through a restart"


def test_every_worker_knows_a_token_at_once_and_a_revoked_one_no_more(server: Server) -> None:
    ann = person(server, "ann-of-workers")
    at_once = [ann.get("/v1/models").status_code for _ in range(12)]

    _revoke(server, ann)
    began = time.monotonic()
    refused = 0
    while refused < 12:
        refused = refused + 1 if ann.get("/v1/models").status_code == 401 else 0
        assert time.monotonic() - began < 3, "a worker still takes it"

    assert at_once == [200] * 12


def test_a_token_expires(server: Server) -> None:
    short = person(server, "short", lifetime_seconds=1)
    first = short.get("/v1/models").status_code

    server.wait(lambda: short.get("/v1/models").status_code == 401, 3)

    told = short.get("/api/2.0/serving-endpoints")
    assert first == 200
    assert (told.json()["error_code"], told.json()["message"]) == (
        "UNAUTHENTICATED",
        "the token has expired; ask an admin for another",
    )


def test_the_owner_of_the_token_is_in_the_record_whoever_the_body_names(server: Server) -> None:
    dora = person(server, "dora@example.com")
    body = {"messages": [{"role": "user", "content": "x"}], "user": "somebody else"}

    answer = dora.post("/serving-endpoints/demo/invocations", body)

    flush(server)
    tags = {run.data.tags["llmops.interaction_id"]: run.data.tags for run in runs(server)}
    assert "dora@example.com" in tags[answer.headers["x-request-id"]].values()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"user": ""}, "user must be 1 to 255 printable characters"),
        ({"user": 5}, "'user' must be a text"),
        ({"user": "a\nb"}, "user must be 1 to 255 printable characters"),
        ({"user": "admin"}, "the user 'admin' is the admin"),
        ({"user": "u", "groups": "g"}, "'groups' must be a list of names"),
        ({"user": "u", "groups": ["users"]}, "the group 'users' is not given to a token: everybody is in it"),
        ({"user": "u", "groups": ["admins"]}, "the group 'admins' is not given to a token: say --admin"),
        ({"user": "u", "groups": [str(number) for number in range(101)]}, "a token has at most 100 groups"),
        ({"user": "u", "admin": "yes"}, "'admin' must be true or false"),
        ({"user": "u", "lifetime_seconds": -1}, "lifetime_seconds must be 1 to"),
        ({"user": "u", "lifetime_seconds": 10**15}, "lifetime_seconds must be 1 to"),
        ({"user": "u", "lifetime_seconds": "1"}, "'lifetime_seconds' must be a whole number"),
        ({"user": "u", "comment": "x" * 256}, "comment must be at most 255 printable characters"),
    ],
)
def test_a_wrong_token_is_refused_with_what_is_wrong(server: Server, body: dict[str, object], told: str) -> None:
    answer = admin(server).post(f"{TOKENS}/create", body)

    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert answer.json()["message"].startswith(told)


def test_the_first_token_turns_tokens_on_and_the_last_admins_stays(new_server: NewServer) -> None:
    server = new_server(demo(), options=TWO_WORKERS)
    nobody = Person(server, "whatever")

    refused = nobody.post(f"{TOKENS}/create", {"user": "ann"})
    before = nobody.get("/v1/models").status_code
    root = person(server, "root", by=nobody, admin=True)
    server.wait(lambda: {nobody.get("/v1/models").status_code for _ in range(8)} == {401}, 3)
    bob = person(server, "bob", by=root)
    only = root.get(f"{TOKENS}/list").json()["token_infos"][0]["token_id"]

    assert (refused.status_code, before) == (400, 200)
    assert "make an admin's token first" in refused.json()["message"]
    with pytest.raises(ResourceConflict, match="the last one of an admin"):
        root.workspace().tokens.delete(only)
    person(server, "second", by=root, admin=True)
    assert root.post(f"{TOKENS}/delete", {"token_id": only}).status_code == 200
    assert bob.ask("demo").status_code == 200


def test_tokens_and_permissions_are_shared_by_the_servers_of_a_database(
    new_server: NewServer, tmp_path_factory: pytest.TempPathFactory, on_postgres: dict[str, str]
) -> None:
    environment = {**on_postgres, **LOCKED}
    one = new_server(demo(), environment=environment)
    with Server(tmp_path_factory.mktemp("other"), (demo(),), environment=environment) as other:
        ann, eve = person(one, "ann"), person(one, "eve")
        at_once = Person(other, ann.token).get("/v1/models").status_code
        assert ann.post("/api/2.0/serving-endpoints", demo("shared")).status_code == 200
        endpoint_id = ann.get("/api/2.0/serving-endpoints/shared").json()["id"]
        other.wait(lambda: Person(other, ann.token).ask("shared").status_code == 200)
        before = Person(other, eve.token).ask("shared").status_code
        entries = [{"user_name": "eve", "permission_level": "CAN_QUERY"}]
        path = f"/api/2.0/permissions/serving-endpoints/{endpoint_id}"
        assert ann.send("PATCH", path, {"access_control_list": entries}).status_code == 200

        other.wait(lambda: Person(other, eve.token).ask("shared").status_code == 200, 5)
        _revoke(one, ann)
        other.wait(lambda: Person(other, ann.token).get("/v1/models").status_code == 401, 5)

    assert (at_once, before) == (200, 403)


def test_a_store_that_cannot_be_read_refuses_no_known_token(new_server: NewServer) -> None:
    server = new_server(demo(), environment=LOCKED)
    ann = person(server, "ann")
    blocker = sqlite3.connect(server.data_dir / "llmops.db", isolation_level=None)
    blocker.execute("DROP TABLE access_tokens")
    blocker.close()

    server.wait(lambda: Person(server, "unknown").get("/v1/models").status_code == 503, 5)

    assert ann.get("/v1/models").status_code == admin(server).get("/v1/models").status_code == 200
    told = Person(server, "unknown").get("/api/2.0/serving-endpoints").json()
    assert told["error_code"] == "TEMPORARILY_UNAVAILABLE"
