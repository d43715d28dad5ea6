"""The application of one worker: the only place where everything is put together."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from llmops.endpoints.secrets import Secrets
from llmops.endpoints.store import Store
from llmops.errors import BadRequest, LlmopsError, NotFound
from llmops.gateway.lifecycle import Lifecycle
from llmops.gateway.pipeline import Gateway
from llmops.gateway.workshop import Workshop
from llmops.interactions.recorder import Recorder
from llmops.interactions.spool import Spool
from llmops.protocol.invocation import MAX_BODY_BYTES
from llmops.providers.children import Children
from llmops.providers.tokens import Tokenizer
from llmops.providers.upstream import Upstreams
from llmops.settings import Settings
from routes import errors, health, openai, openapi, serving_endpoints
from routes.auth import Doorkeeper, require_json
from routes.invocations import Front

logger = logging.getLogger(__name__)

#: How often a worker looks whether another process changed the store; a look costs microseconds.
FOLLOW_EVERY_S = 0.1


def create_app(settings: Settings, worker: int = 0) -> Front:
    """Put a worker together.

    Args:
        worker: Its number; names its spool, which no other worker may write.

    Raises:
        SpoolError: The spool cannot be written; nothing would be recorded.
    """
    store = Store(settings.store_path)
    spool = Spool(settings.spool_dir / f"worker-{worker}.db", full_sync=settings.spool_full_sync)
    upstreams, tokenizer = Upstreams(), Tokenizer()
    recorder = Recorder(spool)
    lifecycle = Lifecycle(store, Workshop(settings, Secrets(settings.secrets_dir), Children(), upstreams, tokenizer))
    gateway = Gateway(lifecycle.table, lifecycle.follow, recorder, tokenizer)
    doorkeeper = Doorkeeper(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(tokenizer.load)
        lifecycle.refresh()
        follower = asyncio.create_task(_follow(lifecycle))
        yield
        follower.cancel()
        with suppress(asyncio.CancelledError):
            await follower
        await upstreams.aclose()
        spool.close()
        store.close()

    app = FastAPI(title="llmops", version="0.1.0", lifespan=lifespan, max_body_size=MAX_BODY_BYTES)
    app.state.endpoints = serving_endpoints.Endpoints(store, lifecycle)
    app.state.recorder, app.state.spool = recorder, spool
    doors = APIRouter(dependencies=[Depends(refuse_forms)])
    for room in (serving_endpoints, openai, health):
        doors.include_router(room.router)
    app.include_router(doors)
    openapi.describe(app)
    _handle_errors(app)
    return Front(app, gateway, doorkeeper)


async def refuse_forms(request: Request) -> None:
    """Refuse a management request whose body is not JSON; who may come in at all, the front has decided."""
    if request.method in ("POST", "PUT", "PATCH"):
        require_json(dict(request.scope["headers"]))


async def _follow(lifecycle: Lifecycle) -> None:
    while True:
        await asyncio.sleep(FOLLOW_EVERY_S)
        try:
            lifecycle.follow()
        except Exception:
            # The outer wall of this task: the table stays as it is, and the next look may succeed.
            logger.exception("event=follow_failed")


def _handle_errors(app: FastAPI) -> None:
    """Answer every error in the shape of its route."""

    def answer(request: Request, err: LlmopsError) -> Response:
        headers = {name.decode(): value.decode() for name, value in errors.headers(err)}
        return Response(errors.body(err, request.url.path), err.status, headers)

    async def ours(request: Request, err: Exception) -> Response:
        return answer(request, err if isinstance(err, LlmopsError) else LlmopsError("the server failed; see its log"))

    async def malformed(request: Request, err: Exception) -> Response:
        problems = err.errors() if isinstance(err, RequestValidationError) else []
        reason = "; ".join(str(problem["msg"]) for problem in problems)
        return answer(request, BadRequest(f"the body must be a JSON object: {reason}"))

    async def unknown(request: Request, err: Exception) -> Response:
        status = err.status_code if isinstance(err, HTTPException) else 500
        if status == 404:
            return answer(request, NotFound(f"{request.method} {request.url.path} is not a route; see /docs"))
        error = BadRequest(f"{request.method} {request.url.path}: {getattr(err, 'detail', None) or 'is refused'}")
        # 413 would make MLflow's client send it again and again.
        error.status = status if status == 405 else 400
        return answer(request, error)

    app.add_exception_handler(Exception, ours)
    app.add_exception_handler(LlmopsError, ours)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, unknown)
