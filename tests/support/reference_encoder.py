"""Whisper's encoder in numpy, in double precision: slow, obvious, and the judge of the fast ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from whisperq_edge._convert.readers.ggml import open_ggml
from whisperq_edge._convert.readers.rows import floats

__all__ = ["encode", "weights_of"]

Doubles = npt.NDArray[np.float64]
HEAD_SIZE = 64


def weights_of(path: Path) -> dict[str, Doubles]:
    """The encoder's tensors of a ggml file, whatever their type."""
    tensors = [t for t in open_ggml(path).tensors if t.name.startswith("encoder.")]
    return {t.name: floats(t).astype(np.float64).reshape(t.shape) for t in tensors}


def _erf(x: Doubles) -> Doubles:
    from math import erf

    return np.vectorize(erf, otypes=[np.float64])(x)


def _gelu(x: Doubles) -> Doubles:
    return 0.5 * x * (1 + _erf(x / np.sqrt(2)))


def _layer_norm(x: Doubles, weights: dict[str, Doubles], name: str) -> Doubles:
    centred = x - x.mean(axis=1, keepdims=True)
    variance = (centred**2).mean(axis=1, keepdims=True)
    return centred / np.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _linear(x: Doubles, weights: dict[str, Doubles], name: str) -> Doubles:
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", np.zeros(1))


def _convolution(x: Doubles, weights: dict[str, Doubles], name: str, stride: int) -> Doubles:
    """x [time, channels] -> [time / stride, channels], a kernel of three frames."""
    kernel = weights[f"{name}.weight"]  # [out, in, 3]
    padded = np.pad(x, ((1, 1), (0, 0)))
    taps = [padded[i : i + len(x) : stride] @ kernel[:, :, i].T for i in range(3)]
    return sum(taps[1:], taps[0]) + weights[f"{name}.bias"]


def _attention(x: Doubles, weights: dict[str, Doubles], name: str) -> Doubles:
    q, k, v = (_linear(x, weights, f"{name}.{part}") for part in ("query", "key", "value"))
    heads = []
    for at in range(0, x.shape[1], HEAD_SIZE):
        one = slice(at, at + HEAD_SIZE)
        scores = q[:, one] @ k[:, one].T / np.sqrt(HEAD_SIZE)
        probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
        heads.append(probabilities @ v[:, one] / probabilities.sum(axis=1, keepdims=True))
    return _linear(np.hstack(heads), weights, f"{name}.out")


def encode(weights: dict[str, Doubles], mel: npt.NDArray[np.float32], n_ctx: int) -> Doubles:
    """Audio features ``[n_ctx, n_state]`` of ``mel [n_mels, frames]``, as openai/whisper's ``AudioEncoder``."""
    x = mel[:, : 2 * n_ctx].T.astype(np.float64)
    x = _gelu(_convolution(x, weights, "encoder.conv1", 1))
    x = _gelu(_convolution(x, weights, "encoder.conv2", 2))
    x = x + weights["encoder.positional_embedding"][:n_ctx]
    layer = 0
    while f"encoder.blocks.{layer}.mlp.0.weight" in weights:
        block = f"encoder.blocks.{layer}"
        x = x + _attention(_layer_norm(x, weights, f"{block}.attn_ln"), weights, f"{block}.attn")
        hidden = _gelu(_linear(_layer_norm(x, weights, f"{block}.mlp_ln"), weights, f"{block}.mlp.0"))
        x = x + _linear(hidden, weights, f"{block}.mlp.2")
        layer += 1
    return _layer_norm(x, weights, "encoder.ln_post")
