"""safetensors files and folders of transformers: what they hold comes out to the bit, and what is wrong is named."""

from __future__ import annotations

import errno
import json
import os
import random
import struct
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from whisperq_edge import (
    InternalError,
    ModelError,
    ModelFormatError,
    ModelNotFoundError,
    OptionError,
    UnsafeModelError,
    UnsupportedModelError,
)
from whisperq_edge._convert.readers.huggingface import is_huggingface, open_huggingface, write_huggingface
from whisperq_edge._convert.readers.rows import floats
from whisperq_edge._convert.readers.safetensors import read_safetensors, write_safetensors
from whisperq_edge._convert.readers.source import Source, SourceTensor, sinusoids
from whisperq_edge._whisper.mel_filters import mel_filters
from whisperq_edge._whisper.shapes import expected_shapes
from whisperq_edge._whisper.vocabulary import known_vocabulary

from tests.support.huggingface_folders import (
    MICRO,
    Stored,
    bits,
    config_of,
    raw_safetensors,
    spelled,
    their_shapes,
    weights,
    write_folder,
    write_weights,
)
from tests.support.torch_files import Raw, Tensor, write_torch_zip

EMBEDDING = "decoder.embed_tokens.weight"

# openai/whisper's name -> transformers', for one tensor of each kind.
PAIRS = {
    "encoder.positional_embedding": "encoder.embed_positions.weight",
    "encoder.conv2.bias": "encoder.conv2.bias",
    "encoder.blocks.1.attn.query.weight": "encoder.layers.1.self_attn.q_proj.weight",
    "encoder.blocks.1.attn.key.weight": "encoder.layers.1.self_attn.k_proj.weight",
    "encoder.blocks.0.attn_ln.bias": "encoder.layers.0.self_attn_layer_norm.bias",
    "encoder.blocks.0.mlp.0.weight": "encoder.layers.0.fc1.weight",
    "encoder.ln_post.weight": "encoder.layer_norm.weight",
    "decoder.token_embedding.weight": EMBEDDING,
    "decoder.positional_embedding": "decoder.embed_positions.weight",
    "decoder.blocks.0.attn.value.bias": "decoder.layers.0.self_attn.v_proj.bias",
    "decoder.blocks.0.cross_attn.out.weight": "decoder.layers.0.encoder_attn.out_proj.weight",
    "decoder.blocks.0.cross_attn_ln.weight": "decoder.layers.0.encoder_attn_layer_norm.weight",
    "decoder.blocks.0.mlp.2.weight": "decoder.layers.0.fc2.weight",
    "decoder.blocks.0.mlp_ln.weight": "decoder.layers.0.final_layer_norm.weight",
    "decoder.ln.bias": "decoder.layer_norm.bias",
}


def all_bytes(tensor: SourceTensor) -> bytes:
    return tensor.read_rows(0, tensor.n_rows)


def by_name(source: Source) -> dict[str, SourceTensor]:
    return {tensor.name: tensor for tensor in source.tensors}


@pytest.fixture(scope="module")
def micro() -> dict[str, Stored]:
    return weights(MICRO, "f16")


# ---- safetensors: what is right --------------------------------------------------------------------------------------

TYPES = {"f64": 8, "f32": 4, "f16": 2, "bf16": 2, "i64": 8, "i32": 4, "i16": 2, "i8": 1, "u8": 1, "bool": 1}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    rng = random.Random(0)
    data = {type: rng.randbytes(3 * 5 * size) for type, size in TYPES.items()}
    parts: list[float] = []
    write_safetensors(
        path, [(f"a.{type}", (3, 5), type, [data[type][:7], data[type][7:]]) for type in TYPES], parts.append
    )
    assert parts == sorted(parts) and parts[-1] == 1.0
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    assert length % 8 == 0
    assert json.loads(raw[8 : 8 + length])["__metadata__"] == {"format": "pt"}
    found = read_safetensors(path)
    assert sorted(found) == sorted(f"a.{type}" for type in TYPES)
    for type, size in TYPES.items():
        tensor = found[f"a.{type}"]
        assert (tensor.shape, tensor.type, tensor.where[0]) == ((3, 5), type, str(path))
        assert tensor.read_rows(0, 3) == data[type] and tensor.read_rows(1, 1) == data[type][5 * size : 10 * size]
        assert tensor.where[1] % size == 0, "not aligned"
        assert raw[tensor.where[1] :].startswith(data[type])


def test_tensors_without_axes_and_without_values(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    write_safetensors(
        path, [("scalar", (), "f32", [b"abcd"]), ("none", (0, 4), "f32", []), ("nö ne", (3, 0), "i8", [])]
    )
    found = read_safetensors(path)
    assert found["scalar"].shape == () and found["scalar"].read_rows(0, 1) == b"abcd"
    assert found["none"].shape == (0, 4) and found["none"].read_rows(0, 0) == b""
    assert found["nö ne"].shape == (3, 0)


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ([("a", (2,), "f16", [b"123"])], "1 bytes too few"),
        ([("a", (2,), "f16", [b"1234", b"5"])], "1 bytes too many"),
        ([("a", (1,), "i8", [b"1"]), ("a", (1,), "i8", [b"1"])], "twice"),
        ([("a", (1,), "q8_0", [b"1"])], "no type 'q8_0'"),
    ],
)
def test_the_writer_refuses_what_does_not_fit(tmp_path: Path, entries: list[Any], what: str) -> None:
    with pytest.raises(InternalError, match=what):
        write_safetensors(tmp_path / "a.safetensors", entries)
    assert list(tmp_path.iterdir()) == []


def test_ours_and_theirs_are_one_format(tmp_path: Path) -> None:
    theirs = pytest.importorskip("safetensors.numpy")
    values = {
        "odd": np.arange(3, dtype=np.float16),
        "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
        "codes": np.arange(-3, 3, dtype=np.int8).reshape(2, 3),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 7), np.float64),
    }
    names = {"float16": "f16", "float32": "f32", "int8": "i8", "bool": "bool", "float64": "f64"}
    ours = tmp_path / "ours.safetensors"
    write_safetensors(ours, [(name, a.shape, names[a.dtype.name], [a.tobytes()]) for name, a in values.items()])
    for name, array in theirs.load_file(ours).items():
        assert array.dtype == values[name].dtype
        np.testing.assert_array_equal(array, values[name])
    theirs.save_file(values, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    found = read_safetensors(tmp_path / "theirs.safetensors")
    assert sorted(found) == sorted(values)
    for name, array in values.items():
        assert (found[name].shape, found[name].type) == (array.shape, names[array.dtype.name])
        assert found[name].read_rows(0, len(array) if array.ndim > 1 else 1) == array.tobytes()


# ---- safetensors: what is wrong --------------------------------------------------------------------------------------


def _file(header: object, n_bytes: int = 12) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(n_bytes)


def _entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


GOOD = {"a": _entry(), "b": _entry("I8", (2, 4), (4, 12))}

DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "file size"),
    "seven bytes": (b"1234567", "file size"),
    "no header": (struct.pack("<Q", 0), "header length"),
    "length of -1": (struct.pack("<Q", 2**64 - 1) + b"{}", "header length"),
    "length beyond the file": (struct.pack("<Q", 100) + b"{}", "header length"),
    "header cut off": (_file(GOOD)[:40], "header length"),
    "data cut off": (_file(GOOD, 11), "b data_offsets"),
    "data too long": (_file(GOOD, 13), "header"),
    "no object": (_file(b"[1, 2]"), "header"),
    "space before the object": (_file(b" {}", 0), "header"),
    "no JSON": (_file(b"{not json}"), "header"),
    "no UTF-8": (_file(b'{"\xff": 1}'), "header"),
    "lone surrogate": (_file(b'{"\\ud800": 1}'), "header"),
    "key twice": (_file(b'{"a": {}, "a": {}}'), "header"),
    "field twice": (_file(b'{"a": {"dtype": "I8", "dtype": "I8", "shape": [12], "data_offsets": [0, 12]}}'), "header"),
    "metadata of numbers": (_file({"__metadata__": {"format": 1}}, 0), "__metadata__ entry"),
    "entry is a list": (_file({"a": [1]}), "a entry"),
    "field missing": (_file({"a": {"dtype": "F32", "shape": [1]}}), "a entry"),
    "field too many": (_file({"a": {**_entry(), "more": 1}}, 4), "a entry"),
    "unknown dtype": (_file({"a": _entry("F8_E5M2")}), "a dtype"),
    "dtype is a list": (_file({"a": _entry(["F32"])}), "a dtype"),
    "negative size": (_file({"a": _entry(shape=(-1,))}), "a shape"),
    "size is a float": (_file({"a": _entry(shape=(1.0,))}), "a shape"),
    "size is a bool": (_file({"a": _entry(shape=(True,))}), "a shape"),
    "shape is a number": (_file({"a": _entry(shape=1)}), "a shape"),
    "nine axes": (_file({"a": _entry(shape=(1,) * 9)}), "a shape"),
    "product above 2**64": (_file({"a": _entry(shape=(2**32, 2**32))}), "a data_offsets"),
    "huge size": (_file({"a": _entry(shape=(2**63,))}), "a data_offsets"),
    "offsets swapped": (_file({"a": _entry(offsets=(4, 0))}), "a data_offsets"),
    "three offsets": (_file({"a": _entry(offsets=(0, 4, 8))}), "a data_offsets"),
    "offsets negative": (_file({"a": _entry(offsets=(-4, 0))}), "a data_offsets"),
    "too few bytes": (_file({"a": _entry(offsets=(0, 3))}), "a data_offsets"),
    "beyond the data": (_file({"a": _entry(offsets=(12, 16))}), "a data_offsets"),
    "overlap": (_file({**GOOD, "c": _entry(offsets=(2, 6))}), "c data_offsets"),
    "the same bytes twice": (_file({**GOOD, "c": _entry()}), "c data_offsets"),
    "hole": (_file({"a": _entry(), "b": _entry(offsets=(8, 12))}), "b data_offsets"),
    "hole at the beginning": (_file({"b": _entry(offsets=(8, 12))}), "b data_offsets"),
    "nobody's end": (_file({"a": _entry()}), "header"),
    "a thousand levels": (_file(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0), "header"),
    "a million lists": (_file(b'{"a":[' + b"[]," * 1_000_001 + b"1]}", 0), "header"),
    "a number of a million digits": (_file(b'{"a":' + b"9" * 1_000_000 + b"}", 0), "header"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_headers_are_named(tmp_path: Path, kind: str) -> None:
    data, field = DAMAGED[kind]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelFormatError) as caught:
        read_safetensors(path)
    assert caught.value.field == field
    assert caught.value.path == str(path) and 0 <= caught.value.offset <= max(len(data), 8)
    assert len(str(caught.value)) < 600


def test_the_offset_is_that_of_the_entry(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(_file({"a": _entry(), "b": _entry("F8", (2, 4), (4, 12))}))
    with pytest.raises(ModelFormatError) as caught:
        read_safetensors(path)
    assert path.read_bytes()[caught.value.offset :].startswith(b'"b"')


def test_flipped_bits_in_a_header_open_or_are_named(tmp_path: Path, micro: dict[str, Stored]) -> None:
    """Whatever a flipped bit does, it ends in a tensor that lies in the file or in a ModelError."""
    small = {name: tensor for name, tensor in micro.items() if name != EMBEDDING}
    data = bytearray(raw_safetensors(small))
    (length,) = struct.unpack_from("<Q", data)
    path = tmp_path / "model.safetensors"
    rng = random.Random(1)
    path.write_bytes(data)
    refused = 0
    for _ in range(300):
        at, bit = rng.randrange(8 + length), 1 << rng.randrange(8)
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(bytes([data[at] ^ bit]))
        try:
            for tensor in read_safetensors(path).values():
                assert len(tensor.read_rows(0, 1)) > 0
        except ModelFormatError:
            refused += 1
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(data[at : at + 1])
    assert 100 < refused < 300
    assert len(read_safetensors(path)) == len(small)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        read_safetensors(tmp_path / "none.safetensors")
    with pytest.raises(ModelFormatError, match="folder"):
        read_safetensors(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ModelFormatError, match="pipe"):
            read_safetensors(tmp_path / "pipe")


def test_a_file_that_shrank_is_an_error_when_its_rows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(_file(GOOD))
    tensor = read_safetensors(path)["b"]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ModelFormatError, match="before the file ends"):
        tensor.read_rows(0, 2)


# ---- Folders that open -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type", "n_shards", "prefix"), [("f32", 1, "model."), ("f16", 3, "model."), ("bf16", 1, ""), ("f64", 2, "")]
)
def test_a_folder_opens_with_equal_values(tmp_path: Path, type: str, n_shards: int, prefix: str) -> None:
    stored = weights(MICRO, type)
    folder = write_folder(tmp_path / "m", MICRO, stored, n_shards=n_shards, prefix=prefix)
    source = open_huggingface(folder)
    assert source.format == "huggingface" and source.path == folder and source.dims == MICRO
    assert source.ftype == type and source.vocabulary is None and source.mel_filters is None and source.notes == []
    assert [tensor.name for tensor in source.tensors] == list(expected_shapes(source.dims))
    assert len(source.tensors) == len(list(their_shapes(MICRO)))
    tensors = by_name(source)
    for ours, theirs in PAIRS.items():
        assert tensors[ours].shape == stored[theirs].shape and tensors[ours].type == type
        assert all_bytes(tensors[ours]) == stored[theirs].data, ours
    rows = tensors["decoder.token_embedding.weight"].read_rows(1000, 2)
    assert rows == stored[EMBEDDING].data[1000 * len(rows) // 2 :][: len(rows)]
    names = [file.name for file in source.files]
    assert names[0] == "config.json" and len(names) == (2 if n_shards == 1 else n_shards + 2)
    assert names == [names[0], *sorted(names[1:], key=lambda name: ("index" not in name, name))]


def test_every_tensor_has_the_bytes_of_its_own(tmp_path: Path, micro: dict[str, Stored]) -> None:
    """No two names are swapped: each of our names has other bytes, and they are all there."""
    source = open_huggingface(write_folder(tmp_path / "m", MICRO, micro))
    assert {all_bytes(tensor) for tensor in source.tensors} == {tensor.data for tensor in micro.values()}


@pytest.mark.parametrize(
    "changes",
    [
        {"n_mels": 128, "n_vocab": 51866, "n_audio_layer": 3},  # large-v3, turbo
        {"n_audio_layer": 4, "n_text_layer": 2},  # distil-whisper
        {"n_vocab": 51864},  # English
        {"n_audio_layer": 11, "n_audio_state": 128, "n_audio_head": 2, "n_text_state": 128, "n_text_head": 2},
    ],
)
def test_other_dimensions(tmp_path: Path, changes: dict[str, int]) -> None:
    dims = MICRO._replace(**changes)
    source = open_huggingface(write_folder(tmp_path / "m", dims, weights(dims, "f16")))
    assert source.dims == dims
    assert {tensor.name: tensor.shape for tensor in source.tensors} == expected_shapes(source.dims)


def test_matrices_of_two_types_are_mixed(tmp_path: Path, micro: dict[str, Stored]) -> None:
    name = "encoder.layers.0.fc1.weight"
    halves = np.frombuffer(micro[name].data, "<f2").astype(np.float32)
    changed = {**micro, name: Stored("F32", micro[name].shape, bits(halves, "f32"))}
    assert open_huggingface(write_folder(tmp_path / "m", MICRO, changed)).ftype == "mixed"


def test_positions_that_were_not_saved_are_computed(tmp_path: Path, micro: dict[str, Stored]) -> None:
    rest = {name: tensor for name, tensor in micro.items() if name != "encoder.embed_positions.weight"}
    source = open_huggingface(write_folder(tmp_path / "m", MICRO, rest))
    found = floats(by_name(source)["encoder.positional_embedding"])
    np.testing.assert_array_equal(found, sinusoids(24, 64))
    assert any("embed_positions" in note for note in source.notes)


def _write_torch(path: Path, stored: dict[str, Stored]) -> None:
    """What torch.save writes, without torch. Two names of one ``Stored`` share a storage, as tied weights do."""
    state, storages = {}, {}
    for name, tensor in stored.items():
        strides = tuple(int(np.prod(tensor.shape[axis + 1 :])) for axis in range(len(tensor.shape)))
        key = str(id(tensor))
        state[name] = Tensor(key, tensor.dtype.lower(), int(np.prod(tensor.shape)), 0, tensor.shape, strides)
        storages[key] = tensor.data
    write_torch_zip(path, state, storages)


def test_the_old_pytorch_file(tmp_path: Path, micro: dict[str, Stored]) -> None:
    folder = write_folder(tmp_path / "m", MICRO, micro)
    (folder / "model.safetensors").unlink()
    named = {f"model.{name}": tensor for name, tensor in micro.items()}
    _write_torch(folder / "pytorch_model.bin", {**named, "proj_out.weight": micro[EMBEDDING]})
    source = open_huggingface(folder)
    assert source.ftype == "f16" and [file.name for file in source.files] == ["config.json", "pytorch_model.bin"]
    tensors = by_name(source)
    assert all(all_bytes(tensors[ours]) == micro[theirs].data for ours, theirs in PAIRS.items())


def test_the_old_pytorch_file_in_shards(tmp_path: Path, micro: dict[str, Stored]) -> None:
    folder = write_folder(tmp_path / "m", MICRO, micro, n_shards=2)
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    index.unlink()
    named = {f"model.{name}": tensor for name, tensor in micro.items()}
    for shard in set(weight_map.values()):
        mine = [name for name, file in weight_map.items() if file == shard]
        (folder / shard).unlink()
        _write_torch(folder / f"{shard[:-12]}.bin", {name: named[name] for name in mine})
    renamed = {name: f"{file[:-12]}.bin" for name, file in weight_map.items()}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": renamed}))
    tensors = by_name(open_huggingface(folder))
    assert all(all_bytes(tensors[ours]) == micro[theirs].data for ours, theirs in PAIRS.items())


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {7: "model"}])
def test_a_pytorch_file_of_something_else(tmp_path: Path, content: Any) -> None:
    folder = write_folder(tmp_path / "m", MICRO, {})
    (folder / "model.safetensors").unlink()
    write_torch_zip(folder / "pytorch_model.bin", content)
    with pytest.raises(ModelFormatError, match=r"a dict of tensors|allowed: a tensor"):
        open_huggingface(folder)


def test_a_pytorch_file_that_asks_for_code(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", MICRO, {})
    (folder / "model.safetensors").unlink()
    write_torch_zip(folder / "pytorch_model.bin", Raw(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R."))
    with pytest.raises(UnsafeModelError, match="system"):
        open_huggingface(folder)


# ---- The output layer ------------------------------------------------------------------------------------------------


def test_a_copy_of_the_embedding_is_left_out(tmp_path: Path, micro: dict[str, Stored]) -> None:
    folder = write_folder(tmp_path / "m", MICRO, {**micro, "proj_out.weight": micro[EMBEDDING]})
    assert open_huggingface(folder).dims == MICRO


def test_another_output_layer_is_refused(tmp_path: Path, micro: dict[str, Stored]) -> None:
    data = bytearray(micro[EMBEDDING].data)
    data[-1] ^= 1
    other = micro[EMBEDDING]._replace(data=bytes(data))
    folder = write_folder(tmp_path / "m", MICRO, {**micro, "proj_out.weight": other})
    with pytest.raises(UnsupportedModelError, match=r"proj_out\.weight differs"):
        open_huggingface(folder)


def test_an_embedding_that_was_only_saved_as_the_output_layer(tmp_path: Path, micro: dict[str, Stored]) -> None:
    rest = {name: tensor for name, tensor in micro.items() if name != EMBEDDING}
    folder = write_folder(tmp_path / "m", MICRO, {**rest, "proj_out.weight": micro[EMBEDDING]})
    source = open_huggingface(folder)
    assert all_bytes(by_name(source)["decoder.token_embedding.weight"]) == micro[EMBEDDING].data
    assert len(source.notes) == 1
    (folder / "config.json").write_text(json.dumps(config_of(MICRO, tie_word_embeddings=False)))
    with pytest.raises(ModelFormatError, match="token_embedding"):
        open_huggingface(folder)


def test_an_output_layer_that_was_not_saved(tmp_path: Path, micro: dict[str, Stored]) -> None:
    folder = write_folder(tmp_path / "m", MICRO, micro, tie_word_embeddings=False)
    with pytest.raises(UnsupportedModelError, match="tie_word_embeddings"):
        open_huggingface(folder)


# ---- Folders that do not open ----------------------------------------------------------------------------------------


def _without(stored: dict[str, Stored], name: str) -> dict[str, Stored]:
    return {other: tensor for other, tensor in stored.items() if other != name}


FC1 = "encoder.layers.0.fc1.weight"
WRONG_TENSORS: dict[str, tuple[Callable[[dict[str, Stored]], dict[str, Stored]], str]] = {
    "missing": (lambda stored: _without(stored, FC1), r"encoder\.blocks\.0\.mlp\.0\.weight is missing"),
    "unknown": (lambda stored: {**stored, "encoder.extra.weight": stored["encoder.layer_norm.weight"]}, "extra"),
    "fused": (lambda stored: {**stored, "encoder.layers.0.self_attn.qkv_proj.weight": stored[FC1]}, "qkv_proj"),
    "our name": (lambda stored: {**stored, "encoder.ln_post.weight": stored["encoder.layer_norm.weight"]}, "ln_post"),
    "a layer too many": (lambda stored: {**stored, "encoder.layers.2.fc1.weight": stored[FC1]}, r"blocks\.2\.mlp"),
    "layer 01": (lambda stored: {**stored, "encoder.layers.01.fc1.weight": stored[FC1]}, r"layers\.01"),
    "key with a bias": (
        lambda stored: {**stored, "encoder.layers.0.self_attn.k_proj.bias": stored["encoder.layer_norm.bias"]},
        r"attn\.key\.bias",
    ),
    "transposed": (lambda stored: {**stored, FC1: stored[FC1]._replace(shape=(64, 256))}, r"\(64, 256\)"),
    "integers": (lambda stored: {**stored, FC1: stored[FC1]._replace(dtype="I16")}, "dtype is i16"),
}


@pytest.mark.parametrize("kind", WRONG_TENSORS)
def test_wrong_tensors_are_named(tmp_path: Path, micro: dict[str, Stored], kind: str) -> None:
    change, message = WRONG_TENSORS[kind]
    with pytest.raises(ModelFormatError, match=message):
        open_huggingface(write_folder(tmp_path / "m", MICRO, change(micro)))


def test_the_same_tensor_with_and_without_prefix(tmp_path: Path, micro: dict[str, Stored]) -> None:
    folder = write_folder(tmp_path / "m", MICRO, micro, prefix="")
    write_weights(folder, {**micro, f"model.{FC1}": micro[FC1]})
    with pytest.raises(ModelFormatError, match="second time"):
        open_huggingface(folder)


def test_a_missing_shard_is_named(tmp_path: Path, micro: dict[str, Stored]) -> None:
    folder = write_folder(tmp_path / "m", MICRO, micro, n_shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"lacks model-00002-of-00003\.safetensors, 1 of the 3 files"):
        open_huggingface(folder)


@pytest.mark.parametrize(
    "name", ["../m.safetensors", "/etc/passwd", "a/b.safetensors", "..safetensors", "a..b.safetensors", "a.pt", 7, ""]
)
def test_shards_lie_in_the_folder(tmp_path: Path, name: object) -> None:
    folder = write_folder(tmp_path / "m", MICRO, {})
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.x": name}}))
    with pytest.raises(ModelFormatError, match=r"weight_map 'model\.x'"):
        open_huggingface(folder)


@pytest.mark.parametrize("weight_map", [None, {}, ["a.safetensors"]])
def test_an_index_without_files(tmp_path: Path, weight_map: object) -> None:
    folder = write_folder(tmp_path / "m", MICRO, {})
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelFormatError, match="weight_map"):
        open_huggingface(folder)


@pytest.mark.parametrize("kind", ["not in its shard", "not in the index", "in another shard"])
def test_index_and_shards_agree(tmp_path: Path, micro: dict[str, Stored], kind: str) -> None:
    folder = write_folder(tmp_path / "m", MICRO, micro, n_shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name, weight_map = f"model.{FC1}", index["weight_map"]
    if kind == "not in its shard":
        weight_map["model.encoder.lost.weight"] = weight_map[name]
        name = "model.encoder.lost.weight"
    elif kind == "not in the index":
        del weight_map[name]
    else:
        weight_map[name] = next(file for file in weight_map.values() if file != weight_map[name])
    path.write_text(json.dumps(index))
    with pytest.raises(ModelFormatError, match=name.replace(".", r"\.")):
        open_huggingface(folder)


WRONG_CONFIGS: dict[str, tuple[dict[str, Any], type[ModelError], str]] = {
    "another model": ({"model_type": "wav2vec2"}, UnsupportedModelError, "'wav2vec2'"),
    "no model_type": ({"model_type": None}, UnsupportedModelError, "model_type"),
    "quantised": ({"quantization_config": {"load_in_8bit": True}}, UnsupportedModelError, "quantization_config"),
    "activation": ({"activation_function": "relu"}, UnsupportedModelError, "'relu'"),
    "scaled": ({"scale_embedding": True}, UnsupportedModelError, "scale_embedding"),
    "narrow": ({"decoder_ffn_dim": 128}, UnsupportedModelError, "decoder_ffn_dim is 128"),
    "vocabulary": ({"vocab_size": 51867}, UnsupportedModelError, "51867"),
    "small vocabulary": ({"vocab_size": 32000}, UnsupportedModelError, "32000"),
    "heads": ({"encoder_attention_heads": 2}, UnsupportedModelError, "2 heads"),
    "huge": ({"encoder_layers": 2**40}, UnsupportedModelError, "n_audio_layer"),
    "missing": ({"num_mel_bins": None}, ModelFormatError, "num_mel_bins is missing"),
    "a text": ({"d_model": "64"}, ModelFormatError, "d_model is '64'"),
    "a bool": ({"decoder_layers": True}, ModelFormatError, "decoder_layers is True"),
    "a float": ({"decoder_layers": 1.0}, ModelFormatError, "decoder_layers"),
}


@pytest.mark.parametrize("kind", WRONG_CONFIGS)
def test_wrong_configs_are_named(tmp_path: Path, kind: str) -> None:
    config, error, message = WRONG_CONFIGS[kind]
    with pytest.raises(error, match=message):
        open_huggingface(write_folder(tmp_path / "m", MICRO, {}, **config))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 1}', "[" * 100_000])
def test_a_config_that_is_no_object(tmp_path: Path, text: str) -> None:
    folder = write_folder(tmp_path / "m", MICRO, {})
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelFormatError, match=r"config\.json"):
        open_huggingface(folder)


def test_missing_files_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", MICRO, {})
    (folder / "model.safetensors").unlink()
    assert is_huggingface(folder)
    with pytest.raises(ModelNotFoundError, match=r"no weights: one of model\.safetensors"):
        open_huggingface(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        open_huggingface(folder)
    assert not is_huggingface(folder) and not is_huggingface(tmp_path / "none")


def test_an_adapter_must_be_merged_first(tmp_path: Path, micro: dict[str, Stored]) -> None:
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(raw_safetensors({}))
    assert is_huggingface(folder)
    with pytest.raises(UnsupportedModelError, match="merge it into its base model first"):
        open_huggingface(folder)
    whole = write_folder(tmp_path / "m", MICRO, micro)
    (whole / "adapter_config.json").write_text("{}")
    assert any("no adapter was applied" in note for note in open_huggingface(whole).notes)


def test_a_folder_of_ctranslate2_is_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert is_huggingface(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"")
    assert not is_huggingface(tmp_path)
    assert not is_huggingface(tmp_path / "config.json")


# ---- Vocabulary and mel filters --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder_with_nothing_else(tmp_path_factory: pytest.TempPathFactory, micro: dict[str, Stored]) -> Path:
    return write_folder(tmp_path_factory.mktemp("folders") / "m", MICRO, micro)


@pytest.fixture
def folder(folder_with_nothing_else: Path, tmp_path: Path) -> Path:
    """The same weights again, with room for other files."""
    mine = tmp_path / "m"
    mine.mkdir()
    for file in folder_with_nothing_else.iterdir():
        os.link(file, mine / file.name)
    return mine


def _ids(n_vocab: int = 51865) -> dict[str, int]:
    n_text = 50256 if n_vocab == 51864 else 50257
    ids = {spelled(token): number for number, token in enumerate(known_vocabulary(n_vocab)[:n_text])}
    return {**ids, "<|endoftext|>": n_text}


SPECIAL = {"<|startoftranscript|>": 50258, "<|en|>": 50259, "<|0.00|>": 50364}


def test_vocab_json(folder: Path) -> None:
    (folder / "vocab.json").write_text(json.dumps(_ids()))
    source = open_huggingface(folder)
    assert source.vocabulary == known_vocabulary(51865)
    assert [file.name for file in source.files] == ["config.json", "model.safetensors", "vocab.json"]
    (folder / "added_tokens.json").write_text(json.dumps(SPECIAL))
    source = open_huggingface(folder)
    assert source.vocabulary == known_vocabulary(51865)
    assert [file.name for file in source.files][-1] == "added_tokens.json"


def test_tokenizer_json(folder: Path) -> None:
    tokenizer = {
        "added_tokens": [{"id": number, "content": token, "special": True} for token, number in SPECIAL.items()],
        "model": {"type": "BPE", "vocab": _ids(), "merges": []},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert open_huggingface(folder).vocabulary == known_vocabulary(51865)
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "vocab": []}}))
    with pytest.raises(ModelFormatError, match="BPE"):
        open_huggingface(folder)


def test_the_empty_token_may_be_left_out(folder: Path) -> None:
    ids = _ids()
    assert ids.pop("") == 50256
    (folder / "vocab.json").write_text(json.dumps(ids))
    assert open_huggingface(folder).vocabulary == known_vocabulary(51865)


def test_the_english_vocabulary(tmp_path: Path) -> None:
    dims = MICRO._replace(n_vocab=51864)
    folder = write_folder(tmp_path / "m", dims, weights(dims, "f16"))
    (folder / "vocab.json").write_text(json.dumps(_ids(51864)))
    assert open_huggingface(folder).vocabulary == known_vocabulary(51864)


WRONG_IDS: dict[str, tuple[dict[str, object], type[ModelError], str]] = {
    "an id twice": ({"abcabc": 17}, ModelFormatError, "17 again"),
    "a gap": ({"Ġthe": 50300}, ModelFormatError, "missing"),
    "one too many": ({"abcabc": 50258}, UnsupportedModelError, r"50258, where .* has <\|startoftranscript\|>"),
    "above n_vocab": ({"abcabc": 51865}, ModelFormatError, "51865"),
    "a negative id": ({"abcabc": -1}, ModelFormatError, "-1"),
    "a text as id": ({"abcabc": "17"}, ModelFormatError, "'17'"),
    "no byte": ({"\u4e2d": 50256}, ModelFormatError, r"\\u4e2d"),
}


@pytest.mark.parametrize("kind", WRONG_IDS)
def test_wrong_vocabularies_are_named(folder: Path, kind: str) -> None:
    change, error, message = WRONG_IDS[kind]
    ids = {**_ids(), **change}
    if kind == "no byte":
        ids.pop("")
    (folder / "vocab.json").write_text(json.dumps(ids))
    with pytest.raises(error, match=message) as caught:
        open_huggingface(folder)
    assert "vocab.json" in str(caught.value)


def test_added_tokens_must_agree(folder: Path) -> None:
    (folder / "vocab.json").write_text(json.dumps(_ids()))
    (folder / "added_tokens.json").write_text(json.dumps({"<|endoftext|>": 50300}))
    with pytest.raises(ModelFormatError, match=r"50257, as in vocab\.json"):
        open_huggingface(folder)


@pytest.mark.parametrize("transposed", [False, True])
def test_mel_filters(folder: Path, transposed: bool) -> None:
    filters = mel_filters(80) * np.float32(1.5)
    values = (filters.T if transposed else filters).tolist()
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": 80, "mel_filters": values}))
    source = open_huggingface(folder)
    assert source.mel_filters is not None and source.mel_filters.dtype == np.float32
    np.testing.assert_array_equal(source.mel_filters, filters)
    assert source.files[-1].name == "preprocessor_config.json"


@pytest.mark.parametrize(
    "values", [[], 7, [[1.0] * 201] * 79, [[1.0] * 201] * 79 + [[1.0]], [["1"] * 201] * 80, [[1e999] * 201] * 80]
)
def test_other_mel_filters_are_noted_and_not_used(folder: Path, values: object) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({"mel_filters": values}))
    source = open_huggingface(folder)
    assert source.mel_filters is None and any("mel_filters" in note for note in source.notes)


def test_no_mel_filters(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": 80}))
    source = open_huggingface(folder)
    assert source.mel_filters is None and source.notes == []


# ---- Writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("type", "n_vocab"), [("f16", 51865), ("f16", 51864), ("f32", 51866)])
def test_there_and_back_is_bit_equal(tmp_path: Path, type: str, n_vocab: int) -> None:
    dims = MICRO._replace(n_vocab=n_vocab, n_mels=128 if n_vocab == 51866 else 80)
    folder = write_folder(tmp_path / "m", dims, weights(dims, type), n_shards=2)
    (folder / "vocab.json").write_text(json.dumps(_ids(n_vocab)))
    filters = mel_filters(dims.n_mels) * np.float32(1.25)
    (folder / "preprocessor_config.json").write_text(json.dumps({"mel_filters": filters.tolist()}))
    source = open_huggingface(folder)
    parts: list[float] = []
    write_huggingface(source, tmp_path / "back", type, parts.append)
    again = open_huggingface(tmp_path / "back")
    assert again.dims == source.dims and again.ftype == type and again.vocabulary == source.vocabulary
    np.testing.assert_array_equal(again.mel_filters, filters)
    assert parts == sorted(parts) and parts[-1] == 1.0
    for one, other in zip(source.tensors, again.tensors):
        assert (one.name, one.shape, one.type) == (other.name, other.shape, other.type)
        assert all_bytes(one) == all_bytes(other), one.name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "m"]
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "vocab.json",
    ]
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    end_of_text = 50256 if n_vocab == 51864 else 50257
    assert config["eos_token_id"] == end_of_text and config["decoder_start_token_id"] == end_of_text + 1
    assert config["tie_word_embeddings"] is True
    assert config["torch_dtype"] == {"f16": "float16", "f32": "float32"}[type]


def test_f32_becomes_the_nearest_f16(tmp_path: Path) -> None:
    stored = weights(MICRO, "f32")
    write_huggingface(open_huggingface(write_folder(tmp_path / "m", MICRO, stored)), tmp_path / "back")
    tensors = by_name(open_huggingface(tmp_path / "back"))
    for ours, theirs in PAIRS.items():
        values = np.frombuffer(stored[theirs].data, "<f4")
        assert all_bytes(tensors[ours]) == values.astype("<f2").tobytes(), ours


def test_a_folder_that_is_empty_is_taken(tmp_path: Path, folder_with_nothing_else: Path) -> None:
    (tmp_path / "back").mkdir()
    write_huggingface(open_huggingface(folder_with_nothing_else), tmp_path / "back")
    assert not (tmp_path / "back" / "vocab.json").exists()
    assert open_huggingface(tmp_path / "back").vocabulary is None


def test_destinations_that_are_refused(
    tmp_path: Path, folder_with_nothing_else: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_huggingface(folder_with_nothing_else)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("full", "file", "link", "none/folder"):
        with pytest.raises(OptionError) as caught:
            write_huggingface(source, tmp_path / name)
        assert caught.value.field == "destination"
    with pytest.raises(OptionError, match="f16"):
        write_huggingface(source, tmp_path / "new", "q5_0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full", "link"]
    assert (tmp_path / "full" / "file").read_text() == "mine"

    def somebody_else(part: float) -> None:
        (tmp_path / "late").mkdir(exist_ok=True)
        (tmp_path / "late" / "file").write_text("theirs")

    with pytest.raises(OptionError, match="meanwhile"):
        write_huggingface(source, tmp_path / "late", "f16", somebody_else)
    assert [path.name for path in (tmp_path / "late").iterdir()] == ["file"]
    assert not list(tmp_path.glob(".whisperq*"))


def test_an_error_leaves_nothing_behind(tmp_path: Path, micro: dict[str, Stored]) -> None:
    data = np.frombuffer(micro[FC1].data, "<f2").copy()
    data[77] = np.nan
    broken = {**micro, FC1: micro[FC1]._replace(data=data.tobytes())}
    source = open_huggingface(write_folder(tmp_path / "m", MICRO, broken))
    with pytest.raises(ModelFormatError, match=r"mlp\.0\.weight value 77 is nan"):
        write_huggingface(source, tmp_path / "back")

    def stop(part: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_huggingface(source, tmp_path / "back", "f16", stop)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_an_error_of_the_disk_names_what_was_asked_for(
    tmp_path: Path, folder_with_nothing_else: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(stream: Any, n_bytes: int, path: Any) -> None:
        raise OSError(errno.ENOSPC, f"{n_bytes} needed", str(path))

    monkeypatch.setattr("whisperq_edge._convert.readers.safetensors.reserve", full)
    with pytest.raises(OSError, match="needed") as caught:
        write_huggingface(open_huggingface(folder_with_nothing_else), tmp_path / "back")
    assert caught.value.filename == str(tmp_path / "back" / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path, folder_with_nothing_else: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    dead, alive = tmp_path / ".whisperq-00.part", tmp_path / ".whisperq-11.part"
    for leftover in (dead, alive):
        leftover.mkdir()
        (leftover / "model.safetensors").write_bytes(b"half")
    descriptor = os.open(alive, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        write_huggingface(open_huggingface(folder_with_nothing_else), tmp_path / "back")
        assert not dead.exists() and (alive / "model.safetensors").exists()
    finally:
        os.close(descriptor)


def test_a_vocabulary_that_lost_bytes_is_left_out(
    tmp_path: Path, folder_with_nothing_else: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = open_huggingface(folder_with_nothing_else)
    source.vocabulary = [token.decode("utf-8", "replace").encode() for token in known_vocabulary(51865)]
    write_huggingface(source, tmp_path / "back")
    assert not (tmp_path / "back" / "vocab.json").exists()
    assert "vocab.json is left out" in caplog.text


# ---- transformers ----------------------------------------------------------------------------------------------------


def _tiny_transformers_model(**changes: Any) -> Any:
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    fields = {**config_of(MICRO), "pad_token_id": 50257, "bos_token_id": 50257, "eos_token_id": 50257, **changes}
    torch.manual_seed(0)
    return transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**fields)).eval()


@pytest.mark.parametrize("max_shard_size", ["1GB", "1MB"])
def test_what_transformers_saved_opens(tmp_path: Path, max_shard_size: str) -> None:
    model = _tiny_transformers_model()
    model.save_pretrained(tmp_path / "m", max_shard_size=max_shard_size)
    source = open_huggingface(tmp_path / "m")
    assert source.dims == MICRO and source.ftype == "f32"
    assert (tmp_path / "m" / "model.safetensors").exists() == (max_shard_size == "1GB")
    state = {name.replace("model.", "", 1): tensor for name, tensor in model.state_dict().items()}
    tensors = by_name(source)
    for ours, theirs in PAIRS.items():
        np.testing.assert_array_equal(floats(tensors[ours]).reshape(-1), state[theirs].numpy().reshape(-1))


def test_transformers_opens_what_we_wrote(tmp_path: Path, micro: dict[str, Stored]) -> None:
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    write_huggingface(open_huggingface(write_folder(tmp_path / "m", MICRO, micro)), tmp_path / "back")
    model, report = transformers.WhisperForConditionalGeneration.from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.vocab_size == 51865 and model.config.decoder_start_token_id == 50258
    state = model.state_dict()
    for name, tensor in micro.items():
        values = state[f"model.{name}"].to(torch.float16).numpy()
        assert values.astype("<f2").tobytes() == tensor.data, name
    assert torch.equal(state["proj_out.weight"], state[f"model.{EMBEDDING}"])


def test_torch_saves_what_we_open(tmp_path: Path, micro: dict[str, Stored]) -> None:
    torch = pytest.importorskip("torch")
    folder = write_folder(tmp_path / "m", MICRO, {})
    (folder / "model.safetensors").unlink()
    state = {
        f"model.{name}": torch.frombuffer(bytearray(tensor.data), dtype=torch.float16).reshape(tensor.shape)
        for name, tensor in micro.items()
    }
    state["proj_out.weight"] = state[f"model.{EMBEDDING}"]
    torch.save(state, folder / "pytorch_model.bin")
    tensors = by_name(open_huggingface(folder))
    assert all(all_bytes(tensors[ours]) == micro[theirs].data for ours, theirs in PAIRS.items())
