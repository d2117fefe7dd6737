"""sparkgate.yaml: defaults, disabled targets, and every mistake at once with line and key."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.config.deployment import Deployment, LitellmTarget, OpenAITarget
from gateway.config.load import DEFAULT_DEPLOYMENT, LoadedDeployment, load_deployment, parse_deployment
from gateway.config.mistakes import ConfigError

TARGETS = """\
targets:
  - {name: cheap, kind: openai, base_url: "https://api.example/v1/", model: m, api_key: "${CHEAP_KEY}"}
  - name: claude
    kind: litellm
    model: anthropic/claude-opus-4-8
    api_key: "${CLAUDE_KEY}"
"""


def load(text: str, **env: str) -> LoadedDeployment:
    return parse_deployment(text, "sparkgate.yaml", env)


def lines_of(text: str, **env: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, **env)
    return str(caught.value).splitlines()


def test_without_a_file_everything_is_at_its_default(tmp_path: Path) -> None:
    for path in (None, tmp_path / "absent.yaml"):
        loaded = load_deployment(path, {})
        assert loaded == LoadedDeployment(Deployment())
        assert loaded.target_names == ("engine",)


def test_an_empty_file_is_a_working_deployment(tmp_path: Path) -> None:
    path = tmp_path / "sparkgate.yaml"
    path.write_text("# nothing yet\n")
    assert load_deployment(path, {}) == LoadedDeployment(Deployment(), source=path)


def test_the_default_file_says_what_the_defaults_are() -> None:
    assert load_deployment(DEFAULT_DEPLOYMENT, {}).deployment == Deployment()


def test_the_default_files_examples_are_right_when_uncommented() -> None:
    lines = DEFAULT_DEPLOYMENT.read_text().splitlines()
    text = "\n".join(
        line.replace("#", " ", 1) if line.startswith("#  ") else line.replace("targets: []", "targets:")
        for line in lines
    ).replace("models: {}", "models:")
    loaded = load(text, DEEPSEEK_API_KEY="sk-1")
    assert loaded.target_names == ("engine", "deepseek-flash", "claude", "gpu-pool", "bedrock")
    assert loaded.disabled == {"claude": "the environment variable ANTHROPIC_API_KEY is not set"}
    assert loaded.deployment.models == {
        "gpt-4o": "auto",
        "claude-*": "auto",
        "fast": ("engine", "deepseek-flash"),
    }


def test_a_target_without_its_key_is_disabled_and_the_rest_works() -> None:
    loaded = load(TARGETS, CHEAP_KEY="sk-1")
    assert loaded.disabled == {"claude": "the environment variable CLAUDE_KEY is not set"}
    cheap, claude = loaded.deployment.targets
    assert isinstance(cheap, OpenAITarget)
    assert (cheap.api_key, cheap.base_url) == ("sk-1", "https://api.example/v1")
    assert isinstance(claude, LitellmTarget)
    assert claude.api_key is None


def test_other_unset_variables_are_mistakes() -> None:
    assert lines_of('host: "${NOWHERE}"\nport: "${PORT:-9000}"\n') == [
        "sparkgate.yaml:1: host: the environment variable NOWHERE is not set; set it, or write ${NOWHERE:-default}"
    ]


def test_numbers_may_come_from_the_environment() -> None:
    assert load('port: "${PORT}"', PORT="9000").deployment.port == 9000


def test_all_mistakes_are_listed_with_line_and_key() -> None:
    text = (
        "prot: 9000\n"
        "workers: 0\n"
        'engine: {modell: x, cost_per_hour_usd: -1, drafter: ""}\n'
        "targets:\n"
        "  - {name: a, kind: openai, base_url: nope, model: m}\n"
        "  - {name: a, kind: openia, base_url: 'https://x/v1', model: m}\n"
        "  - {kind: engine, url: 'http://x:1', openai: 3}\n"
        "  - {name: z}\n"
        "models:\n"
        "  x: auto/short_chatt\n"
        "  y: [a, bb]\n"
        "  v: [auto, a]\n"
        "  w: []\n"
        "ledger: {on_full: drop}\n"
        "port: yes\n"
        "workers: 2\n"
    )
    assert lines_of(text) == [
        "sparkgate.yaml:1: prot: unknown key; did you mean 'port'?",
        "sparkgate.yaml:2: workers: should be greater than or equal to 1, not 0",
        "sparkgate.yaml:3: engine.modell: unknown key; did you mean 'model'?",
        "sparkgate.yaml:3: engine.drafter: is empty; leave it out, or name something",
        "sparkgate.yaml:3: engine.cost_per_hour_usd: should be greater than or equal to 0, not -1",
        "sparkgate.yaml:5: targets[0].base_url: should be an address that begins with http:// or https://",
        "sparkgate.yaml:6: targets[1].name: 'a' already names another target; names must be unique",
        "sparkgate.yaml:6: targets[1].kind: 'openia' is not one of engine, vllm, sglang, openai, anthropic, "
        "litellm",
        "sparkgate.yaml:7: targets[2].openai: unknown key; known: name, max_parallel, queue, "
        "unsupported, kind, url, model, cost_per_hour_usd",
        "sparkgate.yaml:7: targets[2].name: is missing",
        "sparkgate.yaml:8: targets[3].kind: is missing; it says what sort of target this is: "
        "engine, vllm, sglang, openai, anthropic, litellm",
        "sparkgate.yaml:10: models.x: there is no task shape 'short_chatt'; did you mean 'short_chat'?",
        "sparkgate.yaml:11: models.y[1]: no target is called 'bb'; known: a, z, auto",
        "sparkgate.yaml:12: models.v[0]: 'auto' cannot stand in a list; list targets, or give `auto` alone",
        "sparkgate.yaml:13: models.w: leads to no target; name one, or `auto`",
        "sparkgate.yaml:14: ledger.on_full: 'drop' is not one of refuse, serve",
        "sparkgate.yaml:15: port: should be a number; yes, no, on and off are true and false in YAML",
        "sparkgate.yaml:16: workers: given twice; the first is on line 2",
    ]


def test_no_message_shows_a_secret() -> None:
    text = (
        'database_url: {url: "postgresql://u:hunter2hunter2@h/db"}\n'
        "targets:\n"
        '  - {name: a, kind: openai, base_url: "${WHISPER}", model: m, api_key: [sk-literal-1]}\n'
        '  - {name: "${WHISPER}", kind: litellm, model: m, api_key: sk-literal-2}\n'
        "  - {name: b, kind: litellm, model: m, api_key: 1234567890}\n"
        'models: {x: "${WHISPER}", y: sk-literal-2}\n'
        'unknown_model: "${WHISPER}"\n'
        'workers: "${WHISPER}"\n'
    )
    lines = lines_of(text, WHISPER="env secret-123")
    assert len(lines) == 8
    for secret in ("hunter2", "sk-literal", "secret-123", "1234567890"):
        assert secret not in "\n".join(lines)


def test_reprs_show_no_secret() -> None:
    loaded = load('database_url: "postgresql://u:pw-secret@h/db"\n' + TARGETS, CHEAP_KEY="sk-cheap-secret")
    assert "secret" not in repr(loaded)


def test_two_parts_cannot_share_a_port() -> None:
    assert lines_of("port: 8090\n") == ["sparkgate.yaml:1: port: 8090 is engine_port already"]
    assert lines_of("port: 1\ndashboard_port: 1\n") == ["sparkgate.yaml:2: dashboard_port: 1 is port already"]
    assert load("port: 8090\nengine: {enabled: false}\n").deployment.port == 8090


def test_engine_is_a_known_name_only_while_there_is_one() -> None:
    assert load("models: {gpt-4o: engine}").deployment.models == {"gpt-4o": "engine"}
    assert lines_of("engine: {enabled: false}\nmodels: {gpt-4o: engine}") == [
        "sparkgate.yaml:2: models.gpt-4o: no target is called 'engine'; known: auto"
    ]


def test_the_bundled_engines_name_is_taken() -> None:
    target = "targets: [{name: engine, kind: litellm, model: m}]"
    assert lines_of(target) == [
        "sparkgate.yaml:1: targets[0].name: is the bundled engine's name; take another, or set engine.enabled: false"
    ]
    assert load(f"engine: {{enabled: false}}\n{target}").target_names == ("engine",)


def test_a_listed_engine_replaces_the_bundled_one() -> None:
    loaded = load("targets: [{name: own, kind: engine, url: 'http://127.0.0.1:8090'}]")
    assert loaded.target_names == ("own",)


def test_a_servers_address_is_where_it_is_and_its_machine_is_paid_for_once() -> None:
    text = (
        "targets:\n"
        "  - {name: a, kind: vllm, url: 'http://h:8000/v1/', model: m, cost_per_hour_usd: 2.5}\n"
        "  - {name: b, kind: vllm, url: 'http://h:8000', model: lora, cost_per_hour_usd: 2.5}\n"
        "  - {name: c, kind: sglang, url: 'http://h:1/metrics', model: m}\n"
        "  - {name: d, kind: vllm, url: 'http://h:2/v1/chat/completions', model: m}\n"
        "  - {name: e, kind: vllm, base_url: 'http://h:3', model: m}\n"
        "  - {name: f, kind: sglang, url: 'http://h:4'}\n"
    )
    assert lines_of(text) == [
        "sparkgate.yaml:3: targets[1].cost_per_hour_usd: is that of targets[0] already, which is the same server: "
        "say what its machine costs in one of them",
        "sparkgate.yaml:4: targets[2].url: ends in /metrics, which is appended to it: write http://h:1",
        "sparkgate.yaml:5: targets[3].url: ends in /chat/completions, which is appended to it: write http://h:2",
        "sparkgate.yaml:6: targets[4].base_url: unknown key; known: name, max_parallel, queue, unsupported, kind, "
        "url, model, api_key, context_tokens, endpoints, max_batch, cost_per_hour_usd",
        "sparkgate.yaml:6: targets[4].url: is missing",
        "sparkgate.yaml:7: targets[5].model: is missing",
    ]
    shared = text.splitlines(keepends=True)[:3]
    shared[2] = shared[2].replace(", cost_per_hour_usd: 2.5", "")
    assert load("".join(shared)).target_names == ("engine", "a", "b")


def test_a_text_that_is_no_mapping_is_refused() -> None:
    assert lines_of("- a\n- b\n") == [
        "sparkgate.yaml:1: the file should hold keys and values, like `key: value`"
    ]


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"host: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml: is not UTF-8 text \(byte 9\)"):
        load_deployment(tmp_path / "latin.yaml", {})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_deployment(tmp_path, {})


def test_the_model_checks_itself_without_a_file() -> None:
    with pytest.raises(ValidationError, match="did you mean 'port'"):
        Deployment.model_validate({"prot": 1})
