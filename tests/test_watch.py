"""`llmops serve --watch`: endpoint files change under a running server, and no request notices."""

import threading
from typing import Any

import pytest
import yaml

from tests.conftest import NewServer
from tests.server import Server, demo


@pytest.fixture
def watched(new_server: NewServer) -> Server:
    return new_server(demo(), options=("--no-mlflow-ui", "--watch"))


def _put(server: Server, document: dict[str, Any]) -> None:
    (server.configs / f"{document['name']}.yaml").write_text(yaml.safe_dump(document))


def _description(server: Server, name: str) -> Any:
    return server.endpoint(name).get("description")


def test_a_changed_file_is_served_and_no_request_is_dropped_meanwhile(watched: Server) -> None:
    stop, codes = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            codes.append(watched.ask("demo").status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    for number in range(3):
        _put(watched, {**demo(), "description": str(number)})
        _put(watched, demo(f"new-{number}"))
        watched.wait(lambda number=number: _description(watched, "demo") == str(number))  # type: ignore[misc]
    stop.set()
    asking.join()

    assert set(codes) == {200}
    assert watched.ask("new-2").status_code == 200
    (watched.configs / "new-2.yaml").unlink()
    watched.wait(lambda: watched.ask("new-2").status_code == 404)


def test_a_file_that_became_wrong_is_told_and_its_endpoint_goes_on(watched: Server) -> None:
    (watched.configs / "demo.yaml").write_text("name: demo\nconfg: {}\n")

    watched.wait(lambda: "demo.yaml:2: confg: unknown key; did you mean 'config'?" in watched.log.read_text())

    assert watched.ask("demo").status_code == 200
    assert watched.endpoint("demo")["state"]["ready"] == "READY"
