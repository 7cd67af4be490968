"""Audio of any kind to PCM: float32, mono, 16 kHz.

Files are decoded, mixed down and resampled block by block, as often as they are gone over (``samples`` says why):
nothing is allocated by what a header claims. soundfile, soxr and PyAV are imported when they are first needed, so that
``import whisperq_edge`` stays quick.
"""

from __future__ import annotations

import io
import os
import time
from dataclasses import dataclass
from typing import IO, Any, Optional, Union

import numpy as np
import numpy.typing as npt

from .._errors import AudioError, OptionError
from .._system.arrays import Floats
from .._system.checks import check, is_whole
from .._whisper.units import SAMPLE_RATE
from .encoded import Encoded, kept, open_path, stream_name
from .mono import (
    as_array,
    check_array,
    check_channels,
    checked_rate,
    is_array_like,
    left_channel,
    of_array,
    right_channel,
)
from .samples import (
    BLOCK_SAMPLES,
    DecodedSamples,
    Samples,
    ShouldStop,
    never,
)

__all__ = ["AudioLike", "Pcm", "first_samples", "open_samples", "to_pcm", "to_stereo"]

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
    if is_array_like(audio):
        array = as_array(audio)
        check_array(array)
        check_channels(array.shape[1] if array.ndim == 2 else 1, "the array")
        columns = array if array.ndim == 2 else array[:, None]
        left, right = (_whole(open_samples(columns[:, channel])) for channel in (0, -1))
        return left, right
    encoded = _encoded(audio, never)
    try:
        left = _whole(DecodedSamples(lambda _: encoded.pieces(True, left_channel), encoded.name))
        right = _whole(DecodedSamples(lambda _: encoded.pieces(False, right_channel), encoded.name))
    finally:
        encoded.close()
    return left, right


def _whole(samples: Samples) -> Floats:
    with samples as opened:
        return opened.whole()


def open_samples(
    audio: AudioLike,
    *,
    sampling_rate: Optional[float] = None,
    audio_track: Optional[int] = None,
    should_stop: ShouldStop = never,
) -> Samples:
    """Audio that is read a piece at a time, for a ``with`` block. Takes what ``to_pcm`` takes; what it raises for audio
    that cannot be read, the first pass over the samples raises.

    Files are opened by the first pass and stay open until the block ends. Encoded bytes that come from a file object
    or a pipe are kept, in memory or in a temporary file, as they have to be decoded again.

    Args:
        should_stop: asked for every piece, of up to a second; on True ``StoppedError`` is raised.
    """
    _check_track(audio_track)
    if is_array_like(audio):
        if audio_track is not None:
            raise OptionError("audio_track", audio_track, "only for files: an array is one track")
        return of_array(as_array(audio), checked_rate(sampling_rate), should_stop)
    if sampling_rate is not None:
        raise OptionError("sampling_rate", sampling_rate, "only for arrays: an audio file carries its own rate")
    encoded = _encoded(audio, should_stop, audio_track)
    return DecodedSamples(
        encoded.pieces,
        encoded.name,
        should_stop=should_stop,
        close=encoded.close,
        n_lead=lambda: round(encoded.lead_s * SAMPLE_RATE),
        damage=lambda: encoded.damage,
    )


def first_samples(audio: AudioLike, n_samples: int) -> Floats:
    """Return the first samples of audio, or fewer where it is shorter. The rest is decoded only up to the end of a
    block, so that no damage in it is noticed. Takes and raises what ``to_pcm`` does."""
    blocks: list[Floats] = []
    with open_samples(audio) as opened:
        for block in opened.blocks():
            blocks.append(block)
            if len(blocks) * BLOCK_SAMPLES >= n_samples:
                break
    return np.concatenate([np.empty(0, np.float32), *blocks])[:n_samples]


def _check_track(audio_track: Any) -> None:
    holds = audio_track is None or (is_whole(audio_track) and audio_track >= 0)
    check("audio_track", audio_track, holds, "a whole number from 0 on, or None for the first track")


def _encoded(audio: Any, should_stop: ShouldStop, track: Optional[int] = None) -> Encoded:
    if isinstance(audio, (str, os.PathLike)):
        name = os.fsdecode(audio)
        return Encoded(name or "the audio", lambda: open_path(name, should_stop), track)
    if isinstance(audio, (bytes, bytearray, memoryview)):
        return Encoded("the given bytes", lambda: io.BytesIO(bytes(audio)), track)
    if callable(getattr(audio, "read", None)):
        return Encoded(stream_name(audio), lambda: kept(audio, should_stop), track)
    raise AudioError(
        f"audio is a {type(audio).__name__}; it has to be a path, the bytes of an audio file, a binary file object"
        " or a numpy array of samples"
    )
