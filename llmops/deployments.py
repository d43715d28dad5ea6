"""MLflow's Deployments client, pointed at a server of this project."""

from mlflow.deployments import BaseDeploymentClient, get_deploy_client

from llmops.settings import ClientSettings, export


def databricks_client(settings: ClientSettings) -> BaseDeploymentClient:
    """MLflow's own client of the ``databricks`` target, unmodified; it takes its server from the environment.

    Args:
        settings: Where the server is. A server without tokens accepts any, and the client insists on one.
    """
    export({"DATABRICKS_HOST": settings.url, "DATABRICKS_TOKEN": settings.token or "no-token-needed"})
    return get_deploy_client("databricks")
