"""CTranslate2 folders, as faster-whisper uses them: ``model.bin``, ``config.json``, ``vocabulary.json`` or ``.txt``.

``model.bin``, all numbers little-endian; a string is a uint16 length and that many bytes, the last of them a NUL::

    uint32  binary version      string  name of the specification      uint32  its revision
    uint32  number of variables, then for each:
            string name; uint8 rank; uint32 dims[rank]; uint8 type; uint32 number of bytes; the data
    uint32  number of aliases, then for each: string alias; string name of a variable

Queries, keys and values lie in one matrix, one below the other, so each of them is a range of rows of it. int8 codes
are ``rint(weight * scale)`` with a scale for each row.
"""

from __future__ import annotations

import json
import os
import re
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Optional

import numpy as np
import numpy.typing as npt

from ..._errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError
from ..._whisper.dims import Dims
from ..._whisper.shapes import expected_shapes
from ..._whisper.vocabulary import END_OF_TEXT, LEAST_TOKENS, token_bytes
from .ggml import quantized_note
from .source import FileSlice, Source, SourceTensor, check_dims, check_tensors, matrix_type
from .token_ids import Kind, Listing, choose_kind, fit_tokens, keep_rows, text_claim
from .tokenizer_files import read_tokenizer_files

__all__ = ["MODEL_FILE", "SPECIFICATION", "is_ctranslate2", "open_ctranslate2"]

MODEL_FILE = "model.bin"
SPECIFICATION = "WhisperSpec"

_VERSIONS = (4, 5, 6)

# CTranslate2's types in the order of their numbers, and the bytes of one value.
_TYPES = (("float32", 4), ("int8", 1), ("int16", 2), ("int32", 4), ("float16", 2), ("bfloat16", 2))
_SOURCE_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int8": "i8"}

# What a file can make us do. A Whisper of 64 layers on each side has less than 3000 variables; the longest name and the
# highest rank are half of these.
_MOST_VARIABLES = 10_000
_LONGEST_NAME_BYTES = 128
_HIGHEST_RANK = 4
_MOST_JSON_BYTES = 16 * 2**20


def is_ctranslate2(folder: Path) -> bool:
    """Whether a folder is laid out as CTranslate2's are: a ``model.bin`` that is neither ggml's nor torch's, and no
    ``config.json`` that names a ``model_type`` (as every one of Hugging Face does)."""
    model = folder / MODEL_FILE
    if not model.is_file():
        return False
    with open(model, "rb") as file:
        if file.read(4) in (b"lmgg", b"PK\x03\x04"):
            return False
    if not (folder / "config.json").is_file():  # to open a pipe would wait for ever
        return True
    try:
        config = _read_json(folder / "config.json")
    except ModelFormatError:
        return True
    return not (isinstance(config, dict) and "model_type" in config)


def open_ctranslate2(folder: Path) -> Source:
    """A CTranslate2 Whisper of float32, float16, bfloat16 or int8 weights.

    Raises:
        ModelNotFoundError: there is no ``model.bin``.
        ModelFormatError: a file is damaged or is not CTranslate2's.
        UnsupportedModelError: no Whisper, of another type (int16, AWQ), or with something that Whisper has not; ids of
            tokens that are those of no Whisper, or that contradict each other.
    """
    model = _read_model(folder / MODEL_FILE)
    dims = _dims(model)
    n_rows = dims.n_vocab
    tokenizer = read_tokenizer_files(folder)
    vocabulary_file, tokens = _read_vocabulary(folder)
    _list_tokens(tokens, vocabulary_file, tokenizer.listing)
    notes: list[str] = []
    kind = choose_kind(folder, n_rows, dims.n_mels, tokenizer.listing, notes)
    fit_tokens(folder, kind, n_rows, tokenizer.listing, notes)
    vocabulary = _text_of(tokens, kind)
    if vocabulary_file is not None and vocabulary is None:
        notes.append(f"{vocabulary_file} is not spelled as Whisper's vocabularies are, and was not used.")
    tensors = [_tensor(model, name, shape) for name, shape in expected_shapes(dims).items()]
    _check_key_biases(model, dims)
    _check_projection(model)
    _check_the_rest(model)
    dims = dims._replace(n_vocab=kind.n_vocab)
    tensors = keep_rows(tensors, dims, n_rows)
    return check_tensors(
        Source(
            path=folder,
            format="ctranslate2",
            files=[model.path, *([vocabulary_file] if vocabulary_file else []), *tokenizer.files],
            dims=dims,
            tensors=tensors,
            vocabulary=vocabulary,
            ftype=matrix_type(tensors),
            notes=[*quantized_note(tensors), *notes],
        )
    )


# ---- The file --------------------------------------------------------------------------------------------------------


class _Variable(NamedTuple):
    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    n_bytes: int

    @property
    def value_bytes(self) -> int:
        return dict(_TYPES)[self.type]


@dataclass
class _Model:
    """The table of ``model.bin``. ``used`` has the names of the variables that somebody asked for."""

    path: Path
    variables: dict[str, _Variable]
    aliases: dict[str, str]
    used: set[str]

    def find(self, name: str) -> Optional[_Variable]:
        self.used.add(name)
        target = self.aliases.get(name, name)
        self.used.add(target)
        return self.variables.get(target)

    def get(self, name: str) -> _Variable:
        variable = self.find(name)
        if variable is None:
            raise ModelFormatError(
                str(self.path), 0, f"variable {name}", "missing", f"one of the {len(self.variables)} that are there"
            )
        return variable

    def read(self, variable: _Variable, first: int = 0, count: Optional[int] = None) -> bytes:
        """``count`` values from ``first`` on."""
        rows = FileSlice(self.path, variable.offset, variable.value_bytes)
        return rows.read_rows(first, variable.n_bytes // variable.value_bytes if count is None else count)

    def fail(self, variable: _Variable, field: str, value: str, allowed: str) -> ModelFormatError:
        return ModelFormatError(str(self.path), variable.offset, f"{variable.name} {field}", value, allowed)


class _Reader:
    """Reads from front to back and knows where it is."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._size = os.fstat(file.fileno()).st_size
        self.offset = 0

    @property
    def remaining(self) -> int:
        return self._size - self.offset

    def fail(self, offset: int, field: str, value: object, allowed: str) -> ModelFormatError:
        return ModelFormatError(str(self._path), offset, field, str(value), allowed)

    def take(self, n_bytes: int, field: str) -> bytes:
        data = self._file.read(n_bytes) if n_bytes <= self.remaining else b""
        if len(data) != n_bytes:
            raise self.fail(self.offset, field, f"cut off: {self.remaining} bytes are left", f"{n_bytes} bytes")
        self.offset += n_bytes
        return data

    def skip(self, n_bytes: int, field: str) -> None:
        if n_bytes > self.remaining:
            raise self.fail(self.offset, field, f"cut off: {self.remaining} bytes are left", f"{n_bytes} bytes")
        self.offset += n_bytes
        self._file.seek(self.offset)

    def number(self, n_bytes: int, field: str, most: int) -> int:
        offset = self.offset
        value = int.from_bytes(self.take(n_bytes, field), "little")
        if value > most:
            raise self.fail(offset, field, value, f"up to {most}")
        return value

    def string(self, field: str) -> str:
        offset = self.offset
        data = self.take(self.number(2, f"{field} length", _LONGEST_NAME_BYTES + 1), field)
        if data[-1:] != b"\0" or not re.fullmatch(rb"[!-~]+", data[:-1]):
            raise self.fail(offset, field, ascii(data)[1:], "printable ASCII and a NUL at its end")
        return data[:-1].decode("ascii")


def _read_model(path: Path) -> _Model:
    if not path.is_file():
        raise ModelNotFoundError(f"there is no file {path}")
    with open(path, "rb") as file:
        reader = _Reader(file, path)
        _read_head(reader, path)
        n_variables = reader.number(4, "number of variables", _MOST_VARIABLES)
        variables: dict[str, _Variable] = {}
        for position in range(n_variables):
            offset = reader.offset
            variable = _read_variable(reader, f"variable {position}")
            if variable.name in variables:
                raise reader.fail(offset, f"variable {position} name", f"{variable.name} again", "each variable once")
            variables[variable.name] = variable
        aliases = _read_aliases(reader, variables)
        if reader.remaining:
            raise reader.fail(reader.offset, "end of the file", f"{reader.remaining} bytes away", "nothing after it")
    return _Model(path, variables, aliases, set())


def _read_head(reader: _Reader, path: Path) -> None:
    start = reader.take(4, "binary version")
    (version,) = struct.unpack("<I", start)
    if not 1 <= version <= 99:
        raise reader.fail(0, "binary version", f"{version} ({ascii(start)[1:]})", f"one of {_VERSIONS}")
    if version not in _VERSIONS:
        raise UnsupportedModelError(f"{path}: CTranslate2's binary version {version}; read are {_VERSIONS}")
    specification = reader.string("specification")
    if specification != SPECIFICATION:
        raise UnsupportedModelError(f"{path}: CTranslate2's {specification}; a Whisper model has {SPECIFICATION}")
    reader.number(4, "revision", 99)


def _read_variable(reader: _Reader, field: str) -> _Variable:
    name = reader.string(f"{field} name")
    rank = reader.number(1, f"{name} rank", _HIGHEST_RANK)
    shape = struct.unpack(f"<{rank}I", reader.take(4 * rank, f"{name} dims"))
    type_name, value_bytes = _TYPES[reader.number(1, f"{name} type", len(_TYPES) - 1)]
    offset = reader.offset
    n_bytes = reader.number(4, f"{name} number of bytes", 2**32 - 1)
    if n_bytes != prod(shape) * value_bytes:
        wanted = f"{prod(shape) * value_bytes}, that of {type_name} {list(shape)}"
        raise reader.fail(offset, f"{name} number of bytes", n_bytes, wanted)
    offset = reader.offset
    reader.skip(n_bytes, f"{name} data")
    return _Variable(name, shape, type_name, offset, n_bytes)


def _read_aliases(reader: _Reader, variables: dict[str, _Variable]) -> dict[str, str]:
    aliases: dict[str, str] = {}
    for position in range(reader.number(4, "number of aliases", _MOST_VARIABLES)):
        offset = reader.offset
        alias, target = reader.string(f"alias {position}"), reader.string(f"target of alias {position}")
        if alias in variables or alias in aliases:
            raise reader.fail(offset, f"alias {position}", f"{alias} again", "each name once")
        if target not in variables:
            raise reader.fail(offset, f"target of alias {position}", target, "the name of a variable")
        aliases[alias] = target
    return aliases


# ---- Dimensions ------------------------------------------------------------------------------------------------------


def _dims(model: _Model) -> Dims:
    conv = _shape_of_rank(model, "encoder/conv1/weight", 3)
    embeddings = _shape_of_rank(model, "decoder/embeddings/weight", 2)
    values: dict[str, object] = {
        "n_mels": conv[1],
        "n_audio_ctx": _shape_of_rank(model, "encoder/position_encodings/encodings", 2)[0],
        "n_audio_state": conv[0],
        "n_audio_head": _n_heads(model, "encoder", conv[0]),
        "n_audio_layer": _n_layers(model, "encoder"),
        "n_text_ctx": _shape_of_rank(model, "decoder/position_encodings/encodings", 2)[0],
        "n_text_state": embeddings[1],
        "n_text_head": _n_heads(model, "decoder", embeddings[1]),
        "n_text_layer": _n_layers(model, "decoder"),
        "n_vocab": embeddings[0],
    }
    return check_dims(values, model.path)


def _shape_of_rank(model: _Model, name: str, rank: int) -> tuple[int, ...]:
    variable = model.get(name)
    if len(variable.shape) != rank:
        raise model.fail(variable, "dims", str(list(variable.shape)), f"{rank} of them")
    return variable.shape


def _n_heads(model: _Model, side: str, n_state: int) -> float:
    """Heads have 64 values in every Whisper; check_dims compares with what the file says, and refuses a fraction."""
    variable = model.find(f"{side}/num_heads")
    if variable is None:
        return n_state // 64
    value = _scalar(model, variable)
    return int(value) if value.is_integer() else value


def _n_layers(model: _Model, side: str) -> int:
    pattern = re.compile(rf"{side}/layer_(\d{{1,4}})/")
    return len({match.group(1) for match in map(pattern.match, (*model.variables, *model.aliases)) if match})


def _scalar(model: _Model, variable: _Variable) -> float:
    if variable.shape:
        raise model.fail(variable, "dims", str(list(variable.shape)), "none: a single number")
    if variable.type == "bfloat16":
        return float(np.frombuffer(b"\0\0" + model.read(variable), "<f4")[0])
    return float(np.frombuffer(model.read(variable), np.dtype(variable.type).newbyteorder("<"))[0])


# ---- Tensors ---------------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Rows ``part * n`` to ``(part + 1) * n`` of a variable that has ``n_parts * n``."""

    variable: str
    part: int = 0
    n_parts: int = 1


_PLACES_IN_A_LAYER = {
    "attn_ln": _Place("self_attention/layer_norm"),
    "attn.query": _Place("self_attention/linear_0", 0, 3),
    "attn.key": _Place("self_attention/linear_0", 1, 3),
    "attn.value": _Place("self_attention/linear_0", 2, 3),
    "attn.out": _Place("self_attention/linear_1"),
    "cross_attn_ln": _Place("attention/layer_norm"),
    "cross_attn.query": _Place("attention/linear_0"),
    "cross_attn.key": _Place("attention/linear_1", 0, 2),
    "cross_attn.value": _Place("attention/linear_1", 1, 2),
    "cross_attn.out": _Place("attention/linear_2"),
    "mlp_ln": _Place("ffn/layer_norm"),
    "mlp.0": _Place("ffn/linear_0"),
    "mlp.2": _Place("ffn/linear_1"),
}
_PLACES = {
    "encoder.conv1": _Place("encoder/conv1"),
    "encoder.conv2": _Place("encoder/conv2"),
    "encoder.ln_post": _Place("encoder/layer_norm"),
    "decoder.token_embedding": _Place("decoder/embeddings"),
    "decoder.ln": _Place("decoder/layer_norm"),
}


def _place_of(name: str) -> _Place:
    """Where a tensor of openai/whisper's name is."""
    side, _, leaf = name.partition(".")
    if leaf == "positional_embedding":
        return _Place(f"{side}/position_encodings/encodings")
    module, _, leaf = name.rpartition(".")
    match = re.fullmatch(r"(encoder|decoder)\.blocks\.(\d+)\.(.*)", module)
    if match:
        inner = _PLACES_IN_A_LAYER[match.group(3)]
        place = inner._replace(variable=f"{match.group(1)}/layer_{match.group(2)}/{inner.variable}")
    else:
        place = _PLACES[module]
    if place.variable.endswith("layer_norm"):
        leaf = {"weight": "gamma", "bias": "beta"}[leaf]
    return place._replace(variable=f"{place.variable}/{leaf}")


def _tensor(model: _Model, name: str, shape: tuple[int, ...]) -> SourceTensor:
    place = _place_of(name)
    variable = model.get(place.variable)
    expected = (place.n_parts * shape[0], *shape[1:])
    if variable.shape != expected:
        raise model.fail(variable, "dims", str(list(variable.shape)), str(list(expected)))
    if variable.type not in _SOURCE_TYPES or (variable.type == "int8" and len(shape) == 1):
        raise UnsupportedModelError(
            f"{model.path}: {variable.name} is stored as {variable.type}; read are float32, float16, bfloat16 and, for"
            " matrices, int8. Convert the original model, or make the folder again with --quantization float16"
        )
    scales = _row_scales(model, variable, place, shape) if variable.type == "int8" else None
    row_bytes = shape[-1] * variable.value_bytes
    offset = variable.offset + place.part * prod(shape) * variable.value_bytes
    rows = FileSlice(model.path, offset, row_bytes)
    return SourceTensor(name, shape, _SOURCE_TYPES[variable.type], rows.read_rows, scales, (str(model.path), offset))


def _row_scales(model: _Model, variable: _Variable, place: _Place, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """What to multiply the codes of each row with. The file divides: a scale for each output, which of a convolution
    holds for all rows of its kernel."""
    scale = model.get(f"{variable.name}_scale")
    if scale.type != "float32" or scale.shape != variable.shape[:1]:
        raise model.fail(scale, "type and dims", f"{scale.type} {list(scale.shape)}", f"float32 [{variable.shape[0]}]")
    values = np.frombuffer(model.read(scale, place.part * shape[0], shape[0]), "<f4").astype(np.float32)
    with np.errstate(all="ignore"):
        factors = np.float32(1) / values
    wrong = np.flatnonzero(~((values > 0) & np.isfinite(values) & np.isfinite(factors)))
    if wrong.size:
        index = place.part * shape[0] + int(wrong[0])
        raise model.fail(scale, f"value {index}", str(values[wrong[0]]), "a finite number above 0")
    return np.repeat(factors, prod(shape[1:-1]))


# ---- What Whisper has not --------------------------------------------------------------------------------------------

# Numbers that say how the weights are meant, and the values that mean Whisper. Activation 3 is GELU; older versions had
# 1 for it.
_MEANINGS = {
    "decoder/pre_norm": (1,),
    "decoder/activation": (1, 3),
}
# These say nothing about the weights.
_IGNORED = {"decoder/alignment_heads", "decoder/alignment_layer"}


def _check_key_biases(model: _Model, dims: Dims) -> None:
    """Keys have no bias in Whisper; where they share a matrix with queries or values, theirs is there and zero."""
    for name, shape in expected_shapes(dims).items():
        if not name.endswith(".key.weight"):
            continue
        place = _place_of(name.replace(".weight", ".bias"))
        variable = model.get(place.variable)
        n = shape[0]
        data = model.read(variable, place.part * n, n)
        if _has_values(data, variable.value_bytes):
            raise UnsupportedModelError(
                f"{model.path}: {variable.name} has values other than zero for the keys; Whisper's keys have no bias"
            )


def _has_values(data: bytes, value_bytes: int) -> bool:
    """Whether any float is other than 0 or -0."""
    numbers = np.frombuffer(data, f"<u{value_bytes}")
    return bool(np.any(numbers & ((1 << (8 * value_bytes - 1)) - 1)))


def _check_projection(model: _Model) -> None:
    """Whisper's logits come from the token embeddings: the projection is the same matrix, without a bias."""
    projection, embeddings = model.find("decoder/projection/weight"), model.get("decoder/embeddings/weight")
    if projection is not None and projection.name != embeddings.name and not _same(model, projection, embeddings):
        raise UnsupportedModelError(
            f"{model.path}: decoder/projection/weight is another matrix than decoder/embeddings/weight;"
            " Whisper's are one"
        )
    bias = model.find("decoder/projection/bias")
    if bias is not None and _has_values(model.read(bias), bias.value_bytes):
        raise UnsupportedModelError(f"{model.path}: decoder/projection/bias is not zero; Whisper has none")


def _same(model: _Model, left: _Variable, right: _Variable) -> bool:
    if (left.shape, left.type) != (right.shape, right.type):
        return False
    step = 1 << 20
    n_values = prod(left.shape)
    for first in range(0, n_values, step):
        count = min(step, n_values - first)
        if model.read(left, first, count) != model.read(right, first, count):
            return False
    if left.type != "int8":
        return True
    return _same(model, model.get(f"{left.name}_scale"), model.get(f"{right.name}_scale"))


def _check_the_rest(model: _Model) -> None:
    """Nothing is left over that would change what the model computes. A number that is 0 is something switched off."""
    for name, variable in model.variables.items():
        if name in model.used or name in _IGNORED:
            continue
        if variable.shape:
            raise UnsupportedModelError(f"{model.path}: {name} {list(variable.shape)} is nothing that Whisper has")
        value, allowed = _scalar(model, variable), _MEANINGS.get(name, (0,))
        if value not in allowed:
            raise UnsupportedModelError(
                f"{model.path}: {name} is {value:g}; Whisper has {' or '.join(map(str, allowed))}"
            )
    unknown = [alias for alias in model.aliases if alias not in model.used]
    if unknown:
        raise UnsupportedModelError(f"{model.path}: {unknown[0]} is nothing that Whisper has")


# ---- Vocabulary ------------------------------------------------------------------------------------------------------


def _read_vocabulary(folder: Path) -> tuple[Optional[Path], list[str]]:
    """The file that lists the tokens, and the tokens by id."""
    for name, read in (("vocabulary.json", _json_tokens), ("vocabulary.txt", _text_tokens)):
        path = folder / name
        if path.is_file():
            return path, read(path)
    return None, []


def _list_tokens(tokens: list[str], path: Optional[Path], listing: Listing) -> None:
    """Put the tokens behind the text into the listing. A list whose text ends before Whisper's can says nothing.

    Names that are there again are not tokens: converters fill up with times until every row has a name.
    """
    if path is None or END_OF_TEXT not in tokens or tokens.index(END_OF_TEXT) < LEAST_TOKENS:
        return
    claim = text_claim({number: token_bytes(token) or b"" for number, token in enumerate(tokens)}, path.name)
    if claim is not None:
        listing.claims.append(claim)
    seen: set[str] = set()
    for number, token in enumerate(tokens[LEAST_TOKENS:], LEAST_TOKENS):
        if token and token not in seen:  # the empty token is text, and the end of a file of lines
            listing.add(token, number, path)
        seen.add(token)


def _text_of(tokens: list[str], kind: Kind) -> Optional[list[bytes]]:
    """Bytes of the text tokens, 50257 of them as in :func:`.vocabulary.known_vocabulary`; None when the text does not
    end where it does in Whisper's, or where a token stands for no bytes."""
    if tokens[kind.n_text : kind.n_text + 1] != [END_OF_TEXT]:
        return None
    text = [token_bytes(token) for token in tokens[: LEAST_TOKENS + 1]]
    return None if None in text else [token for token in text if token is not None]


def _json_tokens(path: Path) -> list[str]:
    tokens = _read_json(path)
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ModelFormatError(str(path), 0, "vocabulary", type(tokens).__name__, "a list of strings")
    return tokens


def _text_tokens(path: Path) -> list[str]:
    """A token a line; one of them is empty."""
    return _read_text(path).split("\n")


def _read_text(path: Path) -> str:
    with open(path, "rb") as file:
        data = file.read(_MOST_JSON_BYTES + 1)
    if len(data) > _MOST_JSON_BYTES:
        raise ModelFormatError(str(path), 0, "size", f"above {_MOST_JSON_BYTES} bytes", "a few MB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = data[error.start : error.end]
        raise ModelFormatError(str(path), error.start, "text", ascii(bad)[1:], "UTF-8") from None


def _read_json(path: Path) -> Any:
    text = _read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ModelFormatError(str(path), error.pos, "JSON", error.msg, "well-formed JSON") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
        raise ModelFormatError(str(path), 0, "JSON", str(error), "well-formed JSON") from None
