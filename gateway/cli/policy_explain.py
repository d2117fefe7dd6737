"""`sparkgate policy explain`: where would this request go, and why; it is sent nowhere.

In: a request file as an app would send it, or a call described by options. The running gateway is asked, which knows
how its targets do; where none answers, the router is run here on first guesses, and the output says so.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli import completion, options
from gateway.cli.output import Refused, print_error, print_fields, print_json, print_table
from gateway.cli.policy_files import check_files, priced_catalog

ANSWER_WITHIN_S = 10.0
COLD = "Scores stand on first guesses: nothing has been measured here."
LEARNT = "Scores stand on what the gateway has learnt of its targets. The call was sent nowhere."
ABREAST = 6  # candidates side by side
_PARTS = {
    "ttft_s": "TTFT, s",
    "tpot_s": "a token, s",
    "completion_s": "completion, s",
    "completion_p95_s": "completion p95, s",
    "cost_usd": "cost, USD",
    "success_share": "success share",
    "in_flight": "in flight",
    "crowding": "crowding",
    "weight": "samples (decayed)",
}
_PLAIN: dict[str, Any] = {
    "model": "auto",
    "stream": True,
    "workflow": None,
    "metadata": {},
    "declared_shape": None,
    "input_tokens": 100,
    "max_output_tokens": None,
    "has_tools": False,
    "has_images": False,
    "wants_json": False,
}


def explain(
    request: Annotated[
        Path | None,
        typer.Argument(
            help="The JSON body an app sends; - for stdin. Left out: described by the options below.",
            show_default=False,
        ),
    ] = None,
    endpoint: Annotated[str, typer.Option(help="The API it is sent to.")] = "/v1/chat/completions",
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Of the request; may be given several times."),
    ] = None,
    caller: Annotated[
        str, typer.Option(help="Name of the API key.", metavar="NAME", autocompletion=completion.keys)
    ] = "",
    model: Annotated[
        str, typer.Option(help="As the app writes it.", metavar="MODEL", autocompletion=completion.models)
    ] = "auto",
    shape: Annotated[
        str | None,
        typer.Option(
            help="Task shape that the caller declares.", metavar="SHAPE", autocompletion=completion.shapes
        ),
    ] = None,
    workflow: Annotated[str | None, typer.Option(help="As in X-Workflow.", metavar="NAME")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of the body; may be given several times.")
    ] = None,
    input_tokens: Annotated[int, typer.Option(min=0, help="Length of the input.")] = 100,
    max_output_tokens: Annotated[int | None, typer.Option(min=1, help="As the app limits it.")] = None,
    stream: Annotated[
        bool, typer.Option("--stream/--no-stream", help="Whether the answer is streamed.")
    ] = True,
    tools: Annotated[bool, typer.Option("--tools", help="Tools are offered.")] = False,
    images: Annotated[bool, typer.Option("--images", help="Images are among the messages.")] = False,
    json_answer: Annotated[bool, typer.Option("--json-answer", help="A JSON answer is asked for.")] = False,
    draw: Annotated[float, typer.Option(min=0, max=1, help="Below the exploration share: explore.")] = 1.0,
    url: options.Url = None,
    api_key: options.ApiKey = None,
    config: options.Config = None,
    policy: options.Policy = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Say where a call would go, and why.

    --policy tries a policy that is not published. The key has to be of scope admin.
    """
    body: dict[str, Any] = {
        "endpoint": endpoint,
        "headers": _pairs("--header", header),
        "caller": caller,
        "draw": draw,
    }
    described: dict[str, Any] = {
        "model": model,
        "stream": stream,
        "workflow": workflow,
        "metadata": _pairs("--metadata", metadata),
        "declared_shape": _known_shape(shape),
        "input_tokens": input_tokens,
        "max_output_tokens": max_output_tokens,
        "has_tools": tools,
        "has_images": images,
        "wants_json": json_answer,
    }
    if request is None:
        body["call"] = described
    else:
        body["request"] = _read(request)
        if described != _PLAIN:
            other = ", ".join(name for name, value in described.items() if value != _PLAIN[name])
            raise Refused(f"the request file says {other} itself; options describe a call without a file")
    found = _ask_gateway(body, url, api_key, config, policy, data_dir)
    if found is None:
        found = _decide_here(body, config, policy)
    if as_json:
        print_json(found)
    else:
        print_decision(found)


def _ask_gateway(
    body: dict[str, Any],
    url: str | None,
    api_key: str | None,
    config: Path | None,
    policy: Path | None,
    data_dir: Path,
) -> dict[str, Any] | None:
    """None where no gateway runs, or it is not ours to ask; raises `Refused` where one was named and refuses."""
    import httpx

    from gateway.cli import running
    from gateway.config.load import policy_text

    if policy is not None:
        body = body | {"policy": policy_text(options.existing(policy, policy))}
    try:
        key = api_key or running.api_key(data_dir)
    except Refused:
        if url is None:
            return None
        raise
    base = (url or running.gateway_url(config)).rstrip("/")
    try:
        answer = httpx.post(
            f"{base}/admin/policy/explain",
            json=body,
            headers={"Authorization": f"Bearer {key}"},
            timeout=ANSWER_WITHIN_S,
            trust_env=False,
        )
    except httpx.RequestError as error:
        if url is None:
            return None
        raise Refused(f"no answer from {base}: {error}") from None
    if answer.status_code == httpx.codes.OK:
        found: dict[str, Any] = answer.json()
        return found
    message = f"the gateway at {base} refused ({answer.status_code}): {running.reason(answer)}"
    if url is None and answer.status_code in (401, 403, 404, 405) and "model_not_found" not in answer.text:
        print_error(f"{message}; explained without it")
        return None
    raise Refused(message)


def _decide_here(body: dict[str, Any], config: Path | None, policy: Path | None) -> dict[str, Any]:
    from gateway.control.explain import explained, query_of_request
    from gateway.wire.errors import BadRequest
    from router.decide import UnknownModel
    from router.fleet import Fleet
    from router.query import Query

    deployment, loaded = check_files(config, policy).right()
    known = priced_catalog(deployment, deployment.disabled)
    headers = {name.lower(): value for name, value in body["headers"].items()}
    try:
        query = (
            query_of_request(body["endpoint"], body["request"], headers, body["caller"])
            if "request" in body
            else Query(
                body["endpoint"], caller=body["caller"], headers=headers, message_count=1, **body["call"]
            )
        )
        found = explained(query, known, loaded, Fleet(loaded.half_life_s), now=0.0, draw=body["draw"])
    except BadRequest as error:
        raise Refused(f"the gateway would refuse this request: {error.message}") from None
    except UnknownModel as error:
        raise Refused(
            f"the model '{error}' is not known and unknown_model is 'reject'; "
            f"known: auto, {', '.join([*known.targets, *known.models])}"
        ) from None
    return found | {"is_learnt": False}


def print_decision(found: Mapping[str, Any]) -> None:
    """A decision's JSON, for people."""
    timeouts, confidence = found["timeouts"], found.get("shape_confidence")
    sure = "" if confidence is None else f", confidence {confidence:.2f}"
    hedge_s = found.get("hedge_after_s")
    fields = {
        "shape": f"{found['shape']} ({found['shape_source']}{sure})",
        "objective": found["objective"],
        "choice": found["reason"],
        "timeouts": f"first token {timeouts['first_token_s']:g} s, idle {timeouts['idle_s']:g} s, "
        f"total {timeouts['total_s']:g} s; at most {found['max_retries']} further attempts",
        "hedge": None if hedge_s is None else f"a second target after {hedge_s:.3g} s",
        "shadow": found.get("shadow"),
        "output": f"about {found['expected_output_tokens']} tokens expected",
        "policy": found["policy_hash"],
    }
    print_fields({name: value for name, value in fields.items() if value is not None})
    typer.echo("")
    _print_candidates(found["candidates"])
    if found["rejections"]:
        typer.echo("")
        rejections = [(rejection["target"], rejection["reason"]) for rejection in found["rejections"]]
        print_table(("not used", "because"), rejections, "")
    typer.echo("")
    typer.echo(LEARNT if found["is_learnt"] else COLD)


def _print_candidates(candidates: list[dict[str, Any]]) -> None:
    """A column each, in the order of trying, with every part of their scores; parts not known here come last."""
    if not candidates:
        typer.echo("No target can serve this call.")
        return
    there = {name for candidate in candidates for name in candidate["prediction"] or ()}
    parts = [*(name for name in _PARTS if name in there), *sorted(there - set(_PARTS))]
    for start in range(0, len(candidates), ABREAST):
        some = candidates[start : start + ABREAST]
        rows = [("role", *(it["role"] for it in some)), ("score", *(it["score"] for it in some))]
        for name in parts:
            title = _PARTS.get(name, name.replace("_", " "))
            rows.append((title, *((it["prediction"] or {}).get(name) for it in some)))
        rows.append(("misses", *(", ".join(it["slo_misses"]) or None for it in some)))
        print_table(("", *(f"{start + n}. {it['target']}" for n, it in enumerate(some, start=1))), rows, "")


def _read(path: Path) -> dict[str, Any]:
    text, name = (sys.stdin.read(), "stdin") if str(path) == "-" else (_file_text(path), str(path))
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise Refused(f"{name} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Refused(f"{name} should hold the body of a request, a JSON object")
    return value


def _file_text(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Refused(f"{path} is not UTF-8 text") from None


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
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
