"""The command line: mistakes end in one line and exit code 2."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from engine.__main__ import main
from tests.engine.conftest import ROOT


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("engine: ")
    assert "\n" not in error
    return error


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["serve", "--port", "70000"], "'70000' is not a whole number from 0 to 65535"),
        (["serve", "--max-batch", "0"], "'0' is not a whole number from 1 up"),
        (["serve", "--threads", "many"], "'many'"),
        (["serve", "--dtype", "int3"], "invalid choice"),
        (["serve", "--draft-confidence", "1.5"], "'1.5' is not a number from 0 to 1"),
        (["serve", "--draft-confidence", "nan"], "'nan' is not a number from 0 to 1"),
        (["serve", "--draft-confidence", "high"], "'high' is not a number from 0 to 1"),
        (["serve", "--draft-schedule", "soon"], "invalid choice: 'soon'"),
        (["serve", "--fast"], "unrecognized arguments: --fast"),
        ([], "required: command"),
    ],
)
def test_wrong_options_are_explained(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert reason in capsys.readouterr().err


def test_an_unknown_model_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    error = complaint(capsys, "serve", "--model", "nothing", "--data-dir", str(tmp_path), "--port", "0")
    assert "'nothing'" in error


def test_an_unknown_drafter_is_one_line(
    capsys: pytest.CaptureFixture[str], toy_folder: Path, tmp_path: Path
) -> None:
    options = ["--model", str(toy_folder), "--drafter", "nothing", "--data-dir", str(tmp_path)]
    assert "drafter 'nothing'" in complaint(capsys, "fetch", *options)


def test_a_taken_port_is_said_plainly(capsys: pytest.CaptureFixture[str], toy_folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        error = complaint(capsys, "serve", "--model", str(toy_folder), "--port", port)
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in error


def test_another_architecture_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert "'gpt2'; this engine runs: llama" in complaint(
        capsys, "serve", "--model", str(tmp_path), "--port", "0"
    )


def test_a_gpu_that_is_not_there_is_refused(
    capsys: pytest.CaptureFixture[str], toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    error = complaint(capsys, "serve", "--model", str(toy_folder), "--device", "cuda", "--port", "0")
    assert "no CUDA device" in error


def test_fetch_prints_the_folder(model_folder: Path, test_dir: Path) -> None:
    command = [sys.executable, "-m", "engine", "fetch", "--data-dir", str(test_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert Path(done.stdout.strip()) == model_folder


def test_the_command_line_answers_before_torch_is_imported() -> None:
    imported = "'torch' in sys.modules or 'transformers' in sys.modules"
    script = f"import sys, engine.__main__, engine.fetch; sys.exit({imported})"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60).returncode == 0


def test_serving_does_not_import_transformers() -> None:
    script = "import sys, engine.serve; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60).returncode == 0
