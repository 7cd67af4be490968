"""How often a quantised file predicts the token that the float32 file does: both engines on the same files.

    python scripts/measure_agreement.py ../shared/data          prints the table of docs/parity.md

Teacher-forced: the f32 model's own tokens are given to the decoder, and at each of them its first choice is compared
with that of the f32 file. Models: nano, and a `tiny` with random weights, whose logits are far closer to each other.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from whisperq_edge import WhisperModel, _core, log_mel_spectrogram
from whisperq_edge._convert.convert import convert_model
from whisperq_edge._convert.probe import prompt_tokens, run_probe

Floats = npt.NDArray[np.float32]
Choices = npt.NDArray[np.int64]

ROOT = Path(__file__).resolve().parents[1]
TYPES = ("f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
MOST_TOKENS = 60


def edge_choices(path: Path, pcms: Sequence[Floats], sequences: Sequence[Sequence[int]]) -> list[Choices]:
    """The first choice behind each token of each clip's sequence."""
    model = _core.EdgeModel(os.fspath(path), "auto", 1)
    choices = []
    for pcm, tokens in zip(pcms, sequences):
        audio = model.listen(model.encode(log_mel_spectrogram(pcm), 1500))
        choices.append(model.logits(audio, list(tokens), 0).argmax(axis=1))
    return choices


def ggml_choices(path: Path, pcms: Sequence[Floats], sequences: Sequence[Sequence[int]]) -> list[Choices]:
    """Without whisper.cpp's fused attention, which leaves the padding of the keys unmasked."""
    return [
        run_probe(path, pcm, [tokens], n_threads=1, flash_attention=False).logits[0].argmax(axis=1)
        for pcm, tokens in zip(pcms, sequences)
    ]


def spoken_tokens(f32: Path, pcms: Sequence[Floats]) -> Iterator[list[int]]:
    """The prompt and up to 60 tokens that the f32 model finds greedily."""
    with WhisperModel(f32, engine="edge", cpu_threads=1) as model:
        prompt = prompt_tokens(model.dims["n_vocab"])
        for pcm in pcms:
            found = model.transcribe(
                pcm, language="en", beam_size=1, temperature=0.0, without_timestamps=True, max_new_tokens=MOST_TOKENS
            )
            text = [token for segment in found for token in segment.tokens]
            yield [*prompt, *text][: len(prompt) + MOST_TOKENS]


def agreement(found: Sequence[Choices], expected: Sequence[Choices]) -> tuple[int, int]:
    """Tokens on which both agree, of how many."""
    return sum(int((a == b).sum()) for a, b in zip(found, expected)), sum(len(b) for b in expected)


def measure(source: Path, pcms: Sequence[Floats], folder: Path) -> None:
    f32 = folder / "f32.bin"
    convert_model(source, f32, type="f32", proof="tensors")
    sequences = [*spoken_tokens(f32, pcms)]
    expected = edge_choices(f32, pcms, sequences)
    for type_name in TYPES:
        path = folder / f"{type_name}.bin"
        convert_model(source, path, type=type_name, proof="tensors")
        ours, n = agreement(edge_choices(path, pcms, sequences), expected)
        theirs, _ = agreement(ggml_choices(path, pcms, sequences), expected)
        print(f"| {type_name} | {n} | {100 * ours / n:.2f} % | {100 * theirs / n:.2f} % |", flush=True)


def main() -> None:
    import sys

    sys.path.insert(0, str(ROOT / "tests"))
    from make_model import write_random_model
    from measure_quantisation import choose_clips

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder with the corpora")
    given = parser.parse_args()
    pcms = [np.resize(np.zeros(1, np.float32), 480000) for _ in range(20)]
    for window, clip in zip(pcms, choose_clips(given.data)[0]):
        pcm = clip.pcm(given.data)
        window[: len(pcm)] = pcm
    print("| type | tokens | edge | ggml |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure(ROOT / "scripts" / "train_nano" / "weights" / "nano.en.pt", pcms, folder)
        measure(write_random_model(folder / "tiny.bin", "tiny", "f32", seed=1), pcms, folder)


if __name__ == "__main__":
    main()
