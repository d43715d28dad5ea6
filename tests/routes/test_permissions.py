"""Permissions of endpoints as databricks-sdk drives them, and what they let people do."""

from collections.abc import Iterator
from typing import Any

import pytest
from databricks.sdk.errors import InvalidParameterValue, NotFound, PermissionDenied
from databricks.sdk.service.serving import (
    ServingEndpointAccessControlRequest,
    ServingEndpointPermissionLevel,
    ServingEndpointPermissions,
)

from tests.logged import flush, runs
from tests.routes.callers import LOCKED, Person, admin, allow, person
from tests.scripts import chat
from tests.server import Server, demo, external
from tests.upstream import Upstream

ENDPOINTS = "/api/2.0/serving-endpoints"
MANAGE, QUERY, VIEW = (ServingEndpointPermissionLevel(f"CAN_{word}") for word in ("MANAGE", "QUERY", "VIEW"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for tokens, with an endpoint of a file."""
    with Server(tmp_path_factory.mktemp("locked"), (demo("of-file"),), environment=LOCKED) as running:
        yield running


@pytest.fixture
def made(server: Server) -> Iterator[str]:
    """The name of an endpoint that ann made."""
    assert person(server, "ann").post(ENDPOINTS, demo("of-ann")).status_code == 200
    yield "of-ann"
    admin(server).send("DELETE", f"{ENDPOINTS}/of-ann")


def _id(server: Server, name: str) -> str:
    return str(admin(server).get(f"{ENDPOINTS}/{name}").json()["id"])


def _granted(permissions: ServingEndpointPermissions) -> dict[str | None, list[tuple[Any, bool | None]]]:
    return {
        entry.user_name or entry.group_name or entry.service_principal_name: [
            (one.permission_level, one.inherited) for one in entry.all_permissions or []
        ]
        for entry in permissions.access_control_list or []
    }


def test_the_sdk_gets_sets_and_updates_permissions(server: Server, made: str) -> None:
    api, endpoint_id = person(server, "ann").workspace().serving_endpoints, _id(server, made)
    grants = [
        ServingEndpointAccessControlRequest(user_name="bob", permission_level=VIEW),
        ServingEndpointAccessControlRequest(group_name="developers", permission_level=QUERY),
        ServingEndpointAccessControlRequest(service_principal_name="ci", permission_level=MANAGE),
    ]

    first = api.get_permissions(endpoint_id)
    set_ = api.set_permissions(endpoint_id, access_control_list=grants[:2])
    merged = api.update_permissions(
        endpoint_id,
        access_control_list=[
            grants[2],
            ServingEndpointAccessControlRequest(user_name="bob", permission_level=QUERY),
        ],
    )
    emptied = api.set_permissions(endpoint_id)

    always = {"ann": [(MANAGE, False)], "admins": [(MANAGE, True)]}
    assert (first.object_id, first.object_type) == (f"/serving-endpoints/{endpoint_id}", "serving-endpoint")
    assert _granted(first) == _granted(emptied) == always
    assert _granted(set_) == {**always, "bob": [(VIEW, False)], "developers": [(QUERY, False)]}
    assert _granted(merged) == {
        **always,
        "bob": [(QUERY, False)],
        "developers": [(QUERY, False)],
        "ci": [(MANAGE, False)],
    }
    assert {entry.display_name for entry in merged.access_control_list or []} == {"ann", "bob", "ci", None}


def test_the_sdk_reads_the_levels(server: Server, made: str) -> None:
    levels = person(server, "ann").workspace().serving_endpoints.get_permission_levels(_id(server, made))

    told = {level.permission_level: level.description for level in levels.permission_levels or []}
    assert set(told) == {MANAGE, QUERY, VIEW}
    assert all(told.values())


def test_each_level_lets_do_its_own_and_what_is_below(server: Server, made: str) -> None:
    eve, tags = person(server, "eve", "readers"), {"add_tags": [{"key": "k", "value": "v"}]}

    def may() -> tuple[bool, bool, bool]:
        seen = made in eve.sees()
        asked = eve.ask(made).status_code == 200
        changed = eve.send("PATCH", f"{ENDPOINTS}/{made}/tags", tags).status_code == 200
        assert seen == (eve.get(f"{ENDPOINTS}/{made}").status_code == 200)
        assert asked == (made in eve.get("/v1/models").text)
        return seen, asked, changed

    found = [may()]
    for level in ("CAN_VIEW", "CAN_QUERY", "CAN_MANAGE"):
        allow(server, made, {"group_name": "readers", "permission_level": level})
        found.append(may())

    assert found == [(False,) * 3, (True, False, False), (True, True, False), (True, True, True)]


def test_the_answer_tells_the_callers_own_level(server: Server, made: str) -> None:
    allow(server, made, {"user_name": "eve", "permission_level": "CAN_QUERY"})

    def level(caller: Person) -> set[str]:
        listed = caller.get(ENDPOINTS).json()["endpoints"]
        told = {one["permission_level"] for one in listed if one["name"] == made}
        return told | {caller.get(f"{ENDPOINTS}/{made}").json()["permission_level"]}

    assert level(person(server, "eve")) == {"CAN_QUERY"}
    assert level(person(server, "ann")) == level(admin(server)) == {"CAN_MANAGE"}


def test_a_group_and_a_service_principal_are_found_by_the_token(server: Server, made: str) -> None:
    allow(
        server,
        made,
        {"group_name": "ci", "permission_level": "CAN_QUERY"},
        {"service_principal_name": "robot", "permission_level": "CAN_QUERY"},
    )

    assert person(server, "any", "x", "ci").ask(made).status_code == 200
    assert person(server, "robot").ask(made).status_code == 200
    assert person(server, "ci").ask(made).status_code == 403, "a user is no group of the same name"


def test_everybody_with_a_token_may_query_a_files_endpoint_until_permissions_are_set(server: Server) -> None:
    bob, endpoint_id = person(server, "bob"), _id(server, "of-file")
    api = admin(server).workspace().serving_endpoints
    eve = ServingEndpointAccessControlRequest(user_name="eve", permission_level=VIEW)

    first, asked = _granted(api.get_permissions(endpoint_id)), bob.ask("of-file").status_code
    merged = _granted(api.update_permissions(endpoint_id, access_control_list=[eve]))
    still = bob.ask("of-file").status_code
    closed = _granted(api.set_permissions(endpoint_id, access_control_list=[]))

    assert first == {"users": [(QUERY, True)], "admins": [(MANAGE, True)]}
    assert merged == {"users": [(QUERY, False)], "eve": [(VIEW, False)], "admins": [(MANAGE, True)]}
    assert closed == {"admins": [(MANAGE, True)]}
    assert (asked, still, bob.ask("of-file").status_code) == (200, 200, 403)


def test_permissions_are_refused_with_what_is_wrong(server: Server, made: str) -> None:
    ann, path = person(server, "ann"), f"/api/2.0/permissions/serving-endpoints/{_id(server, made)}"
    one = {"user_name": "u", "permission_level": "CAN_VIEW"}
    wrong: list[tuple[Any, str]] = [
        ("x", "'access_control_list' must be a list"),
        (["x"], "access_control_list[0] must be an object"),
        ([{"permission_level": "CAN_VIEW"}], "access_control_list[0] needs exactly one of user_name, group_name"),
        ([one, {**one, "group_name": "g"}], "access_control_list[1] needs exactly one of user_name, group_name"),
        ([{**one, "user_name": " "}], "access_control_list[0]: user_name must be 1 to 255 printable"),
        ([{**one, "permission_level": "IS_OWNER"}], "access_control_list[0]: permission_level must be CAN_VIEW, CAN"),
        (
            [{"group_name": "admins", "permission_level": "CAN_VIEW"}],
            "Cannot change permissions for group 'admins' to CAN_VIEW.",
        ),
        ([{**one, "user_name": f"u{number}"} for number in range(1001)], "an endpoint has permissions for at most"),
    ]

    for given, told in wrong:
        answer = ann.send("PUT", path, {"access_control_list": given})

        assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
        assert answer.json()["message"].startswith(told)


def test_the_sdk_gets_databricks_errors(server: Server, made: str) -> None:
    ann, eve = (person(server, name).workspace().serving_endpoints for name in ("ann", "eve"))

    with pytest.raises(InvalidParameterValue, match="'of-ann' is not a valid Inference Endpoint ID"):
        ann.get_permissions(made)
    with pytest.raises(NotFound, match="does not exist"):
        ann.get_permissions("0" * 32)
    with pytest.raises(PermissionDenied, match="User 'eve' does not have CAN_VIEW permission on endpoint 'of-ann'"):
        eve.get_permissions(_id(server, made))
    with pytest.raises(PermissionDenied, match="CAN_MANAGE"):
        eve.delete(made)


def test_a_denied_call_asks_nobody_and_is_recorded(server: Server, made: str) -> None:
    allow(server, made, {"user_name": "eve", "permission_level": "CAN_VIEW"})
    eve = person(server, "eve")
    body = {"model": made, "messages": [{"role": "user", "content": "x"}], "stream": True}

    answers = [eve.ask(made), eve.post("/v1/chat/completions", body), eve.post(f"/endpoints/{made}/invocations", body)]

    flush(server)
    found = {run.data.tags["llmops.interaction_id"]: run.data.tags for run in runs(server)}
    assert [answer.status_code for answer in answers] == [403] * 3
    for answer in answers:
        tags = found[answer.headers["x-request-id"]]
        assert "served-model-name" not in answer.headers
        assert "eve" in tags.values()


def test_an_admin_alone_changes_where_traffic_goes(server: Server, made: str) -> None:
    ann = person(server, "ann")
    with Upstream() as upstream:
        upstream.always(chat("aye"))
        new = external("outside", upstream.url)
        entities = new["config"]["served_entities"]

        refused = [
            ann.post(ENDPOINTS, new),
            ann.send("PUT", f"{ENDPOINTS}/{made}/config", new["config"]),
            ann.send("PUT", f"{ENDPOINTS}/{made}", {**new, "name": made}),
        ]
        assert admin(server).post(ENDPOINTS, new).status_code == 200
        allow(server, "outside", {"user_name": "ann", "permission_level": "CAN_MANAGE"})
        moved = {"served_entities": [{**entities[0], "name": "other"}]}
        refused += [
            ann.send("PUT", f"{ENDPOINTS}/outside/config", moved),
            ann.send("PUT", f"{ENDPOINTS}/outside/config", demo()["config"]),
            ann.send("PUT", f"{ENDPOINTS}/outside/ai-gateway", {"fallback_config": {"enabled": True}}),
        ]
        tagged = ann.send("PATCH", f"{ENDPOINTS}/outside/tags", {"add_tags": [{"key": "k", "value": "v"}]})
        deleted = ann.send("DELETE", f"{ENDPOINTS}/outside")

    assert [answer.status_code for answer in refused] == [403] * 6
    assert {answer.json()["error_code"] for answer in refused} == {"PERMISSION_DENIED"}
    assert "only an admin may change where traffic goes" in refused[0].json()["message"]
    assert (tagged.status_code, deleted.status_code) == (200, 200)


def test_an_endpoint_of_the_same_name_inherits_nothing(server: Server, made: str) -> None:
    allow(server, made, {"user_name": "eve", "permission_level": "CAN_MANAGE"})
    eve = person(server, "eve")
    before = eve.ask(made).status_code

    eve.send("DELETE", f"{ENDPOINTS}/{made}")
    admin(server).post(ENDPOINTS, demo(made))

    assert before == 200
    assert eve.ask(made).status_code == person(server, "ann").ask(made).status_code == 403
