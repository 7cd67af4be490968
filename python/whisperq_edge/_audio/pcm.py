"""Audio of any kind to PCM: float32, mono, 16 kHz.

Files are decoded, mixed down and resampled block by block, as often as they are gone over (``samples`` says why):
nothing is allocated by what a header claims. soundfile, soxr and PyAV are imported when they are first needed, so that
``import whisperq_edge`` stays quick.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import io
import logging
import math
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Callable, Optional, Union, cast

import numpy as np
import numpy.typing as npt

from .._errors import AudioError, AudioFormatError, EmptyAudioError, OptionError
from .._whisper.units import SAMPLE_RATE
from .containers import parts_of
from .mp3_process import DecoderError, Mp3Process, NoProcessError
from .samples import (
    BLOCK_SAMPLES,
    ArraySamples,
    DecodedSamples,
    Pieces,
    Samples,
    ShouldStop,
    StoppedError,
    changed,
    never,
)
from .spliced import Part

__all__ = ["MAX_DURATION_S", "MAX_PEAK", "Pcm", "first_samples", "open_samples", "to_pcm", "to_stereo"]

MAX_PEAK = 64.0
"""The largest absolute float sample that is taken for audio (+36 dB over full scale). Integer PCM that was cast to
float without scaling lies far above, and a model would hear it as nothing but loudness."""

MAX_DURATION_S = 24 * 3600
"""The longest audio of one call. It also stops a small file whose header asks for terabytes."""

MAX_CHANNELS = 32
"""More columns than this in an array mean that it is the wrong way round."""

MAX_RATE_HZ = 10_000_000

_READ_BYTES = 2**20
_MOST_BYTES_IN_MEMORY = 32 * 2**20
"""Encoded audio from a pipe or a file object goes to a temporary file when there is more of it than this."""

_BLOCK_FRAMES = 16_384  # libsndfile loses the whole block in which a cut FLAC ends, so blocks are not long
_SILENT_PEAK = 1e-4  # -80 dB of full scale
_LEAST_HOLE_S = 0.1  # times are rounded, to milliseconds in Matroska, and jitter
_LARGEST_JITTER_S = 1.0
_LONGEST_HOLE_S = 3600.0
_LOG = logging.getLogger("whisperq_edge")

Floats = npt.NDArray[np.float32]
Mix = Callable[[Floats], Floats]
AudioLike = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, IO[bytes], npt.NDArray[Any]]


@dataclass(frozen=True)
class Pcm:
    """Audio as an array.

    Attributes:
        samples: float32, C-contiguous, one channel, 16 kHz. Full scale is [-1, 1]; what a decoder or the resampler puts
            a little above is kept. It is the caller's own memory where an array was given that is already like this.
        duration_s: seconds of audio (float).
        decode_ms: wall-clock milliseconds that decoding, mixing and resampling took (float).
    """

    samples: Floats
    duration_s: float
    decode_ms: float


def to_pcm(audio: AudioLike, *, sampling_rate: Optional[float] = None, audio_track: Optional[int] = None) -> Pcm:
    """Turns audio into PCM for Whisper.

    Args:
        audio: one of

            - a path of an audio or video file;
            - the bytes of such a file (``bytes``, ``bytearray``, ``memoryview``);
            - a binary file object, read from where it stands to its end; it need not seek;
            - an array of samples, numpy's or one that numpy reads as its own (``__array__``: a tensor on the CPU; no
              list): 1-D, or 2-D as (samples, channels) with at most 32 channels, which are averaged. float16, float32
              and float64 are in [-1, 1] (accepted up to +-64); int16, int32 and uint8 are scaled by their full scale as
              soundfile does it (uint8 has its zero at 128). Zero samples are legal.
        sampling_rate: of an array, in Hz. None: 16000. Files say it themselves.
        audio_track: of a file with several, counted from 0 as in FFmpeg's ``0:a:0``. None: the first.

    The samples have the clock of the file. Where its audio begins later than its video, or lost some packets, silence
    stands for what is not there. Audio that begins before the video begins at 0.

    Raises:
        AudioFormatError: the bytes are no audio that the installed decoders read.
        EmptyAudioError: there is not a single byte, or a file without an audio stream.
        AudioError: no such audio track, a wrong dtype or shape, NaN or Inf (with its place), samples far outside of
            [-1, 1], more than a day of audio, an empty path, or a file object in text mode, that is closed or cannot be
            read from.
        OptionError: a ``sampling_rate`` that is no rate, or one for a file; an ``audio_track`` that is no number from
            0 on, or one for an array.
        OSError: the file cannot be opened or read: ``FileNotFoundError``, ``IsADirectoryError``, ``PermissionError``.
    """
    began_s = time.perf_counter()
    samples = _whole(open_samples(audio, sampling_rate=sampling_rate, audio_track=audio_track))
    return Pcm(samples, samples.size / SAMPLE_RATE, (time.perf_counter() - began_s) * 1000.0)


def to_stereo(audio: AudioLike) -> tuple[Floats, Floats]:
    """The first two channels of audio, left and right, each as ``to_pcm`` gives its mean; of one channel, it twice.
    Takes and raises what ``to_pcm`` does, and ``AudioError`` for more than two channels."""
    if _is_array_like(audio):
        array = _as_array(audio)
        _check_array(array)
        _check_channels(array.shape[1] if array.ndim == 2 else 1, "the array")
        columns = array if array.ndim == 2 else array[:, None]
        left, right = (_whole(open_samples(columns[:, channel])) for channel in (0, -1))
        return left, right
    encoded = _encoded(audio, never)
    try:
        left = _whole(DecodedSamples(lambda _: encoded.pieces(True, _left), encoded.name))
        right = _whole(DecodedSamples(lambda _: encoded.pieces(False, _right), encoded.name))
    finally:
        encoded.close()
    return left, right


def _whole(opened: Samples) -> Floats:
    try:
        return opened.whole()
    finally:
        opened.close()


def open_samples(
    audio: AudioLike,
    *,
    sampling_rate: Optional[float] = None,
    audio_track: Optional[int] = None,
    should_stop: ShouldStop = never,
) -> Samples:
    """Audio that is read a piece at a time. Takes what ``to_pcm`` takes; what it raises for audio that cannot be read,
    the first pass over the samples raises.

    Files are opened by the first pass and stay open until ``close``. Encoded bytes that come from a file object or a
    pipe are kept, in memory or in a temporary file, as they have to be decoded again.

    Args:
        should_stop: asked for every piece, of up to a second; on True ``StoppedError`` is raised.
    """
    _check_track(audio_track)
    if _is_array_like(audio):
        if audio_track is not None:
            raise OptionError("audio_track", audio_track, "only for files: an array is one track")
        return _of_array(_as_array(audio), _checked_rate(sampling_rate), should_stop)
    if sampling_rate is not None:
        raise OptionError("sampling_rate", sampling_rate, "only for arrays: an audio file carries its own rate")
    encoded = _encoded(audio, should_stop, audio_track)
    return DecodedSamples(
        encoded.pieces,
        encoded.name,
        should_stop=should_stop,
        close=encoded.close,
        n_lead=lambda: round(encoded.lead_s * SAMPLE_RATE),
    )


def first_samples(audio: AudioLike, n_samples: int) -> Floats:
    """Return the first samples of audio, or fewer where it is shorter. The rest is decoded only up to the end of a
    block, so that no damage in it is noticed. Takes and raises what ``to_pcm`` does."""
    opened = open_samples(audio)
    try:
        blocks: list[Floats] = []
        for block in opened.blocks():
            blocks.append(block)
            if len(blocks) * BLOCK_SAMPLES >= n_samples:
                break
        return np.concatenate([np.empty(0, np.float32), *blocks])[:n_samples]
    finally:
        opened.close()


def _check_track(audio_track: Any) -> None:
    is_number = isinstance(audio_track, (int, np.integer)) and not isinstance(audio_track, bool)
    if audio_track is not None and not (is_number and audio_track >= 0):
        raise OptionError("audio_track", audio_track, "a whole number from 0 on, or None for the first track")


def _encoded(audio: Any, should_stop: ShouldStop, track: Optional[int] = None) -> _Encoded:
    if isinstance(audio, (str, os.PathLike)):
        name = os.fsdecode(audio)
        return _Encoded(name or "the audio", lambda: _open_path(name, should_stop), track)
    if isinstance(audio, (bytes, bytearray, memoryview)):
        return _Encoded("the given bytes", lambda: io.BytesIO(bytes(audio)), track)
    if callable(getattr(audio, "read", None)):
        return _Encoded(_stream_name(audio), lambda: _kept(audio, should_stop), track)
    raise AudioError(
        f"audio is a {type(audio).__name__}; it has to be a path, the bytes of an audio file, a binary file object"
        " or a numpy array of samples"
    )


# --- arrays -----------------------------------------------------------------------------------------------------------

# dtype -> (value of silence, full scale), as soundfile scales integer PCM.
_INTEGER_SCALES = {np.dtype(np.int16): (0, 2**15), np.dtype(np.int32): (0, 2**31), np.dtype(np.uint8): (128, 2**7)}


def _is_array_like(audio: object) -> bool:
    return isinstance(audio, np.ndarray) or hasattr(audio, "__array__")


def _as_array(audio: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(audio)
    except Exception as error:  # a tensor on a GPU, or one that still wants gradients: each library has its own error
        raise AudioError(f"numpy cannot read the given {type(audio).__name__} as an array: {error}") from error


def _checked_rate(sampling_rate: Optional[float]) -> float:
    if sampling_rate is None:
        return SAMPLE_RATE
    is_number = isinstance(sampling_rate, (int, float, np.integer, np.floating)) and not isinstance(sampling_rate, bool)
    if not is_number or not 1 <= sampling_rate <= MAX_RATE_HZ:
        raise OptionError("sampling_rate", sampling_rate, f"a number of Hz from 1 to {MAX_RATE_HZ}")
    return float(sampling_rate)


def _of_array(array: npt.NDArray[Any], rate_hz: float, should_stop: ShouldStop) -> Samples:
    _check_array(array)
    _check_length(array.shape[0], rate_hz)
    if not _is_pcm_already(array, rate_hz):
        return DecodedSamples(lambda _: _array_pieces(array, rate_hz), "the array", should_stop=should_stop)

    def check(block: Floats, first: int) -> None:
        _check_values(block, first, rate_hz, "the array")

    return ArraySamples(array, check=check, should_stop=should_stop)


def _array_pieces(array: npt.NDArray[Any], rate_hz: float) -> Pieces:
    pcm = _PcmStream(rate_hz, "the array")
    for first in range(0, array.shape[0], pcm.block_frames):
        yield pcm.push(array[first : first + pcm.block_frames])
    yield pcm.finish()


def _check_array(array: npt.NDArray[Any]) -> None:
    native = array.dtype.newbyteorder("=")
    if native not in _INTEGER_SCALES and native not in (np.float16, np.float32, np.float64):
        raise AudioError(
            f"the array's dtype is {array.dtype}; it has to be float16, float32 or float64 in [-1, 1],"
            " or integer PCM as int16, int32 or uint8"
        )
    if array.ndim not in (1, 2):
        raise AudioError(
            f"the array has shape {array.shape}; it has to be (samples,) or (samples, channels):"
            " give one audio at a time"
        )
    if array.ndim == 2 and array.shape[1] > MAX_CHANNELS:
        raise AudioError(
            f"the array has shape {array.shape}, which reads as {array.shape[1]} channels (at most {MAX_CHANNELS});"
            " if it is (channels, samples), transpose it: audio.T"
        )
    if array.ndim == 2 and array.shape[1] == 0:
        raise AudioError(f"the array has shape {array.shape}: no channel")


def _is_pcm_already(array: npt.NDArray[Any], rate_hz: float) -> bool:
    in_place = array.flags.c_contiguous and array.flags.aligned
    return array.ndim == 1 and array.dtype == np.float32 and in_place and rate_hz == SAMPLE_RATE


# --- blocks -----------------------------------------------------------------------------------------------------------


class _PcmStream:
    """Takes blocks of any rate, dtype and number of channels, and gives the PCM of each.

    Args:
        mix: (frames,) or (frames, channels) to one channel.
    """

    def __init__(self, rate_hz: float, name: str, mix: Optional[Mix] = None) -> None:
        self._rate_hz = rate_hz
        self._name = name
        self._mix = mix or _mixed_down
        self._resampler = None if rate_hz == SAMPLE_RATE else _resampler(rate_hz)
        self.frames_in = 0

    @property
    def block_frames(self) -> int:
        """Frames to push at a time: few at a low rate, where each becomes thousands of samples."""
        return int(min(_BLOCK_FRAMES, max(self._rate_hz, 1)))

    def push(self, block: npt.NDArray[Any]) -> Floats:
        """``block`` is (frames,) or (frames, channels). The result may share its memory, and may be empty."""
        floats = _full_scale(block)
        _check_values(floats, self.frames_in, self._rate_hz, self._name)
        self.frames_in += block.shape[0]
        _check_length(self.frames_in, self._rate_hz)
        return self._resampled(self._mix(floats), last=False)

    def finish(self) -> Floats:
        """What the resampler still holds. Nothing may be pushed after it."""
        nothing = np.empty(0, np.float32)
        return self._resampled(nothing, last=True) if self.frames_in else nothing

    def _resampled(self, mono: Floats, *, last: bool) -> Floats:
        if self._resampler is None:
            return mono
        resampled: Floats = self._resampler.resample_chunk(mono, last=last)
        return resampled


def _resampler(rate_hz: float) -> Any:
    import soxr

    return soxr.ResampleStream(rate_hz, SAMPLE_RATE, 1, dtype="float32", quality="HQ")


def _full_scale(block: npt.NDArray[Any]) -> Floats:
    scale = _INTEGER_SCALES.get(block.dtype.newbyteorder("="))
    if scale is None:
        with np.errstate(over="ignore"):  # a float64 too large for float32 becomes Inf, which is found and named later
            floats: Floats = np.ascontiguousarray(block, np.float32)
        return floats
    zero, full_scale = scale
    # Through float64, where every int32 is exact: float32 would round before the division and after it.
    scaled: Floats = ((block.astype(np.float64) - zero) / full_scale).astype(np.float32)
    return scaled


def _mixed_down(floats: Floats) -> Floats:
    if floats.ndim == 1:
        return floats
    channels = floats.shape[1]
    if channels == 1:
        return np.ascontiguousarray(floats[:, 0])
    mono: Floats = floats[:, 0].copy()
    for channel in range(1, channels):  # column by column: several times faster than a mean over short rows
        mono += floats[:, channel]
    mono /= channels
    return mono


def _left(floats: Floats) -> Floats:
    return _of_two(floats, 0)


def _right(floats: Floats) -> Floats:
    return _of_two(floats, -1)


def _of_two(floats: Floats, channel: int) -> Floats:
    if floats.ndim == 1:
        return floats
    _check_channels(floats.shape[1], "the audio")
    return np.ascontiguousarray(floats[:, channel])


def _check_channels(n_channels: int, name: str) -> None:
    if n_channels > 2:
        raise AudioError(f"{name} has {n_channels} channels; left and right are known of at most 2")


def _check_values(floats: Floats, first_frame: int, rate_hz: float, name: str) -> None:
    if floats.size == 0 or (floats.max() <= MAX_PEAK and floats.min() >= -MAX_PEAK):  # NaN fails both comparisons
        return
    wrong = ~(np.abs(floats) <= MAX_PEAK)
    row = int(np.argmax(wrong.any(axis=1) if wrong.ndim == 2 else wrong))
    value = float(floats[row][wrong[row]][0]) if wrong.ndim == 2 else float(floats[row])
    frame = first_frame + row
    place = f"at sample {frame} ({frame / rate_hz:.3f} s)"
    if not math.isfinite(value):
        raise AudioError(f"{name} holds {value} {place}; every sample has to be a finite number")
    raise AudioError(
        f"{name} holds {value:g} {place}; floats have to be in [-1, 1] (accepted up to {MAX_PEAK:g})."
        " This looks like integer PCM stored as floats: divide by its full scale (32768 for 16 bits)"
    )


def _check_length(frames: int, rate_hz: float) -> None:
    if frames > MAX_DURATION_S * rate_hz:
        raise AudioError(f"the audio is longer than {MAX_DURATION_S // 3600} hours, the most for one call: split it")


# --- files ------------------------------------------------------------------------------------------------------------


class _Encoded:
    """An audio file that may be decoded more than once.

    Args:
        name: for errors.
        open_stream: gives the bytes as a file that seeks; called once, by the first pass.
        track: which audio track, from 0; None: the first.
    """

    def __init__(self, name: str, open_stream: Callable[[], IO[bytes]], track: Optional[int] = None) -> None:
        self.name = name
        self._track = track
        self._open_stream = open_stream
        self._stream: Optional[IO[bytes]] = None
        self._state: Optional[tuple[int, int]] = None
        self._parts: Optional[list[Part]] = None
        self.lead_s = 0.0  # of silence at the beginning, because the audio begins later than the video

    def pieces(self, is_first: bool, mix: Optional[Mix] = None) -> Pieces:
        """PCM from the beginning. What is wrong with the file is told to the log by the first pass only."""
        if self._stream is None:
            self._stream = self._open_stream()
            self._state = _file_state(self._stream)
        self._check_unchanged()
        if self._parts is None:
            self._parts = _checked_parts(self._stream, self.name)
        decoding = _Decoding(self.name, warns=is_first, mix=mix, track=self._track)
        try:
            for piece in _from_parts(self._parts, decoding):
                self.lead_s = decoding.lead_s
                yield piece
                if not is_first:
                    self._check_unchanged()
        finally:
            decoding.close()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def _check_unchanged(self) -> None:
        assert self._stream is not None
        now = _file_state(self._stream)
        if now is None or self._state is None or now == self._state:
            return
        n_before, n_now = self._state[0], now[0]
        raise changed(self.name, f"it had {n_before} bytes, now {n_now}" if n_now != n_before else "it was written to")


def _file_state(stream: IO[bytes]) -> Optional[tuple[int, int]]:
    """Bytes and time of the last change, of a file on a disk."""
    try:
        found = os.fstat(stream.fileno())
    except (AttributeError, OSError, ValueError):  # io.UnsupportedOperation is both of the latter
        return None
    return found.st_size, found.st_mtime_ns


def _open_path(name: str, should_stop: ShouldStop) -> IO[bytes]:
    if not name:
        raise AudioError("the path of the audio is empty: give that of a file")
    if "://" in name and not os.path.exists(name):
        raise FileNotFoundError(errno.ENOENT, "No such file (addresses are not fetched: download it first)", name)
    try:
        stream = open(name, "rb")  # noqa: SIM115 (stays open for the second pass)
    except ValueError as error:  # a NUL, or what no name of a file can hold
        raise AudioError(f"{name!r} can be no path of a file: {error}") from error
    if stream.seekable():
        return stream
    with stream:  # a pipe, which cannot seek, as decoders have to
        return _kept(stream, should_stop)


def _kept(stream: Any, should_stop: ShouldStop) -> IO[bytes]:
    """What is left to read of a file object: in memory, and in a temporary file where it is much."""
    kept: IO[bytes] = io.BytesIO()
    n_bytes = 0
    try:
        while content := _read_some(stream):
            if should_stop():
                raise StoppedError
            if n_bytes <= _MOST_BYTES_IN_MEMORY < n_bytes + len(content):
                in_memory = cast(io.BytesIO, kept)
                kept = cast(IO[bytes], tempfile.TemporaryFile())  # noqa: SIM115
                kept.write(in_memory.getbuffer())
            kept.write(content)
            n_bytes += len(content)
        kept.flush()
        kept.seek(0)
    except BaseException:
        kept.close()
        raise
    return kept


def _read_some(stream: Any) -> bytes:
    text_mode = "the file object is in text mode; open it in binary mode: open(path, 'rb')"
    if isinstance(stream, io.TextIOBase):
        raise AudioError(text_mode)
    try:
        content = stream.read(_READ_BYTES)
    except UnicodeError as error:  # text mode by another class
        raise AudioError(text_mode) from error
    except ValueError as error:  # it is closed, or open for writing only
        raise AudioError(f"the file object cannot be read ({error}); open it anew: open(path, 'rb')") from error
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content)
    if isinstance(content, str):
        raise AudioError(text_mode)
    raise AudioError(f"the file object's read() gave {type(content).__name__}; it has to give bytes")


def _stream_name(stream: object) -> str:
    name = getattr(stream, "name", None)
    return name if isinstance(name, str) else "the given file object"


@dataclass
class _Decoding:
    """What one pass over a file needs to know.

    Attributes:
        name: of the file, for messages.
        warns: tell the log of what is wrong behind the beginning of the file.
        mix: (frames, channels) to one channel; None: their mean.
        track: of the audio tracks of a container, from 0. None: the first.
        n_done: samples of 16 kHz so far.
        n_before: those that came of the streams before this one.
        is_last: this stream is the last one.
        lead_s: seconds of silence before the first sample of a container.
    """

    name: str
    warns: bool = True
    mix: Optional[Mix] = None
    track: Optional[int] = None
    n_done: int = 0
    n_before: int = 0
    is_last: bool = True
    lead_s: float = 0.0
    _mp3_process: Optional[Mp3Process] = None

    def mp3_process(self) -> Mp3Process:
        """One for all streams of the file, as a damaged file may have hundreds. A crash ends it: another follows."""
        if self._mp3_process is not None and self._mp3_process.has_ended:
            self.close()
        self._mp3_process = self._mp3_process or Mp3Process()
        return self._mp3_process

    def close(self) -> None:
        if self._mp3_process is not None:
            self._mp3_process.close()
            self._mp3_process = None

    def warn(self, message: str, *arguments: object) -> None:
        if self.warns:
            _LOG.warning("%s " + message, self.name, *arguments)


def _checked_parts(stream: IO[bytes], name: str) -> list[Part]:
    stream.seek(0)
    if not stream.read(1):
        raise EmptyAudioError(f"{name} is empty: 0 bytes")
    return parts_of(stream)


def _from_parts(parts: list[Part], decoding: _Decoding) -> Pieces:
    """PCM of all the streams that a file is joined of."""
    _warn_left_out(decoding, parts)
    for index, part in enumerate(parts):
        decoding.n_before, decoding.is_last = decoding.n_done, index + 1 == len(parts)
        try:
            for piece in _from_part(part, decoding):
                decoding.n_done += piece.size
                _check_length(decoding.n_done, SAMPLE_RATE)
                yield piece
        except (AudioFormatError, EmptyAudioError) as error:
            if index == 0:
                raise
            decoding.warn(
                "was not read from %.2f s on, where stream %d of the %d that it is joined of begins: %s",
                decoding.n_done / SAMPLE_RATE,
                index + 1,
                len(parts),
                error,
            )


def _warn_left_out(decoding: _Decoding, parts: list[Part]) -> None:
    left_out = sum(part.left_out for part in parts)
    if left_out:
        decoding.warn("is damaged: %d bytes in it are no MP3 frames and were left out", left_out)


def _from_part(part: Part, decoding: _Decoding) -> Pieces:
    """PCM by the first decoder that can read the stream."""
    part.stream.seek(0)
    head = part.stream.read(64)
    reasons = []
    for decode in _decoders(decoding.track, head, part):
        part.stream.seek(0)
        pieces = decode(part, decoding)
        try:
            first = next(pieces, None)
        except _NotDecodedError as error:
            reasons.append(str(error))
        else:
            if part.guess is not None:
                decoding.warn("has a wrong header: %s", part.guess)
            return _resumed(first, pieces)
    raise AudioFormatError(_not_decoded(decoding.name, head, reasons))


def _decoders(track: Optional[int], head: bytes, part: Part) -> tuple[Callable[[Part, _Decoding], Pieces], ...]:
    """libsndfile knows one audio track. Of the formats that it reads, only Ogg may have more."""
    if track and head[:4] == b"OggS":
        return (_decode_with_av,)
    if part.tells_length is not None or _MP3_IN_WAV.search(_first_bytes(part.stream)):
        return _decode_mp3, _decode_with_av
    return _decode_with_soundfile, _decode_with_av


_MP3_IN_WAV = re.compile(rb"^(?:RIFF|RF64).*fmt .{4}\x55\0", re.DOTALL)


def _first_bytes(stream: IO[bytes]) -> bytes:
    stream.seek(0)
    return stream.read(4096)


def _resumed(first: Optional[Floats], rest: Pieces) -> Pieces:
    try:
        if first is not None:
            yield first
            yield from rest
    finally:
        rest.close()


class _NotDecodedError(Exception):
    """This decoder cannot read it: the next one may. Comes before the first piece."""


def _decode_with_soundfile(part: Part, decoding: _Decoding) -> Pieces:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: its libsndfile is missing
        raise _NotDecodedError(f"soundfile cannot be imported ({error})") from error

    class ForwardFile(soundfile.SoundFile):  # type: ignore[misc]
        """soundfile seeks to where it stands after every block, which is slow, and in an MP3 it is audible."""

        def seekable(self) -> bool:
            return False

    stream, tells_length = part.stream, part.tells_length
    source = _Source(stream, stretch=_MOST_BYTES_PER_BYTE if tells_length is False else 1)
    try:
        with _InterruptLater():
            file = ForwardFile(source)
    except soundfile.LibsndfileError as error:
        source.raise_if_failed()
        raise _NotDecodedError(_libsndfile_reason(error.error_string)) from error
    with file:
        pcm = _stream_for(file.samplerate, decoding)
        frames = min(pcm.block_frames, max(1, _BLOCK_FRAMES * MAX_CHANNELS // file.channels))
        if tells_length is False:
            frames = min(frames, _MP3_BLOCK_FRAMES)
        buffer = np.empty((frames, file.channels), np.float32)
        damage: Optional[str] = None
        try:
            while True:
                with _InterruptLater():
                    block = file.read(out=buffer)
                source.raise_if_failed()
                if not len(block):
                    break
                yield pcm.push(block)
        except soundfile.LibsndfileError as error:
            source.raise_if_failed()
            if not pcm.frames_in:
                raise _NotDecodedError(_libsndfile_reason(error.error_string)) from error
            damage = _libsndfile_reason(error.error_string)
        source.raise_if_failed()
        if damage := part.missing or damage or _what_is_missing(str(file.extra_info), stream):
            _warn_damaged(decoding, pcm.frames_in / file.samplerate, damage)
        yield pcm.finish()


def _stream_for(rate_hz: int, decoding: _Decoding) -> _PcmStream:
    """The way to PCM for a file that libsndfile has opened."""
    if decoding.track:
        raise _no_such_track(decoding.name, decoding.track, 1)
    if not 1 <= rate_hz <= MAX_RATE_HZ:
        raise AudioFormatError(
            f"{decoding.name} claims {rate_hz} samples per second; from 1 to {MAX_RATE_HZ} are possible."
            " The file is damaged"
        )
    return _PcmStream(rate_hz, decoding.name, decoding.mix)


def _decode_mp3(part: Part, decoding: _Decoding) -> Pieces:
    """As ``_decode_with_soundfile``, in a process of its own: its decoder prints to stderr where a frame is damaged."""
    stretch = _MOST_BYTES_PER_BYTE if part.tells_length is False else 1
    try:
        file = decoding.mp3_process()
        file.open(part.stream, stretch, _MP3_BLOCK_FRAMES, _BLOCK_FRAMES * MAX_CHANNELS)
    except (ImportError, NoProcessError):  # no soundfile, or no processes: what it prints cannot be helped there
        part.stream.seek(0)
        yield from _decode_with_soundfile(part, decoding)
        return
    except DecoderError as error:
        raise _NotDecodedError(_libsndfile_reason(str(error))) from error
    pcm = _stream_for(file.rate_hz, decoding)
    damage: Optional[str] = None
    try:
        while (block := file.read()) is not None:
            for first in range(0, len(block), pcm.block_frames):
                yield pcm.push(block[first : first + pcm.block_frames])
    except DecoderError as error:
        damage = _libsndfile_reason(str(error))
        if not pcm.frames_in:
            raise _NotDecodedError(damage) from error
    _warn_damaged_frames(decoding, file)
    if damage := part.missing or damage or _what_is_missing(file.log, part.stream):
        _warn_damaged(decoding, pcm.frames_in / file.rate_hz, damage)
    yield pcm.finish()


def _warn_damaged_frames(decoding: _Decoding, file: Mp3Process) -> None:
    """Tell where frames are damaged whose audio was decoded as far as it goes."""
    if file.damaged_frames:
        first_s = decoding.n_before / SAMPLE_RATE + file.damaged_frames[0] / file.rate_hz
        message = "is damaged at %.2f s%s: what MP3 frames held there is not whole (mpg123: %s); what follows is read"
        n_more = len(file.damaged_frames) - 1
        more = f" and at {n_more} later place{'s' if n_more > 1 else ''}" if n_more else ""
        decoding.warn(message, first_s, more, file.first_line)


# What libsndfile notes of a header that claims more bytes than there are, and of an Ogg file without its last page.
_SHORT_CHUNK = re.compile(r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_SHORT_OGG = re.compile(r"^Ogg ?: (?:File ended unexpectedly|Junk after the last page).*", re.MULTILINE)
_UNKNOWN_BYTES = 0x7FFF_0000  # programs that write to a pipe claim this or more, as they cannot know how much will come
_WRONG_BYTES = 64  # some count the header as well: nothing that is missing is so short
_MOST_BYTES_PER_BYTE = 64  # from frames of 8 kbit/s to those of 320, and more
_MP3_BLOCK_FRAMES = 4096  # of one without a length: where it is cut, libsndfile loses the block


def _what_is_missing(log: str, stream: IO[bytes]) -> Optional[str]:
    """The sign, if libsndfile's log has one, that a file which was read to its end was longer once."""
    for claimed, held in _SHORT_CHUNK.findall(log):
        if int(held) + _WRONG_BYTES < int(claimed) < _UNKNOWN_BYTES:
            return f"its header claims {claimed} bytes, there are {held}"
    ogg = _SHORT_OGG.search(log)
    if ogg is not None and not _has_last_page(stream):  # which libsndfile forgets of files with one page of audio
        return f"libsndfile: {ogg.group()}"
    return None


def _has_last_page(stream: IO[bytes]) -> bool:
    """Whether the last page of an Ogg file is whole and says that it is the last. Something else may follow."""
    header, most_bytes = 27, 27 + 255 + 255 * 255
    end = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, end - 4 * most_bytes))
    tail = stream.read()
    page = tail[tail.rfind(b"OggS") :] if b"OggS" in tail else b""
    if len(page) < header or len(page) < header + page[26]:
        return False
    n_bytes = header + page[26] + sum(page[header : header + page[26]])
    return bool(page[5] & 4) and len(page) >= n_bytes


class _InterruptLater:
    """Ctrl-C while libsndfile runs. Python would raise ``KeyboardInterrupt`` where libsndfile calls a file object
    through C, and it would be lost, as if the file ended there. It is raised behind the block instead."""

    def __enter__(self) -> None:
        self._is_asked = False
        # Signals come to the main thread; whoever has a handler of their own keeps it.
        in_main = threading.current_thread() is threading.main_thread()
        self._defers = in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._defers:
            signal.signal(signal.SIGINT, self._ask)

    def __exit__(self, *_: object) -> None:
        if self._defers:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._is_asked:
            raise KeyboardInterrupt

    def _ask(self, *_: object) -> None:
        self._is_asked = True


class _Source:
    """The part of a file object that libsndfile uses.

    libsndfile calls it through C, which would print an error of the operating system and go on as if the file had
    ended: it is kept here and raised afterwards. Also hides the file's name: soundfile would go by its extension.

    Args:
        stretch: the file is said to be this many times as long. Of an MP3 that does not tell its length libsndfile
            estimates it, by that of the file and of the first frame, and reads no further: where the first frames are
            large, half of the audio would be lost.
    """

    def __init__(self, stream: IO[bytes], stretch: int = 1) -> None:
        self._stream: Any = stream
        self._error: Optional[OSError] = None
        self._stretch = stretch
        self._asks_length = False

    def readinto(self, buffer: Any) -> int:
        try:
            count: int = self._stream.readinto(buffer)
            return count
        except OSError as error:
            self._error = error
            return 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._asks_length = offset == 0 and whence == os.SEEK_END
        try:
            position: int = self._stream.seek(offset, whence)
            return position
        except (OSError, ValueError):  # a damaged header sends it to before the start; it stays where it is
            return self.tell()

    def tell(self) -> int:
        position: int = self._stream.tell()
        return position * self._stretch if self._asks_length else position

    def raise_if_failed(self) -> None:
        if self._error is not None:
            raise self._error


def _libsndfile_reason(words: str) -> str:
    reason = str(words).rstrip(".")
    # What its MP3 reader says of bytes without a single MP3 frame. The file was opened: it does exist.
    return "libsndfile: Format not recognised" if "does not exist" in reason else f"libsndfile: {reason}"


def _decode_with_av(part: Part, decoding: _Decoding) -> Pieces:
    av, av_error = _imported_av()
    try:
        container = av.open(part.stream, mode="r", metadata_errors="ignore")
    except (av_error.FFmpegError, ValueError) as error:
        raise _NotDecodedError(f"FFmpeg: {_ffmpeg_reason(error)}") from error
    with container:
        track = _chosen_track(container, decoding)
        pcm: Optional[_PcmStream] = None
        damage: Optional[str] = None
        peak = 0.0
        try:
            for block, rate_hz in _av_blocks(av, container, track, decoding):
                pcm = pcm or _PcmStream(rate_hz, decoding.name, decoding.mix)
                peak = max(peak, float(np.abs(block).max(initial=0.0)))
                for first in range(0, block.shape[0], pcm.block_frames):
                    yield pcm.push(block[first : first + pcm.block_frames])
        except av_error.FFmpegError as error:
            if pcm is None:
                raise _NotDecodedError(f"FFmpeg: {_ffmpeg_reason(error)}") from error
            damage = f"FFmpeg: {_ffmpeg_reason(error)}"
        if pcm is not None:
            until_s = pcm.frames_in / rate_hz
            if damage := damage or _what_ffmpeg_misses(container, until_s):
                _warn_damaged(decoding, until_s, damage)
            yield pcm.finish()
        if peak <= _SILENT_PEAK:
            _warn_silent(container, track, decoding)


def _imported_av() -> tuple[Any, Any]:
    try:
        # By name: PyAV is an extra, and type checkers have to do without it.
        return importlib.import_module("av"), importlib.import_module("av.error")
    except ModuleNotFoundError as error:
        raise _NotDecodedError("PyAV, which decodes more formats, is not installed") from error
    except (ImportError, OSError) as error:  # a shared library of its FFmpeg is missing
        raise _NotDecodedError(f"PyAV cannot be imported ({error})") from error


def _chosen_track(container: Any, decoding: _Decoding) -> int:
    n_tracks, track = len(container.streams.audio), decoding.track or 0
    if not n_tracks:
        raise EmptyAudioError(f"{decoding.name} holds no audio stream")
    if track >= n_tracks:
        raise _no_such_track(decoding.name, track, n_tracks)
    return track


def _warn_silent(container: Any, track: int, decoding: _Decoding) -> None:
    n_tracks = len(container.streams.audio)
    if n_tracks > 1:
        message = (
            "has %d audio tracks, and track %d is silent: choose another from 0 to %d (--audio-track, audio_track)"
        )
        decoding.warn(message, n_tracks, track, n_tracks - 1)


def _no_such_track(name: str, track: int, n_tracks: int) -> AudioError:
    there_are = "one audio track, 0" if n_tracks == 1 else f"{n_tracks} audio tracks, 0 to {n_tracks - 1}"
    return AudioError(f"{name} has {there_are}; there is no track {track}")


def _av_blocks(av: Any, container: Any, track: int, decoding: _Decoding) -> Iterator[tuple[Floats, int]]:
    """(frames, channels) float32 and the rate, of an audio track. All blocks have the rate of the first. Silence fills
    the times of which the track has no samples, so that the clock of the samples is that of the container."""
    resampler, holes = None, _Holes((container.start_time or 0) / 1e6)
    for frame in container.decode(audio=track):
        n_missing = round(holes.before(frame.time, frame.samples / frame.rate) * frame.rate)
        decoding.lead_s = holes.lead_s
        # FFmpeg's resampler only unifies what a stream may change midway: sample type, channels and rate.
        resampler = resampler or av.AudioResampler(format="fltp", layout=frame.layout.name, rate=frame.rate)
        for block in resampler.resample(frame):
            floats = block.to_ndarray().T
            for first in range(0, n_missing, _BLOCK_FRAMES):
                yield np.zeros((min(_BLOCK_FRAMES, n_missing - first), floats.shape[1]), np.float32), block.rate
            n_missing = 0
            yield floats, block.rate
    if resampler is not None:
        for block in resampler.resample(None):
            yield block.to_ndarray().T, block.rate
    holes.tell(decoding)


class _Holes:
    """Times of a track without samples: before its first one, and where packets were lost.

    Args:
        start_s: when the container begins, by the clock of its frames.

    Attributes:
        lead_s: seconds of silence before the first frame.
    """

    def __init__(self, start_s: float) -> None:
        self.lead_s = 0.0
        self._due_s = start_s  # when the next frame should begin
        self._is_first = True
        self._filled: list[tuple[float, float]] = []  # (place, seconds)
        self._not_filled: list[tuple[float, float]] = []
        self._at_s = 0.0

    def before(self, time_s: Optional[float], frame_s: float) -> float:
        """Return the seconds of silence to put before a frame, and go on behind the frame."""
        jump_s = 0.0 if time_s is None else time_s - self._due_s
        hole_s = jump_s if _LEAST_HOLE_S <= jump_s <= _LONGEST_HOLE_S else 0.0
        if jump_s > _LONGEST_HOLE_S:
            self._not_filled.append((self._at_s, jump_s))
        if self._is_first:
            self.lead_s, self._is_first = hole_s, False
        elif hole_s:
            self._filled.append((self._at_s, hole_s))
        # Samples that come too early are kept. A little is jitter, after which the clock goes on; more is a new clock.
        starts_anew = jump_s > _LONGEST_HOLE_S or jump_s < -_LARGEST_JITTER_S
        self._due_s += (jump_s if starts_anew else hole_s) + frame_s
        self._at_s += hole_s + frame_s
        return hole_s

    def tell(self, decoding: _Decoding) -> None:
        if self._filled:
            at_s, sum_s = self._filled[0][0], sum(hole_s for _, hole_s in self._filled)
            message = "lacks %.2f s of audio, first at %.2f s: silence stands for it"
            decoding.warn(message, sum_s, at_s)
        for at_s, hole_s in self._not_filled[:1]:
            message = "jumps by %.0f s at %.2f s, which is not believed: times from there on are too early"
            decoding.warn(message, hole_s, at_s)


def _what_ffmpeg_misses(container: Any, until_s: float) -> Optional[str]:
    """FFmpeg takes the end of a cut Matroska or WebM file for its end. Its header knows better, though with a video it
    is the video that it may tell of."""
    claimed_s = ((container.duration or 0) - (container.start_time or 0)) / 1e6
    if "matroska" in container.format.name and len(container.streams) == 1 and until_s < claimed_s - 1:
        return f"its header claims {claimed_s:.2f} s"
    return None


def _ffmpeg_reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _warn_damaged(decoding: _Decoding, until_s: float, reason: str) -> None:
    """Tell where the audio of a stream ends too early, ``until_s`` after the beginning of that stream."""
    at_s = decoding.n_before / SAMPLE_RATE + until_s
    if decoding.is_last:
        decoding.warn("is damaged or cut off: what was decoded ends after %.2f s (%s)", at_s, reason)
    else:
        decoding.warn("is damaged: audio is missing at %.2f s (%s); what follows it is read", at_s, reason)


def _not_decoded(name: str, head: bytes, reasons: list[str]) -> str:
    look = _looks_like(head)
    first = " ".join(f"{byte:02x}" for byte in head[:12])
    message = f"{name} cannot be decoded as audio ({'; '.join(reasons)}). It begins with {first}"
    if look is not None:
        message += f", which looks like {look}"
    if importlib.util.find_spec("av") is None:
        message += ". M4A, MP4, WebM, AAC, WMA and the sound of videos need PyAV: pip install 'whisperq-edge[av]'"
    return message


# offset, magic, what it is
_MAGICS = (
    (4, b"ftyp", "MP4 (m4a, mp4, mov)"),
    (0, b"\x1aE\xdf\xa3", "Matroska (webm, mkv)"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media (wma, asf)"),
    (0, b"\xff\xf1", "AAC (ADTS)"),
    (0, b"\xff\xf9", "AAC (ADTS)"),
    (0, b"#!AMR", "AMR"),
    (8, b"AVI ", "AVI"),
    (8, b"WAVE", "WAV"),
    (8, b"AIF", "AIFF"),
    (0, b"fLaC", "FLAC"),
    (0, b"OggS", "Ogg"),
    (0, b"ID3", "MP3"),
    (0, b"\xff\xfb", "MP3"),
    (0, b"\xff\xf3", "MP3"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"%PDF", "a PDF"),
    (0, b"version https://git-lfs", "a Git LFS pointer: fetch the real file with git lfs pull"),
)


def _looks_like(head: bytes) -> Optional[str]:
    for offset, magic, what in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return what
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        return "a web page or an error message of a server"
    return None
