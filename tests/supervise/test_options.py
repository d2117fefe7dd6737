"""Options and both files become a plan, or all mistakes at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.mistakes import ConfigError
from gateway.supervise.options import Options, make_plan


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_without_files_everything_is_at_its_default() -> None:
    plan = make_plan(Options(), {})
    assert (plan.config, plan.policy) == (None, None)
    assert plan.data_dir == Path(".sparkgate").resolve()
    assert plan.starts_engine
    assert plan.starts_dashboard


def test_files_in_the_working_directory_are_found() -> None:
    Path("sparkgate.yaml").write_text("port: 9000\n")
    Path("policy.yaml").write_text("version: 1\n")
    plan = make_plan(Options(), {})
    assert plan.deployment.port == 9000
    assert (plan.config, plan.policy) == (Path("sparkgate.yaml").resolve(), Path("policy.yaml").resolve())


def test_mistakes_of_both_files_are_told_at_once() -> None:
    Path("sparkgate.yaml").write_text(
        "prot: 9000\nworkers: 0\ntargets:\n  - {name: deepseek, kind: openai, model: flash}\n"
    )
    Path("policy.yaml").write_text(
        "version: 1\nshapes:\n"
        "  short_chat: {objective: fastest, candidates: [engine, deepseek, claud]}\n  suport: {}\n"
    )
    with pytest.raises(ConfigError) as found:
        make_plan(Options(), {})
    text = str(found.value)
    assert len(found.value.mistakes) == 6, text
    for place in (
        "sparkgate.yaml:1: prot:",
        "sparkgate.yaml:2: workers:",
        "sparkgate.yaml:4: targets[0].base_url:",
        "policy.yaml:3: shapes.short_chat.objective:",
        "policy.yaml:3: shapes.short_chat.candidates[2]: no target is called 'claud'; known: engine, deepseek",
        "policy.yaml:4: shapes.suport:",
    ):
        assert place in text


def test_a_file_that_was_named_must_be_there() -> None:
    with pytest.raises(ConfigError, match="no such file") as found:
        make_plan(Options(config=Path("a.yaml"), policy=Path("b.yaml")), {})
    assert [mistake.file for mistake in found.value.mistakes] == ["a.yaml", "b.yaml"]


def test_the_command_line_wins_over_the_file_and_the_environment_names_the_database() -> None:
    Path("sparkgate.yaml").write_text("port: 9000\nworkers: 2\ndatabase_url: embedded\n")
    options = Options(port=0, engine_port=9001, dashboard_port=9002, host="0.0.0.0", dashboard=False)
    plan = make_plan(options, {"SPARKGATE_DATABASE_URL": "postgresql://db/x"})
    deployment = plan.deployment
    assert (deployment.port, deployment.engine_port, deployment.dashboard_port) == (0, 9001, 9002)
    assert (deployment.host, deployment.workers, deployment.database_url) == (
        "0.0.0.0",
        2,
        "postgresql://db/x",
    )
    assert deployment.effective_targets[0].url == "http://127.0.0.1:9001"  # type: ignore[union-attr]
    assert not plan.starts_dashboard


@pytest.mark.parametrize(
    ("text", "options", "starts"),
    [
        ("", Options(engine=False), False),
        ("engine: {enabled: false}\n", Options(), False),
        ('targets: [{name: far, kind: engine, url: "http://10.0.0.5:8090"}]\n', Options(), False),
        ('targets: [{name: near, kind: engine, url: "http://localhost:8090"}]\n', Options(), True),
        (
            'targets: [{name: near, kind: engine, url: "http://localhost:8090"}]\n',
            Options(engine_port=1),
            False,
        ),
    ],
)
def test_the_bundled_engine_is_started_only_for_a_target_that_leads_to_it(
    text: str, options: Options, starts: bool
) -> None:
    Path("sparkgate.yaml").write_text(text)
    assert make_plan(options, {}).starts_engine is starts
