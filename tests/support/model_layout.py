"""Where the fields of a whole model file lie, for tests that change them."""

from __future__ import annotations

import struct
from typing import NamedTuple

from whisperq_edge._core import ModelFile, TensorInfo

__all__ = ["HPARAMS", "N_FFT_AT", "N_MEL_AT", "TensorFields", "hparam_at", "put_i32", "tensor_fields", "token_offsets"]

# In the order of the file, after the magic.
HPARAMS = (
    "n_vocab",
    "n_audio_ctx",
    "n_audio_state",
    "n_audio_head",
    "n_audio_layer",
    "n_text_ctx",
    "n_text_state",
    "n_text_head",
    "n_text_layer",
    "n_mels",
    "ftype",
)
N_MEL_AT = 4 + 4 * len(HPARAMS)
N_FFT_AT = N_MEL_AT + 4


def hparam_at(name: str) -> int:
    return 4 + 4 * HPARAMS.index(name)


def put_i32(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + struct.pack("<i", value) + data[at + 4 :]


class TensorFields(NamedTuple):
    """Offsets of one tensor's fields; ``end`` is where the next tensor starts."""

    n_dims: int
    name_length: int
    type: int
    dims: int
    name: int
    data: int
    end: int


def tensor_fields(tensor: TensorInfo) -> TensorFields:
    """The fields before the data, counted back from it, as the writer of this repository lays them out."""
    name = tensor.offset - len(tensor.name)
    dims = name - 4 * len(tensor.dims)
    return TensorFields(dims - 12, dims - 8, dims - 4, dims, name, tensor.offset, tensor.offset + tensor.n_bytes)


def token_offsets(model: ModelFile) -> list[int]:
    """Where the length of each token stands."""
    offsets = []
    at = model.vocabulary_offset + 4
    for token in model.vocabulary:
        offsets.append(at)
        at += 4 + len(token)
    return offsets
