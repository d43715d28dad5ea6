"""The child that runs one local model: llama.cpp and its own OpenAI-compatible server, by way of xllamacpp.

    python -m llmops.providers.llama_cpp --model PATH [--embeddings] [--context N] [--parallel N] [--threads N]

It writes one line to stdout, {"address": "http://127.0.0.1:PORT"} once the model answers, or {"error": "..."}. Every
route but /health wants the key in LLMOPS_INTERNAL_KEY. SIGTERM lets it finish what it has begun; the end of stdin
ends it at once, because then the gateway is gone.
"""

import argparse
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

from llmops import leash
from llmops.errors import EndpointNotReady
from llmops.settings import server_settings

try:
    import xllamacpp
except ImportError:  # There is no wheel for this machine, or setup went on without it.
    xllamacpp = None

#: Tokens of context where none are asked for. What the model was trained with is too much: 40,960 tokens of a 0.6 B
#: model take 4.7 GB. Texts to embed are short, and must fit in one batch, whose working memory grows with it.
CHAT_CONTEXT = 8192
EMBEDDINGS_CONTEXT = 2048
#: Prompts the engine keeps to continue them later; its own default, 8 GB, is more than many machines have.
PROMPT_CACHE_MIB = 512

_ANSWERING = re.compile(r"^llamacpp:requests_(?:processing|deferred) (\d+)", re.MULTILINE)
_LOOK_EVERY_S = 0.1
#: Looks in a row that find nobody: a request may have arrived that is not counted yet.
_IDLE_LOOKS = 2


def load(options: argparse.Namespace, key: str) -> "xllamacpp.Server":
    """Load the model and start its server on a free loopback port; returns when it answers.

    Blocks, and holds the interpreter's lock while it loads.

    Raises:
        EndpointNotReady: The engine is not installed, or the file is missing or not a model it knows.
    """
    if xllamacpp is None:
        raise EndpointNotReady("the local engine is not installed: pip install 'llmops[local]'")
    if not options.model.is_file():
        raise EndpointNotReady(f"model file {options.model} does not exist")
    try:
        return xllamacpp.Server(_params(options, key))
    except RuntimeError as err:
        raise EndpointNotReady(
            f"llama.cpp cannot load {options.model}: it is no GGUF file, is cut short, needs more memory than there is,"
            " or is of a model this version does not know; the engine's log says which"
        ) from err


def _params(options: argparse.Namespace, key: str) -> "xllamacpp.CommonParams":
    params = xllamacpp.CommonParams()
    params.model.path = str(options.model)
    params.model_alias = {options.alias or options.model.stem}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    # Nobody but the gateway calls it: no pages, no listing of prompts at work, no leave for web pages to call.
    params.ui = params.endpoint_slots = params.endpoint_props = False
    params.endpoint_metrics = True  # `_drain` counts by them; they name no prompt.
    params.cors_origins = ""
    params.verbosity = 2  # Warnings: a line for each request would fill the log.
    params.n_ctx = options.context or (EMBEDDINGS_CONTEXT if options.embeddings else CHAT_CONTEXT)
    params.n_parallel = options.parallel
    # One request may use all of the context while the others are idle, instead of a fixed share.
    params.kv_unified = True
    params.cache_ram_mib = PROMPT_CACHE_MIB
    if options.threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    if options.embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        params.n_batch = params.n_ubatch = params.n_ctx
    return params


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m llmops.providers.llama_cpp", description="Run one local model.")
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file; of several parts the first")
    parser.add_argument("--embeddings", action="store_true", help="answer /v1/embeddings")
    parser.add_argument(
        "--context",
        type=int,
        help=f"tokens, shared by the requests at work ({CHAT_CONTEXT}; {EMBEDDINGS_CONTEXT} with --embeddings)",
    )
    parser.add_argument("--parallel", type=int, default=1, help="requests at work at once (1)")
    parser.add_argument("--threads", type=int, help="CPU threads (the engine's choice)")
    parser.add_argument("--alias", help="the name the model answers as (the file's)")
    return parser.parse_args(arguments)


def _drain(server: "xllamacpp.Server") -> None:
    """Wait until nobody is answered any more; who asked us to end sets the limit, and forces the end."""
    idle = 0
    while idle < _IDLE_LOOKS:
        time.sleep(_LOOK_EVERY_S)
        idle = 0 if any(int(count) for count in _ANSWERING.findall(server.handle_metrics())) else idle + 1


def main(arguments: list[str] | None = None) -> int:
    """Run until the end of stdin, or until a signal and the end of what was begun."""
    options = _options(arguments)
    report = leash.report_line()
    leash.hold(at_once=True)
    key = server_settings().internal_key
    try:
        if not key:
            raise EndpointNotReady("LLMOPS_INTERNAL_KEY is not set: the engine would answer anyone on this machine")
        server = load(options, key)
    except EndpointNotReady as err:
        report.write(json.dumps({"error": err.message}) + "\n")
        sys.stderr.write(f"{err.message}\n")
        return 1

    def leave(*_: object) -> None:
        _drain(server)
        # Not sys.exit: the engine's destructor crashes while it still generates.
        os._exit(0)

    # Until here the signals end the process by default, also deep in the engine's loading code.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, leave)
    report.write(json.dumps({"address": server.listening_address}) + "\n")
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
