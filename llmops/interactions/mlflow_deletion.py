"""Deletes logged interactions from MLflow: which way the tracking store needs.

A SQL database of a schema we know is deleted from directly, rows and all. Everywhere else MLflow's API is used, which
deletes traces but only marks runs as deleted.
"""

from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from llmops.interactions.deletion import Deletion
from llmops.interactions.mlflow_api_deletion import ApiDeletion
from llmops.interactions.mlflow_schema import check, objection
from llmops.interactions.mlflow_sql_deletion import SqlDeletion
from llmops.interactions.mlflow_store import open_store
from llmops.settings import Settings


def open_deletion(settings: Settings) -> Deletion:
    """Connect to the tracking store, to delete from it.

    Raises:
        Unavailable: It cannot be reached, or its schema is not that of the MLflow that is installed.
    """
    check(settings.tracking_uri)
    store = open_store(settings)
    known = isinstance(store, SqlAlchemyStore) and not objection(store)
    return SqlDeletion(store) if known else ApiDeletion(store)
