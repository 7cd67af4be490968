"""The encoders of both engines on the real base encoder and real speech: how far each is from float32, by type and ISA.

    python scripts/measure_encoder.py ../shared/data            prints the table of docs/numerics.md

Both engines hear the same samples and run the same files; the yardstick is the f32 file on our f32 kernels, which are
within 1e-5 of openai/whisper (tests/engines/test_edge_encoder.py). The decoder in the files has random weights.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from measure_quantisation import Clip, choose_clips, encoder_outputs, write_model
from whisperq_edge import _core, log_mel_spectrogram
from whisperq_edge._convert.convert import convert_model
from whisperq_edge._engines.core_model import CoreModel

Floats = npt.NDArray[np.float32]

TYPES = ("f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
WINDOW_SAMPLES = 480000


def relative_error(found: Floats, expected: Floats) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def available_isas() -> list[str]:
    """Best last; scalar is left out, which is what the others were proven equal to, slowly."""
    return [isa["name"] for isa in _core.isas() if isa["built"] and isa["supported"] and isa["name"] != "scalar"]


def errors_by_type(
    data: Path, clips: Sequence[Clip], folder: Path, isas: Sequence[str], audio_ctx: int = 0
) -> dict[str, dict[str, Any]]:
    """For each type: mean relative error over the clips of the ``ggml`` engine and of each ISA of ``edge``.

    ``audio_ctx``: audio tokens from the beginning; 0: all.
    """
    base = write_model(folder / "base.bin", data / "whisper-base-encoder" / "encoder_f16.npz")
    f32 = convert_model(base, folder / "f32.bin", type="f32", proof="tensors").path
    pcms = [np.pad(pcm, (0, WINDOW_SAMPLES - len(pcm))) for pcm in (clip.pcm(data) for clip in clips)]
    mels = [log_mel_spectrogram(pcm) for pcm in pcms]
    exact = CoreModel(_core.read_model_file(f32))
    expected = [exact.encode_checked(mel, audio_ctx) for mel in mels]
    found: dict[str, dict[str, Any]] = {}
    for type_name in TYPES:
        model = base if type_name == "f16" else folder / f"{type_name}.bin"
        if type_name != "f16":
            convert_model(base, model, type=type_name, proof="tensors")
        outputs = {"ggml": encoder_outputs(model, pcms, _core.usable_cpus(), audio_ctx=audio_ctx)}
        for isa in isas:
            encoder = CoreModel(_core.read_model_file(model), isa)
            outputs[isa] = [encoder.encode_checked(mel, audio_ctx) for mel in mels]
        found[type_name] = {
            engine: float(np.mean([relative_error(o, e) for o, e in zip(of_engine, expected)]))
            for engine, of_engine in outputs.items()
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder with the corpora and whisper-base-encoder")
    parser.add_argument("--clips", type=int, default=6)
    options = parser.parse_args()
    clips = choose_clips(options.data)[0][: options.clips]
    isas = available_isas()
    with tempfile.TemporaryDirectory() as folder:
        found = errors_by_type(options.data, clips, Path(folder), isas)
    print(f"{len(clips)} clips, {_core.cpu_name()}, {_core.usable_cpus()} threads")
    print("| type | ggml | " + " | ".join(isas) + " |")
    print("|---|---|" + "---|" * len(isas))
    for type_name, errors in found.items():
        cells = [f"{errors[isa]:.5f} ({errors[isa] / errors['ggml']:.2f} x)" for isa in isas]
        print(f"| {type_name} | {errors['ggml']:.5f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
