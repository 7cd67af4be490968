"""Caches the mel power spectrogram (before the logarithm) of every utterance at three speeds in one memory-mapped file.

    python -m train_nano.mel_cache

Whisper's front end is log10, clamp and scale on top of this. Joining utterances, gain, added noise and padding are sums
and products of powers, so training windows are put together without going back to audio: augmentation costs nothing.
"""

import argparse
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from whisper.audio import HOP_LENGTH, N_FFT, mel_filters

from .corpora import SAMPLE_RATE, Utterance, add_data_options, read_all

SPEEDS = (0.9, 1.0, 1.1)
N_MELS = 80
FRAMES_PER_S = SAMPLE_RATE // HOP_LENGTH
SYNTHETIC_NOISES = ("white", "pink", "brown", "hum50", "hum60")


def read_audio(path: Path) -> tuple[np.ndarray, int]:
    """Mono PCM. Some Opus files of the noise corpus break off midway in libsndfile: what came before is kept."""
    blocks = []
    with soundfile.SoundFile(path) as file:
        try:
            while len(block := file.read(SAMPLE_RATE, dtype="float32", always_2d=True)):
                blocks.append(block.mean(axis=1))
        except soundfile.LibsndfileError:
            if not blocks:
                raise
        return np.concatenate(blocks), file.samplerate


def load_audio(path: Path, speed: float = 1.0) -> np.ndarray:
    pcm, rate = read_audio(path)
    return soxr.resample(pcm, rate * speed, SAMPLE_RATE) if rate * speed != SAMPLE_RATE else pcm


def power_mel(pcm: np.ndarray) -> np.ndarray:
    """(frames, 80) float32, exactly the `mel_spec` inside whisper.audio.log_mel_spectrogram."""
    audio = torch.from_numpy(np.ascontiguousarray(pcm, dtype=np.float32))
    if len(audio) <= N_FFT:  # reflection needs more samples than it mirrors
        audio = torch.nn.functional.pad(audio, (0, N_FFT + 1 - len(audio)))
    stft = torch.stft(audio, N_FFT, HOP_LENGTH, window=torch.hann_window(N_FFT), return_complex=True)
    return (mel_filters("cpu", N_MELS) @ stft[..., :-1].abs() ** 2).T.contiguous().numpy()


def log_mel(power: np.ndarray) -> np.ndarray:
    """Whisper's compression of one window: log10, at most 80 dB below the window's loudest value, scaled."""
    log = np.log10(np.maximum(power, 1e-10))
    return ((np.maximum(log, log.max() - 8.0) + 4.0) / 4.0).astype(np.float32)


def speech_bounds(power: np.ndarray) -> tuple[int, int]:
    """First and one-past-last frame that holds speech, by energy between the utterance's own floor and peak."""
    level = 10 * np.log10(power.sum(axis=1) + 1e-10)
    level = np.convolve(np.pad(level, 1, mode="edge"), np.ones(3) / 3, mode="valid")
    peak, floor = level.max(), np.percentile(level, 5)
    loud = np.flatnonzero(level > max(peak - 40.0, floor + 0.25 * (peak - floor)))
    return max(0, int(loud[0]) - 3), min(len(level), int(loud[-1]) + 4)


def synthetic_noise(kind: str, seconds: int = 20) -> np.ndarray:
    rng = np.random.default_rng(SYNTHETIC_NOISES.index(kind))
    n = seconds * SAMPLE_RATE
    if kind.startswith("hum"):
        t = np.arange(n) / SAMPLE_RATE
        tones = [np.sin(2 * np.pi * int(kind[3:]) * h * t + rng.uniform(0, 6.28)) / h for h in range(1, 12)]
        return np.sum(tones, axis=0).astype(np.float32) * 0.1
    spectrum = np.fft.rfft(rng.standard_normal(n))
    slope = {"white": 0.0, "pink": 0.5, "brown": 1.0}[kind]
    spectrum *= np.maximum(np.arange(len(spectrum)), 20.0) ** -slope
    pcm = np.fft.irfft(spectrum, n)
    return (0.1 * pcm / pcm.std()).astype(np.float32)


@dataclass
class MelCache:
    """`index[utterance, speed]` is (first frame, frames, speech begins, speech ends) in `frames`."""

    utterances: list[Utterance]
    index: np.ndarray
    frames: np.ndarray

    def power(self, utterance: int, speed: int = 1) -> np.ndarray:
        first, count, _, _ = self.index[utterance, speed]
        return self.frames[first : first + count]

    def bounds(self, utterance: int, speed: int = 1) -> tuple[int, int]:
        return int(self.index[utterance, speed, 2]), int(self.index[utterance, speed, 3])


def list_utterances(data: Path, cache: Path) -> list[Utterance]:
    noises = [Utterance("synthetic-noise", Path(kind), "", "train", "") for kind in SYNTHETIC_NOISES]
    return read_all(data, cache) + noises


def fingerprint(utterances: list[Utterance]) -> str:
    names = "\n".join(f"{u.corpus}/{u.path.name} {u.text}" for u in utterances)
    return hashlib.sha256(names.encode()).hexdigest()


def open_cache(data: Path, cache: Path) -> MelCache:
    utterances = list_utterances(data, cache)
    meta = json.loads((cache / "mel.json").read_text())
    if meta["fingerprint"] != fingerprint(utterances):
        raise SystemExit("the corpora changed since the mel cache was made: run `python -m train_nano.mel_cache` again")
    frames = np.memmap(cache / "mel.f32", dtype=np.float32, mode="r", shape=(meta["frames"], N_MELS))
    return MelCache(utterances, np.load(cache / "mel_index.npy"), frames)


def _features(utterance: Utterance) -> list[np.ndarray]:
    if utterance.corpus == "synthetic-noise":
        power = power_mel(synthetic_noise(utterance.path.name))
        return [power] * len(SPEEDS)
    return [power_mel(load_audio(utterance.path, speed)) for speed in SPEEDS]


def build(data: Path, cache: Path) -> None:
    utterances = list_utterances(data, cache)
    index = np.zeros((len(utterances), len(SPEEDS), 4), dtype=np.int64)
    total = 0
    torch.set_num_threads(1)
    with open(cache / "mel.f32", "wb") as file, ThreadPoolExecutor(2) as pool:
        for i, features in enumerate(pool.map(_features, utterances, chunksize=16)):
            for s, power in enumerate(features):
                index[i, s] = (total, len(power), *speech_bounds(power))
                total += len(power)
                file.write(power.astype(np.float32).tobytes())
    np.save(cache / "mel_index.npy", index)
    (cache / "mel.json").write_text(json.dumps({"frames": total, "fingerprint": fingerprint(utterances)}))
    print(f"{len(utterances)} utterances, {total / FRAMES_PER_S / 3600:.1f} h over {len(SPEEDS)} speeds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    build(options.data, options.cache)


if __name__ == "__main__":
    main()
