"""The model of the `edge` engine: ``_core`` behind the face that ``EdgeEngine`` asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional

import numpy as np

from .. import _core
from .._errors import AudioError
from .._system.arrays import Floats
from .._system.checks import check_whole
from .._system.self_test import trusted_isa
from .._whisper.dims import end_of_text, prompt_tokens
from .face import AlignRequest, AlignResult, DecodeOptions, Stages, WindowRequest, WindowResult
from .kept_silence import KeptSilence
from .memory import BatchCheck, check_model_fits

__all__ = ["CoreModel"]


_native: Any = _core


class CoreModel:
    """A ``NativeModel``: a ggml model file on our own kernels.

    Args:
        file: a checked model file, of f32, f16, q8_0, q5_1, q5_0, q4_1, q4_0 or a mix of them.
        isa: the kernels: ``auto`` (``WHISPERQ_ISA``, or the best that this CPU supports) or a name; ``scalar`` instead
            where they fail their self-test.
        n_threads: 0 takes every CPU that affinity and cgroup quota leave to the process.

    Raises:
        ModelFormatError: the file is damaged or is no Whisper model.
        UnsupportedModelError: a type that these kernels do not have.
        UnknownIsaError, IsaNotBuiltError, IsaNotSupportedError: about ``isa``.
        OutOfMemoryError: the weights are more than the process can get; nothing was allocated.

    Attributes:
        check_batch: raises ``OutOfMemoryError`` for (windows, audio tokens of each) that do not fit.
    """

    def __init__(self, file: _core.ModelFile, isa: str = "auto", n_threads: int = 0) -> None:
        isa, n_threads = trusted_isa(isa), n_threads or _core.usable_cpus()
        check_model_fits(file, isa, n_threads)
        model = self._model = _native.EdgeModel(file.path, isa, n_threads)
        self._silence = KeptSilence(model, file.path)
        # Not by way of self: in a cycle, the weights would stay until the garbage is collected.
        self.check_batch = BatchCheck(file, isa, n_threads, lambda: model.memory)
        self.hparams: Mapping[str, int] = self._model.hparams
        n_vocab = self.hparams["n_vocab"]
        self._eot, self._no_timestamps = end_of_text(n_vocab), prompt_tokens(n_vocab)[-1]

    @property
    def native(self) -> _core.EdgeModel:
        """Return the native model, for what needs no more of it."""
        model: _core.EdgeModel = self._model
        return model

    @property
    def isa(self) -> str:
        """Name of the kernels in use."""
        return str(self._model.isa)

    @property
    def n_threads(self) -> int:
        return int(self._model.n_threads)

    def encode(self, mel: Floats, n_ctx: int, should_stop: Callable[[], bool]) -> Optional[Floats]:
        features: Optional[Floats] = self._model.encode(mel, n_ctx, should_stop)
        return features

    def encode_short(self, mel: Floats, n_ctx: int, should_stop: Callable[[], bool]) -> Optional[Floats]:
        if not self._silence.learn(should_stop):
            return None
        features: Optional[Floats] = self._model.encode_short(mel, n_ctx, should_stop)
        return features

    def encode_checked(self, mel: Floats, audio_ctx: int = 0) -> Floats:
        """Return the audio features ``[n_ctx, n_audio_state]`` of a window that a caller made.

        Args:
            mel: float32 ``[n_mels, frames]``, as ``log_mel_spectrogram`` gives it; 3000 frames are a window.
            audio_ctx: audio tokens (20 ms each) to compute, from the first ``2 * audio_ctx`` frames; 0: all that the
                model has.

        Raises:
            AudioError: a wrong shape, or a value that is no number.
            OptionError: ``audio_ctx`` is out of range.
        """
        n_mels, most = self.hparams["n_mels"], self.hparams["n_audio_ctx"]
        audio_ctx = check_whole("audio_ctx", audio_ctx, 0, most, f"0 (all) to {most}")
        values = np.ascontiguousarray(mel, np.float32)
        if values.ndim != 2 or values.shape[0] != n_mels or values.shape[1] == 0:
            raise AudioError(f"mel has the shape {values.shape}; this model takes ({n_mels}, frames)")
        if not np.isfinite(values).all():
            raise AudioError("mel has values that are NaN or infinite")
        features: Floats = self._model.encode(values, audio_ctx or most)
        return features

    def listen(self, audio_features: Floats, should_stop: Callable[[], bool]) -> Any:
        return self._model.listen(audio_features, should_stop)

    def listen_short(self, audio_features: Floats, should_stop: Callable[[], bool]) -> Any:
        return self._model.listen_short(audio_features, should_stop)

    def logits(
        self, audio: Any, tokens: Sequence[int], first: int, should_stop: Callable[[], bool]
    ) -> Optional[Floats]:
        rows: Optional[Floats] = self._model.logits(audio, list(tokens), first, should_stop)
        return rows

    def decode_windows(
        self,
        audios: Sequence[Any],
        requests: Sequence[WindowRequest],
        options: DecodeOptions,
        should_stop: Callable[[], bool],
    ) -> tuple[Sequence[WindowResult], Stages]:
        native_options = _native.DecodeOptions()
        for field in dataclasses.fields(options):
            value = getattr(options, field.name)
            setattr(native_options, field.name, list(value) if isinstance(value, tuple) else value)
        native_requests = [_native.WindowRequest(*request) for request in requests]
        answer: tuple[Sequence[WindowResult], Stages] = _native.decode_windows(
            self._model, list(audios), native_requests, native_options, should_stop
        )
        return answer

    def align_windows(
        self,
        audios: Sequence[Any],
        requests: Sequence[AlignRequest],
        heads: Sequence[tuple[int, int]],
        should_stop: Callable[[], bool],
    ) -> tuple[Sequence[AlignResult], Stages]:
        if requests:
            n_tokens = max(len(request.sot_sequence) + len(request.text_tokens) for request in requests) + 2
            n_ctx = max(int(audio.n_ctx) for audio in audios)
            self.check_batch.alignment(len(requests), n_ctx, n_tokens, len(heads))
        answer: tuple[Sequence[AlignResult], Stages] = _native.align_windows(
            self._model,
            list(audios),
            [_native.AlignRequest(*request) for request in requests],
            heads=list(heads),
            eot=self._eot,
            no_timestamps=self._no_timestamps,
            should_stop=should_stop,
        )
        return answer
