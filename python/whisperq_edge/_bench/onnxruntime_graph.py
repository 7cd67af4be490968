"""ONNX Runtime: the graphs of both halves put together from the weights; int8 by its own dynamic quantiser.

Three graphs: the encoder; the keys and values that the decoder's layers make of its output, once a window; the decoder,
whose keys and values of the tokens go out of one step and into the next as values of the runtime. Attention is its
fused operator (``com.microsoft.MultiHeadAttention``), which its optimiser for transformers puts in the place of the
exported one.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from .._system.arrays import Floats
from .graph_weights import GraphWeights

__all__ = ["MOST_BYTES", "OnnxruntimeDecoder", "OnnxruntimeEncoder", "write_onnxruntime"]

MOST_BYTES = 2 * 10**9
"""Of a graph with its weights: what its file format (protobuf) holds."""

_OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
_IR_VERSION = 9
_ENCODER, _CROSS, _DECODER = "encoder.onnx", "cross.onnx", "decoder.onnx"
_Shape = Sequence[Any]


def write_onnxruntime(weights: GraphWeights, folder: Path, type: str) -> None:
    """Writes the three graphs into a new folder; ``type``: ``f32`` or ``int8``.

    Raises:
        ValueError: the weights are more than a file can hold.
    """
    if weights.n_bytes > MOST_BYTES:
        raise ValueError(f"{weights.n_bytes / 1e9:.1f} GB in float32, and its files hold {MOST_BYTES / 1e9:.0f} GB")
    folder.mkdir()
    for name, build in ((_ENCODER, _encoder), (_CROSS, _cross), (_DECODER, _decoder)):
        path = folder / name
        onnx.save(build(weights), str(path))
        if type == "int8":
            exact = folder / f"exact-{name}"
            shutil.move(path, exact)
            _quantize(exact, path)
            exact.unlink()


def _quantize(exact: Path, path: Path) -> None:
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it asks for a preparation that graphs without dead ends do not need
    try:
        quantize_dynamic(
            str(exact),
            str(path),
            op_types_to_quantize=["MatMul"],  # its int8 convolution is slower than the one in float32
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": TensorProto.FLOAT},  # of what the fused operator gives
        )
    finally:
        logging.disable(disabled)


class OnnxruntimeEncoder:
    """The encoder of :func:`write_onnxruntime`.

    Args:
        folder: with the graphs.
        precision: that they were written in; they know it themselves.
        n_threads: for it.
    """

    def __init__(self, folder: Path, precision: str, n_threads: int) -> None:
        self._session = _session(folder / _ENCODER, n_threads)

    def __call__(self, mel: Floats) -> Floats:
        """float32 ``[n_mels, 2 * n_audio_ctx]`` -> ``[n_audio_ctx, n_audio_state]``."""
        features: Floats = self.run(mel).numpy()[0]
        return features

    def run(self, mel: Floats) -> Any:
        """The same as a value of the runtime."""
        return _run(self._session, {"mel": _value(mel[None])})["features"]


class OnnxruntimeDecoder:
    """The decoder of :func:`write_onnxruntime`, with what it makes of the encoder's output.

    Args:
        folder, precision, n_threads: as of the encoder.
    """

    def __init__(self, folder: Path, precision: str, n_threads: int) -> None:
        self._cross = _session(folder / _CROSS, n_threads)
        self._step = _session(folder / _DECODER, n_threads)
        self._past_shapes = {
            each.name: [1, each.shape[1], 0, each.shape[3]]
            for each in self._step.get_inputs()
            if each.name.startswith("past_")
        }
        self._audio: dict[str, Any] = {}
        self._past: dict[str, Any] = {}
        self._n_past = 0

    def listen(self, features: Any) -> None:
        """Takes the encoder's output, a value or ``[1, n_audio_ctx, n_audio_state]``, and forgets all tokens."""
        given = _value(features) if isinstance(features, np.ndarray) else features
        self._audio = _run(self._cross, {"features": given})
        self._past = {name: _value(np.zeros(shape, np.float32)) for name, shape in self._past_shapes.items()}
        self._n_past = 0

    def logits(self, tokens: Sequence[int]) -> Floats:
        """Appends tokens; what follows the last of them, ``[n_vocab]``."""
        n = len(tokens)
        given = {
            "tokens": _value(np.array([tokens], np.int64)),
            "positions": _value(np.arange(self._n_past, self._n_past + n, dtype=np.int64)),
        }
        answer = _run(self._step, {**given, **self._audio, **self._past})
        self._past = {name: answer[name.replace("past_", "present_")] for name in self._past}
        self._n_past += n
        logits: Floats = answer["logits"].numpy().reshape(-1)
        return logits


def _session(path: Path, n_threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _value(array: Any) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def _run(session: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run_with_ort_values(names, given)))


# ---- The graphs ------------------------------------------------------------------------------------------------------


def _encoder(weights: GraphWeights) -> onnx.ModelProto:
    dims, graph = weights.dims, _Graph(weights)
    x = graph.convolution("mel", "conv1", 1)
    x = graph.convolution(x, "conv2", 2)
    x = graph.op("Transpose", x, perm=[0, 2, 1])
    x = graph.op("Add", x, graph.constant("encoder.positional_embedding"))
    for layer in range(dims.n_audio_layer):
        block = f"encoder.blocks.{layer}"
        normed = graph.norm(x, f"{block}.attn_ln")
        q, k, v = (graph.linear(normed, f"{block}.attn.{part}") for part in ("query", "key", "value"))
        mixed = graph.attention([q, k, v], num_heads=dims.n_audio_head)
        x = graph.mlp(graph.op("Add", x, graph.linear(mixed, f"{block}.attn.out")), block)
    graph.output("features", graph.norm(x, "encoder.ln_post"), [1, dims.n_audio_ctx, dims.n_audio_state])
    return graph.model("encoder", {"mel": [1, dims.n_mels, 2 * dims.n_audio_ctx]})


def _cross(weights: GraphWeights) -> onnx.ModelProto:
    """The encoder's output to keys and values ``[1, n_head, n_audio_ctx, head_size]`` of each layer."""
    dims, graph = weights.dims, _Graph(weights)
    split = graph.shape([1, dims.n_audio_ctx, dims.n_text_head, weights.head_size])
    for name, (layer, part) in _audio_names(weights).items():
        projected = graph.linear("features", f"decoder.blocks.{layer}.cross_attn.{part}")
        heads = graph.op("Transpose", graph.op("Reshape", projected, split), perm=[0, 2, 1, 3])
        graph.output(name, heads, _audio_shape(weights))
    return graph.model("cross", {"features": [1, dims.n_audio_ctx, dims.n_audio_state]})


def _decoder(weights: GraphWeights) -> onnx.ModelProto:
    """Tokens ``[1, n]`` to the logits ``[1, 1, n_vocab]`` that follow the last of them."""
    dims, graph = weights.dims, _Graph(weights)
    past = {f"past_{part}_{i}": _past_shape(weights, "past") for i in range(dims.n_text_layer) for part in _PARTS}
    x = graph.op("Gather", graph.constant("decoder.token_embedding.weight"), "tokens")
    x = graph.op("Add", x, graph.op("Gather", graph.constant("decoder.positional_embedding"), "positions"))
    for layer in range(dims.n_text_layer):
        block = f"decoder.blocks.{layer}"
        normed = graph.norm(x, f"{block}.attn_ln")
        given = [graph.linear(normed, f"{block}.attn.{part}") for part in ("query", "key", "value")]
        given += ["", "", "", f"past_key_{layer}", f"past_value_{layer}"]
        kept = {name: _past_shape(weights, "all") for name in (f"present_key_{layer}", f"present_value_{layer}")}
        mixed = graph.attention(given, kept, num_heads=dims.n_text_head, unidirectional=1)
        x = graph.op("Add", x, graph.linear(mixed, f"{block}.attn.out"))
        q = graph.linear(graph.norm(x, f"{block}.cross_attn_ln"), f"{block}.cross_attn.query")
        mixed = graph.attention([q, f"audio_key_{layer}", f"audio_value_{layer}"], num_heads=dims.n_text_head)
        x = graph.mlp(graph.op("Add", x, graph.linear(mixed, f"{block}.cross_attn.out")), block)
    last = graph.op("Gather", x, graph.shape([-1]), axis=1)
    embedding = graph.constant("decoder.token_embedding.weight", transposed=True)
    graph.output("logits", graph.op("MatMul", graph.norm(last, "decoder.ln"), embedding), [1, 1, dims.n_vocab])
    audio = dict.fromkeys(_audio_names(weights), _audio_shape(weights))
    return graph.model("decoder", {**audio, **past}, {"tokens": [1, "n"], "positions": ["n"]})


_PARTS = ("key", "value")


def _audio_names(weights: GraphWeights) -> dict[str, tuple[int, str]]:
    """Of the audio's keys and values between the graphs: layer and projection."""
    return {f"audio_{part}_{i}": (i, part) for i in range(weights.dims.n_text_layer) for part in _PARTS}


def _audio_shape(weights: GraphWeights) -> _Shape:
    return [1, weights.dims.n_text_head, weights.dims.n_audio_ctx, weights.head_size]


def _past_shape(weights: GraphWeights, length: str) -> _Shape:
    return [1, weights.dims.n_text_head, length, weights.head_size]


class _Graph:
    """A graph that grows by operations, one method for each kind; values are called by name."""

    def __init__(self, weights: GraphWeights) -> None:
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._outputs: dict[str, _Shape] = {}

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        name = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, domain=domain, **attributes))
        return name

    def constant(self, name: str, transposed: bool = False) -> str:
        stored = f"{name} transposed" if transposed else name
        if stored not in self._constants:
            tensor = self._weights.tensors[name]
            self._constants[stored] = numpy_helper.from_array(
                np.ascontiguousarray(tensor.T if transposed else tensor), stored
            )
        return stored

    def shape(self, sizes: Sequence[int]) -> str:
        name = f"shape {list(sizes)}"
        self._constants[name] = numpy_helper.from_array(np.array(sizes, np.int64), name)
        return name

    def convolution(self, x: str, name: str, stride: int) -> str:
        kernel, bias = (self.constant(f"encoder.{name}.{part}") for part in ("weight", "bias"))
        return self.op("Gelu", self.op("Conv", x, kernel, bias, kernel_shape=[3], pads=[1, 1], strides=[stride]))

    def norm(self, x: str, name: str) -> str:
        weight, bias = (self.constant(f"{name}.{part}") for part in ("weight", "bias"))
        return self.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=1e-5)

    def linear(self, x: str, name: str) -> str:
        product = self.op("MatMul", x, self.constant(f"{name}.weight", transposed=True))
        bias = f"{name}.bias"
        return self.op("Add", product, self.constant(bias)) if bias in self._weights.tensors else product

    def mlp(self, x: str, block: str) -> str:
        hidden = self.op("Gelu", self.linear(self.norm(x, f"{block}.mlp_ln"), f"{block}.mlp.0"))
        return self.op("Add", x, self.linear(hidden, f"{block}.mlp.2"))

    def attention(self, given: Sequence[str], kept: Optional[Mapping[str, _Shape]] = None, **attributes: int) -> str:
        """``kept``: outputs of the graph that hold the keys and values, with their shapes."""
        name = f"v{len(self._nodes)}"
        self._outputs.update(kept or {})
        outputs = [name, *(kept or {})]
        self._nodes.append(
            helper.make_node(
                "MultiHeadAttention", list(given), outputs, name=name, domain="com.microsoft", **attributes
            )
        )
        return name

    def output(self, name: str, value: str, shape: _Shape) -> None:
        self._nodes.append(helper.make_node("Identity", [value], [name], name=name))
        self._outputs[name] = shape

    def model(
        self, name: str, floats: Mapping[str, _Shape], integers: Optional[Mapping[str, _Shape]] = None
    ) -> onnx.ModelProto:
        given = [(each, TensorProto.INT64, shape) for each, shape in (integers or {}).items()]
        given += [(each, TensorProto.FLOAT, shape) for each, shape in floats.items()]
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info(*each) for each in given],
            [helper.make_tensor_value_info(each, TensorProto.FLOAT, shape) for each, shape in self._outputs.items()],
            list(self._constants.values()),
        )
        return helper.make_model(graph, opset_imports=_OPSETS, ir_version=_IR_VERSION)
