"""Whether an answer is what was asked for: by a prompt's check.

`exact`: the same text but for white space around it. `regex`: found somewhere in the answer. `json_schema`: the whole
answer is JSON that the schema allows. `unit_test`: the Python code in the answer (its fenced blocks, else all of it)
and then the test run without an error, in a process of their own with little memory and time; that is no prison, so it
happens only where the user has said so.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any

from gateway.bench.prompts import Check

CODE_WITHIN_S = 10.0
_RUNNER = (  # says the word it was given once all is done: code that ends the process early has not passed
    "import resource as r; "
    "r.setrlimit(r.RLIMIT_CPU, (5, 5)); r.setrlimit(r.RLIMIT_AS, (1 << 30, 1 << 30)); "
    "r.setrlimit(r.RLIMIT_FSIZE, (1 << 20, 1 << 20)); r.setrlimit(r.RLIMIT_NOFILE, (64, 64)); "
    "import sys; end = sys.stdin.readline(); say = sys.stdout.write; "
    "exec(compile(sys.stdin.read(), 'answer', 'exec'), {'__name__': 'answer'}); say(end)"
)
_FENCED = re.compile(r"^[ \t]*```[ \t]*(?:python|py)?[^\S\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)


def passes(check: Check, answer: str) -> bool:
    """Whether the answer passes."""
    match check.kind:
        case "exact":
            return answer.strip() == str(check.wanted).strip()
        case "regex":
            return re.search(check.wanted, answer) is not None
        case "json_schema":
            return _fits(check.wanted, answer)
        case "unit_test":
            return _runs(f"{code_in(answer)}\n\n{check.wanted}\n")


def code_in(answer: str) -> str:
    """The fenced Python blocks of an answer one after the other; an answer without any is code itself."""
    blocks = _FENCED.findall(answer)
    return "\n".join(blocks) if blocks else answer


def _fits(schema: dict[str, Any], answer: str) -> bool:
    from jsonschema.validators import validator_for  # type: ignore[import-untyped]

    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return bool(validator_for(schema)(schema).is_valid(value))


def _runs(code: str) -> bool:
    end = token_hex(16).encode()
    with TemporaryDirectory(prefix="sparkgate-check-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _RUNNER],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(
                end + b"\n" + code.encode("utf-8", "replace"), timeout=CODE_WITHIN_S
            )
        except subprocess.TimeoutExpired:
            return False
        finally:
            _end(process)
        return process.returncode == 0 and end in said


def _end(process: subprocess.Popen[bytes]) -> None:
    """With whatever it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
