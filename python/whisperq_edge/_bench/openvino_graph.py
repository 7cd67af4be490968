"""OpenVINO: the graphs that its converters make of openai/whisper, put together from the weights.

Three graphs: the encoder; the keys and values that the decoder's layers make of its output, once a window; the decoder,
which keeps the keys and values of the tokens in the runtime's own state. int8 is its weight compression (codes and a
scale for each row) with dynamic quantisation of the inputs, and bf16 for everything else where the CPU has it: what
needs no calibration, as nothing else here does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op

from .._system.arrays import Floats
from .graph_weights import GraphWeights, int8_rows

__all__ = ["OpenvinoDecoder", "OpenvinoEncoder", "write_openvino"]

# Inputs with a scale of their own when weights are in int8: 128 measured faster than 32, and as exact.
_GROUP = 128
_ENCODER, _CROSS, _DECODER = "encoder.xml", "cross.xml", "decoder.xml"


def write_openvino(weights: GraphWeights, folder: Path, type: str) -> None:
    """Writes the three graphs into a new folder; ``type``: ``f32`` or ``int8``."""
    folder.mkdir()
    graph = _Graph(weights, type == "int8")
    for name, model in ((_ENCODER, graph.encoder()), (_CROSS, graph.cross()), (_DECODER, graph.decoder())):
        ov.save_model(model, str(folder / name), compress_to_fp16=False)


class OpenvinoEncoder:
    """The encoder of :func:`write_openvino`.

    Args:
        folder: with the graphs.
        precision: ``f32``, ``bf16``, or ``int8`` for graphs of that type.
        n_threads: for it.
    """

    def __init__(self, folder: Path, precision: str, n_threads: int) -> None:
        self._request = _compiled(folder / _ENCODER, precision, n_threads)

    def __call__(self, mel: Floats) -> Floats:
        """float32 ``[n_mels, 2 * n_audio_ctx]`` -> ``[n_audio_ctx, n_audio_state]``."""
        self.run(mel)
        return np.array(self._request.get_output_tensor(0).data[0], np.float32)

    def run(self, mel: Floats) -> Any:
        """The same as a tensor of the runtime, which the next call overwrites."""
        self._request.infer([mel[None]], share_inputs=True)
        return self._request.get_output_tensor(0)


class OpenvinoDecoder:
    """The decoder of :func:`write_openvino`, with what it makes of the encoder's output.

    Args:
        folder, precision, n_threads: as of the encoder.
    """

    def __init__(self, folder: Path, precision: str, n_threads: int) -> None:
        self._cross = _compiled(folder / _CROSS, precision, n_threads)
        self._audio = [each.get_any_name() for each in self._cross.model_outputs]
        self._step = _compiled(folder / _DECODER, precision, n_threads)
        self._n_past = 0

    def listen(self, features: Any) -> None:
        """Takes the encoder's output, a tensor or ``[1, n_audio_ctx, n_audio_state]``, and forgets all tokens."""
        self._cross.set_input_tensor(0, features if isinstance(features, ov.Tensor) else ov.Tensor(features))
        self._cross.infer()
        for name in self._audio:
            self._step.set_tensor(name, self._cross.get_tensor(name))
        self._step.reset_state()
        self._n_past = 0

    def logits(self, tokens: Sequence[int]) -> Floats:
        """Appends tokens; what follows the last of them, ``[n_vocab]``."""
        n, past = len(tokens), self._n_past
        given = {
            "tokens": np.array([tokens], np.int64),
            "positions": np.arange(past, past + n, dtype=np.int64),
            "mask": np.triu(np.full((n, past + n), -np.inf, np.float32), past + 1)[None, None],
        }
        for name, value in given.items():
            self._step.set_tensor(name, ov.Tensor(value))
        self._step.infer()
        self._n_past += n
        logits: Floats = self._step.get_tensor("logits").data.reshape(-1)
        return logits


def _compiled(path: Path, precision: str, n_threads: int) -> Any:
    """A request to the graph in a file."""
    core = ov.Core()
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    config = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" or (precision == "int8" and has_bf16) else "f32",
        "INFERENCE_NUM_THREADS": n_threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP if precision == "int8" else 0,
        "KV_CACHE_PRECISION": "u8" if precision == "int8" else "f32",
    }
    return core.compile_model(str(path), "CPU", config).create_infer_request()


class _Graph:
    """The operations of both halves, one method for each kind."""

    def __init__(self, weights: GraphWeights, int8: bool) -> None:
        self._weights = weights
        self._dims = weights.dims
        self._int8 = int8
        self._sinks: list[Any] = []

    def encoder(self) -> ov.Model:
        dims = self._dims
        mel = _parameter([1, dims.n_mels, 2 * dims.n_audio_ctx], np.float32, "mel")
        x = self._convolution(mel, "conv1", 1)
        x = self._convolution(x, "conv2", 2)
        x = op.transpose(x, np.array([0, 2, 1]))
        x = op.add(x, self._constant("encoder.positional_embedding"))
        for layer in range(dims.n_audio_layer):
            block = f"encoder.blocks.{layer}"
            normed = self._norm(x, f"{block}.attn_ln")
            q, k, v = (self._heads(self._linear(normed, f"{block}.attn.{part}")) for part in ("query", "key", "value"))
            x = op.add(x, self._mixed(q, k, v, f"{block}.attn"))
            x = self._mlp(x, block)
        return ov.Model([self._norm(x, "encoder.ln_post")], [mel], "encoder")

    def cross(self) -> ov.Model:
        """The encoder's output to keys and values ``[1, n_head, n_audio_ctx, head_size]`` of each layer."""
        dims = self._dims
        features = _parameter([1, dims.n_audio_ctx, dims.n_audio_state], np.float32, "features")
        results = []
        for name, (layer, part) in self._audio_names().items():
            heads = self._heads(self._linear(features, f"decoder.blocks.{layer}.cross_attn.{part}"))
            results.append(op.result(_named(heads, name)))
        return ov.Model(results, [features], "cross")

    def decoder(self) -> ov.Model:
        """Tokens ``[1, n]`` to the logits ``[1, 1, n_vocab]`` that follow the last of them."""
        dims = self._dims
        tokens = _parameter([1, -1], np.int64, "tokens")
        positions = _parameter([-1], np.int64, "positions")
        mask = _parameter([1, 1, -1, -1], np.float32, "mask")
        heads = [1, dims.n_text_head, dims.n_audio_ctx, self._weights.head_size]
        audio = {name: _parameter(heads, np.float32, name) for name in self._audio_names()}
        place = op.gather(self._constant("decoder.positional_embedding"), positions, op.constant(np.int64(0)))
        x = op.add(self._embedding(tokens), op.unsqueeze(place, op.constant(np.int64(0))))
        for layer in range(dims.n_text_layer):
            block = f"decoder.blocks.{layer}"
            normed = self._norm(x, f"{block}.attn_ln")
            q, k, v = (self._heads(self._linear(normed, f"{block}.attn.{part}")) for part in ("query", "key", "value"))
            k, v = self._kept(k, f"key {layer}"), self._kept(v, f"value {layer}")
            x = op.add(x, self._mixed(q, k, v, f"{block}.attn", mask))
            q = self._heads(self._linear(self._norm(x, f"{block}.cross_attn_ln"), f"{block}.cross_attn.query"))
            k, v = audio[f"audio_key_{layer}"], audio[f"audio_value_{layer}"]
            x = self._mlp(op.add(x, self._mixed(q, k, v, f"{block}.cross_attn")), block)
        last = op.gather(x, op.constant(np.array([-1])), op.constant(np.int64(1)))
        product = op.matmul(self._norm(last, "decoder.ln"), self._matrix("decoder.token_embedding.weight"), False, True)
        parameters = [tokens, positions, mask, *audio.values()]
        return ov.Model([op.result(_named(product, "logits"))], self._sinks, parameters, "decoder")

    def _audio_names(self) -> dict[str, tuple[int, str]]:
        """Of the audio's keys and values between the graphs: layer and projection."""
        parts = ("key", "value")
        return {f"audio_{part}_{i}": (i, part) for i in range(self._dims.n_text_layer) for part in parts}

    def _kept(self, new: Any, name: str) -> Any:
        """What the state holds and, behind it, what is new; both are kept."""
        shape = [1, self._dims.n_text_head, 0, self._weights.head_size]
        nothing = op.constant(np.zeros(shape, np.float32))
        variable = op.read_value(nothing, name, np.float32, [shape[0], shape[1], -1, shape[3]])
        both = op.concat([variable, new], 2)
        self._sinks.append(op.assign(both, name))
        return both

    def _embedding(self, tokens: Any) -> Any:
        name, rows = "decoder.token_embedding.weight", op.constant(np.int64(0))
        if not self._int8:
            return op.gather(self._constant(name), tokens, rows)
        codes, scales = int8_rows(self._weights.tensors[name])
        looked_up = op.convert(op.gather(op.constant(codes), tokens, rows), "f32")
        return op.multiply(looked_up, op.gather(op.constant(scales), tokens, rows))

    def _constant(self, name: str) -> Any:
        return op.constant(self._weights.tensors[name])

    def _convolution(self, x: Any, name: str, stride: int) -> Any:
        kernel = self._constant(f"encoder.{name}.weight")
        bias = op.constant(self._weights.tensors[f"encoder.{name}.bias"].reshape(1, -1, 1))
        return op.gelu(op.add(op.convolution(x, kernel, [stride], [1], [1], [1]), bias), "erf")

    def _norm(self, x: Any, name: str) -> Any:
        normed = op.mvn(x, op.constant(np.array([-1])), True, 1e-5, "inside_sqrt")
        return op.add(op.multiply(normed, self._constant(f"{name}.weight")), self._constant(f"{name}.bias"))

    def _mlp(self, x: Any, block: str) -> Any:
        hidden = op.gelu(self._linear(self._norm(x, f"{block}.mlp_ln"), f"{block}.mlp.0"), "erf")
        return op.add(x, self._linear(hidden, f"{block}.mlp.2"))

    def _linear(self, x: Any, name: str) -> Any:
        product = op.matmul(x, self._matrix(f"{name}.weight"), False, True)
        bias = f"{name}.bias"
        return op.add(product, self._constant(bias)) if bias in self._weights.tensors else product

    def _matrix(self, name: str) -> Any:
        """float32, or int8 codes with a scale for each row, as its weight compression stores them."""
        if not self._int8:
            return self._constant(name)
        codes, scales = int8_rows(self._weights.tensors[name])
        return op.multiply(op.convert(op.constant(codes), "f32"), op.constant(scales))

    def _mixed(self, q: Any, k: Any, v: Any, name: str, mask: Any = None) -> Any:
        given = (q, k, v) if mask is None else (q, k, v, mask)
        mixed = op.transpose(op.scaled_dot_product_attention(*given), np.array([0, 2, 1, 3]))
        joined = op.reshape(mixed, np.array([0, 0, self._dims.n_audio_state]), special_zero=True)
        return self._linear(joined, f"{name}.out")

    def _heads(self, x: Any) -> Any:
        shape = np.array([0, 0, self._dims.n_audio_head, self._weights.head_size])
        return op.transpose(op.reshape(x, shape, special_zero=True), np.array([0, 2, 1, 3]))


def _parameter(shape: Sequence[int], type: Any, name: str) -> Any:
    return _named(op.parameter(shape, type), name)


def _named(node: Any, name: str) -> Any:
    """The name by which a request finds it."""
    node.output(0).get_tensor().set_names({name})
    return node
