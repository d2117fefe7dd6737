"""Builds the C++ of the forward and of drafting for this processor, once, and loads it.

In: nothing. Out: the library, or a `NativeUnavailable` that says why there is none (no compiler, a build
that failed, a system other than Linux). The result is kept in the user's cache folder under a name made
of the sources, the compiler and the processor. Where there is no compiler, one that `python -m engine.native.library`
built ahead serves, on processors with AMX: so do images of containers. Knows nothing of models; see
`engine.quantized` and `engine.drafters.quantized`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_SOURCES = Path(__file__).parent
_FLAGS = ("-std=c++17", "-O3", "-fopenmp", "-fPIC", "-fno-math-errno")
_HERE = ("-march=native",)
_AHEAD = (
    "-march=x86-64-v4",
    "-mtune=sapphirerapids",
    "-mavx512vnni",
    "-mavx512bf16",
    "-mamx-tile",
    "-mamx-int8",
    "-mamx-bf16",
)
# What processors that run it have, in the words of /proc/cpuinfo; none has AMX and lacks the rest of x86-64-v4.
_AHEAD_NEEDS = {"avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"}
_AHEAD_PATH = _SOURCES / "forward-ahead.so"
_BUILD_LIMIT_S = 120.0  # takes 3 s on two free cores

_Address = ctypes.c_void_p
_Whole = ctypes.c_int64
_Wholes = ctypes.POINTER(_Whole)


class NativeUnavailable(Exception):
    """The C++ forward cannot be had here; the text says why."""


class Parts(ctypes.Structure):
    """What a decoder is made of; the order and types of `Parts` in decoder.h."""

    _fields_ = (
        ("hidden", _Whole),
        ("inner", _Whole),
        ("num_heads", _Whole),
        ("num_kv_heads", _Whole),
        ("head_dim", _Whole),
        ("num_layers", _Whole),
        ("epsilon", ctypes.c_double),
        ("embedding", _Address),
        ("cosine", _Address),
        ("sine", _Address),
        ("final_norm", _Address),
    )


class DraftParts(ctypes.Structure):
    """What a block drafter has beside its layers; the order and types of `DraftParts` in drafting.cpp."""

    _fields_ = (
        ("width", _Whole),
        ("num_slots", _Whole),
        ("mask_token", _Whole),
        ("num_features", _Whole),
        ("rank", _Whole),
        ("vocabulary", _Address),
        ("feature_norm", _Address),
        ("markov_rows", _Address),
        ("confidence", _Address),
        ("confidence_size", _Whole),
        ("confidence_bias", ctypes.c_double),
    )


class Step(ctypes.Structure):
    """What a step computes; the order and types of `Step` in forward.cpp."""

    _fields_ = (
        ("num_rows", _Whole),
        ("num_sequences", _Whole),
        ("num_logits", _Whole),
        ("num_captured", _Whole),
        ("token_ids", _Address),
        ("positions", _Address),
        ("slots", _Address),
        ("first_rows", _Wholes),
        ("widths", _Wholes),
        ("block_ids", _Wholes),
        ("logit_rows", _Address),
        ("captured", _Wholes),
        ("cache", _Wholes),
        ("logits", _Address),
        ("features", _Address),
    )


class ContextStep(ctypes.Structure):
    """Rows that a drafter takes in; the order and types of `ContextStep` in drafting.cpp."""

    _fields_ = (
        ("num_rows", _Whole),
        ("features", _Address),
        ("positions", _Address),
        ("slots", _Address),
        ("cache", _Wholes),
    )


class DraftStep(ctypes.Structure):
    """Sequences that want a proposal; the order and types of `DraftStep` in drafting.cpp."""

    _fields_ = (
        ("num_sequences", _Whole),
        ("num_blocks", _Whole),
        ("anchors", _Address),
        ("starts", _Address),
        ("block_ids", _Address),
        ("temperatures", _Address),
        ("uniforms", _Address),
        ("cache", _Wholes),
        ("token_ids", _Address),
        ("token_probs", _Address),
        ("draft_probs", _Address),
        ("confidence", _Address),
    )


@functools.cache
def load_library() -> ctypes.CDLL:
    """The library, built if need be. torch must have been imported: its OpenMP threads are shared."""
    openmp = _loaded_openmp()
    path = _built(openmp)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeUnavailable(f"{path} cannot be loaded: {error}") from None
    _declare(library)
    return library


def _declare(library: ctypes.CDLL) -> None:
    library.sparkgate_new.restype = library.sparkgate_new_drafter.restype = _Address
    library.sparkgate_new.argtypes = [ctypes.POINTER(Parts), _Whole, _Address]
    library.sparkgate_new_drafter.argtypes = [ctypes.POINTER(Parts), ctypes.POINTER(DraftParts)]
    library.sparkgate_free.argtypes = library.sparkgate_free_drafter.argtypes = [_Address]
    library.sparkgate_has_amx.argtypes = [_Address]
    library.sparkgate_use_amx.argtypes = [_Address, ctypes.c_int]
    library.sparkgate_set_weight.argtypes = [_Address, _Whole, ctypes.c_int, _Address, _Whole, _Whole]
    library.sparkgate_set_norm.argtypes = [_Address, _Whole, ctypes.c_int, _Address, _Whole]
    library.sparkgate_set_draft_weight.argtypes = [_Address, ctypes.c_int, _Address, _Whole, _Whole]
    library.sparkgate_forward.argtypes = [_Address, ctypes.POINTER(Step)]
    library.sparkgate_extend.argtypes = [_Address, ctypes.POINTER(ContextStep)]
    library.sparkgate_propose.argtypes = [_Address, ctypes.POINTER(DraftStep)]
    setting = ("use_amx", "set_weight", "set_norm", "set_draft_weight")
    for name in ("free", "free_drafter", *setting, "forward", "extend", "propose"):
        getattr(library, f"sparkgate_{name}").restype = None


def _built(openmp: Path) -> Path:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        if _AHEAD_PATH.is_file() and set(_processor().split()) >= _AHEAD_NEEDS:
            return _AHEAD_PATH
        raise NativeUnavailable("there is no C++ compiler: install g++, or name one in CXX")
    folder = _cache_folder()
    path = folder / f"forward-{_key(compiler, openmp)}.so"
    if not path.is_file():
        _build(compiler, _HERE, openmp, path)
    return path


def build_ahead() -> None:
    """Beside the sources, for processors with AMX, whatever this one is. torch must have been imported."""
    _build(os.environ.get("CXX", "g++"), _AHEAD, _loaded_openmp(), _AHEAD_PATH)


def _build(compiler: str, processor: tuple[str, ...], openmp: Path, path: Path) -> None:
    """Compile beside the final place and move the result there, so that no one loads half a file."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        result = Path(scratch) / "forward.so"
        objects = {Path(scratch) / f"{source.stem}.o": source for source in _SOURCES.glob("*.cpp")}
        # Compiled with OpenMP but linked to the one that torch has loaded: two would fight for the cores.
        flags = [*_FLAGS, *processor]
        steps = [[compiler, *flags, "-c", str(source), "-o", str(to)] for to, source in objects.items()]
        with ThreadPoolExecutor() as pool:
            list(pool.map(_run, steps))
        _run([compiler, "-shared", "-o", str(result), *map(str, objects), str(openmp)])
        result.replace(path)


def _run(command: list[str]) -> None:
    compiler = command[0]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeUnavailable(f"{compiler} did not finish: {error}") from None
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        raise NativeUnavailable(f"{compiler} failed: {errors[0] if errors else done.returncode}")


def _cache_folder() -> Path:
    """A folder of the user's own that can be written to."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "sparkgate"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise NativeUnavailable(f"cannot write to {folder}: {error.strerror}; set XDG_CACHE_HOME") from None
    return folder


def _key(compiler: str, openmp: Path) -> str:
    """Differs wherever the built library would."""
    digest = hashlib.sha256()
    for source in sorted(_SOURCES.glob("*.cpp")) + sorted(_SOURCES.glob("*.h")):
        digest.update(source.read_bytes())
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False)
    digest.update(version.stdout + repr((_FLAGS, _HERE, str(openmp), _processor())).encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """The processor's instruction sets, as the system lists them."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(("flags", "Features")):
            return line
    return platform.machine()


def _loaded_openmp() -> Path:
    """The OpenMP library of this process."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        raise NativeUnavailable("the C++ forward is built on Linux only")
    for line in maps.read_text(encoding="utf-8").splitlines():
        path = Path(line.split(maxsplit=5)[-1])
        if path.name.startswith(("libgomp", "libiomp5", "libomp")):
            return path
    raise NativeUnavailable("this PyTorch was built without OpenMP")


if __name__ == "__main__":
    import torch  # noqa: F401 — its OpenMP is what the library is linked to

    build_ahead()
