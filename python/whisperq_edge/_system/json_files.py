"""JSON that is written: to files whole or not at all, and as text."""

from __future__ import annotations

import json
import os
from typing import Any, Optional, Union

from .files import atomic_write

__all__ = ["json_text", "write_json"]


def write_json(path: Union[str, os.PathLike[str]], document: Any, indent: int = 1) -> None:
    """Write a document as UTF-8, whole or not at all. Raises as ``atomic_write``."""
    with atomic_write(path) as stream:
        stream.write(json_text(document, indent) + "\n")


def json_text(document: Any, indent: Optional[int] = None, *, is_ascii: bool = False) -> str:
    """Return a document as JSON.

    Python makes lone surrogates of a file name that is no UTF-8. They are escaped, so that the text stays JSON and can
    be encoded.

    Args:
        document: what JSON can hold.
        indent: spaces a level; None: all in one line.
        is_ascii: escape all other characters, too.
    """
    text = json.dumps(document, indent=indent, ensure_ascii=is_ascii)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
