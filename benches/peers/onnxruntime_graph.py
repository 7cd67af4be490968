"""ONNX Runtime: the graph put together from the weights; int8 by its own dynamic quantiser.

Attention is its fused operator (``com.microsoft.MultiHeadAttention``), which its optimiser for transformers puts in the
place of the exported one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from . import EncoderWeights, Floats, PeerEncoder

__all__ = ["encoders"]

_OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
_IR_VERSION = 9


def encoders(weights: EncoderWeights, n_threads: int, folder: Path) -> Iterator[PeerEncoder]:
    exact, int8 = folder / "encoder.onnx", folder / "encoder.int8.onnx"
    onnx.save(_Graph(weights).model, str(exact))
    quantize_dynamic(
        str(exact),
        str(int8),
        op_types_to_quantize=["MatMul"],  # its int8 convolution is slower than the one in float32
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": TensorProto.FLOAT},  # of what the fused operator gives
    )
    for name, path in (("f32", exact), ("int8", int8)):
        yield PeerEncoder(f"onnxruntime {name}", "onnxruntime", name, _Encoder(path, n_threads))


class _Encoder:
    def __init__(self, path: Path, n_threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, mel: Floats) -> Floats:
        features: Floats = self._session.run(None, {"mel": mel[None]})[0][0]
        return features


class _Graph:
    """The encoder's operations, one method for each kind; values are called by name."""

    def __init__(self, weights: EncoderWeights) -> None:
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        last = self._build()
        sizes = [1, weights.n_audio_ctx, weights.n_audio_state]
        graph = helper.make_graph(
            self._nodes,
            "encoder",
            [helper.make_tensor_value_info("mel", TensorProto.FLOAT, [1, weights.n_mels, 2 * weights.n_audio_ctx])],
            [helper.make_tensor_value_info(last, TensorProto.FLOAT, sizes)],
            list(self._constants.values()),
        )
        self.model = helper.make_model(graph, opset_imports=_OPSETS, ir_version=_IR_VERSION)

    def _build(self) -> str:
        x = self._convolution("mel", "conv1", 1)
        x = self._convolution(x, "conv2", 2)
        x = self._op("Transpose", x, perm=[0, 2, 1])
        x = self._op("Add", x, self._constant("encoder.positional_embedding"))
        for layer in range(self._weights.n_audio_layer):
            block = f"encoder.blocks.{layer}"
            x = self._op("Add", x, self._attention(self._norm(x, f"{block}.attn_ln"), f"{block}.attn"))
            hidden = self._op("Gelu", self._linear(self._norm(x, f"{block}.mlp_ln"), f"{block}.mlp.0"))
            x = self._op("Add", x, self._linear(hidden, f"{block}.mlp.2"))
        return self._norm(x, "encoder.ln_post")

    def _op(self, kind: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        name = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, domain=domain, **attributes))
        return name

    def _constant(self, name: str, transposed: bool = False) -> str:
        if name not in self._constants:
            tensor = self._weights.tensors[name]
            if name.endswith("bias"):
                tensor = tensor.reshape(-1)
            self._constants[name] = numpy_helper.from_array(
                np.ascontiguousarray(tensor.T if transposed else tensor), name
            )
        return name

    def _convolution(self, x: str, name: str, stride: int) -> str:
        kernel, bias = (self._constant(f"encoder.{name}.{part}") for part in ("weight", "bias"))
        return self._op("Gelu", self._op("Conv", x, kernel, bias, kernel_shape=[3], pads=[1, 1], strides=[stride]))

    def _norm(self, x: str, name: str) -> str:
        weight, bias = (self._constant(f"{name}.{part}") for part in ("weight", "bias"))
        return self._op("LayerNormalization", x, weight, bias, axis=-1, epsilon=1e-5)

    def _linear(self, x: str, name: str) -> str:
        product = self._op("MatMul", x, self._constant(f"{name}.weight", transposed=True))
        bias = f"{name}.bias"
        return self._op("Add", product, self._constant(bias)) if bias in self._weights.tensors else product

    def _attention(self, x: str, name: str) -> str:
        q, k, v = (self._linear(x, f"{name}.{part}") for part in ("query", "key", "value"))
        mixed = self._op("MultiHeadAttention", q, k, v, domain="com.microsoft", num_heads=self._weights.n_audio_head)
        return self._linear(mixed, f"{name}.out")
