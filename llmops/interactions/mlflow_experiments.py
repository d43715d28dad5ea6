"""The experiments that interactions were logged to, found again, and what MLflow says when it cannot."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from mlflow.store.tracking.abstract_store import AbstractStore

from llmops.errors import Unavailable
from llmops.interactions.mlflow_entities import EXPERIMENT_PREFIX
from llmops.interactions.mlflow_store import judge


def endpoint_experiments(store: AbstractStore) -> Mapping[str, str]:
    """The ids of our experiments by endpoint; ``_rejected`` and those of endpoints that are gone among them.

    Raises:
        Unavailable: The tracking store is away, or refuses.
    """
    found: dict[str, str] = {}
    token: str | None = None
    with explained():
        while True:
            page = store.search_experiments(
                max_results=1000, filter_string=f"name LIKE '{EXPERIMENT_PREFIX}%'", page_token=token
            )
            found |= {one.name.removeprefix(EXPERIMENT_PREFIX): str(one.experiment_id) for one in page}
            token = page.token
            if not token:
                return found


@contextmanager
def explained() -> Iterator[None]:
    """Turn what MLflow says into `Unavailable`, without the values of its statements."""
    try:
        yield
    except MlflowException as err:
        raise Unavailable(judge(err, tries=1).reason) from err
