"""Speech and noise mixed at a signal-to-noise ratio; the same for the same seed.

The level of speech is that of its active frames: the mean power of those frames of 20 ms that are at most 30 dB below
the loudest one, so that pauses around a word do not make the noise softer. The level of noise is its mean power over
the piece that is mixed in. Every utterance gets one piece of one recording, and the same one at every ratio.
"""

from __future__ import annotations

import hashlib
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .._audio.pcm import to_pcm
from .._errors import DatasetError
from .._eval.data import AUDIO_SUFFIXES, Utterance, load_dataset
from .._system.arrays import Floats
from .._whisper.units import SAMPLE_RATE

__all__ = ["Noises", "active_power", "mix", "mixed_utterances", "write_wave"]


FRAME_SAMPLES = SAMPLE_RATE // 50
ACTIVE_BELOW_LOUDEST_DB = 30.0
_PEAK = 0.99
_SILENT_POWER = 1e-10  # -100 dB of full scale: nothing that could be made louder
_TRIES = 20


class Noises:
    """Recordings of noise.

    Args:
        place: a folder of audio files (all below it, in the order of their names), or a manifest.
        seed: of the choice of recording and piece.

    Raises:
        DatasetError: nothing is there, or nothing in it is audio.
    """

    def __init__(self, place: Path, seed: int = 0) -> None:
        self.place, self.seed = place, seed
        self.files = _files(place)
        self._loaded: dict[Path, Floats] = {}

    @property
    def identity(self) -> str:
        """Of the recordings, wherever they are, and the seed."""
        listing = "\n".join([f"{self.seed}", *(f"{file.name} {file.stat().st_size}" for file in self.files)])
        return hashlib.sha256(listing.encode("utf-8", "surrogatepass")).hexdigest()[:12]

    def piece(self, utterance: str, n_samples: int) -> tuple[Path, Floats]:
        """For one utterance: the recording, and ``n_samples`` of it from some place on, again from its start where it
        ends.

        Raises:
            DatasetError: one silence after the other was drawn.
        """
        digest = hashlib.sha256(f"{self.seed} {utterance}".encode("utf-8", "surrogatepass")).digest()
        rng = np.random.default_rng(list(digest))
        for _ in range(_TRIES):
            file = self.files[int(rng.integers(len(self.files)))]
            samples = self._samples(file)
            if not samples.size:
                continue
            start = int(rng.integers(samples.size))
            piece = np.resize(np.roll(samples, -start), n_samples)
            if _power(piece) > _SILENT_POWER:
                return file, piece
        raise DatasetError(str(self.place), None, f"{_TRIES} pieces drawn from it for {utterance} were all silent")

    def _samples(self, file: Path) -> Floats:
        if file not in self._loaded:
            self._loaded[file] = to_pcm(file).samples
        return self._loaded[file]


def _files(place: Path) -> list[Path]:
    if not place.exists():
        raise DatasetError(str(place), None, "there is no such file or folder")
    if place.is_file():
        return [each.audio for each in load_dataset(place).utterances]
    found = [path for path in sorted(place.rglob("*")) if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file()]
    if not found:
        raise DatasetError(str(place), None, f"there is no noise in it: looked for {', '.join(AUDIO_SUFFIXES)}")
    return found


def _power(samples: Floats) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64))) if samples.size else 0.0


def active_power(speech: Floats) -> float:
    """Mean square of the active frames (see the module); 0 where there is nothing but silence."""
    n_frames = speech.size // FRAME_SAMPLES
    if not n_frames:
        return _power(speech)
    frames = speech[: n_frames * FRAME_SAMPLES].reshape(n_frames, FRAME_SAMPLES).astype(np.float64)
    powers = np.mean(frames**2, axis=1)
    active = powers >= powers.max() * 10 ** (-ACTIVE_BELOW_LOUDEST_DB / 10)
    return float(powers[active].mean())


def mix(speech: Floats, noise: Floats, snr_db: float) -> Floats:
    """Both together, as long as they are; softer as a whole where they would clip.

    Args:
        speech: float32, 16 kHz.
        noise: as many samples, not silent.
        snr_db: level of speech over that of noise (see the module).
    """
    gain = np.sqrt(active_power(speech) / _power(noise) / 10 ** (snr_db / 10))
    mixed = speech + noise * np.float32(gain)
    peak = float(np.abs(mixed).max(initial=0.0))
    return np.asarray(mixed * np.float32(min(1.0, _PEAK / peak) if peak else 1.0), np.float32)


def write_wave(path: Path, samples: Floats) -> None:
    """16 bit, 16 kHz, mono."""
    codes = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(codes.tobytes())


def mixed_utterances(
    utterances: Sequence[Utterance], noises: Noises, snrs_db: Sequence[float], folder: Path
) -> dict[float, list[Utterance]]:
    """Every utterance at every ratio, as wave files in ``folder``.

    Raises:
        DatasetError: there is nothing but silence in the noise.
        AudioError, OSError: an utterance cannot be read.
    """
    found: dict[float, list[Utterance]] = {snr_db: [] for snr_db in snrs_db}
    of_noise = noises.identity
    for i, each in enumerate(utterances):
        speech = to_pcm(each.audio).samples
        _, noise = noises.piece(each.id, speech.size) if speech.size else (None, speech)
        for snr_db in snrs_db:
            path = folder / f"{i:06d}_{snr_db:g}dB.wav"
            write_wave(path, mix(speech, noise, snr_db) if speech.size else speech)
            name = f"{each.id} at {snr_db:g} dB of {of_noise}"
            found[snr_db].append(Utterance(name, path, each.text, each.speaker))
    return found
