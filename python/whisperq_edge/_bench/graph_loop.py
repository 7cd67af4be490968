"""Transcription over graphs: what a runtime that only knows graphs leaves to its user, at the least cost.

The spectrogram is ours (``log_mel_spectrogram``), windows are pieces of 30 s, tokens are taken greedily, and the log
probability of each is computed, as every sampler of Whisper does. Timestamps are not asked for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Optional, Protocol

import numpy as np

from .._audio.mel import log_mel_spectrogram
from .._system.arrays import Floats
from .._whisper.dims import Dims
from .._whisper.tokenizer import Tokenizer, Vocabulary
from .._whisper.units import HOP_SAMPLES
from .._whisper.vocabulary import known_vocabulary

__all__ = ["GraphDecoder", "GraphEncoder", "GraphTranscriber"]


class GraphEncoder(Protocol):
    def run(self, mel: Floats) -> Any:
        """float32 ``[n_mels, 2 * n_audio_ctx]`` to the runtime's own ``[1, n_audio_ctx, n_audio_state]``."""


class GraphDecoder(Protocol):
    def listen(self, features: Any) -> None:
        """Takes the encoder's answer and forgets all tokens."""

    def logits(self, tokens: Sequence[int]) -> Floats:
        """Appends tokens; what follows the last of them, ``[n_vocab]``."""


class GraphTranscriber:
    """A greedy transcription.

    Args:
        dims: of the model.
        language: code, for multilingual models.
        encoder, decoder: of a runtime.
        n_tokens: that each window is forced to have; None: until the model says that it ends.
    """

    def __init__(
        self, dims: Dims, language: Optional[str], encoder: GraphEncoder, decoder: GraphDecoder, n_tokens: Optional[int]
    ) -> None:
        vocabulary = Vocabulary(known_vocabulary(dims.n_vocab), dims.n_vocab)
        tokenizer = Tokenizer(vocabulary, language, "transcribe")
        self._dims, self._encoder, self._decoder = dims, encoder, decoder
        self._eot = tokenizer.eot
        self._prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
        self._most = min(n_tokens or dims.n_text_ctx // 2, dims.n_text_ctx - len(self._prompt))
        self._is_forced = n_tokens is not None
        self._stages: dict[str, tuple[float, int]] = {}

    def turn(self, samples: Floats) -> dict[str, Any]:
        """Transcribes once: ``{"total_ms", "stages", "n_tokens"}``; ``stages``: ms and runs of each."""
        self._stages = {}
        began_s = time.perf_counter()
        n_tokens = sum(len(self._window(piece)) for piece in self._pieces(samples))
        total_ms = (time.perf_counter() - began_s) * 1000
        return {"total_ms": total_ms, "stages": self._stages, "n_tokens": n_tokens}

    def _pieces(self, samples: Floats) -> Iterator[Floats]:
        """Of one window each, the last one with silence behind it."""
        size = 2 * self._dims.n_audio_ctx * HOP_SAMPLES
        for first in range(0, max(len(samples), 1), size):
            piece = samples[first : first + size]
            yield np.pad(piece, (0, size - len(piece)))

    def _window(self, samples: Floats) -> list[int]:
        with self._timed("mel"):
            mel = log_mel_spectrogram(samples, self._dims.n_mels)[:, : 2 * self._dims.n_audio_ctx]
        with self._timed("encode"):
            self._decoder.listen(self._encoder.run(np.ascontiguousarray(mel)))
        with self._timed("prompt"):
            logits = self._decoder.logits(self._prompt)
        tokens: list[int] = []
        while True:
            with self._timed("sample"):
                token, _ = self._sampled(logits)
            if token == self._eot:
                return tokens
            tokens.append(token)
            if len(tokens) == self._most:
                return tokens
            with self._timed("decode"):
                logits = self._decoder.logits([token])

    def _sampled(self, logits: Floats) -> tuple[int, float]:
        """The likeliest token that is text, or the end where that is allowed, and its log probability."""
        allowed = logits[: self._eot + (not self._is_forced)]
        token = int(np.argmax(allowed))
        largest = allowed[token]
        return token, -float(np.log(np.exp(allowed - largest).sum()))

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began_s = time.perf_counter()
        yield
        ms, runs = self._stages.get(stage, (0.0, 0))
        self._stages[stage] = (ms + (time.perf_counter() - began_s) * 1000, runs + 1)
