"""How often a quantised file predicts the token that the float32 file does: both engines on the same files.

    python scripts/measure_agreement.py ../shared/data          prints the table of docs/parity.md
    python scripts/measure_agreement.py ../shared/data --models nano --n 20

Teacher-forced: the f32 model's own tokens are given to the decoder, and at each of them its first choice is compared
with that of the f32 file. Models: nano, and a `tiny` with random weights, whose logits are far closer to each other.

Both engines see the same tokens, so the tokens that only one of them gets right say which is the better one: the last
column is the probability of a split at least that uneven if neither is (sign test, two-sided).
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from whisperq_edge import WhisperModel, _core, log_mel_spectrogram
from whisperq_edge._audio.pcm import to_pcm
from whisperq_edge._convert.convert import convert_model
from whisperq_edge._convert.probe import run_probe
from whisperq_edge._whisper.dims import prompt_tokens

Floats = npt.NDArray[np.float32]
Choices = npt.NDArray[np.int64]

ROOT = Path(__file__).resolve().parents[1]
TYPES = ("f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
MOST_TOKENS = 60
HEAD = "| type | tokens | edge | ggml | only edge | only ggml | p |\n|---|---|---|---|---|---|---|"


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


def agreeing(found: Sequence[Choices], expected: Sequence[Choices]) -> npt.NDArray[np.bool_]:
    """Of every token, whether both choose it."""
    return np.concatenate([a == b for a, b in zip(found, expected)])


def sign_test(n_ours: int, n_theirs: int) -> float:
    """The probability that fair coins split ``n_ours`` + ``n_theirs`` at least as unevenly, either way."""
    n, fewer = n_ours + n_theirs, min(n_ours, n_theirs)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)


def row(type_name: str, ours: npt.NDArray[np.bool_], theirs: npt.NDArray[np.bool_]) -> str:
    """Of the table."""
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    shares = " | ".join(f"{100 * each.mean():.2f} %" for each in (ours, theirs))
    alone = f"{only_ours} | {only_theirs} | {sign_test(only_ours, only_theirs):.2f}"
    return f"| {type_name} | {len(ours)} | {shares} | {alone} |"


def measure(source: Path, types: Sequence[str], pcms: Sequence[Floats], folder: Path) -> None:
    f32 = folder / "f32.bin"
    convert_model(source, f32, type="f32", proof="tensors")
    sequences = [*spoken_tokens(f32, pcms)]
    expected = edge_choices(f32, pcms, sequences)
    for type_name in types:
        path = folder / f"{type_name}.bin"
        convert_model(source, path, type=type_name, proof="tensors")
        ours = agreeing(edge_choices(path, pcms, sequences), expected)
        theirs = agreeing(ggml_choices(path, pcms, sequences), expected)
        print(row(type_name, ours, theirs), flush=True)


def main() -> None:
    import sys

    sys.path.insert(0, str(ROOT))
    from measure_parity import choose_files

    from tests.support.make_model import write_nano_checkpoint, write_random_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder with the corpora")
    parser.add_argument("--n", type=int, default=60, help="clips (60)")
    parser.add_argument("--models", default="nano,tiny", help="nano, and tiny with random weights")
    parser.add_argument("--types", default=",".join(TYPES), help=f"some of them ({','.join(TYPES)})")
    given = parser.parse_args()
    types = given.types.split(",")
    pcms = []
    for path in choose_files(given.data, given.n):
        pcm = to_pcm(path).samples[:480000]
        pcms.append(np.pad(pcm, (0, 480000 - len(pcm))))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in given.models.split(","):
            print(f"\n{model}\n\n{HEAD}")
            if model == "nano":
                measure(write_nano_checkpoint(folder / "nano.en.pt"), types, pcms, folder)
            else:
                measure(write_random_model(folder / "random.bin", model, "f32", seed=1), types, pcms, folder)


if __name__ == "__main__":
    main()
