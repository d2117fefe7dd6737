"""Compiles a grammar on trial: a program of its own, ended by the system when it takes too much.

In: a grammar of llguidance on stdin. Out: nothing on stdout, or what is wrong with the grammar; exit
code 0 either way. Some schemas of a hundred bytes take minutes and no library setting stops them.
"""

from __future__ import annotations

import resource
import subprocess
import sys

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

CPU_LIMIT_S = 2
_MEMORY_LIMIT_BYTES = 1 << 30
_WAIT_LIMIT_S = 20  # for a machine so busy that 2 seconds of its time take as long

# A row is a state of the parser: objects with a thousand optional properties need more than llguidance
# grants. States are those of the strings' automaton, about 2 kB each: an answer of 8192 tokens fits.
LIMITS = LLParserLimits(max_items_in_row=10_000, max_lexer_states=50_000, verbose_errors=False)


def fault_of(grammar: str) -> str:
    """What is wrong with `grammar`, empty if nothing is. Waits for the trial.

    Raises `RuntimeError` where the trial itself breaks.
    """
    costly = (
        f"it takes more than {CPU_LIMIT_S} s or {_MEMORY_LIMIT_BYTES >> 30} GiB to compile; make it simpler."
    )
    command = [sys.executable, "-P", __file__]
    try:
        trial = subprocess.run(
            command, input=grammar.encode(), capture_output=True, timeout=_WAIT_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return costly
    if trial.returncode < 0:  # ended by a signal
        return costly
    if trial.returncode > 0:
        raise RuntimeError(f"the trial of a grammar broke: {trial.stderr.decode(errors='replace')[-500:]}")
    return trial.stdout.decode("utf-8", "replace").strip()


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT_BYTES, _MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    matcher = LLMatcher(LLTokenizer(TokenizerWrapper(_Bytes())), sys.stdin.read(), log_level=0, limits=LIMITS)
    sys.stdout.write(matcher.get_error())


class _Bytes:
    """One token a byte, and one that ends."""

    bos_token_id = None
    eos_token_id = 256
    special_token_ids = (256,)
    tokens = (*(bytes([value]) for value in range(256)), b"")

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


if __name__ == "__main__":
    main()
