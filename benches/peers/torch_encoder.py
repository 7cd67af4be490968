"""PyTorch: openai/whisper's own ``AudioEncoder``, with its fused attention."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from whisper.model import AudioEncoder
from whisperq_edge._bench.graph_weights import GraphWeights, read_weights

from . import Floats, PeerEncoder

__all__ = ["encoders"]


def encoders(model: Path, n_threads: int, folder: Path) -> Iterator[PeerEncoder]:
    torch.set_num_threads(n_threads)
    weights = read_weights(model)
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        yield PeerEncoder(f"torch {name}", "torch", name, _Encoder(weights, dtype))


class _Encoder:
    def __init__(self, weights: GraphWeights, dtype: torch.dtype) -> None:
        encoder = AudioEncoder(*weights.dims[:5])
        state = {
            name[len("encoder.") :]: torch.from_numpy(tensor.copy())
            for name, tensor in weights.tensors.items()
            if name.startswith("encoder.")
        }
        encoder.load_state_dict(state)
        self._encoder = encoder.eval().to(dtype)
        # Its layer norm computes in float32 whatever comes in, and takes its weights as they are.
        for module in self._encoder.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.float()
        self._dtype = dtype

    def __call__(self, mel: Floats) -> Floats:
        with torch.inference_mode():
            features: Floats = self._encoder(torch.from_numpy(mel)[None].to(self._dtype))[0].float().numpy()
        return features
