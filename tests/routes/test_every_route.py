"""Every route there is: who comes in without a token, with one that may nothing, and with one that may look.

A new route fails these tests until it is refused to those it is not for, or named here.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmops.protocol.task import PATH
from llmops.settings import Settings
from routes.app import create_app
from routes.auth import OPEN_PATHS
from routes.invocations import NAMED_DOORS, TASK_DOORS, TRANSLATED_DOORS
from tests.routes.callers import LOCKED, Person, admin, allow, person
from tests.server import Server, demo

Route = tuple[str, str]

#: Fits every route well enough to get as far as its permissions.
BODY: dict[str, Any] = {
    "model": "closed",
    "messages": [{"role": "user", "content": "x"}],
    "prompt": "x",
    "input": ["x"],
    "config": {"served_entities": demo()["config"]["served_entities"]},
    "config_version": 1,
    "email_notifications": {},
    "add_tags": [],
    "access_control_list": [],
    "interaction_id": "0" * 32,
    "value": True,
}
#: What an admin alone may do.
ADMINS = ("/api/2.0/secrets/", "/api/2.0/token/", "/metrics")
#: What everybody with a token may do; lists show each caller their own.
EVERYBODY = {
    ("GET", "/api/2.0/serving-endpoints"),
    ("GET", "/api/2.0/serving-endpoints/"),
    ("POST", "/api/2.0/serving-endpoints"),
    ("POST", "/api/2.0/serving-endpoints/"),
    ("POST", "/api/2.0/serving-endpoints/pt"),
    ("GET", "/api/2.0/endpoints"),
    ("GET", "/api/2.0/endpoints/"),
    ("GET", "/api/2.0/preview/scim/v2/Me"),
    ("POST", "/api/2.0/external-function"),
    ("GET", "/v1/models"),
    ("GET", "/serving-endpoints/models"),
    ("POST", "/serving-endpoints/feedback"),
    ("GET", "/ui"),
    ("GET", "/docs"),
    ("GET", "/docs/oauth2-redirect"),
    ("GET", "/redoc"),
    ("GET", "/openapi.json"),
}


def _walk(routes: Any, prefix: str = "") -> Iterator[Route]:
    """Every method and path of an application, whatever its routers are made of."""
    for route in routes:
        inner = getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", None)
        if inner is not None:
            yield from _walk(inner, prefix + getattr(route, "path", ""))
        else:
            yield from ((method, prefix + route.path) for method in route.methods)


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[Route]:
    """Every route: of the application, of its OpenAPI document, and the doors of invocations in front of it."""
    front = create_app(Settings(data_dir=tmp_path_factory.mktemp("app")))
    described = {(method.upper(), path) for path, methods in front.app.openapi()["paths"].items() for method in methods}
    doors = {("POST", f"{prefix}{{name}}/invocations") for prefix in NAMED_DOORS}
    doors |= {("POST", prefix + path) for prefix in TASK_DOORS for path in PATH.values()}
    doors |= {("POST", path) for path in TRANSLATED_DOORS}
    doors.add(("POST", "/serving-endpoints/{name}/served-models/{served}/invocations"))
    return sorted({*_walk(front.app.routes), *described, *doors})


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for tokens, with one endpoint that nobody but the admin may see."""
    folder: Path = tmp_path_factory.mktemp("locked")
    with Server(folder, (demo("closed"),), environment=LOCKED) as running:
        allow(running, "closed")
        yield running


def _path(server: Server, path: str) -> str:
    """The path of the closed endpoint."""
    endpoint_id = admin(server).get("/api/2.0/serving-endpoints/closed").json()["id"]
    path = path.replace("{name}", "closed").replace("{endpoint_id}", endpoint_id).replace("{served}", "eliza")
    return re.sub(r"\{[^}]*\}", "x", path)


def _answers(caller: Person, routes: list[Route]) -> dict[Route, int]:
    return {
        (method, path): caller.send(
            method, _path(caller.server, path), None if method in ("GET", "HEAD") else BODY
        ).status_code
        for method, path in routes
    }


def test_every_route_asks_for_a_token_but_health_and_discovery(locked: Server, routes: list[Route]) -> None:
    asked = [*routes, ("OPTIONS", "/v1/models"), ("GET", "/no/route"), ("PUT", "/serving-endpoints/closed/invocations")]

    codes = {(m, p): httpx.request(m, locked.url + _path(locked, p), json=BODY).status_code for m, p in asked}

    assert len(routes) > 60
    assert {path for (_, path), code in codes.items() if code != 401} == OPEN_PATHS
    assert set(codes.values()) == {200, 401}


def test_every_route_refuses_who_may_nothing(locked: Server, routes: list[Route]) -> None:
    guarded = [route for route in routes if route[1] not in OPEN_PATHS and _plain(route) not in EVERYBODY]

    codes = _answers(person(locked, "bob"), guarded)

    assert len(guarded) > 40
    assert {route: code for route, code in codes.items() if code != 403} == {}


def test_no_list_names_an_endpoint_to_who_may_not_see_it(locked: Server, routes: list[Route]) -> None:
    bob = person(locked, "bob")
    lists = [path for method, path in routes if method == "GET" and ("GET", path) in EVERYBODY]

    told = {path: bob.get(path).text for path in lists if path not in ("/ui", "/docs", "/redoc", "/openapi.json")}
    told["near"] = bob.ask("closedd").text

    assert '"closed"' in admin(locked).get("/v1/models").text
    assert {path for path, text in told.items() if '"closed"' in text or "'closed'" in text} == set()


def test_who_may_look_changes_and_asks_nothing(locked: Server, routes: list[Route]) -> None:
    allow(locked, "closed", {"user_name": "carol", "permission_level": "CAN_VIEW"})
    of_endpoints = [route for route in routes if "{" in route[1] and _plain(route) not in EVERYBODY]
    reading = [route for route in of_endpoints if route[0] == "GET" and route[1].startswith("/api/")]
    changing = [route for route in of_endpoints if route not in reading]
    carol = person(locked, "carol")

    read, changed = _answers(carol, reading), _answers(carol, changing)
    allow(locked, "closed")

    assert {route: code for route, code in read.items() if code != 200} == {}
    assert {route: code for route, code in changed.items() if code != 403} == {}
    assert min(len(reading), len(changing)) > 6


def test_an_admin_by_token_may_what_the_operator_may(locked: Server) -> None:
    ann = person(locked, "ann", admin=True)

    codes = [ann.get(path).status_code for path in ("/metrics", "/api/2.0/token/list", "/api/2.0/secrets/scopes/list")]

    assert codes == [200, 200, 200]
    assert ann.sees() == {"closed"}
    assert ann.ask("closed").status_code == 200


def _plain(route: Route) -> Route:
    method, path = route
    return ("GET" if method == "HEAD" else method), path


def test_what_is_for_admins_is_known_by_its_path(locked: Server, routes: list[Route]) -> None:
    of_admins = [route for route in routes if route[1].startswith(ADMINS)]

    codes = _answers(person(locked, "bob", "developers"), of_admins)

    assert len(of_admins) > 14
    assert set(codes.values()) == {403}
