"""Every setting of the project, and the only place but the secrets that reads the environment.

A flag wins over its environment variable, which wins over the default. What a client needs (`LLMOPS_HOST`) a server
never reads: a server started in a shell that talks to another one must not take that one's address for its own.
"""

import importlib.util
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from llmops.errors import CommandError

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
    """What a server and its processes need to know. Its repr leaves out what is, or may hold, a password.

    Attributes:
        data_dir: Holds the store, the spools, MLflow's files and the logs of children.
        token: The admin's token; None where none is asked for (loopback only).
        internal_key: Shared by the processes of one `serve`; the key of every child's HTTP server. Made at each start.
        secrets_dir: Holds ``scope/key`` files, Kubernetes style; None where none is mounted.
        spool_full_sync: True makes every interaction survive a power loss, not only a killed process.
        spool_max_mb: A worker's spool of this size is full.
        spool_when_full: sample (one of a hundred interactions is recorded) or refuse (invocations are, with 503).
        tables_uri: Root of the inference tables: a directory, or s3://, abfss://, gs://; None: in the data directory.
        table_linger_s: A payload waits at most so long for others to be written with.
        table_compact_every: After so many commits the small files of a table are joined.
        table_vacuum_hours: Files of a table that were replaced are deleted after so long.
        database_url: ``postgresql://`` for our own store; None keeps it in the data directory.
        redis_url: ``redis://`` where machines share the counts of rate limits; None: each has its own.
        limits_when_away: While Redis is away: open (each machine counts for itself) or closed (nobody is let in).
        stream_max_mb: A streamed answer is cut there; a worker holds its chunks until its end, ten times as large.
        allowed_networks: Networks and hosts that a config from REST may lead to although they are not public.
    """

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    configs: Path | None = None
    workers: int = 1
    mlflow_ui: bool = True
    mlflow_ui_port: int = 0
    mlflow_tracking_uri: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    internal_key: str = field(default="", repr=False)
    spool_full_sync: bool = False
    secrets_dir: Path | None = None
    spool_max_mb: int = 4096
    spool_when_full: str = "sample"
    tables_uri: str | None = field(default=None, repr=False)
    table_linger_s: float = 5.0
    table_compact_every: int = 100
    table_vacuum_hours: int = 168
    database_url: str | None = field(default=None, repr=False)
    redis_url: str | None = field(default=None, repr=False)
    limits_when_away: str = "open"
    stream_max_mb: int = 32
    allowed_networks: tuple[str, ...] = ()

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
    def feedback_dir(self) -> Path:
        """What people think of answers, on its way to MLflow; one spool file for each worker."""
        return self.data_dir / "feedback"

    @property
    def table_root(self) -> str:
        """Root of the inference tables, without a slash at the end."""
        return (self.tables_uri or str((self.data_dir / "tables").absolute())).rstrip("/")

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
        scheme, separator, rest = (self.mlflow_tracking_uri or "").partition("://")
        if scheme in ("postgresql", "postgres"):
            # The driver we install; SQLAlchemy's default is another one since 2.1.
            return f"postgresql+psycopg2{separator}{rest}"
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
        spool_max_mb=int(_number("LLMOPS_SPOOL_MAX_MB", 4096)),
        spool_when_full=_choice("LLMOPS_SPOOL_WHEN_FULL", ("sample", "refuse")),
        tables_uri=os.environ.get("LLMOPS_TABLES_URI") or None,
        table_linger_s=_number("LLMOPS_TABLE_LINGER_S", 5.0),
        table_compact_every=max(int(_number("LLMOPS_TABLE_COMPACT_EVERY", 100)), 2),
        table_vacuum_hours=int(_number("LLMOPS_TABLE_VACUUM_HOURS", 168)),
        database_url=os.environ.get("LLMOPS_DATABASE_URL") or None,
        redis_url=_redis(os.environ.get("LLMOPS_REDIS_URL")),
        limits_when_away=_choice("LLMOPS_LIMITS_WHEN_AWAY", ("open", "closed")),
        stream_max_mb=max(int(_number("LLMOPS_STREAM_MAX_MB", 32)), 1),
        allowed_networks=_networks("LLMOPS_ALLOWED_NETWORKS"),
    )


def _number(name: str, default: float) -> float:
    """A number >= 0 from the environment."""
    given = os.environ.get(name) or str(default)
    try:
        number = float(given)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise CommandError(f"{name} is '{given}'; it must be a number that is not negative")
    return number


def _networks(name: str) -> tuple[str, ...]:
    """Networks and names of hosts from the environment, separated by commas."""
    given = tuple(item.strip() for item in os.environ.get(name, "").split(",") if item.strip())
    for item in given:
        # Of digits alone, or with a slash or a colon, it is meant as a network.
        is_name = re.fullmatch(r"[A-Za-z0-9_.-]*[A-Za-z][A-Za-z0-9_.-]*", item) is not None
        try:
            is_name or ipaddress.ip_network(item, strict=False)
        except ValueError:
            raise CommandError(
                f"{name} has '{item}'; it must be networks and names of hosts with commas between: 10.1.0.0/16,llm.corp"
            ) from None
    return given


def _redis(given: str | None) -> str | None:
    """The URL of a Redis, checked before any process starts; a URL may hold a password, so it is not repeated."""
    if given and not re.match(r"(rediss?|unix)://.", given):
        raise CommandError("LLMOPS_REDIS_URL must be redis://host:6379/0, rediss://… or unix://…")
    return given or None


def _choice(name: str, choices: tuple[str, ...]) -> str:
    """One of the choices from the environment; the first where it is not set."""
    given = (os.environ.get(name) or choices[0]).lower()
    if given not in choices:
        raise CommandError(f"{name} is '{given}'; it must be {' or '.join(choices)}")
    return given


def child_environment(settings: Settings, *, keys: bool = False) -> dict[str, str]:
    """The environment of a child process: ours, its own switches, and the internal key.

    Args:
        keys: Whether it may know the keys of endpoints, and the admin's token; an engine or MLflow's server need not.
    """
    own = {"LLMOPS_INTERNAL_KEY": settings.internal_key, "LLMOPS_DATA_DIR": str(settings.data_dir.absolute())}
    # In the environment, because a database's URI may hold a password, and arguments are seen by everybody.
    tracking = {"MLFLOW_TRACKING_URI": settings.tracking_uri, "MLFLOW_BACKEND_STORE_URI": settings.tracking_uri}
    hidden = () if keys else ("LLMOPS_SECRET_", "LLMOPS_MASTER_KEY", "LLMOPS_TOKEN")
    given = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return {**given, **CHILD_ENVIRONMENT, **own, **tracking}


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Where a command finds the server.

    Attributes:
        url: Root of the server, without a slash at the end.
        token: Sent as a bearer token; None sends none.
    """

    url: str
    token: str | None = field(repr=False)


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
