"""The C programs are built once; where they cannot be, the reason is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.bench.gateway.programs import NoProgram, program


def test_a_program_is_built_once(built: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = program("mock")
    first = path.stat()
    assert first.st_mode & 0o111
    assert program("mock").stat() == first
    assert list((tmp_path / "sparkgate").iterdir()) == [path]


def test_without_a_compiler_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(NoProgram, match="install gcc, or name one in CC"):
        program("load")


def test_what_a_compiler_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho it has the wrong moon >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(NoProgram, match=r"cannot build load\.c:\nit has the wrong moon"):
        program("load")
