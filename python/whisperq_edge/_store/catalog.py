"""The published models by name: their dimensions and sizes, and where they come from."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

from .._errors import ModelNotFoundError
from .._system.native import data_file
from .._whisper.dims import (
    ENGLISH_VOCAB,
    MULTILINGUAL_VOCAB,
    N_TEXT_CTX,
    WITH_CANTONESE_VOCAB,
    Dims,
    is_multilingual,
    n_language_tokens,
)
from .._whisper.shapes import expected_shapes
from .._whisper.units import TOKENS_PER_WINDOW
from . import converter

__all__ = [
    "ALIASES",
    "BUNDLED_MODELS",
    "MODELS",
    "CatalogModel",
    "file_bytes",
    "find_model",
    "hub_id",
    "memory_bytes",
    "resolve_model",
    "shape_of",
]


@dataclass(frozen=True)
class CatalogModel:
    """A model that people know by name.

    Attributes:
        name: the one under which it is listed and cached.
        dims: openai/whisper's dimensions.
        hub_id: of its weights on the Hugging Face hub; None for a model of ours.
    """

    name: str
    dims: Dims
    hub_id: Optional[str] = None

    @property
    def is_multilingual(self) -> bool:
        return is_multilingual(self.dims.n_vocab)

    @property
    def n_languages(self) -> int:
        """Languages that it was trained on."""
        return n_language_tokens(self.dims.n_vocab) if self.is_multilingual else 1

    @property
    def n_parameters(self) -> int:
        """Weights in the file. The encoder's positions are among them, which some count as constants."""
        return sum(math.prod(shape) for shape in expected_shapes(self.dims).values())

    def file_bytes(self, type: str) -> int:
        """Exact size of its ggml file, see :func:`file_bytes`."""
        return file_bytes(self.dims, type)

    def memory_bytes(self, type: str) -> int:
        """Estimated size when loaded, see :func:`memory_bytes`."""
        return memory_bytes(self.dims, type)


_ENGLISH, _MULTILINGUAL, _WITH_CANTONESE = ENGLISH_VOCAB, MULTILINGUAL_VOCAB, WITH_CANTONESE_VOCAB


def _published(
    name: str, repository: str, n_state: int, n_audio_layer: int, n_text_layer: int, n_vocab: int, n_mels: int = 80
) -> CatalogModel:
    """What all published models share: heads of 64 values, 1500 audio positions (30 s) and 448 text positions."""
    n_head = n_state // 64
    dims = Dims(
        *(n_mels, TOKENS_PER_WINDOW, n_state, n_head, n_audio_layer),
        *(N_TEXT_CTX, n_state, n_head, n_text_layer, n_vocab),
    )
    return CatalogModel(name, dims, repository or None)


MODELS: dict[str, CatalogModel] = {
    model.name: model
    for model in (
        _published("nano.en", "", 192, 4, 3, _ENGLISH),
        _published("tiny.en", "openai/whisper-tiny.en", 384, 4, 4, _ENGLISH),
        _published("tiny", "openai/whisper-tiny", 384, 4, 4, _MULTILINGUAL),
        _published("base.en", "openai/whisper-base.en", 512, 6, 6, _ENGLISH),
        _published("base", "openai/whisper-base", 512, 6, 6, _MULTILINGUAL),
        _published("small.en", "openai/whisper-small.en", 768, 12, 12, _ENGLISH),
        _published("small", "openai/whisper-small", 768, 12, 12, _MULTILINGUAL),
        _published("medium.en", "openai/whisper-medium.en", 1024, 24, 24, _ENGLISH),
        _published("medium", "openai/whisper-medium", 1024, 24, 24, _MULTILINGUAL),
        _published("large-v1", "openai/whisper-large", 1280, 32, 32, _MULTILINGUAL),
        _published("large-v2", "openai/whisper-large-v2", 1280, 32, 32, _MULTILINGUAL),
        _published("large-v3", "openai/whisper-large-v3", 1280, 32, 32, _WITH_CANTONESE, n_mels=128),
        _published("large-v3-turbo", "openai/whisper-large-v3-turbo", 1280, 32, 4, _WITH_CANTONESE, n_mels=128),
        _published("distil-small.en", "distil-whisper/distil-small.en", 768, 12, 4, _ENGLISH),
        _published("distil-medium.en", "distil-whisper/distil-medium.en", 1024, 24, 2, _ENGLISH),
        _published("distil-large-v2", "distil-whisper/distil-large-v2", 1280, 32, 2, _MULTILINGUAL),
        _published("distil-large-v3", "distil-whisper/distil-large-v3", 1280, 32, 2, _WITH_CANTONESE, n_mels=128),
        _published("distil-large-v3.5", "distil-whisper/distil-large-v3.5", 1280, 32, 2, _WITH_CANTONESE, n_mels=128),
    )
}
"""Every model, the smallest first within each family."""

ALIASES = {"nano": "nano.en", "large": "large-v3", "turbo": "large-v3-turbo"}
"""Other names of the same models."""

BUNDLED_MODELS = {"nano": "assets/ggml-nano.en.bin", "nano.en": "assets/ggml-nano.en.bin"}
"""Models inside the wheel: English digits, letters and a few hundred words; made for tests and first steps."""


# ---- Names -----------------------------------------------------------------------------------------------------------


def find_model(name: str) -> Optional[CatalogModel]:
    """The model of a name, an alias or a hub id; None: no model that we know."""
    known = MODELS.get(ALIASES.get(name, name))
    return known or next((model for model in MODELS.values() if model.hub_id == name), None)


def hub_id(name: str) -> Optional[str]:
    """Where on the Hugging Face hub the weights of a published model are; None: not a name, or one of ours."""
    model = find_model(name)
    return model.hub_id if model else None


def shape_of(hparams: Mapping[str, int]) -> Optional[str]:
    """The published model, or models, of these dimensions. They say what a model is shaped like, not who trained it: a
    fine-tuned base.en has the shape of base.en."""
    names = [model.name for model in MODELS.values() if model.dims._asdict() == dict(hparams)]
    return " or ".join(names) or None


def resolve_model(name_or_path: Union[str, os.PathLike[str]]) -> Path:
    """The ggml file that the name of a bundled model or a path means. Nothing is fetched or converted.

    Raises:
        ModelNotFoundError: neither a bundled model nor a file.
    """
    name = os.fspath(name_or_path)
    if name in BUNDLED_MODELS:
        return data_file(BUNDLED_MODELS[name])
    path = Path(name).expanduser()
    if path.exists():
        return path
    raise ModelNotFoundError(
        f"there is no model {name!r}: give the path of a ggml model file (such as ggml-base.en.bin from"
        f" whisper.cpp) or one of the bundled models: {', '.join(sorted(BUNDLED_MODELS))}"
    )


# ---- Sizes -----------------------------------------------------------------------------------------------------------


def file_bytes(dims: Dims, type: str) -> int:
    """Exact size of the ggml file that ``whisperq-edge convert`` writes for a model of these dimensions.

    Args:
        dims: with one of Whisper's own vocabularies.
        type: of the matrices. One whose blocks do not fill their rows is the next larger one, as in the file.
    """
    return converter.header_bytes(dims) + sum(converter.tensor_bytes(dims, type))


_CACHE_PADDING = 256  # positions of a cache are a multiple of it
_F16_BYTES, _F32_BYTES = 2, 4
_BEAMS = 5  # of the default options
_GRAPH_BYTES = 1_590_000  # what ggml keeps about each of four graphs, whatever the model


def memory_bytes(dims: Dims, type: str) -> int:
    """What whisper.cpp allocates for a model on the CPU while it transcribes, in bytes. An estimate.

    It is the sum of the weights (as in the file), the KV caches and the compute buffers:

    - keys and values in f16: of the text in every decoder layer, for ``beams + 2`` sequences (five beams, as by
      default); of the audio in every decoder layer; of the audio once more for one encoder layer. Positions are
      rounded up to 256.
    - the buffers of ggml's four graphs, as its allocator lays them out: convolutions (the input in f32 and its columns
      in f16; 16 bytes for each of n_audio_ctx x n_audio_state values), encoder (28 bytes for each), cross attention
      (4 bytes), decoder (f32 logits of n_text_ctx x n_vocab; 8 bytes for each of n_text_ctx x n_text_state values).

    The Python process and the audio come on top. Pages that are never touched (most of the decoder's logits) do not
    count as resident, so the growth of a process stays below this figure.
    """
    weights, _ = converter.tensor_bytes(dims, type)
    return weights + _cache_bytes(dims) + _compute_bytes(dims)


def _padded(n_positions: int) -> int:
    return -(-n_positions // _CACHE_PADDING) * _CACHE_PADDING


def _cache_bytes(dims: Dims) -> int:
    position = 2 * _F16_BYTES * dims.n_text_state  # key and value
    text = dims.n_text_layer * _padded(dims.n_text_ctx) * (_BEAMS + 2)
    audio = (dims.n_text_layer + 1) * _padded(dims.n_audio_ctx)
    return position * (text + audio)


def _compute_bytes(dims: Dims) -> int:
    audio_values = dims.n_audio_ctx * dims.n_audio_state
    text_values = dims.n_text_ctx * dims.n_text_state
    mel_values = 2 * dims.n_audio_ctx * dims.n_mels
    conv = mel_values * (_F32_BYTES + 3 * _F16_BYTES) + 16 * audio_values
    decode = _F32_BYTES * dims.n_text_ctx * dims.n_vocab + 8 * text_values
    return 4 * _GRAPH_BYTES + conv + 28 * audio_values + 4 * audio_values + decode
