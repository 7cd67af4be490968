"""ggml files as a source: every type, the bytes of every row, and what the file carries beside its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from whisperq_edge import ModelError, ModelFormatError, ModelNotFoundError, UnsupportedModelError
from whisperq_edge._convert.readers.ggml import is_ggml, open_ggml
from whisperq_edge._convert.readers.open_source import open_source
from whisperq_edge._core import read_model_file
from whisperq_edge._whisper.mel_filters import mel_filters as whisper_mel_filters
from whisperq_edge._whisper.shapes import expected_shapes
from whisperq_edge._whisper.vocabulary import known_vocabulary

from tests.support.make_model import NANO, PRESETS, TYPES, Dims, mel_filters, real_vocabulary, write_random_model

FLOATS = {"f32": "<f4", "f16": "<f2"}
BLOCK_BYTES = {"f32": 128, "f16": 64, "q8_0": 34, "q5_1": 24, "q5_0": 22, "q4_1": 20, "q4_0": 18}  # of 32 values


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ggml")


def _model(folder: Path, ftype: str, preset: str = "micro") -> Path:
    path = folder / f"{preset}-{ftype}.bin"
    return path if path.exists() else write_random_model(path, preset, ftype)


@pytest.mark.parametrize("ftype", list(TYPES))
def test_every_row_of_every_type(folder: Path, ftype: str) -> None:
    path = _model(folder, ftype)
    data, infos = path.read_bytes(), read_model_file(path).tensors
    source = open_ggml(path)
    assert (source.format, source.path, source.files) == ("ggml", path, [path])
    assert source.ftype == ftype and source.dims == PRESETS["micro"]
    assert [tensor.name for tensor in source.tensors] == [info.name for info in infos]  # the file's order
    for tensor, info in zip(source.tensors, infos):
        assert tensor.shape == expected_shapes(source.dims)[tensor.name]
        assert tensor.type == info.type and tensor.row_scales is None
        assert tensor.where == (str(path), info.offset)
        stored = data[info.offset : info.offset + info.n_bytes]
        assert tensor.read_rows(0, tensor.n_rows) == stored
        row_bytes = len(stored) // tensor.n_rows
        if tensor.row_size % 32 == 0:
            assert row_bytes == tensor.row_size // 32 * BLOCK_BYTES[tensor.type]
        first = tensor.n_rows // 2
        assert tensor.read_rows(first, 1) == stored[first * row_bytes : (first + 1) * row_bytes]


def test_values_and_shapes(folder: Path) -> None:
    tensors = {tensor.name: tensor for tensor in open_ggml(_model(folder, "f16")).tensors}
    assert tensors["encoder.conv1.bias"].shape == (64,) and tensors["encoder.conv1.bias"].n_rows == 1
    conv = tensors["encoder.conv1.weight"]
    assert conv.shape == (64, 80, 3) and conv.n_rows == 64 * 80 and conv.row_size == 3
    values = np.frombuffer(conv.read_rows(0, conv.n_rows), FLOATS[conv.type]).astype(np.float32)
    assert np.isfinite(values).all() and 0.5 < values.std() * np.sqrt(240) < 1.5  # as make_model draws them
    assert tensors["decoder.token_embedding.weight"].shape == (51865, 64)


def test_what_the_file_carries_beside_its_weights(folder: Path) -> None:
    source = open_ggml(_model(folder, "f16"))
    assert source.vocabulary == real_vocabulary(51865)
    assert source.mel_filters is not None and np.array_equal(source.mel_filters, mel_filters(80))
    assert source.notes == []


def test_of_the_bundled_model_everything_is_known() -> None:
    source = open_source(NANO)
    assert source.vocabulary == known_vocabulary(51864)
    assert source.mel_filters is not None and source.mel_filters.tobytes() == whisper_mel_filters(80).tobytes()
    assert [tensor.shape for tensor in source.tensors if tensor.name == "encoder.conv2.bias"] == [(192,)]


def test_128_mels(folder: Path) -> None:
    dims = Dims(128, 20, 64, 1, 1, 8, 64, 1, 1, 51866)
    source = open_source(write_random_model(folder / "mels.bin", dims, "q8_0"))
    assert source.mel_filters is not None and source.mel_filters.shape == (128, 201)
    assert source.dims == dims


@pytest.mark.parametrize(("ftype", "quantised"), [("f32", False), ("f16", False), ("q8_0", True), ("q4_1", True)])
def test_a_quantised_source_is_said_to_be_one(folder: Path, ftype: str, quantised: bool) -> None:
    notes = [note for note in open_ggml(_model(folder, ftype)).notes if "quantised already" in note]
    assert len(notes) == quantised
    assert all(ftype in note and "f16" in note for note in notes)


def test_the_magic(folder: Path, tmp_path: Path) -> None:
    assert is_ggml(_model(folder, "f16"))
    for data in (b"", b"lmg", b"ggml", b"GGUF"):
        (tmp_path / "other.bin").write_bytes(data)
        assert not is_ggml(tmp_path / "other.bin")


# ---- open_source on files --------------------------------------------------------------------------------------------


def test_open_source_keeps_what_the_file_has(folder: Path) -> None:
    path = _model(folder, "q5_0", "micro.en")
    source = open_source(path)
    assert source.vocabulary == real_vocabulary(51864) and source.ftype == "q5_0"
    assert [tensor.name for tensor in source.tensors] == [tensor.name for tensor in open_ggml(path).tensors]


def test_open_source_says_when_the_vocabulary_is_not_whispers(folder: Path) -> None:
    whisper = write_random_model(folder / "own.bin", "micro", vocabulary=known_vocabulary(51865))
    assert not [note for note in open_source(whisper).notes if "ocabulary" in note]
    tokens = known_vocabulary(51865)
    tokens[1000] = b"changed"
    changed = open_source(write_random_model(folder / "changed.bin", "micro", vocabulary=tokens))
    assert changed.vocabulary == tokens
    assert [note for note in changed.notes if "1 of its 50257 text tokens" in note]


def test_open_source_says_when_the_mel_filters_are_not_whispers(folder: Path, tmp_path: Path) -> None:
    data = bytearray(_model(folder, "f16").read_bytes())
    assert not [note for note in open_source(_model(folder, "f16")).notes if "mel filters" in note]
    data[56 : 56 + 4] = np.float32(0.5).tobytes()
    (tmp_path / "mel.bin").write_bytes(data)
    source = open_source(tmp_path / "mel.bin")
    assert source.mel_filters is not None and source.mel_filters[0, 0] == 0.5
    assert [note for note in source.notes if "mel filters" in note]


def test_a_folder_with_one_ggml_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("a model")
    (tmp_path / "ggml-micro.bin").write_bytes(_model(folder, "f16").read_bytes())
    assert open_source(tmp_path).path == tmp_path / "ggml-micro.bin"
    (tmp_path / "ggml-other.bin").write_bytes(b"lmgg")
    with pytest.raises(UnsupportedModelError, match=r"ggml-micro\.bin, ggml-other\.bin"):
        open_source(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="absent"):
        open_source(tmp_path / "absent")
    with pytest.raises(ModelNotFoundError, match="empty"):
        open_source(tmp_path)
    (tmp_path / "README.md").write_text("no model")
    with pytest.raises(ModelNotFoundError, match=r"README\.md"):
        open_source(tmp_path)


OTHERS = {
    "GGUF": b"GGUF\x03\0\0\0",
    "gzip": b"\x1f\x8b\x08\0",
    "ONNX": b"\x08\x08\x12\x07pytorch",
    "TensorFlow Lite": b"\x1c\0\0\0TFL3\x14\0",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "web page": b"<!DOCTYPE html><html>",
    "WAV": b"RIFF\0\0\0\0WAVEfmt ",
    "safetensors": b"\x40\0\0\0\0\0\0\0" + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "CTranslate2": b"\x06\0\0\0\x0c\0WhisperSpec\0\x03\0\0\0",
    "empty": b"",
    "no model": b"something else",
}


@pytest.mark.parametrize("what", list(OTHERS))
def test_other_files_are_called_by_their_name(what: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OTHERS[what])
    with pytest.raises(UnsupportedModelError, match=what) as caught:
        open_source(path)
    assert str(path) in str(caught.value)
    if what in ("safetensors", "CTranslate2"):
        assert "folder" in str(caught.value)


def test_a_folder_of_another_format_says_which(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(OTHERS["ONNX"])
    with pytest.raises(ModelError, match=r"model\.onnx.*ONNX"):
        open_source(tmp_path)


@pytest.mark.parametrize("at", [0, 4, 12, 48, 56, 3000, 64500, 300000, 700000, -1000, -1])
def test_a_cut_file_is_an_error(folder: Path, tmp_path: Path, at: int) -> None:
    path = tmp_path / "cut.bin"
    path.write_bytes(_model(folder, "q8_0").read_bytes()[:at])
    with pytest.raises(ModelError):
        open_source(path)


def test_a_file_that_shrinks_after_it_was_opened(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "shrinks.bin"
    path.write_bytes(_model(folder, "f16").read_bytes())
    last = open_ggml(path).tensors[-1]
    with open(path, "r+b") as file:
        file.truncate(last.where[1] + 1)
    with pytest.raises(ModelFormatError, match="weights"):
        last.read_rows(0, 1)
