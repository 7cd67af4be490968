"""Log-mel spectrograms: against openai/whisper, against float64, and against themselves cut in pieces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import AudioError, OptionError, UnknownIsaError, _core, log_mel_spectrogram
from whisperq_edge._whisper.mel_filters import mel_filters

from tests.support.instruction_sets import each_isa
from tests.support.paths import ROOT
from tests.support.sanitizers import TOOLS
from tests.support.sounds import noise

Floats = npt.NDArray[np.float32]

# Against the definition in float64. The transform is in double precision; what follows is a sum of positive terms in
# float32, and a logarithm of which a quarter is left, in values of up to 10 (rounded at 5e-7) and then of up to 2.5 (at
# 1e-7).
TOLERANCE = 5e-7

# Against openai/whisper, which transforms in float32: beside a pure tone that moves its own faintest mels by up to
# 1e-3, so its own distance from float64 is allowed there.
OPENAI_TOLERANCE = 1e-4

WINDOW_SAMPLES = 480_000
SHORT = [1, 2, 159, 160, 161, 199, 200, 201, 319, 320, 399, 400, 401, 479, 480]


def tone(hz: float, n: int = 24_000, amplitude: float = 1.0) -> Floats:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(n) / 16_000)).astype(np.float32)


def clips() -> dict[str, Floats]:
    square = np.sign(tone(100.0)).astype(np.float32)
    click = np.zeros(16_000, np.float32)
    click[7777] = 1.0
    fading = noise(48_000) * np.logspace(0, -12, 48_000).astype(np.float32)
    return {
        "silence": np.zeros(16_000, np.float32),
        "constant": np.ones(16_000, np.float32),
        "click": click,
        "440 Hz": tone(440.0),
        "between two bins": tone(1020.0),
        "lowest": tone(20.0),
        "nyquist": tone(8000.0) + np.cos(np.pi * np.arange(24_000)).astype(np.float32),
        "square": square,
        "clipped": np.clip(tone(3000.0, amplitude=9.0), -1.0, 1.0),
        "tone, then silence": np.concatenate([tone(1000.0), np.zeros(24_000, np.float32)]),
        "noise": noise(50_123),
        "faint noise": noise(50_123, amplitude=1e-6),
        "fading to nothing": fading,
        "loudest that is taken": noise(20_000, amplitude=12.0),
    }


CLIPS = clips()


def framed(pcm: Floats, padding: int = 0) -> npt.NDArray[np.float64]:
    """[n_frames, 400]: the windowed samples of each frame."""
    n_samples = pcm.size + padding
    padded = np.pad(pcm.astype(np.float64), (0, max(n_samples, 201) - pcm.size))
    reflected = np.pad(padded, 200, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    return np.stack([reflected[160 * t : 160 * t + 400] * window for t in range(n_samples // 160)])


def reference(pcm: Floats, n_mels: int = 80, padding: int = 0) -> npt.NDArray[np.float64]:
    """The definition, in float64 and as plain as it can be."""
    if pcm.size + padding < 160:
        return np.empty((n_mels, 0))
    power = np.abs(np.fft.rfft(framed(pcm, padding))) ** 2
    log = np.log10(np.maximum(mel_filters(n_mels).astype(np.float64) @ power.T, 1e-10))
    return (np.maximum(log, log.max() - 8.0) + 4.0) / 4.0


def ours(pcm: Floats, n_mels: int = 80, **options: Any) -> Floats:
    return _core.log_mel_spectrogram(pcm, mel_filters(n_mels), **options)


def error(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max()) if expected.size else 0.0


# ---- Against the definition ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", each_isa())
@pytest.mark.parametrize("name", CLIPS)
def test_float64(name: str, isa: str) -> None:
    assert error(ours(CLIPS[name], isa=isa), reference(CLIPS[name])) <= TOLERANCE


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("padding", [0, WINDOW_SAMPLES])
def test_float64_on_speech(sample_pcm: Floats, n_mels: int, padding: int) -> None:
    assert error(ours(sample_pcm, n_mels, padding=padding), reference(sample_pcm, n_mels, padding)) <= TOLERANCE


@pytest.mark.parametrize("padding", [0, 1, 200, 3 * 160 * 16 + 7])
@pytest.mark.parametrize("n", [0, *SHORT])
def test_float64_on_clips_of_few_samples(n: int, padding: int) -> None:
    pcm = noise(n, seed=n)
    mel = ours(pcm, padding=padding)
    assert mel.shape == (80, (n + padding) // 160)
    assert error(mel, reference(pcm, padding=padding)) <= TOLERANCE


def test_float64_at_every_number_of_frames_of_a_group() -> None:
    for n in range(800, 800 + 36 * 160, 160 - 7):
        assert error(ours(noise(n)), reference(noise(n))) <= TOLERANCE


def test_silence_is_what_the_clamp_makes_of_nothing() -> None:
    assert (ours(np.zeros(3200, np.float32)) == -1.5).all()
    assert (ours(np.empty(0, np.float32), padding=3200) == -1.5).all()


def test_padding_is_silence_behind_the_audio(sample_pcm: Floats) -> None:
    padded = np.concatenate([sample_pcm, np.zeros(5000, np.float32)])
    assert np.array_equal(ours(sample_pcm, padding=5000), ours(padded))


def test_filters_of_any_kind() -> None:
    """Rows with holes, with a single value and with none: no row is assumed to be a triangle."""
    filters = np.zeros((5, 201), np.float32)
    filters[0, [3, 9, 200]] = [0.5, 0.25, 0.125]
    filters[1, 0] = 1.0
    filters[3] = 1.0 / 201
    filters[4, 200] = 1.0
    power = np.abs(np.fft.rfft(framed(noise(8000)))) ** 2
    expected = np.log10(np.maximum(power @ filters.T, 1e-10))
    stream = _core.MelStream(filters)
    assert error(np.concatenate([stream.push(noise(8000)), stream.finish()]), expected) <= 4 * TOLERANCE
    assert (expected[:, 2] == -10).all()


# ---- Against openai/whisper ------------------------------------------------------------------------------------------


def theirs(pcm: Floats, n_mels: int = 80, padding: int = 0) -> Floats:
    pytest.importorskip("torch")
    whisper_audio = pytest.importorskip("whisper.audio")
    mel: Floats = whisper_audio.log_mel_spectrogram(pcm, n_mels, padding).numpy()
    return mel


@pytest.mark.parametrize("padding", [0, WINDOW_SAMPLES])
@pytest.mark.parametrize("name", CLIPS)
def test_openai(name: str, padding: int) -> None:
    assert error(ours(CLIPS[name], padding=padding), theirs(CLIPS[name], padding=padding)) <= OPENAI_TOLERANCE


def test_openai_on_tones_of_any_pitch() -> None:
    for hz in np.geomspace(15.0, 7900.0, 12):
        pcm = tone(hz, 8000)
        their_mel = theirs(pcm)
        their_error = error(their_mel, reference(pcm))
        assert error(ours(pcm), reference(pcm)) <= TOLERANCE
        assert error(ours(pcm), their_mel) <= max(OPENAI_TOLERANCE, their_error + TOLERANCE)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_openai_on_speech(sample_path: Path, sample_pcm: Floats, n_mels: int) -> None:
    mel = log_mel_spectrogram(sample_path, n_mels, WINDOW_SAMPLES)
    assert error(mel, theirs(sample_pcm, n_mels, WINDOW_SAMPLES)) <= OPENAI_TOLERANCE


@pytest.mark.parametrize("n", SHORT)
def test_openai_on_clips_of_few_samples(n: int) -> None:
    pcm = noise(n, seed=n)
    assert error(ours(pcm, padding=8000), theirs(pcm, padding=8000)) <= OPENAI_TOLERANCE
    if n > 200:
        assert error(ours(pcm), theirs(pcm)) <= OPENAI_TOLERANCE
    elif n >= 160:  # torch cannot reflect it; 201 samples make one frame as well
        assert error(ours(pcm), theirs(np.pad(pcm, (0, 201 - n)))) <= OPENAI_TOLERANCE


# ---- Against itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", each_isa())
def test_isas_agree(sample_pcm: Floats, isa: str) -> None:
    for pcm in (sample_pcm, CLIPS["noise"], CLIPS["tone, then silence"]):
        assert error(ours(pcm, isa=isa), ours(pcm, isa="scalar")) <= TOLERANCE


@pytest.mark.parametrize("isa", each_isa())
@pytest.mark.parametrize("n_threads", [2, 3, 8])
def test_any_number_of_threads_gives_the_same_bits(sample_pcm: Floats, n_threads: int, isa: str) -> None:
    one = ours(sample_pcm, padding=WINDOW_SAMPLES, n_threads=1, isa=isa)
    assert np.array_equal(ours(sample_pcm, padding=WINDOW_SAMPLES, n_threads=n_threads, isa=isa), one)


def streamed(pcm: Floats, cuts: list[int], padding: int, **options: Any) -> Floats:
    """The spectrogram of pieces, with the clamp put on at the end."""
    stream = _core.MelStream(mel_filters(80), **options)
    log = np.concatenate([*map(stream.push, np.split(pcm, cuts)), stream.finish(padding=padding)])
    normalised: Floats = (np.maximum(log, log.max(initial=-10.0) - np.float32(8.0)) + np.float32(4)) / np.float32(4)
    return normalised.T


@pytest.mark.parametrize("isa", each_isa())
@pytest.mark.parametrize("padding", [0, 1000, WINDOW_SAMPLES])
def test_a_stream_gives_the_same_bits(sample_pcm: Floats, padding: int, isa: str) -> None:
    rng = np.random.default_rng(padding)
    for n in (*SHORT, 5000, sample_pcm.size):
        pcm = sample_pcm[:n]
        expected = ours(pcm, padding=padding, isa=isa)
        for n_cuts in (0, 1, 7, 40):
            cuts = sorted(rng.integers(0, n + 1, n_cuts).tolist())
            assert np.array_equal(streamed(pcm, cuts, padding, isa=isa), expected)


def test_a_stream_yields_as_early_as_it_can_and_can_be_used_again() -> None:
    stream = _core.MelStream(mel_filters(80))
    pcm = noise(3333)
    for _ in range(2):
        pieces, n_pushed = [], 0
        for piece in np.split(pcm, range(50, 3333, 50)):
            pieces.append(stream.push(piece))
            n_pushed += piece.size
            n_frames = sum(map(len, pieces))
            assert n_frames == ((n_pushed - 200) // 160 + 1 if n_pushed > 200 else 0)
        assert sum(map(len, pieces)) + len(stream.finish()) == 3333 // 160
    assert stream.finish().shape == (0, 80)


# ---- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 77_777, 99_999])
def test_a_sample_that_is_no_number_is_named(value: float, place: int) -> None:
    pcm = noise(100_000)
    pcm[place] = value
    with pytest.raises(AudioError, match=f"sample {place} "):
        ours(pcm)
    stream = _core.MelStream(mel_filters(80))
    stream.push(noise(500))
    with pytest.raises(AudioError, match=f"sample {500 + place} "):
        stream.push(pcm)
    assert len(stream.push(noise(500))) + len(stream.finish()) == 1000 // 160 - 2  # two came with the first push


@pytest.mark.parametrize(
    "pcm",
    [np.zeros(1000), np.zeros(1000, np.int16), np.zeros((2, 1000), np.float32), np.zeros(1000, ">f4"), np.float32(1)],
    ids=["float64", "int16", "2-D", "big-endian", "0-D"],
)
def test_pcm_of_another_kind_is_refused(pcm: Any) -> None:
    with pytest.raises(AudioError, match="float32"):
        ours(np.asarray(pcm))


@pytest.mark.parametrize(
    "filters",
    [np.zeros((80, 200), np.float32), np.zeros((80, 201)), np.zeros((0, 201), np.float32), np.zeros(201, np.float32)],
)
def test_filters_of_another_kind_are_refused(filters: Any) -> None:
    with pytest.raises(ValueError, match="201"):
        _core.log_mel_spectrogram(noise(1000), filters)


@pytest.mark.parametrize("options", [{"padding": -1}, {"padding": 2**62}, {"n_threads": -1}])
def test_numbers_that_cannot_be_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ours(noise(1000), **options)


def test_strided_and_unaligned_memory() -> None:
    pcm = noise(6000)
    unaligned = np.frombuffer(b"x" + pcm.tobytes(), np.float32, offset=1)
    assert np.array_equal(ours(unaligned), ours(pcm))
    assert np.array_equal(ours(pcm[::3]), ours(pcm[::3].copy()))
    assert np.array_equal(ours(pcm[::-1]), ours(pcm[::-1].copy()))


@pytest.mark.parametrize("options", [{"n_mels": 0}, {"n_mels": 80.0}, {"padding": -1}, {"padding": True}])
def test_the_public_function_checks_its_options(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        log_mel_spectrogram(noise(1000), **options)


def test_the_public_function_takes_any_audio(sample_path: Path, sample_pcm: Floats) -> None:
    expected = ours(sample_pcm)
    assert np.array_equal(log_mel_spectrogram(sample_path), expected)
    assert np.array_equal(log_mel_spectrogram(sample_path.read_bytes(), n_mels=np.int64(80)), expected)


# ---- The instructions in use -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", each_isa())
def test_the_environment_chooses_the_isa(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    monkeypatch.setenv("WHISPERQ_ISA", isa)
    assert np.array_equal(ours(CLIPS["noise"]), ours(CLIPS["noise"], isa=isa))


def test_an_unknown_isa_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPERQ_ISA", "mmx")
    with pytest.raises(UnknownIsaError, match="scalar"):
        ours(noise(1000))
    with pytest.raises(UnknownIsaError, match="sse9"):
        ours(noise(1000), isa="sse9")


@pytest.mark.skipif(
    sys.platform != "linux" or not all(map(shutil.which, ["c++", "nm"])) or not (ROOT / "csrc").is_dir(),
    reason="needs a compiler, nm and the sources",
)
@pytest.mark.parametrize(
    "isa, flags",
    [
        ("baseline", []),
        ("avx2", ["-mavx2", "-mfma"]),
        ("avx512", ["-mavx2", "-mfma", "-mavx512f", "-mavx512vl", "-mavx512dq"]),
    ],
)
def test_an_isa_exports_its_kernel_and_leaves_nothing_weak(tmp_path: Path, isa: str, flags: list[str]) -> None:
    if flags and _core.cpu_family() != "x86_64":
        pytest.skip("flags of another family")
    object_file = tmp_path / "frames.o"
    source = ROOT / "csrc" / "audio" / f"mel_frames_{isa}.cpp"
    compile = ["c++", "-std=c++17", "-O1", f"-I{ROOT / 'csrc'}", *flags, "-c", source, "-o", object_file]
    subprocess.run([*map(os.fspath, compile)], env=TOOLS, check=True)
    listing = subprocess.run(["nm", object_file], capture_output=True, text=True, check=True).stdout
    kinds = {line.split()[-1]: line.split()[-2] for line in listing.splitlines()}
    exported = [name for name, kind in kinds.items() if kind.isupper() and kind != "U"]
    assert len(exported) == 1 and "kFrames" in exported[0]
    assert not set(kinds.values()) & set("WwVvu")
    # The compiler may call these for a copy; everything else would be code of ours in another object.
    assert {name for name, kind in kinds.items() if kind == "U"} <= {
        "memcpy",
        "memset",
        "memmove",
        "_GLOBAL_OFFSET_TABLE_",
    }
