"""Feedback through the front door: given over HTTP or the command line, an assessment on the trace in MLflow."""

from typing import Any

from mlflow import MlflowClient

from llmops.interactions.record import new_id
from tests.cli.shell import llmops
from tests.conftest import NewServer
from tests.logged import flush
from tests.server import Server, demo


def _assessments(server: Server, interaction_id: str) -> dict[str, tuple[Any, Any, Any]]:
    trace = MlflowClient(server.settings.tracking_uri).get_trace(f"tr-{interaction_id}", display=False)
    return {one.name: (one.value, one.rationale, one.source.source_id) for one in trace.info.assessments}


def test_feedback_becomes_assessments_on_the_trace_of_the_answer(new_server: NewServer) -> None:
    server = new_server(demo())
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


def test_wrong_feedback_is_refused_in_one_line(server: Server) -> None:
    unknown = server.post("/serving-endpoints/nobody/feedback", {"interaction_id": new_id(), "value": True})
    wrong = server.post("/serving-endpoints/demo/feedback", {"interaction_id": "1", "value": True})
    nothing = llmops(server.url, "feedback", new_id())
    both = llmops(server.url, "feedback", new_id(), "--up", "--score", "1")

    assert (unknown.status_code, wrong.status_code) == (404, 400)
    assert "x-request-id" in wrong.json()["message"]
    assert (nothing.returncode, both.returncode) == (64, 64)
    assert "nothing is said" in nothing.stderr
