"""A process that brings spools into tables, and is killed: `python -m tests.interactions.table_shipper DIR ROOT`."""

import sys
import time
from pathlib import Path

from llmops.interactions.consumer import Consumer, Route
from llmops.interactions.record import Interaction
from llmops.interactions.table_sink import TableSink
from llmops.settings import Settings


def main() -> None:
    """Say when all is imported, ship until nothing is left, and say so."""
    settings = Settings(data_dir=Path(sys.argv[1]), tables_uri=sys.argv[2], table_linger_s=0.0, table_compact_every=7)
    sink = TableSink(settings)
    # Small batches: more moments to be killed at.
    sink.batch = 20
    route = Route(settings.spool_dir, Interaction.decode, lambda one: one, [sink])
    sink.open()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    Consumer(route, sink, full_sync=False).drain(time.monotonic() + 60)
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()
