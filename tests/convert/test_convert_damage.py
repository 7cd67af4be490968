"""Damaged copies of what ``convert`` reads: checkpoints of OpenAI, folders of Hugging Face (whole and in shards) and of
CTranslate2. Each is a ``ModelError``, none costs memory or the process, and none leaves a file behind.

``test_damage.py`` does the same for ggml files. What no reader can see is not among the damages: a flipped bit in a
weight, in the time stamps of a zip, or in what a format says for information only.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
import random
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Union

import numpy as np
import pytest
from whisperq_edge import _errors
from whisperq_edge._convert.convert import convert_model
from whisperq_edge._core import read_model_file
from whisperq_edge._whisper.vocabulary import known_vocabulary

from tests.fuzz.pieces import write
from tests.fuzz.targets import ct2_pieces
from tests.support.arithmetic import flipped
from tests.support.huggingface_folders import Stored, raw_safetensors, spelled, weights, write_folder
from tests.support.make_model import Dims
from tests.support.paths import ROOT
from tests.support.sanitizers import SANITIZERS, SLOWDOWN
from tests.support.torch_files import Raw, Tensor, dump, random_state, write_checkpoint, write_torch_zip

DIMS = Dims(80, 24, 64, 1, 1, 16, 64, 1, 1, 51864)
"""The smallest Whisper there is but for the number of its tokens."""

HUGE = 2**31 - 1
MOST_GROWTH_BYTES = 64 * 2**20
APPENDED = (b"\0", b"\0" * 12, b"\xff" * 4096)

Files = dict[str, bytes]


class Special(Enum):
    """What may be there instead of a file. To open a pipe would wait for ever."""

    FOLDER = "a folder"
    PIPE = "a pipe"


Content = Union[bytes, Special, None]


class Copy(NamedTuple):
    """A damaged copy: what became of the files that are damaged (None: removed).

    ``is_seen_late``: the damage is in the weights, so only a conversion meets it.
    """

    name: str
    files: dict[str, Content]
    is_seen_late: bool = False


class Format(NamedTuple):
    """``write`` puts a whole model into a folder and gives what to open there, ``needed`` are the files that must be
    there."""

    write: Callable[[Path], Path]
    needed: Sequence[str]
    damages: Callable[[Files, random.Random], Iterator[Copy]]
    n_copies: int
    fill: Callable[[Files, random.Random], Copy]
    """A damage more, never the same: what is missing to ``n_copies``."""


# ---- Damages of any file ---------------------------------------------------------------------------------------------


def _flip(data: bytes, at: int, rng: random.Random) -> bytes:
    return flipped(data, at, rng.randrange(8))


def _put(data: bytes, at: int, values: bytes) -> bytes:
    return data[:at] + values + data[at + len(values) :]


def _cut(file: str, data: bytes, lengths: Sequence[int]) -> Iterator[Copy]:
    for length in sorted(set(lengths)):
        yield Copy(f"{file} cut to {length} bytes", {file: data[:length]})


def _replaced(names: Iterable[str]) -> Iterator[Copy]:
    """Files that a model cannot do without."""
    for name in names:
        for special in Special:
            yield Copy(f"{name} is {special.value}", {name: special})


def _appended(file: str, data: bytes) -> Iterator[Copy]:
    for extra in APPENDED:
        yield Copy(f"{len(extra)} bytes appended to {file}", {file: data + extra})


# ---- OpenAI's checkpoints --------------------------------------------------------------------------------------------

PT = "model.pt"
_END_FIELDS = {"signature": 0, "disk": 4, "entries here": 8, "entries": 10, "bytes": 12, "offset": 16, "comment": 20}
_CENTRAL_FIELDS = {"signature": 0, "method": 10, "packed size": 20, "size": 24, "name length": 28, "offset": 42}
_LOCAL_FIELDS = {"signature": 0, "method": 8, "name length": 26, "name": 30}


def _write_pt(folder: Path) -> Path:
    folder.mkdir()
    return write_checkpoint(folder / PT, DIMS._asdict(), random_state(DIMS))


@functools.cache
def _tensors() -> OrderedDict[str, Any]:
    """The state as ``write_checkpoint`` lays it out: a storage for each tensor, by its number."""
    state: OrderedDict[str, Any] = OrderedDict()
    for key, (name, values) in enumerate(random_state(DIMS).items()):
        stride = tuple(step // 2 for step in np.ascontiguousarray(values).strides)
        state[name] = Tensor(str(key), "f16", values.size, 0, values.shape, stride)
    return state


@functools.cache
def _storages() -> dict[str, bytes]:
    return {str(key): values.tobytes() for key, values in enumerate(random_state(DIMS).values())}


def _pt(name: str, value: object, storages: Optional[dict[str, bytes]] = None, **options: Any) -> Copy:
    """A zip that is whole, checksums and all, around a pickle or storages that are wrong."""
    data = io.BytesIO()
    write_torch_zip(data, value, _storages() if storages is None else storages, **options)  # type: ignore[arg-type]
    return Copy(name, {PT: data.getvalue()})


def _pt_state(name: str, state: object, **dims: object) -> Copy:
    return _pt(name, {"dims": {**DIMS._asdict(), **dims}, "model_state_dict": state})


def _pt_records(files: Files, rng: random.Random) -> Iterator[Copy]:
    """Flipped bits in the zip's own records."""
    data = files[PT]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos, at = archive.infolist(), archive.start_dir
    end_at = len(data) - 22
    for field, offset in _END_FIELDS.items():
        yield Copy(f"end of the zip: {field} with a flipped bit", {PT: _flip(data, end_at + offset, rng)})
    entries = {}
    for info in infos:
        entries[info.filename] = at
        at += 46 + len(info.filename)
    chosen = [infos[0], *rng.sample(infos[2:-1], 2)]
    for info in chosen:
        for field, offset in _CENTRAL_FIELDS.items():
            changed = _flip(data, entries[info.filename] + offset, rng)
            yield Copy(f"directory: {field} of {info.filename} with a flipped bit", {PT: changed})
        for field, offset in _LOCAL_FIELDS.items():
            changed = _flip(data, info.header_offset + offset, rng)
            yield Copy(f"header of {info.filename}: {field} with a flipped bit", {PT: changed})
    encrypted = _put(data, entries[infos[3].filename] + 8, b"\1")
    yield Copy("an entry that says it is encrypted", {PT: encrypted})
    changed = _flip(data, entries["archive/data.pkl"] + 16, rng)
    yield Copy("checksum of the pickle with a flipped bit", {PT: changed})


def _pt_tensors(rng: random.Random) -> Iterator[Copy]:
    """Pickles that say what is not so."""
    state = _tensors()
    matrices = [name for name, tensor in state.items() if len(set(tensor.size)) == 2]
    for name in rng.sample(sorted(state), 3):
        tensor = state[name]
        yield _pt_state(f"{name} removed", OrderedDict((n, t) for n, t in state.items() if n != name))
        yield _pt_state(f"{name} renamed", OrderedDict((f"x{n}" if n == name else n, t) for n, t in state.items()))
        twice = Raw(dump(state)[:-1] + dump(name) + dump(tensor) + b"u")
        yield _pt_state(f"{name} twice", twice)
        yield _pt_state(f"{name} beyond its storage", OrderedDict(state, **{name: tensor._replace(offset=1)}))
        for type_ in ("f32", "i64", "u8"):
            swapped = OrderedDict(state, **{name: tensor._replace(type=type_)})
            yield _pt_state(f"{name} of {type_} in a storage of f16", swapped)
        yield _pt_state(f"{name} is a number", OrderedDict(state, **{name: 1.0}))
    for name in rng.sample(matrices, 2):
        tensor = state[name]
        turned = tensor._replace(size=tensor.size[::-1], stride=tensor.stride[::-1])
        yield _pt_state(f"{name} turned", OrderedDict(state, **{name: turned}))
        flat = tensor._replace(size=(tensor.n_values,), stride=(1,))
        yield _pt_state(f"{name} flat", OrderedDict(state, **{name: flat}))
    name = matrices[0]
    for field, value in (("n_values", 2**61), ("stride", (2**62, 1)), ("size", (2**40, 2**22)), ("size", (-1, 64))):
        lie = state[name]._replace(**{field: value})
        yield _pt_state(f"{name} {field} is {value}", OrderedDict(state, **{name: lie}))
    missing = {key: values for key, values in _storages().items() if key != "7"}
    yield _pt("a storage missing", {"dims": DIMS._asdict(), "model_state_dict": state}, missing)
    short = {**_storages(), "7": b"\0\0"}
    yield _pt("a storage too short", {"dims": DIMS._asdict(), "model_state_dict": state}, short)


def _pt_parts() -> Iterator[Copy]:
    state = _tensors()
    for name, value in DIMS._asdict().items():
        for wrong in (value + 1, -1, HUGE, str(value)):
            yield _pt_state(f"{name} is {wrong!r}", state, **{name: wrong})
        dims = {n: v for n, v in DIMS._asdict().items() if n != name}
        yield _pt(f"{name} missing", {"dims": dims, "model_state_dict": state})
    yield _pt("no dims", {"model_state_dict": state})
    yield _pt("no state", {"dims": DIMS._asdict()})
    yield _pt("a list", [1, 2])
    for name, opcodes in (
        ("os.system", b"cos\nsystem\n(X\x04\0\0\0true\x85R."),
        ("builtins.eval by name on the stack", b"\x8c\x08builtins\x8c\x04eval\x93."),
        ("the opcode INST", b"(ios\nsystem\n."),
        ("the registry of extensions", b"\x82\1."),
        ("a list that holds itself", b"]q\0h\0a."),
        ("nothing", b""),
    ):
        yield _pt(f"a pickle with {name}", Raw(b"\x80\x02" + opcodes))
    yield _pt("big endian", {"dims": DIMS._asdict(), "model_state_dict": state}, byteorder=b"big")


@functools.cache
def _deflated() -> bytes:
    data = io.BytesIO()
    state = {"dims": DIMS._asdict(), "model_state_dict": _tensors()}
    write_torch_zip(data, state, _storages(), deflate=True)  # type: ignore[arg-type]
    return data.getvalue()


def _pt_weights() -> Iterator[Copy]:
    """What only reading the weights shows."""
    state, storages = {"dims": DIMS._asdict(), "model_state_dict": _tensors()}, _storages()
    for name, bits in (("NaN", b"\0\x7e"), ("infinity", b"\0\x7c")):
        wrong = {**storages, "4": _put(storages["4"], 20, bits)}
        yield _pt(f"{name} among the weights", state, wrong)._replace(is_seen_late=True)
    for key in ("5", "40"):
        whole = _deflated()
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            info = archive.getinfo(f"archive/data/{key}")
        changed = _put(whole, info.header_offset + 30 + len(info.filename) + info.compress_size // 2, b"\x5a\xa5\x5a")
        yield Copy(f"damaged where storage {key} is deflated", {PT: changed}, is_seen_late=True)


def _damaged_pt(files: Files, rng: random.Random) -> Iterator[Copy]:
    data = files[PT]
    end = len(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        directory, infos = archive.start_dir, archive.infolist()
    lengths = [0, 1, 3, 4, 29, 200, directory, directory + 1, end - 22, end - 21, end - 1]
    lengths += [info.header_offset for info in rng.sample(infos, 4)]
    lengths += [rng.randrange(directory) for _ in range(8)] + [rng.randrange(directory, end) for _ in range(4)]
    yield from _cut(PT, data, lengths)
    yield from _appended(PT, data)
    yield Copy("bytes before the zip", {PT: b"\0" * 7 + data})
    yield Copy("no file", {PT: None})
    yield from _pt_records(files, rng)
    yield from _pt_tensors(rng)
    yield from _pt_parts()
    yield from _pt_weights()


def _pickle_bit(files: Files, rng: random.Random) -> Copy:
    with zipfile.ZipFile(io.BytesIO(files[PT])) as archive:
        info = archive.getinfo("archive/data.pkl")
    at = info.header_offset + 30 + len(info.filename) + rng.randrange(info.file_size)
    return Copy(f"byte {at}, in the pickle, with a flipped bit", {PT: _flip(files[PT], at, rng)})


# ---- Folders of Hugging Face -----------------------------------------------------------------------------------------

WEIGHTS, CONFIG, VOCABULARY = "model.safetensors", "config.json", "vocab.json"
_DIMENSION_FIELDS = (
    *("num_mel_bins", "max_source_positions", "d_model", "encoder_attention_heads", "encoder_layers"),
    *("max_target_positions", "decoder_attention_heads", "decoder_layers", "vocab_size"),
)
_OTHER_MODELS: dict[str, object] = {
    "model_type": "bert",
    "quantization_config": {"bits": 4},
    "activation_function": "relu",
    "scale_embedding": True,
    "encoder_ffn_dim": 255,
    "decoder_ffn_dim": 1,
    "tie_word_embeddings": False,
}


def _vocabulary_json() -> bytes:
    return json.dumps({spelled(token): number for number, token in enumerate(known_vocabulary(51864)[:50256])}).encode()


def _write_hf(folder: Path) -> Path:
    write_folder(folder, DIMS, weights(DIMS, "f16"))
    (folder / VOCABULARY).write_bytes(_vocabulary_json())
    return folder


def _stored(data: bytes) -> dict[str, Stored]:
    n_bytes = int.from_bytes(data[:8], "little")
    header, start = json.loads(data[8 : 8 + n_bytes]), 8 + n_bytes
    del header["__metadata__"]
    return {
        name: Stored(entry["dtype"], tuple(entry["shape"]), data[slice(*(start + at for at in entry["data_offsets"]))])
        for name, entry in header.items()
    }


def _with_header(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The same data under another header."""
    n_bytes = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n_bytes])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + n_bytes :]


def _hf_entries(data: bytes, rng: random.Random) -> Iterator[Copy]:
    """Entries of the header that say what is not so."""
    names = list(_stored(data))
    matrices = [name for name, tensor in _stored(data).items() if len(set(tensor.shape)) == 2]

    def lie(what: str, name: str, field: str, value: object) -> Copy:
        def change(header: dict[str, Any]) -> None:
            header[name][field] = value(header[name]) if callable(value) else value

        return Copy(f"{name}: {what}", {WEIGHTS: _with_header(data, change)})

    for name in rng.sample(names, 3):
        for dtype in ("F32", "F64", "I16", "U8", "F8_E4M3", 16):
            yield lie(f"dtype {dtype}", name, "dtype", dtype)
        yield lie("offsets of another", name, "data_offsets", [0, 2])
        yield lie("offsets backwards", name, "data_offsets", lambda entry: entry["data_offsets"][::-1])
        yield lie("offsets past the end", name, "data_offsets", lambda e: [at + len(data) for at in e["data_offsets"]])
        yield lie("an axis more", name, "shape", lambda entry: [1, *entry["shape"]])
        yield lie("a huge axis", name, "shape", [2**62, 4])
        yield lie("a negative axis", name, "shape", [-1])
    for name in rng.sample(matrices, 2):
        yield lie("turned", name, "shape", lambda entry: entry["shape"][::-1])


def _hf_tensors(data: bytes, rng: random.Random) -> Iterator[Copy]:
    """Whole files with other tensors in them."""
    tensors = _stored(data)
    for name in rng.sample(sorted(set(tensors) - {"model.encoder.embed_positions.weight"}), 3):
        without = {n: tensor for n, tensor in tensors.items() if n != name}
        yield Copy(f"{name} removed", {WEIGHTS: raw_safetensors(without)})
        yield Copy(f"{name} renamed", {WEIGHTS: raw_safetensors({**without, f"{name}s": tensors[name]})})
        both = {**tensors, name[len("model.") :]: tensors[name]}
        yield Copy(f"{name} with and without its prefix", {WEIGHTS: raw_safetensors(both)})
        entry = json.dumps({name: {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}})[1:-1].encode()
        n_bytes = int.from_bytes(data[:8], "little")
        twice = data[8 : 7 + n_bytes] + b", " + entry + b"}"
        yield Copy(f"{name} twice", {WEIGHTS: struct.pack("<Q", len(twice)) + twice + data[8 + n_bytes :]})
    more = {**tensors, "model.encoder.conv3.bias": tensors["model.encoder.conv1.bias"]}
    yield Copy("a tensor that Whisper has not", {WEIGHTS: raw_safetensors(more)})
    output = {**tensors, "proj_out.weight": Stored("F16", (2, 2), bytes(8))}
    yield Copy("an output layer of its own", {WEIGHTS: raw_safetensors(output)})
    for name, bits in (("NaN", b"\0\x7e"), ("infinity", b"\0\xfc")):
        tensor = tensors["model.encoder.conv2.weight"]
        wrong = {**tensors, "model.encoder.conv2.weight": tensor._replace(data=_put(tensor.data, 66, bits))}
        yield Copy(f"{name} among the weights", {WEIGHTS: raw_safetensors(wrong)}, is_seen_late=True)


def _hf_config(files: Files) -> Iterator[Copy]:
    config = json.loads(files[CONFIG])
    for field in _DIMENSION_FIELDS:
        for value in (config[field] + 1, HUGE, str(config[field])):
            yield Copy(f"{field} is {value!r}", {CONFIG: json.dumps({**config, field: value}).encode()})
        without = {name: value for name, value in config.items() if name != field}
        yield Copy(f"{field} missing", {CONFIG: json.dumps(without).encode()})
    for field, value in _OTHER_MODELS.items():
        yield Copy(f"{field} is {value!r}", {CONFIG: json.dumps({**config, field: value}).encode()})
    yield from _cut(CONFIG, files[CONFIG], [0, 1, len(files[CONFIG]) // 2, len(files[CONFIG]) - 1])
    for name, data in (("list", b"[]"), ("deep", b"[" * 100_000), ("no UTF-8", b'{"model_type":"\xff"}')):
        yield Copy(f"{CONFIG}: {name}", {CONFIG: data})
    yield Copy(f"{CONFIG} removed", {CONFIG: None})


def _hf_vocabulary(files: Files) -> Iterator[Copy]:
    data, ids = files[VOCABULARY], json.loads(files[VOCABULARY])
    yield from _cut(VOCABULARY, data, [0, len(data) // 2])
    for what, change in (
        ("an id twice", {spelled(b"a"): ids[spelled(b"b")]}),
        ("an id that is no number", {spelled(b"a"): "64"}),
        ("an id past the end", {spelled(b"a"): HUGE}),
        ("a character of no byte", {"\u2603": 60_000}),
    ):
        yield Copy(f"{VOCABULARY}: {what}", {VOCABULARY: json.dumps({**ids, **change}).encode()})


def _damaged_hf(files: Files, rng: random.Random) -> Iterator[Copy]:
    data = files[WEIGHTS]
    n_bytes = int.from_bytes(data[:8], "little")
    lengths = [0, 1, 7, 8, 9, 8 + n_bytes - 1, 8 + n_bytes, len(data) - 1]
    lengths += [rng.randrange(8, 8 + n_bytes) for _ in range(4)]
    lengths += [rng.randrange(8 + n_bytes, len(data)) for _ in range(6)]
    yield from _cut(WEIGHTS, data, lengths)
    yield from _appended(WEIGHTS, data)
    for value in (0, 1, n_bytes - 1, n_bytes + 1, 2**63 + n_bytes, 2**64 - 1):
        yield Copy(f"header of {value} bytes", {WEIGHTS: struct.pack("<Q", value) + data[8:]})
    yield Copy("no weights", {WEIGHTS: None})
    yield from _hf_entries(data, rng)
    yield from _hf_tensors(data, rng)
    yield from _hf_config(files)
    yield from _hf_vocabulary(files)


def _header_bit(files: Files, rng: random.Random) -> Copy:
    """Behind the metadata, which says nothing of the weights."""
    data = files[WEIGHTS]
    at = rng.randrange(data.index(b"}", 8) + 1, 8 + int.from_bytes(data[:8], "little"))
    return Copy(f"byte {at}, in the header, with a flipped bit", {WEIGHTS: _flip(data, at, rng)})


# ---- Folders in shards -----------------------------------------------------------------------------------------------

INDEX = "model.safetensors.index.json"
_N_SHARDS = 3


def _shard(number: int) -> str:
    return f"model-{number:05d}-of-{_N_SHARDS:05d}.safetensors"


def _write_shards(folder: Path) -> Path:
    return write_folder(folder, DIMS, weights(DIMS, "f16"), n_shards=_N_SHARDS)


def _index(files: Files, weight_map: object) -> dict[str, Content]:
    return {INDEX: json.dumps({**json.loads(files[INDEX]), "weight_map": weight_map}).encode()}


def _damaged_index(files: Files, rng: random.Random) -> Iterator[Copy]:
    weight_map = json.loads(files[INDEX])["weight_map"]
    yield from _cut(INDEX, files[INDEX], [0, 1, len(files[INDEX]) // 2, len(files[INDEX]) - 1])
    yield Copy("no index", {INDEX: None})
    for name in rng.sample(sorted(weight_map), 4):
        without = {n: file for n, file in weight_map.items() if n != name}
        yield Copy(f"{name} not listed", _index(files, without))
        others = [_shard(number) for number in (1, 2, 3) if _shard(number) != weight_map[name]]
        yield Copy(f"{name} listed elsewhere", _index(files, {**weight_map, name: others[0]}))
        for file in ("model-00004-of-00003.safetensors", "../model.safetensors", "/etc/passwd", "", 3, None, [INDEX]):
            yield Copy(f"{name} listed in {file!r}", _index(files, {**weight_map, name: file}))
    yield Copy("a tensor listed that no shard has", _index(files, {**weight_map, "model.x": _shard(1)}))
    for wrong in ({}, [], None, "model.safetensors", HUGE):
        yield Copy(f"weight_map is {wrong!r}", _index(files, wrong))


def _damaged_shards(files: Files, rng: random.Random) -> Iterator[Copy]:
    yield from _damaged_index(files, rng)
    for number in range(1, _N_SHARDS + 1):
        shard = _shard(number)
        data, tensors = files[shard], _stored(files[shard])
        yield Copy(f"{shard} missing", {shard: None})
        header_end = 8 + int.from_bytes(data[:8], "little")
        yield from _cut(shard, data, [0, 8, header_end, rng.randrange(8, header_end), len(data) - 1])
        yield from _appended(shard, data)
        other = _shard(number % _N_SHARDS + 1)
        yield Copy(f"{shard} is {other}", {shard: files[other]})
        yield Copy(f"{shard} and {other} swapped", {shard: files[other], other: files[shard]})
        for name in rng.sample(sorted(set(tensors) - {"model.encoder.embed_positions.weight"}), 2):
            without = {n: tensor for n, tensor in tensors.items() if n != name}
            yield Copy(f"{name} removed from {shard}", {shard: raw_safetensors(without)})
            moved = {**_stored(files[other]), name: tensors[name]}
            yield Copy(f"{name} in {other} too", {other: raw_safetensors(moved)})
            ints = {**tensors, name: tensors[name]._replace(dtype="I16")}
            yield Copy(f"{name} of I16", {shard: raw_safetensors(ints)})


def _shard_bit(files: Files, rng: random.Random) -> Copy:
    shard = _shard(rng.randrange(1, _N_SHARDS + 1))
    copy = _header_bit({WEIGHTS: files[shard]}, rng)
    return Copy(f"{shard}: {copy.name}", {shard: copy.files[WEIGHTS]})


# ---- Folders of CTranslate2 ------------------------------------------------------------------------------------------

CT2, CT2_VOCABULARY = "model.bin", "vocabulary.json"


class _Variable(NamedTuple):
    """Where the fields of a variable lie."""

    name: str
    start: int
    rank: int
    type: int
    n_bytes: int
    data: int
    end: int


def _write_ct2(folder: Path) -> Path:
    folder.mkdir()
    write(folder / CT2, ct2_pieces("int8"))
    (folder / CONFIG).write_text(json.dumps({"lang_ids": [50259]}))
    tokens = [spelled(token) for token in known_vocabulary(51864)[:50256]]
    (folder / CT2_VOCABULARY).write_text(json.dumps([*tokens, "<|endoftext|>"]))
    return folder


def _variables() -> list[_Variable]:
    found, at = [], len(ct2_pieces("int8")[0].data)
    for piece in ct2_pieces("int8")[1:-1]:
        name_bytes = piece.data[0]
        rank = at + 2 + name_bytes
        type_ = rank + 1 + 4 * piece.data[2 + name_bytes]
        end = at + len(piece.data) + piece.hole
        found.append(_Variable(piece.data[2 : 1 + name_bytes].decode(), at, rank, type_, type_ + 1, type_ + 5, end))
        at = end
    return found


def _ct2_head(data: bytes) -> Iterator[Copy]:
    n_variables = len(_variables())
    name_at = data.index(b"WhisperSpec")
    fields: list[tuple[str, int, str, list[int]]] = [
        ("version", 0, "<I", [0, 3, 7, 99, HUGE]),
        ("length of the specification", 4, "<H", [0, 1, 11, 13, 2**16 - 1]),
        ("revision", name_at + 12, "<I", [100, HUGE]),
        ("number of variables", name_at + 16, "<I", [0, n_variables - 1, n_variables + 1, HUGE]),
        ("number of aliases", _variables()[-1].end, "<I", [0, 2, HUGE]),
    ]
    for field, at, form, values in fields:
        for value in values:
            # Without its only alias the file has bytes left over.
            yield Copy(f"{field} is {value}", {CT2: _put(data, at, struct.pack(form, value))})
    yield Copy("the specification of another model", {CT2: _put(data, name_at, b"Whisker")})
    alias = data.rindex(b"decoder/embeddings/weight\0")
    yield Copy("an alias of nothing", {CT2: _put(data, alias, b"x")})
    alias = data.rindex(b"decoder/projection/weight\0")
    yield Copy("an alias that is a variable", {CT2: _put(data, alias, b"decoder/embeddings/weight")})


def _ct2_variables(data: bytes, rng: random.Random) -> Iterator[Copy]:
    variables = _variables()
    matrices = [variable for variable in variables if variable.type - variable.rank == 9]
    for variable in rng.sample(matrices, 4):
        name = variable.name
        for field, at in (("name", variable.start + 2), ("rank", variable.rank), ("dims", variable.rank + 1)):
            yield Copy(f"{field} of {name} with a flipped bit", {CT2: _flip(data, at, rng)})
        for field, at in (("name length", variable.start), ("number of bytes", variable.n_bytes)):
            yield Copy(f"{field} of {name} with a flipped bit", {CT2: _flip(data, at, rng)})
        for number in (0, 2, 3, 6, 255):
            yield Copy(f"type of {name} is {number}", {CT2: _put(data, variable.type, bytes([number]))})
        yield Copy(f"dims of {name} are huge", {CT2: _put(data, variable.rank + 1, b"\xff" * 8)})
        turned = data[variable.rank + 5 : variable.rank + 9] + data[variable.rank + 1 : variable.rank + 5]
        if turned[:4] != turned[4:]:
            yield Copy(f"{name} turned", {CT2: _put(data, variable.rank + 1, turned)})
    count_at = data.index(b"WhisperSpec") + 16
    for variable in rng.sample(variables[:-4], 3):
        fewer = _put(data, count_at, struct.pack("<I", len(variables) - 1))
        more = _put(data, count_at, struct.pack("<I", len(variables) + 1))
        yield Copy(f"{variable.name} removed", {CT2: fewer[: variable.start] + data[variable.end :]})
        yield Copy(f"{variable.name} twice", {CT2: more[: variable.end] + data[variable.start :]})


def _ct2_values(data: bytes, rng: random.Random) -> Iterator[Copy]:
    by_name = {variable.name: variable for variable in _variables()}
    for name in rng.sample([name for name in by_name if name.endswith("_scale")], 2):
        for value in (0.0, -1.0, float("nan"), float("inf"), 1e-45):
            changed = _put(data, by_name[name].data + 8, struct.pack("<f", value))
            yield Copy(f"{name} has {value}", {CT2: changed})
    for name, number in (("num_heads", 2), ("num_heads", -1), ("pre_norm", 0), ("activation", 0), ("alibi", 1)):
        variable = by_name[f"decoder/{name}"]
        value = number.to_bytes(variable.end - variable.data, "little", signed=True)
        yield Copy(f"{name} is {number}", {CT2: _put(data, variable.data, value)})
    bias = by_name["decoder/layer_0/self_attention/linear_0/bias"]
    yield Copy("a bias of keys", {CT2: _put(data, bias.data + 4 * 64, struct.pack("<f", 0.5))})
    for value in (float("nan"), float("-inf")):
        changed = _put(data, by_name["encoder/layer_norm/gamma"].data + 12, struct.pack("<f", value))
        yield Copy(f"{value} among the weights", {CT2: changed}, is_seen_late=True)


def _damaged_ct2(files: Files, rng: random.Random) -> Iterator[Copy]:
    data = files[CT2]
    variables = _variables()
    lengths = [0, 1, 4, 6, 17, 21, 25, variables[-1].end, variables[-1].end + 4, len(data) - 1]
    lengths += [variable.start for variable in rng.sample(variables, 3)]
    lengths += [variable.rank + 1 for variable in rng.sample(variables, 3)]
    lengths += [rng.randrange(variable.data, variable.end) for variable in rng.sample(variables, 6)]
    yield from _cut(CT2, data, lengths)
    yield from _appended(CT2, data)
    yield Copy("no model.bin", {CT2: None})
    yield from _ct2_head(data)
    yield from _ct2_variables(data, rng)
    yield from _ct2_values(data, rng)
    yield Copy("a config of Hugging Face", {CONFIG: b'{"model_type": "whisper"}'})
    for name, text in (("cut", b'["a", "b'), ("an object", b"{}"), ("numbers", b"[1, 2]"), ("no UTF-8", b'["\xff"]')):
        yield Copy(f"{CT2_VOCABULARY}: {name}", {CT2_VOCABULARY: text})


def _table_bit(files: Files, rng: random.Random) -> Copy:
    """In a variable's name or dimensions."""
    variable = rng.choice([variable for variable in _variables() if variable.type - variable.rank > 1])
    at = rng.randrange(variable.start + 2, variable.type)
    return Copy(f"byte {at}, in the table, with a flipped bit", {CT2: _flip(files[CT2], at, rng)})


# ---- The copies ------------------------------------------------------------------------------------------------------

FORMATS = {
    "pt": Format(_write_pt, [PT], _damaged_pt, 200, _pickle_bit),
    "safetensors": Format(_write_hf, [CONFIG, WEIGHTS], _damaged_hf, 200, _header_bit),
    "shards": Format(_write_shards, [INDEX, *map(_shard, range(1, 1 + _N_SHARDS))], _damaged_shards, 120, _shard_bit),
    "ctranslate2": Format(_write_ct2, [CT2], _damaged_ct2, 200, _table_bit),
}


TOKENS = (VOCABULARY, CT2_VOCABULARY)
"""The files of tokens, which a model can do without."""


def read_files(model: Path) -> Files:
    """The files of a whole model by their names."""
    folder = model if model.is_dir() else model.parent
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def damaged_copies(format: str, files: Files) -> Iterator[Copy]:
    """The same ones on every run; what is left up to the count is flipped bits."""
    rng, count = random.Random(2024), 0
    names = set()
    for copy in itertools.chain(_replaced(FORMATS[format].needed), FORMATS[format].damages(files, rng)):
        names.add(copy.name)
        count += 1
        yield copy
    while count < FORMATS[format].n_copies:
        copy = FORMATS[format].fill(files, rng)
        if copy.name not in names:
            names.add(copy.name)
            count += 1
            yield copy


def put_copy(folder: Path, copy: Copy) -> None:
    """Makes ``folder``, which holds a whole model, a damaged one."""
    for name, content in copy.files.items():
        (folder / name).unlink(missing_ok=True)
        if content is Special.FOLDER:
            (folder / name).mkdir()
        elif content is Special.PIPE:
            os.mkfifo(folder / name)
        elif content is not None:
            (folder / name).write_bytes(content)


def without_tokens(copy: Copy) -> Copy:
    """Also take away the vocabulary that the copy does not damage. It is optional, and to read 50,000 tokens twice a
    copy would take most of the time."""
    absent: dict[str, Content] = dict.fromkeys(TOKENS)
    return copy._replace(files={**absent, **copy.files}) if not any(name in copy.files for name in TOKENS) else copy


def restore(folder: Path, originals: Path, copy: Copy) -> None:
    for name, content in copy.files.items():
        if content is Special.FOLDER:
            (folder / name).rmdir()
        elif content is not None:
            (folder / name).unlink()
        if (originals / name).exists():
            os.link(originals / name, folder / name)


@pytest.fixture(scope="module", params=list(FORMATS))
def format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(format: str, tmp_path: Path) -> Path:
    return FORMATS[format].write(tmp_path / "model")


def test_each_copy_is_damaged_and_the_original_converts(format: str, model: Path, tmp_path: Path) -> None:
    files, names = read_files(model), []
    for copy in damaged_copies(format, files):
        assert copy.files and all(files[name] != data for name, data in copy.files.items()), copy.name
        names.append(copy.name)
    assert len(names) == len(set(names)) == FORMATS[format].n_copies
    convert_model(model, tmp_path / "out.bin", type="q4_0", proof="tensors")
    assert len(read_model_file(tmp_path / "out.bin").tensors) > 40


# Runs in a process of its own, so that one that dies is seen. Says what it is about to open before it does.
_CONVERT_EACH = """
import json, resource, shutil, sys
from pathlib import Path
from tests.convert.test_convert_damage import damaged_copies, put_copy, read_files, restore, without_tokens
from whisperq_edge._convert.convert import convert_model
from whisperq_edge._convert.readers.open_source import open_source

def peak_bytes():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak

def outcome(action):
    try:
        action()
    except Exception as error:
        return type(error).__name__, str(error)[:300]
    return "done", ""

format, model, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
folder, files = (model if model.is_dir() else model.parent), read_files(model)
originals = out.with_name("originals")
shutil.copytree(folder, originals)
out.mkdir()
destination = out / "out.bin"
convert = lambda: convert_model(model, destination, type="q4_0", proof="tensors", n_threads=2)
convert()
for path in out.iterdir():
    path.unlink()
for copy in damaged_copies(format, files):  # their making costs memory too
    pass
before = peak_bytes()
for copy in map(without_tokens, damaged_copies(format, files)):
    put_copy(folder, copy)
    print(json.dumps(copy.name), flush=True)
    opened, converted = outcome(lambda: open_source(model)), outcome(convert)
    left = sorted(path.name for path in out.iterdir())
    print(json.dumps([copy.is_seen_late, opened, converted, left]), flush=True)
    restore(folder, originals, copy)
print("growth", peak_bytes() - before)
"""


def _is_typed(outcome: list[str]) -> bool:
    error = getattr(_errors, outcome[0], None)
    return error is not None and issubclass(error, _errors.ModelError)


def test_each_is_refused_and_the_process_survives(format: str, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    run = subprocess.run(
        [sys.executable, "-c", _CONVERT_EACH, format, str(model), str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600 * SLOWDOWN,
    )
    lines = run.stdout.splitlines()
    assert run.returncode == 0, "\n".join([*lines[-2:], run.stderr[-2000:]])
    names = [json.loads(line) for line in lines[:-1:2]]
    outcomes = [json.loads(line) for line in lines[1:-1:2]]
    assert len(names) == len(outcomes) == FORMATS[format].n_copies
    wrong = []
    for name, (is_seen_late, opened, converted, left) in zip(names, outcomes):
        is_refused = opened[0] == "done" if is_seen_late else _is_typed(opened)
        if not is_refused or not _is_typed(converted) or left:
            wrong.append((name, opened, converted, left))
    assert wrong == []
    assert SANITIZERS or int(lines[-1].split()[1]) < MOST_GROWTH_BYTES  # they keep what was freed


_OPEN = """
import sys
from pathlib import Path
from whisperq_edge._convert.readers.open_source import open_source
print(open_source(Path(sys.argv[1])).format)
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.parametrize(
    ("format", "names"), [("safetensors", [VOCABULARY]), ("ctranslate2", [CONFIG, CT2_VOCABULARY])]
)
def test_a_pipe_where_an_optional_file_may_be_is_not_waited_for(format: str, names: list[str], tmp_path: Path) -> None:
    folder = FORMATS[format].write(tmp_path / "model")
    put_copy(folder, Copy("pipes", dict.fromkeys(names, Special.PIPE)))
    command = [sys.executable, "-c", _OPEN, str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.split() == [{"safetensors": "huggingface"}.get(format, format)]
