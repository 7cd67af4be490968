"""Checks of arguments: what counts as a number, and the error for one that is not allowed.

A bool is no number here, and numpy's numbers are: ``n_threads=True`` is a slip, ``np.int64(2)`` is a 2.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Optional

from .._errors import OptionError

__all__ = ["as_number", "check", "check_one_of", "check_whole", "is_number", "is_whole"]


def is_whole(value: object) -> bool:
    """Tell whether a value is a whole number: an int or one of numpy's, and no bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Tell whether a value is a real number, which may be infinite or NaN, and no bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def as_number(value: object) -> float:
    """Return a number as a float. Return NaN, which fails every comparison, for any other value."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # an int beyond the largest float
        return -math.inf if value < 0 else math.inf


def check(field: str, value: object, holds: bool, allowed: str) -> None:
    """Raise ``OptionError`` where a rule does not hold.

    Args:
        field: the argument's name.
        value: the argument.
        holds: whether it is allowed.
        allowed: what would be, in words.
    """
    if not holds:
        raise OptionError(field, value, allowed)


def check_whole(field: str, value: object, least: int, most: int, allowed: Optional[str] = None) -> int:
    """Return a whole number from ``least`` to ``most`` as an int.

    Raises:
        OptionError: it is no whole number, or out of range.
    """
    words = allowed or f"a whole number from {least} to {most}"
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or not least <= int(value) <= most:
        raise OptionError(field, value, words)
    return int(value)


def check_one_of(field: str, value: object, choices: Sequence[str]) -> None:
    """Raise ``OptionError`` for a value that is none of the choices."""
    check(field, value, value in choices, f"one of {', '.join(choices)}")
