"""Which matrices are rounded, and the model with them rounded: one named set of modules for every scheme."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from .._convert.plan import Recipe, plan_types
from .._convert.readers.rows import chunks, floats
from .._convert.readers.source import Source, SourceTensor, rows_of
from .._convert.writer import stored_bytes, write_ggml
from .._errors import OptionError
from .._system.files import atomic_write
from .rounding import Limits, limits, round_weights
from .schemes import WeightScheme

__all__ = ["SCOPES", "Scope", "WeightNoise", "choose_scope", "rounded_model", "weight_noise", "write_rounded"]


SCOPES = {
    "blocks": "encoder and decoder blocks: attention (query, key, value, out), cross attention and MLP",
    "encoder": "encoder blocks: attention (query, key, value, out) and MLP",
    "decoder": "decoder blocks: attention (query, key, value, out), cross attention and MLP",
    "conv": "the encoder's two convolutions",
    "embedding": "token embedding, which is the vocabulary projection too",
}

_PATTERNS = {
    "blocks": r"(encoder|decoder)\.blocks\.\d+\..*\.weight",
    "encoder": r"encoder\.blocks\.\d+\..*\.weight",
    "decoder": r"decoder\.blocks\.\d+\..*\.weight",
    "conv": r"encoder\.conv\d\.weight",
    "embedding": r"decoder\.token_embedding\.weight",
}


@dataclass(frozen=True)
class Scope:
    """The matrices that every scheme rounds, and what the rest of the model takes.

    Attributes:
        parts: names in :data:`SCOPES`.
        tensors: of the model.
        n_all_weights: values of the whole model.
        rest_bytes: of the model file without the tensors' values.
    """

    parts: tuple[str, ...]
    tensors: tuple[SourceTensor, ...]
    n_all_weights: int
    rest_bytes: int

    @property
    def name(self) -> str:
        return "+".join(self.parts)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tensor.name for tensor in self.tensors)

    @property
    def n_weights(self) -> int:
        return sum(tensor.n_values for tensor in self.tensors)

    @property
    def stored_bytes(self) -> int:
        """As the model file has them."""
        return sum(stored_bytes(tensor.n_values, tensor.type) for tensor in self.tensors)

    def bits_per_weight(self, scheme: WeightScheme) -> float:
        """Codes, scales and zero points; of ``float`` what the file has."""
        bits = 8 * self.stored_bytes if scheme.is_float else sum(scheme.stored_bits(t.shape) for t in self.tensors)
        return bits / self.n_weights

    def model_bytes(self, scheme: WeightScheme) -> int:
        """Of a file that holds these matrices in the scheme's effective bits, and all else as it is."""
        return self.rest_bytes + -(-round(self.bits_per_weight(scheme) * self.n_weights) // 8)

    def description(self) -> dict[str, Any]:
        types = sorted({tensor.type for tensor in self.tensors})
        return {
            "name": self.name,
            "modules": [SCOPES[part] for part in self.parts],
            "matrices": len(self.tensors),
            "weights": self.n_weights,
            "share_of_weights": round(self.n_weights / self.n_all_weights, 4),
            "stored_as": types,
        }


def choose_scope(source: Source, parts: Sequence[str], file_bytes: int) -> Scope:
    """The matrices of the named parts.

    Args:
        source: of the model.
        parts: names in :data:`SCOPES`, at least one.
        file_bytes: of the model file.

    Raises:
        OptionError: no such part, or one that is within another.
    """
    unknown = [part for part in parts if part not in SCOPES]
    if unknown or not parts:
        raise OptionError("scope", ",".join(parts), f"some of {', '.join(SCOPES)}, comma-separated")
    if len(set(parts)) < len(parts) or ("blocks" in parts and {"encoder", "decoder"} & set(parts)):
        raise OptionError("scope", ",".join(parts), "each part once; blocks are those of encoder and decoder")
    pattern = re.compile("|".join(f"(?:{_PATTERNS[part]})" for part in parts))
    chosen = [t for t in source.tensors if len(t.shape) > 1 and pattern.fullmatch(t.name)]
    rest = file_bytes - sum(stored_bytes(tensor.n_values, tensor.type) for tensor in chosen)
    return Scope(tuple(parts), tuple(chosen), sum(tensor.n_values for tensor in source.tensors), rest)


# ---- The model with rounded weights ----------------------------------------------------------------------------------


def rounded_model(source: Source, names: Collection[str], scheme: WeightScheme) -> Source:
    """The same model; weights of these names are rounded when they are read, a few rows at a time."""
    tensors = [rounded_tensor(tensor, scheme) if tensor.name in names else tensor for tensor in source.tensors]
    return dataclasses.replace(source, tensors=tensors)


def rounded_tensor(tensor: SourceTensor, scheme: WeightScheme) -> SourceTensor:
    """Values in f32. A convolution ``[n_out, n_in, 3]`` is taken for a matrix ``[n_out, 3 n_in]``."""
    if scheme.is_float:
        return tensor
    if len(tensor.shape) > 2:  # small
        values = floats(tensor).reshape(tensor.shape[0], -1)
        rounded = round_weights(values, scheme, limits(values)).reshape(tensor.shape)
        return SourceTensor(tensor.name, tensor.shape, "f32", rows_of(rounded), where=tensor.where)

    @functools.lru_cache(maxsize=1)
    def of_tensor() -> Optional[Limits]:
        if scheme.granularity != "tensor":
            return None
        low, high = zip(*(limits(floats(tensor, first, count)) for first, count in chunks(tensor)))
        return min(low), max(high)

    def read_rows(first: int, count: int) -> bytes:
        return round_weights(floats(tensor, first, count), scheme, of_tensor()).astype("<f4").tobytes()

    return SourceTensor(tensor.name, tensor.shape, "f32", read_rows, where=tensor.where)


def write_rounded(
    path: Path, source: Source, names: Collection[str], scheme: WeightScheme, *, n_threads: int = 0
) -> None:
    """Writes the model with rounded weights as an f32 ggml file, which holds them exactly.

    Raises:
        ModelFormatError: a weight that is no number.
        OSError: the file cannot be written.
    """
    rounded = rounded_model(source, names, scheme)
    with atomic_write(path, "wb") as stream:
        write_ggml(stream, path, rounded, plan_types(rounded, Recipe("f32")), n_threads=n_threads)


# ---- What it does to the weights -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightNoise:
    """Signal to quantisation noise of the weights, in dB; None: they are as they were.

    Attributes:
        sqnr_db: of all of the scope together.
        layers: of each layer, in the order of the file.
    """

    sqnr_db: Optional[float]
    layers: dict[str, Optional[float]]


def weight_noise(scope: Scope, scheme: WeightScheme) -> WeightNoise:
    """Of what :func:`rounded_model` makes of the scope."""
    sums: dict[str, tuple[float, float]] = {}
    for tensor in scope.tensors:
        rounded = rounded_tensor(tensor, scheme)
        squares, errors = sums.get(_layer(tensor.name), (0.0, 0.0))
        for first, count in chunks(tensor):
            before = floats(tensor, first, count).astype(np.float64)
            after = floats(rounded, first, count).astype(np.float64)
            squares += float(np.sum(before**2))
            errors += float(np.sum((before - after) ** 2))
        sums[_layer(tensor.name)] = squares, errors
    total = tuple(map(sum, zip(*sums.values())))
    return WeightNoise(_decibels(*total), {layer: _decibels(*each) for layer, each in sums.items()})


def _layer(tensor: str) -> str:
    found = re.match(r"(encoder|decoder)\.blocks\.(\d+)\.", tensor)
    return f"{found[1]} {found[2]}" if found else tensor.rsplit(".", 1)[0]


def _decibels(squares: float, errors: float) -> Optional[float]:
    return None if errors == 0 else round(10 * float(np.log10(max(squares, 1e-300) / errors)), 3)
