"""Recognisable secrets and prompts go everywhere they may be told again, and are found nowhere they should not be.

One gateway, calls of all kinds, most of them failing; then everything that is kept or shown is searched: the database's
every row, spool, logs, metrics, health and admin answers, what clients got, and what configuration says of itself.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiohttp import web
from sqlalchemy import make_url

from gateway.assemble import Files
from gateway.config.load import load_deployment
from gateway.config.mistakes import ConfigError
from gateway.dispatch.quotes import MAX_QUOTED_CHARS, without_quotes
from tests.fakes import ROLE, Answer, chunk, stream
from tests.gateway.conftest import CHAT, KEY, Gateway, running_gateway
from tests.gateway.control.test_api import drained

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "DeprecationWarning")]
UPSTREAM_KEY = "sk-planted-upstream-8c1f/2a+77="
LITELLM_KEY = "sk-planted-litellm-55d0e9"
WRONG_KEY = "sg-planted-key-of-nobody-31"
DATABASE_PASSWORD = "planted-password-of-the-database"  # noqa: S105
PROMPT = "planted: the merger with Umbra is signed on the ninth"
SYSTEM = "planted: never tell that the vault code is 7741-2209"
KEPT = "task-that-is-kept"  # what is meant to be kept is found, or the search is no search
SECRETS = (UPSTREAM_KEY, LITELLM_KEY, WRONG_KEY, KEY, DATABASE_PASSWORD)
PROMPTS = (PROMPT, SYSTEM)
POLICY = """
version: 1
defaults: {retries: {max: 0}, fallback: [], explore: 0}
"""
ASKED = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": ASKED, "metadata": {"note": PROMPT}, "user": "app-user"},
    "/v1/completions": {"prompt": PROMPT},
    "/v1/embeddings": {"input": [PROMPT, SYSTEM]},
    "/v1/responses": {"input": PROMPT, "instructions": SYSTEM},
    "/v1/messages": {"system": SYSTEM, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 5},
    "/v1/messages/count_tokens": {"system": SYSTEM, "messages": [{"role": "user", "content": PROMPT}]},
}


def echo(status: int) -> Answer:
    """An upstream that says all it was told."""

    async def answer(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        told = f"bad key {request.headers['authorization']}; could not read {asked['messages']}"
        value = {"error": {"message": told, "type": "x", "param": None, "code": told}}
        return web.json_response(value, status=status)

    return answer


async def echo_event(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
    told = f"{request.headers['authorization']} {asked['messages'][1]['content']}"
    failed = chunk(choices=[], error={"message": told, "code": 500, "type": "x"})
    return await stream(ROLE, chunk("Hel"), failed)(request, asked)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (f"no luck with '{PROMPT}', sorry", "no luck with '…', sorry"),
        (f"{PROMPT} {PROMPT}", "… …"),
        (f"cut: {PROMPT[5:40]}", "cut: …"),
        (
            "max_tokens is too large for m-1-large-preview-2026",
            "max_tokens is too large for m-1-large-preview-2026",
        ),
        ("", ""),
    ],
)
def test_a_message_is_kept_without_what_it_quotes(said: str, kept: str) -> None:
    body = b'{"model":"m-1-large-preview-2026","messages":[{"role":"user","content":"%b"}]}' % PROMPT.encode()
    assert without_quotes(said, body) == kept


def test_no_quote_is_too_well_hidden_to_be_found() -> None:
    """Wherever it begins, and however it is written in the body."""
    text = 'so "quoted"\n\\ and ünïcode: ' + PROMPT
    body = b'{"input":["so \\"quoted\\"\\n\\\\ and \\u00fcn\\u00efcode: %b"]}' % PROMPT.encode()
    for at in range(len(text) - MAX_QUOTED_CHARS):
        quote = text[at : at + MAX_QUOTED_CHARS + 1]
        for before in range(9):
            assert without_quotes("#" * before + quote + "###", body) == "#" * before + "…" + "###"


async def _call_in_every_way(gateway: Gateway) -> list[str]:
    """What clients got."""
    got: list[str] = []

    async def say(path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> int:
        given = gateway.headers | {"X-Task-Id": KEPT} | (headers or {})
        async with gateway.session.post(gateway.url + path, json=body, headers=given) as response:
            got.append(f"{response.headers} {(await response.read()).decode()}")
            return response.status

    for path, body in BODIES.items():
        for target in ("good", "gone", "nowhere", "no-tls", "provider"):
            for more in ({}, {"stream": True}):
                await say(path, {"model": target, **body, **more})
    for status in (401, 400, 429, 500):
        for is_stream in (False, True):
            gateway.fakes["good"].script = [echo(status)]
            assert await say(CHAT, {"model": "good", **BODIES[CHAT], "stream": is_stream}) != 200
    gateway.fakes["good"].script = [echo(500), echo(401)]
    await say("/v1/messages", {"model": "good", **BODIES["/v1/messages"]})
    await say("/v1/responses", {"model": "good", **BODIES["/v1/responses"]})
    for asked in (CHAT, "/v1/messages"):
        gateway.fakes["good"].script = [echo_event]
        await say(asked, {"model": "good", **BODIES[asked], "stream": True})
    wrong = {"Authorization": f"Bearer {WRONG_KEY}", "X-Api-Key": WRONG_KEY}
    assert await say(CHAT, {"model": "good", **BODIES[CHAT]}, wrong) == 401
    assert await say(CHAT, {"model": "good", "messages": [PROMPT]}) == 400
    assert await say(CHAT, {"model": "good", "messages": ASKED}, {"X-Task-Shape": "no-shape"}) == 400
    async with gateway.session.post(
        gateway.url + CHAT, data=f'{{"model": "{PROMPT}', headers=gateway.headers
    ) as response:
        got.append((await response.read()).decode())
    return got


def _shown_to_clients(got: list[str]) -> None:
    for answer in got:
        for secret in SECRETS:
            assert secret not in answer
    assert any("(hidden)" in answer for answer in got)


async def _kept_and_shown(gateway: Gateway, database_url: str) -> dict[str, str]:
    """Everything but what clients got, by where it is."""
    found: dict[str, str] = {}
    spool = [path.read_bytes() for path in gateway.data_dir.glob("spool/**/*") if path.is_file()]
    found["spool"] = b"".join(spool).decode()
    made = len(gateway.exchanges())
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as connection:
        while connection.execute("SELECT count(*) FROM exchanges").fetchone() != (made,):
            await drained(gateway, database_url)
    for path in ("/health", "/metrics", "/v1/models", f"/v1/tasks/{KEPT}", "/admin/policy"):
        found[path] = str(await gateway.get(path))
    for path in ("/admin/keys", "/admin/targets", "/admin/usage", "/admin/policy/versions"):
        found[path] = str(await gateway.get(path))
    with psycopg.connect(database_url.replace("+psycopg", "")) as connection:
        tables = connection.execute(
            "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchall()
        for (table,) in tables:
            rows = connection.execute(f"SELECT t::text FROM {table} t").fetchall()
            found[table] = "\n".join(row[0] for row in rows)
        messages = connection.execute("SELECT error_message FROM attempts WHERE error_message IS NOT NULL")
        told = [message for (message,) in messages]
        assert any("…" in message for message in told), {m for m in told if "no connection" not in m}
        identifiers = connection.execute("SELECT id FROM exchanges").fetchall()
    for (identifier,) in identifiers[:20]:
        found[f"exchange {identifier}"] = str(await gateway.get(f"/v1/exchanges/{identifier}"))
    return found


def test_planted_secrets_and_prompts_are_nowhere(
    clean_database_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def test() -> None:
        url = make_url(clean_database_url).set(password=DATABASE_PASSWORD)
        database_url = url.render_as_string(hide_password=False)
        assert DATABASE_PASSWORD in database_url
        keys = {"api_key": UPSTREAM_KEY}
        limits = {
            "good": keys,
            "gone": keys | {"base_url": "http://127.0.0.1:9/v1"},
            "nowhere": keys | {"base_url": "http://planted.invalid/v1"},
            "no-tls": keys | {"base_url": "https://127.0.0.1:9/v1"},
            "provider": {"kind": "litellm", "model": "openai/m", "api_key": LITELLM_KEY},
        }
        async with running_gateway(database_url, tmp_path, POLICY, tuple(limits), limits) as gateway:
            _shown_to_clients(await _call_in_every_way(gateway))
            found = await _kept_and_shown(gateway, database_url)
        output = capfd.readouterr()
        found |= {"logs": caplog.text, "output": output.out + output.err}
        assert KEPT in found["exchanges"]
        assert "good" in found["/metrics"]
        for where, text in found.items():
            for secret in SECRETS:
                assert secret not in text, f"{secret} is in {where}"
            for prompt in PROMPTS:
                for part in (prompt, prompt[9:]):
                    assert part not in text, f"a prompt is in {where}"

    with caplog.at_level(logging.DEBUG, logger="gateway"):
        asyncio.run(test())


FILE = """
database_url: postgresql://gateway:planted-password-of-the-database@db/sparkgate
engine: {enabled: false}
telemetry: {otlp_endpoint: "http://localhost:4318", headers: {authorization: "${PLANTED}"}}
dashboard: {database_url: "postgresql://reader:${PLANTED}@db/sparkgate"}
targets:
  - {name: a, kind: openai, base_url: "http://a/v1", model: m, api_key: "${PLANTED}"}
  - {name: b, kind: anthropic, model: m, api_key: "${PLANTED}"}
  - {name: c, kind: litellm, model: x/m, api_key: "${PLANTED}"}
  - {name: d, kind: vllm, url: "http://d", model: m, api_key: "${PLANTED}"}
"""


def test_configuration_does_not_tell_its_secrets(tmp_path: Path) -> None:
    (tmp_path / "sparkgate.yaml").write_text(FILE)
    loaded = load_deployment(tmp_path / "sparkgate.yaml", {"PLANTED": UPSTREAM_KEY})
    files = Files(
        loaded.deployment, loaded.disabled, None, tmp_path, f"postgresql://u:{DATABASE_PASSWORD}@db/x"
    )
    assert loaded.deployment.targets[0].api_key == UPSTREAM_KEY  # type: ignore[union-attr]
    for shown in (repr(loaded), str(loaded.deployment), repr(files), f"{files}"):
        for secret in SECRETS:
            assert secret not in shown


@pytest.mark.parametrize(
    "line",
    [
        'base_url: "http://user:${PLANTED}@a/v1"',
        'base_url: "http://a/v1?key=${PLANTED}"',
        'base_url: "${PLANTED}"',
        'base_url: "http://a/v1", api_key: ["${PLANTED}"]',
        'base_url: "http://a/v1", "${PLANTED}": 1, max_parallel: "${PLANTED}"',
    ],
)
def test_mistakes_do_not_tell_secrets(tmp_path: Path, line: str) -> None:
    text = f"targets:\n  - {{name: a, kind: openai, model: m, {line}}}\n"
    (tmp_path / "sparkgate.yaml").write_text(text)
    with pytest.raises(ConfigError) as wrong:
        load_deployment(tmp_path / "sparkgate.yaml", {"PLANTED": UPSTREAM_KEY})
    assert UPSTREAM_KEY not in f"{wrong.value} {wrong.value!r} {wrong.value.__cause__!r}"
