"""The history of an endpoint as people read it: each config by its version, when it came, and what it changed."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from llmops.cli.plan import shown
from llmops.endpoints.difference import asked, changes
from llmops.endpoints.spec import EndpointSpec
from llmops.errors import InvalidSpec


def print_history(name: str, versions: Sequence[Mapping[str, Any]]) -> None:
    """Print versions, the newest first, each with its differences from the one before."""
    specs = [_spec(name, version) for version in versions]
    for number, (version, spec) in enumerate(zip(versions, specs, strict=True)):
        when = datetime.fromtimestamp(version["timestamp"] / 1000, UTC)
        click.echo(f"version {version['config_version']}  {when:%Y-%m-%d %H:%M:%S} UTC")
        before = specs[number + 1] if number + 1 < len(specs) else None
        for change in changes(before, spec) if before and spec else ():
            click.echo(f"    {shown(change)}")


def _spec(name: str, version: Mapping[str, Any]) -> EndpointSpec | None:
    """The config as an endpoint; None where this release cannot read it."""
    try:
        return asked({"name": name, "config": version["config"]})
    except InvalidSpec:
        return None
