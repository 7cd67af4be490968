"""Makes the sample clip that ships in the wheel: a few strings of digits and letters spoken by espeak-ng.

    python scripts/make_sample_clip.py python/whisperq_edge/assets

writes `sample.flac` (16 kHz, mono) and `sample.txt`, the words that are spoken. The strings are listed here once, and
`train_nano` keeps them out of its training data by importing `SAMPLE_STRINGS`.
"""

import argparse
import io
import subprocess
from pathlib import Path

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16_000
SAMPLE_STRINGS = (
    "seven three one nine",
    "m a r k",
    "five zero two eight",
    "eight two six four one",
)


def speak(text: str, voice: str = "en-us", words_per_minute: int = 150, pitch: int = 50) -> np.ndarray:
    """Returns `text` as 16 kHz float32 PCM."""
    # A lone "a" is an article to espeak-ng; the letter has to be given by its sound.
    spoken = " ".join("[[eI]]" if word == "a" else word.upper() if len(word) == 1 else word for word in text.split())
    command = ["espeak-ng", "-v", voice, "-s", str(words_per_minute), "-p", str(pitch), "--stdout", spoken]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    pcm, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    return soxr.resample(pcm, rate, SAMPLE_RATE).astype(np.float32)


def sample_clip(pause_s: float = 0.8) -> np.ndarray:
    pause = np.zeros(int(pause_s * SAMPLE_RATE), dtype=np.float32)
    pieces = [pause[: len(pause) // 2]]
    for text in SAMPLE_STRINGS:
        pieces += [speak(text), pause]
    return np.concatenate(pieces)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="directory that receives sample.flac and sample.txt")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    soundfile.write(out / "sample.flac", sample_clip(), SAMPLE_RATE, subtype="PCM_16")
    (out / "sample.txt").write_text(" ".join(SAMPLE_STRINGS) + "\n")


if __name__ == "__main__":
    main()
