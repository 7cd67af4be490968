"""How much of a window our engine encodes where the audio is shorter."""

from __future__ import annotations

import math

from .._core import SHORT_STEP

__all__ = ["is_quantised", "short_ctx", "short_margin", "whole_steps"]

_MARGIN, _MARGIN_SHARE = 25, 16  # audio tokens: 0.5 s, and a sixteenth of the audio (docs/short-audio.md)


def is_quantised(ftype: str) -> bool:
    """Return whether a model of this type encodes short audio only as far as it goes, unless it is told otherwise."""
    return ftype not in ("f32", "f16")


def short_margin(n_tokens: int) -> int:
    """Return the audio tokens (20 ms each) that are encoded behind the end of ``n_tokens`` at least."""
    return _MARGIN + n_tokens // _MARGIN_SHARE


def short_ctx(n_tokens: int, most: int) -> int:
    """Return the audio tokens that are encoded for audio of ``n_tokens``: a multiple of 32, or all ``most``."""
    return whole_steps(n_tokens + short_margin(n_tokens), most)


def whole_steps(n_tokens: int, most: int) -> int:
    """Return ``n_tokens`` rounded up to what short audio may have: a multiple of 32, or all ``most``."""
    return min(math.ceil(n_tokens / SHORT_STEP) * SHORT_STEP, most)
