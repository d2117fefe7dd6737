"""The two YAML files for the `policy` commands: read and checked together, and as the router's values.

In: paths, None = the default file if it is there. Out: `Checked`, with all mistakes of both files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli import options

if TYPE_CHECKING:
    from gateway.config.load import LoadedDeployment
    from gateway.config.mistakes import Mistake
    from router.catalog import Catalog
    from router.policy import Policy


@dataclass(frozen=True, slots=True)
class Checked:
    """What the two files hold, as far as they are right, and all that is wrong with them."""

    deployment: LoadedDeployment | None
    policy: Policy | None
    names: tuple[str, str]  # what the files are called, deployment first
    mistakes: tuple[Mistake, ...]

    def right(self) -> tuple[LoadedDeployment, Policy]:
        """Both. Raises `ConfigError` with every mistake."""
        from gateway.config.mistakes import ConfigError

        if self.mistakes or self.deployment is None or self.policy is None:
            raise ConfigError(self.mistakes)
        return self.deployment, self.policy


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


def priced_catalog(deployment: LoadedDeployment, disabled: Mapping[str, str]) -> Catalog:
    """What there is to route to, with the prices that a gateway would know. `disabled`: reasons by target."""
    from gateway.assemble import with_prices
    from gateway.config.catalog import catalog
    from gateway.ledger.costs import price_for

    settings = deployment.deployment
    prices = {target.name: price_for(target, settings.engine) for target in settings.effective_targets}
    return with_prices(catalog(settings, disabled), prices)
