"""The voice detector on our kernels against whisper.cpp's, in pieces, from damaged files; and what is silence."""

from __future__ import annotations

import random
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import _core
from whisperq_edge._audio.pcm import to_pcm
from whisperq_edge._audio.silence import NO_SOUND, STEADY_NOISE
from whisperq_edge._errors import AudioError, InternalError, ModelFormatError, ModelNotFoundError, UnknownIsaError
from whisperq_edge._system.native import data_file, load_ggml

from tests.support.arithmetic import flipped
from tests.support.instruction_sets import each_isa, runnable_isas
from tests.support.whole_audio import silent_spans, speech_probabilities

Samples = npt.NDArray[np.float32]

SILERO = data_file("assets/ggml-silero-v6.2.0.bin")
TOLERANCE = 1e-3
SECOND = 16_000
FIRST_TENSOR = 106  # bytes of the header
TYPE_AT, WINDOW_AT = 8, 30


@pytest.fixture(scope="module")
def vad() -> _core.Vad:
    return _core.Vad(str(SILERO))


@pytest.fixture(scope="module")
def whisper_cpp() -> Any:
    return load_ggml().Vad(str(SILERO), 1)


def assert_close(ours: Samples, theirs: Samples, tolerance: float = TOLERANCE) -> None:
    assert ours.dtype == np.float32 and ours.shape == theirs.shape
    assert not (np.abs(ours - theirs) > tolerance).any() and np.isfinite(ours).all()


# ---- Against whisper.cpp


@pytest.mark.parametrize("isa", each_isa())
def test_like_whisper_cpp(isa: str, sample_pcm: Samples, whisper_cpp: Any) -> None:
    vad = _core.Vad(str(SILERO), isa=isa)
    expected = whisper_cpp.probabilities(sample_pcm)
    assert vad.isa == isa and expected.max() > 0.9 and expected.min() < 0.1
    assert_close(vad.probabilities(sample_pcm), expected)


@pytest.mark.data
def test_like_whisper_cpp_on_real_speech(vad: _core.Vad, whisper_cpp: Any, speech_data: Path) -> None:
    books = sorted((speech_data / "librispeech-train-clean-100").rglob("*.opus"))[:10]
    letters = sorted((speech_data / "an4").rglob("*.flac"))[:10]
    assert len(books) + len(letters) == 20
    for path in books + letters:
        samples = to_pcm(path).samples
        assert_close(vad.probabilities(samples), whisper_cpp.probabilities(samples))


@pytest.mark.parametrize("n_samples", [0, 1, 511, 512, 513, 12 * 512, 12 * 512 + 1, 25 * 512 - 1])
def test_every_started_window_counts(n_samples: int, vad: _core.Vad, whisper_cpp: Any, sample_pcm: Samples) -> None:
    samples = sample_pcm[SECOND : SECOND + n_samples]
    assert_close(vad.probabilities(samples), whisper_cpp.probabilities(samples))


def test_kernels_agree(sample_pcm: Samples) -> None:
    scalar = _core.Vad(str(SILERO), isa="scalar").probabilities(sample_pcm)
    for isa in runnable_isas():
        assert_close(_core.Vad(str(SILERO), isa=isa).probabilities(sample_pcm), scalar)


# ---- Streams


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pieces_give_what_the_whole_gives(seed: int, vad: _core.Vad, sample_pcm: Samples) -> None:
    rng = random.Random(seed)
    stream, pieces, at = vad.stream(), [], 0
    while at < len(sample_pcm):
        n = rng.choice([0, 1, 7, 511, 512, 513, 1600, 5000, 20000])
        pieces.append(stream.feed(sample_pcm[at : at + n]))
        at += n
    pieces.append(stream.finish())
    np.testing.assert_array_equal(np.concatenate(pieces), vad.probabilities(sample_pcm))


def test_a_stream_begins_anew(vad: _core.Vad, sample_pcm: Samples) -> None:
    expected = vad.probabilities(sample_pcm[:SECOND])
    stream = vad.stream()
    stream.feed(sample_pcm[::-1].copy()[:5000])
    stream.finish()
    assert stream.finish().size == 0
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate([stream.feed(sample_pcm[:SECOND]), stream.finish()]), expected)


def test_clips_and_streams_leave_a_stream_alone(vad: _core.Vad, sample_pcm: Samples) -> None:
    expected = vad.probabilities(sample_pcm[:SECOND])
    stream = vad.stream()
    first = stream.feed(sample_pcm[:7000])
    vad.probabilities(sample_pcm)
    vad.stream().feed(sample_pcm)
    rest = [stream.feed(sample_pcm[7000:SECOND]), stream.finish()]
    np.testing.assert_array_equal(np.concatenate([first, *rest]), expected)


def test_threads_share_a_network(sample_pcm: Samples) -> None:
    expected = speech_probabilities(sample_pcm)
    found: list[Samples] = []
    threads = [threading.Thread(target=lambda: found.append(speech_probabilities(sample_pcm))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for each in found:
        np.testing.assert_array_equal(each, expected)


# ---- What callers get wrong, and what they may ask for


def test_not_finite(vad: _core.Vad, sample_pcm: Samples) -> None:
    for value in (np.nan, np.inf, -np.inf):
        damaged = sample_pcm[:SECOND].copy()
        damaged[700] = value
        stream = vad.stream()
        with pytest.raises(AudioError, match="sample 700 is"):
            stream.feed(damaged)
        with pytest.raises(AudioError, match="finite"):
            vad.probabilities(damaged)
        assert stream.finish().size == 0  # nothing of it was heard


def test_far_too_loud_is_forgotten(vad: _core.Vad, sample_pcm: Samples) -> None:
    loud = np.concatenate([np.full(2 * SECOND, 1e38, np.float32) * np.sign(sample_pcm[: 2 * SECOND]), sample_pcm])
    assert np.isfinite(vad.probabilities(loud)).all()


@pytest.mark.parametrize("samples", [np.zeros(512), np.zeros((1, 512), np.float32), np.zeros(512, np.int16)])
def test_not_pcm(samples: Any, vad: _core.Vad) -> None:
    for function in (vad.probabilities, vad.stream().feed):
        with pytest.raises(AudioError, match="float32, one-dimensional"):
            function(samples)


def test_strided_samples(vad: _core.Vad, sample_pcm: Samples) -> None:
    np.testing.assert_array_equal(vad.probabilities(np.repeat(sample_pcm, 2)[::2]), vad.probabilities(sample_pcm))


def test_should_stop(vad: _core.Vad, sample_pcm: Samples) -> None:
    assert vad.probabilities(sample_pcm, should_stop=lambda: True).size == 0
    long = np.resize(sample_pcm, 3600 * SECOND)
    answers = iter([False] * 2 + [True] * 100)
    assert 0 < vad.probabilities(long, lambda: next(answers)).size < 3600 * SECOND // 512

    def fail() -> bool:
        raise RuntimeError("from the caller")

    with pytest.raises(RuntimeError, match="from the caller"):
        vad.probabilities(sample_pcm, should_stop=fail)


def test_wrong_isa() -> None:
    with pytest.raises(UnknownIsaError, match="scalar"):
        _core.Vad(str(SILERO), isa="sse9")


# ---- Damaged files


def with_i32(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + struct.pack("<i", value) + data[at + 4 :]


def tensors(data: bytes) -> list[tuple[int, int, int]]:
    """Where each tensor's header begins, its values begin, and it ends."""
    found, at = [], FIRST_TENSOR
    while at < len(data):
        n_dims, n_name, type_ = struct.unpack_from("<3i", data, at)
        dims = struct.unpack_from(f"<{n_dims}i", data, at + 12)
        values = at + 12 + 4 * n_dims + n_name
        end = values + int(np.prod(dims, dtype=np.int64)) * (2 if type_ == 1 else 4)
        found.append((at, values, end))
        at = end
    return found


def damaged_copies(data: bytes) -> Iterator[tuple[str, bytes]]:
    rng = random.Random(7)
    table = tensors(data)
    assert len(table) == 15 and table[-1][2] == len(data)
    for length in [0, 3, 4, 20, FIRST_TENSOR - 1, FIRST_TENSOR, len(data) - 1, *(end for _, _, end in table[:-1])]:
        yield f"cut to {length}", data[:length]
    for length in rng.sample(range(len(data)), 20):
        yield f"cut to {length}", data[:length]
    versions = range(18, 30)
    for at in set(range(FIRST_TENSOR)) - set(versions):
        yield f"header byte {at} flipped", flipped(data, at, rng.randrange(8))
    for at in (TYPE_AT - 4, 18, 22, 26, WINDOW_AT, 38):
        for value in (-1, 2**31 - 1, -(2**31)):
            yield f"{value} at {at}", with_i32(data, at, value)
    for start, values, end in table:
        for at in range(start, values):
            yield f"byte {at} of a tensor's header flipped", flipped(data, at, rng.randrange(8))
        for field in range(start, start + 16, 4):
            for value in (-1, 2**31 - 1, -(2**31)):
                yield f"{value} at {field}", with_i32(data, field, value)
        yield "a tensor removed", data[:start] + data[end:]
        yield "a tensor twice", data[:end] + data[start:]
        not_finite = b"\x00\x7c" if struct.unpack_from("<i", data, start + 8)[0] == 1 else b"\x00\x00\xc0\x7f"
        yield "a value that is not finite", data[:values] + not_finite + data[values + len(not_finite) :]
    for extra in (b"\0", b"\xff" * 100):
        yield "bytes appended", data + extra


def test_damaged_files(tmp_path: Path) -> None:
    data = SILERO.read_bytes()
    path = tmp_path / "damaged.bin"
    n_copies = 0
    for name, copy in damaged_copies(data):
        path.write_bytes(copy)
        with pytest.raises(ModelFormatError) as caught:
            _core.Vad(str(path), isa="scalar")
            pytest.fail(f"{name}: was taken as whole")
        error = caught.value
        assert error.path == str(path) and error.field and error.allowed, name
        assert error.offset is not None and 0 <= error.offset <= len(copy), name
        n_copies += 1
    assert n_copies > 500


@pytest.mark.parametrize("isa", each_isa())
def test_weights_whose_sums_are_no_numbers_do_no_harm(isa: str, tmp_path: Path, sample_pcm: Samples) -> None:
    """Finite ones: infinity less infinity is what the LSTM's gates get."""
    data = bytearray(SILERO.read_bytes())
    for start, values, end in tensors(data):
        if struct.unpack_from("<i", data, start + 8)[0] == 0:  # f32
            signs = np.where(np.arange((end - values) // 4) % 3, 1, -1)
            data[values:end] = (signs * np.float32(3e38)).astype("<f4").tobytes()
    path = tmp_path / "huge.bin"
    path.write_bytes(data)
    vad = _core.Vad(str(path), isa=isa)
    assert vad.probabilities(sample_pcm).shape == vad.probabilities(np.zeros_like(sample_pcm)).shape


def test_an_error_says_where(tmp_path: Path) -> None:
    path = tmp_path / "window.bin"
    path.write_bytes(with_i32(SILERO.read_bytes(), WINDOW_AT, 256))
    with pytest.raises(ModelFormatError, match=r"at byte 30: window is 256; allowed: 512"):
        _core.Vad(str(path))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        _core.Vad(str(tmp_path / "none.bin"))
    with pytest.raises(ModelFormatError, match="directory"):
        _core.Vad(str(tmp_path))


def test_the_order_of_the_tensors_is_free(tmp_path: Path, vad: _core.Vad, sample_pcm: Samples) -> None:
    data = SILERO.read_bytes()
    path = tmp_path / "reversed.bin"
    path.write_bytes(data[:FIRST_TENSOR] + b"".join(data[start:end] for start, _, end in reversed(tensors(data))))
    np.testing.assert_array_equal(_core.Vad(str(path)).probabilities(sample_pcm), vad.probabilities(sample_pcm))


# ---- Silence


def noise(color: str, level_db: float, n_samples: int = 30 * SECOND) -> Samples:
    spectrum = np.fft.rfft(np.random.default_rng(3).standard_normal(n_samples))
    if color == "pink":
        spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
        spectrum[0] = 0
    samples = np.fft.irfft(spectrum, n_samples)
    return (samples / samples.std() * 10 ** (level_db / 20)).astype(np.float32)


def spans_of(samples: Samples) -> list[tuple[int, int, str]]:
    return [tuple(span) for span in silent_spans(samples, speech_probabilities(samples))]


@pytest.mark.parametrize("offset", [0.0, 0.25, -1.0, 1e-5])
def test_constant_audio_is_silent(offset: float) -> None:
    assert spans_of(np.full(30 * SECOND + 5, offset, np.float32)) == [(0, 30 * SECOND + 5, NO_SOUND)]


@pytest.mark.parametrize("level_db", [-35, -50, -65, -80])
@pytest.mark.parametrize("color", ["white", "pink"])
def test_quiet_noise_is_silent(color: str, level_db: float) -> None:
    for samples in (noise(color, level_db), noise(color, level_db) + np.float32(0.1)):
        assert spans_of(samples) == [(0, 30 * SECOND, STEADY_NOISE)]


def test_loud_noise_is_not_silent() -> None:
    assert spans_of(noise("white", -20)) == []


@pytest.mark.parametrize("attenuation_db", [0, 20, 40])
def test_speech_is_not_silent(attenuation_db: float, sample_pcm: Samples) -> None:
    is_speech = speech_probabilities(sample_pcm) > 0.5
    pause = np.zeros(125 * 512, np.float32)
    quiet = sample_pcm * np.float32(10 ** (-attenuation_db / 20))
    spans = spans_of(np.concatenate([pause, quiet, pause]))
    assert spans[0][0] == 0 and spans[0][1] >= pause.size - 5120
    assert spans[-1][0] <= pause.size + quiet.size + 6144 and spans[-1][1] == 2 * pause.size + quiet.size
    assert is_speech.sum() > 100
    for start, end, _ in spans:
        assert not is_speech[max(start // 512 - 125, 0) : max(-(-end // 512) - 125, 0)].any()


@pytest.mark.data
@pytest.mark.parametrize("attenuation_db", [20, 40])
def test_quiet_real_speech_is_not_silent(attenuation_db: float, speech_data: Path) -> None:
    books = sorted((speech_data / "librispeech-train-clean-100").rglob("*.opus"))[-10:]
    letters = sorted((speech_data / "an4").rglob("*.flac"))[-20:]
    for path in books + letters:
        samples = to_pcm(path).samples
        probabilities = speech_probabilities(samples)
        for start, end, _ in spans_of(samples * np.float32(10 ** (-attenuation_db / 20))):
            assert not (probabilities[start // 512 : -(-end // 512)] > 0.5).any(), path


def test_a_knock_is_not_silent() -> None:
    samples = noise("pink", -60)
    samples[10 * SECOND : 10 * SECOND + 800] *= 100
    (_, before, _), (after, _, _) = spans_of(samples)
    assert before <= 10 * SECOND - 4000 and after >= 10 * SECOND + 4800


def test_short_and_empty_audio() -> None:
    assert spans_of(np.zeros(100, np.float32)) == [(0, 100, NO_SOUND)]
    assert spans_of(np.zeros(0, np.float32)) == []


def test_as_many_probabilities_as_windows() -> None:
    with pytest.raises(InternalError, match="3 windows"):
        silent_spans(np.zeros(1100, np.float32), np.zeros(2, np.float32))
