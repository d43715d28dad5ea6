"""Feedback through the front door: given over HTTP or the command line, an assessment on the trace in MLflow."""

from typing import Any

import pytest
from mlflow import MlflowClient

from llmops.interactions.dead_letters import DeadLetters
from llmops.interactions.record import new_id
from tests.cli.shell import llmops
from tests.conftest import NewServer
from tests.logged import flush
from tests.routes.callers import LOCKED, allow, person
from tests.server import Server, demo

EMAIL = "grace.hopper@example.com"


def _assessments(server: Server, interaction_id: str) -> dict[str, tuple[Any, Any, Any]]:
    trace = MlflowClient(server.settings.tracking_uri).get_trace(f"tr-{interaction_id}", display=False)
    return {one.name: (one.value, one.rationale, one.source.source_id) for one in trace.info.assessments}


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_feedback_becomes_assessments_on_the_trace_of_the_answer(new_server: NewServer, store: str) -> None:
    server = new_server(demo(), store=store)
    interaction_id = server.ask("demo").headers["x-request-id"]

    thumb = server.post(
        "/serving-endpoints/demo/feedback", {"interaction_id": interaction_id, "value": True, "user": "ada"}
    )
    score = llmops(server.url, "feedback", interaction_id, "--score", "0.5", "--comment", "half right", "--user", "bob")
    comment = llmops(server.url, "feedback", f"tr-{interaction_id}", "--comment", "more, please")
    flush(server)

    assert thumb.json()["trace_id"] == f"tr-{interaction_id}"
    assert (score.returncode, comment.returncode) == (0, 0), score.stderr + comment.stderr
    assert _assessments(server, interaction_id) == {
        "user_feedback": (True, None, "ada"),
        "score": (0.5, "half right", "bob"),
        "comment": ("more, please", None, "unknown"),
    }


def test_feedback_that_arrives_before_its_trace_waits_for_it(new_server: NewServer) -> None:
    server = new_server(demo(), options=("--no-mlflow-ui", "--workers", "2"))
    [shipper] = server.processes("interactions.shipper")
    shipper.suspend()
    asked = [server.ask("demo").headers["x-request-id"] for _ in range(6)]
    for one in asked:
        server.post("/serving-endpoints/feedback", {"interaction_id": one, "value": 1})
    shipper.resume()
    flush(server)

    assert [_assessments(server, one)["user_feedback"][0] for one in asked] == [1] * 6


def test_feedback_on_nothing_is_no_reason_to_stop(new_server: NewServer) -> None:
    server = new_server(demo())
    server.post("/serving-endpoints/feedback", {"interaction_id": new_id(), "value": False})
    interaction_id = server.ask("demo").headers["x-request-id"]
    server.post("/serving-endpoints/feedback", {"interaction_id": interaction_id, "value": True})
    server.wait(lambda: _told(server, interaction_id))

    assert server.get("/ready").status_code == 200


def _told(server: Server, interaction_id: str) -> bool:
    try:
        return "user_feedback" in _assessments(server, interaction_id)
    except Exception:  # noqa: BLE001 - MLflow's own error while the trace is not there.
        return False


def _dead(server: Server) -> list[str]:
    return [letter.reason for letter in DeadLetters(server.settings).all()]


def test_an_answer_is_not_judged_in_the_name_of_another_endpoint(new_server: NewServer) -> None:
    """What was said of it is in no file as it came: the endpoint that answered masks."""
    server = new_server(demo("open"), {**demo("masked"), "llmops": {"mask_pii": True}})
    answered = server.ask("masked").headers["x-request-id"]
    said = {"interaction_id": answered, "value": f"call {EMAIL}", "rationale": f"I am {EMAIL}"}
    for path in ("open/feedback", "masked/feedback", "feedback"):
        assert server.post(f"/serving-endpoints/{path}", {**said, "name": path}).status_code == 200
    flush(server)

    told = ("call <EMAIL_ADDRESS>", "I am <EMAIL_ADDRESS>", "unknown")
    assert _assessments(server, answered) == {"masked/feedback": told, "feedback": told}
    assert _dead(server) == ["the interaction is of endpoint 'masked', and the feedback was given for endpoint 'open'"]
    files = [path for path in server.data_dir.rglob("*") if path.is_file()]
    assert [path.name for path in files if EMAIL.encode() in path.read_bytes()] == []


def test_only_answers_of_endpoints_one_may_query_are_judged(new_server: NewServer) -> None:
    server = new_server(demo("open"), demo("closed"), environment=LOCKED)
    bob, eve = person(server, "bob", "team"), person(server, "eve")
    allow(server, "closed", {"group_name": "team", "permission_level": "CAN_QUERY"})
    opened, closed = (bob.ask(name).headers["x-request-id"] for name in ("open", "closed"))
    for one in (opened, closed):
        for who in (bob, eve):
            said = {"interaction_id": one, "value": True, "name": who.token[-8:]}
            assert who.post("/serving-endpoints/feedback", said).status_code == 200
    refused = eve.post("/serving-endpoints/closed/feedback", {"interaction_id": closed, "value": True})
    allow(server, "open", {"group_name": "team", "permission_level": "CAN_QUERY"})
    nobody = eve.post("/serving-endpoints/feedback", {"interaction_id": opened, "value": True})
    flush(server)

    assert [source for _, _, source in _assessments(server, opened).values()] == ["bob", "eve"]
    assert [source for _, _, source in _assessments(server, closed).values()] == ["bob"]
    assert _dead(server) == ["the interaction is of endpoint 'closed', and the feedback was given for endpoint 'open'"]
    assert (refused.status_code, nobody.status_code) == (403, 403)
    assert "may query no endpoint" in nobody.json()["message"]


def test_wrong_feedback_is_refused_in_one_line(server: Server) -> None:
    unknown = server.post("/serving-endpoints/nobody/feedback", {"interaction_id": new_id(), "value": True})
    wrong = server.post("/serving-endpoints/demo/feedback", {"interaction_id": "1", "value": True})
    nothing = llmops(server.url, "feedback", new_id())
    both = llmops(server.url, "feedback", new_id(), "--up", "--score", "1")

    assert (unknown.status_code, wrong.status_code) == (404, 400)
    assert "x-request-id" in wrong.json()["message"]
    assert (nothing.returncode, both.returncode) == (64, 64)
    assert "nothing is said" in nothing.stderr
