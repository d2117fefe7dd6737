"""What `policy check` and `doctor` say of prices: targets of unknown or wrong cost, and what suffers from it.

In: a checked deployment and policy. Out: sentences. Nothing here stops a start: an unknown cost is NULL, never 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from gateway.config.load import LoadedDeployment
    from router.policy import Policy


def unpriced(loaded: LoadedDeployment) -> dict[str, str]:
    """Why calls are of unknown cost, by the names of targets that are in use."""
    from gateway.ledger.costs import price_for, unknown_price

    deployment = loaded.deployment
    notes = {
        target.name: unknown_price(price_for(target, deployment.engine))
        for target in deployment.effective_targets
        if target.name not in loaded.disabled
    }
    return {name: note for name, note in notes.items() if note is not None}


def charged_as_a_providers(loaded: LoadedDeployment) -> dict[str, str]:
    """Targets on machines of one's own whose calls are charged as those of a provider, since the public list of prices
    knows a model of that name."""
    from gateway.config.deployment import OpenAITarget
    from gateway.ledger.costs import price_for

    found = {}
    for target in loaded.deployment.targets:
        if (
            not isinstance(target, OpenAITarget)
            or target.name in loaded.disabled
            or not _is_near(target.base_url)
        ):
            continue
        price = price_for(target, loaded.deployment.engine)
        if price is not None and price.source.startswith("litellm"):
            found[target.name] = (
                f"charged as a provider's, since litellm's list knows {target.model!r}, though its address is of your "
                "own network: if the server is yours, give it prices, or kind vllm or sglang with cost_per_hour_usd"
            )
    return found


def _is_near(url: str) -> bool:
    """Whether an address is of this machine or network, not of a provider."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".lan", ".internal"))


def unheld_budgets(policy: Policy, notes: Mapping[str, str]) -> list[str]:
    """Shadows whose `usd_per_day` ends them after the first call, since nobody knows what that cost."""
    return list(dict.fromkeys(_unheld(policy, notes)))


def _unheld(policy: Policy, notes: Mapping[str, str]) -> Iterator[str]:
    for name, rules in [*policy.shapes.items(), ("defaults", policy.defaults)]:
        shadow = rules.shadow
        if shadow is not None and shadow.usd_per_day is not None and shadow.target in notes:
            inherited = name != "defaults" and shadow == policy.defaults.shadow
            yield (
                f"{'defaults' if inherited else name}: the shadow's usd_per_day cannot be held, since of target "
                f"{shadow.target!r} {notes[shadow.target]}; give it prices, or leave usd_per_day out"
            )
