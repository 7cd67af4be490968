"""OpenVINO: the graph that its converters make of openai/whisper's encoder, put together from the weights.

int8 is its weight compression with dynamic quantisation of the inputs, and bf16 for everything else: what needs no
calibration, as nothing else here does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op

from . import EncoderWeights, Floats, PeerEncoder

__all__ = ["encoders"]

# Inputs with a scale of their own when weights are in int8: 128 measured faster than 32, and as exact.
_GROUP = 128


def encoders(weights: EncoderWeights, n_threads: int, folder: Path) -> Iterator[PeerEncoder]:
    for name in ("f32", "bf16"):
        yield PeerEncoder(f"openvino {name}", "openvino", name, _Encoder(_Graph(weights).model, name, n_threads))
    graph = _Graph(weights, int8=True)
    yield PeerEncoder("openvino int8", "openvino", "int8", _Encoder(graph.model, "bf16", n_threads, _GROUP))


class _Encoder:
    def __init__(self, model: ov.Model, precision: str, n_threads: int, group: int = 0) -> None:
        config = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": n_threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": group,
        }
        self._compiled = ov.Core().compile_model(model, "CPU", config)
        self._request = self._compiled.create_infer_request()

    def __call__(self, mel: Floats) -> Floats:
        self._request.infer([mel[None]], share_inputs=True)
        return np.array(self._request.get_output_tensor(0).data[0], np.float32)


class _Graph:
    """The encoder's operations, one method for each kind."""

    def __init__(self, weights: EncoderWeights, int8: bool = False) -> None:
        self._weights = weights
        self._int8 = int8
        mel = op.parameter([1, weights.n_mels, 2 * weights.n_audio_ctx], np.float32, "mel")
        x = self._convolution(mel, "conv1", 1)
        x = self._convolution(x, "conv2", 2)
        x = op.transpose(x, np.array([0, 2, 1]))
        x = op.add(x, self._constant("encoder.positional_embedding"))
        for layer in range(weights.n_audio_layer):
            block = f"encoder.blocks.{layer}"
            x = op.add(x, self._attention(self._norm(x, f"{block}.attn_ln"), f"{block}.attn"))
            hidden = op.gelu(self._linear(self._norm(x, f"{block}.mlp_ln"), f"{block}.mlp.0"), "erf")
            x = op.add(x, self._linear(hidden, f"{block}.mlp.2"))
        self.model = ov.Model([self._norm(x, "encoder.ln_post")], [mel], "encoder")

    def _constant(self, name: str) -> Any:
        return op.constant(self._weights.tensors[name])

    def _convolution(self, x: Any, name: str, stride: int) -> Any:
        kernel = self._constant(f"encoder.{name}.weight")
        bias = op.constant(self._weights.tensors[f"encoder.{name}.bias"].reshape(1, -1, 1))
        return op.gelu(op.add(op.convolution(x, kernel, [stride], [1], [1], [1]), bias), "erf")

    def _norm(self, x: Any, name: str) -> Any:
        normed = op.mvn(x, op.constant(np.array([-1])), True, 1e-5, "inside_sqrt")
        return op.add(op.multiply(normed, self._constant(f"{name}.weight")), self._constant(f"{name}.bias"))

    def _linear(self, x: Any, name: str) -> Any:
        product = op.matmul(x, self._matrix(f"{name}.weight"), False, True)
        bias = f"{name}.bias"
        return op.add(product, self._constant(bias)) if bias in self._weights.tensors else product

    def _matrix(self, name: str) -> Any:
        """float32, or int8 codes with a scale for each row, as its weight compression stores them."""
        if not self._int8:
            return self._constant(name)
        values = self._weights.tensors[name]
        scales = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
        codes = op.constant(np.rint(values / scales).astype(np.int8))
        return op.multiply(op.convert(codes, "f32"), op.constant(scales))

    def _attention(self, x: Any, name: str) -> Any:
        q, k, v = (self._heads(self._linear(x, f"{name}.{part}")) for part in ("query", "key", "value"))
        mixed = op.transpose(op.scaled_dot_product_attention(q, k, v), np.array([0, 2, 1, 3]))
        joined = op.reshape(mixed, np.array([0, 0, self._weights.n_audio_state]), special_zero=True)
        return self._linear(joined, f"{name}.out")

    def _heads(self, x: Any) -> Any:
        head_size = self._weights.n_audio_state // self._weights.n_audio_head
        shape = np.array([0, 0, self._weights.n_audio_head, head_size])
        return op.transpose(op.reshape(x, shape, special_zero=True), np.array([0, 2, 1, 3]))
