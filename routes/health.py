"""Whether the house stands, and where clients find their way; open to everybody."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from llmops.errors import SpoolError

router = APIRouter(tags=["Health"])


@router.get("/health", summary="The process answers")
async def health() -> dict[str, str]:
    """200 while the process answers."""
    return {"status": "ok"}


@router.get("/ready", summary="Invocations can be served and recorded")
async def ready(request: Request, response: Response) -> dict[str, Any]:
    """200 once the table is loaded and the spool can be written; else 503 with the reason.

    The body also tells how the interaction log and the counting of rate limits are doing; a shipper that waits, or a
    Redis that is not there, makes nothing unready.
    """
    state = request.app.state
    recorder, spool = state.recorder, state.spool
    overview = await asyncio.to_thread(state.overview, state.worker_state())
    told = {"interactions_lost": recorder.lost, "last_loss": recorder.problem, **overview.short()}
    told["rate_limits"] = state.limits.told()
    try:
        spool.check()
    except SpoolError as err:
        response.status_code = 503
        return {"status": "not ready", "reason": err.message, **told}
    return {"status": "ready", **told}


@router.get("/.well-known/databricks-config", summary="Discovery of Databricks' clients")
async def discovery() -> dict[str, Any]:
    """An empty object: there is no workspace and no OAuth here. A 404 would make MLflow warn at every call."""
    return {}
