"""Streams by PyAV (FFmpeg): M4A, MP4, WebM, AAC, WMA and the sound of videos."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any, Optional

import numpy as np

from .._errors import EmptyAudioError
from .._system.arrays import Floats
from .decoding import Decoding, NotDecodedError, finished, no_such_track, warn_damaged
from .matroska import tells_duration
from .mono import BLOCK_FRAMES, SILENT_PEAK, PcmStream
from .samples import (
    Pieces,
)
from .spliced import Part

__all__ = ["decode_with_av"]

_LEAST_HOLE_S = 0.1  # times are rounded, to milliseconds in Matroska, and jitter
_LARGEST_JITTER_S = 1.0
_LONGEST_HOLE_S = 3600.0


def decode_with_av(part: Part, decoding: Decoding) -> Pieces:
    av, av_error = _imported_av()
    try:
        container = av.open(part.stream, mode="r", metadata_errors="ignore")
    except (av_error.FFmpegError, ValueError) as error:
        raise NotDecodedError(f"FFmpeg: {_ffmpeg_reason(error)}") from error
    with container:
        track = _chosen_track(container, decoding)
        pcm: Optional[PcmStream] = None
        damage: Optional[str] = None
        peak = 0.0
        try:
            for block, rate_hz in _av_blocks(av, container, track, decoding):
                pcm = pcm or PcmStream(rate_hz, decoding.name, decoding.mix)
                peak = max(peak, float(np.abs(block).max(initial=0.0)))
                for first in range(0, block.shape[0], pcm.block_frames):
                    yield pcm.push(block[first : first + pcm.block_frames])
        except av_error.FFmpegError as error:
            if pcm is None:
                raise NotDecodedError(f"FFmpeg: {_ffmpeg_reason(error)}") from error
            damage = f"FFmpeg: {_ffmpeg_reason(error)}"
        if pcm is not None:
            until_s = pcm.frames_in / rate_hz
            if damage := part.missing or damage or _what_ffmpeg_misses(part, container, until_s):
                warn_damaged(decoding, until_s, damage)
            yield finished(pcm, decoding)
        elif part.missing is not None:
            warn_damaged(decoding, 0.0, part.missing)
        if peak <= SILENT_PEAK:
            _warn_silent(container, track, decoding)


def _imported_av() -> tuple[Any, Any]:
    try:
        # By name: PyAV is an extra, and type checkers have to do without it.
        return importlib.import_module("av"), importlib.import_module("av.error")
    except ModuleNotFoundError as error:
        raise NotDecodedError("PyAV, which decodes more formats, is not installed") from error
    except (ImportError, OSError) as error:  # a shared library of its FFmpeg is missing
        raise NotDecodedError(f"PyAV cannot be imported ({error})") from error


def _chosen_track(container: Any, decoding: Decoding) -> int:
    n_tracks, track = len(container.streams.audio), decoding.track or 0
    if not n_tracks:
        raise EmptyAudioError(f"{decoding.name} holds no audio stream")
    if track >= n_tracks:
        raise no_such_track(decoding.name, track, n_tracks)
    return track


def _warn_silent(container: Any, track: int, decoding: Decoding) -> None:
    n_tracks = len(container.streams.audio)
    if n_tracks > 1:
        message = (
            "has %d audio tracks, and track %d is silent: choose another from 0 to %d (--audio-track, audio_track)"
        )
        decoding.warn(message, n_tracks, track, n_tracks - 1)


def _av_blocks(av: Any, container: Any, track: int, decoding: Decoding) -> Iterator[tuple[Floats, int]]:
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
            for first in range(0, n_missing, BLOCK_FRAMES):
                yield np.zeros((min(BLOCK_FRAMES, n_missing - first), floats.shape[1]), np.float32), block.rate
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

    def tell(self, decoding: Decoding) -> None:
        if self._filled:
            at_s, sum_s = self._filled[0][0], sum(hole_s for _, hole_s in self._filled)
            message = "lacks %.2f s of audio, first at %.2f s: silence stands for it"
            decoding.warn(message, sum_s, at_s)
        for at_s, hole_s in self._not_filled[:1]:
            message = "jumps by %.0f s at %.2f s, which is not believed: times from there on are too early"
            decoding.warn(message, hole_s, at_s)


def _what_ffmpeg_misses(part: Part, container: Any, until_s: float) -> Optional[str]:
    """FFmpeg takes the end of a cut Matroska or WebM file for its end. Its header knows better, though with a video it
    is the video that it may tell of. Without a length in the header FFmpeg guesses one."""
    claimed_s = ((container.duration or 0) - (container.start_time or 0)) / 1e6
    is_alone = "matroska" in container.format.name and len(container.streams) == 1
    if is_alone and until_s < claimed_s - 1 and tells_duration(part.stream):
        return f"its header claims {claimed_s:.2f} s"
    return None


def _ffmpeg_reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
