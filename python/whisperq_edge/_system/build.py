"""Which build of the native library this is, for what is remembered of it."""

from __future__ import annotations

import os

from .. import _core
from .._version import __version__

__all__ = ["build_stamp"]


def build_stamp() -> tuple[str, int, int]:
    """Return the version, and size and time of the library: another compiler may give other numbers."""
    library = os.stat(_core.__file__)
    return __version__, library.st_size, library.st_mtime_ns
