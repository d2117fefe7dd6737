"""One gateway worker process: puts the parts together and serves them with uvicorn.

`python -m gateway.worker --fd N --index I --data-dir D [--config F] [--policy F]`: `--fd` is a listening socket
inherited from the supervisor, shared by all workers; the database URL comes in `SPARKGATE_DATABASE_URL`.
Everything is loaded before the first call is taken: no call waits for the database. At SIGUSR1 `/ready` says that it
leaves; at SIGTERM it stops listening and ends with its last call.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

from gateway.config.variables import METRICS_FOLDER_VARIABLE


def main(argv: list[str] | None = None) -> int:
    """Serves until told to stop. The exit status is 1 when start-up failed, `EX_TEMPFAIL` for want of the database."""
    options = _options(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    folder = options.data_dir / "run" / "metrics"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ.setdefault(METRICS_FOLDER_VARIABLE, str(folder))
    gc.disable()  # what is loaded now stays: looking for garbage in it would take a tenth of the start
    import uvicorn

    from gateway.app import GatewayApp
    from gateway.assemble import assembled, load
    from gateway.http.listening import Server
    from gateway.http.request import Limits, most_connections

    gc.freeze()
    gc.enable()
    files = load(options.config, options.policy, options.data_dir, options.engine_port)
    app = GatewayApp(lambda: assembled(files, options.index))
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        loop="uvloop",
        http=app.protocol(Limits(connections=most_connections())),
        lifespan="on",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=75,  # longer than the usual 60 s of proxies in front, so that they close first
        timeout_graceful_shutdown=max(1, round(files.deployment.shutdown_grace_s)),
    )
    server = Server(config)
    signal.signal(signal.SIGUSR1, lambda *_: app.leave())
    sockets = [socket.socket(fileno=options.fd)] if options.fd is not None else None
    with suppress(SystemExit):  # by which uvicorn says that start-up failed
        server.run(sockets)
    if server.started:
        return 0
    return os.EX_TEMPFAIL if app.lacks_database else 1


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gateway.worker", description=__doc__.splitlines()[0])
    parser.add_argument("--fd", type=int, help="a listening socket to accept from")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen without --fd")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument(
        "--index", type=int, default=0, help="number of this worker; 0 also keeps engine samples"
    )
    parser.add_argument("--config", type=Path)
    parser.add_argument("--policy", type=Path)
    parser.add_argument("--data-dir", type=Path, default=Path(".sparkgate"))
    parser.add_argument(
        "--engine-port", type=int, help="where the bundled engine listens, if not as configured"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
