"""llama.cpp's HTTP server out of the wheel `xllamacpp`, for `sparkgate bench engine`.

In: GGUF file, port, slots, tokens a slot, threads. Runs until a signal. A file to be run by any Python that
has the wheel, which need not have sparkgate: it imports nothing of ours.
"""

from __future__ import annotations

import importlib
import signal
import sys
from typing import Any


def main(arguments: list[str]) -> None:
    gguf, (port, slots, slot_tokens, threads) = arguments[0], map(int, arguments[1:])
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = gguf
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_parallel, params.n_ctx = slots, slots * slot_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.ui, params.fit_params, params.cache_ram_mib = False, False, 0
    server = xllamacpp.Server(params)  # serves from threads of its own
    print("listening at", server.listening_address, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT}
    )  # inherited by llama.cpp's threads
    main(sys.argv[1:])
