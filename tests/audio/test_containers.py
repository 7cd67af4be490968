"""Files that hold more than one stream, or whose header lies: all of the sound is read, or the log says where not."""

from __future__ import annotations

import io
import logging
import re
import shutil
import struct
import sys
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import WhisperModel
from whisperq_edge._audio import decoding, mono
from whisperq_edge._audio import mp3 as _mp3
from whisperq_edge._audio import mp3_process as _mp3_process
from whisperq_edge._audio import pcm as _audio
from whisperq_edge._audio import spliced as _spliced
from whisperq_edge._audio.av_decoder import _Holes
from whisperq_edge._audio.containers import parts_of
from whisperq_edge._audio.decoders import from_parts
from whisperq_edge._audio.pcm import to_pcm
from whisperq_edge._audio.spliced import overlaid, spliced
from whisperq_edge._errors import AudioError, AudioFormatError, OptionError
from whisperq_edge._whisper.units import SAMPLE_RATE

from tests.support import sounds

soundfile = pytest.importorskip("soundfile")

Floats = npt.NDArray[np.float32]
RATE = 16_000
SUBTYPES = {"OGG": "VORBIS"}
ID3 = b"ID3\4\0\0\0\0\1\0" + bytes(128)


def noise(seconds: float, seed: int = 0) -> Floats:
    return sounds.noise(round(RATE * seconds), seed)


def encoded(samples: Floats, format: str = "WAV", subtype: str = "PCM_16", rate: int = RATE) -> bytes:
    return sounds.encoded(samples, rate, format, subtype)


def mp3(seconds: float, *, header: bool = True, seed: int = 0, rate: int = RATE, channels: int = 1) -> bytes:
    samples = noise(seconds * rate / RATE, seed)
    content = encoded(np.stack([samples] * channels, axis=1), "MP3", "MPEG_LAYER_III", rate)
    assert b"Xing" in content[:64]
    return content if header else content.replace(b"Xing", b"none", 1)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the log was told, by the time it is called."""
    caplog.set_level(logging.WARNING, "whisperq_edge")
    return lambda: [record.getMessage() for record in caplog.records]


# ---- Headers ---------------------------------------------------------------------------------------------------------


def with_size(content: bytes, size: int) -> bytes:
    """A file whose header claims so many bytes of samples."""
    kind = content[8:12] if content[8:12] == b"16SV" else content[:4]
    name, offset, layout = {
        b"RIFF": (b"data", 4, "<I"),
        b"RF64": (b"ds64", 16, "<Q"),
        b"FORM": (b"SSND", 4, ">I"),
        b".snd": (b".snd", 8, ">I"),
        b"riff": (b"data", 16, "<Q"),
        b"16SV": (b"BODY", 4, ">I"),
    }[kind]
    place = content.index(name) + offset
    return content[:place] + struct.pack(layout, size) + content[place + struct.calcsize(layout) :]


@pytest.mark.parametrize("format", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "SVX"])
@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_header_of_a_recorder_that_was_killed(format: str, size: int, said: Any) -> None:
    content = encoded(noise(2), format)
    expected = to_pcm(content).samples
    assert np.array_equal(to_pcm(with_size(content, size)).samples, expected)
    assert said() == []


def test_an_rf64_file_that_claims_more_than_there_is(said: Any) -> None:
    content = encoded(noise(2), "RF64")
    assert to_pcm(with_size(content, 2**64 - 1)).duration_s == 2.0
    assert said() == []
    assert to_pcm(with_size(content, 90_000)).duration_s == 2.0
    assert "ends after 2.00 s (its header claims 90000 bytes, there are 64000)" in said()[0]


@pytest.mark.parametrize("format", ["WAV", "RF64", "AIFF", "AU", "SVX", "W64"])
def test_samples_behind_those_that_the_header_claims_are_read_and_told(format: str, said: Any) -> None:
    content = encoded(noise(2), format)
    assert to_pcm(with_size(content, 16_008)).duration_s == 2.0
    [message] = said()
    assert re.search(r"has a wrong header: its header claims 1(598|60)", message)
    assert "they are taken for samples" in message


def test_a_header_without_a_byte_rate_is_no_wrong_one(said: Any) -> None:
    content = encoded(noise(2), "WAV")
    assert to_pcm(content[:28] + bytes(4) + content[32:]).duration_s == 2.0
    assert said() == []


@pytest.mark.parametrize("behind", [b"LIST" + struct.pack("<I", 50_000) + bytes(50_000), ID3 + b"\1" * 50_000])
def test_chunks_and_tags_behind_samples_are_no_sound(behind: bytes, said: Any) -> None:
    assert to_pcm(encoded(noise(2)) + behind).duration_s == 2.0
    empty = encoded(noise(0))
    assert to_pcm(empty).samples.size == to_pcm(empty + b"LIST" + struct.pack("<I", 4) + bytes(4)).samples.size == 0
    assert said() == []


TAGS = {
    "ID3v1": b"TAG" + b"a title".ljust(125, b"\0"),
    "ID3v2": ID3 + bytes(2000),
    "APE": bytes(1000) + b"APETAGEX" + struct.pack("<4I8x", 2000, 1000, 1, 0),
    "zeros": bytes(5000),
    "many zeros": bytes(200_000),
}
FORMATS = ["WAV", "RF64", "W64", "SVX", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3"]


def of_format(format: str, seconds: float, seed: int = 0) -> bytes:
    return (
        mp3(seconds, seed=seed)
        if format == "MP3"
        else encoded(noise(seconds, seed), format, SUBTYPES.get(format, "PCM_16"))
    )


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("format", FORMATS)
def test_tags_and_zeros_behind_a_file_are_no_sound_and_no_damage(format: str, tag: str, said: Any) -> None:
    content = of_format(format, 1)
    assert np.array_equal(to_pcm(content + TAGS[tag]).samples, to_pcm(content).samples)
    assert said() == []


def test_compressed_samples_without_a_length() -> None:
    content = encoded(noise(2), "WAV", "IMA_ADPCM")
    assert np.array_equal(to_pcm(with_size(content, 0)).samples, to_pcm(content).samples)


def test_a_header_without_the_size_of_a_frame() -> None:
    """FFmpeg takes the size from the format; libsndfile alone refuses such a file."""
    content = with_size(encoded(noise(2)), 0)
    try:
        duration_s = to_pcm(content[:32] + bytes(2) + content[34:]).duration_s
    except AudioError as error:
        assert "the given bytes" in str(error)
    else:
        assert duration_s == 2.0


def test_more_samples_than_a_header_can_tell_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whisperq_edge._audio.containers._LONGEST_RIFF", 10_001)
    content = encoded(noise(2))
    assert len(parts_of(io.BytesIO(with_size(content, 0)))) == 7
    assert np.array_equal(to_pcm(with_size(content, 0)).samples, to_pcm(content).samples)


# ---- Joined files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "subtype"),
    [("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", "PCM_16"), ("WAV", "PCM_16"), ("RF64", "PCM_16"), ("AIFF", "PCM_16")],
)
@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_all_of_a_joined_file_is_read(format: str, subtype: str, rate: int, said: Any) -> None:
    """Also where the second stream has another rate and other channels."""
    first, second = encoded(noise(1), format, subtype), encoded(np.stack([noise(4, 1)] * 2, 1), format, subtype, rate)
    expected = np.concatenate([to_pcm(first).samples, to_pcm(second).samples, to_pcm(first).samples])
    assert np.array_equal(to_pcm(first + second + first).samples, expected)
    assert said() == []


@pytest.mark.parametrize("first", FORMATS)
@pytest.mark.parametrize("second", FORMATS)
def test_all_of_a_file_that_goes_on_as_another_kind_is_read(first: str, second: str, said: Any) -> None:
    files = [of_format(first, 1), of_format(second, 2, 1), of_format(first, 1, 2)]
    expected = np.concatenate([to_pcm(file).samples for file in files])
    assert np.array_equal(to_pcm(b"".join(files)).samples, expected)
    assert said() == []


def test_flac_in_ogg_is_one_stream() -> None:
    page = b"OggS\0\2" + bytes(20) + b"\1\x33" + b"\x7fFLAC\1\0\0\1" + encoded(noise(1), "FLAC")[:42]
    assert len(parts_of(io.BytesIO(page))) == 1
    assert len(parts_of(io.BytesIO(page + encoded(noise(1), "FLAC")))) == 2


class _Pipe:
    """A file that does not seek, so that no length is written into its header."""

    def __init__(self) -> None:
        self.content = b""

    def write(self, content: bytes) -> int:
        self.content += bytes(content)
        return len(content)


def muxed(format: str, *, is_live: bool = False, codec: str = "aac", **options: str) -> bytes:
    """2 s of noise by FFmpeg."""
    av = pytest.importorskip("av")
    stream: Any = _Pipe() if is_live else io.BytesIO()
    with av.open(stream, "w", format=format, options=options) as file:
        track = file.add_stream(codec, rate=RATE, layout="mono")
        for first in range(0, 2 * RATE, 1000):
            block = noise(2)[None, first : first + 1000]
            block, kind = ((block * 32767).astype(np.int16), "s16") if codec == "pcm_s16le" else (block, "fltp")
            frame = av.AudioFrame.from_ndarray(block, format=kind, layout="mono")
            frame.sample_rate, frame.pts = RATE, first
            file.mux(track.encode(frame))
        file.mux(track.encode(None))
    return bytes(stream.content if is_live else stream.getvalue())


MUXED: list[tuple[str, dict[str, Any]]] = [
    ("mp4", {}),
    ("mp4", {"movflags": "frag_keyframe+empty_moov"}),
    ("matroska", {}),
    ("matroska", {"is_live": True, "codec": "pcm_s16le"}),
    ("webm", {"is_live": True, "codec": "libopus"}),
]


@pytest.mark.parametrize(("format", "options"), MUXED, ids=str)
@pytest.mark.parametrize("second", ["WAV", "MP3", "FLAC", "the same"])
def test_all_of_joined_mp4_and_matroska_files_is_read(format: str, options: Any, second: str, said: Any) -> None:
    content = muxed(format, **options)
    other = content if second == "the same" else of_format(second, 1)
    expected = np.concatenate([to_pcm(file).samples for file in (content, other, content)])
    for between in (b"", bytes(1000)):
        assert np.allclose(to_pcm(content + between + other + content).samples, expected, atol=1e-4)
    assert said() == []


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize(("format", "options"), MUXED, ids=str)
def test_tags_and_zeros_behind_mp4_and_matroska_are_no_damage(format: str, options: Any, tag: str, said: Any) -> None:
    content = muxed(format, **options)
    assert np.array_equal(to_pcm(content + TAGS[tag]).samples, to_pcm(content).samples)
    assert said() == []


def test_a_duration_that_ffmpeg_guesses_is_no_damage(said: Any) -> None:
    """Of MP3 in Matroska without a length it guesses one by the bit rate, which is too long."""
    assert to_pcm(muxed("matroska", is_live=True, codec="libmp3lame")).duration_s == pytest.approx(2, abs=0.2)
    assert said() == []


CUT: list[tuple[str, dict[str, Any]]] = [*MUXED[1:], ("mov", {"codec": "pcm_s16le", "movflags": "empty_moov"})]


@pytest.mark.parametrize(("format", "options"), [*CUT, ("CAF", {}), ("SVX", {}), ("W64", {})], ids=str)
@pytest.mark.parametrize("is_joined", [False, True])
def test_a_cut_file_is_told_and_what_follows_it_is_read(format: str, options: Any, is_joined: bool, said: Any) -> None:
    content = of_format(format, 2) if format.isupper() else muxed(format, **options)
    second = encoded(noise(1, 1)) if is_joined else b""
    pcm = to_pcm(content[: len(content) * 7 // 10] + second).samples
    assert 0.5 * RATE < pcm.size - is_joined * RATE < 1.6 * RATE
    assert not is_joined or np.array_equal(pcm[-RATE:], to_pcm(second).samples)
    [message] = said()
    assert re.search(r"audio is missing at [01]\.\d+ s" if is_joined else r"ends after [01]\.\d+ s", message)


@pytest.mark.parametrize("format", ["WAV", "WAVEX", "RF64", "AIFF", "AU", "SVX", "W64"])
@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 16_008])
def test_no_header_is_heard_where_a_recorder_was_killed_and_began_anew(format: str, size: int, said: Any) -> None:
    first, second = encoded(noise(2), format), encoded(noise(3, 1), format)
    expected = np.concatenate([to_pcm(first).samples, to_pcm(second).samples])
    for content in (with_size(first, size) + second, with_size(first, size) + with_size(second, size)):
        assert np.array_equal(to_pcm(content).samples, expected)
    assert (said() == []) == (size != 16_008)


@pytest.mark.parametrize("format", ["WAV", "RF64", "AIFF", "AU", "SVX", "W64"])
@pytest.mark.parametrize("lost", [1000, 40_000])
def test_no_header_is_heard_where_the_first_of_two_files_is_cut(format: str, lost: int, said: Any) -> None:
    first, second = encoded(noise(2), format), encoded(noise(3, 1), format)
    pcm = to_pcm(first[: len(first) - lost] + second).samples
    assert np.array_equal(pcm[-3 * RATE :], to_pcm(second).samples)
    assert pcm.size == pytest.approx(5 * RATE - lost / 2, abs=2)
    assert f"audio is missing at {2 - lost / 32_000:.2f} s" in said()[0]


@pytest.mark.parametrize("n_bytes", [1, 13, 14, 15, 97, 1000])
def test_streams_are_found_where_two_reads_meet(n_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ogg, flac = encoded(noise(0.2), "OGG", "VORBIS"), encoded(noise(0.2), "FLAC")
    monkeypatch.setattr("whisperq_edge._audio.containers._READ_BYTES", n_bytes)
    assert len(parts_of(io.BytesIO(ogg * 3))) == len(parts_of(io.BytesIO(flac * 3))) == 3
    assert len(parts_of(io.BytesIO(ogg + flac + encoded(noise(0.2)) + ogg))) == 4


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("between", [b"", ID3, b"TAG" + bytes(125), bytes(3000)])
def test_all_of_joined_mp3_files_is_read(header: bool, between: bytes, said: Any, capfd: Any) -> None:
    first, second = mp3(2, header=header), mp3(3, header=header, seed=1)
    alone = to_pcm(first).duration_s + to_pcm(second).duration_s
    assert to_pcm(first + between + second).duration_s == pytest.approx(alone, abs=1e-3)
    assert said() == [] and capfd.readouterr().err == ""


def test_an_mp3_file_goes_on_in_another_format(said: Any, capfd: Any) -> None:
    for header in (True, False):
        content = mp3(2, header=header) + mp3(2, header=header, rate=44_100, channels=2)
        assert to_pcm(content).duration_s == pytest.approx(4.0, abs=0.3)
    assert said() == [] and capfd.readouterr().err == ""


def test_each_stream_of_an_mp3_file_begins_at_its_first_sample() -> None:
    """Its header tells how much silence its encoder put before and behind the sound."""
    content = mp3(2)
    alone = to_pcm(content).samples
    assert alone.size == 2 * RATE
    assert np.array_equal(to_pcm(content + content).samples, np.concatenate([alone, alone]))


@pytest.mark.parametrize(
    "damaged",
    [
        lambda a, b: a[: len(a) // 2],
        lambda a, b: b[: len(b) // 2],
        lambda a, b: a[: len(a) // 2] + a,
        lambda a, b: b[:5000] + b"\5" * 3000 + b[5000:],
        lambda a, b: b[:5000] + bytes(b"\xff\xfb\x90\x44" * 50) + b[5000:],
        lambda a, b: b[:5000] + b[5600:],
    ],
    ids=["cut with a header", "cut", "cut and joined", "junk within", "false frames within", "a gap"],
)
def test_a_damaged_mp3_file_is_told_in_our_own_words_only(damaged: Any, said: Any, capfd: Any) -> None:
    content = damaged(mp3(4), mp3(4, header=False))
    assert to_pcm(content).duration_s == pytest.approx(4.0 * len(content) / len(mp3(4)), abs=0.8)
    assert said() != [] and all(message.startswith("the given bytes is damaged") for message in said())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("behind", [ID3, b"TAG" + bytes(125), bytes(5000), b"APETAGEX" + bytes(24)])
def test_what_follows_the_frames_of_an_mp3_file_leaves_no_line(behind: bytes, said: Any, capfd: Any) -> None:
    assert to_pcm(mp3(2) + behind).duration_s == 2.0
    assert said() == [] and capfd.readouterr().err == ""


def test_an_mp3_file_that_begins_within_a_frame(capfd: Any) -> None:
    content = mp3(4, header=False)
    assert to_pcm(content[2001:] + mp3(4)).duration_s == pytest.approx(7.6, abs=0.5)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("length", range(1, 12))
def test_the_first_bytes_of_an_mp3_file_come_to_an_end(length: int) -> None:
    for content in (mp3(1), b"\1\2\3", bytes(10), ID3, b"\xff\xfb", b"APETAGEX" + bytes(24)):
        beginning = content[:length]
        with pytest.raises(AudioError, match=rf"It begins with {beginning.hex(' ')}\b"):
            to_pcm(beginning)


def test_a_single_mp3_frame(capfd: Any) -> None:
    content = mp3(1, header=False)
    [part] = parts_of(io.BytesIO(content))
    second = content.index(content[:2], 10)
    assert len(parts_of(io.BytesIO(content[:second]))) == 1
    assert 0 < to_pcm(content[:second]).duration_s < 0.2
    assert part.tells_length is False and capfd.readouterr().err == ""


def test_bytes_that_look_like_frames_for_ever_are_given_up(monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    monkeypatch.setattr("whisperq_edge._audio.mp3._MOST_TRIES", 100)
    content = mp3(1, header=False) + b"\xff\xfb\x90\x44" * 1000 + mp3(1, header=False)
    assert to_pcm(content).duration_s == to_pcm(mp3(1, header=False)).duration_s
    n_bytes = len(content) - len(mp3(1))
    assert said() == [f"the given bytes is damaged: {n_bytes} bytes in it are no MP3 frames and were left out"]


def frame_places(content: bytes) -> list[int]:
    places, place = [], 0
    while (frame := _mp3._frame(content[place : place + 4])) is not None:
        places.append(place)
        place += frame.n_bytes
    return places


def with_damaged_frame(content: bytes, index: int) -> bytes:
    """A file whose frame of this index has a whole header and no sense in it."""
    first, behind = frame_places(content)[index : index + 2]
    return content[: first + 4] + b"\x5a" * (behind - first - 4) + content[behind:]


@pytest.mark.parametrize("header", [True, False])
def test_damage_within_an_mp3_frame_is_told_with_its_place(header: bool, said: Any, capfd: Any) -> None:
    content = mp3(4, header=header)
    damaged = with_damaged_frame(content, 70)  # 36 ms each
    expected, pcm = to_pcm(content).samples, to_pcm(damaged).samples
    assert pcm.size == expected.size
    assert np.array_equal(pcm[: 2 * RATE], expected[: 2 * RATE])
    assert np.allclose(pcm[3 * RATE :], expected[3 * RATE :], atol=1e-4)
    [message] = said()
    found = re.search(r"is damaged at (\S+) s: what MP3 frames held there is not whole \(mpg123: [^\[]+\)", message)
    assert found is not None and float(found[1]) == pytest.approx(70 * 0.036, abs=0.4)
    assert capfd.readouterr().err == ""


def test_all_damage_within_mp3_frames_is_one_warning(said: Any, capfd: Any) -> None:
    content = mp3(4)
    to_pcm(content + with_damaged_frame(with_damaged_frame(content, 20), 70))
    [message] = said()
    assert " and at 1 later place: " in message
    assert 4.0 <= float(message.split(" damaged at ")[1].split()[0]) <= 4.9
    assert capfd.readouterr().err == ""


def test_mp3_in_a_wav_file_prints_nothing_either(said: Any, capfd: Any) -> None:
    content = with_damaged_frame(mp3(4), 70)
    layout = struct.pack("<HHIIHHHIHHH", 0x55, 1, RATE, 8000, 1, 0, 12, 1, 288, 1, 1393)
    chunks = [(b"fmt ", layout), (b"fact", struct.pack("<I", 4 * RATE)), (b"data", content)]
    body = b"WAVE" + b"".join(name + struct.pack("<I", len(chunk)) + chunk for name, chunk in chunks)
    assert to_pcm(b"RIFF" + struct.pack("<I", len(body)) + body).duration_s == 4.0
    assert "is damaged at " in said()[0] and capfd.readouterr().err == ""


def test_less_than_a_frame_of_mp3_is_refused(capfd: Any) -> None:
    content = mp3(1, header=False)
    for length in (4, 50, frame_places(content)[1] - 1):
        with pytest.raises(AudioFormatError, match="cannot be decoded as audio"):
            to_pcm(content[:length])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("program", ["", "/no/such/program", shutil.which("true") or ""])
def test_mp3_is_decoded_without_a_process_where_none_can_be_had(
    program: str, monkeypatch: pytest.MonkeyPatch, said: Any
) -> None:
    content = mp3(2)
    expected = to_pcm(content).samples
    monkeypatch.setattr(sys, "executable", program)
    assert np.array_equal(to_pcm(content).samples, expected)
    assert said() == []


@pytest.fixture
def mp3_processes(monkeypatch: pytest.MonkeyPatch) -> list[_mp3_process.Mp3Process]:
    """Those that are started from now on."""
    started: list[_mp3_process.Mp3Process] = []

    class Noted(_mp3_process.Mp3Process):
        def __init__(self) -> None:
            super().__init__()
            started.append(self)

    monkeypatch.setattr(decoding, "Mp3Process", Noted)
    return started


def test_a_decoder_that_crashes_ends_the_audio_and_nothing_else(mp3_processes: Any, said: Any) -> None:
    opened = _audio.open_samples(mp3(60))
    opened.read(0, 1)
    mp3_processes[0]._process.kill()
    assert RATE < opened.whole().size < 60 * RATE
    assert "is damaged or cut off" in said()[0] and "its process ended with code " in said()[0]


def test_the_process_of_a_decoder_ends_with_its_audio(mp3_processes: Any) -> None:
    content = mp3(60)
    to_pcm(content)
    _audio.first_samples(content, RATE)
    _audio.open_samples(content).close()
    assert len(mp3_processes) == 2 and all(file._process.returncode is not None for file in mp3_processes)


def test_one_process_decodes_all_streams_of_a_file(mp3_processes: Any, said: Any) -> None:
    content = mp3(1)
    assert to_pcm((content + b"\5" * 100) * 30).duration_s == 30.0
    assert len(mp3_processes) == 1 and len(said()) == 1


def test_a_stream_behind_the_one_on_which_a_decoder_crashed_is_read(mp3_processes: Any, said: Any) -> None:
    opened = _audio.open_samples(mp3(60) + mp3(2))
    opened.read(0, 1)
    mp3_processes[0]._process.kill()
    assert 3 * RATE < opened.whole().size < 60 * RATE
    assert len(mp3_processes) == 2 and len(said()) == 1


def test_an_error_of_the_disk_ends_an_mp3_file_with_that_error() -> None:
    class Failing(io.BytesIO):
        def read(self, count: Optional[int] = -1) -> bytes:
            if self.tell() > 100_000:
                raise OSError(5, "Input/output error")
            return super().read(count)

    content = mp3(60)
    state = decoding.Decoding("talk")
    with pytest.raises(OSError, match="Input/output error"):
        list(from_parts([_spliced.Part(Failing(content), tells_length=True)], state))
    state.close()


def test_where_the_first_of_several_streams_is_cut(said: Any) -> None:
    content = encoded(noise(2), "OGG", "VORBIS")
    whole = to_pcm(content).duration_s
    assert whole < to_pcm(content[: len(content) * 9 // 10] + content).duration_s < 2 * whole
    [message] = said()
    assert message.startswith("the given bytes is damaged: audio is missing at ")


def test_a_stream_that_cannot_be_decoded_is_told_with_its_place(said: Any) -> None:
    content = encoded(noise(2))
    unknown = content[:20] + b"\x34\x12" + content[22:]
    assert to_pcm(content + unknown + content).duration_s == 4.0
    assert said()[0].startswith("the given bytes was not read from 2.00 s on, where stream 2 of the 3 ")
    with pytest.raises(AudioFormatError):
        to_pcm(unknown + content)


def test_a_stream_without_samples_is_told_with_its_place(said: Any) -> None:
    content = encoded(noise(2))
    assert to_pcm(content + content[:20]).duration_s == 2.0
    assert said()[0].startswith("the given bytes was not read from 2.00 s on, where stream 2 of the 2 ")


def test_all_streams_together_are_no_longer_than_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mono, "MAX_DURATION_S", 3)
    content = encoded(noise(2), "FLAC")
    with pytest.raises(AudioError, match="longer than"):
        to_pcm(content + content)


def test_pieces_of_a_file() -> None:
    below = io.BytesIO(bytes(range(100)))
    expected = bytes(range(10, 20)) + b"abc" + bytes(range(21, 30)) + b"" + bytes(range(50, 100))
    stream = spliced(below, [*overlaid(10, 30, [(20, b"abc"[:1])]), b""])
    assert stream.read() == bytes(range(10, 20)) + b"a" + bytes(range(21, 30))
    whole = _spliced._Spliced(below, [(10, 20), b"abc", (21, 30), b"", (50, 100)])
    assert whole.read() == expected
    for start in range(0, len(expected), 7):
        whole.seek(start)
        assert whole.read(11) == expected[start : start + 11]
    assert whole.seek(-3, 2) == len(expected) - 3 and whole.read() == expected[-3:]
    with pytest.raises(ValueError, match="negative"):
        whole.seek(-1)


# ---- Tracks and the clock --------------------------------------------------------------------------------------------


def container(
    tracks: list[Optional[Floats]],
    *,
    starts_s: float = 0.0,
    hole_s: float = 0.0,
    video: bool = True,
    rate: int = 48_000,
) -> bytes:
    """Matroska with a video of 10 frames a second from 0 on, and tracks at 48 kHz. The hole is after 1 s."""
    av = pytest.importorskip("av")
    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as file:
        picture = file.add_stream("mpeg4", rate=10) if video else None
        audio = [file.add_stream("pcm_s16le", rate=rate, layout="mono") for _ in tracks]
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 32, 32, "yuv420p"
            for i in range(20):
                frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                frame.pts = i
                file.mux(picture.encode(frame))
            file.mux(picture.encode(None))
        for track, samples in zip(audio, tracks):
            assert samples is not None
            for first in range(0, len(samples), 4800):
                block = (samples[None, first : first + 4800] * 32767).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
                frame.sample_rate = rate
                frame.pts = first + round(rate * (starts_s + (hole_s if first >= rate else 0)))
                file.mux(track.encode(frame))
            file.mux(track.encode(None))
    return stream.getvalue()


def is_silent(samples: Floats) -> bool:
    """But for what the resampler leaves."""
    return bool(np.abs(samples).max(initial=0.0) < 1e-6)


def at_48k(seconds: float, seed: int = 0) -> Floats:
    return noise(seconds * 3, seed)


@pytest.mark.parametrize("starts_s", [0.0, 0.05, 5.0])
def test_audio_has_the_clock_of_its_container(starts_s: float, said: Any) -> None:
    pcm = to_pcm(container([at_48k(2)], starts_s=starts_s)).samples
    lead = round(SAMPLE_RATE * starts_s) if starts_s >= 0.1 else 0
    assert pcm.size == pytest.approx(lead + 2 * SAMPLE_RATE, abs=20)
    assert is_silent(pcm[: max(lead - 100, 0)]) and np.abs(pcm[lead + 100 : lead + 1000]).max() > 0.05
    assert said() == []


def test_a_clock_that_begins_late_for_all_tracks_is_none(said: Any) -> None:
    assert to_pcm(container([at_48k(2)], starts_s=5.0, video=False)).duration_s == pytest.approx(2.0, abs=0.01)
    assert said() == []


def test_a_hole_in_a_track_is_filled_and_told(said: Any) -> None:
    pcm = to_pcm(container([at_48k(2)], hole_s=1.5)).samples
    assert pcm.size == pytest.approx(3.5 * SAMPLE_RATE, abs=20)
    assert is_silent(pcm[SAMPLE_RATE + 100 : round(2.5 * SAMPLE_RATE) - 100])
    assert said() == ["the given bytes lacks 1.50 s of audio, first at 1.00 s: silence stands for it"]


def test_a_jump_of_hours_is_not_believed(said: Any) -> None:
    assert to_pcm(container([at_48k(2)], hole_s=7200)).duration_s == pytest.approx(2.0, abs=0.01)
    assert said()[0].startswith("the given bytes jumps by 7200 s at 1.00 s, which is not believed")


def test_times_that_jitter_or_go_back_cost_no_sample_and_no_time() -> None:
    holes = _Holes(0.0)
    dice = np.random.default_rng(0)
    filled = sum(holes.before(0.1 * i + float(dice.uniform(-0.15, 0.15)), 0.1) for i in range(1000))
    assert filled < 0.5
    assert holes.before(0.0, 0.1) == holes.before(0.1, 0.1) == holes.before(None, 0.1) == 0.0
    assert holes.before(1.3, 0.1) == pytest.approx(1.0)


def test_a_track_can_be_chosen_and_a_silent_one_is_told(said: Any) -> None:
    content = container([np.zeros(96_000, np.float32), at_48k(2)])
    for given in (None, 0):
        assert not to_pcm(content, audio_track=given).samples.any()
    assert said()[0].startswith("the given bytes has 2 audio tracks, and track 0 is silent: choose another from 0 to 1")
    before = len(said())
    assert np.abs(to_pcm(content, audio_track=1).samples).max() > 0.1
    assert len(said()) == before == 2


def test_a_silent_track_that_is_alone_is_not_told(said: Any) -> None:
    assert not to_pcm(container([np.zeros(96_000, np.float32)])).samples.any()
    assert said() == []


def test_a_track_that_is_not_there() -> None:
    with pytest.raises(AudioError, match="has 2 audio tracks, 0 to 1; there is no track 2"):
        to_pcm(container([at_48k(1), at_48k(1)]), audio_track=2)


@pytest.mark.parametrize("content", [encoded(noise(1)), encoded(noise(1), "FLAC")])
def test_a_file_with_one_track_has_track_0_only(content: bytes) -> None:
    assert to_pcm(content, audio_track=0).duration_s == 1.0
    with pytest.raises(AudioError, match="has one audio track, 0; there is no track 1"):
        to_pcm(content, audio_track=1)


def test_a_track_of_a_video_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    content = container([at_48k(1), at_48k(1)])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioFormatError, match=r"pip install 'whisperq-edge\[av\]'|PyAV"):
        to_pcm(content, audio_track=1)


@pytest.mark.parametrize("track", [-1, 1.0, "0", True])
def test_numbers_that_no_track_has(track: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="audio_track"):
        to_pcm(tmp_path / "none.mkv", audio_track=track)


def test_an_array_has_no_tracks() -> None:
    with pytest.raises(OptionError, match="only for files"):
        to_pcm(noise(1), audio_track=0)


@pytest.mark.parametrize("options", [{}, {"word_timestamps": True}, {"vad_filter": True}, {"batch_size": 2}])
def test_times_of_a_transcript_begin_where_the_audio_of_a_video_does(
    nano_edge: WhisperModel, sample_pcm: Floats, options: dict[str, Any]
) -> None:
    content = container([sample_pcm], starts_s=5.0, rate=SAMPLE_RATE)
    late = nano_edge.transcribe(content, beam_size=1, **options)
    at_once = nano_edge.transcribe(sample_pcm, beam_size=1, **options)
    assert late.duration_s == pytest.approx(at_once.duration_s + 5, abs=0.01)
    assert late.text.split() == at_once.text.split()
    assert late.segments[0].start >= 5.0
    if "vad_filter" not in options and "batch_size" not in options:
        assert [s.start for s in late] == pytest.approx([s.start + 5 for s in at_once], abs=0.021)


@pytest.mark.parametrize("clips", [[0], [2, 15.5], "0,3,4,30"])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_clip_begins_no_earlier_than_the_audio_of_a_video(
    nano_edge: WhisperModel, sample_pcm: Floats, clips: Any, batch_size: Optional[int]
) -> None:
    content = container([sample_pcm], starts_s=5.0, rate=SAMPLE_RATE)
    options = {"batch_size": batch_size, "beam_size": 1, "temperature": 0}
    late = nano_edge.transcribe(content, clip_timestamps=clips, **options)
    at_once = nano_edge.transcribe(sample_pcm, clip_timestamps=[0, 10.5], **options)
    assert late.text == at_once.text
    if clips != [0] or batch_size is None:
        assert [s.start for s in late] == pytest.approx([s.start + 5 for s in at_once], abs=0.021)
    assert late.options.clip_timestamps == (clips if isinstance(clips, str) else tuple(clips))


def test_a_clip_before_the_audio_of_a_video_says_nothing(nano_edge: WhisperModel, sample_pcm: Floats) -> None:
    content = container([sample_pcm], starts_s=5.0, rate=SAMPLE_RATE)
    assert nano_edge.transcribe(content, clip_timestamps=[0, 4], beam_size=1).segments == []


def test_the_start_of_a_video_s_audio_holds_on_the_other_engine(nano: WhisperModel, sample_pcm: Floats) -> None:
    content = container([sample_pcm], starts_s=5.0, rate=SAMPLE_RATE)
    assert nano.transcribe(content, beam_size=1).segments[0].start >= 5.0
