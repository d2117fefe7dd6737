"""What `--help` says below the options, as a manual page does: what is read and written, exit codes, examples.

In: sentences and command lines. Out: the text that typer calls an epilog, a paragraph each.
"""

from __future__ import annotations

from collections.abc import Mapping

FILES = "sparkgate.yaml and the variables that it names"
BOTH_FILES = "sparkgate.yaml, policy.yaml and the variables that they name"
LEDGER = f"{FILES}; the ledger's database (the embedded one is started for it where it does not run)"
NOTHING = "nothing"
_ALWAYS = {0: "done", 2: "refused, with the reason on stderr", 130: "interrupted"}


def manual(*examples: str, reads: str, writes: str, exits: Mapping[int, str] | None = None) -> str:
    """`exits`: exit codes beside the usual ones, and what they mean. `examples`: command lines, perhaps `# why`."""
    codes = sorted((_ALWAYS | dict(exits or {})).items())
    facts = (
        f"Reads: {reads}.",
        f"Writes: {writes}.",
        f"Exit codes: {'; '.join(f'{code} {meaning}' for code, meaning in codes)}.",
    )
    return "\n".join((*facts, "", "Examples:", *(f"  {example}" for example in examples)))
