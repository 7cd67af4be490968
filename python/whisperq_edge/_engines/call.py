"""What the parts of one call of our engine share: the model, the audio, the clock, and whether to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Callable, Optional, TypeVar

from .._audio.samples import Samples, StoppedError
from .._options import TranscribeOptions
from .._result import Dropped, EngineResult, StageTime
from .._system.arrays import Floats
from .._whisper.tokenizer import Vocabulary
from .._whisper.units import FRAMES_PER_TOKEN
from .face import CheckBatch, NativeModel, Stages
from .short_audio import short_ctx

__all__ = ["Call", "Clock", "whole"]

_T = TypeVar("_T")


class Clock:
    """Time and runs of the stages. What it takes to decode the audio meanwhile is no part of them."""

    def __init__(self, audio: Samples) -> None:
        self.stages: dict[str, StageTime] = {}
        self._audio = audio

    @contextmanager
    def timed(self, stage: str, runs: int = 1) -> Iterator[None]:
        began_s, decoded_ms = time.perf_counter(), self._audio.decode_ms
        try:
            yield
        finally:
            ms = (time.perf_counter() - began_s) * 1000 - (self._audio.decode_ms - decoded_ms)
            self.add(stage, max(ms, 0.0), runs)

    def add(self, stage: str, ms: float, runs: int) -> None:
        self.stages[stage] = self.stages.get(stage, StageTime()) + StageTime(ms, runs)


class Call:
    """One ``transcribe``: what it was given, what it took, and what it left out.

    Attributes:
        native, hparams, vocabulary: the model.
        options, audio: of the call.
        clock: time of the stages.
        dropped: the parts that were left out.
        shortens: whether short audio is encoded only as far as it goes.
        n_short, n_redone: see ``EngineResult``.
    """

    def __init__(
        self,
        native: NativeModel,
        hparams: Mapping[str, int],
        vocabulary: Vocabulary,
        options: TranscribeOptions,
        audio: Samples,
        should_stop: Callable[[], bool],
        check_batch: Optional[CheckBatch] = None,
        shortens: bool = False,
    ) -> None:
        self.native = native
        self.hparams = hparams
        self.vocabulary = vocabulary
        self.options = options
        self.audio = audio
        self.should_stop = should_stop
        self.clock = Clock(audio)
        self.dropped: list[Dropped] = []
        self.shortens = shortens
        self.n_short = 0
        self.n_redone = 0
        self._check_batch = check_batch

    @property
    def n_audio_ctx(self) -> int:
        """Audio tokens of a whole window."""
        return self.hparams["n_audio_ctx"]

    @property
    def n_text_ctx(self) -> int:
        return self.hparams["n_text_ctx"]

    def result(self, stopped: bool) -> EngineResult:
        return EngineResult(
            self.clock.stages,
            stopped,
            _joined(self.dropped),
            n_short_windows=self.n_short,
            n_redone_windows=self.n_redone,
        )

    def audio_ctx(self, n_frames: int) -> int:
        """Return the audio tokens to encode of a window with so many frames of audio."""
        if not self.shortens:
            return self.n_audio_ctx
        return short_ctx(math.ceil(n_frames / FRAMES_PER_TOKEN), self.n_audio_ctx)

    def go_on(self) -> None:
        """Raise ``StoppedError`` where the caller wants to stop."""
        if self.should_stop():
            raise StoppedError

    def check_memory(self, n_windows: int, n_ctx: int) -> None:
        """Raise ``OutOfMemoryError`` when so many windows, of so many audio tokens each, do not fit."""
        if self._check_batch is not None:
            self._check_batch(n_windows, n_ctx)

    def count(self, stages: Stages) -> None:
        """Add what native code took."""
        for stage, (ms, runs) in stages.items():
            self.clock.add(stage, ms, runs)
        self.go_on()

    def hear(self, mel: Floats, n_ctx: int) -> Any:
        """Encode the first ``n_ctx`` audio tokens of a window. Return it as the decoder hears it."""
        self.go_on()
        native, is_short = self.native, n_ctx < self.n_audio_ctx
        encode, listen = (native.encode_short, native.listen_short) if is_short else (native.encode, native.listen)
        with self.clock.timed("encode"):
            features = whole(encode(mel, n_ctx, self.should_stop))
            self.go_on()
            return whole(listen(features, self.should_stop))


def whole(computed: Optional[_T]) -> _T:
    """Return what was computed. Raise ``StoppedError`` for None, which is said by native code that was stopped."""
    if computed is None:
        raise StoppedError
    return computed


def _joined(dropped: Sequence[Dropped]) -> tuple[Dropped, ...]:
    """Return the parts in the order of the audio, with neighbours of one reason as one."""
    joined: list[Dropped] = []
    for part in sorted(dropped, key=lambda part: part.start):
        if joined and (joined[-1].end, joined[-1].reason) == (part.start, part.reason):
            part = replace(part, start=joined.pop().start)
        joined.append(part)
    return tuple(joined)
