"""OpenAI's own weights give no text for sounds that nobody spoke, and keep the text of speech."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import WhisperModel

pytestmark = pytest.mark.real

Floats = npt.NDArray[np.float32]
RATE = 16_000


@pytest.fixture(scope="module")
def tiny_en(real_tiny_en_path: Path) -> Iterator[WhisperModel]:
    with WhisperModel(real_tiny_en_path, engine="edge", device="cpu") as model:
        yield model


@pytest.fixture(scope="module")
def base(real_base_path: Path) -> Iterator[WhisperModel]:
    with WhisperModel(real_base_path, engine="edge", device="cpu") as model:
        yield model


def sounds() -> dict[str, Floats]:
    times = np.arange(5 * RATE) / RATE
    noise = np.random.default_rng(0).standard_normal(times.size)
    brown = np.cumsum(noise) - np.linspace(0, np.cumsum(noise)[-1], times.size)
    made = {
        "silence": np.zeros(times.size),
        "white noise": noise * 0.1,
        "brown noise": brown / np.abs(brown).max() * 0.5,
        "hum": 0.3 * np.sin(2 * np.pi * 50 * times) + 0.1 * np.sin(2 * np.pi * 100 * times),
        "tone": 0.3 * np.sin(2 * np.pi * 440 * times),
        "beeps": 0.3 * np.sin(2 * np.pi * 1000 * times) * (times % 1 < 0.1),
    }
    return {name: samples.astype(np.float32) for name, samples in made.items()}


@pytest.mark.parametrize("kind", sorted(sounds()))
@pytest.mark.parametrize("model", ["tiny_en", "base"])
def test_sounds_without_words_give_no_text(model: str, kind: str, request: pytest.FixtureRequest) -> None:
    assert request.getfixturevalue(model).transcribe(sounds()[kind]).text == ""


def test_what_was_dropped_is_told(tiny_en: WhisperModel) -> None:
    brown = sounds()["brown noise"]
    assert [part.reason[:15] for part in tiny_en.transcribe(brown).dropped] == ["no speech heard"]
    assert tiny_en.transcribe(brown, drop_silence=False).dropped == ()


@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_speech_keeps_its_text_however_quiet(tiny_en: WhisperModel, sample_pcm: Floats, gain: float) -> None:
    quiet = sample_pcm * np.float32(gain)
    checked = tiny_en.transcribe(quiet, temperature=0.0)
    assert checked.dropped == ()
    assert checked.text == tiny_en.transcribe(quiet, temperature=0.0, drop_silence=False).text != ""
