"""The model file reader: what it accepts and reports, and the error of each field."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
import pytest
from whisperq_edge._core import ModelFile, TensorInfo, read_model_file
from whisperq_edge._errors import ModelFormatError, ModelNotFoundError

from tests.support import make_model
from tests.support.make_model import PRESETS, Dims, write_random_model
from tests.support.model_layout import N_FFT_AT, N_MEL_AT, hparam_at, put_i32, tensor_fields, token_offsets


def _small(n_state: int, n_audio_layer: int, n_text_layer: int, n_vocab: int, n_mels: int = 80) -> Dims:
    n_head = n_state // 64
    return Dims(n_mels, 1500, n_state, n_head, n_audio_layer, 448, n_state, n_head, n_text_layer, n_vocab)


SHAPES = {
    "tiny.en": PRESETS["tiny.en"],
    "multilingual": _small(128, 2, 2, 51865),
    "like large-v3": _small(128, 3, 3, 51866, n_mels=128),
    "like turbo": _small(128, 4, 1, 51866, n_mels=128),
    "like distil": _small(128, 6, 2, 51864),
    "like nano": _small(192, 4, 3, 51864),
    "short contexts": PRESETS["micro.en"]._replace(n_audio_ctx=100, n_text_ctx=32),
}

# ggml's k-quants and iq4_nl, which make_model has no quantizer for: id, ftype, values and bytes of a block.
MORE_TYPES = {
    "q2_k": (10, 10, 256, 84),
    "q3_k": (11, 11, 256, 110),
    "q4_k": (12, 12, 256, 144),
    "q5_k": (13, 13, 256, 176),
    "q6_k": (14, 14, 256, 210),
    "iq4_nl": (20, 19, 32, 18),
}


def _zeros(block_size: int, block_bytes: int) -> Callable[[make_model.Float32], bytes]:
    return lambda values: bytes(values.size // block_size * block_bytes)


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("model") / "micro.bin", "micro.en", "q5_0")


@pytest.fixture(scope="module")
def micro_bytes(micro: Path) -> bytes:
    return micro.read_bytes()


@pytest.fixture(scope="module")
def micro_file(micro: Path) -> ModelFile:
    return read_model_file(micro)


# ---- What is accepted ------------------------------------------------------------------------------------------------


def _expect_whole(model: ModelFile, path: Path, dims: Dims) -> None:
    """Names, shapes, ranges and totals against what was written."""
    shapes = {name: tuple(reversed(shape)) for name, shape in make_model.tensor_shapes(dims)}
    assert model.path == str(path)
    assert model.file_bytes == path.stat().st_size
    assert list(model.hparams.items()) == list(dims._asdict().items())
    assert {tensor.name: tensor.dims for tensor in model.tensors} == shapes
    assert sum(tensor.n_values for tensor in model.tensors) == sum(int(np.prod(s)) for s in shapes.values())
    previous = token_offsets(model)[-1] + 4 + len(model.vocabulary[-1])
    for tensor in model.tensors:
        assert tensor_fields(tensor).n_dims == previous
        previous = tensor_fields(tensor).end
    assert previous == model.file_bytes


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape(shape: str, tmp_path: Path) -> None:
    dims = SHAPES[shape]
    path = write_random_model(tmp_path / "model.bin", dims, "q8_0")
    model = read_model_file(path)
    _expect_whole(model, path, dims)
    assert model.is_multilingual == (dims.n_vocab > 51864)
    assert model.n_languages == (100 if dims.n_vocab == 51866 else 99)


@pytest.mark.parametrize("ftype", make_model.TYPES)
def test_every_type(ftype: str, tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "model.bin", "micro.en", ftype)
    model = read_model_file(path)
    _expect_whole(model, path, PRESETS["micro.en"])
    types = {tensor.name: tensor.type for tensor in model.tensors}
    assert model.ftype == ftype
    assert model.quantization_version == (2 if ftype.startswith("q") else 0)
    assert types["decoder.token_embedding.weight"] == types["encoder.blocks.0.mlp.0.weight"] == ftype
    assert types["encoder.conv1.weight"] == ("f32" if ftype == "f32" else "f16")
    assert types["encoder.conv1.bias"] == types["decoder.positional_embedding"] == "f32"


@pytest.mark.parametrize("name", MORE_TYPES)
def test_types_without_a_quantizer(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ggml_id, ftype, block_size, block_bytes = MORE_TYPES[name]
    stored = make_model.StoredType(ggml_id, ftype, _zeros(block_size, block_bytes))
    monkeypatch.setitem(make_model.TYPES, name, stored)
    dims = _small(256, 1, 1, 51864)
    model = read_model_file(write_random_model(tmp_path / "model.bin", dims, name))
    embedding = next(t for t in model.tensors if t.name == "decoder.token_embedding.weight")
    assert model.ftype == embedding.type == name
    assert embedding.n_bytes == 256 * 51864 // block_size * block_bytes


def test_blocks_must_fit_into_rows(micro_bytes: bytes, tmp_path: Path) -> None:
    error = _error_of(put_i32(micro_bytes, hparam_at("ftype"), 2012), tmp_path)
    assert (error.field, error.value, error.offset) == ("ftype", "q4_k", hparam_at("ftype"))


@pytest.mark.parametrize("n_tokens", [50256, 50257, 50258, 51864])
def test_converters_differ_in_special_tokens(n_tokens: int, tmp_path: Path) -> None:
    tokens = [b"%d" % token for token in range(n_tokens)]
    path = write_random_model(tmp_path / "model.bin", "micro.en", "q4_0", vocabulary=tokens)
    assert read_model_file(path).vocabulary == tokens


def test_tokens_are_bytes(tmp_path: Path) -> None:
    tokens = [b"\xff\x00\xe2\x82", b"", b"x" * 256] + [b"y"] * 50254
    model = read_model_file(write_random_model(tmp_path / "model.bin", "micro.en", "q4_0", vocabulary=tokens))
    assert model.n_tokens == len(tokens)
    assert model.vocabulary == tokens


def test_shapes_may_be_padded_with_ones(micro_bytes: bytes, micro_file: ModelFile, tmp_path: Path) -> None:
    tensor = next(t for t in micro_file.tensors if t.name == "encoder.ln_post.weight")
    at = tensor_fields(tensor)
    padded = put_i32(micro_bytes, at.n_dims, 3)
    padded = padded[: at.name] + struct.pack("<2i", 1, 1) + padded[at.name :]
    path = tmp_path / "padded.bin"
    path.write_bytes(padded)
    found = next(t for t in read_model_file(path).tensors if t.name == tensor.name)
    assert found.dims == tensor.dims
    assert found.offset == tensor.offset + 8


def test_any_order_of_tensors(micro_bytes: bytes, micro_file: ModelFile, tmp_path: Path) -> None:
    parts = [micro_bytes[tensor_fields(t).n_dims : tensor_fields(t).end] for t in micro_file.tensors]
    start = tensor_fields(micro_file.tensors[0]).n_dims
    path = tmp_path / "reversed.bin"
    path.write_bytes(micro_bytes[:start] + b"".join(reversed(parts)))
    assert [t.name for t in read_model_file(path).tensors] == [t.name for t in reversed(micro_file.tensors)]


def test_the_data_is_where_it_says(micro_bytes: bytes, micro_file: ModelFile) -> None:
    tensor = next(t for t in micro_file.tensors if t.name == "encoder.positional_embedding")
    values = np.frombuffer(micro_bytes, "<f4", tensor.n_values, tensor.offset).reshape(tensor.dims[::-1])
    np.testing.assert_array_equal(values[0], [0.0] * 32 + [1.0] * 32)  # sines, then cosines, of zero


def test_mel_filters_are_whispers_own() -> None:
    vendored = make_model.UPSTREAM_MODELS / "for-tests-ggml-base.en.bin"
    if not vendored.exists():
        pytest.skip("upstream is not unpacked")
    theirs = np.frombuffer(vendored.read_bytes(), "<f4", 80 * 201, N_FFT_AT + 4).reshape(80, 201)
    np.testing.assert_allclose(make_model.mel_filters(80), theirs, rtol=0, atol=1e-8)


# ---- What is refused -------------------------------------------------------------------------------------------------


def _error_of(data: bytes, directory: Path) -> ModelFormatError:
    path = directory / "changed.bin"
    path.write_bytes(data)
    with pytest.raises(ModelFormatError) as caught:
        read_model_file(path)
    assert caught.value.path == str(path)
    assert str(caught.value.offset) in str(caught.value)
    return caught.value


class Wrong(NamedTuple):
    field: str
    at: int
    number: int
    allowed: str


WRONG_NUMBERS = [
    Wrong("n_vocab", hparam_at("n_vocab"), 51863, "51864, 51865, 51866"),
    Wrong("n_audio_ctx", hparam_at("n_audio_ctx"), 1501, "1 to 1500"),
    Wrong("n_audio_state", hparam_at("n_audio_state"), 96, "multiples of 64"),
    Wrong("n_audio_state", hparam_at("n_audio_state"), -64, "multiples of 64"),
    Wrong("n_audio_head", hparam_at("n_audio_head"), 2, "1"),
    Wrong("n_audio_head", hparam_at("n_audio_head"), 0, "1"),
    Wrong("n_audio_layer", hparam_at("n_audio_layer"), 0, "1 to 64"),
    Wrong("n_text_ctx", hparam_at("n_text_ctx"), 1 << 30, "1 to 4096"),
    Wrong("n_text_state", hparam_at("n_text_state"), 128, "64"),
    Wrong("n_text_head", hparam_at("n_text_head"), 4, "1"),
    Wrong("n_text_layer", hparam_at("n_text_layer"), 65, "1 to 64"),
    Wrong("n_mels", hparam_at("n_mels"), 81, "80, 128"),
    Wrong("ftype", hparam_at("ftype"), 2006, "q5_0 (8)"),
    Wrong("ftype", hparam_at("ftype"), 1008, "2000 added"),
    Wrong("ftype", hparam_at("ftype"), 8, "2000 added"),
    Wrong("mel filters n_mel", N_MEL_AT, 128, "80"),
    Wrong("mel filters n_fft", N_FFT_AT, 200, "201"),
]


@pytest.mark.parametrize("wrong", WRONG_NUMBERS, ids=lambda wrong: f"{wrong.field}={wrong.number}")
def test_numbers_of_the_header(wrong: Wrong, micro_bytes: bytes, tmp_path: Path) -> None:
    error = _error_of(put_i32(micro_bytes, wrong.at, wrong.number), tmp_path)
    assert (error.field, error.offset, error.value) == (wrong.field, wrong.at, str(wrong.number))
    assert wrong.allowed in error.allowed


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -0.5, 1.5])
def test_mel_filter_values(weight: float, micro_bytes: bytes, tmp_path: Path) -> None:
    at = N_FFT_AT + 4 + 4 * 1000
    error = _error_of(micro_bytes[:at] + struct.pack("<f", weight) + micro_bytes[at + 4 :], tmp_path)
    assert (error.field, error.offset) == ("mel filters value 1000", at)


@pytest.mark.parametrize("n_tokens", [50255, 51865, -1, 2**31 - 1])
def test_vocabulary_size(n_tokens: int, micro_bytes: bytes, micro_file: ModelFile, tmp_path: Path) -> None:
    error = _error_of(put_i32(micro_bytes, micro_file.vocabulary_offset, n_tokens), tmp_path)
    assert (error.field, error.value, error.allowed) == ("vocabulary size", str(n_tokens), "50256 to 51864")


@pytest.mark.parametrize("length", [257, -1, 2**31 - 1])
def test_token_length(length: int, micro_bytes: bytes, micro_file: ModelFile, tmp_path: Path) -> None:
    at = token_offsets(micro_file)[1234]
    error = _error_of(put_i32(micro_bytes, at, length), tmp_path)
    assert (error.field, error.offset, error.value) == ("token 1234 length", at, str(length))


def _tensor(model: ModelFile, name: str) -> tuple[int, TensorInfo]:
    position = [tensor.name for tensor in model.tensors].index(name)
    return position, model.tensors[position]


KEY = "encoder.blocks.0.attn.key.weight"


@pytest.mark.parametrize(
    ("field", "number", "name", "allowed"),
    [
        ("n_dims", 0, "tensor {} n_dims", "1 to 4"),
        ("n_dims", 5, "tensor {} n_dims", "1 to 4"),
        ("name_length", 0, "tensor {} name length", "1 to 128"),
        ("name_length", 2**31 - 1, "tensor {} name length", "1 to 128"),
        ("type", 0, KEY + " type", "q5_0 (6)"),
        ("type", 2, KEY + " type", "q5_0 (6)"),
        ("type", 99, KEY + " type", "q5_0 (6)"),
        ("dims", 128, KEY + " dims", "[64, 64]"),
        ("dims", -64, KEY + " dims", "[64, 64]"),
    ],
)
def test_numbers_of_a_tensor(
    field: str, number: int, name: str, allowed: str, micro_bytes: bytes, micro_file: ModelFile, tmp_path: Path
) -> None:
    position, tensor = _tensor(micro_file, KEY)
    at = getattr(tensor_fields(tensor), field)
    error = _error_of(put_i32(micro_bytes, at, number), tmp_path)
    assert (error.field, error.offset) == (name.format(position), at)
    assert str(number) in error.value
    assert allowed in error.allowed


def test_unknown_tensor(micro_bytes: bytes, micro_file: ModelFile, tmp_path: Path) -> None:
    position, tensor = _tensor(micro_file, KEY)
    at = tensor_fields(tensor).name
    error = _error_of(micro_bytes[:at] + b'\xff\n"' + micro_bytes[at + 3 :], tmp_path)
    assert (error.field, error.offset) == (f"tensor {position} name", at)
    assert error.value == '"\\xff\\x0a\\x22' + KEY[3:] + '"'


def test_second_tensor_of_a_name(micro_bytes: bytes, micro_file: ModelFile, tmp_path: Path) -> None:
    at = tensor_fields(_tensor(micro_file, KEY)[1])
    error = _error_of(micro_bytes[: at.end] + micro_bytes[at.n_dims :], tmp_path)
    assert error.value == f'"{KEY}" for the second time'


def test_missing_tensor(micro_bytes: bytes, micro_file: ModelFile, tmp_path: Path) -> None:
    at = tensor_fields(_tensor(micro_file, KEY)[1])
    error = _error_of(micro_bytes[: at.n_dims] + micro_bytes[at.end :], tmp_path)
    assert (error.field, error.value) == (KEY, "missing")
    assert error.allowed == "all 50 tensors (49 are there)"


def test_data_past_the_end(micro_bytes: bytes, micro_file: ModelFile, tmp_path: Path) -> None:
    last = micro_file.tensors[-1]
    error = _error_of(micro_bytes[:-1], tmp_path)
    assert (error.field, error.offset) == (last.name + " data", last.offset)
    assert error.allowed == f"{last.n_bytes} bytes"


def test_bytes_after_the_end(micro_bytes: bytes, tmp_path: Path) -> None:
    error = _error_of(micro_bytes + b"\0" * 5, tmp_path)
    assert (error.field, error.value, error.offset) == ("end of the file", "5 bytes away", len(micro_bytes))


def test_upstreams_files_without_tensors() -> None:
    vendored = make_model.UPSTREAM_MODELS / "for-tests-ggml-base.en.bin"
    if not vendored.exists():
        pytest.skip("upstream is not unpacked")
    with pytest.raises(ModelFormatError, match="missing") as caught:
        read_model_file(vendored)
    assert caught.value.offset == vendored.stat().st_size


LOOKALIKES: list[tuple[bytes, str]] = [
    (b"", "empty"),
    (b"GGUF\x03\0\0\0", "GGUF"),
    (b"PK\x03\x04abcd", "zip archive"),
    (b"\x80\x02\x8a\x0al\xfc", "pickle"),
    (struct.pack("<Q", 100) + b'{"__metadata__":{}}', "safetensors"),
    (b"version https://git-lfs.github.com/spec/v1\n", "LFS pointer"),
    (b"<!DOCTYPE html><html>", "web page"),
    (b"ggml\0\0", "big-endian"),
    (b"lm", '"lm"'),
    (b"\0\xff", '"\\x00\\xff"'),
]


@pytest.mark.parametrize(("start", "what"), LOOKALIKES, ids=[what for _, what in LOOKALIKES])
def test_files_that_are_something_else(start: bytes, what: str, tmp_path: Path) -> None:
    error = _error_of(start, tmp_path)
    assert (error.field, error.offset) == ("magic", 0)
    assert what in error.value


# ---- What cannot be opened -------------------------------------------------------------------------------------------


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file"):
        read_model_file(tmp_path / "none.bin")


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="a directory"):
        read_model_file(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFormatError, match="a named pipe"):
        read_model_file(tmp_path / "pipe")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(micro_bytes: bytes, tmp_path: Path) -> None:
    path = tmp_path / "locked.bin"
    path.write_bytes(micro_bytes)
    path.chmod(0)
    with pytest.raises(ModelNotFoundError, match="permissions"):
        read_model_file(path)


def test_a_path_outside_ascii(micro_bytes: bytes, tmp_path: Path) -> None:
    path = tmp_path / "modèle 模型.bin"
    path.write_bytes(micro_bytes)
    assert read_model_file(str(path)).path == str(path)
    path.write_bytes(micro_bytes[:100])
    with pytest.raises(ModelFormatError) as caught:
        read_model_file(path)
    assert caught.value.path == str(path)
