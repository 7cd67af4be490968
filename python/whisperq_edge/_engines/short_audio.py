"""How much of a window our engine encodes where the audio is shorter."""

from __future__ import annotations

import math

__all__ = ["short_ctx"]

_POOL = 32  # the engine encodes short audio in steps of so many tokens (csrc/edge/silence.h: kPool)


def short_ctx(n_tokens: int, most: int) -> int:
    """Return the audio tokens (20 ms each) that are encoded of ``n_tokens``: whole pools, or all ``most``."""
    return min(math.ceil(n_tokens / _POOL) * _POOL, most)
