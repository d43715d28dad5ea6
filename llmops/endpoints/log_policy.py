"""What is recorded of an endpoint's interactions: what its owner writes down, and what the worker makes of it."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from llmops.endpoints.document import Document

Content = Literal["everything", "metadata", "nothing"]


class EndpointExtras(Document):
    """The ``llmops:`` block of an endpoint.

    Attributes:
        log: What is recorded: everything; metadata (no word of the caller or of the model, and no error message,
            which may quote either); nothing.
        mask_pii: Whether personal data is replaced by placeholders before anything is written down.
        retention_days: Interactions older than this are deleted by ``llmops interactions prune``; None keeps them.
        table_sampling: Share of the interactions that go to the inference table.
    """

    log: Content = "everything"
    mask_pii: bool = False
    # Strict: YAML's `yes` is 1 to a lenient reader, and one day later everything would be gone.
    retention_days: int | None = Field(default=None, ge=1, le=36_500, strict=True)
    table_sampling: float = Field(default=1.0, ge=0, le=1, allow_inf_nan=False)


def read_extras(given: Any) -> Any:
    """Check an ``llmops:`` block strictly, also where the rest of a document may have unknown keys.

    No stock client sends this block, so a key we do not know is a typing mistake, and one in a privacy setting must
    not be passed over.

    Raises:
        ValidationError: Which pydantic takes apart again, so that each problem keeps its place.
    """
    return EndpointExtras.model_validate(given, extra="forbid") if isinstance(given, dict) else given


@dataclass(frozen=True, slots=True)
class LogPolicy:
    """What a worker does with the interactions of one endpoint.

    Attributes:
        mask: Whether personal data is masked first.
        payload_table: ``catalog.schema.prefix_payload``; None where there is no inference table.
        sampling: Share of interactions that go to that table, 0 to 1.
        usage_tracked: Whether they count in the usage tables.
    """

    log: Content = "everything"
    mask: bool = False
    payload_table: str | None = None
    sampling: float = 1.0
    usage_tracked: bool = False

    def table(self, interaction_id: str) -> str | None:
        """The table the payload of an interaction goes to; always the same for the same interaction."""
        # The last digits of the id are random: the share of ids below the threshold is the sampling.
        if self.payload_table is None or int(interaction_id[-8:], 16) >= self.sampling * 0x1_0000_0000:
            return None
        return self.payload_table


#: Of calls that reach no endpoint, and of endpoints that do not say.
EVERYTHING = LogPolicy()
#: Of an endpoint whose document cannot be read: its owner may have asked for less than everything.
METADATA = LogPolicy(log="metadata")
