"""The kinds of arrays that this package passes around."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Doubles", "Floats"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
