"""How weights and activations are rounded, by name: ``int8-sym-channel``, ``nf4-group64``, ``dynamic-token``, …"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Optional

from .._errors import OptionError

__all__ = [
    "ACTIVATIONS_HELP",
    "WEIGHTS_HELP",
    "ActivationScheme",
    "Row",
    "WeightScheme",
    "default_rows",
    "named_rows",
    "parse_activations",
    "parse_weights",
    "rows_of_lists",
]

SCALE_BITS = 16
"""Every scale is an f16, and is rounded to one before codes are chosen."""

_GROUPS = range(8, 4097)

WEIGHTS_HELP = (
    "float, or LEVELS-GRANULARITY: int2-sym to int8-sym, int2-asym to int8-asym, nf4 or fp8 (e4m3), and tensor, channel"
    " or groupN (N neighbours of a row), such as int8-sym-channel, int4-asym-group32, nf4-group64, fp8-tensor"
)
ACTIVATIONS_HELP = (
    "float, dynamic-tensor, dynamic-token, dynamic-blockN (N values of a token), each also with -asym behind it, or"
    " static; all but float are int8"
)


@dataclass(frozen=True)
class WeightScheme:
    """How the weights of a matrix ``[n_out, n_in]`` are rounded.

    Attributes:
        levels: ``float`` (not at all), ``int``, ``nf4`` or ``fp8``.
        bits: of a code; 0 for ``float``.
        is_symmetric: of ``int``: codes from -(2^(bits - 1) - 1) to 2^(bits - 1) - 1 around zero; otherwise 2^bits
            codes from ``min(w, 0)`` to ``max(w, 0)`` with a whole zero point.
        granularity: what shares a scale: ``tensor``, ``channel`` (a row, that is an output) or ``group`` (neighbours
            along the inputs).
        group: weights of a group; the last one of a row holds what is left.
    """

    levels: str = "float"
    bits: int = 0
    is_symmetric: bool = True
    granularity: str = ""
    group: int = 0

    @property
    def is_float(self) -> bool:
        return self.levels == "float"

    @property
    def name(self) -> str:
        if self.is_float:
            return "float"
        levels = f"int{self.bits}-{'sym' if self.is_symmetric else 'asym'}" if self.levels == "int" else self.levels
        return f"{levels}-{self.granularity}{self.group or ''}"

    def stored_bits(self, shape: tuple[int, ...]) -> int:
        """Of a tensor whose first axis counts its outputs: codes, scales (f16) and zero points (as wide as codes)."""
        if self.is_float:
            raise ValueError("float weights are stored as they are")
        n_rows, n_in = shape[0], prod(shape[1:])
        groups = {"tensor": 1, "channel": n_rows, "group": n_rows * -(-n_in // max(self.group, 1))}
        zero_bits = 0 if self.is_symmetric else self.bits
        return n_rows * n_in * self.bits + groups[self.granularity] * (SCALE_BITS + zero_bits)


@dataclass(frozen=True)
class ActivationScheme:
    """How the inputs of the matrices are rounded: to int8, or not at all.

    Attributes:
        kind: ``float``, ``dynamic`` (scales from the values themselves) or ``static`` (from calibration).
        granularity: of ``dynamic``: ``tensor``, ``token`` or ``block``.
        block: values of a block.
        is_symmetric: 255 codes around zero; otherwise 256 from ``min(x, 0)`` to ``max(x, 0)``.
    """

    kind: str = "float"
    granularity: str = ""
    block: int = 0
    is_symmetric: bool = True

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_static(self) -> bool:
        return self.kind == "static"

    @property
    def name(self) -> str:
        if self.kind != "dynamic":
            return self.kind
        return f"dynamic-{self.granularity}{self.block or ''}{'' if self.is_symmetric else '-asym'}"

    def arguments(self, names: Iterable[str], ranges: Mapping[str, float]) -> Optional[dict[str, Any]]:
        """Of ``EdgeModel.round_activations``; None: it is not to be asked.

        Args:
            names: of the matrices whose inputs are rounded.
            ranges: of :func:`~whisperq_edge._study.run.calibrate`, for ``static``.
        """
        if self.is_float:
            return None
        only = sorted(names)
        if self.is_static:
            return {"scheme": "static", "ranges": {name: ranges[name] for name in only}, "only": only}
        block = {"block": self.block} if self.granularity == "block" else {}
        return {"scheme": self.granularity, "only": only, "symmetric": self.is_symmetric, **block}


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    weights: WeightScheme
    activations: ActivationScheme

    @property
    def name(self) -> str:
        """``float``, ``int8-sym-channel``, ``float / static``, …"""
        return self.weights.name if self.activations.is_float else f"{self.weights.name} / {self.activations.name}"


# ---- Names -----------------------------------------------------------------------------------------------------------


def parse_weights(text: str) -> WeightScheme:
    """Raises OptionError for a name that is none."""
    if text == "float":
        return WeightScheme()
    match = re.fullmatch(r"(?:int([2-8])-(sym|asym)|(nf4)|(fp8))-(tensor|channel|group(\d+))", text)
    if match is None or (match[6] is not None and int(match[6]) not in _GROUPS):
        raise OptionError("weights", text, f"{WEIGHTS_HELP}; groups have {_GROUPS.start} to {_GROUPS.stop - 1}")
    bits, symmetry, _, fp8, granularity, group = match.groups()
    levels, n_bits = ("int", int(bits)) if bits else ("fp8", 8) if fp8 else ("nf4", 4)
    return WeightScheme(levels, n_bits, symmetry != "asym", "group" if group else granularity, int(group or 0))


def parse_activations(text: str) -> ActivationScheme:
    """Raises OptionError for a name that is none."""
    if text in ("float", "static"):
        return ActivationScheme(text)
    match = re.fullmatch(r"dynamic-(tensor|token|block(\d+))(-asym)?", text)
    if match is None or (match[2] is not None and not 1 <= int(match[2]) <= 4096):
        raise OptionError("activations", text, f"{ACTIVATIONS_HELP}; blocks have 1 to 4096")
    granularity, block, asymmetric = match.groups()
    return ActivationScheme("dynamic", "block" if block else granularity, int(block or 0), not asymmetric)


# ---- Which rows ------------------------------------------------------------------------------------------------------

_DEFAULT_WEIGHTS = (
    *("int8-sym-tensor", "int8-sym-channel", "int8-sym-group32"),
    *("int4-sym-channel", "int4-sym-group64", "int4-sym-group32", "int4-asym-group32"),
    *("int3-sym-group32", "int3-asym-group32"),
    *("nf4-group64", "fp8-channel"),
)
_DEFAULT_ACTIVATIONS = ("dynamic-block32", "dynamic-token", "dynamic-tensor", "static")
_DEFAULT_PAIRS = (("int8-sym-channel", "dynamic-token"), ("int8-sym-channel", "static"))


def default_rows(is_calibrated: bool) -> list[Row]:
    """The paper's axes, one at a time: weights with float activations, activations with float weights, and int8 weights
    with each kind of activations. Static rows need calibration and are left out without."""
    rows = [_row("float", "float")]
    rows += [_row(weights, "float") for weights in _DEFAULT_WEIGHTS]
    rows += [_row("float", activations) for activations in _DEFAULT_ACTIVATIONS]
    rows += [_row(*pair) for pair in _DEFAULT_PAIRS]
    return [row for row in rows if is_calibrated or not row.activations.is_static]


def named_rows(names: Iterable[str]) -> list[Row]:
    """``WEIGHTS`` or ``WEIGHTS/ACTIVATIONS`` each; the float model comes first."""
    parts = [name.partition("/") for name in names]
    rows = [_row(weights.strip(), activations.strip() or "float") for weights, _, activations in parts]
    return _with_float(rows)


def rows_of_lists(weights: Iterable[str], activations: Iterable[str]) -> list[Row]:
    """Every weight scheme with every activation scheme; the float model, with which all are compared, comes first."""
    rows = [_row(w, a) for w in weights or ["float"] for a in activations or ["float"]]
    return _with_float(rows)


def _with_float(rows: Sequence[Row]) -> list[Row]:
    return list(dict.fromkeys([_row("float", "float"), *rows]))


def _row(weights: str, activations: str) -> Row:
    return Row(parse_weights(weights), parse_activations(activations))
