"""OpenAI's own models and a real recording, for tests and benches.

The models are shared by all sessions and lie in the cache of whoever runs the tests, because 200 MB are too much to
fetch each time. This module is imported before a session moves the cache of the package.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from pathlib import Path
from typing import Callable, Union

import pytest
from whisperq_edge._system.locks import locked

from tests.support.paths import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import real_models

__all__ = ["jfk_path", "real_base_path", "real_model", "real_tiny_en_path"]

FOLDER = real_models.models_folder()
LOCK = Path(tempfile.gettempdir()) / f"whisperq-real-models-{os.getuid() if hasattr(os, 'getuid') else 0}.lock"
JFK = ROOT / "third_party" / "whisper.cpp" / "upstream" / "samples" / "jfk.wav"


@functools.cache
def _find(name: str, type: str) -> Union[Path, str]:
    """Return the file, or why there is none. Both are remembered, so that no session waits for an index twice."""
    with locked(LOCK):  # several processes of pytest-xdist fetch into one folder
        try:
            return real_models.ggml_file(name, type, FOLDER)
        except real_models.CannotBeHad as reason:
            return str(reason)


@pytest.fixture(scope="session")
def real_model() -> Callable[..., Path]:
    """Return a function: ``real_model("base", "f16")`` gives OpenAI's model, or skips the test that asks for it."""

    def get(name: str, type: str = "q8_0") -> Path:
        found = _find(name, type)
        if isinstance(found, str):
            pytest.skip(found)
        return found

    return get


@pytest.fixture(scope="session")
def real_tiny_en_path(real_model: Callable[..., Path]) -> Path:
    """Return OpenAI's tiny.en in q8_0."""
    return real_model("tiny.en")


@pytest.fixture(scope="session")
def real_base_path(real_model: Callable[..., Path]) -> Path:
    """Return OpenAI's base, which is multilingual, in q8_0."""
    return real_model("base")


@pytest.fixture(scope="session")
def jfk_path() -> Path:
    """Return eleven seconds of John F. Kennedy, which come with whisper.cpp and are there after the first build."""
    if not JFK.is_file():
        pytest.skip(f"{JFK} is unpacked by the first build")
    return JFK
