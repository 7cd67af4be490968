"""matplotlib, which is an extra, when a picture is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from .._errors import OptionError

__all__ = ["load_matplotlib"]


def load_matplotlib() -> Any:
    """``matplotlib.figure``.

    Raises:
        OptionError: it is not installed.
    """
    try:
        return importlib.import_module("matplotlib.figure")
    except ImportError as error:
        needed = f"only with a package that is not installed ({error}): pip install 'whisperq-edge[plot]'"
        raise OptionError("plot", "matplotlib", needed) from error
