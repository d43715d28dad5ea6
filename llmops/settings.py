"""Every setting of the project, and the only place but the secrets that reads the environment.

A flag wins over its environment variable, which wins over the default. What a client needs (`LLMOPS_HOST`) a server
never reads: a server started in a shell that talks to another one must not take that one's address for its own.
"""

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

DEFAULT_PORT = 8080
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

#: What every child process gets: litellm would fetch a price list (and `mlflow server` deadlock waiting for it),
#: MLflow would start job processes and send telemetry.
CHILD_ENVIRONMENT: Mapping[str, str] = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server and its processes need to know.

    Attributes:
        data_dir: Holds the store, the spools, MLflow's files and the logs of children.
        token: The admin's token; None where none is asked for (loopback only).
        internal_key: Shared by the processes of one `serve`; the key of every child's HTTP server. Made at each start.
        secrets_dir: Holds ``scope/key`` files, Kubernetes style; None where none is mounted.
        spool_full_sync: True makes every interaction survive a power loss, not only a killed process.
    """

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    configs: Path | None = None
    workers: int = 1
    mlflow_ui: bool = True
    mlflow_ui_port: int = 0
    mlflow_tracking_uri: str | None = None
    token: str | None = None
    internal_key: str = ""
    spool_full_sync: bool = False
    secrets_dir: Path | None = None

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in LOOPBACK

    @property
    def url(self) -> str:
        """Where this machine reaches the server."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - read, not bound
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def store_path(self) -> Path:
        """The database of endpoints."""
        return self.data_dir / "llmops.db"

    @property
    def spool_dir(self) -> Path:
        """One spool file for each worker."""
        return self.data_dir / "spool"

    @property
    def log_dir(self) -> Path:
        """One log file for each child process."""
        return self.data_dir / "logs"

    @property
    def model_dir(self) -> Path:
        """The Hugging Face cache the local engine loads from."""
        return self.data_dir / "models"

    @property
    def tracking_uri(self) -> str:
        """Where MLflow keeps runs and traces."""
        return self.mlflow_tracking_uri or f"sqlite:///{(self.data_dir / 'mlflow.db').absolute()}"

    @property
    def artifact_root(self) -> str:
        """Where MLflow keeps artifacts of experiments we create; it would take the working directory otherwise."""
        return (self.data_dir / "mlartifacts").absolute().as_uri()


def server_settings(
    *,
    host: str | None = None,
    port: int | None = None,
    configs: Path | None = None,
    data_dir: Path | None = None,
    workers: int | None = None,
    mlflow_ui: bool = True,
    mlflow_ui_port: int = 0,
) -> Settings:
    """The settings of a server, or of a command that reads a data directory: flags, environment, defaults."""
    return Settings(
        data_dir=data_dir or Path(os.environ.get("LLMOPS_DATA_DIR") or ".llmops"),
        host=host or "127.0.0.1",
        port=DEFAULT_PORT if port is None else port,
        configs=configs,
        workers=workers or 1,
        mlflow_ui=mlflow_ui,
        mlflow_ui_port=mlflow_ui_port,
        mlflow_tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or None,
        token=os.environ.get("LLMOPS_TOKEN") or None,
        internal_key=os.environ.get("LLMOPS_INTERNAL_KEY", ""),
        spool_full_sync=os.environ.get("LLMOPS_SPOOL_SYNC", "").upper() == "FULL",
        secrets_dir=Path(mounted) if (mounted := os.environ.get("LLMOPS_SECRETS_DIR")) else None,
    )


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment of a child process: ours, its own switches, and the internal key."""
    own = {"LLMOPS_INTERNAL_KEY": settings.internal_key, "LLMOPS_DATA_DIR": str(settings.data_dir.absolute())}
    # In the environment, because a database's URI may hold a password, and arguments are seen by everybody.
    tracking = {"MLFLOW_TRACKING_URI": settings.tracking_uri, "MLFLOW_BACKEND_STORE_URI": settings.tracking_uri}
    return {**os.environ, **CHILD_ENVIRONMENT, **own, **tracking}


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Where a command finds the server.

    Attributes:
        url: Root of the server, without a slash at the end.
        token: Sent as a bearer token; None sends none.
    """

    url: str
    token: str | None


def client_settings(host: str | None = None, token: str | None = None) -> ClientSettings:
    """The server a command talks to: flag, ``LLMOPS_HOST``, else this machine's default port."""
    url = (host or os.environ.get("LLMOPS_HOST") or f"http://127.0.0.1:{DEFAULT_PORT}").rstrip("/")
    return ClientSettings(url if urlsplit(url).netloc else f"http://{url}", token or os.environ.get("LLMOPS_TOKEN"))


def export(values: Mapping[str, str]) -> None:
    """Set variables for libraries of this process that can be configured no other way."""
    os.environ.update(values)


def reach_loopback_directly() -> None:
    """Keep a proxy of the environment away from this machine's own addresses, in this process and its children.

    A proxy would otherwise see what goes to our engines, keys included.
    """
    for name in ("NO_PROXY", "no_proxy"):
        given = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*given, *sorted(LOOPBACK)]))


def use_shipped_vocabulary() -> None:
    """Point tiktoken at the vocabularies inside the litellm package, so that it needs no network."""
    for folder in _litellm_folders():
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(folder / "litellm_core_utils" / "tokenizers"))


def price_list() -> Path | None:
    """The price list inside the litellm package; None where the package has none."""
    found = (folder / "model_prices_and_context_window_backup.json" for folder in _litellm_folders())
    return next((path for path in found if path.is_file()), None)


def _litellm_folders() -> list[Path]:
    """Where the litellm package lies, without importing it; empty where it is not installed."""
    spec = importlib.util.find_spec("litellm")
    return [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
