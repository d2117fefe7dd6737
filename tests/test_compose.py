"""docker-compose.yml and docker/: every command, variable, port and image in them is real, and `config` is clean."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from gateway.cli.main import build_app
from gateway.config.load import load_deployment

ROOT = Path(__file__).resolve().parents[1]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN = sorted(name for name, service in SERVICES.items() if "build" in service)
ENVIRONMENT = {"POSTGRES_PASSWORD": "secret", "SPARKGATE_API_KEY": "sg-12345678"}


def option(service: str, name: str) -> str:
    command: list[str] = SERVICES[service]["command"]
    return command[command.index(name) + 1]


def variables_of(text: str) -> set[str]:
    return set(re.findall(r"\$\{([A-Z_]+)", text))


def compose_commands() -> Iterator[list[str]]:
    if shutil.which("docker"):
        version = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if version.returncode == 0:
            yield ["docker", "compose"]
    if shutil.which("docker-compose"):
        yield ["docker-compose"]


def test_the_services_are_the_products_processes() -> None:
    assert set(SERVICES) == {"postgres", "migrations", "gateway", "engine", "dashboard"}


@pytest.mark.parametrize("service", OWN)
def test_each_command_is_one_of_ours_with_options_it_has(service: str) -> None:
    program, *words = SERVICES[service]["command"]
    assert program == "sparkgate"
    command: Any = typer.main.get_command(build_app())
    context = command.make_context("sparkgate", ["--help"], resilient_parsing=True)
    while hasattr(command, "resolve_command"):
        name, command, words = command.resolve_command(context, words)
        with pytest.raises(typer.Exit) as left:
            command.make_context(name, ["--help"], parent=context)
        assert left.value.exit_code == 0
        context = command.make_context(name, list(words), parent=context)  # raises for an option it lacks


@pytest.mark.parametrize("service", OWN)
def test_each_variable_given_to_a_container_is_read_by_something(service: str) -> None:
    files = [file for folder in ("gateway", "dashboard") for file in (ROOT / folder).rglob("*.py")]
    ours = "".join(file.read_text() for file in files)
    providers = (ROOT / "docker" / "sparkgate.yaml").read_text()
    for name in SERVICES[service].get("environment", {}):
        assert name in (ours if name.startswith("SPARKGATE_") else providers), f"nothing reads {name}"


def test_the_example_environment_lists_exactly_the_variables_that_are_used() -> None:
    listed = {
        line.partition("=")[0] for line in (ROOT / ".env.example").read_text().splitlines() if "=" in line
    }
    assert listed == variables_of(COMPOSE_TEXT)


@pytest.mark.parametrize("image", [service["image"] for service in SERVICES.values()])
def test_images_of_services_are_pinned_to_a_version(image: str) -> None:
    assert re.search(r":\d+\.\d+", image), image


def test_images_are_built_from_a_pinned_base_and_run_without_root() -> None:
    text = (ROOT / "docker" / "Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.\d+-slim-\w+", base) for base in bases)
    last_stage = text.rpartition("FROM ")[2]
    assert re.search(r"^USER (?!root)\w+", last_stage, re.MULTILINE)


@pytest.mark.parametrize("service", OWN)
def test_each_image_installs_an_extra_that_exists(service: str) -> None:
    build = SERVICES[service]["build"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert (ROOT / build["dockerfile"]).is_file()
    assert build.get("args", {}).get("EXTRAS") in (None, *extras)
    assert build.get("args", {}).get("EXTRAS", service) in (service, "gateway", "migrations")


@pytest.mark.parametrize("service", ["gateway", "engine", "dashboard"])
def test_health_checks_and_published_ports_are_those_of_the_command(service: str) -> None:
    port = option(service, "--port")
    assert f"http://127.0.0.1:{port}/" in " ".join(SERVICES[service]["healthcheck"]["test"])
    assert option(service, "--host") == "0.0.0.0"
    for published in SERVICES[service].get("ports", []):
        assert published == f"127.0.0.1:{port}:{port}"


def test_the_gateways_file_is_valid_and_leads_to_the_engines_container() -> None:
    loaded = load_deployment(ROOT / "docker" / "sparkgate.yaml", {})
    (target,) = [target for target in loaded.deployment.effective_targets if target.kind == "engine"]
    assert target.url == f"http://engine:{option('engine', '--port')}"
    mounted = "./docker/sparkgate.yaml:/etc/sparkgate/sparkgate.yaml:ro"
    assert mounted in SERVICES["gateway"]["volumes"]
    assert "WORKDIR /etc/sparkgate" in (ROOT / "docker" / "Dockerfile").read_text()


def test_what_must_outlive_a_container_lies_in_a_named_volume() -> None:
    used = {
        volume.partition(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if not volume.startswith(".")
    }
    assert used == set(COMPOSE["volumes"])
    for service in ("gateway", "engine"):
        assert f"{service}-data:{option(service, '--data-dir')}" in SERVICES[service]["volumes"]


def test_a_stop_leaves_the_gateway_time_for_its_streams_and_the_last_drain() -> None:
    grace_s = load_deployment(None, {}).deployment.shutdown_grace_s
    assert int(SERVICES["gateway"]["stop_grace_period"].removesuffix("s")) > grace_s + 20


def test_compose_itself_finds_nothing_wrong() -> None:
    command = next(compose_commands(), None)
    if command is None:
        pytest.skip(
            "neither `docker compose` nor docker-compose is installed: its own check of the file was not run"
        )
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **ENVIRONMENT}
    checked = subprocess.run(
        [*command, "config"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert set(yaml.safe_load(checked.stdout)["services"]) == set(SERVICES)
    assert "warn" not in checked.stderr.lower()


def test_compose_refuses_to_start_without_secrets() -> None:
    command = next(compose_commands(), None)
    if command is None:
        pytest.skip("neither `docker compose` nor docker-compose is installed")
    environment = {"PATH": os.environ["PATH"], **ENVIRONMENT, "POSTGRES_PASSWORD": ""}
    refused = subprocess.run(
        [*command, "config"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert "set it in .env" in refused.stderr
