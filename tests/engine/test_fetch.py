"""Models and drafters on disk: the bundled one converted, folders as they are, ids from a hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from safetensors import safe_open

from engine.checkpoint import read_config
from engine.errors import StartError
from engine.fetch import BUNDLED_MODEL, fetch_drafter, fetch_model
from tests.engine.conftest import ROOT

HUB_FILES = {"config.json": b'{"hidden_size": 8}', "model.safetensors": b"weights", "README.md": b"words"}


class Hub(BaseHTTPRequestHandler):
    """A hub that has one repository, `org/drafter`."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name, body = self.path.rsplit("/", 1)[-1], None
        if self.path.startswith("/api/models/org/drafter/tree/"):
            files = [{"type": "file", "path": name, "size": 1, "oid": "b" * 40} for name in HUB_FILES]
            body = json.dumps(files).encode()
        elif self.path.startswith("/api/models/org/drafter"):
            siblings = [{"rfilename": name} for name in HUB_FILES]
            body = json.dumps({"id": "org/drafter", "sha": "a" * 40, "siblings": siblings}).encode()
        elif self.path.startswith("/org/drafter/resolve/"):
            body = HUB_FILES.get(name)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("ETag", f'"{name}"')
        self.end_headers()
        if body and self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Silence."""


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch_from(endpoint: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m engine fetch` with another hub, whose address the library reads when it is imported."""
    command = [sys.executable, "-m", "engine", "fetch", *arguments]
    environment = {**os.environ, "HF_ENDPOINT": endpoint}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_the_bundled_model_is_converted_whole(model_folder: Path) -> None:
    config = read_config(model_folder)
    assert (config.num_layers, config.hidden_size, config.vocab_size) == (30, 576, 49_152)
    assert config.eos_ids == {2}
    with safe_open(model_folder / "model.safetensors", "pt") as weights:
        assert len(weights.keys()) == 2 + 9 * config.num_layers


def test_a_model_on_disk_is_not_fetched_again(model_folder: Path, test_dir: Path) -> None:
    reports: list[str] = []
    fetched = fetch_model(BUNDLED_MODEL, test_dir, lambda what, share: reports.append(what))
    assert (fetched.name, fetched.folder) == (BUNDLED_MODEL, model_folder)
    assert reports == []


def test_nothing_half_made_is_left_beside_it(model_folder: Path) -> None:
    assert [path.name for path in model_folder.parent.glob(".*") if path.name != ".lock"] == []


def test_a_local_folder_is_served_under_its_name(toy_folder: Path, tmp_path: Path) -> None:
    fetched = fetch_model(str(toy_folder), tmp_path)
    assert (fetched.name, fetched.folder) == ("toy", toy_folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", ["", "no-such-model", "a/b/c", "../x y"])
def test_a_name_that_is_nothing_says_what_would_be(model: str, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=BUNDLED_MODEL):
        fetch_model(model or "?", tmp_path)


def test_a_file_is_not_a_model_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(StartError, match="give the folder"):
        fetch_model(str(file), tmp_path)


def test_a_data_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(StartError, match="cannot write"):
        fetch_model(BUNDLED_MODEL, blocked)


@pytest.mark.parametrize("drafter", ["auto", "bundled", "lookup", "none"])
def test_some_drafters_need_no_fetching(drafter: str, tmp_path: Path) -> None:
    assert fetch_drafter(drafter, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_drafter_may_be_a_folder(toy_folder: Path, tmp_path: Path) -> None:
    fetched = fetch_drafter(str(toy_folder), tmp_path)
    assert fetched is not None
    assert (fetched.name, fetched.folder) == ("toy", toy_folder)


def test_an_id_is_fetched_once_and_then_needs_no_hub(
    hub: ThreadingHTTPServer, toy_folder: Path, tmp_path: Path
) -> None:
    options = ["--model", str(toy_folder), "--drafter", "org/drafter", "--data-dir", str(tmp_path)]
    folder = tmp_path / "models" / "org--drafter"
    address = f"http://127.0.0.1:{hub.server_port}"
    for endpoint in (address, "http://127.0.0.1:9"):
        done = fetch_from(endpoint, *options)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [str(toy_folder), str(folder)]
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        assert files == {name: HUB_FILES[name] for name in ("config.json", "model.safetensors")}


@pytest.mark.parametrize("name", ["org/other", "org/two--dashes"])
def test_an_id_that_cannot_be_fetched_is_one_line(
    name: str, hub: ThreadingHTTPServer, toy_folder: Path, tmp_path: Path
) -> None:
    options = ["--model", str(toy_folder), "--drafter", name, "--data-dir", str(tmp_path)]
    done = fetch_from(f"http://127.0.0.1:{hub.server_port}", *options)
    assert done.returncode == 2
    assert done.stderr.strip().startswith(f"engine: could not download {name} from Hugging Face: ")
    assert "\n" not in done.stderr.strip()


def test_a_hub_that_cannot_be_reached_is_one_line(toy_folder: Path, tmp_path: Path) -> None:
    options = ["--model", str(toy_folder), "--drafter", "org/drafter", "--data-dir", str(tmp_path)]
    done = fetch_from("http://127.0.0.1:9", *options)
    assert done.returncode == 2
    assert "could not download org/drafter from Hugging Face: " in done.stderr
    assert "Connection refused" in done.stderr
    assert "\n" not in done.stderr.strip()


def test_a_drafters_name_that_is_nothing_says_what_would_be(tmp_path: Path) -> None:
    with pytest.raises(
        StartError, match="drafter 'lokup' is not auto, bundled, lookup, none, nor a folder here"
    ):
        fetch_drafter("lokup", tmp_path)
