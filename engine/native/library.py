"""Builds the C++ forward for this processor, once, and loads it.

In: nothing. Out: the library, or a `NativeUnavailable` that says why there is none (no compiler, a build
that failed, a system other than Linux). The result is kept in the user's cache folder under a name made
of the sources, the compiler and the processor. Knows nothing of models; see `engine.quantized`.
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
from pathlib import Path

_SOURCES = Path(__file__).parent
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-fno-math-errno")
_BUILD_LIMIT_S = 120.0  # takes 2 s on a free core

_Address = ctypes.c_void_p
_Whole = ctypes.c_int64
_Wholes = ctypes.POINTER(_Whole)


class NativeUnavailable(Exception):
    """The C++ forward cannot be had here; the text says why."""


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
    library.sparkgate_new.restype = _Address
    library.sparkgate_new.argtypes = [*[_Whole] * 7, ctypes.c_double, *[_Address] * 5]
    library.sparkgate_free.argtypes = [_Address]
    library.sparkgate_has_amx.argtypes = [_Address]
    library.sparkgate_use_amx.argtypes = [_Address, ctypes.c_int]
    library.sparkgate_set_weight.argtypes = [_Address, _Whole, ctypes.c_int, _Address, _Whole, _Whole]
    library.sparkgate_set_norm.argtypes = [_Address, _Whole, ctypes.c_int, _Address, _Whole]
    library.sparkgate_forward.argtypes = [_Address, ctypes.POINTER(Step)]
    for name in ("free", "use_amx", "set_weight", "set_norm", "forward"):
        getattr(library, f"sparkgate_{name}").restype = None


def _built(openmp: Path) -> Path:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise NativeUnavailable("there is no C++ compiler: install g++, or name one in CXX")
    folder = _cache_folder()
    path = folder / f"forward-{_key(compiler, openmp)}.so"
    if not path.is_file():
        _build(compiler, openmp, path)
    return path


def _build(compiler: str, openmp: Path, path: Path) -> None:
    """Compile beside the final place and move the result there, so that no one loads half a file."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        objects, result = Path(scratch) / "forward.o", Path(scratch) / "forward.so"
        # Compiled with OpenMP but linked to the one that torch has loaded: two would fight for the cores.
        compile_only = [compiler, *_FLAGS, "-c", str(_SOURCES / "forward.cpp"), "-o", str(objects)]
        link = [compiler, "-shared", "-o", str(result), str(objects), str(openmp)]
        for command in (compile_only, link):
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=_BUILD_LIMIT_S, check=False
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise NativeUnavailable(f"{compiler} did not finish: {error}") from None
            if done.returncode != 0:
                errors = [line for line in done.stderr.splitlines() if "error" in line]
                raise NativeUnavailable(f"{compiler} failed: {errors[0] if errors else done.returncode}")
        result.replace(path)


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
    digest.update(version.stdout + repr((_FLAGS, str(openmp), _processor())).encode())
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
