"""Folders as transformers saves them, with random weights and without any package of Hugging Face."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
import numpy.typing as npt

from tests.support.make_model import Dims

__all__ = [
    "MICRO",
    "Stored",
    "bits",
    "config_of",
    "raw_safetensors",
    "spelled",
    "their_shapes",
    "weights",
    "write_folder",
    "write_weights",
]

Shape = tuple[int, ...]
Float32 = npt.NDArray[np.float32]

MICRO = Dims(80, 24, 64, 1, 2, 16, 64, 1, 1, 51865)
"""The least that a Whisper can be but for the vocabulary."""


class Stored(NamedTuple):
    dtype: str
    shape: Shape
    data: bytes


def _linear(name: str, n_in: int, n_out: int, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (n_out, n_in)
    if bias:
        yield f"{name}.bias", (n_out,)


def _layer_norm(name: str, n_state: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (n_state,)
    yield f"{name}.bias", (n_state,)


def _layer(name: str, n_state: int, attentions: Sequence[str]) -> Iterator[tuple[str, Shape]]:
    for attention in attentions:
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from _linear(f"{name}.{attention}.{projection}", n_state, n_state, bias=projection != "k_proj")
        yield from _layer_norm(f"{name}.{attention}_layer_norm", n_state)
    yield from _linear(f"{name}.fc1", n_state, 4 * n_state)
    yield from _linear(f"{name}.fc2", 4 * n_state, n_state)
    yield from _layer_norm(f"{name}.final_layer_norm", n_state)


def their_shapes(dims: Dims) -> Iterator[tuple[str, Shape]]:
    """transformers' name, without ``model.``, and shape of every tensor."""
    n_state = dims.n_audio_state
    for name, n_in in (("conv1", dims.n_mels), ("conv2", n_state)):
        yield f"encoder.{name}.weight", (n_state, n_in, 3)
        yield f"encoder.{name}.bias", (n_state,)
    yield "encoder.embed_positions.weight", (dims.n_audio_ctx, n_state)
    for layer in range(dims.n_audio_layer):
        yield from _layer(f"encoder.layers.{layer}", n_state, ["self_attn"])
    yield from _layer_norm("encoder.layer_norm", n_state)
    yield "decoder.embed_tokens.weight", (dims.n_vocab, n_state)
    yield "decoder.embed_positions.weight", (dims.n_text_ctx, n_state)
    for layer in range(dims.n_text_layer):
        yield from _layer(f"decoder.layers.{layer}", n_state, ["self_attn", "encoder_attn"])
    yield from _layer_norm("decoder.layer_norm", n_state)


def bits(values: Float32, type: str) -> bytes:
    """Values as they are stored. bf16 is cut off, which is enough for values that nobody else made."""
    if type == "bf16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return values.astype({"f64": "<f8", "f32": "<f4", "f16": "<f2"}[type]).tobytes()


def weights(dims: Dims = MICRO, type: str = "f32", seed: int = 0) -> dict[str, Stored]:
    """Unlike those of ``make_model`` no tensor is all zeros or ones: a reader that takes one for another is found
    out. They are not made to be run. Names and order are transformers' own."""
    rng = np.random.default_rng(seed)
    return {
        name: Stored(type.upper(), shape, bits(rng.standard_normal(shape, np.float32), type))
        for name, shape in their_shapes(dims)
    }


def config_of(dims: Dims, **changes: Any) -> dict[str, Any]:
    config = {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "num_mel_bins": dims.n_mels,
        "max_source_positions": dims.n_audio_ctx,
        "d_model": dims.n_audio_state,
        "encoder_attention_heads": dims.n_audio_head,
        "encoder_layers": dims.n_audio_layer,
        "encoder_ffn_dim": 4 * dims.n_audio_state,
        "max_target_positions": dims.n_text_ctx,
        "decoder_attention_heads": dims.n_text_head,
        "decoder_layers": dims.n_text_layer,
        "decoder_ffn_dim": 4 * dims.n_text_state,
        "vocab_size": dims.n_vocab,
        "activation_function": "gelu",
        "scale_embedding": False,
    }
    return {**config, **changes}


def raw_safetensors(tensors: Mapping[str, Stored]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(tensor.data for tensor in tensors.values())


def write_weights(folder: Path, tensors: Mapping[str, Stored], n_shards: int = 1) -> None:
    """``model.safetensors``, or its shards and their index."""
    if n_shards == 1:
        (folder / "model.safetensors").write_bytes(raw_safetensors(tensors))
        return
    names = list(tensors)
    weight_map = {}
    for shard in range(n_shards):
        file = f"model-{shard + 1:05d}-of-{n_shards:05d}.safetensors"
        mine = {name: tensors[name] for name in names[shard::n_shards]}
        (folder / file).write_bytes(raw_safetensors(mine))
        weight_map.update(dict.fromkeys(mine, file))
    index = {"metadata": {"total_size": sum(len(tensor.data) for tensor in tensors.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


_NOT_PRINTABLE = [byte for byte in range(256) if not (33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174)]
_SPELLING = [chr(256 + _NOT_PRINTABLE.index(byte)) if byte in _NOT_PRINTABLE else chr(byte) for byte in range(256)]


def spelled(token: bytes) -> str:
    """As GPT-2 has it: a byte that is no printable Latin-1 becomes the next character from U+0100 on."""
    return "".join(_SPELLING[byte] for byte in token)


def write_folder(
    folder: Path,
    dims: Dims = MICRO,
    tensors: Optional[Mapping[str, Stored]] = None,
    *,
    n_shards: int = 1,
    prefix: str = "model.",
    **config: Any,
) -> Path:
    """``config.json`` and the weights, under ``prefix`` but for the output layer."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_of(dims, **config)))
    named = {
        name if name == "proj_out.weight" else prefix + name: tensor
        for name, tensor in (weights(dims) if tensors is None else tensors).items()
    }
    write_weights(folder, named, n_shards)
    return folder
