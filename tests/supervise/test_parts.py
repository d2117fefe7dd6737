"""Command lines of the processes: what sparkgate.yaml says reaches them in words they know."""

from __future__ import annotations

from pathlib import Path

from engine.__main__ import parser
from gateway.supervise.options import Options, make_plan
from gateway.supervise.parts import engine_part


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
