"""What `up` says once it is ready: the curl line works in a shell, and no key is shown that should not be."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from gateway.supervise.banner import FirstKey, curl, ready_text

URL = "http://127.0.0.1:8080"


def arguments_in_a_shell(line: str, environment: dict[str, str]) -> list[str]:
    """What `curl` would get."""
    program = 'curl() { printf "%s\\0" "$@"; }\n' + line
    done = subprocess.run(["bash", "-c", program], env=environment, capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize("kind", ["made", "kept", "given"])
def test_the_curl_line_sends_the_key_whatever_way_it_is_known(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "a folder" / "first_key"
    file.parent.mkdir()
    file.write_text("sg-abc\n")
    key = FirstKey(kind, file, "sg-abc" if kind == "made" else None)  # type: ignore[arg-type]
    environment = {"PATH": "/usr/bin:/bin", "SPARKGATE_API_KEY": "sg-abc"}
    sent = arguments_in_a_shell(curl(URL, key), environment)
    assert f"{URL}/v1/chat/completions" in sent
    assert "Authorization: Bearer sg-abc" in sent
    body = json.loads(sent[sent.index("-d") + 1])
    assert (body["model"], body["stream"]) == ("auto", True)


def test_the_message_names_urls_key_and_notes() -> None:
    text = ready_text(
        URL, FirstKey("made", Path("/d/run/first_key"), "sg-abc"), "http://127.0.0.1:8501", 3.21, ["odd"]
    )
    for expected in ("3.2 s", f"{URL}/v1", "sg-abc", "/d/run/first_key", "http://127.0.0.1:8501", "odd"):
        assert expected in text


@pytest.mark.parametrize("kind", ["kept", "given", "elsewhere"])
def test_a_key_that_this_start_did_not_make_is_not_printed(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "first_key"
    file.write_text("sg-abc")
    assert "sg-abc" not in ready_text(URL, FirstKey(kind, file), None, 1.0, [])  # type: ignore[arg-type]
