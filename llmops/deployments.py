"""MLflow's Deployments clients of a server of this project: the stock one, and the plugin of the target ``llmops``.

The plugin is the client of the ``databricks`` target with its way of sending replaced: every method is MLflow's own.
That one repeats a refused connection for five minutes; this one asks once and says in one line what is wrong.

Source: ../shared/reference/databricks_contract.md 11; mlflow/deployments/plugin_manager.py (what MLflow wants here)
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import click
import orjson
import requests
from mlflow.deployments import BaseDeploymentClient, databricks, get_deploy_client
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode
from requests.auth import AuthBase

from llmops.protocol.task import FIELD
from llmops.settings import LOOPBACK, ClientSettings, client_settings, export

CONNECT_WITHIN_S = 5.0
#: MLflow's own limit of a management call.
_ANSWER_WITHIN_S = 120.0
#: The schemes of a target, and how their servers are reached. Each one is an entry point in pyproject.toml.
_SCHEMES = {"llmops": "http", "llmops+https": "https"}

_HELP = """\
A server of llmops (start one with `llmops serve`).

Targets
  llmops                     the server LLMOPS_HOST names; http://127.0.0.1:8080 without it
  llmops://host:port         a server, over HTTP
  llmops+https://host[:port] a server, over HTTPS
Where the server asks for a token, LLMOPS_TOKEN is sent.

Endpoints
  mlflow deployments list-endpoints -t llmops
  mlflow deployments get-endpoint -t llmops --endpoint NAME
  mlflow deployments delete-endpoint -t llmops --endpoint NAME
  mlflow deployments predict -t llmops --endpoint NAME -I body.json
where body.json holds one request: {"messages": [{"role": "user", "content": "hello"}]}

`create-endpoint` fails for every target of MLflow 3.17 before the target is asked:
use `llmops endpoints create -f FILE`, or create_endpoint(config=…) in Python.
A registered model cannot be served yet: `create`, `update` and `run-local` say so."""


class DeploymentError(MlflowException, click.ClickException):  # type: ignore[misc]
    """What went wrong, in one line: MLflow's error in Python, and no stack trace on its command line.

    Args:
        error_code: Of the server, for example RESOURCE_DOES_NOT_EXIST.
    """

    def __init__(self, message: str, error_code: str = "INTERNAL_ERROR") -> None:
        known = error_code in ErrorCode.keys()  # noqa: SIM118 - a protobuf enum, which cannot be iterated
        MlflowException.__init__(self, message, ErrorCode.Value(error_code if known else "INTERNAL_ERROR"))


class Answer(databricks.DatabricksEndpoint):  # type: ignore[misc]
    """An answer as MLflow gives it; its command line asks it for its JSON as it would a DataFrame."""

    def to_json(self, path: str | None = None) -> str | None:
        """The answer as text, or into a file; then None."""
        text = orjson.dumps(dict(self)).decode()
        if path is None:
            return text
        Path(path).write_text(text, "utf-8")
        return None


class LlmopsDeploymentClient(databricks.DatabricksDeploymentClient):  # type: ignore[misc]
    """The client of the targets ``llmops``, ``llmops://host:port`` and ``llmops+https://host``.

    Raises:
        DeploymentError: The target is not of these forms. Every method raises it too, for whatever goes wrong.
    """

    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)
        settings = client_settings(_url(target_uri))
        self._url = settings.url
        self._session = requests.Session()
        # A proxy of the environment must not see what goes to this machine's own addresses.
        self._session.trust_env = urlsplit(settings.url).hostname not in LOOPBACK
        self._session.auth = _Bearer(settings.token)

    def predict(self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None) -> Answer:
        """Ask an endpoint for a whole answer.

        Args:
            inputs: The body, or a DataFrame of it as MLflow's command line reads one.
        """
        name = _named(endpoint, deployment_name)
        answer: Answer = super().predict(inputs=_body(inputs), endpoint=name)
        return answer

    def predict_stream(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Ask an endpoint for a streamed answer; an error in the middle of it is raised, not given as a chunk."""
        name = _named(endpoint, deployment_name)
        for chunk in super().predict_stream(inputs=_body(inputs), endpoint=name):
            if "error" in chunk:
                raise DeploymentError(str(chunk["error"].get("message")), str(chunk["error"].get("code")))
            yield chunk

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Any = None,
        endpoint: str | None = None,
    ) -> NoReturn:
        """Refused: a registered model cannot be served yet."""
        _refuse_model(model_uri)

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Any = None,
        endpoint: str | None = None,
    ) -> NoReturn:
        """Refused: a registered model cannot be served yet."""
        _refuse_model(model_uri)

    def delete_deployment(self, name: str, config: Any = None, endpoint: str | None = None) -> None:
        """Delete an endpoint; one that is not there is fine, as MLflow wants it."""
        try:
            self.delete_endpoint(name)
        except DeploymentError as err:
            if err.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Every endpoint."""
        return list(self.list_endpoints())

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """One endpoint."""
        return dict(self.get_endpoint(name))

    def _call_endpoint(self, **asked: Any) -> Answer:
        with self._send(stream=False, **asked) as response:
            try:
                return Answer(orjson.loads(response.content))
            except (ValueError, TypeError):
                raise _stranger(response, self._url) from None

    def _call_endpoint_stream(self, **asked: Any) -> Iterator[str]:
        with self._send(stream=True, **asked) as response:
            try:
                # Without a size: requests would wait for 512 bytes.
                for line in response.iter_lines(chunk_size=None):  # type: ignore[call-overload]
                    if line:
                        yield line.decode("utf-8")
            except requests.exceptions.RequestException as err:
                raise DeploymentError(f"the answer of {self._url} was cut short") from err

    def _send(
        self,
        *,
        method: str,
        stream: bool,
        prefix: str = "/api/2.0",
        route: str | None = None,
        json_body: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        retry_timeout_seconds: float | None = None,
    ) -> requests.Response:
        """Send once: nothing is repeated, whatever MLflow's budget for it is, and a token follows no redirect."""
        path = "/".join(part.strip("/") for part in (prefix, "serving-endpoints", route or "") if part.strip("/"))
        limits = (CONNECT_WITHIN_S, timeout or _ANSWER_WITHIN_S)
        try:
            response = self._session.request(
                *(method, f"{self._url}/{path}"), json=json_body, timeout=limits, stream=stream, allow_redirects=False
            )
        except requests.exceptions.ReadTimeout as err:
            raise DeploymentError(f"the server at {self._url} did not answer within {limits[1]:g} s") from err
        except requests.exceptions.ConnectionError as err:
            hint = "start one with `llmops serve`, or name it with LLMOPS_HOST or llmops://host:port"
            raise DeploymentError(f"no server answers at {self._url}: {hint}", "TEMPORARILY_UNAVAILABLE") from err
        except requests.exceptions.RequestException as err:
            raise DeploymentError(f"cannot ask the server at {self._url}: {err}") from err
        if response.status_code != 200:
            with response:
                raise _refusal(response, self._url)
        return response


def databricks_client(settings: ClientSettings) -> BaseDeploymentClient:
    """MLflow's own client of the ``databricks`` target, unmodified; it takes its server from the environment.

    Args:
        settings: Where the server is. A server without tokens accepts any, and the client insists on one.
    """
    export({"DATABRICKS_HOST": settings.url, "DATABRICKS_TOKEN": settings.token or "no-token-needed"})
    return get_deploy_client("databricks")


def run_local(name: str, model_uri: str, flavor: str | None = None, config: Any = None) -> NoReturn:
    """Refused: a registered model cannot be served yet. MLflow wants this function here."""
    _refuse_model(model_uri)


def target_help() -> str:
    """What `mlflow deployments help -t llmops` shows."""
    return _HELP


class _Bearer(AuthBase):
    """The token of each request; set even without one, because requests would else look for one in a .netrc."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _url(target_uri: str) -> str | None:
    """The server of a target; None where the environment names it."""
    forms = "llmops, llmops://host:port or llmops+https://host"
    try:
        parts = urlsplit(target_uri)
        host, user, _ = parts.hostname, parts.username, parts.port
    except ValueError as err:
        raise DeploymentError(f"the target is not a URI ({err}); it is {forms}", "INVALID_PARAMETER_VALUE") from err
    if user is not None:
        raise DeploymentError("the target holds a password: name a token with LLMOPS_TOKEN", "INVALID_PARAMETER_VALUE")
    if target_uri in ("llmops", "llmops:", "llmops://"):
        return None
    if parts.scheme not in _SCHEMES or host is None or parts.path.strip("/"):
        raise DeploymentError(f"'{target_uri}' is no target: it is {forms}", "INVALID_PARAMETER_VALUE")
    return f"{_SCHEMES[parts.scheme]}://{parts.netloc}"


def _named(endpoint: str | None, deployment_name: str | None) -> str:
    name = endpoint or deployment_name
    if not name:
        raise DeploymentError("name the endpoint: predict(endpoint=…, inputs=…)", "INVALID_PARAMETER_VALUE")
    return name


def _body(inputs: Any) -> Any:
    """The body of an invocation.

    Args:
        inputs: The body itself, or a DataFrame: pandas reads ``{"messages": [{…}, {…}], "max_tokens": 5}`` as a row
            for each message with the 5 repeated, and ``[{"messages": […]}]`` as one row.
    """
    if not hasattr(inputs, "to_json"):
        return inputs
    rows = orjson.loads(inputs.to_json(orient="records"))
    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    field = next((field for field in FIELD.values() if field in columns), None)
    if field is None:
        known = ", ".join(FIELD.values())
        raise DeploymentError(f"the input has none of the fields {known}", "INVALID_PARAMETER_VALUE")
    cells = columns.pop(field)
    if isinstance(cells[0], list) and len(cells) > 1:
        raise DeploymentError(f"the input holds {len(cells)} requests; send one at a time", "INVALID_PARAMETER_VALUE")
    content = cells[0] if isinstance(cells[0], list) else [_unread(cell) for cell in cells]
    return {field: content, **{name: values[0] for name, values in columns.items() if values[0] is not None}}


def _unread(cell: Any) -> Any:
    """A text that pandas read as a number, as a text again."""
    return str(cell) if isinstance(cell, int | float) else cell


def _refuse_model(model_uri: str | None) -> NoReturn:
    raise DeploymentError(
        f"'{model_uri}' cannot be deployed: this version serves no registered models; create_endpoint(config=…) makes"
        " an endpoint of a vendor's model or of a foundation model",
        "NOT_IMPLEMENTED",
    )


def _refusal(response: requests.Response, url: str) -> DeploymentError:
    """The error of an answer that is none."""
    try:
        told = orjson.loads(response.content)
        return DeploymentError(str(told["message"]), str(told["error_code"]))
    except (ValueError, KeyError, TypeError, requests.exceptions.RequestException):
        return _stranger(response, url)


def _stranger(response: requests.Response, url: str) -> DeploymentError:
    status = f"{response.status_code} {response.reason}"
    return DeploymentError(f"{url} answered {status}, not as an llmops server does: is the target right?")
