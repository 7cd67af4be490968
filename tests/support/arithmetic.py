"""Small arithmetic on numbers and bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["flipped", "relative_error"]


def relative_error(found: Any, expected: Any) -> float:
    """Return the length of the difference over that of ``expected``."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def flipped(data: bytes, at: int, bit: int) -> bytes:
    """Return ``data`` with one bit of the byte at ``at`` flipped."""
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]
