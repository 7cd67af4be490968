"""Weights to codes and back. Plain numpy, exact up to the last rounding of the result to float32."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Optional

import numpy as np
import numpy.typing as npt

from .._system.arrays import Doubles, Floats
from .schemes import WeightScheme

__all__ = ["E4M3_MAX", "NF4_LEVELS", "limits", "round_e4m3", "round_weights"]

Limits = tuple[float, float]

E4M3_MAX = 448.0
_E4M3_LEAST_EXPONENT = -6  # of a normal number
_E4M3_MANTISSA_BITS = 3
_F16_MAX = float(np.finfo(np.float16).max)


def _nf4_levels() -> Doubles:
    """The sixteen levels of QLoRA's NormalFloat (arXiv 2305.14314, section 3): zero, and quantiles of the normal
    distribution that stand for equal shares of it, eight on the positive side and seven on the negative, the outermost
    at half a share of either count (1/32 and 1/30, their mean) from the end; over the largest."""
    tail = 1 - (1 / 32 + 1 / 30) / 2
    quantile = NormalDist().inv_cdf
    positive = [quantile(p) for p in np.linspace(tail, 0.5, 9)[:-1].tolist()]
    negative = [-quantile(p) for p in np.linspace(tail, 0.5, 8)[:-1].tolist()]
    levels = np.sort(np.array([*negative, 0.0, *positive]))
    return np.asarray(levels / levels.max(), np.float64)


NF4_LEVELS = _nf4_levels()
_NF4_EDGES = (NF4_LEVELS[1:] + NF4_LEVELS[:-1]) / 2


def limits(weights: Floats) -> Limits:
    """``(min(w, 0), max(w, 0))``: zero is always within."""
    return min(float(weights.min()), 0.0), max(float(weights.max()), 0.0)


def round_weights(weights: Floats, scheme: WeightScheme, of_tensor: Optional[Limits] = None) -> Floats:
    """What is left of rows of weights when they were rounded to codes.

    Args:
        weights: float32 ``[n_rows, n_in]``, finite.
        scheme: how.
        of_tensor: :func:`limits` of the whole tensor, of which these may be some rows; needed for the granularity
            ``tensor`` only.

    Returns:
        float32 of the same shape.
    """
    if scheme.is_float:
        return weights
    n_rows, n_in = weights.shape
    size = min(scheme.group, n_in) if scheme.granularity == "group" else n_in
    n_groups = -(-n_in // size)
    padded = np.zeros((n_rows, n_groups * size))  # zeros widen no group: its limits hold zero anyway
    padded[:, :n_in] = weights
    groups = padded.reshape(n_rows, n_groups, size)
    if scheme.granularity == "tensor":
        if of_tensor is None:
            raise ValueError("one scale for a tensor needs the limits of the whole tensor")
        low, high = (np.full((1, 1, 1), limit) for limit in of_tensor)
    else:
        low = np.minimum(groups.min(axis=2, keepdims=True), 0.0)
        high = np.maximum(groups.max(axis=2, keepdims=True), 0.0)
    rounded = _ROUND[scheme.levels](groups, low, high, scheme)
    return np.ascontiguousarray(rounded.reshape(n_rows, -1)[:, :n_in], np.float32)


def _as_f16(scales: Doubles) -> Doubles:
    return np.minimum(scales, _F16_MAX).astype(np.float16).astype(np.float64)


def _over(values: Doubles, scales: Doubles) -> Doubles:
    """A scale that f16 rounds to zero leaves zeros."""
    quotients: Doubles = np.divide(values, scales, out=np.zeros_like(values), where=scales != 0)
    return quotients


def _round_int(groups: Doubles, low: Doubles, high: Doubles, scheme: WeightScheme) -> Doubles:
    codes: Doubles
    if scheme.is_symmetric:
        greatest = 2 ** (scheme.bits - 1) - 1
        scales = _as_f16(np.maximum(-low, high) / greatest)
        codes = np.clip(np.rint(_over(groups, scales)), -greatest, greatest)
        return codes * scales
    greatest = 2**scheme.bits - 1
    scales = _as_f16((high - low) / greatest)
    zeros: Doubles = np.clip(np.rint(_over(-low, scales)), 0, greatest)
    codes = np.clip(np.rint(_over(groups, scales)) + zeros, 0, greatest)
    return (codes - zeros) * scales


def _round_nf4(groups: Doubles, low: Doubles, high: Doubles, scheme: WeightScheme) -> Doubles:
    scales = _as_f16(np.maximum(-low, high))
    rounded: Doubles = NF4_LEVELS[np.searchsorted(_NF4_EDGES, _over(groups, scales))] * scales
    return rounded


def _round_fp8(groups: Doubles, low: Doubles, high: Doubles, scheme: WeightScheme) -> Doubles:
    scales = _as_f16(np.maximum(-low, high) / E4M3_MAX)
    return round_e4m3(_over(groups, scales)) * scales


def round_e4m3(values: npt.ArrayLike) -> Doubles:
    """To the nearest number of fp8 e4m3 (OCP; ``float8_e4m3fn``), ties to the even one, beyond 448 to 448."""
    x = np.asarray(values, np.float64)
    _, exponents = np.frexp(x)  # |x| in [2^(e - 1), 2^e)
    steps = np.ldexp(1.0, np.maximum(exponents - 1, _E4M3_LEAST_EXPONENT) - _E4M3_MANTISSA_BITS)
    rounded: Doubles = np.clip(np.rint(x / steps) * steps, -E4M3_MAX, E4M3_MAX)
    return rounded


_ROUND: dict[str, Callable[[Doubles, Doubles, Doubles, WeightScheme], Doubles]] = {
    "int": _round_int,
    "nf4": _round_nf4,
    "fp8": _round_fp8,
}
