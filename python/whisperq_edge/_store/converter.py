"""The converter, which is loaded when a model has to be read or converted.

Most calls find a ggml file. Without the converter's 25 modules ``import whisperq_edge`` takes a fifth less time. No
other file imports ours inside of functions.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    from .._convert.readers.source import Source
    from .._whisper.dims import Dims

__all__ = [
    "convert_model",
    "header_bytes",
    "is_ggml",
    "open_source",
    "refuse_adapter",
    "shard_names",
    "tensor_bytes",
]

PathLike = Union[str, "os.PathLike[str]"]


def convert_model(source: PathLike, destination: PathLike, **options: Any) -> None:
    """Convert a model: see ``_convert.convert``."""
    from .._convert import convert

    convert.convert_model(source, destination, **options)


def is_ggml(path: Path) -> bool:
    """Tell whether a file begins as a ggml file does."""
    from .._convert.readers import ggml

    return ggml.is_ggml(path)


def open_source(path: Path) -> Source:
    """Open a model of any format: see ``_convert.readers.open_source``."""
    from .._convert.readers import open_source

    return open_source.open_source(path)


def refuse_adapter(folder: Path) -> None:
    """Raise ``UnsupportedModelError`` for a folder that holds an adapter instead of a model."""
    from .._convert.readers import huggingface

    huggingface.refuse_adapter(folder)


def shard_names(index: Path) -> dict[str, str]:
    """Return the file of each tensor in a list of shards."""
    from .._convert.readers import huggingface

    return huggingface.shard_names(index)


def header_bytes(dims: Dims) -> int:
    """Return the bytes of a ggml file's header: see ``_convert.sizes``."""
    from .._convert import sizes

    return sizes.header_bytes(dims)


def tensor_bytes(dims: Dims, type: str) -> tuple[int, int]:
    """Return the bytes of a ggml file's weights, and of what it says about them: see ``_convert.sizes``."""
    from .._convert import sizes

    return sizes.tensor_bytes(dims, type)
