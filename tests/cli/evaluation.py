"""What a person does with a dataset: `python -m tests.cli.evaluation DATASET_ID SERVER_URL ENDPOINT` evaluates with it.

A process of its own, since MLflow keeps where it writes in the process, and a judge's libraries look for the network.
"""

import json
import sys

import httpx
import mlflow
from mlflow.genai.scorers import scorer


@scorer  # type: ignore[untyped-decorator]
def same(outputs: str, expectations: dict[str, str]) -> bool:
    """Whether the answer is the expected one."""
    return outputs == expectations["expected_response"]


def evaluate(dataset_id: str, url: str, endpoint: str) -> dict[str, float]:
    """Ask the endpoint every question of the dataset; returns MLflow's metrics."""

    def ask(**row: object) -> str:
        answer = httpx.post(f"{url}/serving-endpoints/{endpoint}/invocations", json=row, timeout=30)
        return str(answer.raise_for_status().json()["choices"][0]["message"]["content"])

    mlflow.set_experiment(f"llmops/{endpoint}")
    dataset = mlflow.genai.datasets.get_dataset(dataset_id=dataset_id)
    result = mlflow.genai.evaluate(data=dataset, predict_fn=ask, scorers=[same])
    assert len(result.result_df) == len(dataset.to_df())
    return dict(result.metrics)


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(evaluate(*sys.argv[1:]))}\n")
