"""Which served entity is asked, and which ones after it."""

from llmops.gateway.table import LiveEndpoint, LiveEntity


def order(endpoint: LiveEndpoint, draw: float) -> list[LiveEntity]:
    """Order the served entities of an endpoint for one request.

    Args:
        draw: Uniform in [0, 1); decides the split.

    Returns:
        First the one the split chose; after it, where fallback is on, the others in the order of the document.
    """
    threshold = draw * 100
    chosen = 0
    for index, percentage in enumerate(endpoint.percentages):
        chosen = index
        threshold -= percentage
        if threshold < 0:
            break
    first = endpoint.entities[chosen]
    if not endpoint.fallback:
        return [first]
    return [first, *(entity for index, entity in enumerate(endpoint.entities) if index != chosen)]
