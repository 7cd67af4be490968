"""Whisper's encoder in numpy, in double precision: slow, obvious, and the judge of the fast ones."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
import numpy.typing as npt
from whisperq_edge._convert.readers.ggml import open_ggml
from whisperq_edge._convert.readers.rows import floats

__all__ = ["encode", "encode_short", "weights_of"]

Doubles = npt.NDArray[np.float64]
HEAD_SIZE = 64
POOL = 32
SILENCE = -0.6  # in a log-mel spectrogram


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


class Silence(NamedTuple):
    """Keys and values of a silent window, pooled, from one token on."""

    keys: list[Doubles]
    values: list[Doubles]
    bias: Doubles

    @classmethod
    def of(cls, seen: list[tuple[Doubles, Doubles]], first: int) -> Silence:
        most = len(seen[0][0])

        def pooled(rows: Doubles) -> Doubles:
            return np.stack([rows[i : i + POOL].mean(axis=0) for i in range(first, len(rows), POOL)])

        numbers = [min(POOL, most - i) for i in range(first, most, POOL)]
        return cls(
            [pooled(keys) for keys, _ in seen],
            [pooled(values) for _, values in seen],
            np.log(np.array(numbers, np.float64)),
        )


def _attention(
    x: Doubles,
    weights: dict[str, Doubles],
    name: str,
    seen: Optional[list[tuple[Doubles, Doubles]]] = None,
    behind: Optional[tuple[Doubles, Doubles, Doubles]] = None,
) -> Doubles:
    q, k, v = (_linear(x, weights, f"{name}.{part}") for part in ("query", "key", "value"))
    bias = np.zeros(len(x))
    if seen is not None:
        seen.append((k, v))
    if behind is not None:
        k, v = np.vstack([k, behind[0]]), np.vstack([v, behind[1]])
        bias = np.concatenate([bias, behind[2]])
    heads = []
    for at in range(0, x.shape[1], HEAD_SIZE):
        one = slice(at, at + HEAD_SIZE)
        scores = q[:, one] @ k[:, one].T / np.sqrt(HEAD_SIZE) + bias
        probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
        heads.append(probabilities @ v[:, one] / probabilities.sum(axis=1, keepdims=True))
    return _linear(np.hstack(heads), weights, f"{name}.out")


def encode(weights: dict[str, Doubles], mel: npt.NDArray[np.float32], n_ctx: int) -> Doubles:
    """Audio features ``[n_ctx, n_state]`` of ``mel [n_mels, frames]``, as openai/whisper's ``AudioEncoder``."""
    return _layers(weights, _stem(weights, mel[:, : 2 * n_ctx], n_ctx))


def encode_short(weights: dict[str, Doubles], mel: npt.NDArray[np.float32], n_ctx: int) -> Doubles:
    """The same with pools of silence behind the tokens (csrc/edge/silence.h)."""
    most = len(weights["encoder.positional_embedding"])
    seen: list[tuple[Doubles, Doubles]] = []
    silent = np.full((len(mel), 2 * most), SILENCE, np.float32)
    _layers(weights, _stem(weights, silent, most), seen)
    x = _stem(weights, mel[:, : 2 * n_ctx + 2], n_ctx)
    return _layers(weights, x, behind=Silence.of(seen, n_ctx))


def _stem(weights: dict[str, Doubles], mel: npt.NDArray[np.float32], n_ctx: int) -> Doubles:
    x = mel.T.astype(np.float64)
    x = _gelu(_convolution(x, weights, "encoder.conv1", 1))
    x = _gelu(_convolution(x, weights, "encoder.conv2", 2))[:n_ctx]
    return x + weights["encoder.positional_embedding"][:n_ctx]


def _layers(
    weights: dict[str, Doubles],
    x: Doubles,
    seen: Optional[list[tuple[Doubles, Doubles]]] = None,
    behind: Optional[Silence] = None,
) -> Doubles:
    layer = 0
    while f"encoder.blocks.{layer}.mlp.0.weight" in weights:
        block = f"encoder.blocks.{layer}"
        frozen = (behind.keys[layer], behind.values[layer], behind.bias) if behind else None
        x = x + _attention(_layer_norm(x, weights, f"{block}.attn_ln"), weights, f"{block}.attn", seen, frozen)
        hidden = _gelu(_linear(_layer_norm(x, weights, f"{block}.mlp_ln"), weights, f"{block}.mlp.0"))
        x = x + _linear(hidden, weights, f"{block}.mlp.2")
        layer += 1
    return _layer_norm(x, weights, "encoder.ln_post")
