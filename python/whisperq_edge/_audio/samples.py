"""Samples that are read a piece at a time, so that audio of any length takes the same memory.

Audio is gone over twice: once from end to end, for what has to be known of the whole (how long it is, how loud, where
somebody speaks), and once for the windows that are decoded. In between nothing of it is kept but what a few minutes
take: it is decoded again. Arrays are served as they are.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Callable, Optional, Union

import numpy as np

from .._errors import AudioError, InternalError
from .._system.arrays import Floats
from .._whisper.units import SAMPLE_RATE

__all__ = [
    "BLOCK_SAMPLES",
    "ArraySamples",
    "DecodedSamples",
    "Samples",
    "StoppedError",
    "cut_samples",
    "samples_of",
]

BLOCK_SAMPLES = 163_840
"""Samples that are handed out at a time: 10.24 s, which are 320 windows of the voice detector and 1024 frames."""

_KEPT_BLOCKS = 30
"""Audio of no more blocks than this (307 s, 20 MB) stays in memory and is decoded once. Decoding takes 0.1 to 0.7 s for
10 minutes of WAV, FLAC or MP3 and 4.5 s for Opus: longer audio takes that twice, and memory that does not grow."""

Pieces = Generator[Floats, None, None]
ShouldStop = Callable[[], bool]


class StoppedError(Exception):
    """The caller asked to stop while samples were read."""


def never() -> bool:
    return False


class Samples(abc.ABC):
    """Audio as engines take it: float32, one channel, 16 kHz. For one thread at a time.

    ``blocks`` has to come to its end, or ``whole`` to be called, before anything else is asked: only then is it known
    how much there is, and that it can be read at all.

    Attributes:
        decode_ms: wall-clock milliseconds that reading, decoding, mixing and resampling took so far.
        n_passes: how often the audio was decoded from its beginning.
    """

    decode_ms = 0.0
    n_passes = 0

    @property
    def n_lead(self) -> int:
        """Samples of silence at the beginning that the file does not hold: its audio begins later than its video.
        Known when the first sample was read."""
        return 0

    @property
    def damage(self) -> tuple[str, ...]:
        """Sentences about audio of the file that was not read. Known at the end of the first pass."""
        return ()

    @property
    @abc.abstractmethod
    def n_known(self) -> int:
        """Samples that are known to be there: ``size``, or in a first pass those that were read."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of samples."""

    @property
    def duration_s(self) -> float:
        """Seconds of audio that are known to be there."""
        return self.n_known / SAMPLE_RATE

    @property
    @abc.abstractmethod
    def is_in_memory(self) -> bool:
        """Whether reading costs nothing."""

    @abc.abstractmethod
    def blocks(self) -> Iterator[Floats]:
        """All samples from the first on, ``BLOCK_SAMPLES`` at a time.

        Raises:
            AudioError: the audio cannot be used, or is not what it was in an earlier pass.
            StoppedError: the caller asked to stop.
            OSError: the file cannot be read.
        """

    @abc.abstractmethod
    def read(self, start: int, stop: int) -> Floats:
        """Samples ``start`` to ``stop`` (not included) as far as there are any; not to be written to. Going forward is
        cheap. Going back before the start of the last read begins anew. Raises as ``blocks`` does."""

    @abc.abstractmethod
    def keep_from(self, start: int) -> None:
        """Keep samples from ``start`` on in memory once they are read, so that going back to them is cheap."""

    @abc.abstractmethod
    def whole(self) -> Floats:
        """All samples in one array. Raises as ``blocks`` does."""

    @abc.abstractmethod
    def close(self) -> None:
        """Gives back what is open."""

    def __enter__(self) -> Samples:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ArraySamples(Samples):
    """An array in memory, without a copy.

    Args:
        array: float32 ``[n_samples]``, C-contiguous.
        check: gets each block and the place of its first sample in the first pass; raises for what cannot be used.
    """

    n_passes = 1

    def __init__(
        self,
        array: Floats,
        *,
        check: Callable[[Floats, int], None] = lambda block, first: None,
        should_stop: ShouldStop = never,
    ) -> None:
        self._array = array
        self._check: Optional[Callable[[Floats, int], None]] = check
        self._should_stop = should_stop

    @property
    def n_known(self) -> int:
        return self._array.size

    @property
    def size(self) -> int:
        return self._array.size

    @property
    def is_in_memory(self) -> bool:
        return True

    def blocks(self) -> Iterator[Floats]:
        for start in range(0, self._array.size, BLOCK_SAMPLES):
            if self._should_stop():
                raise StoppedError
            block = self._array[start : start + BLOCK_SAMPLES]
            if self._check is not None:
                began_s = time.perf_counter()
                self._check(block, start)
                self.decode_ms += (time.perf_counter() - began_s) * 1000
            yield block
        self._check = None

    def read(self, start: int, stop: int) -> Floats:
        return self._array[start:stop]

    def keep_from(self, start: int) -> None:
        pass

    def whole(self) -> Floats:
        if self._check is not None:
            for _ in self.blocks():
                pass
        return self._array

    def close(self) -> None:
        pass


class DecodedSamples(Samples):
    """Samples that a decoder yields from the first on, as often as it is asked to.

    Args:
        decode: begins anew: yields pieces of any length, each valid until the next. Its argument is False from the
            second time on.
        name: of the audio, for errors.
        should_stop: asked for every piece.
        close: gives back what ``decode`` reads from.
        size: number of samples where it is known before.
        n_lead: gives ``n_lead`` of what was decoded.
        damage: gives ``damage`` of what was decoded.
        keeps: whether to keep short audio in memory.
    """

    def __init__(
        self,
        decode: Callable[[bool], Pieces],
        name: str,
        *,
        should_stop: ShouldStop = never,
        close: Callable[[], None] = lambda: None,
        size: Optional[int] = None,
        n_lead: Callable[[], int] = lambda: 0,
        damage: Callable[[], Sequence[str]] = lambda: (),
        keeps: bool = True,
    ) -> None:
        self._decode = decode
        self._name = name
        self._should_stop = should_stop
        self._close = close
        self._size = size
        self._n_lead = n_lead
        self._damage = damage
        self._n_kept = _KEPT_BLOCKS if keeps else 0
        self._pieces: Optional[Pieces] = None
        self._rest = np.empty(0, np.float32)  # of the last piece
        self._blocks: list[Floats] = []  # of BLOCK_SAMPLES each, but the last one of the audio
        self._first = 0  # the number of blocks that came before these
        self._end = 0  # samples up to the end of the last block
        self._whole: Optional[Floats] = None
        self._kept_from: Optional[int] = None  # samples from here on are read in any order

    @property
    def n_lead(self) -> int:
        return self._n_lead()

    @property
    def damage(self) -> tuple[str, ...]:
        return tuple(self._damage())

    @property
    def n_known(self) -> int:
        return self._end if self._size is None else self._size

    @property
    def size(self) -> int:
        if self._size is None:
            raise InternalError(f"the length of {self._name} was asked for before its first pass")
        return self._size

    @property
    def is_in_memory(self) -> bool:
        return self._whole is not None or (self._first == 0 and self._end == self._size)

    def blocks(self) -> Iterator[Floats]:
        at = 0
        while (block := self.read(at, at + BLOCK_SAMPLES)).size:
            yield block
            at += BLOCK_SAMPLES

    def read(self, start: int, stop: int) -> Floats:
        stop = stop if self._size is None else min(stop, self._size)
        if self._whole is not None or start >= stop:
            return np.empty(0, np.float32) if self._whole is None else self._whole[start:stop]
        if self._pieces is None or start < self._first * BLOCK_SAMPLES:
            self._begin()
        oldest = start if self._kept_from is None else min(start, self._kept_from)
        while self._end < stop and self._read_block(keep_from=oldest // BLOCK_SAMPLES):
            pass
        return self._joined(start, min(stop, self._end))

    def keep_from(self, start: int) -> None:
        self._kept_from = start

    def whole(self) -> Floats:
        if self._whole is None:
            self._whole = self._joined(0, self._end) if self.is_in_memory else self._gathered()
            self._blocks = []
        return self._whole

    def close(self) -> None:
        if self._pieces is not None:
            self._pieces.close()
        self._close()

    def _begin(self) -> None:
        if self._pieces is not None:
            self._pieces.close()
        self._blocks, self._first, self._end = [], 0, 0
        self._rest = np.empty(0, np.float32)
        self._pieces = self._decode(self.n_passes == 0)
        self.n_passes += 1

    def _next_piece(self) -> Optional[Floats]:
        """None: it is over."""
        if self._should_stop():
            raise StoppedError
        assert self._pieces is not None
        began_s = time.perf_counter()
        try:
            return next(self._pieces, None)
        finally:
            self.decode_ms += (time.perf_counter() - began_s) * 1000

    def _read_block(self, keep_from: int) -> bool:
        """Decodes one more block, and forgets those before block ``keep_from`` unless all of the audio may be kept.
        False where there is no more."""
        if self._size is not None and self._end >= self._size:
            return False
        block = np.empty(BLOCK_SAMPLES, np.float32)
        n = 0
        while n < BLOCK_SAMPLES:
            piece = self._rest if self._rest.size else self._next_piece()
            if piece is None:
                break
            taken = min(piece.size, BLOCK_SAMPLES - n)
            block[n : n + taken] = piece[:taken]
            self._rest = piece[taken:].copy() if taken < piece.size else np.empty(0, np.float32)
            n += taken
        if n < BLOCK_SAMPLES:
            self._check_end(self._end + n)
        if n == 0:
            return False
        self._blocks.append(block if n == BLOCK_SAMPLES else block[:n].copy())
        self._end += n
        self._forget(keep_from)
        return True

    def _forget(self, keep_from: int) -> None:
        if -(-self.n_known // BLOCK_SAMPLES) > self._n_kept:
            n_passed = min(max(keep_from - self._first, 0), len(self._blocks))
            del self._blocks[:n_passed]
            self._first += n_passed

    def _check_end(self, n_samples: int) -> None:
        if self._size is None:
            self._size = n_samples
        elif n_samples < self._size:
            raise changed(
                self._name,
                f"at first it held {self._size / SAMPLE_RATE:.2f} s of audio, now {n_samples / SAMPLE_RATE:.2f} s",
            )

    def _joined(self, start: int, stop: int) -> Floats:
        offset = self._first * BLOCK_SAMPLES
        first, last = (start - offset) // BLOCK_SAMPLES, (stop - 1 - offset) // BLOCK_SAMPLES
        start -= offset
        stop -= offset
        parts = [
            self._blocks[i][max(start - i * BLOCK_SAMPLES, 0) : stop - i * BLOCK_SAMPLES]
            for i in range(first, last + 1)
        ]
        if not parts:
            return np.empty(0, np.float32)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _gathered(self) -> Floats:
        if self._pieces is None or self._size is not None or self._first:  # a first pass that has begun goes on
            self._begin()
        samples = np.concatenate([np.empty(0, np.float32), *self._blocks, self._rest])
        length = samples.size
        while (piece := self._next_piece()) is not None:
            end = length + piece.size
            if end > samples.size:
                # By half as much again each time: amortised, and realloc can grow a large block where it stands.
                samples.resize(end + end // 2, refcheck=False)
            samples[length:end] = piece
            length = end
        self._check_end(length)
        samples.resize(length, refcheck=False)
        return samples


def changed(name: str, how: str) -> AudioError:
    """The error for audio that is not what it was when it was heard for the first time."""
    return AudioError(
        f"{name} changed while it was transcribed ({how}), and its text would be of two different audios."
        " Transcribe it when nothing writes to it any more, or a copy of it"
    )


def samples_of(audio: Union[Floats, Samples], should_stop: ShouldStop = never) -> Samples:
    """``audio``, of which arrays are float32, one channel, 16 kHz."""
    return audio if isinstance(audio, Samples) else ArraySamples(audio, should_stop=should_stop)


def cut_samples(audio: Samples, spans: Sequence[tuple[int, int]], should_stop: ShouldStop = never) -> Samples:
    """The samples of ``spans`` (start, end), which are in order and disjoint, end to end. Reads from ``audio``."""

    def pieces(_: bool) -> Pieces:
        for start, end in spans:
            for at in range(start, end, BLOCK_SAMPLES):
                yield audio.read(at, min(at + BLOCK_SAMPLES, end))

    size = sum(end - start for start, end in spans)
    return DecodedSamples(pieces, "the speech in the audio", should_stop=should_stop, size=size, keeps=False)
