"""What a replay may spend. What is on its way counts as the dearest answer so far; the first one goes alone."""

from llmops.experiments.arrivals import Arrivals

_PATIENCE_S = 30.0


class Budget:
    """The limit of a replay.

    Args:
        most_usd: None where there is no limit.

    Attributes:
        over: Why nothing more may be asked; empty while it may.
    """

    def __init__(self, arrivals: Arrivals, most_usd: float | None) -> None:
        self._arrivals = arrivals
        self._most_usd = most_usd
        self.over = ""

    def allows(self, asking: int) -> bool:
        """Tell whether one more may be asked now; if not, perhaps when what is on its way has arrived.

        Args:
            asking: How many are being asked.
        """
        if self._most_usd is None or self.over:
            return not self.over
        self._arrivals.look()
        found = self._arrivals.found.values()
        unpriced = next((one for one in found if one.cost_usd is None and one.input_tokens is not None), None)
        if unpriced is not None:
            self.over = f"the price of '{unpriced.model}' is not known, so --max-cost cannot be kept"
        elif self._arrivals.oldest_s > _PATIENCE_S:
            self.over = f"costs do not arrive in this MLflow within {_PATIENCE_S:g} s, so --max-cost cannot be kept"
        unsettled = asking + self._arrivals.awaited
        if self.over or not found:
            return not self.over and unsettled == 0
        costs = [one.cost_usd or 0.0 for one in found]
        if sum(costs) + (unsettled + 1) * max(costs) <= self._most_usd:
            return True
        if unsettled == 0:
            self.over = f"{sum(costs):.6f} USD are spent, and one more answer might exceed --max-cost"
        return False

    def wait(self) -> None:
        """Wait a little for what is on its way."""
        self._arrivals.pause()
