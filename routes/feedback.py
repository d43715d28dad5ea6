"""What people think of answers: kept durably here, an assessment on the answer's trace in MLflow soon after."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request

from llmops.errors import BadRequest
from llmops.gateway.table import Table
from llmops.interactions.feedback import Feedback
from llmops.interactions.spool import Spool
from routes.serving_endpoints import Endpoints, endpoints

router = APIRouter(tags=["Feedback"])
Object = Annotated[dict[str, Any], Body()]


class FeedbackBox:
    """Takes opinions and keeps them until the shipper brings them to MLflow.

    Args:
        spool: This worker's own.
        table: Gives the routing table of this moment.
        mask: Replaces personal data in a text.
    """

    def __init__(self, spool: Spool[Feedback], table: Callable[[], Table], mask: Callable[[str], str]) -> None:
        self._spool = spool
        self._table = table
        self._mask = mask

    async def put(self, body: dict[str, Any], user: str | None, endpoints: Sequence[str] | None) -> dict[str, str]:
        """Keep an opinion; durable when this returns.

        Args:
            endpoints: Names of those whose answer it may be, at least one; None: any. What another one answered is not
                judged by it: who delivers it knows whose answer it is.

        Raises:
            EndpointNotFound: There is no endpoint of such a name.
            BadRequest: The body is wrong, or the endpoints' answers leave no trace to keep an opinion on.
            SpoolError: It cannot be written down.
        """
        feedback = Feedback.read(body, user)
        table = self._table()
        if endpoints is not None:
            feedback = replace(feedback, endpoints=tuple(endpoints))
            if all(table.find(name).policy.log == "nothing" for name in endpoints):
                raise BadRequest(f"endpoint '{endpoints[0]}' records nothing (llmops.log): there is no trace to judge")
        # Also where another endpoint is named: the answer may be of one that masks, and this is written down now.
        if any(one.policy.mask for one in table.endpoints.values()):
            feedback = self._masked(feedback)
        await asyncio.to_thread(self._spool.append, feedback)
        return {"feedback_id": feedback.feedback_id, "trace_id": feedback.trace_id}

    def _masked(self, feedback: Feedback) -> Feedback:
        value = self._mask(feedback.value) if isinstance(feedback.value, str) else feedback.value
        return replace(feedback, value=value, rationale=feedback.rationale and self._mask(feedback.rationale))


def feedback_box(request: Request) -> FeedbackBox:
    """The box of this worker."""
    found: FeedbackBox = request.app.state.feedback
    return found


Box = Annotated[FeedbackBox, Depends(feedback_box)]
Of = Annotated[Endpoints, Depends(endpoints)]


@router.post("/serving-endpoints/{name}/feedback", summary="Say what an answer of an endpoint is worth")
async def give_endpoint_feedback(request: Request, box: Box, of: Of, name: str, body: Object) -> dict[str, str]:
    """Keep an opinion about an answer of this endpoint; see `/serving-endpoints/feedback`."""
    of.refuse_query(name)
    return await box.put(body, request.scope.get("principal"), [name])


@router.post("/serving-endpoints/feedback", summary="Say what an answer is worth")
async def give_feedback(request: Request, box: Box, of: Of, body: Object) -> dict[str, str]:
    """Keep an opinion about an answer; its trace need not have arrived yet.

    `interaction_id` is the answer's `x-request-id`; `value` is true, false, a number or a text; `rationale` says why;
    `name` says what is judged. Answers of endpoints that the caller may not query are not judged.
    """
    return await box.put(body, request.scope.get("principal"), of.queried())
