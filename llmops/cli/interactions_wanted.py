"""The options that choose interactions, for every command that reads the log."""

import functools
import re
import time
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Concatenate, ParamSpec

import click

from llmops.errors import InvalidParameter
from llmops.interactions.logged import Wanted

Rest = ParamSpec("Rest")

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

with_data_dir = click.option("--data-dir", type=click.Path(path_type=Path), help="The server's directory (.llmops).")


def _epoch_ms(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """How long ago or when, as epoch milliseconds."""
    if value is None:
        return None
    age = re.fullmatch(r"(\d{1,9})([smhdw])", value)
    if age:
        return time.time_ns() // 1_000_000 - int(age[1]) * _SECONDS[age[2]] * 1000
    try:
        return int(datetime.fromisoformat(value).timestamp() * 1000)
    except (ValueError, OverflowError) as err:
        raise click.BadParameter(f"'{value}' is neither an age (30s, 15m, 6h, 7d) nor a date (2026-01-31)") from err


def _lower(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    return value and value.lower()


def with_wanted(command: Callable[Concatenate[Wanted, Rest], None]) -> Callable[..., None]:
    """Add the options that choose interactions to a command, and call it with the choice as its first argument."""
    of_endpoint = click.option("--endpoint", help="Of this endpoint; _rejected for calls that reached none.")
    return of_endpoint(with_filters(command))


def with_filters(command: Callable[Concatenate[Wanted, Rest], None]) -> Callable[..., None]:
    """Add the same options but --endpoint, for a command where that means another thing."""

    @click.option("--user", help="Of this user.")
    @click.option("--session", help="Of this session.")
    @click.option(
        "--status",
        callback=_lower,
        help="502; 5xx; error (any without a whole answer); answered, failed, cut, abandoned.",
    )
    @click.option("--model", help="Answered, or last tried, by this model.")
    @click.option("--served-entity", help="By this served entity.")
    @click.option("--provider", help="By this provider.")
    @click.option("--request-id", "client_request_id", help="With this client_request_id.")
    @click.option("--since", "since_ms", callback=_epoch_ms, help="Received since: 15m, 6h, 7d, 2026-01-31.")
    @click.option("--until", "until_ms", callback=_epoch_ms, help="Received before; as --since.")
    @click.option("--min-cost", "min_cost_usd", type=click.FloatRange(0), metavar="USD", help="Cost so much or more.")
    @click.option(
        "--min-latency", "min_latency_ms", type=click.FloatRange(0), metavar="MS", help="Took so long or more."
    )
    @click.option("--contains", metavar="TEXT", help="With this text in the request or the response, in any case.")
    @functools.wraps(command)
    def chosen(*args: Rest.args, **kwargs: Rest.kwargs) -> None:
        choice = {field.name: kwargs.pop(field.name, None) for field in fields(Wanted)}
        try:
            wanted = Wanted(**choice)  # type: ignore[arg-type]
        except InvalidParameter as err:
            raise click.UsageError(err.message) from err
        command(wanted, *args, **kwargs)

    return chosen
