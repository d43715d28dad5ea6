"""The foreign formats by name, and which of them a file is in."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from llmops.endpoints.files import MAX_FILE_BYTES
from llmops.endpoints.importers import databricks, litellm_config, mlflow_gateway
from llmops.endpoints.importers.foreign import Harvest
from llmops.errors import CommandError

#: Where a Databricks endpoint says what it serves; the second is alone until it is ready for the first time.
_CONFIGS = frozenset({"config", "pending_config"})
FORMATS: Mapping[str, Callable[[Mapping[str, Any]], Harvest]] = {
    "mlflow": mlflow_gateway.harvest,
    "litellm": litellm_config.harvest,
    "databricks": databricks.harvest,
}


def harvest(path: Path, format_: str | None = None) -> Harvest:
    """Read a foreign file, YAML or JSON.

    Args:
        format_: A name of FORMATS; None finds it out.

    Raises:
        CommandError: The file cannot be read, or is in none of the formats. No line of it is repeated.
    """
    document = _document(path)
    format_ = format_ or _format(document)
    if format_ is None:
        raise CommandError(
            f"{path}: neither a config of MLflow's gateway (endpoints), nor of litellm (model_list), nor an endpoint of"
            " Databricks (name, config); say --format"
        )
    return FORMATS[format_](document)


def _format(document: Mapping[str, Any]) -> str | None:
    if isinstance(document.get("model_list"), list):
        return "litellm"
    listed = document.get("endpoints") if "endpoints" in document else document.get("routes")
    items = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    if any("model" in item for item in items):
        return "mlflow"
    if any(_CONFIGS & item.keys() for item in items) or ("name" in document and _CONFIGS & document.keys()):
        return "databricks"
    return None


def _document(path: Path) -> dict[Any, Any]:
    try:
        if (size_bytes := path.stat().st_size) > MAX_FILE_BYTES:
            raise CommandError(f"{path}: {size_bytes} bytes are too many; at most {MAX_FILE_BYTES}")
        document = _parsed(path.read_text("utf-8"))
    except yaml.MarkedYAMLError as err:
        line = f":{err.problem_mark.line + 1}" if err.problem_mark else ""
        raise CommandError(f"{path}{line}: not YAML: {err.problem}") from None
    except (UnicodeDecodeError, yaml.YAMLError, ValueError, TypeError, RecursionError):
        raise CommandError(f"{path}: not YAML in UTF-8") from None
    if not isinstance(document, dict):
        raise CommandError(f"{path}: not a mapping; name a gateway's config or an endpoint's JSON")
    return document


def _parsed(text: str) -> Any:
    """What a text of JSON or YAML holds. YAML takes an escaped pair of surrogates apart, so JSON is tried first."""
    try:
        return json.loads(text)
    except ValueError:
        return yaml.safe_load(text)
