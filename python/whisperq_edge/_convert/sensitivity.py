"""Types per tensor under a budget: where bytes buy the most accuracy.

A linear layer's output is off by the same ratio of noise to signal as its weights are, weighted by how strongly each
input is excited. That ratio is measured for every matrix in every type, on evenly spaced rows. How much of it reaches
the answer depends on where the matrix is: see :func:`importance`. Starting with the smallest types, bytes then go
wherever they lower the noise of the answer most per byte, until the budget is spent.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Callable, Optional

import numpy as np
import numpy.typing as npt

from .. import _core
from .._errors import OptionError
from .._whisper.dims import Dims
from .._whisper.types import TYPES
from .plan import Recipe, plan_types
from .readers.rows import convert_rows
from .readers.source import Source, SourceTensor
from .writer import ggml_bytes, stored_bytes

__all__ = ["Sensitivity", "choose_types", "importance", "scan"]

CANDIDATES = ("q2_k", "q3_k", "q4_0", "q4_k", "q4_1", "q5_0", "q5_k", "q5_1", "q6_k", "q8_0", "f16")
"""iq4_nl is left out: its quantiser takes thirty times as long as the others."""

SAMPLED_VALUES = 1 << 19
"""Of a matrix, at most. The ratio of 2^19 errors is known to a percent."""

_SLICES = 8

Weights = Mapping[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Sensitivity:
    """One matrix in one type.

    Attributes:
        noise: squared error of the layer's output over its squared size (for unit inputs without statistics), times
            the layer's :func:`importance`.
        n_bytes: of the whole tensor.
    """

    name: str
    type: str
    noise: float
    n_bytes: int


def importance(name: str, dims: Dims) -> float:
    """The share of a layer's relative noise that reaches the logits.

    A block adds its output to the stream that all blocks of its stack share, so that the noise of one of n equal blocks
    is 1/n of the stream's. The encoder has two blocks a layer (attention, MLP), the decoder three. The token embedding
    is the last layer: all of its noise is in the logits.
    """
    if name.startswith("encoder."):
        return 1 / (2 * dims.n_audio_layer)
    return 1 / (3 * dims.n_text_layer) if name.startswith("decoder.blocks.") else 1.0


def scan(
    source: Source,
    statistics: Optional[Weights] = None,
    *,
    n_threads: int = 0,
    on_progress: Optional[Callable[[float], None]] = None,
) -> list[Sensitivity]:
    """Every matrix in every type that fits its rows.

    Args:
        statistics: mean square of each input column by tensor name (``proof.activation_statistics``).
    """
    tasks = [
        (tensor, type_name)
        for tensor in source.tensors
        if tensor.is_matrix
        for type_name in CANDIDATES
        if TYPES[type_name].fits(tensor.row_size)
    ]

    def measure(task: tuple[SourceTensor, str]) -> Sensitivity:
        return _measure(*task, statistics or {}, source.dims)

    found = []
    with ThreadPoolExecutor(n_threads or _core.usable_cpus(), "whisperq-scan") as pool:
        for result in pool.map(measure, tasks):
            found.append(result)
            if on_progress is not None:
                on_progress(len(found) / len(tasks))
    return found


def _measure(tensor: SourceTensor, type_name: str, statistics: Weights, dims: Dims) -> Sensitivity:
    mean_squares = statistics.get(tensor.name)
    weights = None if mean_squares is None else np.ascontiguousarray(mean_squares, np.float32)
    squares = errors = 0.0
    for first, count in _sample(tensor):
        _, error = convert_rows(tensor, first, count, type_name, weights)
        squares += error.weighted_squares
        errors += error.weighted_squared_error
    noise = importance(tensor.name, dims) * errors / squares if squares > 0 else 0.0
    return Sensitivity(tensor.name, type_name, noise, stored_bytes(tensor.n_values, type_name))


def _sample(tensor: SourceTensor) -> list[tuple[int, int]]:
    """Slices of rows, evenly spaced; all of a small tensor."""
    if tensor.n_values <= SAMPLED_VALUES:
        return [(0, tensor.n_rows)]
    count = max(1, SAMPLED_VALUES // tensor.row_size // _SLICES)
    return [(int(first), count) for first in np.linspace(0, tensor.n_rows - count, _SLICES)]


def choose_types(source: Source, target_bytes: int, measured: Sequence[Sensitivity]) -> Recipe:
    """The recipe whose file has at most ``target_bytes`` and the least noise that this greedy walk finds.

    Raises:
        OptionError: even the smallest types need more.
    """
    steps = {
        name: _frontier([m for m in measured if m.name == name]) for name in dict.fromkeys(m.name for m in measured)
    }
    chosen = dict.fromkeys(steps, 0)
    total = _fixed_bytes(source) + sum(frontier[0].n_bytes for frontier in steps.values())
    if total > target_bytes:
        raise OptionError(
            "target_size", f"{target_bytes / 1e6:.2f}MB", f"at least {total / 1e6:.2f}MB: what the smallest types take"
        )
    gains = [_gain(name, frontier, 0) for name, frontier in steps.items() if len(frontier) > 1]
    heapq.heapify(gains)
    while gains:
        _, name, step = heapq.heappop(gains)
        extra = steps[name][step + 1].n_bytes - steps[name][step].n_bytes
        if total + extra > target_bytes:
            continue  # too dear; a smaller tensor may still have room
        total += extra
        chosen[name] = step + 1
        if step + 2 < len(steps[name]):
            heapq.heappush(gains, _gain(name, steps[name], step + 1))
    return _recipe({name: steps[name][step].type for name, step in chosen.items()})


def _frontier(options: Sequence[Sensitivity]) -> list[Sensitivity]:
    """The lower convex hull of noise over bytes: each step from left to right buys less than the one before."""
    hull: list[Sensitivity] = []
    for option in sorted(options, key=lambda o: (o.n_bytes, o.noise)):
        if hull and option.noise >= hull[-1].noise:
            continue
        while len(hull) >= 2 and _slope(hull[-2], hull[-1]) <= _slope(hull[-2], option):
            hull.pop()
        hull.append(option)
    return hull


def _slope(a: Sensitivity, b: Sensitivity) -> float:
    return (a.noise - b.noise) / max(b.n_bytes - a.n_bytes, 1)


def _gain(name: str, frontier: Sequence[Sensitivity], step: int) -> tuple[float, str, int]:
    return -_slope(frontier[step], frontier[step + 1]), name, step


def _fixed_bytes(source: Source) -> int:
    """Everything but the matrices' data: an f16 file less its matrices."""
    plan = plan_types(source, Recipe("f16"))
    matrices = sum(stored_bytes(tensor.n_values, "f16") for tensor in source.tensors if tensor.is_matrix)
    return ggml_bytes(source, plan) - matrices


def _recipe(types: Mapping[str, str]) -> Recipe:
    common = Counter(types.values()).most_common(1)[0][0]
    patterns = [(f"^{re.escape(name)}$", type_name) for name, type_name in types.items() if type_name != common]
    return Recipe(common, tuple(patterns))
