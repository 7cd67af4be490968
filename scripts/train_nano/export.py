"""Write a checkpoint of the training as `ggml-nano.en.bin`, whisper.cpp's layout with matrices in fp16.

    python -m train_nano.export --ggml python/whisperq_edge/assets/ggml-nano.en.bin

The weights are the moving average of the training run. `--weights model` takes those of the last step.
`whisperq-edge convert nano --to openai` makes OpenAI's layout of the written file.
"""

import argparse
import os
import struct
from pathlib import Path

import numpy as np
import torch
from whisper.audio import mel_filters
from whisper.model import ModelDimensions
from whisper.tokenizer import get_tokenizer

from .corpora import add_data_options
from .model import NanoSize, NanoTrainer
from .vocabulary import CompactVocabulary

GGML_MAGIC = 0x67676D6C
GGML_F32, GGML_F16 = 0, 1
N_GGML_TOKENS = 50257  # the text tokens; whisper.cpp makes the names of all later ones itself


def _replace(path: Path, write) -> None:
    """Whoever reads `path` meanwhile sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    with open(beside, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def ggml_vocabulary() -> list[bytes]:
    encoding = get_tokenizer(multilingual=False).encoding
    return [encoding.decode_single_token_bytes(i) for i in range(N_GGML_TOKENS)]


def _ggml_tensor(name: str, array: np.ndarray) -> bytes:
    if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
        array = array.reshape(-1, 1)
    # ggml adds biases and positions in f32, so upstream's converter keeps exactly these tensors wide.
    wide = array.ndim < 2 or "positional_embedding" in name or name.endswith(("conv1.bias", "conv2.bias"))
    array = array.astype(np.float32 if wide else np.float16)
    key = name.encode()
    header = struct.pack("<3i", array.ndim, len(key), GGML_F32 if wide else GGML_F16)
    return header + struct.pack(f"<{array.ndim}i", *reversed(array.shape)) + key + array.tobytes()


def write_ggml(file, dims: ModelDimensions, state: dict[str, np.ndarray]) -> None:
    d = dims
    audio = (d.n_audio_ctx, d.n_audio_state, d.n_audio_head, d.n_audio_layer)
    text = (d.n_text_ctx, d.n_text_state, d.n_text_head, d.n_text_layer)
    file.write(struct.pack("<12i", GGML_MAGIC, d.n_vocab, *audio, *text, d.n_mels, GGML_F16))
    filters = mel_filters("cpu", d.n_mels).numpy().astype(np.float32)
    file.write(struct.pack("<2i", *filters.shape) + filters.tobytes())
    tokens = ggml_vocabulary()
    file.write(struct.pack("<i", len(tokens)))
    for token in tokens:
        file.write(struct.pack("<i", len(token)) + token)
    for name, array in state.items():
        if name != "decoder.mask":
            file.write(_ggml_tensor(name, array))


def load_checkpoint(checkpoint: Path, weights: str = "average") -> NanoTrainer:
    saved = torch.load(checkpoint, weights_only=False)
    model = NanoTrainer(NanoSize(**saved["size"]), CompactVocabulary(saved["text_ids"]), dropout=0.0)
    model.load_state_dict(saved[weights])
    return model.eval()


def export(model: NanoTrainer, ggml: Path) -> None:
    _replace(ggml, lambda file: write_ggml(file, model.size.dims(), model.openai_state_dict()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--checkpoint", type=Path, help="default: checkpoint.pt in the cache directory")
    parser.add_argument(
        "--weights", choices=("average", "model"), default="average", help="moving average, or the last"
    )
    parser.add_argument("--ggml", type=Path, required=True, help="the file to write")
    options = parser.parse_args()
    checkpoint = options.checkpoint or options.cache / "checkpoint.pt"
    export(load_checkpoint(checkpoint, options.weights), options.ggml)


if __name__ == "__main__":
    main()
