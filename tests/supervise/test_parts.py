"""Command lines of the processes: what sparkgate.yaml says reaches them in words they know."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import make_url

from engine.__main__ import parser
from gateway.config.variables import (
    DATABASE_URL_VARIABLE,
    GATEWAY_URL_VARIABLE,
    METRICS_FOLDER_VARIABLE,
    SIGN_IN_VARIABLE,
)
from gateway.ledger.reader_role import ROLE
from gateway.supervise.options import Options, make_plan
from gateway.supervise.parts import dashboard_env, drain_part, engine_part
from gateway.telemetry.settings import handed_over


def test_the_engine_is_told_all_that_the_file_says(tmp_path: Path) -> None:
    config = tmp_path / "sparkgate.yaml"
    config.write_text(
        "engine_port: 9001\n"
        "engine: {model: org/target, drafter: org/drafter, draft_schedule: delayed,\n"
        "         dtype: float32, device: cpu, max_batch: 3, threads: 2}\n"
    )
    part = engine_part(make_plan(Options(config, data_dir=tmp_path), {}))
    served = parser().parse_args(part.argv[part.argv.index("engine") + 1 :])
    assert (served.command, served.model, served.drafter) == ("serve", "org/target", "org/drafter")
    assert (served.dtype, served.device, served.max_batch, served.threads) == ("float32", "cpu", 3, 2)
    assert (served.draft_schedule, served.port, served.data_dir) == ("delayed", 9001, tmp_path)
    assert part.prepare is not None
    fetched = parser().parse_args(part.prepare[part.prepare.index("engine") + 1 :])
    assert (fetched.command, fetched.model, fetched.drafter) == ("fetch", "org/target", "org/drafter")
    assert fetched.data_dir == tmp_path


def test_the_drain_is_told_where_telemetry_goes_and_where_figures_are_shared(tmp_path: Path) -> None:
    config = tmp_path / "sparkgate.yaml"
    config.write_text('telemetry: {otlp_endpoint: "http://collector:4318", callers: false}\n')
    on = drain_part(make_plan(Options(config, data_dir=tmp_path), {}), "postgresql://db")
    telemetry = handed_over(on.env)
    assert telemetry is not None
    assert (telemetry.endpoint, telemetry.callers) == ("http://collector:4318", False)
    assert telemetry.servers["engine"].provider == "sparkgate"
    assert on.env[METRICS_FOLDER_VARIABLE] == str(tmp_path / "run" / "metrics")
    config.write_text("{}\n")
    off = drain_part(make_plan(Options(config, data_dir=tmp_path), {}), "postgresql://db")
    assert handed_over(off.env) is None


def test_the_drain_is_told_how_long_calls_are_kept(tmp_path: Path) -> None:
    config = tmp_path / "sparkgate.yaml"
    config.write_text("ledger: {retention_days: 7}\n")
    part = drain_part(make_plan(Options(config, data_dir=tmp_path), {}), "postgresql://db")
    assert part.argv[-2:] == ("--retention-days", "7")


def test_the_dashboard_is_told_what_it_needs_and_reads_with_a_role_that_cannot_write(
    tmp_path: Path, database_url: str
) -> None:
    config = tmp_path / "sparkgate.yaml"

    def told(text: str) -> dict[str, str]:
        config.write_text(text)
        plan = make_plan(Options(config, data_dir=tmp_path), {})
        return dashboard_env(plan, database_url, "http://127.0.0.1:8080")

    embedded = told("dashboard: {sign_in: required}\n")
    assert (embedded[SIGN_IN_VARIABLE], embedded[GATEWAY_URL_VARIABLE]) == (
        "required",
        "http://127.0.0.1:8080",
    )
    assert make_url(embedded[DATABASE_URL_VARIABLE]) == make_url(database_url).set(username=ROLE)
    elsewhere = told("database_url: postgresql://owner@db/sparkgate\n")
    assert (elsewhere[SIGN_IN_VARIABLE], elsewhere[DATABASE_URL_VARIABLE]) == ("auto", database_url)
    of_its_own = told("dashboard: {database_url: 'postgresql://reader:secret@db/sparkgate'}\n")
    assert of_its_own[DATABASE_URL_VARIABLE] == "postgresql+psycopg://reader:secret@db/sparkgate"
