"""Command lines of `sparkgate` as pages and help texts write them, parsed by the real CLI without being run.

In: text. Out: `unparsed` says why a line is none of ours. Of a line with a placeholder (`…`, `FILE`, `[…]`) the command
and the names of options are checked, else all of it. The options of `sparkgate drafter` are those of the trainer.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

from typer.main import get_command

from engine.training.__main__ import parser
from gateway.cli.main import build_app

_PLACEHOLDER = re.compile(r"…|\[|^[A-Z][A-Z_]*$")
_ENDS = re.compile(r"^(>|>>|\||\|\||&&|;|&)$")


@cache
def root() -> Any:
    return get_command(build_app())


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with its path."""
    for name, command in (group or root()).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def unparsed(line: str) -> str | None:
    """Why the CLI would not take the line; None where it would. `a|b` in the place of a command stands for each."""
    words = _words(line)
    choices = [word.split("|") if re.fullmatch(r"[a-z|-]+", word) else [word] for word in words]
    return next((why for each in product(*choices) if (why := _unparsed(list(each)))), None)


def _words(line: str) -> list[str]:
    """What stands behind `sparkgate`, up to the end of its command."""
    words = shlex.split(line, comments=True)
    words = words[words.index("sparkgate") + 1 :]
    return words[: next((at for at, word in enumerate(words) if _ENDS.match(word)), len(words))]


def _unparsed(words: list[str]) -> str | None:
    command, path = root(), ["sparkgate"]
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] == "…":
            return None
        if words[0] not in command.commands:
            return f"{' '.join(path)} has no command {words[0]!r}"
        path.append(words[0])
        command = command.commands[words.pop(0)]
    if not words:  # a command that is named, not called
        return None
    if path[1:2] == ["drafter"] and len(path) > 2:
        return _unknown_to_the_trainer(path[2], words)
    if any(_PLACEHOLDER.search(word) for word in words) or hasattr(command, "commands"):
        known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
        known |= {"--help", "-h"}
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        return f"{' '.join(path)} has no {', '.join(sorted(given - known))}" if given - known else None
    if "--help" in words:
        return None
    try:
        command.make_context(path[-1], words)
    except Exception as error:  # of the parser; none of the commands runs
        return f"{' '.join(path)}: {getattr(error, 'message', error)}"
    return None


def _unknown_to_the_trainer(name: str, words: list[str]) -> str | None:
    said = io.StringIO()
    words = [word for word in words if word != "…"]
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            parser().parse_args([name, *([] if "--recipe" in words else ["--model", "m"]), *words])
    except SystemExit as ended:
        return None if ended.code in (0, None) else said.getvalue().splitlines()[-1]
    return None
