"""MLflow databases, and everything that is in them, told so that two can be compared."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mlflow.store.db.base_sql_model import Base
from sqlalchemy import create_engine, select

from llmops.settings import Settings
from tests.postgres import postgres_database

#: Read from the clock, or made anew with each experiment.
_OWN = frozenset({"creation_time", "last_update_time"})


@contextmanager
def new_stores(kind: str, folder: Path, template: Path, count: int = 1) -> Iterator[list[Settings]]:
    """Settings of data directories whose tracking store is a new database: sqlite or postgresql."""
    with ExitStack() as databases:
        made = []
        for number in range(count):
            data_dir = folder / f"{kind}-{number}"
            data_dir.mkdir()
            uri = None
            if kind == "sqlite":
                shutil.copy(template, data_dir / "mlflow.db")
            else:
                uri = databases.enter_context(postgres_database()).replace("postgresql:", "postgresql+psycopg2:")
            made.append(Settings(data_dir=data_dir, mlflow_tracking_uri=uri))
        yield made


def content(settings: Settings) -> dict[str, list[str]]:
    """Every row of every table, sorted, without what two stores never share: ids of runs, experiments, and places."""
    engine = create_engine(settings.tracking_uri)
    with engine.connect() as connection:
        tables = {
            table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
            for table in Base.metadata.sorted_tables
        }
    engine.dispose()
    names = _names(settings, tables)
    return {name: sorted(_told(row, names) for row in rows) for name, rows in tables.items() if rows}


def _names(settings: Settings, tables: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """What stands for the id of a run or an experiment: the interaction or the session, the name."""
    names = {f"experiment {row['experiment_id']}": row["name"] for row in tables["experiments"]}
    names["artifact root"] = settings.artifact_root
    runs = [row for row in tables["tags"] if row["key"] in ("llmops.interaction_id", "llmops.session")]
    return names | {row["run_uuid"]: f"run of {row['value']}" for row in runs}


def _told(row: dict[str, Any], names: dict[str, str]) -> str:
    shown = {key: value for key, value in row.items() if key not in _OWN}
    if "experiment_id" in shown:
        shown["experiment_id"] = names[f"experiment {shown['experiment_id']}"]
    for key, value in shown.items():
        if isinstance(value, str):
            shown[key] = value.replace(names["artifact root"], "root")
    place = "value" if row.get("key") in ("mlflow.sourceRun", "mlflow.parentRunId") else "artifact_uri"
    for key in {"run_uuid", place} & shown.keys():
        run_id = next(part for part in shown[key].split("/") if part in names)
        shown[key] = shown[key].replace(run_id, names[run_id])
    return repr(sorted(shown.items()))
