"""The command `sparkgate`: every command file registered, every error turned into one message.

A command file has `register(app)`, which adds its commands to the typer app it is given, and imports what is
heavy only inside its functions: `sparkgate --help` imports all of these files. Exit codes: 0 done, 1 a check
found something, 2 refused with a message on stderr, 70 a fault of ours, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from gateway.cli import bench, db, doctor, drafter, init, keys, policy, processes, schema, tasks, up
from gateway.cli.errors import message_of
from gateway.cli.output import Refused, leave, print_error

TRACEBACK_VARIABLE = "SPARKGATE_TRACEBACK"
_EPILOG = f"""\
Exit codes: 0 done; 1 a check found something; 2 refused, with the reason on stderr; 70 a fault of sparkgate
({TRACEBACK_VARIABLE}=1 shows where); 130 interrupted.
Values given here win over sparkgate.yaml and policy.yaml, which `sparkgate init` writes. When something is wrong:
`sparkgate doctor`. Each command has --help with examples, and --json where it prints data."""
_COMMANDS = (up, processes, init, keys, policy, tasks, db, schema, doctor, bench, drafter)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"sparkgate {version('sparkgate')}")
        leave(0)


def build_app() -> typer.Typer:
    app = typer.Typer(
        name="sparkgate",
        epilog=_EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for command in _COMMANDS:
        command.register(app)
    return app


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """A model-routing API gateway with latency-aware routing. Start everything with `sparkgate up`."""


def main() -> None:
    """The console script. Never a traceback, unless SPARKGATE_TRACEBACK asks for one."""
    try:
        build_app()()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `sparkgate … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        sys.exit(_report(error))


def _report(error: Exception) -> int:
    message = message_of(error)
    if message is not None:
        print_error(message)
        return error.exit_code if isinstance(error, Refused) else 2
    print_error(f"unexpected {type(error).__name__}: {error}")
    print_error(f"This is a fault in sparkgate. {TRACEBACK_VARIABLE}=1 shows where it happened.")
    return 70


if __name__ == "__main__":
    main()
