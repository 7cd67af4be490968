"""Loading of the two extensions: the same version everywhere, and never an instruction that this CPU lacks."""

from __future__ import annotations

import functools
import importlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _core
from .._errors import InternalError, IsaNotSupportedError
from .._version import __version__

__all__ = ["BuildInfo", "build_info", "check_version", "data_file", "drain_log", "load_ggml"]

_LOG = logging.getLogger("whisperq_edge")


@dataclass(frozen=True)
class BuildInfo:
    """What the installed extensions were built from and for (``_build.json``, written by CMake)."""

    version: str
    whisper_cpp: str
    compiler: str
    native: str
    sanitize: str
    ggml_backends: list[str]
    ggml_requires: list[str]


def data_file(name: str) -> Path:
    """A file that ships with the package. Those that the build makes lie beside the extensions, which in an editable
    install is another folder than that of the Python sources."""
    for folder in (Path(__file__).parents[1], Path(_core.__file__).parent):
        if (folder / name).exists():
            return folder / name
    raise InternalError(f"the installed package lacks its file {name}: install whisperq-edge again")


@functools.cache
def build_info() -> BuildInfo:
    return BuildInfo(**json.loads(data_file("_build.json").read_text(encoding="utf-8")))


def check_version(module: Any) -> None:
    """An extension of another version is left over from an earlier install."""
    if module.__version__ != __version__:
        raise InternalError(
            f"{module.__name__} is of version {module.__version__}, the Python code of {__version__}:"
            " two installs are mixed; uninstall whisperq-edge and install it again"
        )


@functools.cache
def load_ggml() -> Any:
    """The extension with whisper.cpp, imported when it is first needed.

    Raises:
        IsaNotSupportedError: it was built for instructions that this CPU or its OS does not offer.
    """
    found = _core.cpu_features()
    missing = [name for name in build_info().ggml_requires if not found.get(name, False)]
    if missing:
        raise IsaNotSupportedError(
            f"the ggml engine was built for a CPU with {', '.join(missing)}, which this one"
            f" ({_core.cpu_name() or _core.cpu_family()}) lacks. Build it on this machine:"
            " pip install --no-binary whisperq-edge whisperq-edge"
        )
    module = importlib.import_module("whisperq_edge._ggml")
    check_version(module)
    return module


def drain_log() -> None:
    """Hands what whisper.cpp logged since the last time to ``logging.getLogger("whisperq_edge")``."""
    for level, text in load_ggml().take_log():
        _LOG.log(level, "whisper.cpp: %s", text)
