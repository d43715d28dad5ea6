"""The application of one worker: the only place where everything is put together."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import orjson
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from llmops.endpoints.access import Access
from llmops.endpoints.plaintext_keys import PlaintextKeys
from llmops.endpoints.secret_store import SecretStore
from llmops.endpoints.secrets import Secrets
from llmops.endpoints.store import Store
from llmops.errors import BadRequest, LlmopsError, NotFound
from llmops.gateway.counts import Counts
from llmops.gateway.lifecycle import Lifecycle
from llmops.gateway.limits import Limits
from llmops.gateway.pipeline import Gateway
from llmops.gateway.workshop import Workshop
from llmops.guardrails.pii import mask, mask_document
from llmops.interactions.feedback import Feedback
from llmops.interactions.overview import Overview
from llmops.interactions.record import Interaction
from llmops.interactions.recorder import Recorder
from llmops.interactions.shipper_state import ShipperState
from llmops.interactions.spool import Spool
from llmops.interactions.worker_state import Tally
from llmops.protocol.invocation import MAX_BODY_BYTES
from llmops.providers.children import Children
from llmops.providers.egress import Egress
from llmops.providers.guarded import Guarded
from llmops.providers.tokens import Tokenizer
from llmops.providers.upstream import Upstreams
from llmops.settings import Settings
from routes import (
    endpoint_parts,
    endpoint_reports,
    errors,
    feedback,
    gateway_target,
    health,
    metrics,
    openai,
    openapi,
    permissions,
    secrets,
    serving_endpoints,
    tokens,
    ui,
    workspace,
)
from routes.auth import Doorkeeper, require_json
from routes.invocations import Front

logger = logging.getLogger(__name__)

#: How often a worker looks whether another process changed the store; a look costs microseconds.
FOLLOW_EVERY_S = 0.1
#: How often a worker reads what the shipper says of itself.
HEED_EVERY_S = 1.0
#: A shipper that lives writes more often than that.
_STALE_MS = 10_000


def create_app(settings: Settings, worker: int = 0, limits_memory: int | None = None) -> Front:
    """Put a worker together.

    Args:
        worker: Its number; names its spool, which no other worker may write.
        limits_memory: In which all workers of this machine count rate limits; None where there is one worker.
    """
    store = Store(settings.store_path, settings.database_url)
    file, new_spool = f"worker-{worker}.db", partial(Spool, full_sync=settings.spool_full_sync)
    spool: Spool[Interaction] = new_spool(settings.spool_dir / file, max_mb=settings.spool_max_mb)
    opinions: Spool[Feedback] = new_spool(settings.feedback_dir / file)
    upstreams, tokenizer = Upstreams(), Tokenizer()
    guarded = Guarded(Egress.read(settings.allowed_networks, loopback=settings.loopback))
    tally = Tally(settings.spool_dir, worker)
    recorder = Recorder(spool, mask_document, refuses=settings.spool_when_full == "refuse")
    secret_store = SecretStore.open(settings)
    keys = Secrets(settings.secrets_dir, secret_store)
    lifecycle = Lifecycle(store, Workshop(settings, keys, Children(), upstreams, guarded, tokenizer))
    counts, access = Counts(), Access.open(settings)
    limits = Limits.open(settings, tokenizer, limits_memory)
    gateway = Gateway(lifecycle.table, lifecycle.follow, recorder, tokenizer, counts, access, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(tokenizer.load)
        await access.begin()
        await limits.begin()
        lifecycle.refresh()
        tasks = (_follow(lifecycle), _heed(recorder, settings.data_dir), _count(tally, recorder), secret_store.follow())
        followers = [asyncio.create_task(one) for one in (*tasks, access.follow(), limits.follow())]
        yield
        for follower in followers:
            follower.cancel()
            with suppress(asyncio.CancelledError):
                await follower
        await limits.aclose()
        await upstreams.aclose()
        await guarded.aclose()
        recorder.flush()
        for each in (spool, opinions, secret_store, access, store):
            each.close()

    app = FastAPI(title="llmops", version="0.1.0", lifespan=lifespan, max_body_size=MAX_BODY_BYTES)
    app.state.secret_store, app.state.overview = secret_store, partial(Overview.read, settings)
    app.state.access, app.state.locked = access, settings.token is not None
    app.state.endpoints = serving_endpoints.Endpoints(store, lifecycle, access, PlaintextKeys(secret_store))
    app.state.reports = endpoint_reports.Reports(settings, lifecycle.table, counts, worker)
    app.state.recorder, app.state.spool, app.state.limits = recorder, spool, limits
    app.state.worker_state = lambda: tally.now(recorder, full=spool.full)
    app.state.feedback = feedback.FeedbackBox(opinions, lifecycle.table, mask)
    doors = APIRouter(dependencies=[Depends(refuse_forms)])
    managing = (serving_endpoints, endpoint_parts, endpoint_reports, gateway_target, secrets, workspace)
    for room in (*managing, permissions, tokens, openai, feedback, health, metrics, ui):
        doors.include_router(room.router)
    app.include_router(doors)
    openapi.describe(app)
    _handle_errors(app)
    return Front(app, gateway, Doorkeeper(settings, access))


async def refuse_forms(request: Request) -> None:
    """Refuse a management request whose body is not JSON that can be kept; who may come in, the front has decided.

    Python's reader takes more than any store, log or answer of ours: halves of characters, numbers without end.
    """
    if request.method not in ("POST", "PUT", "PATCH"):
        return
    require_json(dict(request.scope["headers"]))
    try:
        if await request.body():
            orjson.dumps(await request.json())
    except RecursionError:
        raise BadRequest("the body is nested deeper than can be read") from None
    except (TypeError, ValueError) as err:
        raise BadRequest(f"the body is not JSON that can be kept: {err}") from None


async def _follow(lifecycle: Lifecycle) -> None:
    while True:
        await asyncio.sleep(FOLLOW_EVERY_S)
        try:
            lifecycle.follow()
        except Exception:
            # The outer wall of this task: the table stays as it is, and the next look may succeed.
            logger.exception("event=follow_failed")


async def _heed(recorder: Recorder, data_dir: Path) -> None:
    """Tell the recorder what the shipper says of itself."""
    # What an earlier server left behind says nothing of this one; a worker that is started anew reads on.
    since_ms = time.time_ns() // 1_000_000 - _STALE_MS
    while True:
        state = await asyncio.to_thread(ShipperState.read, data_dir)
        told = state if state is not None and state.updated_ms >= since_ms else None
        recorder.names_runs = told is not None and told.run_ids
        recorder.delay = told.reason if told is not None else ""
        await asyncio.sleep(HEED_EVERY_S)


async def _count(tally: Tally, recorder: Recorder) -> None:
    """Tell the other workers what this one did not record."""
    while True:
        await asyncio.to_thread(tally.tell, recorder, full=recorder.log.full)
        await asyncio.sleep(HEED_EVERY_S)


def _methods(request: Request) -> list[str]:
    """What the path of a request can be asked with; a route knows only its own method."""
    asked = ({**request.scope, "method": method} for method in ("DELETE", "GET", "PATCH", "POST", "PUT"))
    full = (scope for scope in asked if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes))
    return [scope["method"] for scope in full]


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
        # Always 400: 405 and 413 would make MLflow's client send it again and again.
        if status == 405:
            methods = ", ".join(_methods(request))
            error = BadRequest(f"{request.url.path} takes {methods}, not {request.method}; see /docs")
            error.headers.append((b"allow", methods.encode()))
            return answer(request, error)
        return answer(
            request, BadRequest(f"{request.method} {request.url.path}: {getattr(err, 'detail', None) or 'is refused'}")
        )

    app.add_exception_handler(Exception, ours)
    app.add_exception_handler(LlmopsError, ours)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, unknown)
