"""Audio of every kind to PCM: against soxr in one go, and everything that can be wrong with it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whisperq_edge._audio import mono, spliced
from whisperq_edge._audio.decoders import from_parts
from whisperq_edge._audio.decoding import Decoding
from whisperq_edge._audio.mono import MAX_PEAK
from whisperq_edge._audio.pcm import to_pcm, to_stereo
from whisperq_edge._errors import AudioError, AudioFormatError, EmptyAudioError, OptionError
from whisperq_edge._whisper.units import SAMPLE_RATE

from tests.support.sounds import encoded

soundfile = pytest.importorskip("soundfile")
soxr = pytest.importorskip("soxr")

RATES = [8000, 11025, 16000, 44100, 48000, 96000]

# format, subtype, extension, largest error against the samples that went in (lossy: root mean square): one step of the
# format, or four where the steps are so fine that the resampler's own float32 rounding shows.
FORMATS = [
    ("WAV", "PCM_16", "wav", 2**-15),
    ("WAV", "PCM_24", "wav", 2**-21),
    ("WAV", "PCM_U8", "wav", 2**-7),
    ("WAV", "FLOAT", "wav", 2**-22),
    ("WAV", "DOUBLE", "wav", 2**-22),
    ("FLAC", "PCM_16", "flac", 2**-15),
    ("AIFF", "PCM_16", "aiff", 2**-15),
    ("OGG", "VORBIS", "ogg", 0.02),
    ("OGG", "OPUS", "opus", 0.05),
    ("MP3", "MPEG_LAYER_III", "mp3", 0.02),
]
LOSSY = {"VORBIS", "OPUS", "MPEG_LAYER_III"}


def tones(rate: int, channels: int = 1, seconds: float = 0.7) -> np.ndarray[Any, Any]:
    """(samples, channels): a chord below 2 kHz, with a different pitch in each channel."""
    t = np.arange(round(rate * seconds)) / rate
    pitch = 220.0 * (1.0 + np.arange(channels) / 4.0)
    return (0.3 * np.sin(2 * np.pi * t[:, None] * pitch) + 0.1 * np.sin(2 * np.pi * 997.0 * t[:, None])).astype("f4")


def one_go(samples: np.ndarray[Any, Any], rate: float) -> np.ndarray[Any, Any]:
    """The slow and obvious version."""
    mono = samples.astype(np.float64).mean(axis=1) if samples.ndim == 2 else samples
    mono = mono.astype(np.float32)
    return mono if rate == SAMPLE_RATE else np.asarray(soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ"))


def assert_pcm(samples: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], tolerance: float) -> None:
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert samples.flags.c_contiguous
    assert abs(samples.size - expected.size) <= 1
    length = min(samples.size, expected.size)
    error = float(np.abs(samples[:length] - expected[:length]).max(initial=0.0))
    assert error <= tolerance, error


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("channels", [1, 2])
def test_rates(rate: int, channels: int) -> None:
    samples = tones(rate, channels, seconds=1.3)
    pcm = to_pcm(encoded(samples, rate, subtype="FLOAT"))
    assert_pcm(pcm.samples, one_go(samples, rate), 1e-6)
    assert pcm.duration_s == pcm.samples.size / SAMPLE_RATE == pytest.approx(1.3, abs=1e-3)
    assert pcm.decode_ms > 0.0


@pytest.mark.parametrize("channels", range(1, 9))
@pytest.mark.parametrize("rate", [16000, 44100])
def test_channels(rate: int, channels: int) -> None:
    samples = tones(rate, channels)
    assert_pcm(to_pcm(encoded(samples, rate, subtype="FLOAT")).samples, one_go(samples, rate), 1e-6)


@pytest.mark.parametrize("as_what", ["file", "array", "mp3"])
def test_channels_that_cancel_each_other_out_are_told(as_what: str, caplog: pytest.LogCaptureFixture) -> None:
    left = tones(16000, 1)[:, 0]
    wired_wrong, right = np.stack([left, -left], axis=1), np.stack([left, np.zeros_like(left)], axis=1)

    def heard(samples: Any) -> float:
        kind = ("MP3", "MPEG_LAYER_III") if as_what == "mp3" else ("WAV", "PCM_16")
        return float(np.abs(to_pcm(samples if as_what == "array" else encoded(samples, 16000, *kind)).samples).max())

    with caplog.at_level(logging.WARNING, "whisperq_edge"):
        assert heard(right) > 0.01 and caplog.text == ""
        assert heard(wired_wrong) < 0.01
    [record] = caplog.records
    assert "has channels that cancel each other out" in record.getMessage()


@pytest.mark.parametrize(("format", "subtype", "extension", "tolerance"), FORMATS)
@pytest.mark.parametrize("rate", [16000, 48000])
def test_formats(tmp_path: Path, format: str, subtype: str, extension: str, tolerance: float, rate: int) -> None:
    if subtype not in soundfile.available_subtypes(format):
        pytest.skip(f"this libsndfile has no {subtype}")
    samples = tones(rate, 2, seconds=2.0)
    path = tmp_path / f"talk.{extension}"
    path.write_bytes(encoded(samples, rate, format, subtype))
    decoded, _ = soundfile.read(path, dtype="float32", always_2d=True)
    pcm = to_pcm(path).samples
    assert_pcm(pcm, one_go(decoded, rate), 1e-6)
    expected = one_go(samples, rate)
    if subtype not in LOSSY:
        assert_pcm(pcm, expected, tolerance)
        return
    middle = slice(SAMPLE_RATE // 4, SAMPLE_RATE)  # lossy codecs smear the ends, and some shift by their delay
    shift = best_shift(pcm[middle], expected, SAMPLE_RATE // 4)
    error = pcm[middle] - expected[SAMPLE_RATE // 4 + shift :][: pcm[middle].size]
    assert float(np.sqrt((error**2).mean())) <= tolerance


def best_shift(part: np.ndarray[Any, Any], whole: np.ndarray[Any, Any], start: int, reach: int = 1600) -> int:
    shifts = range(-min(reach, start), reach)
    return min(shifts, key=lambda shift: float(((part - whole[start + shift :][: part.size]) ** 2).sum()))


@pytest.mark.parametrize("rate", [1, 2, 50, 767, 192_000, 768_000])
def test_odd_rates(rate: int) -> None:
    samples = np.linspace(-0.5, 0.5, max(3 * rate // 2, 3), dtype=np.float32)
    assert_pcm(to_pcm(encoded(samples, rate, subtype="FLOAT")).samples, one_go(samples, rate), 1e-6)


def test_every_way_to_give_a_file(tmp_path: Path) -> None:
    samples = tones(22050)
    content = encoded(samples, 22050)
    path = tmp_path / "Gespräch mit 世界 (1).wav"
    path.write_bytes(content)
    expected = to_pcm(path).samples
    assert expected.size == round(0.7 * SAMPLE_RATE)
    with open(path, "rb") as stream:
        assert_pcm(to_pcm(stream).samples, expected, 0.0)
    for given in (str(path), content, bytearray(content), memoryview(content), io.BytesIO(content), NoSeek(content)):
        assert_pcm(to_pcm(given).samples, expected, 0.0)  # type: ignore[arg-type]


class NoSeek:
    """A pipe or a socket: read() and nothing else."""

    def __init__(self, content: bytes) -> None:
        self._stream = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)


def test_a_file_object_is_read_from_where_it_stands() -> None:
    stream = io.BytesIO(b"header" + encoded(tones(16000), 16000))
    stream.seek(6)
    assert to_pcm(stream).samples.size == 11200


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with a name")
def test_a_named_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    write = "import sys; open(sys.argv[1], 'wb').write(bytes.fromhex(sys.argv[2]))"
    content = encoded(tones(8000, seconds=0.1), 8000)
    with subprocess.Popen([sys.executable, "-c", write, str(path), content.hex()]):
        assert to_pcm(path).samples.size == 1600


@pytest.mark.parametrize("name", ["talk.raw", "talk.mp3", "talk", "talk.json"])
def test_the_content_counts_and_not_the_extension(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(encoded(tones(16000), 16000))
    assert to_pcm(path).samples.size == 11200


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.wav"):
        to_pcm(tmp_path / "missing.wav")
    with pytest.raises(FileNotFoundError, match="download it first"):
        to_pcm("https://example.org/talk.mp3")


@pytest.mark.parametrize(
    ("path", "said"),
    [("", "the path of the audio is empty"), ("a\0b.wav", r"'a\\x00b\.wav' can be no path of a file")],
)
def test_what_can_be_no_path(path: str, said: str) -> None:
    with pytest.raises(AudioError, match=said):
        to_pcm(path)


@pytest.mark.skipif(os.name != "posix", reason="Windows says PermissionError")
def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        to_pcm(tmp_path)


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    with pytest.raises(EmptyAudioError, match=r"empty\.wav is empty"):
        to_pcm(tmp_path / "empty.wav")
    for given in (b"", bytearray(), memoryview(b""), io.BytesIO(), NoSeek(b"")):
        with pytest.raises(EmptyAudioError):
            to_pcm(given)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_file_without_samples_is_legal(rate: int) -> None:
    pcm = to_pcm(encoded(np.zeros((0, 2), np.float32), rate))
    assert (pcm.samples.size, pcm.samples.dtype, pcm.duration_s) == (0, np.float32, 0.0)


@pytest.mark.parametrize("claimed", [0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF])
def test_a_header_that_claims_gigabytes(claimed: int) -> None:
    content = bytearray(encoded(tones(16000), 16000))
    size_at = content.index(b"data") + 4
    content[size_at : size_at + 4] = struct.pack("<I", claimed)
    assert to_pcm(bytes(content)).samples.size == 11200


@pytest.mark.parametrize(("format", "subtype"), [(row[0], row[1]) for row in FORMATS])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_cut_file_gives_what_is_there(format: str, subtype: str, kept: float) -> None:
    if subtype not in soundfile.available_subtypes(format):
        pytest.skip(f"this libsndfile has no {subtype}")
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 48000 * 4).astype(np.float32)
    content = encoded(noise, 48000, format, subtype)
    pcm = to_pcm(content[: int(len(content) * kept)])
    lost_s = 1.1 if subtype in LOSSY else 0.3  # an Ogg page may hold a whole second, and half a page is none
    assert 4.0 * kept - lost_s <= pcm.duration_s <= 4.0 * kept + 0.2


@pytest.mark.parametrize(("format", "subtype"), [(row[0], row[1]) for row in FORMATS])
def test_a_cut_file_is_told_to_the_log_and_a_whole_one_not(
    format: str, subtype: str, caplog: pytest.LogCaptureFixture
) -> None:
    if subtype not in soundfile.available_subtypes(format):
        pytest.skip(f"this libsndfile has no {subtype}")
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 48000 * 4).astype(np.float32)
    content = encoded(noise, 48000, format, subtype)
    with caplog.at_level(logging.WARNING, "whisperq_edge"):
        to_pcm(content)
        assert caplog.text == ""
        pcm = to_pcm(content[: len(content) // 2])
    [record] = caplog.records
    said = re.match(r"the given bytes is damaged or cut off: what was decoded ends after ([\d.]+) s", record.message)
    assert said is not None and float(said[1]) == pytest.approx(pcm.duration_s, abs=0.01)


def test_a_wav_file_of_half_its_size_and_an_ogg_file_without_a_page(caplog: pytest.LogCaptureFixture) -> None:
    wav, ogg = encoded(tones(16000, seconds=0.8), 16000), encoded(tones(16000, seconds=0.8), 16000, "OGG", "VORBIS")
    with caplog.at_level(logging.WARNING, "whisperq_edge"):
        assert to_pcm(wav[: 44 + 12800]).duration_s == 0.4
        assert "ends after 0.40 s (its header claims 25600 bytes, there are 12800)" in caplog.text
        caplog.clear()
        for junk in (b"", bytes(2000), b"TAG" + bytes(125)):
            assert to_pcm(ogg + junk).duration_s == pytest.approx(0.8, abs=0.01)
        assert caplog.text == ""
        assert to_pcm(ogg[:-10]).duration_s == 0.0
    assert "ends after 0.00 s (libsndfile: Ogg" in caplog.text


@pytest.mark.parametrize("claimed", [0, 11200 * 2 + 44, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_a_wav_file_that_was_written_to_a_pipe_is_not_damaged(claimed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Nor one whose header counts itself."""
    content = bytearray(encoded(tones(16000), 16000))
    content[40:44] = struct.pack("<I", claimed)
    with caplog.at_level(logging.WARNING, "whisperq_edge"):
        to_pcm(bytes(content))
    assert caplog.text == ""


_ID3 = b"ID3\4\0\0\0\0\1\0" + bytes(128)


@pytest.mark.parametrize(
    "around",
    [(b"", b""), (_ID3, b"TAG" + bytes(125)), (_ID3 * 2, b"")],
    ids=["alone", "tags", "two tags"],
)
def test_an_mp3_file_that_does_not_tell_its_length(
    around: tuple[bytes, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """libsndfile estimates it from the first frame, which is large here, and stopped there."""
    if "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile has no MP3")
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 10 * 16000).astype(np.float32)
    content = encoded(noise, 16000, "MP3", "MPEG_LAYER_III")
    assert b"Xing" in content[:64]
    at = content.index(b"Xing")
    # Neither without the header nor with one that has all but the number of frames.
    less = content[: at + 7] + bytes([content[at + 7] & ~1]) + content[at + 8 :]
    assert to_pcm(less).duration_s == pytest.approx(10, abs=0.3)
    without = content.replace(b"Xing", b"none", 1)
    with caplog.at_level(logging.WARNING, "whisperq_edge"):
        assert to_pcm(around[0] + without + around[1]).duration_s == pytest.approx(10, abs=0.3)
        assert caplog.text == ""
        assert to_pcm(around[0] + without[: len(without) // 2]).duration_s == pytest.approx(5, abs=0.6)


@pytest.mark.parametrize("length", [1, 4, 12, 44, 60])
@pytest.mark.parametrize(("format", "subtype"), [("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")])
def test_a_file_cut_within_its_header(format: str, subtype: str, length: int) -> None:
    content = encoded(tones(16000), 16000, format, subtype)[:length]
    try:
        assert to_pcm(content).samples.size <= 16
    except AudioError as error:
        assert "the given bytes" in str(error)


def test_every_byte_of_a_header_may_be_wrong() -> None:
    content = encoded(tones(16000, seconds=0.05), 16000)
    for position in range(44):
        for value in (0x00, 0x01, 0x7F, 0x80, 0xFF):
            damaged = content[:position] + bytes([value]) + content[position + 1 :]
            with contextlib.suppress(AudioError):
                assert to_pcm(damaged).duration_s <= 3600.0


def test_garbage() -> None:
    generator = np.random.default_rng(1)
    for length in (1, 3, 100, 5000):
        # The first byte is no frame mark of MP3, in which any noise may be found to be a frame.
        with pytest.raises(AudioFormatError, match="the given bytes cannot be decoded as audio"):
            to_pcm(b"\x07" + generator.bytes(length - 1))


@pytest.mark.parametrize(
    ("head", "look"),
    [
        (b"\x00\x00\x00\x1cftypM4A ", "MP4"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81", "Matroska"),
        (b"PK\x03\x04abcdefgh", "ZIP"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b'{"error": "not found"}', "error message of a server"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_the_error_says_what_the_bytes_look_like(tmp_path: Path, head: bytes, look: str) -> None:
    path = tmp_path / "talk.audio"
    path.write_bytes(head + bytes(200))
    with pytest.raises(AudioFormatError) as caught:
        to_pcm(path)
    assert str(path) in str(caught.value)
    assert head[:4].hex(" ") in str(caught.value)
    assert look in str(caught.value)


def test_the_error_names_the_extra_where_av_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioFormatError, match=r"pip install 'whisperq-edge\[av\]'"):
        to_pcm(b"\x00\x00\x00\x1cftypM4A " + bytes(100))


def test_an_error_of_the_disk_is_raised_and_not_taken_for_the_end() -> None:
    class Failing(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            if self.tell() > 3000:
                raise OSError(5, "Input/output error")
            return super().readinto(buffer)

    with pytest.raises(OSError, match="Input/output error"):
        parts = [spliced.Part(Failing(encoded(tones(16000), 16000)))]
        list(from_parts(parts, Decoding("talk.wav")))


@pytest.mark.parametrize("format", ["ipod", "mp4", "webm", "matroska"])
@pytest.mark.parametrize("channels", [1, 2])
def test_av(tmp_path: Path, format: str, channels: int) -> None:
    rate = 48000
    samples = tones(rate, channels, seconds=2.0)
    path = tmp_path / "talk.m4a"
    path.write_bytes(encoded_by_av(samples, rate, format))
    expected = one_go(samples, rate)
    for given in (path, path.read_bytes(), NoSeek(path.read_bytes())):
        pcm = to_pcm(given).samples  # type: ignore[arg-type]
        assert abs(pcm.size - expected.size) < 0.1 * SAMPLE_RATE
        middle = slice(SAMPLE_RATE // 4, SAMPLE_RATE)
        shift = best_shift(pcm[middle], expected, SAMPLE_RATE // 4)
        error = pcm[middle] - expected[SAMPLE_RATE // 4 + shift :][: pcm[middle].size]
        assert float(np.sqrt((error**2).mean())) < 0.05


@pytest.mark.parametrize("format", ["matroska", "webm"])
def test_av_of_a_cut_file(format: str, caplog: pytest.LogCaptureFixture) -> None:
    content = encoded_by_av(tones(48000, seconds=4.0), 48000, format)
    with caplog.at_level(logging.WARNING, "whisperq_edge"):
        to_pcm(content)
        assert caplog.text == ""
        assert 1.0 < to_pcm(content[: len(content) // 2]).duration_s < 3.0
    assert "is damaged or cut off" in caplog.text


def test_a_video_without_sound() -> None:
    av = pytest.importorskip("av")
    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for packet in [*video.encode(frame), *video.encode(None)]:
            container.mux(packet)
    with pytest.raises(EmptyAudioError, match="no audio stream"):
        to_pcm(stream.getvalue())


def encoded_by_av(samples: np.ndarray[Any, Any], rate: int, format: str) -> bytes:
    av = pytest.importorskip("av")
    stream = io.BytesIO()
    codec = "libopus" if format == "webm" else "aac"
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    with av.open(stream, "w", format=format) as container:
        audio = container.add_stream(codec, rate=rate, layout=layout)
        for first in range(0, len(samples), 960):
            planes = np.ascontiguousarray(samples[first : first + 960].T)
            frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, first
            for packet in audio.encode(frame):
                container.mux(packet)
        for packet in audio.encode(None):
            container.mux(packet)
    return stream.getvalue()


# --- arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", ">f8"])
def test_float_arrays(dtype: Any) -> None:
    samples = tones(16000)[:, 0].astype(dtype)
    assert_pcm(to_pcm(samples).samples, samples.astype(np.float32), 0.0)


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        (np.int16, [-32768, -1, 0, 1, 32767], [-1.0, -(2**-15), 0.0, 2**-15, 1 - 2**-15]),
        (">i2", [-32768, 32767], [-1.0, 1 - 2**-15]),
        (np.int32, [-(2**31), 0, 2**30, 2**31 - 1], [-1.0, 0.0, 0.5, 1.0]),
        (np.uint8, [0, 127, 128, 129, 255], [-1.0, -(2**-7), 0.0, 2**-7, 1 - 2**-7]),
    ],
)
def test_integer_arrays(dtype: Any, values: list[int], expected: list[float]) -> None:
    assert to_pcm(np.array(values, dtype)).samples.tolist() == expected


@pytest.mark.parametrize(("dtype", "subtype"), [(np.int16, "PCM_16"), (np.int32, "PCM_32")])
def test_integer_arrays_as_soundfile_scales_them(dtype: Any, subtype: str) -> None:
    limits = np.iinfo(dtype)
    values = np.random.default_rng(0).integers(limits.min, limits.max, 3000, dtype, endpoint=True)
    assert np.array_equal(to_pcm(values).samples, to_pcm(encoded(values, 16000, subtype=subtype)).samples)


def test_array_layouts() -> None:
    samples = tones(16000, 4)
    expected = one_go(samples, 16000)
    for given in (samples, np.asfortranarray(samples), np.repeat(samples, 2, axis=0)[::2], samples.astype(np.float64)):
        assert_pcm(to_pcm(given).samples, expected, 1e-6)
    assert_pcm(to_pcm(samples[:, :1]).samples, samples[:, 0], 0.0)
    assert_pcm(to_pcm(samples[::-1, 0]).samples, samples[::-1, 0], 0.0)


def test_pcm_is_not_copied() -> None:
    samples = tones(16000)[:, 0].copy()
    samples.flags.writeable = False
    assert np.shares_memory(to_pcm(samples).samples, samples)


def test_unaligned_arrays() -> None:
    samples = tones(16000)[:, 0].copy()
    unaligned = np.frombuffer(b"\0" + samples.tobytes(), np.uint8)[1:].view(np.float32)
    pcm = to_pcm(unaligned).samples
    assert pcm.flags.aligned
    assert np.array_equal(pcm, samples)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000.0, np.int64(11025), 22050.5])
@pytest.mark.parametrize("channels", [1, 3])
def test_sampling_rate_of_arrays(rate: float, channels: int) -> None:
    samples = tones(int(rate), channels, seconds=1.3)
    assert_pcm(to_pcm(samples, sampling_rate=rate).samples, one_go(samples, rate), 1e-6)


@pytest.mark.parametrize("rate", [0, -1, 0.5, float("nan"), float("inf"), "16000", True, 10**8])
def test_wrong_sampling_rates(rate: Any) -> None:
    with pytest.raises(OptionError, match="sampling_rate"):
        to_pcm(np.zeros(10, np.float32), sampling_rate=rate)


def test_sampling_rate_is_not_for_files() -> None:
    with pytest.raises(OptionError, match="only for arrays"):
        to_pcm(encoded(tones(8000), 8000), sampling_rate=16000)


@pytest.mark.parametrize("shape", [(0,), (0, 1), (0, 2)])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_an_array_without_samples_is_legal(shape: tuple[int, ...], rate: int) -> None:
    pcm = to_pcm(np.zeros(shape, np.int16), sampling_rate=rate)
    assert (pcm.samples.shape, pcm.samples.dtype, pcm.duration_s) == ((0,), np.float32, 0.0)


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("length", [1, 2, 3, 17])
def test_very_short_arrays(length: int, rate: int) -> None:
    assert to_pcm(np.full(length, 0.5, np.float32), sampling_rate=rate).samples.size <= length


@pytest.mark.parametrize(
    "dtype", [bool, np.complex64, object, np.int8, np.int64, np.uint16, np.uint32, "S4", "U4", "M8[s]"]
)
def test_wrong_dtypes(dtype: Any) -> None:
    with pytest.raises(AudioError, match="dtype"):
        to_pcm(np.zeros(10, dtype))


def test_wrong_shapes() -> None:
    for shape in ((), (1, 10, 1), (10, 0)):
        with pytest.raises(AudioError, match="shape"):
            to_pcm(np.zeros(shape, np.float32))
    with pytest.raises(AudioError, match=r"transpose it: audio\.T"):
        to_pcm(np.zeros((2, 16000), np.float32))


@pytest.mark.parametrize("given", [None, 5, 1.5, [0.1, 0.2], (0.1,), {"path": "x"}, object()])
def test_other_types(given: Any) -> None:
    with pytest.raises(AudioError, match="it has to be a path"):
        to_pcm(given)


def test_a_text_file_object(tmp_path: Path) -> None:
    class OfAnotherLibrary:
        def read(self, size: int) -> str:
            return b"\xff\xfe\xfd".decode()

    path = tmp_path / "talk.wav"
    path.write_bytes(encoded(tones(16000), 16000))
    with open(path, encoding="utf-8") as stream:
        for given in (io.StringIO("abc"), stream, OfAnotherLibrary()):
            with pytest.raises(AudioError, match="text mode; open it in binary mode"):
                to_pcm(given)  # type: ignore[arg-type]


def test_file_objects_that_cannot_be_read_from(tmp_path: Path) -> None:
    closed = io.BytesIO(b"abc")
    closed.close()
    with pytest.raises(AudioError, match=r"cannot be read \(I/O operation on closed file"):
        to_pcm(closed)
    with open(tmp_path / "talk.wav", "wb") as stream, pytest.raises(AudioError, match="cannot be read"):
        to_pcm(stream)


@pytest.mark.parametrize("channels", [1, 2])
def test_left_and_right(channels: int) -> None:
    samples = tones(48000, channels)
    given = [encoded(samples, 48000, subtype="FLOAT"), io.BytesIO(encoded(samples, 48000, subtype="FLOAT"))]
    expected = [one_go(samples[:, channel].copy(), 48000) for channel in (0, -1)]
    for one in given:
        for found, column in zip(to_stereo(one), expected):
            assert_pcm(found, column, 1e-6)
    assert [side.tolist() for side in to_stereo(np.array([[0.5, 0.25]] * 3, "f4"))] == [[0.5] * 3, [0.25] * 3]


def test_left_and_right_of_more_channels_are_not_guessed() -> None:
    samples = tones(16000, 3)
    for given in (encoded(samples, 16000), samples):
        with pytest.raises(AudioError, match="has 3 channels"):
            to_stereo(given)


def test_array_likes() -> None:
    class Tensor:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
            return np.full(100, 0.25, np.float32)

    class OnAnotherDevice:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
            raise TypeError("move it to the host first")

    assert to_pcm(Tensor()).samples.tolist() == [0.25] * 100  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="move it to the host first"):
        to_pcm(OnAnotherDevice())  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("rate", [16000, 48000])
@pytest.mark.parametrize("position", [0, 31, 60_000])
def test_nan_and_inf_are_named_with_their_place(value: float, dtype: Any, rate: int, position: int) -> None:
    samples = np.zeros((70_000, 2), dtype)
    samples[position, 1] = value
    samples[-1, 0] = value
    with pytest.raises(AudioError) as caught:
        to_pcm(samples, sampling_rate=rate)
    assert f"holds {value} at sample {position} ({position / rate:.3f} s)" in str(caught.value)
    with pytest.raises(AudioError, match=f"at sample {position} "):
        to_pcm(samples[:, 1].copy(), sampling_rate=rate)


def test_nan_in_a_file_is_named_with_its_place() -> None:
    samples = np.zeros(40_000, np.float32)
    samples[30_000] = np.nan
    with pytest.raises(AudioError, match=r"holds nan at sample 30000 \(3\.750 s\)"):
        to_pcm(encoded(samples, 8000, subtype="FLOAT"))


def test_a_little_over_full_scale_is_audio_and_integers_as_floats_are_not() -> None:
    assert to_pcm(np.array([1.5, -MAX_PEAK], np.float32)).samples.tolist() == [1.5, -MAX_PEAK]
    with pytest.raises(AudioError, match=r"holds -12000 at sample 1 .* divide by its full scale \(32768 for 16 bits\)"):
        to_pcm(np.array([0, -12000, 30000], np.int16).astype(np.float32))


def test_more_than_a_day_is_refused_before_it_is_made() -> None:
    for shape in ((24 * 3600 + 1,), (24 * 3600 + 1, 2)):
        with pytest.raises(AudioError, match="longer than 24 hours"):
            to_pcm(np.zeros(shape, np.float32), sampling_rate=1)


def test_a_long_file_is_refused_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mono, "MAX_DURATION_S", 3600)
    content = encoded(np.zeros(4000, np.float32), 1)
    with pytest.raises(AudioError, match="longer than 1 hours"):
        to_pcm(content)


def test_importing_needs_no_decoder() -> None:
    code = "import sys; import whisperq_edge._audio.pcm; print(sorted({'soundfile', 'soxr', 'av'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
