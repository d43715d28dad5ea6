"""A tracking server over HTTP: MLflow's own REST store, whose answers are looked at before anybody believes them.

MLflow's client repeats what fails by itself, `create_run` included, which then makes two runs; with that switched off
it loses what a failed answer said: its status, its `Retry-After`. And to it any page that comes with a 200 from
`/v1/traces` is a success. So requests go through MLflow's `http_request`, which knows the credentials of the
environment, and their answers are read here.

Source: mlflow 3.17.2 store/tracking/rest_store.py, utils/rest_utils.py (`call_endpoint`, `verify_rest_response`)
"""

import math
import ssl
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlsplit

import orjson
from mlflow.entities import Span
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.store.tracking.rest_store import RestStore
from mlflow.tracing.utils.otlp import MLFLOW_EXPERIMENT_ID_HEADER, OTLP_TRACES_PATH, resource_to_otel_proto
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.proto_json_utils import parse_dict
from mlflow.utils.rest_utils import http_request
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from llmops.errors import Unavailable

_TIMEOUT_S = 20.0
#: Where a server does not say how long to wait, and the longest it may say; after it we ask again.
_WAIT_S, _MOST_WAIT_S = 2, 3600
#: The first version with a route for spans.
_OLDEST = (3, 4)
_REASON_CHARS = 200
_NO_CREDENTIAL = "set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
_NOT_TRUSTED = "its certificate is not trusted, set MLFLOW_TRACKING_SERVER_CERT_PATH to that of its authority"
_NO_TRACES = "cannot keep traces: it has to be version 3.4 or later, with a database (--backend-store-uri)"


class _Answer(Protocol):
    """What is read of a `requests.Response`."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes


class TrackingServer(RestStore):  # type: ignore[misc]
    """The tracking store behind an ``http://`` or ``https://`` URI; safe from any thread.

    Every method raises `Unavailable` where an answer says nothing about what was asked for: none came, or one of a
    proxy, or the server asks to wait, and MlflowException where the server refuses what it was sent.

    Args:
        timeout_s: For one answer; one that comes later may still have been done.
    """

    def __init__(self, uri: str, timeout_s: float = _TIMEOUT_S) -> None:
        super().__init__(partial(get_default_host_creds, uri))
        host = urlsplit(uri)
        #: Without user and password.
        self._name = f"MLflow at {host.scheme}://{host.netloc.rpartition('@')[2]}{host.path.rstrip('/')}"
        self._timeout_s = timeout_s

    def check(self) -> None:
        """Ask the server something, and whether it can keep traces.

        Raises:
            Unavailable: It is away, it refuses us, or it cannot.
        """
        self._validate_workspace_support_if_specified()
        self.search_experiments(max_results=1)
        version = self._request("/version", "GET")
        # Who hides it behind a proxy is believed until it shows.
        if version.status_code == 200 and (number := _version(version.content)) and number < _OLDEST:
            raise Unavailable(f"{self._name} is version {number[0]}.{number[1]} and {_NO_TRACES}")

    def log_spans(self, location: str, spans: Sequence[Span], tracking_uri: str | None = None) -> Sequence[Span]:
        """Send spans in one request, as OTLP; see AbstractStore."""
        message = ExportTraceServiceRequest()
        sent = message.resource_spans.add()
        sent.resource.CopyFrom(resource_to_otel_proto(spans[0]._span.resource))
        sent.scope_spans.add().spans.extend(span.to_otel_proto() for span in spans)
        headers = {"Content-Type": "application/x-protobuf", MLFLOW_EXPERIMENT_ID_HEADER: location}
        body = message.SerializeToString()
        answer = self._request(OTLP_TRACES_PATH, "POST", data=body, extra_headers=headers)
        if answer.status_code in (404, 405, 501):
            raise Unavailable(f"{self._name} {_NO_TRACES}")
        self._judge(answer, len(body))
        if _kind(answer).startswith("text/"):
            raise self._strange(answer)
        return spans

    def _call_endpoint(
        self,
        api: Any,
        json_body: str | None = None,
        endpoint: str | None = None,
        retry_timeout_seconds: float | None = None,
        response_proto: Any = None,
    ) -> Any:
        """The way of every other request; overrides RestStore's."""
        routes = self._V3_METHOD_TO_INFO if api in self._V3_APIS else self._METHOD_TO_INFO
        path, method = routes[api]
        body = orjson.loads(json_body) if json_body else None
        content = {"params": body} if method == "GET" else {"json": body}
        answer = self._request(endpoint or path, method, **content)
        self._judge(answer, len(json_body or ""))
        document = _object(answer.content)
        if document is None:
            raise self._strange(answer)
        response = response_proto or api.Response()
        parse_dict(document, response)
        return response

    def _request(self, path: str, method: str, **content: Any) -> _Answer:
        try:
            answer: _Answer = http_request(
                self.get_host_creds(),
                path,
                method,
                max_retries=0,
                retry_codes=frozenset(),
                raise_on_status=False,
                respect_retry_after_header=False,
                timeout=self._timeout_s,
                **content,
            )
        except MlflowException as err:
            raise self._unreachable(err) from err
        return answer

    def _unreachable(self, err: MlflowException) -> Unavailable:
        first = _first(err)
        if isinstance(first, ssl.SSLCertVerificationError):
            return Unavailable(f"{self._name}: {_NOT_TRUSTED} ({first.verify_message})")
        if isinstance(first, TimeoutError):
            # It may still be at it: who asks at once whether it was done gets a wrong answer.
            wait_s = math.ceil(self._timeout_s)
            return Unavailable(f"{self._name} gave no answer in {self._timeout_s:g} s", retry_after_s=wait_s)
        reason = getattr(first, "strerror", None) or (first if first is not err else "is the URI right?")
        return Unavailable(f"{self._name} cannot be reached: {str(reason)[:_REASON_CHARS]}")

    def _judge(self, answer: _Answer, size_bytes: int) -> None:
        """Return where the server did what it was asked to.

        Raises:
            Unavailable, MlflowException: As the class says.
        """
        status = answer.status_code
        document = _object(answer.content) or {}
        if status < 400:
            return
        if status in (401, 403):
            who = "does not know us" if status == 401 else "does not let us write"
            raise Unavailable(f"{self._name} answered {status}, it {who}: {_NO_CREDENTIAL}")
        if status == 413:
            # A whole answer to one record. In the words of a wrong value, since waiting does not make it smaller.
            reason = f"{self._name} answered 413 to {size_bytes} bytes: let its proxy take larger bodies"
            raise MlflowException(reason, error_code=INVALID_PARAMETER_VALUE)
        if status in (408, 429) or status >= 500:
            # Its first line: what follows may be a statement of the server's database, with its values.
            said = str(document.get("message", "")).partition("\n")[0][:_REASON_CHARS]
            reason = f"{self._name} answered {status}{said and ': '}{said}"
            raise Unavailable(reason, retry_after_s=_retry_after_s(answer.headers))
        if status != 422 and document.get("error_code", "ENDPOINT_NOT_FOUND") == "ENDPOINT_NOT_FOUND":
            raise self._strange(answer)
        raise RestException({"error_code": "BAD_REQUEST", **document})

    def _strange(self, answer: _Answer) -> Unavailable:
        return Unavailable(
            f"{self._name} answered {answer.status_code} with {_kind(answer) or 'nothing'}, which is not MLflow's: "
            "is the URI right, does a proxy want a login?"
        )


def _first(err: BaseException) -> BaseException:
    """The failure all others are told of: MLflow, requests and urllib3 each wrap it once more."""
    while (inner := err.__cause__ or err.__context__) is not None:
        err = inner
    return err


def _kind(answer: _Answer) -> str:
    return answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _object(content: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _version(content: bytes) -> tuple[int, int] | None:
    try:
        major, minor = content.decode().split(".")[:2]
        return int(major), int(minor)
    except ValueError:
        return None


def _retry_after_s(headers: Mapping[str, str]) -> int:
    """Seconds a server asks to wait, from a number or a date."""
    given = headers.get("Retry-After", "").strip()
    try:
        wait_s = float(given) if given.isdigit() else parsedate_to_datetime(given).timestamp() - time.time()
    except (TypeError, ValueError):
        return _WAIT_S
    return min(max(math.ceil(wait_s), 0), _MOST_WAIT_S)
