"""CTranslate2, what faster-whisper runs on: its specification filled with our weights, without a converter.

The folder is written in float32; CTranslate2 quantises to int8 when it loads, as it does for its users.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from ctranslate2.specs import WhisperSpec

from . import EncoderWeights, Floats, PeerEncoder

__all__ = ["encoders", "write_model"]

_TYPES = {"f32": "float32", "int8": "int8"}


def encoders(weights: EncoderWeights, n_threads: int, folder: Path) -> Iterator[PeerEncoder]:
    model = folder / "ctranslate2"
    # The encoder asks for no text: any tokens will do.
    write_model(weights, model, [f"<{i}>" for i in range(len(weights.tensors["decoder.token_embedding.weight"]))])
    for name, compute_type in _TYPES.items():
        yield PeerEncoder(f"ctranslate2 {name}", "ctranslate2", name, _Encoder(model, compute_type, n_threads))


class _Encoder:
    def __init__(self, folder: Path, compute_type: str, n_threads: int) -> None:
        self._model = ctranslate2.models.Whisper(
            str(folder), device="cpu", compute_type=compute_type, intra_threads=n_threads, inter_threads=1
        )

    def __call__(self, mel: Floats) -> Floats:
        features = self._model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(mel[None])))
        return np.array(features)[0]


def write_model(weights: EncoderWeights, folder: Path, vocabulary: Sequence[str]) -> None:
    """Writes a model in float32 into a new folder. ``vocabulary`` has the tokens by id, special ones by their names."""
    tensors = weights.tensors
    n_text_layer = len({name.split(".")[2] for name in tensors if name.startswith("decoder.blocks.")})
    n_head = weights.n_audio_head  # Whisper has as many in the decoder
    spec = WhisperSpec(weights.n_audio_layer, n_head, n_text_layer, n_head)
    for name, convolution in (("conv1", spec.encoder.conv1), ("conv2", spec.encoder.conv2)):
        convolution.weight = tensors[f"encoder.{name}.weight"]
        convolution.bias = tensors[f"encoder.{name}.bias"].reshape(-1)
    _set_stack(spec.encoder, tensors, "encoder", "ln_post")
    _set_stack(spec.decoder, tensors, "decoder", "ln")
    spec.decoder.embeddings.weight = tensors["decoder.token_embedding.weight"]
    spec.decoder.projection.weight = tensors["decoder.token_embedding.weight"]
    spec.register_vocabulary(list(vocabulary))
    spec.validate()
    spec.optimize(quantization="float32")
    folder.mkdir()
    spec.save(str(folder))


def _set_stack(stack: Any, tensors: dict[str, Floats], name: str, last_norm: str) -> None:
    stack.position_encodings.encodings = tensors[f"{name}.positional_embedding"]
    _set_norm(stack.layer_norm, tensors, f"{name}.{last_norm}")
    for i, layer in enumerate(stack.layer):
        block = f"{name}.blocks.{i}"
        _set_attention(layer.self_attention, tensors, f"{block}.attn", (("query", "key", "value"), ("out",)))
        if name == "decoder":
            _set_attention(layer.attention, tensors, f"{block}.cross_attn", (("query",), ("key", "value"), ("out",)))
        _set_linear(layer.ffn.linear_0, tensors, [f"{block}.mlp.0"])
        _set_linear(layer.ffn.linear_1, tensors, [f"{block}.mlp.2"])
        _set_norm(layer.ffn.layer_norm, tensors, f"{block}.mlp_ln")


def _set_attention(attention: Any, tensors: dict[str, Floats], name: str, groups: tuple[tuple[str, ...], ...]) -> None:
    """The projections of a group lie in one matrix, one below the other."""
    for linear, group in zip(attention.linear, groups):
        _set_linear(linear, tensors, [f"{name}.{projection}" for projection in group])
    _set_norm(attention.layer_norm, tensors, f"{name}_ln")


def _set_linear(linear: Any, tensors: dict[str, Floats], names: list[str]) -> None:
    matrices = [tensors[f"{name}.weight"] for name in names]
    no_bias = np.zeros(len(matrices[0]), np.float32)  # keys have none
    linear.weight = np.concatenate(matrices)
    linear.bias = np.concatenate([tensors.get(f"{name}.bias", no_bias) for name in names])


def _set_norm(norm: Any, tensors: dict[str, Floats], name: str) -> None:
    norm.gamma = tensors[f"{name}.weight"]
    norm.beta = tensors[f"{name}.bias"]
