"""The types that weights may have, which of the tensors may have them, and what people call them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .._errors import OptionError

__all__ = [
    "MIXED",
    "NEAREST_TYPES",
    "TYPES",
    "TYPE_ALIASES",
    "TensorType",
    "common_type",
    "fitting_type",
    "is_matrix",
    "resolve_type",
]

MIXED = "mixed"
"""In place of a type: the matrices of a model have several."""


@dataclass(frozen=True)
class TensorType:
    """How ggml stores the values of a row: cut into blocks of ``block_size`` values, each in ``block_bytes`` bytes.

    Attributes:
        name: ggml's, in lower case.
        ggml_id: its number in a tensor's header.
        ftype: its number in the header of a file whose matrices have it.
    """

    name: str
    ggml_id: int
    ftype: int
    block_size: int
    block_bytes: int

    @property
    def bits_per_value(self) -> float:
        """Scales included."""
        return 8 * self.block_bytes / self.block_size

    @property
    def is_quantized(self) -> bool:
        return self.block_size > 1

    def fits(self, row_size: int) -> bool:
        """Whether a row of ``row_size`` values is a whole number of blocks."""
        return row_size % self.block_size == 0

    def row_bytes(self, row_size: int) -> int:
        """Bytes of a row that fits."""
        return row_size // self.block_size * self.block_bytes


# The same table as kTensorTypes in csrc/model/tensor_types.h (tests/store/test_catalog.py compares them), larger types
# first within each family.
TYPES: dict[str, TensorType] = {
    type.name: type
    for type in (
        #          name   ggml_id ftype block_size block_bytes
        TensorType("f32", 0, 0, 1, 4),
        TensorType("f16", 1, 1, 1, 2),
        TensorType("q8_0", 8, 7, 32, 34),
        TensorType("q5_1", 7, 9, 32, 24),
        TensorType("q5_0", 6, 8, 32, 22),
        TensorType("q4_1", 3, 3, 32, 20),
        TensorType("q4_0", 2, 2, 32, 18),
        TensorType("q6_k", 14, 14, 256, 210),
        TensorType("q5_k", 13, 13, 256, 176),
        TensorType("q4_k", 12, 12, 256, 144),
        TensorType("q3_k", 11, 11, 256, 110),
        TensorType("q2_k", 10, 10, 256, 84),
        TensorType("iq4_nl", 20, 19, 32, 18),
    )
}
"""Every type, by name."""

TYPE_ALIASES = {
    "int8": "q8_0",
    "q8": "q8_0",
    "int5": "q5_0",
    "q5": "q5_0",
    "int4": "q4_0",
    "q4": "q4_0",
    "float16": "f16",
    "float32": "f32",
}
"""Other packages' names, and the short ones."""

_OWN_ACTIVATIONS = "the engine chooses the type of the activations itself"
_NO_SUCH_WEIGHTS = "ggml files hold no weights of that type, and f16 takes as many bytes"

NEAREST_TYPES = {
    "int8_float32": ("q8_0", _OWN_ACTIVATIONS),
    "int8_float16": ("q8_0", _OWN_ACTIVATIONS),
    "int8_bfloat16": ("q8_0", _OWN_ACTIVATIONS),
    "int16": ("f16", _NO_SUCH_WEIGHTS),
    "bfloat16": ("f16", _NO_SUCH_WEIGHTS),
}
"""Compute types of CTranslate2 that are none of ours: the nearest type, and why it stands in."""


def resolve_type(name: str, field: str = "type") -> str:
    """The name in :data:`TYPES` that a name or an alias means; upper case is fine.

    Args:
        name: such as ``q5_0``, ``Q4_K`` or ``int8``.
        field: the option that an error shall name.

    Raises:
        OptionError: no type of ours, with the choices.
    """
    wanted = name.lower() if isinstance(name, str) else ""
    wanted = TYPE_ALIASES.get(wanted, wanted)
    if wanted not in TYPES:
        raise OptionError(field, name, f"one of {', '.join(TYPES)}, or an alias: {', '.join(TYPE_ALIASES)}")
    return wanted


def fitting_type(name: str, row_size: int) -> str:
    """The type itself where its blocks fill rows of ``row_size`` values, else the next larger one that does."""
    wanted = TYPES[name]
    larger = sorted(
        (type for type in TYPES.values() if type.bits_per_value > wanted.bits_per_value),
        key=lambda type: (type.bits_per_value, type.ggml_id),
    )
    return next(type.name for type in (wanted, *larger) if type.fits(row_size))


def is_matrix(name: str, n_dims: int) -> bool:
    """Whether a tensor is one of the matrices (linear layers and the token embedding), which take any type.

    Args:
        name: openai/whisper's. Positions are a table, and the biases that files store as columns are vectors.
        n_dims: convolutions have three.
    """
    return n_dims == 2 and not name.endswith(("positional_embedding", "bias"))


def common_type(types: Iterable[str]) -> str:
    """The one type that all of them are, else :data:`MIXED`."""
    different = set(types)
    return different.pop() if len(different) == 1 else MIXED
