"""Names of models, and where their files are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Union

from ._errors import ModelNotFoundError
from ._native import data_file

__all__ = ["BUNDLED_MODELS", "resolve_model"]

BUNDLED_MODELS = {"nano": "assets/ggml-nano.en.bin", "nano.en": "assets/ggml-nano.en.bin"}
"""Models inside the wheel: English digits, letters and a few hundred words; made for tests and first steps."""


def resolve_model(name_or_path: Union[str, os.PathLike[str]]) -> Path:
    """The model file that a name or a path means.

    Raises:
        ModelNotFoundError: neither a bundled model nor a file.
    """
    name = os.fspath(name_or_path)
    if name in BUNDLED_MODELS:
        return data_file(BUNDLED_MODELS[name])
    path = Path(name).expanduser()
    if path.exists():
        return path
    raise ModelNotFoundError(
        f"there is no model {name!r}: give the path of a ggml model file (such as ggml-base.en.bin from"
        f" whisper.cpp) or one of the bundled models: {', '.join(sorted(BUNDLED_MODELS))}"
    )
