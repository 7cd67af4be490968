"""What every decoder of a file needs: who it is for, and what to say of damage."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Optional

from .._errors import AudioError, AudioFormatError
from .._system.arrays import Floats
from .._whisper.units import SAMPLE_RATE
from .mono import CANCELS_OUT, MAX_RATE_HZ, Mix, PcmStream
from .mp3_process import Mp3Process

__all__ = ["Decoding", "NotDecodedError", "finished", "no_such_track", "stream_for", "warn_damaged"]

_LOG = logging.getLogger("whisperq_edge")


@dataclass
class Decoding:
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
        damage: the warnings that tell of audio that was not read, as they were logged.
    """

    name: str
    warns: bool = True
    mix: Optional[Mix] = None
    track: Optional[int] = None
    n_done: int = 0
    n_before: int = 0
    is_last: bool = True
    lead_s: float = 0.0
    damage: list[str] = field(default_factory=list)
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

    def warn_of_loss(self, message: str, *arguments: object) -> None:
        """Tell of audio that was not read. The log and the transcript both say so."""
        self.warn(message, *arguments)
        if self.warns:
            self.damage.append(f"{self.name} {message % arguments}")


class NotDecodedError(Exception):
    """This decoder cannot read it: the next one may. Comes before the first piece."""


def stream_for(rate_hz: int, decoding: Decoding) -> PcmStream:
    """The way to PCM for a file that libsndfile has opened."""
    if decoding.track:
        raise no_such_track(decoding.name, decoding.track, 1)
    if not 1 <= rate_hz <= MAX_RATE_HZ:
        raise AudioFormatError(
            f"{decoding.name} claims {rate_hz} samples per second; from 1 to {MAX_RATE_HZ} are possible."
            " The file is damaged"
        )
    return PcmStream(rate_hz, decoding.name, decoding.mix)


def finished(pcm: PcmStream, decoding: Decoding) -> Floats:
    """Return what the resampler still holds at the end of a stream."""
    if pcm.cancels_out:
        decoding.warn(CANCELS_OUT)
    return pcm.finish()


def no_such_track(name: str, track: int, n_tracks: int) -> AudioError:
    there_are = "one audio track, 0" if n_tracks == 1 else f"{n_tracks} audio tracks, 0 to {n_tracks - 1}"
    return AudioError(f"{name} has {there_are}; there is no track {track}")


def warn_damaged(decoding: Decoding, until_s: float, reason: str) -> None:
    """Tell where the audio of a stream ends too early, ``until_s`` after the beginning of that stream."""
    at_s = decoding.n_before / SAMPLE_RATE + until_s
    if decoding.is_last:
        decoding.warn_of_loss("is damaged or cut off: what was decoded ends after %.2f s (%s)", at_s, reason)
    else:
        decoding.warn_of_loss("is damaged: audio is missing at %.2f s (%s); what follows it is read", at_s, reason)
