"""Values of any rate, type and number of channels, and arrays of them, to float32, one channel, 16 kHz."""

from __future__ import annotations

import logging
import math
from typing import Any, Callable, Optional

import numpy as np
import numpy.typing as npt

from .._errors import AudioError
from .._system.arrays import Floats
from .._system.checks import as_number, check
from .._whisper.units import SAMPLE_RATE
from .samples import (
    ArraySamples,
    DecodedSamples,
    Pieces,
    Samples,
    ShouldStop,
)

__all__ = [
    "BLOCK_FRAMES",
    "CANCELS_OUT",
    "MAX_CHANNELS",
    "MAX_DURATION_S",
    "MAX_PEAK",
    "MAX_RATE_HZ",
    "SILENT_PEAK",
    "Mix",
    "PcmStream",
    "as_array",
    "check_array",
    "check_channels",
    "check_length",
    "checked_rate",
    "is_array_like",
    "left_channel",
    "of_array",
    "right_channel",
]

MAX_PEAK = 64.0
"""The largest absolute float sample that is taken for audio (+36 dB over full scale). Integer PCM that was cast to
float without scaling lies far above, and a model would hear it as nothing but loudness."""

MAX_DURATION_S = 24 * 3600
"""The longest audio of one call. It also stops a small file whose header asks for terabytes."""

MAX_CHANNELS = 32
"""More columns than this in an array mean that it is the wrong way round."""

MAX_RATE_HZ = 10_000_000
BLOCK_FRAMES = 16_384  # libsndfile loses the whole block in which a cut FLAC ends, so blocks are not long
SILENT_PEAK = 1e-4  # -80 dB of full scale
CANCELS_OUT = (
    "has channels that cancel each other out, so that their mean is silent, as where one is wired the wrong way round:"
    " give one channel alone"
)
_AUDIBLE_PEAK = 1e-3  # -60 dB of full scale
_CANCELLED = 1e-3  # 60 dB less than before: two of 16 bits that are each other's negative differ by a rounding
_LOG = logging.getLogger("whisperq_edge")
Mix = Callable[[Floats], Floats]
# dtype -> (value of silence, full scale), as soundfile scales integer PCM.
_INTEGER_SCALES = {np.dtype(np.int16): (0, 2**15), np.dtype(np.int32): (0, 2**31), np.dtype(np.uint8): (128, 2**7)}


def is_array_like(audio: object) -> bool:
    return isinstance(audio, np.ndarray) or hasattr(audio, "__array__")


def as_array(audio: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(audio)
    except Exception as error:  # a tensor on a GPU, or one that still wants gradients: each library has its own error
        raise AudioError(f"numpy cannot read the given {type(audio).__name__} as an array: {error}") from error


def checked_rate(sampling_rate: Optional[float]) -> float:
    if sampling_rate is None:
        return SAMPLE_RATE
    rate_hz = as_number(sampling_rate)
    check("sampling_rate", sampling_rate, 1 <= rate_hz <= MAX_RATE_HZ, f"a number of Hz from 1 to {MAX_RATE_HZ}")
    return rate_hz


def of_array(array: npt.NDArray[Any], rate_hz: float, should_stop: ShouldStop) -> Samples:
    check_array(array)
    check_length(array.shape[0], rate_hz)
    if not _is_pcm_already(array, rate_hz):
        return DecodedSamples(lambda first: _array_pieces(array, rate_hz, first), "the array", should_stop=should_stop)

    def check(block: Floats, first: int) -> None:
        _check_values(block, first, rate_hz, "the array")

    return ArraySamples(array, check=check, should_stop=should_stop)


def _array_pieces(array: npt.NDArray[Any], rate_hz: float, warns: bool) -> Pieces:
    pcm = PcmStream(rate_hz, "the array")
    for first in range(0, array.shape[0], pcm.block_frames):
        yield pcm.push(array[first : first + pcm.block_frames])
    if pcm.cancels_out and warns:
        _LOG.warning("the array %s", CANCELS_OUT)
    yield pcm.finish()


def check_array(array: npt.NDArray[Any]) -> None:
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


class PcmStream:
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
        self._peaks = (0.0, 0.0)  # of the channels, and of what was made of them

    @property
    def cancels_out(self) -> bool:
        """Whether something is in the channels and nothing in their mean, as where one is wired the wrong way round."""
        of_channels, of_mono = self._peaks
        return of_channels > _AUDIBLE_PEAK and of_mono < _CANCELLED * of_channels

    @property
    def block_frames(self) -> int:
        """Frames to push at a time: few at a low rate, where each becomes thousands of samples."""
        return int(min(BLOCK_FRAMES, max(self._rate_hz, 1)))

    def push(self, block: npt.NDArray[Any]) -> Floats:
        """``block`` is (frames,) or (frames, channels). The result may share its memory, and may be empty."""
        floats = _full_scale(block)
        _check_values(floats, self.frames_in, self._rate_hz, self._name)
        self.frames_in += block.shape[0]
        check_length(self.frames_in, self._rate_hz)
        mono = self._mix(floats)
        if floats.ndim == 2 and floats.shape[1] > 1:
            self._peaks = (max(self._peaks[0], _peak(floats)), max(self._peaks[1], _peak(mono)))
        return self._resampled(mono, last=False)

    def finish(self) -> Floats:
        """What the resampler still holds. Nothing may be pushed after it."""
        nothing = np.empty(0, np.float32)
        return self._resampled(nothing, last=True) if self.frames_in else nothing

    def _resampled(self, mono: Floats, *, last: bool) -> Floats:
        if self._resampler is None:
            return mono
        resampled: Floats = self._resampler.resample_chunk(mono, last=last)
        return resampled


def _peak(floats: Floats) -> float:
    return max(float(floats.max(initial=0.0)), -float(floats.min(initial=0.0)))


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


def left_channel(floats: Floats) -> Floats:
    return _of_two(floats, 0)


def right_channel(floats: Floats) -> Floats:
    return _of_two(floats, -1)


def _of_two(floats: Floats, channel: int) -> Floats:
    if floats.ndim == 1:
        return floats
    check_channels(floats.shape[1], "the audio")
    return np.ascontiguousarray(floats[:, channel])


def check_channels(n_channels: int, name: str) -> None:
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


def check_length(frames: int, rate_hz: float) -> None:
    if frames > MAX_DURATION_S * rate_hz:
        raise AudioError(f"the audio is longer than {MAX_DURATION_S // 3600} hours, the most for one call: split it")
