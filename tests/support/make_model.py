"""Writes ggml Whisper files with random weights: every shape and type there is, without downloading one.

The model answers nonsense, but it is whole: mel filters and vocabulary are the real ones, and whisper.cpp loads it.
Also a program: ``python -m tests.support.make_model base.en out.bin --ftype q5_0``.
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Callable, NamedTuple, Optional, Union

import numpy as np
import numpy.typing as npt
from whisperq_edge._convert.convert import convert_model
from whisperq_edge._whisper.dims import Dims
from whisperq_edge._whisper.shapes import expected_shapes

from tests.support.paths import ROOT

__all__ = [
    "PRESETS",
    "TYPES",
    "Dims",
    "StoredType",
    "mel_filters",
    "real_vocabulary",
    "tensor_shapes",
    "vocabulary_of",
    "write_nano_checkpoint",
    "write_random_model",
]

Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

UPSTREAM_MODELS = ROOT / "third_party" / "whisper.cpp" / "upstream" / "models"
NANO = ROOT / "python" / "whisperq_edge" / "assets" / "ggml-nano.en.bin"

MAGIC = 0x67676D6C
N_FFT = 201
QUANTIZATION_VERSION = 2


def _dims(n_state: int, n_audio_layer: int, n_text_layer: int, n_vocab: int, n_mels: int = 80) -> Dims:
    """The dimensions that all published models share: 64 values a head, 1500 and 448 positions."""
    n_head = n_state // 64
    return Dims(n_mels, 1500, n_state, n_head, n_audio_layer, 448, n_state, n_head, n_text_layer, n_vocab)


PRESETS: dict[str, Dims] = {
    "micro.en": _dims(64, 1, 1, 51864),
    "micro": _dims(64, 1, 1, 51865),
    "tiny.en": _dims(384, 4, 4, 51864),
    "tiny": _dims(384, 4, 4, 51865),
    "base.en": _dims(512, 6, 6, 51864),
    "base": _dims(512, 6, 6, 51865),
    "small": _dims(768, 12, 12, 51865),
    "large-v3": _dims(1280, 32, 32, 51866, n_mels=128),
    "large-v3-turbo": _dims(1280, 32, 4, 51866, n_mels=128),
}


# ---- Mel filters and vocabulary --------------------------------------------------------------------------------------


def _hz_to_mel(hz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Slaney's scale: linear below 1 kHz, logarithmic above."""
    return np.where(hz < 1000.0, hz * 3.0 / 200.0, 15.0 + np.log(np.maximum(hz, 1.0) / 1000.0) * 27.0 / np.log(6.4))


def _mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * np.exp(np.log(6.4) * (mel - 15.0) / 27.0))


def mel_filters(n_mels: int) -> Float32:
    """Whisper's filterbank ``[n_mels, 201]``: triangles of equal area, 0 to 8 kHz."""
    bins_hz = np.linspace(0.0, 8000.0, N_FFT)
    ends = _hz_to_mel(np.array([0.0, 8000.0]))
    corners_hz = _mel_to_hz(np.linspace(ends[0], ends[1], n_mels + 2))
    low, peak, high = (corners_hz[i : i + n_mels, None] for i in range(3))
    rising = (bins_hz - low) / (peak - low)
    falling = (high - bins_hz) / (high - peak)
    return (np.maximum(0.0, np.minimum(rising, falling)) * 2.0 / (high - low)).astype(np.float32)


def vocabulary_of(path: Path) -> list[bytes]:
    """The tokens of a ggml file, also of one without tensors, as upstream's are."""
    data = path.read_bytes()
    n_mel, n_fft = struct.unpack_from("<2i", data, 48)
    at = 56 + 4 * n_mel * n_fft
    (n_tokens,) = struct.unpack_from("<i", data, at)
    at += 4
    tokens = []
    for _ in range(n_tokens):
        (n_bytes,) = struct.unpack_from("<i", data, at)
        tokens.append(data[at + 4 : at + 4 + n_bytes])
        at += 4 + n_bytes
    return tokens


def real_vocabulary(n_vocab: int) -> list[bytes]:
    """Whisper's own text tokens."""
    from whisperq_edge._whisper.vocabulary import known_vocabulary

    return known_vocabulary(n_vocab)


# ---- ggml's types ----------------------------------------------------------------------------------------------------

# A quantizer takes rows cut into blocks [n_blocks, 32] and gives their bytes [n_blocks, block_bytes].


def _f16_bytes(values: Float32) -> Bytes:
    return values.astype("<f2").reshape(-1, 1).view(np.uint8)


def _divide(values: Float32, scale: Float32) -> Float32:
    """``values / scale`` by block; a block of zeros stays zeros."""
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)
    return values * inverse[:, None]


def _nibbles(codes: npt.NDArray[np.uint8]) -> Bytes:
    """The first half of a block in the low nibbles, the second half in the high ones."""
    joined: Bytes = np.bitwise_or(codes[:, :16] & 15, (codes[:, 16:] & 15) << 4, dtype=np.uint8)
    return joined


def _fifth_bits(codes: npt.NDArray[np.uint8]) -> Bytes:
    return np.packbits((codes >> 4) & 1, axis=1, bitorder="little")


def _signed_codes(blocks: Float32, half: int) -> tuple[Float32, npt.NDArray[np.uint8]]:
    """Scale and codes of a symmetric type: the value of the largest magnitude becomes ``-half``."""
    largest = blocks[np.arange(len(blocks)), np.abs(blocks).argmax(axis=1)]
    scale = largest / np.float32(-half)
    codes = np.clip(np.floor(_divide(blocks, scale) + half + 0.5), 0, 2 * half - 1)
    return scale, codes.astype(np.uint8)


def _offset_codes(blocks: Float32, n_codes: int) -> tuple[Float32, Float32, npt.NDArray[np.uint8]]:
    """Scale, minimum and codes of a type with an offset."""
    least = blocks.min(axis=1)
    scale = (blocks.max(axis=1) - least) / np.float32(n_codes - 1)
    codes = np.clip(np.floor(_divide(blocks - least[:, None], scale) + 0.5), 0, n_codes - 1)
    return scale, least, codes.astype(np.uint8)


def _q8_0(blocks: Float32) -> Bytes:
    scale = np.abs(blocks).max(axis=1) / np.float32(127)
    return np.hstack([_f16_bytes(scale), np.rint(_divide(blocks, scale)).astype(np.int8).view(np.uint8)])


def _q4_0(blocks: Float32) -> Bytes:
    scale, codes = _signed_codes(blocks, 8)
    return np.hstack([_f16_bytes(scale), _nibbles(codes)])


def _q5_0(blocks: Float32) -> Bytes:
    scale, codes = _signed_codes(blocks, 16)
    return np.hstack([_f16_bytes(scale), _fifth_bits(codes), _nibbles(codes)])


def _q4_1(blocks: Float32) -> Bytes:
    scale, least, codes = _offset_codes(blocks, 16)
    return np.hstack([_f16_bytes(scale), _f16_bytes(least), _nibbles(codes)])


def _q5_1(blocks: Float32) -> Bytes:
    scale, least, codes = _offset_codes(blocks, 32)
    return np.hstack([_f16_bytes(scale), _f16_bytes(least), _fifth_bits(codes), _nibbles(codes)])


class StoredType(NamedTuple):
    ggml_id: int
    ftype: int
    encode: Callable[[Float32], bytes]


def _blocks_of(quantize: Callable[[Float32], Bytes]) -> Callable[[Float32], bytes]:
    return lambda values: quantize(values.reshape(-1, 32)).tobytes()


TYPES: dict[str, StoredType] = {
    "f32": StoredType(0, 0, lambda values: values.astype("<f4").tobytes()),
    "f16": StoredType(1, 1, lambda values: values.astype("<f2").tobytes()),
    "q4_0": StoredType(2, 2, _blocks_of(_q4_0)),
    "q4_1": StoredType(3, 3, _blocks_of(_q4_1)),
    "q5_0": StoredType(6, 8, _blocks_of(_q5_0)),
    "q5_1": StoredType(7, 9, _blocks_of(_q5_1)),
    "q8_0": StoredType(8, 7, _blocks_of(_q8_0)),
}


# ---- Tensors ---------------------------------------------------------------------------------------------------------

Shape = tuple[int, ...]


def tensor_shapes(dims: Dims) -> Iterator[tuple[str, Shape]]:
    """Name and shape of every tensor as files have it, numpy's order (the row length last), in the order of an OpenAI
    checkpoint: biases of convolutions are columns."""
    for name, shape in expected_shapes(dims).items():
        yield name, (*shape, 1) if name in ("encoder.conv1.bias", "encoder.conv2.bias") else shape


def _type_of(name: str, shape: Shape, ftype: str) -> str:
    if name.endswith("positional_embedding") or name.endswith("bias") or len(shape) == 1:
        return "f32"
    if len(shape) == 3:
        return "f32" if ftype == "f32" else "f16"
    return ftype


def _sinusoids(n_ctx: int, n_state: int) -> Float32:
    scale = np.log(10000.0) / (n_state // 2 - 1)
    angles = np.arange(n_ctx)[:, None] * np.exp(-scale * np.arange(n_state // 2))[None, :]
    return np.hstack([np.sin(angles), np.cos(angles)]).astype(np.float32)


def _random_values(name: str, shape: Shape, rng: np.random.Generator) -> Float32:
    """Values that keep activations of size one from layer to layer."""
    if name == "encoder.positional_embedding":
        return _sinusoids(*shape)
    if name.endswith(("ln.weight", "ln_post.weight")):
        return np.ones(shape, np.float32)
    if name.endswith("bias"):
        return np.zeros(shape, np.float32)
    n_in = int(np.prod(shape[1:]))
    return rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(n_in))


def _write_i32(out: BinaryIO, *values: int) -> None:
    out.write(struct.pack(f"<{len(values)}i", *values))


def _write_header(out: BinaryIO, dims: Dims, ftype: str) -> None:
    version = 0 if ftype in ("f32", "f16") else QUANTIZATION_VERSION
    _write_i32(out, MAGIC, dims.n_vocab, dims.n_audio_ctx, dims.n_audio_state, dims.n_audio_head, dims.n_audio_layer)
    _write_i32(out, dims.n_text_ctx, dims.n_text_state, dims.n_text_head, dims.n_text_layer, dims.n_mels)
    _write_i32(out, 1000 * version + TYPES[ftype].ftype)


def write_nano_checkpoint(path: Path) -> Path:
    """Write the bundled model as OpenAI's checkpoint with all tensors in f16, for comparisons with openai/whisper."""
    convert_model(NANO, path, to="openai")
    return path


def write_random_model(
    path: Union[str, Path],
    dims: Union[str, Dims],
    ftype: str = "f16",
    seed: int = 0,
    vocabulary: Optional[Sequence[bytes]] = None,
) -> Path:
    """Writes a model file with random weights, the same bytes for the same arguments.

    Args:
        path: where to.
        dims: a name in :data:`PRESETS` or the dimensions.
        ftype: a name in :data:`TYPES`: what the matrices are stored as.
        seed: of the weights.
        vocabulary: the tokens; None for Whisper's own.
    """
    dims = PRESETS[dims] if isinstance(dims, str) else dims
    tokens = real_vocabulary(dims.n_vocab) if vocabulary is None else vocabulary
    rng = np.random.default_rng(seed)
    with open(path, "wb") as out:
        _write_header(out, dims, ftype)
        _write_i32(out, dims.n_mels, N_FFT)
        out.write(mel_filters(dims.n_mels).astype("<f4").tobytes())
        _write_i32(out, len(tokens))
        for token in tokens:
            _write_i32(out, len(token))
            out.write(token)
        for name, shape in tensor_shapes(dims):
            tensor_type = TYPES[_type_of(name, shape, ftype)]
            _write_i32(out, len(shape), len(name), tensor_type.ggml_id, *reversed(shape))
            out.write(name.encode())
            out.write(tensor_type.encode(_random_values(name, shape, rng)))
    return Path(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a ggml Whisper file with random weights.")
    parser.add_argument("dims", choices=sorted(PRESETS))
    parser.add_argument("path", type=Path)
    parser.add_argument("--ftype", choices=sorted(TYPES), default="f16")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_random_model(options.path, options.dims, options.ftype, options.seed)


if __name__ == "__main__":
    main()
