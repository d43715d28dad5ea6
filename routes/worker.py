"""One gateway worker as a process: uvicorn on a socket that the supervisor opened."""

import argparse
import gc
import logging
import socket
from pathlib import Path

import uvicorn

from llmops.leash import hold
from llmops.settings import Settings, server_settings
from routes.app import create_app

#: How long running requests may take to end after SIGTERM.
GRACE_S = 10


def main() -> None:
    """Serve until SIGTERM, then let the running requests end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", type=int, required=True)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--own-fd", type=int, required=True, help="a socket that only this worker answers")
    parser.add_argument("--limits-fd", type=int, required=True, help="memory in which all workers count limits")
    parser.add_argument("--host", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # Longer than uvicorn takes, so that what was cut short is recorded.
    hold(grace_s=GRACE_S + 5)
    settings = server_settings(host=given.host, data_dir=given.data_dir)
    serve(settings, given.worker, given.limits_fd, [socket.socket(fileno=fd) for fd in (given.fd, given.own_fd)])


def serve(settings: Settings, worker: int, limits_memory: int, listeners: list[socket.socket]) -> None:
    """Run one worker on listening sockets."""
    config = uvicorn.Config(
        create_app(settings, worker, limits_memory),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
        lifespan="on",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    # What is made at the start lives to the end: the collector need not look at it at every turn.
    gc.collect()
    gc.freeze()
    uvicorn.Server(config).run(sockets=listeners)


if __name__ == "__main__":
    main()
