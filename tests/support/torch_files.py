"""Crafts what ``torch.save`` writes, and what nobody should: pickles by the opcode, zips by entry, without torch."""

from __future__ import annotations

import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
import numpy.typing as npt

from tests.support.make_model import Dims, tensor_shapes

__all__ = [
    "STORAGE_NAMES",
    "Raw",
    "Tensor",
    "dump",
    "pickle_of",
    "random_state",
    "write_checkpoint",
    "write_torch_zip",
]

STORAGE_NAMES = {
    "f32": "FloatStorage",
    "f16": "HalfStorage",
    "bf16": "BFloat16Storage",
    "f64": "DoubleStorage",
    "i8": "CharStorage",
    "u8": "ByteStorage",
    "bool": "BoolStorage",
    "i32": "IntStorage",
    "i64": "LongStorage",
}


class Raw(NamedTuple):
    """Opcodes to put there as they are."""

    opcodes: bytes


class Tensor(NamedTuple):
    """A tensor as the pickle has it; any of it may be a lie."""

    key: str
    type: str
    n_values: int
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def dump(value: object) -> bytes:
    """The opcodes (protocol 2, no memo) that leave ``value`` on the stack."""
    if isinstance(value, Raw):
        return value.opcodes
    if isinstance(value, Tensor):
        return _dump_tensor(value)
    if isinstance(value, OrderedDict):
        return b"ccollections\nOrderedDict\n)R" + _dump_items(value)
    if isinstance(value, dict):
        return b"}" + _dump_items(value)
    if isinstance(value, list):
        return b"](" + b"".join(map(dump, value)) + b"e"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(dump, value)) + b"t"
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        n_bits = value.bit_length() if value >= 0 else (value + 1).bit_length()
        data = value.to_bytes(n_bits // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    assert isinstance(value, float)
    return b"G" + struct.pack(">d", value)


def _dump_items(value: Mapping[object, object]) -> bytes:
    return b"(" + b"".join(dump(part) for item in value.items() for part in item) + b"u"


def _dump_tensor(tensor: Tensor) -> bytes:
    storage = Raw(b"ctorch\n" + STORAGE_NAMES[tensor.type].encode() + b"\n")
    persistent_id = dump(("storage", storage, tensor.key, "cpu", tensor.n_values)) + b"Q"
    arguments = (Raw(persistent_id), tensor.offset, tensor.size, tensor.stride, False, OrderedDict())
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + dump(arguments) + b"R"


def pickle_of(value: object) -> bytes:
    return b"\x80\x02" + dump(value) + b"."


def write_torch_zip(
    path: Path,
    value: object,
    storages: Mapping[str, bytes] = {},
    *,
    top: str = "archive",
    deflate: bool = False,
    byteorder: Optional[bytes] = b"little",
) -> Path:
    """A file as torch.save writes it. A ``Raw`` value is the whole pickle."""
    data = value.opcodes if isinstance(value, Raw) else pickle_of(value)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{top}/data.pkl", data)
        if byteorder is not None:
            archive.writestr(f"{top}/byteorder", byteorder)
        for key, values in storages.items():
            archive.writestr(f"{top}/data/{key}", values)
        archive.writestr(f"{top}/version", b"3\n")
    return path


def random_state(dims: Dims, seed: int = 0) -> dict[str, npt.NDArray[np.float16]]:
    """Weights of every tensor of a Whisper, in openai/whisper's shapes."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in tensor_shapes(dims):
        if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
            shape = shape[:1]  # a column in ggml files only
        state[name] = rng.standard_normal(shape, dtype=np.float32).astype(np.float16)
    return state


def write_checkpoint(
    path: Path,
    dims: Mapping[str, object],
    state: Mapping[str, object],
    *,
    deflate: bool = False,
    more: Mapping[str, object] = {},
) -> Path:
    """An OpenAI checkpoint. Arrays become tensors, anything else stays what it is."""
    storages: dict[str, bytes] = {}
    entries: OrderedDict[str, object] = OrderedDict()
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            key = str(len(storages))
            type_ = {"<f4": "f32", "<f2": "f16", "<f8": "f64", "<i8": "i64"}[value.dtype.str]
            strides = tuple(step // value.itemsize for step in np.ascontiguousarray(value).strides)
            storages[key] = value.tobytes()
            value = Tensor(key, type_, value.size, 0, value.shape, strides)
        entries[name] = value
    checkpoint = {"dims": dict(dims), "model_state_dict": entries, **more}
    return write_torch_zip(path, checkpoint, storages, deflate=deflate)
