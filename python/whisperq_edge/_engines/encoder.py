"""The encoder of the `edge` engine behind its Python face: what may go in, and what is wrong with the rest."""

from __future__ import annotations

import os
from typing import Union

import numpy as np

from .. import _core
from .._errors import AudioError
from .._system.arrays import Floats
from .._system.checks import check_whole
from .._system.self_test import trusted_isa
from .memory import check_model_fits

__all__ = ["EdgeEncoder"]


class EdgeEncoder:
    """Whisper's encoder on our own kernels.

    Args:
        path: a ggml model file of f32, f16, q8_0, q5_1, q5_0, q4_1, q4_0 or a mix of them.
        isa: the kernels: ``auto`` (``WHISPERQ_ISA``, or the best that this CPU supports) or a name; ``scalar`` instead
            where they fail their self-test.
        n_threads: 0 takes every CPU that affinity and cgroup quota leave to the process.

    Raises:
        ModelFormatError: the file is damaged or is no Whisper model.
        UnsupportedModelError: a type that these kernels do not have.
        UnknownIsaError, IsaNotBuiltError, IsaNotSupportedError: about ``isa``.
        OutOfMemoryError: the weights are more than the process can get; nothing was allocated.
    """

    def __init__(self, path: Union[str, os.PathLike[str]], isa: str = "auto", n_threads: int = 0) -> None:
        isa = trusted_isa(isa)
        check_model_fits(_core.read_model_file(path), isa, n_threads)
        self._native = _core.EdgeModel(os.fspath(path), isa, n_threads)
        self._hparams = self._native.hparams

    @classmethod
    def of(cls, native: _core.EdgeModel) -> EdgeEncoder:
        """The encoder of a model that is in memory already."""
        encoder = cls.__new__(cls)
        encoder._native, encoder._hparams = native, native.hparams
        return encoder

    @property
    def isa(self) -> str:
        """Name of the kernels in use."""
        return str(self._native.isa)

    @property
    def n_threads(self) -> int:
        return int(self._native.n_threads)

    @property
    def packed_bytes(self) -> int:
        """Memory of the model's matrices, the decoder's with them."""
        return int(self._native.packed_bytes)

    def encode(self, mel: Floats, audio_ctx: int = 0) -> Floats:
        """Audio features ``[n_ctx, n_audio_state]`` of one window.

        Args:
            mel: float32 ``[n_mels, frames]``, as ``log_mel_spectrogram`` gives it; 3000 frames are a window.
            audio_ctx: audio tokens (20 ms each) to compute, from the first ``2 * audio_ctx`` frames; 0: all that the
                model has.

        Raises:
            AudioError: a wrong shape, or a value that is no number.
            OptionError: ``audio_ctx`` is out of range.
        """
        n_mels, most = self._hparams["n_mels"], self._hparams["n_audio_ctx"]
        audio_ctx = check_whole("audio_ctx", audio_ctx, 0, most, f"0 (all) to {most}")
        values = np.ascontiguousarray(mel, np.float32)
        if values.ndim != 2 or values.shape[0] != n_mels or values.shape[1] == 0:
            raise AudioError(f"mel has the shape {values.shape}; this model takes ({n_mels}, frames)")
        if not np.isfinite(values).all():
            raise AudioError("mel has values that are NaN or infinite")
        features: Floats = self._native.encode(values, audio_ctx or most)
        return features
