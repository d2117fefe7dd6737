"""`sparkgate policy …`: check both YAML files, explain a decision, replay recorded calls, list and publish versions.

Here: `check`, and what the others share of the two files. `policy_explain`, `policy_replay` and `policy_versions` have
the other commands.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli import options, policy_explain, policy_replay, policy_versions, price_notes
from gateway.cli.manual import BOTH_FILES, FILES, LEDGER, NOTHING, manual
from gateway.cli.output import leave, print_error, print_json
from gateway.cli.policy_files import Checked, check_files


def register(app: typer.Typer) -> None:
    policy = typer.Typer(help="Routing policies: check, explain, replay, versions.", no_args_is_help=True)
    about = manual(
        "sparkgate policy check",
        "sparkgate policy check new.yaml --json",
        reads=BOTH_FILES,
        writes=NOTHING,
        exits={0: "both files are right", 1: "a mistake was found"},
    )
    policy.command("check", epilog=about)(check)
    about = manual(
        "sparkgate policy explain request.json",
        "sparkgate policy explain --model auto --tools --input-tokens 5000",
        "sparkgate policy explain request.json --policy new.yaml --json",
        reads=f"the request; the running gateway, or where none answers {BOTH_FILES}",
        writes="nothing; the request is sent to no target",
    )
    policy.command("explain", epilog=about)(policy_explain.explain)
    about = manual(
        "sparkgate policy replay --policy new.yaml --since 24h",
        reads=f"the policy to try; {LEDGER}",
        writes="the picture of --plot",
    )
    policy.command("replay", epilog=about)(policy_replay.replay)
    about = manual("sparkgate policy versions --limit 5", reads=LEDGER, writes=NOTHING)
    policy.command("versions", epilog=about)(policy_versions.versions)
    about = manual(
        "sparkgate policy show", "sparkgate policy show 56cb > old.yaml", reads=LEDGER, writes=NOTHING
    )
    policy.command("show", epilog=about)(policy_versions.show)
    about = manual(
        "sparkgate policy diff 56cb    # what has changed since then",
        "sparkgate policy diff 56cb ab56",
        reads=LEDGER,
        writes=NOTHING,
    )
    policy.command("diff", epilog=about)(policy_versions.diff)
    about = manual(
        "sparkgate policy publish new.yaml",
        reads=f"the policy; {FILES}",
        writes="a version in the database, in force on every gateway within 3 s",
    )
    policy.command("publish", epilog=about)(policy_versions.publish)
    about = manual(
        "sparkgate policy rollback 56cb",
        reads=LEDGER,
        writes="a version in the database, in force on every gateway within 3 s; policy.yaml stays as it is",
    )
    policy.command("rollback", epilog=about)(policy_versions.rollback)
    app.add_typer(policy, name="policy")


def check(
    file: Annotated[
        Path | None, typer.Argument(help="The policy to check.", show_default="policy.yaml")
    ] = None,
    config: options.Config = None,
    policy: options.Policy = None,
    as_json: options.Json = False,
) -> None:
    """Check policy.yaml and sparkgate.yaml; exit code 1 when something is wrong."""
    checked = check_files(config, file or policy)
    if as_json:
        _print_json(checked)
    else:
        _print(checked)
    if checked.mistakes:
        leave(1)


def _print(checked: Checked) -> None:
    for mistake in checked.mistakes:
        print_error(str(mistake))
    if checked.deployment is not None:
        targets = [
            f"{name} (disabled: {checked.deployment.disabled[name]})"
            if name in checked.deployment.disabled
            else name
            for name in checked.deployment.target_names
        ]
        typer.echo(f"{checked.names[0]}: right; targets: {', '.join(targets) or 'none'}")
    if checked.policy is not None:
        typer.echo(f"{checked.names[1]}: right; version {checked.policy.hash}")
    for warning in _warnings(checked):
        print_error(f"Warning: {warning}")


def _print_json(checked: Checked) -> None:
    print_json(
        {
            "ok": not checked.mistakes,
            "mistakes": [asdict(mistake) for mistake in checked.mistakes],
            "warnings": _warnings(checked),
            "policy_hash": checked.policy.hash if checked.policy else None,
            "targets": list(checked.deployment.target_names) if checked.deployment else None,
            "disabled": dict(checked.deployment.disabled) if checked.deployment else None,
        }
    )


def _warnings(checked: Checked) -> list[str]:
    if checked.deployment is None or checked.policy is None:
        return []
    return price_notes.unheld_budgets(checked.policy, price_notes.unpriced(checked.deployment))
