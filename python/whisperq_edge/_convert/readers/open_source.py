"""Which reader a path is for, decided by what is in it, and what a source lacks put in: vocabulary and mel filters."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from ..._errors import ModelNotFoundError, UnsupportedModelError
from ..._whisper.mel_filters import mel_filters
from ..._whisper.units import N_FFT_BINS
from ..._whisper.vocabulary import (
    LEAST_TOKENS,
    LONGEST_TOKEN_BYTES,
    check_vocabulary,
    describe_difference,
    known_vocabulary,
    vocabulary_name,
)
from .ctranslate2 import MODEL_FILE, is_ctranslate2, open_ctranslate2
from .ggml import is_ggml, open_ggml
from .huggingface import is_huggingface, open_huggingface
from .openai import is_torch_file, open_openai
from .source import Source

__all__ = ["ACCEPTED", "open_source"]

ACCEPTED = (
    "an OpenAI .pt, a ggml .bin, a Hugging Face folder (config.json and model.safetensors or pytorch_model.bin) or a"
    " CTranslate2 folder (model.bin, config.json and vocabulary.json)"
)

_MOST_NAMES = 12


def open_source(path: Path) -> Source:
    """A model of any format that we read, with a vocabulary and mel filters that our ggml writer can take.

    Args:
        path: a file, or a folder with one model in it.

    Raises:
        ModelNotFoundError: nothing is there, or a folder without a model.
        UnsupportedModelError: a format that we do not read, several models, or a model that is no Whisper of ours.
        ModelFormatError: a damaged file.
        UnsafeModelError: a pickle that asks for more than tensors.
    """
    if not path.exists():
        raise ModelNotFoundError(f"there is no file or folder {path}: give {ACCEPTED}")
    source = _open_folder(path) if path.is_dir() else _open_file(path)
    _complete_vocabulary(source)
    _complete_mel_filters(source)
    return source


# ---- What it is ------------------------------------------------------------------------------------------------------


class _Lookalike(NamedTuple):
    offset: int
    start: bytes
    what: str
    advice: str


_ORIGINAL = "take the model that it was made from"
_FETCH = "download the file itself"
_LOOKALIKES = (
    _Lookalike(0, b"GGUF", "GGUF, the format of llama.cpp", _ORIGINAL),
    _Lookalike(0, b"\x1f\x8b", "a gzip archive", "unpack it"),
    _Lookalike(0, b"BZh", "a bzip2 archive", "unpack it"),
    _Lookalike(0, b"\xfd7zXZ\0", "an xz archive", "unpack it"),
    _Lookalike(0, b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it"),
    _Lookalike(257, b"ustar", "a tar archive", "unpack it"),
    _Lookalike(4, b"TFL3", "a TensorFlow Lite model", _ORIGINAL),
    _Lookalike(0, b"\x89HDF", "an HDF5 file (TensorFlow weights?)", _ORIGINAL),
    _Lookalike(0, b"\x08\x07\x12", "an ONNX model", _ORIGINAL),
    _Lookalike(0, b"\x08\x08\x12", "an ONNX model", _ORIGINAL),
    _Lookalike(0, b"\x08\x09\x12", "an ONNX model", _ORIGINAL),
    _Lookalike(0, b"\x08\x0a\x12", "an ONNX model", _ORIGINAL),
    _Lookalike(0, b"version https://", "a Git LFS pointer instead of the file itself", "run git lfs pull"),
    _Lookalike(0, b"<!", "a web page", _FETCH),
    _Lookalike(0, b"<html", "a web page", _FETCH),
    _Lookalike(0, b"RIFF", "a RIFF file (WAV audio?)", "give the model, not the audio"),
    _Lookalike(8, b"{", "a safetensors file", "give its folder, which has the config.json that says what it is"),
    _Lookalike(6, b"WhisperSpec\0", "CTranslate2's model.bin", "give its folder"),
    _Lookalike(0, b"ggml", "a ggml file with big-endian numbers", _ORIGINAL),
)


def _start_of(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(512)


def _recognise(path: Path) -> Optional[_Lookalike]:
    """What a file is that no reader of single files takes."""
    start = _start_of(path)
    if not start:
        return _Lookalike(0, b"", "empty", _FETCH)
    if path.suffix == ".onnx":
        return _Lookalike(0, b"", "an ONNX model", _ORIGINAL)
    for known in _LOOKALIKES:
        if start.startswith(known.start, known.offset):
            return known
    return None


# ---- Files and folders -----------------------------------------------------------------------------------------------


def _open_file(path: Path) -> Source:
    if not path.is_file():  # to open a pipe would wait for ever
        raise UnsupportedModelError(f"{path} is neither a file nor a folder: give {ACCEPTED}")
    if is_ggml(path):
        return open_ggml(path)
    if is_torch_file(path):
        return open_openai(path)
    known = _recognise(path)
    if known is not None:
        raise UnsupportedModelError(f"{path} is {known.what}: {known.advice}. Accepted: {ACCEPTED}")
    raise UnsupportedModelError(
        f"{path} is no model that we know (it begins with {ascii(_start_of(path)[:8])[1:]}): give {ACCEPTED}"
    )


def _open_folder(folder: Path) -> Source:
    if is_ctranslate2(folder):
        _refuse_lookalike(folder / MODEL_FILE)
        return open_ctranslate2(folder)
    if is_huggingface(folder):
        return open_huggingface(folder)
    files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    models = [file for file in files if file.suffix in (".pt", ".pth", ".bin") and _is_single_model(file)]
    if len(models) == 1:
        return _open_file(models[0])
    if models:
        raise UnsupportedModelError(f"{folder} has several models: {_names(models)}. Give one of them")
    for file in files:
        known = _recognise(file) if file.suffix not in (".json", ".txt", ".md") else None
        if known is not None:
            raise UnsupportedModelError(f"{file} is {known.what}: {known.advice}. Accepted: {ACCEPTED}")
    found = f"what is there: {_names(sorted(folder.iterdir()))}" if any(folder.iterdir()) else "it is empty"
    raise ModelNotFoundError(f"there is no model in the folder {folder} ({found}): give {ACCEPTED}")


def _is_single_model(path: Path) -> bool:
    return is_ggml(path) or is_torch_file(path)


def _refuse_lookalike(path: Path) -> None:
    """Says what is at ``path`` instead of CTranslate2's file, where that can be told."""
    known = _recognise(path)
    if known is not None and known.start != b"WhisperSpec\0":
        raise UnsupportedModelError(f"{path} is {known.what}: {known.advice}. Accepted: {ACCEPTED}")


def _names(paths: list[Path]) -> str:
    shown = ", ".join(path.name for path in paths[:_MOST_NAMES])
    return shown if len(paths) <= _MOST_NAMES else f"{shown} and {len(paths) - _MOST_NAMES} more"


# ---- What it lacks ---------------------------------------------------------------------------------------------------

# The file that has the vocabulary, by format.
_VOCABULARY_FILES = {
    "huggingface": "vocab.json or tokenizer.json",
    "ctranslate2": "vocabulary.json or vocabulary.txt",
}
# Filters that other code computed or printed differ from Whisper's by the rounding; the largest weight is 0.026.
_ROUNDING = 1e-6


def _complete_vocabulary(source: Source) -> None:
    n_vocab = source.dims.n_vocab
    if source.vocabulary is None:
        source.vocabulary = known_vocabulary(n_vocab)
        if source.format != "openai":  # whose checkpoints never have one
            source.notes.append(
                f"The source has no vocabulary: Whisper's own {vocabulary_name(n_vocab)} one was taken."
            )
        return
    _check_sizes(source, source.vocabulary)
    if check_vocabulary(source.vocabulary, n_vocab) is None:
        difference = describe_difference(source.vocabulary, n_vocab)
        source.notes.append(f"The source's own vocabulary was kept; it is not Whisper's: {difference}.")
    elif source.format != "ggml":
        # The same bytes whatever the format was. A ggml file keeps what it has, as in whisper.cpp's quantize tool.
        source.vocabulary = known_vocabulary(n_vocab)


def _check_sizes(source: Source, vocabulary: list[bytes]) -> None:
    """What the ggml format asks of a vocabulary."""
    n_vocab, n_tokens = source.dims.n_vocab, len(vocabulary)
    longest = max(map(len, vocabulary), default=0)
    if not LEAST_TOKENS <= n_tokens <= n_vocab:
        wrong = f"{n_tokens} tokens; a model of {n_vocab} has {LEAST_TOKENS} to {n_vocab}"
    elif longest > LONGEST_TOKEN_BYTES:
        wrong = f"a token of {longest} bytes; at most {LONGEST_TOKEN_BYTES} can be written"
    else:
        return
    file = _VOCABULARY_FILES.get(source.format, "vocabulary")
    raise UnsupportedModelError(
        f"{source.path}: its vocabulary has {wrong}. Put the {file} of this model there, or remove the file to take"
        " Whisper's own"
    )


def _complete_mel_filters(source: Source) -> None:
    own = mel_filters(source.dims.n_mels)
    if source.mel_filters is None:
        source.mel_filters = own
        return
    filters = source.mel_filters
    if filters.shape != own.shape or not bool(np.all((filters >= 0) & (filters <= 1))):  # false for NaN
        raise UnsupportedModelError(
            f"{source.path}: its mel filters are {list(filters.shape)}, or not all of them from 0 to 1; allowed:"
            f" [{len(own)}, {N_FFT_BINS}] of such numbers. Remove preprocessor_config.json to take Whisper's own"
        )
    difference = float(np.abs(filters.astype(np.float64) - own).max())
    if difference > _ROUNDING:
        source.notes.append(
            f"The source's own mel filters were kept; they differ from Whisper's by up to {difference:.3g}."
        )
    elif source.format != "ggml":
        source.mel_filters = own
