"""`sparkgate policy check|explain`: are both YAML files right, and where would a given call go.

`explain` runs the router on a described call without any measurements, as on a gateway that has just started:
it shows shape, limits and order, not today's latencies (`GET /v1/exchanges/<id>` shows those of a real call).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import options
from gateway.cli.output import Refused, leave, print_error, print_fields, print_json, print_table

if TYPE_CHECKING:
    from gateway.config.load import LoadedDeployment
    from gateway.config.mistakes import Mistake
    from router.decision import Decision
    from router.policy import Policy

Text = Annotated[str | None, typer.Option()]
Pairs = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="May be given several times.")]


@dataclass(frozen=True, slots=True)
class Checked:
    """What the two files hold, as far as they are right, and all that is wrong with them."""

    deployment: LoadedDeployment | None
    policy: Policy | None
    names: tuple[str, str]  # what the files are called, deployment first
    mistakes: tuple[Mistake, ...]


def register(app: typer.Typer) -> None:
    policy = typer.Typer(help="Check routing policies, explain decisions.", no_args_is_help=True)
    policy.command("check")(check)
    policy.command("explain")(explain)
    app.add_typer(policy, name="policy")


def check_files(config: Path | None, policy: Path | None) -> Checked:
    """Both files, read and checked, each whatever the other says."""
    from gateway.config.load import load_deployment, load_policy, policy_text, written_target_names
    from gateway.config.mistakes import ConfigError
    from gateway.supervise.options import DEFAULT_CONFIG, DEFAULT_POLICY

    mistakes: list[Mistake] = []
    deployment = loaded = None
    names = ["defaults", "default policy"]
    config_path: Path | None = None
    try:
        config_path = options.existing(config, DEFAULT_CONFIG)
        names[0] = str(config_path or names[0])
        deployment = load_deployment(config_path, os.environ)
    except ConfigError as error:
        mistakes += error.mistakes
    try:
        policy_path = options.existing(policy, DEFAULT_POLICY)
        names[1] = str(policy_path or names[1])
        known = deployment.target_names if deployment else written_target_names(config_path)
        loaded = load_policy(policy_text(policy_path), Path(names[1]).name, known)
    except ConfigError as error:
        mistakes += error.mistakes
    return Checked(deployment, loaded, (names[0], names[1]), tuple(mistakes))


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
        _print_check_json(checked)
    else:
        _print_check(checked)
    if checked.mistakes:
        leave(1)


def explain(
    model: Annotated[str, typer.Option(help="As the app writes it.")] = "auto",
    endpoint: Annotated[str, typer.Option()] = "/v1/chat/completions",
    shape: Annotated[str | None, typer.Option(help="Declared by the caller.")] = None,
    caller: Annotated[str, typer.Option(help="Name of the API key.")] = "",
    workflow: Text = None,
    header: Pairs = None,
    metadata: Pairs = None,
    input_tokens: Annotated[int, typer.Option(min=0)] = 100,
    max_output_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    stream: Annotated[bool, typer.Option("--stream/--no-stream")] = True,
    tools: Annotated[bool, typer.Option("--tools", help="Tools are offered.")] = False,
    images: Annotated[bool, typer.Option("--images", help="Images are among the messages.")] = False,
    json_answer: Annotated[bool, typer.Option("--json-answer", help="A JSON answer is asked for.")] = False,
    draw: Annotated[float, typer.Option(min=0, max=1, help="Below the exploration share: explore.")] = 1.0,
    config: options.Config = None,
    policy: options.Policy = None,
    as_json: options.Json = False,
) -> None:
    """Say where a call like this would go, and why, before anything has been measured."""
    from router.query import Query

    query = Query(
        endpoint=endpoint,
        model=model,
        caller=caller,
        stream=stream,
        headers={name.lower(): value for name, value in _pairs("--header", header).items()},
        metadata=_pairs("--metadata", metadata),
        workflow=workflow,
        declared_shape=_known_shape(shape),
        input_tokens=input_tokens,
        max_output_tokens=max_output_tokens,
        message_count=1,
        has_tools=tools,
        has_images=images,
        wants_json=json_answer,
    )
    decision = _decide(query, check_files(config, policy), draw)
    if as_json:
        print_json(decision.as_json())
    else:
        _print_decision(decision)


def _decide(query: Any, checked: Checked, draw: float) -> Decision:
    from gateway.config.catalog import catalog
    from gateway.config.mistakes import ConfigError
    from router.decide import UnknownModel, decide
    from router.fleet import Fleet

    if checked.mistakes or checked.deployment is None or checked.policy is None:
        raise ConfigError(checked.mistakes)
    known = catalog(checked.deployment.deployment, checked.deployment.disabled)
    try:
        return decide(query, known, checked.policy, Fleet(checked.policy.half_life_s), now=0.0, draw=draw)
    except UnknownModel:
        raise Refused(
            f"the model '{query.model}' is not known and unknown_model is 'reject'; "
            f"known: auto, {', '.join([*known.targets, *known.models])}"
        ) from None


def _print_check(checked: Checked) -> None:
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


def _print_check_json(checked: Checked) -> None:
    print_json(
        {
            "ok": not checked.mistakes,
            "mistakes": [asdict(mistake) for mistake in checked.mistakes],
            "policy_hash": checked.policy.hash if checked.policy else None,
            "targets": list(checked.deployment.target_names) if checked.deployment else None,
            "disabled": dict(checked.deployment.disabled) if checked.deployment else None,
        }
    )


def _print_decision(decision: Decision) -> None:
    timeouts = decision.timeouts
    print_fields(
        {
            "shape": f"{decision.shape} ({decision.shape_source})",
            "objective": decision.objective,
            "choice": decision.reason,
            "timeouts": f"first token {timeouts.first_token_s:g} s, idle {timeouts.idle_s:g} s, "
            f"total {timeouts.total_s:g} s; at most {decision.max_retries} further attempts",
            "policy": decision.policy_hash,
        }
    )
    typer.echo("")
    rows = [
        (index, candidate.target, candidate.role, candidate.score, ", ".join(candidate.slo_misses))
        for index, candidate in enumerate(decision.candidates, start=1)
    ]
    print_table(("order", "target", "role", "score", "misses"), rows, "No target can serve this call.")
    if decision.rejections:
        typer.echo("")
        rejections = [(rejection.target, rejection.reason) for rejection in decision.rejections]
        print_table(("not used", "because"), rejections, "")
    typer.echo("\nScores stand on first guesses: nothing has been measured here.")


def _pairs(option: str, given: list[str] | None) -> Mapping[str, str]:
    pairs = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise Refused(f"{option} wants NAME=VALUE, not '{text}'")
        pairs[name] = value
    return pairs


def _known_shape(shape: str | None) -> str | None:
    from router.shapes import SHAPES

    if shape is not None and shape not in SHAPES:
        raise Refused(f"there is no task shape '{shape}'; known: {', '.join(SHAPES)}")
    return shape
