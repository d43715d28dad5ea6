"""Records of evaluation datasets that were made from traces, found and deleted through MLflow's API."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from http import HTTPStatus

from mlflow.exceptions import MlflowException
from mlflow.store.tracking.abstract_store import AbstractStore

from llmops.interactions.mlflow_experiments import explained

_PAGE = 500


class Copies:
    """The records of evaluation datasets; every method may raise `Unavailable`: the tracking store is away."""

    def __init__(self, store: AbstractStore) -> None:
        self._store = store

    def find(self, experiments: Sequence[str], trace_ids: Collection[str]) -> Mapping[str, list[str]]:
        """Find the records that were made from traces.

        Args:
            experiments: Ids; datasets of others are not looked at.

        Returns:
            Ids of records by the id of their dataset; datasets without such records are left out.
        """
        found = {}
        for dataset_id in self._datasets(experiments):
            with explained():
                mine = [key for key, source in self._records(dataset_id) if source in trace_ids]
            if mine:
                found[dataset_id] = mine
        return found

    def delete(self, experiments: Sequence[str], trace_ids: Collection[str]) -> int:
        """Delete what `find` finds; returns how many there were."""
        count = 0
        for dataset_id, records in self.find(experiments, trace_ids).items():
            for first in range(0, len(records), _PAGE):
                with explained():
                    count += self._store.delete_dataset_records(dataset_id, records[first : first + _PAGE])
        return count

    def _datasets(self, experiments: Sequence[str]) -> Iterator[str]:
        token: str | None = None
        while experiments:
            with explained():
                try:
                    page = self._store.search_datasets(list(experiments), max_results=_PAGE, page_token=token)
                except NotImplementedError:
                    return
                except MlflowException as err:
                    if err.get_http_status_code() == HTTPStatus.NOT_FOUND:
                        return  # A server that is older than datasets.
                    raise
            yield from (str(one.dataset_id) for one in page)
            token = page.token
            if not token:
                return

    def _records(self, dataset_id: str) -> Iterator[tuple[str, str | None]]:
        token: str | None = None
        while True:
            # MLflow's public way reads all records at once.
            records, token = self._store._load_dataset_records(dataset_id, max_results=_PAGE, page_token=token)
            yield from ((str(one.dataset_record_id), one.source_id) for one in records)
            if not token:
                return
