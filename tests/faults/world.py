"""One real gateway before a hostile upstream: `sparkgate gateway` with its drain, and a target for each misbehaviour.

In: a database. Out: `World`: calls as clients make them, rows as the ledger has them, and what the worker holds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.faults.hostile import CERTIFICATES, MISBEHAVIOURS
from tests.system.product import PATIENCE_S, ROOT, Product

KEY = "sg-key-of-the-faults"
FIRST_TOKEN_S, IDLE_S, TOTAL_S = 3.0, 3.0, 6.0
INPUT_USD_PER_MTOK, OUTPUT_USD_PER_MTOK = 1.0, 10.0
NETWORK = {  # targets whose trouble begins before HTTP: the address, by the hostile one's ports
    "no_such_host": "http://no-such-host.invalid/v1",
    "nobody_listens": "http://127.0.0.1:1/v1",
    "never_connects": "http://127.0.0.1:{deaf}/v1",
    "tls": "https://localhost:{good}/v1",
    "tls_self_signed": "https://localhost:{self_signed}/v1",
    "tls_expired": "https://localhost:{expired}/v1",
    "tls_of_another_host": "https://localhost:{other_host}/v1",
    "tls_to_a_plain_port": "https://localhost:{confused}/v1",
    "plain_to_a_tls_port": "http://localhost:{good}/v1",
    "tls_handshake_never_ends": "https://localhost:{silent}/v1",
}
_POLICY = f"""version: 1
defaults:
  explore: 0
  retries: {{max: 1, budget: 1.0}}
  timeouts: {{first_token_s: {FIRST_TOKEN_S}, idle_s: {IDLE_S}, total_s: {TOTAL_S}}}
"""
_KINDS: dict[str, dict[str, Any]] = {
    "chat": {"kind": "openai", "endpoints": ["/v1/chat/completions"]},
    "messages": {"kind": "anthropic"},
    "responses": {"kind": "openai", "endpoints": ["/v1/responses"]},
}


@dataclass
class World:
    product: Product
    holds: Path

    @property
    def worker(self) -> psutil.Process:
        return next(one for one in self.product.family() if "gateway.worker" in one.cmdline())

    def held(self) -> dict[str, Any]:
        """What the worker holds now: tasks, parts of calls, sockets, memory."""
        worker = self.worker
        path = self.holds / f"{worker.pid}.json"
        path.unlink(missing_ok=True)
        worker.send_signal(signal.SIGUSR2)
        deadline = time.monotonic() + PATIENCE_S
        while not path.exists():
            assert time.monotonic() < deadline, "the worker does not tell what it holds"
            time.sleep(0.02)
        told: dict[str, Any] = json.loads(path.read_text())
        return told | {
            "pid": worker.pid,
            "descriptors": worker.num_fds(),
            "rss_bytes": worker.memory_info().rss,
        }


@contextmanager
def hostile(certificates: Path) -> Iterator[dict[str, int]]:
    """The hostile upstream; gives its ports by name."""
    command = [sys.executable, "-m", "tests.faults.hostile", str(certificates)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


@contextmanager
def world(database_url: str, folder: Path) -> Iterator[World]:
    with ExitStack() as stack:
        make_certificates(folder)
        ports = stack.enter_context(hostile(folder))
        env = {
            "SPARKGATE_DATABASE_URL": database_url,
            "SPARKGATE_API_KEY": KEY,
            "SSL_CERT_FILE": str(folder / "authority.pem"),
            "SPARKGATE_HOLDS": str(folder),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).with_name("debug"))]),
        }
        product = Product(command="gateway", env=env)
        stack.callback(product.remove)
        for name, text in (("sparkgate", json.dumps(deployment(ports))), ("policy", _POLICY)):
            path = product.data_dir / f"{name}.yaml"
            path.write_text(text)
            product.options += ["--config" if name == "sparkgate" else "--policy", str(path)]
        product.start()
        yield World(product, folder)


def deployment(ports: dict[str, int]) -> dict[str, Any]:
    """A target for each misbehaviour of each API; as `then.chat.<misbehaviour>.<mode>` with a sound one behind it."""
    plain = f"http://127.0.0.1:{ports['plain']}"
    targets, models = [], {}
    for api in _KINDS:
        for name in MISBEHAVIOURS:
            targets.append(_target(api, name, plain))
    targets += [_target("chat", name, url.format(**ports)) for name, url in NETWORK.items()]
    for target in [each for each in targets if each["name"].startswith("chat.")]:
        for mode in (
            "streamed",
            "whole",
        ):  # of which nothing is known, so that they are tried as they are listed
            name = f"{target['name']}.{mode}"
            backup = _target("chat", "sound", plain) | {"name": f"backup.{name}"}
            targets += [target | {"name": name}, backup]
            models[f"then.{name}"] = [name, backup["name"]]
    return {"targets": targets, "models": models, "engine": {"enabled": False}, "unknown_model": "reject"}


def _target(api: str, name: str, base_url: str) -> dict[str, Any]:
    prices = {"input_usd_per_mtok": INPUT_USD_PER_MTOK, "output_usd_per_mtok": OUTPUT_USD_PER_MTOK}
    model = f"{api}/{name if name in MISBEHAVIOURS else 'sound'}"
    return {
        "name": f"{api}.{name}",
        "model": model,
        "base_url": base_url,
        "api_key": "k",
        "prices": prices,
        **_KINDS[api],
    }


def make_certificates(folder: Path) -> None:
    """`authority.pem`, and for each of `CERTIFICATES` a key and a certificate of it (or of itself)."""
    _certify(folder, "authority", "An authority of the tests")
    for name in CERTIFICATES:
        host = "elsewhere.invalid" if name == "other_host" else "localhost"
        _certify(folder, name, host, None if name == "self_signed" else "authority")


def _certify(folder: Path, name: str, subject: str, by: str | None = None) -> None:
    key, certificate, extensions = (folder / f"{name}{end}" for end in (".key", ".pem", ".ext"))
    what = "basicConstraints=critical,CA:TRUE" if name == "authority" else f"subjectAltName=DNS:{subject}"
    extensions.write_text(what)
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key)]
    request = folder / f"{name}.csr"
    _openssl("req", "-new", *curve, "-out", str(request), "-subj", f"/CN={subject}")
    signer = ["-signkey", str(key)]
    if by is not None:
        signer = ["-CA", str(folder / f"{by}.pem"), "-CAkey", str(folder / f"{by}.key"), "-CAcreateserial"]
    days = "-1" if name == "expired" else "2"
    made = ["-days", days, "-extfile", str(extensions), "-out", str(certificate)]
    _openssl("x509", "-req", "-in", str(request), *signer, *made)


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
