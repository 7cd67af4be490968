"""Audio as a stream: the same samples, spans and transcripts as from an array, in memory that does not grow."""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import AudioError, CancelledError, CancelToken, WhisperModel
from whisperq_edge._audio import encoded as _encoded
from whisperq_edge._audio import pcm
from whisperq_edge._audio import samples as _samples
from whisperq_edge._audio.decoders import from_parts
from whisperq_edge._audio.decoding import Decoding
from whisperq_edge._audio.pcm import open_samples, to_pcm
from whisperq_edge._audio.samples import BLOCK_SAMPLES, ArraySamples, DecodedSamples, StoppedError, cut_samples
from whisperq_edge._audio.silence import NO_SOUND, STEADY_NOISE, SilenceScan
from whisperq_edge._audio.speech import SpeechScan
from whisperq_edge._audio.spliced import Part
from whisperq_edge._audio.timeline import SpeechTimeline
from whisperq_edge._vad_options import VadOptions

from tests.support.sounds import encoded, noise
from tests.support.whole_audio import speech_spans

soundfile = pytest.importorskip("soundfile")

RATE = 16_000
Floats = npt.NDArray[np.float32]


class Pipe:
    """read() and nothing else."""

    def __init__(self, content: bytes) -> None:
        self._stream = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps 10 s of audio instead of 5 minutes, so that short audio is treated as long audio is."""
    monkeypatch.setattr(_samples, "_KEPT_BLOCKS", 1)


# ---- Reading ---------------------------------------------------------------------------------------------------------


def decoder_of(samples: Floats, piece: int = 7001, missing: int = 0) -> Any:
    """Yields pieces in one buffer that is written to again; ``missing`` samples less from the second time on."""

    def decode(is_first: bool) -> Iterator[Floats]:
        buffer = np.empty(piece, np.float32)
        end = samples.size if is_first else samples.size - missing
        for at in range(0, end, piece):
            part = samples[at : min(at + piece, end)]
            buffer[: part.size] = part
            yield buffer[: part.size]

    return decode


def first_pass(samples: Any) -> Floats:
    blocks = list(samples.blocks())
    assert all(block.size == BLOCK_SAMPLES for block in blocks[:-1])
    return np.concatenate([np.empty(0, np.float32), *blocks])


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("n_samples", [0, 1, BLOCK_SAMPLES, BLOCK_SAMPLES + 1, 5 * BLOCK_SAMPLES, 1_000_000])
@pytest.mark.parametrize("piece", [7001, BLOCK_SAMPLES, 3 * BLOCK_SAMPLES + 5])
def test_any_part_can_be_read_in_any_order(n_samples: int, piece: int) -> None:
    expected = noise(n_samples)
    samples = DecodedSamples(decoder_of(expected, piece), "talk")
    assert np.array_equal(first_pass(samples), expected)
    assert (samples.size, samples.duration_s) == (n_samples, n_samples / RATE)
    dice = np.random.default_rng(n_samples)
    for _ in range(20):
        start = int(dice.integers(0, n_samples + 100))
        stop = start + int(dice.integers(0, 400_000))
        assert np.array_equal(samples.read(start, stop), expected[start:stop])
    assert np.array_equal(samples.whole(), expected)


@pytest.mark.usefixtures("forgetful")
def test_going_forward_decodes_once_more_and_holds_no_more_than_what_is_asked_for() -> None:
    expected = noise(20 * BLOCK_SAMPLES)
    samples = DecodedSamples(decoder_of(expected), "talk")
    most = 0
    for _ in samples.blocks():
        most = max(most, len(samples._blocks))
    assert most <= 2 and samples.n_passes == 1 and not samples.is_in_memory
    for start in range(0, expected.size, 100_000):
        samples.read(start, start + 480_400)
        assert len(samples._blocks) <= 5
    assert samples.n_passes == 2
    samples.read(0, 10)
    assert samples.n_passes == 3


def test_short_audio_is_decoded_once() -> None:
    expected = noise(4 * BLOCK_SAMPLES)
    samples = DecodedSamples(decoder_of(expected), "talk")
    first_pass(samples)
    assert samples.is_in_memory
    assert np.array_equal(samples.read(5, 300_000), expected[5:300_000])
    assert np.array_equal(samples.whole(), expected)
    assert samples.n_passes == 1


def test_arrays_are_served_as_they_are() -> None:
    array = noise(2 * BLOCK_SAMPLES)
    samples = open_samples(array)
    assert all(np.shares_memory(block, array) for block in samples.blocks())
    assert np.shares_memory(samples.read(5, 500_000), array) and np.shares_memory(samples.whole(), array)


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("of_array", [True, False])
def test_speech_that_is_cut_out(of_array: bool) -> None:
    expected = noise(6 * BLOCK_SAMPLES)
    spans = [(0, 5), (400, 400_000), (400_001, 400_002), (600_000, expected.size)]
    whole = np.concatenate([expected[start:end] for start, end in SpeechTimeline(spans, expected.size).spans])
    samples: Any = ArraySamples(expected) if of_array else DecodedSamples(decoder_of(expected), "talk")
    first_pass(samples)
    cut = cut_samples(samples, spans)
    assert cut.size == whole.size
    for start in range(0, whole.size, 90_000):
        assert np.array_equal(cut.read(start, start + 480_400), whole[start : start + 480_400])
    assert np.array_equal(first_pass(cut), whole)


# ---- Files -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_every_way_to_give_a_file_gives_the_same_twice(
    tmp_path: Path, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encoded(np.stack([noise(30 * rate), noise(30 * rate, 1)], axis=1), rate, format="FLAC")
    path = tmp_path / "talk.flac"
    path.write_bytes(content)
    expected = to_pcm(path).samples
    monkeypatch.setattr(_encoded, "_MOST_BYTES_IN_MEMORY", 100_000)
    monkeypatch.setattr(_encoded, "_READ_BYTES", 30_000)
    for given in (path, content, io.BytesIO(content), Pipe(content)):
        samples = open_samples(given)  # type: ignore[arg-type]
        assert np.array_equal(first_pass(samples), expected)
        assert np.array_equal(samples.read(1000, 300_000), expected[1000:300_000])
        assert samples.n_passes == 2
        samples.close()


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("change", ["append", "cut", "touch"])
def test_a_file_that_changes_is_an_error(tmp_path: Path, change: str) -> None:
    path = tmp_path / "talk.wav"
    path.write_bytes(encoded(noise(30 * RATE)))
    samples = open_samples(path)
    first_pass(samples)
    if change == "append":
        with open(path, "ab") as file:
            file.write(b"more")
    elif change == "cut":
        os.truncate(path, 500_000)
    else:
        os.utime(path, ns=(1, 1))
    with pytest.raises(AudioError, match=r"talk\.wav changed while it was transcribed"):
        samples.read(0, 100)
    samples.close()


@pytest.mark.parametrize("change", ["append", "cut", "touch"])
def test_a_file_that_loses_bytes_in_the_first_pass_is_an_error(tmp_path: Path, change: str) -> None:
    """What is appended meanwhile is no part of it."""
    path = tmp_path / "talk.wav"
    path.write_bytes(encoded(noise(30 * RATE), format="WAV"))
    samples = open_samples(path)
    samples.read(0, 100)
    if change == "append":
        with open(path, "ab") as file:
            file.write(bytes(100))
        assert first_pass(samples).size == 30 * RATE
        return
    if change == "cut":
        os.truncate(path, 500_000)
    else:
        os.utime(path, ns=(1, 1))
    with pytest.raises(AudioError, match=r"talk\.wav changed while it was transcribed"):
        first_pass(samples)


@pytest.mark.usefixtures("forgetful")
def test_fewer_samples_in_the_second_pass_are_an_error() -> None:
    samples = DecodedSamples(decoder_of(noise(30 * RATE), missing=RATE), "talk")
    first_pass(samples)
    samples.read(0, 20 * RATE)
    with pytest.raises(AudioError, match=r"at first it held 30\.00 s of audio, now 29\.00 s"):
        samples.read(20 * RATE, 30 * RATE)


@pytest.mark.usefixtures("forgetful")
def test_damage_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    content = encoded(noise(60 * RATE), format="FLAC")
    samples = open_samples(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING, "whisperq_edge"):
        heard = first_pass(samples)
        assert np.array_equal(samples.read(0, 10**9), heard)
    assert samples.n_passes == 2 and 20 < samples.duration_s < 31
    assert caplog.text.count("is damaged or cut off") == 1


def test_a_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "talk.wav"
    path.write_bytes(encoded(noise(RATE)))
    samples = open_samples(path)
    first_pass(samples)
    samples.close()
    path.rename(tmp_path / "moved.wav")  # Windows refuses it for a file that is open
    with pytest.raises(ValueError, match="closed"):
        to_pcm_again(samples)


def to_pcm_again(samples: Any) -> Floats:
    samples._blocks, samples._first = [], 1
    return samples.read(0, 10)


# ---- Stopping --------------------------------------------------------------------------------------------------------


def test_reading_stops_when_it_is_asked_to(tmp_path: Path) -> None:
    path = tmp_path / "talk.wav"
    path.write_bytes(encoded(noise(60 * RATE)))
    for given in (path, Pipe(path.read_bytes()), to_pcm(path).samples, to_pcm(path).samples.astype(np.float64)):
        asked: list[int] = []

        def should_stop(asked: list[int] = asked) -> bool:
            asked.append(1)
            return len(asked) > 2

        samples = open_samples(given, should_stop=should_stop)  # type: ignore[arg-type]
        with pytest.raises(StoppedError):
            first_pass(samples)
        samples.close()


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Children of nohup, as CI may be, inherit that SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("place", [0, 100_000])
def test_ctrl_c_within_libsndfile_is_not_lost(place: int, heeds_ctrl_c: None) -> None:
    class Interrupted(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            if place <= self.tell() < place + 5000:
                os.kill(os.getpid(), signal.SIGINT)
            return super().readinto(buffer)

    stream = Interrupted(encoded(noise(60 * RATE)))
    with pytest.raises(KeyboardInterrupt):
        list(from_parts([Part(stream)], Decoding("talk")))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class EndlessWav:
    """Header and noise without an end, as fast as it is read."""

    def __init__(self) -> None:
        self._next = encoded(noise(RATE))

    def read(self, size: int = -1) -> bytes:
        content, self._next = self._next, bytes(8192)
        return content


def test_a_call_ends_in_its_first_pass(nano_edge: WhisperModel) -> None:
    late_s = []
    for _ in range(3):
        began_s = time.monotonic()
        with pytest.raises(CancelledError, match=r"timeout_s=0\.1 went by") as caught:
            nano_edge.transcribe(EndlessWav(), timeout_s=0.1)  # type: ignore[arg-type]
        late_s.append(time.monotonic() - began_s - 0.1)
        assert caught.value.partial is not None and caught.value.partial.segments == []
        if late_s[-1] < 0.2:
            return
    pytest.fail(f"ended {late_s} s late")


@pytest.mark.parametrize("options", [{}, {"vad_filter": True}, {"batch_size": 2}], ids=str)
def test_cancelling_in_the_first_pass_over_a_file(
    nano_edge: WhisperModel, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "talk.flac"
    path.write_bytes(encoded(noise(120 * RATE), format="FLAC"))
    token, n_blocks = CancelToken(), 0
    feed = _samples.DecodedSamples._read_block

    def counted(self: Any, keep_from: int) -> bool:
        nonlocal n_blocks
        n_blocks += 1
        if n_blocks == 3:
            token.cancel()
        return feed(self, keep_from)

    monkeypatch.setattr(_samples.DecodedSamples, "_read_block", counted)
    with pytest.raises(CancelledError) as caught:
        nano_edge.transcribe(path, cancel=token, **options)
    assert n_blocks == 3
    assert caught.value.partial is not None and caught.value.partial.duration_s == pytest.approx(20.48)


# ---- Spans -----------------------------------------------------------------------------------------------------------


def talk(seconds: int, seed: int) -> tuple[Floats, Floats]:
    """Samples of loud, quiet and constant stretches, and probabilities of speech that go with them as often as not."""
    dice = np.random.default_rng(seed)
    n_windows = seconds * RATE // 512
    level = np.repeat(dice.choice([0.0, 1e-4, 1e-3, 0.1], n_windows // 20 + 1), 20)[:n_windows]
    samples = np.repeat(level, 512) * dice.standard_normal(n_windows * 512)
    samples = np.append(samples, dice.standard_normal(int(dice.integers(1, 512))) * 1e-3)
    probabilities = np.where(np.append(level, 1e-3) == 0.1, 0.9, 0.01)
    probabilities[dice.random(n_windows + 1) < 0.005] = 0.5
    return samples.astype(np.float32), probabilities.astype(np.float32)


def silence_at_once(samples: Floats, probabilities: Floats) -> list[tuple[int, int, str]]:
    """The slow and obvious version, over all windows at the same time."""
    windows = [samples[at : at + 512].astype(np.float64) for at in range(0, samples.size, 512)]
    levels = np.array([20 * np.log10(max(float(window.std()), 1e-12)) for window in windows])
    constant = levels < -120
    steady = constant.copy()
    for at in range(0, levels.size, 320):
        around = slice(max(at - 320, 0), at + 640)
        sounding = levels[around][~constant[around]]
        floor = np.percentile(sounding, 10) if sounding.size else -120.0
        steady[at : at + 320] |= levels[at : at + 320] <= min(floor + 10, -30)
    loud = np.flatnonzero(~((probabilities < 0.25) & steady))
    silent = np.array([loud.size == 0 or np.abs(loud - i).min() > 10 for i in range(levels.size)])
    edges = np.flatnonzero(np.diff(np.concatenate([[0], silent, [0]])))
    return [
        (int(a) * 512, min(int(b) * 512, samples.size), NO_SOUND if constant[a:b].all() else STEADY_NOISE)
        for a, b in zip(edges[::2], edges[1::2])
        if b - a >= min(32, levels.size)
    ]


@pytest.mark.parametrize("seed", range(6))
def test_silence_in_pieces_is_that_of_the_whole(seed: int) -> None:
    samples, probabilities = talk((3, 0, 10, 25, 64, 41)[seed], seed)
    if seed == 2:
        samples[:], probabilities[:] = 0, 0
    scan, heard, dice = SilenceScan(), 0, np.random.default_rng(seed)
    for start, stop in pieces_of(samples.size, dice):
        n_windows = stop // 512
        scan.push(samples[start:stop], probabilities[heard:n_windows])
        heard = n_windows
    scan.push(samples[:0], probabilities[heard:])
    found = [tuple(span) for span in scan.finish()]
    assert found == silence_at_once(samples, probabilities)
    assert found or seed in (0, 1)


def pieces_of(n_samples: int, dice: Any) -> list[tuple[int, int]]:
    cuts = np.unique(dice.integers(0, n_samples + 1, 9)).tolist()
    return list(zip([0, *cuts], [*cuts, n_samples]))


@pytest.mark.parametrize(
    "options", [VadOptions(), VadOptions(min_silence_duration_ms=160, max_speech_duration_s=5)], ids=["long", "short"]
)
def test_speech_in_pieces_is_that_of_the_whole(options: VadOptions) -> None:
    probabilities = np.random.default_rng(0).random(3000).astype(np.float32)
    probabilities = np.convolve(probabilities, np.ones(9) / 9, "same").astype(np.float32)
    scan = SpeechScan(options)
    for start, stop in pieces_of(3000, np.random.default_rng(1)):
        scan.push(probabilities[start:stop])
    found = list(scan.finish(3000 * 512 - 100))
    assert found == speech_spans(probabilities, 3000 * 512 - 100, options) and found


# ---- Transcripts -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def talk_file(tmp_path_factory: pytest.TempPathFactory, sample_pcm: Floats) -> Path:
    """45 s of speech, quiet noise, digital silence and speech, at 22.05 kHz."""
    pause = np.concatenate([noise(12 * RATE) * np.float32(0.01), np.zeros(12 * RATE, np.float32)])
    parts = np.concatenate([sample_pcm, pause, sample_pcm * np.float32(0.5)])
    path = tmp_path_factory.mktemp("talk") / "talk.flac"
    path.write_bytes(encoded(np.stack([parts, parts], axis=1), 22_050, format="FLAC"))
    return path


OPTIONS: list[dict[str, Any]] = [
    {},
    {"batch_size": 3},
    {"vad_filter": True, "vad_parameters": {"min_silence_duration_ms": 300}},
    {"batch_size": 2, "vad_filter": True, "audio_ctx": "auto"},
    {"clip_timestamps": [3, 15, 15, 24, 36], "drop_silence": False},
    {"clip_timestamps": "1,9,14,20,36,42", "batch_size": 4},
    {"word_timestamps": True, "language": None, "language_detection_segments": 2, "language_detection_threshold": 1.0},
]


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_stream_has_the_transcript_of_an_array(
    micro_edge: WhisperModel, talk_file: Path, options: dict[str, Any]
) -> None:
    common = {"language": "en", "temperature": 0.0, "beam_size": 1, "max_new_tokens": 6, "log_prob_threshold": None}
    content = talk_file.read_bytes()
    expected: Optional[list[Any]] = None
    for audio in (to_pcm(talk_file).samples, talk_file, content, io.BytesIO(content), Pipe(content)):
        starts: list[Any] = []
        heard = micro_edge._transcribe(
            audio,  # type: ignore[arg-type]
            {**common, **options},
            on_start=lambda *started: starts.append(started),  # noqa: B023
        )
        runs = {stage: row.runs for stage, row in heard.timings.items() if stage != "audio_decode"}
        found = [heard.segments, heard.dropped, heard.duration_s, heard.language, starts, runs]
        assert heard.segments and starts and bool(heard.dropped) == (options.get("batch_size") == 4)
        expected = expected or found
        assert found == expected


def test_silence_and_nothing_come_out_of_files_as_out_of_arrays(nano_edge: WhisperModel) -> None:
    for samples in (np.zeros(0, np.float32), np.zeros(45 * RATE, np.float32)):
        for options in ({}, {"batch_size": 2}, {"vad_filter": True}):
            of_array = nano_edge.transcribe(samples, **options)  # type: ignore[arg-type]
            of_bytes = nano_edge.transcribe(encoded(samples), **options)  # type: ignore[arg-type]
            assert of_bytes.segments == of_array.segments == []
            assert (of_bytes.dropped, of_bytes.duration_s) == (of_array.dropped, of_array.duration_s)


@pytest.mark.usefixtures("forgetful")
def test_a_file_that_changes_ends_the_call(micro_edge: WhisperModel, tmp_path: Path, talk_file: Path) -> None:
    path = tmp_path / "talk.flac"
    path.write_bytes(talk_file.read_bytes())

    def append(*_: Any) -> None:
        with open(path, "ab") as file:
            file.write(b"more")

    with pytest.raises(AudioError, match="changed while it was transcribed"):
        micro_edge._transcribe(path, {"language": "en", "max_new_tokens": 3, "temperature": 0.0}, on_start=append)


# ---- The first samples, a full disk ----------------------------------------------------------------------------------


class Counted(io.BytesIO):
    """Counts the bytes that a decoder asks for."""

    n_read = 0

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        self.n_read += count
        return count


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_the_first_samples_are_those_of_the_whole_and_the_rest_is_not_decoded(
    rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encoded(noise(60 * rate), rate, format="FLAC")
    expected = to_pcm(content).samples
    stream = Counted(content)
    monkeypatch.setattr(pcm, "kept", lambda given, should_stop: given)
    assert np.array_equal(pcm.first_samples(stream, 200_000), expected[:200_000])
    assert stream.n_read < 0.6 * len(content)
    assert np.array_equal(pcm.first_samples(content, 10**9), expected)
    assert pcm.first_samples(noise(5), 3).size == 3 and pcm.first_samples(noise(0), 3).size == 0


def test_the_first_samples_of_an_array_are_checked() -> None:
    wrong = noise(1_000_000)
    wrong[100] = np.nan
    with pytest.raises(AudioError, match="nan at sample 100 "):
        pcm.first_samples(wrong, 10)
    with pytest.raises(AudioError, match="dtype"):
        pcm.first_samples(np.zeros(100, np.int64), 10)


def test_a_first_pass_that_has_begun_goes_on() -> None:
    expected = noise(4 * BLOCK_SAMPLES + 5)
    samples = DecodedSamples(decoder_of(expected), "talk")
    assert samples.read(0, 1).size == 1
    assert np.array_equal(samples.whole(), expected) and samples.n_passes == 1


def full_disk(**_: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


class FullFile(io.BytesIO):
    def write(self, content: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("temporary", [full_disk, FullFile])
def test_a_full_disk_is_said(temporary: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_encoded, "_MOST_BYTES_IN_MEMORY", 100_000)
    monkeypatch.setattr(_encoded, "_READ_BYTES", 50_000)
    monkeypatch.setattr(_encoded.tempfile, "TemporaryFile", temporary)
    with pytest.raises(OSError, match="No space left on device") as caught:
        to_pcm(Pipe(bytes(300_000)))  # type: ignore[arg-type]
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.skipif(sys.platform == "win32", reason="has no limits on files")
def test_a_file_that_may_not_grow_is_said() -> None:
    program = """
import io, resource, signal, sys
from whisperq_edge._audio.pcm import to_pcm
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
class Pipe(io.BytesIO):
    seekable = lambda self: False
try:
    to_pcm(Pipe(bytes(40 * 2**20)))
except OSError as error:
    print(error.errno)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(errno.EFBIG)]
