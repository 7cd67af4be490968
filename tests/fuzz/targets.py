"""One function for each reader: bytes that nobody vouches for in, whether they were read out.

A file that is no model must end as a ``ModelError`` with a message of one line; anything else that escapes is a
finding. What is read must keep the promises of ``Source`` and of the readers below it.
"""

from __future__ import annotations

import functools
import json
import re
import struct
import tempfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Callable, NamedTuple, Union

from whisperq_edge import ModelError, ModelFormatError
from whisperq_edge._convert.readers.ctranslate2 import is_ctranslate2, open_ctranslate2
from whisperq_edge._convert.readers.huggingface import is_huggingface, open_huggingface
from whisperq_edge._convert.readers.open_source import open_source
from whisperq_edge._convert.readers.openai import open_openai
from whisperq_edge._convert.readers.pickle_reader import PickledTensor, read_pickle
from whisperq_edge._convert.readers.safetensors import read_safetensors
from whisperq_edge._convert.readers.source import Source
from whisperq_edge._convert.readers.torch_file import TorchTensor, read_torch_file
from whisperq_edge._whisper.shapes import expected_shapes

from tests.support.huggingface_folders import config_of, their_shapes
from tests.support.make_model import Dims
from tests.support.torch_files import Tensor, dump, pickle_of

from .pieces import Piece, edit_all, write

__all__ = ["FILE_NAMES", "TARGETS", "Target", "checkpoint_pieces", "ct2_pieces", "zip_pieces"]

Content = Union[bytes, Sequence[Piece]]
Rows = Callable[[int, int], bytes]


class Target(NamedTuple):
    """A reader: ``run(data)`` tells whether it took ``data``; anything it raises is a finding."""

    run: Callable[[bytes], bool]
    longest_input: int


# The smallest Whisper there is but for the number of its tokens.
_DIMS = Dims(80, 24, 64, 1, 1, 16, 64, 1, 1, 51864)
_VALUE_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "f64": 8, "i8": 1, "u8": 1, "bool": 1, "i16": 2, "i32": 4, "i64": 8}
_MOST_ROW_BYTES = 1 << 20  # longer ones are what the file says and the shapes of a Whisper forbid; not asked for here
_LONGEST_MESSAGE = 2000


# ---- Promises --------------------------------------------------------------------------------------------------------


def _is_read(read: Callable[[], object]) -> bool:
    """Whether ``read`` returns; a ModelError is its way to say no."""
    try:
        read()
    except ModelError as error:
        message = str(error)
        assert message.isprintable() and len(message) <= _LONGEST_MESSAGE, f"no message for a terminal: {message!a}"
        assert not isinstance(error, ModelFormatError) or error.offset >= 0, error.offset
        return False
    return True


def _check_rows(shape: Sequence[int], type: str, read_rows: Rows) -> None:
    """The first and the last row are as long as shape and type say."""
    row_bytes = (shape[-1] if shape else 1) * _VALUE_BYTES[type]
    if 0 in shape or row_bytes > _MOST_ROW_BYTES:
        return
    for row in {0, prod(shape[:-1]) - 1}:
        assert len(read_rows(row, 1)) == row_bytes, (shape, type, row)


def _check_source(source: Source) -> None:
    shapes = expected_shapes(source.dims)
    assert {tensor.name: tensor.shape for tensor in source.tensors} == shapes and len(source.tensors) == len(shapes)
    for tensor in source.tensors:
        _check_rows(tensor.shape, tensor.type, tensor.read_rows)
        assert tensor.row_scales is None or tensor.row_scales.shape == (tensor.n_rows,)
    assert all(path.is_file() for path in source.files)


def _check_tree(value: object, seen: set[int], level: int = 0) -> None:
    """Plain containers of plain values and tensors, few levels deep. Each is looked at once: the same list may be in
    so many places that to walk them all would never end."""
    assert level <= 64
    if not isinstance(value, (dict, list, tuple)):
        assert isinstance(value, (str, int, float, TorchTensor, PickledTensor, type(None))), type(value)
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, dict):
        assert all(type(key) in (str, int) for key in value)
    for item in value.values() if isinstance(value, dict) else value:
        _check_tree(item, seen, level + 1)


# ---- Files -----------------------------------------------------------------------------------------------------------


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="whisperq-fuzz-")


def _folder(files: Mapping[str, Content]) -> Path:
    """The folder of this process with these files and no others."""
    folder = Path(_scratch().name) / "model"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        write(folder / name, [Piece(content)] if isinstance(content, bytes) else content)
    return folder


def _file(content: Content, name: str = "model") -> Path:
    return _folder({name: content}) / name


# ---- Pickles and the zips around them --------------------------------------------------------------------------------


def _pickle(data: bytes) -> bool:
    def read() -> None:
        _check_tree(read_pickle(data, Path("model.pt"), lambda tensor: tensor), set())

    return _is_read(read)


# Entries beside the pickle, for tensors to look into: 96 bytes, and none.
_STORAGES = {"0": bytes(range(96)), "1": b""}


def _zip(pickle: bytes, deflate: bool) -> bytes:
    data = BytesIO()
    method = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, content in {"data.pkl": pickle, "byteorder": b"little", "version": b"3\n"}.items():
            archive.writestr(zipfile.ZipInfo(f"m/{name}"), content, method)
        for key, content in _STORAGES.items():
            archive.writestr(zipfile.ZipInfo(f"m/data/{key}"), content, method)
    return data.getvalue()


@functools.cache
def zip_pieces(deflate: bool) -> list[Piece]:
    """A torch file, cut where its records begin."""
    data = _zip(pickle_of({"w": Tensor("0", "f32", 24, 0, (3, 4), (1, 6))}), deflate)
    starts = [match.start() for match in re.finditer(rb"PK(\x03\x04|\x01\x02|\x05\x06)", data)]
    return [Piece(data[begin:end]) for begin, end in zip(starts, [*starts[1:], len(data)])]


def _torch_zip(data: bytes) -> bool:
    """``R``: the file. ``P`` ``D``: its pickle, the zip being stored or deflated. Else edits of a whole file, an odd
    first byte meaning a deflated one."""
    kind, rest = data[:1], data[1:]
    content: Content
    if kind == b"R":
        content = rest
    elif kind in (b"P", b"D"):
        content = _zip(rest, kind == b"D")
    else:
        content = edit_all(zip_pieces(bool(kind and kind[0] % 2)), rest)

    def read() -> None:
        tree = read_torch_file(path)
        _check_tree(tree, set())
        for value in tree.values() if isinstance(tree, dict) else [tree]:
            if isinstance(value, TorchTensor):
                _check_rows(value.shape, value.type, value.read_rows)

    path = _file(content)
    return _is_read(read)


# ---- OpenAI's checkpoints --------------------------------------------------------------------------------------------


def _stored_zip(entries: Mapping[str, Piece]) -> list[Piece]:
    """A zip of stored entries, holes included; the checksum of those with a hole is left out, as torch may do."""
    pieces, directory, at = [], b"", 0
    for name, content in entries.items():
        size = len(content.data) + content.hole
        checksum = 0 if content.hole else zlib.crc32(content.data)
        fields = struct.pack("<5H3L2H", 20, 0, 0, 0, 0, checksum, size, size, len(name), 0)
        directory += b"PK\x01\x02\x14\0" + fields + struct.pack("<3H2L", 0, 0, 0, 0, at) + name.encode()
        pieces.append(Piece(b"PK\x03\x04" + fields + name.encode() + content.data, content.hole))
        at += len(pieces[-1].data) + content.hole
    end = struct.pack("<4H2LH", 0, 0, len(entries), len(entries), len(directory), at, 0)
    return [*pieces, Piece(directory), Piece(b"PK\x05\x06" + end)]


@functools.cache
def checkpoint_pieces() -> list[Piece]:
    """The pickle of a whole checkpoint: a piece for its head, for each dimension, for each tensor and for its end."""
    dims = [dump(name) + dump(value) for name, value in _DIMS._asdict().items()]
    tensors = []
    for key, (name, shape) in enumerate(expected_shapes(_DIMS).items()):
        strides = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
        tensors.append(dump(name) + dump(Tensor(str(key), "f16", prod(shape), 0, shape, strides)))
    state = b"u" + dump("model_state_dict") + dump(OrderedDict())[:-1]  # without the end of its items
    parts = [b"\x80\x02}(" + dump("dims") + b"}(", *dims, state, *tensors, b"uu."]
    return [Piece(part) for part in parts]


def _checkpoint(pickle: bytes) -> list[Piece]:
    """A checkpoint with a storage of zeros for each tensor that a Whisper has."""
    storages = {
        f"m/data/{key}": Piece(b"", 2 * prod(shape)) for key, shape in enumerate(expected_shapes(_DIMS).values())
    }
    return _stored_zip({"m/data.pkl": Piece(pickle), **storages})


def _openai(data: bytes) -> bool:
    """Edits of a whole checkpoint's pickle."""
    path = _file(_checkpoint(b"".join(piece.data for piece in edit_all(checkpoint_pieces(), data))))
    return _is_read(lambda: _check_source(open_openai(path)))


# ---- safetensors -----------------------------------------------------------------------------------------------------


def _claimed_bytes(header: bytes) -> int:
    """The last end that a header speaks of: with as many bytes of data it is as whole as it can be."""
    ends = re.findall(rb"data_offsets\W+\d+\W+(\d{1,13})", header)
    return min(max(map(int, ends), default=0), 1 << 36)


def _safetensors_of(header: bytes) -> list[Piece]:
    return [Piece(struct.pack("<Q", len(header)) + header, _claimed_bytes(header))]


def _safetensors(data: bytes) -> bool:
    """``R``: the file. Else its header."""

    def read() -> None:
        for tensor in read_safetensors(path).values():
            _check_rows(tensor.shape, tensor.type, tensor.read_rows)

    path = _file(data[1:] if data[:1] == b"R" else _safetensors_of(data))
    return _is_read(read)


# ---- Folders of Hugging Face -----------------------------------------------------------------------------------------

HF_FILES = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "vocab.json",
    "added_tokens.json",
    "tokenizer.json",
    "preprocessor_config.json",
    "pytorch_model.bin",
    "adapter_config.json",
    "part-1.safetensors",
    "generation_config.json",
    "tokenizer_config.json",
)
"""What the first byte of an input chooses; the rest of the input is what stands there (the header of safetensors, the
pickle of ``pytorch_model.bin``), and the other files are those of a whole folder."""


def _header_of(shapes: Mapping[str, Sequence[int]]) -> bytes:
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    return json.dumps(header, separators=(",", ":")).encode()


@functools.cache
def hf_files() -> dict[str, bytes]:
    """A whole folder: the configuration and the header of the weights."""
    shapes = {f"model.{name}": shape for name, shape in their_shapes(_DIMS)}
    return {"config.json": json.dumps(config_of(_DIMS)).encode(), "model.safetensors": _header_of(shapes)}


def _huggingface(data: bytes) -> bool:
    name = HF_FILES[data[0] % len(HF_FILES)] if data else HF_FILES[0]
    files: dict[str, Content] = dict(hf_files())
    header = hf_files()["model.safetensors"]
    if name in ("model.safetensors.index.json", "part-1.safetensors", "pytorch_model.bin"):
        del files["model.safetensors"]
    if name in ("model.safetensors.index.json", "part-1.safetensors"):
        weight_map = dict.fromkeys(json.loads(header), "part-1.safetensors")
        files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
        files["part-1.safetensors"] = header
    if name == "added_tokens.json":
        files["vocab.json"] = b'{"a": 0, "b": 1}'
    files[name] = data[1:]
    for weights in ("model.safetensors", "part-1.safetensors"):
        content = files.get(weights)
        if isinstance(content, bytes):
            files[weights] = _safetensors_of(content)
    if name == "pytorch_model.bin":
        files[name] = _zip(data[1:], deflate=False)
    folder = _folder(files)
    assert is_huggingface(folder)
    return _is_read(lambda: _check_source(open_huggingface(folder)))


# ---- Folders of CTranslate2 ------------------------------------------------------------------------------------------

_CT2_PARTS = {
    "attn_ln": "self_attention/layer_norm",
    "attn.out": "self_attention/linear_1",
    "cross_attn_ln": "attention/layer_norm",
    "cross_attn.query": "attention/linear_0",
    "cross_attn.out": "attention/linear_2",
    "mlp_ln": "ffn/layer_norm",
    "mlp.0": "ffn/linear_0",
    "mlp.2": "ffn/linear_1",
}
_CT2_TYPES = {"float32": (0, 4), "int8": (1, 1), "int16": (2, 2), "float16": (4, 2)}
CT2_FILES = ("model.bin", "config.json", "vocabulary.json", "vocabulary.txt")


def _string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def _ct2_shapes(dims: Dims) -> dict[str, tuple[int, ...]]:
    """Variables and shapes of CTranslate2, where queries, keys and values share a matrix."""
    n = dims.n_audio_state
    shapes: dict[str, tuple[int, ...]] = {
        "encoder/conv1/weight": (n, dims.n_mels, 3),
        "encoder/conv1/bias": (n,),
        "encoder/conv2/weight": (n, n, 3),
        "encoder/conv2/bias": (n,),
        "encoder/position_encodings/encodings": (dims.n_audio_ctx, n),
        "decoder/embeddings/weight": (dims.n_vocab, n),
        "decoder/position_encodings/encodings": (dims.n_text_ctx, n),
    }
    sizes = {"self_attention/linear_0": (3 * n, n), "ffn/linear_0": (4 * n, n), "ffn/linear_1": (n, 4 * n)}
    sizes["attention/linear_1"] = (2 * n, n)
    for side in ("encoder", "decoder"):
        parts = [part for part in _CT2_PARTS.values() if side == "decoder" or not part.startswith("attention")]
        parts += ["self_attention/linear_0", *(["attention/linear_1"] if side == "decoder" else [])]
        for name in (*(f"layer_0/{part}" for part in parts), "layer_norm"):
            if name.endswith("layer_norm"):
                shapes |= {f"{side}/{name}/gamma": (n,), f"{side}/{name}/beta": (n,)}
            else:
                size = sizes.get(name[len("layer_0/") :], (n, n))
                shapes |= {f"{side}/{name}/weight": size, f"{side}/{name}/bias": size[:1]}
    return shapes


def _variable(name: str, shape: Sequence[int], type: str, data: bytes = b"") -> Piece:
    number, value_bytes = _CT2_TYPES[type]
    n_bytes = prod(shape) * value_bytes
    head = _string(name) + struct.pack(f"<B{len(shape)}IBI", len(shape), *shape, number, n_bytes)
    return Piece(head + data, n_bytes - len(data))


@functools.cache
def ct2_pieces(matrix_type: str) -> list[Piece]:
    """A ``model.bin``: its head, a piece for each variable, its aliases. Weights are holes, scales are 1."""
    variables = []
    for name, shape in _ct2_shapes(_DIMS).items():
        is_matrix = name.endswith("/weight")
        variables.append(_variable(name, shape, matrix_type if is_matrix else "float32"))
        if is_matrix and matrix_type == "int8":
            variables.append(_variable(f"{name}_scale", shape[:1], "float32", b"\0\0\x80\x3f" * shape[0]))
    numbers = {"pre_norm": ("int8", 1), "activation": ("int8", 3), "num_heads": ("int16", 1), "alibi": ("int8", 0)}
    for name, (type, number) in numbers.items():
        variables.append(_variable(f"decoder/{name}", (), type, number.to_bytes(_CT2_TYPES[type][1], "little")))
    head = struct.pack("<I", 6) + _string("WhisperSpec") + struct.pack("<II", 3, len(variables))
    aliases = struct.pack("<I", 1) + _string("decoder/projection/weight") + _string("decoder/embeddings/weight")
    return [Piece(head), *variables, Piece(aliases)]


def _ctranslate2(data: bytes) -> bool:
    """``J`` ``V`` ``T``: config.json, vocabulary.json, vocabulary.txt. ``R``: model.bin. Else edits of a whole
    model.bin, an odd first byte meaning one of int8."""
    kind, rest = data[:1], data[1:]
    files: dict[str, Content] = {"model.bin": ct2_pieces("float16"), "config.json": b"{}"}
    names = {b"R": "model.bin", b"J": "config.json", b"V": "vocabulary.json", b"T": "vocabulary.txt"}
    if kind in names:
        files[names[kind]] = rest
    else:
        files["model.bin"] = edit_all(ct2_pieces("int8" if kind and kind[0] % 2 else "float16"), rest)
    folder = _folder(files)
    return is_ctranslate2(folder) and _is_read(lambda: _check_source(open_ctranslate2(folder)))


# ---- Whatever it is --------------------------------------------------------------------------------------------------

FILE_NAMES = (
    "base.pt",
    "model.bin",
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "vocab.json",
    "tokenizer.json",
    "preprocessor_config.json",
    "vocabulary.json",
    "vocabulary.txt",
    "adapter_config.json",
    "model.onnx",
    "README.md",
    "ggml-base.bin",
    "notes",
)


@functools.cache
def _whole_folders() -> dict[bytes, dict[str, Content]]:
    header = hf_files()["model.safetensors"]
    return {
        b"C": {"model.bin": ct2_pieces("int8"), "config.json": b"{}"},
        b"H": {"config.json": hf_files()["config.json"], "model.safetensors": _safetensors_of(header)},
        b"P": {"base.pt": _checkpoint(b"".join(piece.data for piece in checkpoint_pieces()))},
    }


def _open_source(data: bytes) -> bool:
    """``S``: a file, its name by its number in ``FILE_NAMES``, then its bytes. Else a folder of files: number of the
    name, uint16 length, bytes. They replace those of a whole folder of CTranslate2 (``C``) or Hugging Face (``H``), or
    lie beside an OpenAI checkpoint (``P``)."""
    if data[:1] == b"S":
        name = FILE_NAMES[data[1] % len(FILE_NAMES)] if len(data) > 1 else FILE_NAMES[0]
        path = _file(data[2:], name)
    else:
        files = dict(_whole_folders().get(data[:1], {}))
        at = 1
        while at < len(data):
            n_bytes = int.from_bytes(data[at + 1 : at + 3], "little")
            files[FILE_NAMES[data[at] % len(FILE_NAMES)]] = data[at + 3 : at + 3 + n_bytes]
            at += 3 + n_bytes
        path = _folder(files)
    return _is_read(lambda: _check_source(open_source(path)))


TARGETS = {
    "pickle": Target(_pickle, 4096),
    "torch_zip": Target(_torch_zip, 4096),
    "openai": Target(_openai, 1024),
    "safetensors": Target(_safetensors, 8192),
    "huggingface": Target(_huggingface, 16384),
    "ctranslate2": Target(_ctranslate2, 4096),
    "open_source": Target(_open_source, 8192),
}
