"""How much of a window our engine encodes where the audio is shorter."""

from __future__ import annotations

import math

from .._core import SHORT_STEP

__all__ = ["SHORT_MARGIN", "is_quantised", "short_ctx"]

SHORT_MARGIN = 25
"""Audio tokens (0.5 s) that are encoded behind the end of short audio."""


def is_quantised(ftype: str) -> bool:
    """Return whether a model of this type encodes short audio only as far as it goes, unless it is told otherwise."""
    return ftype not in ("f32", "f16")


def short_ctx(n_tokens: int, most: int) -> int:
    """Return the audio tokens (20 ms each) that are encoded of ``n_tokens``: a multiple of 32, or all ``most``."""
    return min(math.ceil(n_tokens / SHORT_STEP) * SHORT_STEP, most)
