"""`sparkgate tasks list|show|outcome`: tasks of the ledger, and saying how one ended.

`list` and `show` read the database; `outcome` asks the running gateway, so that it is recorded like any caller's.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from gateway.cli import completion, options, running
from gateway.cli.database import ask
from gateway.cli.manual import FILES, LEDGER, NOTHING, manual
from gateway.cli.output import Refused, print_fields, print_json, print_table

ANSWER_WITHIN_S = 10.0
LISTED = (
    "task_id",
    "caller",
    "workflow",
    "status",
    "score",
    "exchanges",
    "attempts",
    "cost_usd",
    "first_seen_at",
)
Caller = Annotated[
    str | None,
    typer.Option(
        help="Name of an API key; left out: of all.", metavar="NAME", autocompletion=completion.keys
    ),
]
TaskId = Annotated[
    str,
    typer.Argument(
        metavar="TASK_ID",
        help="As in X-Task-Id, or the request id of one of its calls.",
        autocompletion=completion.tasks,
    ),
]


class Status(StrEnum):
    completed = "completed"
    failed = "failed"
    abandoned = "abandoned"


def register(app: typer.Typer) -> None:
    tasks = typer.Typer(help="Tasks: units of work of one or many calls.", no_args_is_help=True)
    about = manual(
        "sparkgate tasks list --workflow bugfix --limit 10",
        reads=LEDGER,
        writes=NOTHING,
    )
    tasks.command("list", epilog=about)(list_tasks)
    about = manual(
        "sparkgate tasks show ticket-4711",
        "sparkgate tasks show ticket-4711 --json",
        reads=LEDGER,
        writes=NOTHING,
    )
    tasks.command("show", epilog=about)(show)
    about = manual(
        "sparkgate tasks outcome ticket-4711 completed --score 0.9",
        reads=f"{FILES}; the API key: tasks belong to their caller",
        writes="an outcome, through the running gateway",
    )
    tasks.command("outcome", epilog=about)(outcome)
    app.add_typer(tasks, name="tasks")


def list_tasks(
    caller: Caller = None,
    workflow: Annotated[str | None, typer.Option(help="Only this kind of task.", metavar="NAME")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 50,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """List the newest tasks with their status and cost; calls that are a task of their own and ended it left out."""
    from gateway.ledger.lookups import recent_tasks

    found = ask(config, data_dir, lambda engine: recent_tasks(engine, caller, limit, workflow))
    if as_json:
        print_json(found)
    else:
        rows = [[task[name] for name in LISTED] for task in found]
        print_table([name.replace("_", " ") for name in LISTED], rows, "There are no tasks yet.")


def show(
    task_id: TaskId,
    caller: Caller = None,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Show one task: its calls, what they cost, its outcomes."""
    from gateway.ledger.lookups import task

    found = ask(config, data_dir, lambda engine: task(engine, caller, task_id))
    if found is None:
        whose = f" of '{caller}'" if caller else ""
        raise Refused(
            f"no task '{task_id}'{whose} is in the database; a new one takes about a second to get there"
        )
    if as_json:
        print_json(found)
    else:
        print_fields(found)


def outcome(
    task_id: TaskId,
    status: Annotated[Status, typer.Argument(help="How it ended.")],
    score: Annotated[float | None, typer.Option(min=0, max=1, help="How well, 0 to 1.")] = None,
    workflow: Annotated[str | None, typer.Option(help="The kind of task.", metavar="NAME")] = None,
    url: options.Url = None,
    api_key: options.ApiKey = None,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Report how a task ended, as the caller whose key it is."""
    from urllib.parse import quote

    import httpx

    body = {"status": status.value, "score": score, "workflow": workflow}
    answer = httpx.post(
        f"{(url or running.gateway_url(config)).rstrip('/')}/v1/tasks/{quote(task_id, safe='')}/outcome",
        json={key: value for key, value in body.items() if value is not None},
        headers={"Authorization": f"Bearer {api_key or running.api_key(data_dir)}"},
        timeout=ANSWER_WITHIN_S,
        trust_env=False,
    )
    if answer.status_code != httpx.codes.OK:
        raise Refused(f"the gateway refused ({answer.status_code}): {running.reason(answer)}")
    if as_json:
        print_json(answer.json())
    else:
        typer.echo(f"Task '{task_id}' is recorded as {status.value}.")
