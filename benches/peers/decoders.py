"""Decoders as contestants: a window's features in, a fixed number of tokens out; what a token costs each.

Everyone decodes greedily or with beams, at temperature 0, with text tokens only and the end of text suppressed, so that
the weights, which are random, have no say in how many tokens come. ``ms_per_token`` leaves out what comes before the
first token (the prompt, and keys and values of the audio where a runtime computes them there).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np
import numpy.typing as npt
from whisperq_edge import _core
from whisperq_edge._system.native import drain_log, load_ggml
from whisperq_edge._whisper.tokenizer import Tokenizer, Vocabulary
from whisperq_edge._whisper.vocabulary import known_vocabulary

__all__ = ["CTranslate2Decoder", "EdgeDecoder", "GgmlDecoder"]

Floats = npt.NDArray[np.float32]


class _Special(NamedTuple):
    eot: int
    prompt: list[int]


def _special(n_vocab: int) -> tuple[Tokenizer, _Special]:
    tokenizer = Tokenizer(Vocabulary(known_vocabulary(n_vocab), n_vocab), "en", "transcribe")
    return tokenizer, _Special(tokenizer.eot, [*tokenizer.sot_sequence, tokenizer.no_timestamps])


def _slope_ms(decode: Callable[[int], None], n_tokens: int) -> float:
    """ms a token between the first and the last of ``n_tokens``."""
    took_s = []
    for n in (1, n_tokens):
        began = time.perf_counter()
        decode(n)
        took_s.append(time.perf_counter() - began)
    return 1000 * (took_s[1] - took_s[0]) / (n_tokens - 1)


class EdgeDecoder:
    """The edge engine.

    Args:
        path: a ggml file.
        mels: windows, float32 ``[n_mels, 3000]`` each; encoded once, before they are first timed.
        n_threads: for it.
    """

    def __init__(self, path: Path, mels: list[Floats], n_threads: int) -> None:
        self._model = _core.EdgeModel(str(path), "auto", n_threads)
        self._tokenizer, self._special = _special(self._model.hparams["n_vocab"])
        self._mels = mels
        self._audios: list[_core.EdgeAudio] = []

    def ms_per_token(self, n_tokens: int, n_windows: int = 1, beam_size: int = 0) -> float:
        """ms a token of every window."""
        for mel in self._mels[len(self._audios) : n_windows]:
            self._audios.append(self._model.listen(self._model.encode(mel, self._model.hparams["n_audio_ctx"])))
        return _slope_ms(lambda n: self._decode(n, n_windows, beam_size), n_tokens) / n_windows

    def _decode(self, n_tokens: int, n_windows: int, beam_size: int) -> None:
        options = _core.DecodeOptions()
        options.eot, options.no_speech = self._special.eot, self._tokenizer.no_speech
        options.no_timestamps, options.timestamp_begin = self._tokenizer.no_timestamps, self._tokenizer.timestamp_begin
        options.suppress_tokens = [self._special.eot]
        options.suppress_blank = False
        options.without_timestamps = True
        options.beam_size = beam_size
        options.sample_len = n_tokens
        requests = [_core.WindowRequest(self._special.prompt, 0, i) for i in range(n_windows)]
        results, _ = _core.decode_windows(self._model, self._audios[:n_windows], requests, options)
        _check_lengths([len(each.tokens) for each in results], n_tokens)


class GgmlDecoder:
    """whisper.cpp, by its own account of its stages: nothing between them counts. It encodes in every call.

    Args:
        path: a ggml file.
        pcm: float32, 16 kHz mono, 30 s.
        n_threads: for it.
        flash_attention: its fused attention.
    """

    def __init__(self, path: Path, pcm: Floats, n_threads: int, flash_attention: bool = True) -> None:
        self._engine = load_ggml().Engine(str(path), False, 0, flash_attention)
        drain_log()
        self._pcm = pcm
        self._n_threads = n_threads
        _, self._special = _special(self._engine.n_vocab)

    def ms_per_token(self, n_tokens: int, beam_size: int = 1) -> float:
        """ms a token. With beams the prompt's pass is among the steps: its account knows no difference."""
        stages = self._engine.transcribe(self._pcm, self._options(n_tokens, beam_size))["timings"]
        sample_ms, n_sampled = stages["sample"]
        decode_ms, n_decoded = stages["decode"]
        if beam_size == 1:
            _check_lengths([n_decoded], n_tokens)
            return float(decode_ms / n_decoded + sample_ms / n_sampled)
        batch_ms, n_in_batches = stages["batchd"]
        _check_lengths([n_in_batches // beam_size], n_tokens)
        return float((decode_ms + batch_ms + sample_ms) / n_tokens)

    def _options(self, n_tokens: int, beam_size: int) -> Any:
        options = load_ggml().TranscribeOptions()
        options.n_threads = self._n_threads
        options.language = "en"
        options.beam_size = beam_size
        options.best_of = 1
        options.temperature, options.temperature_increment = 0.0, 0.0
        options.logprob_threshold = options.entropy_threshold = -1e9
        options.no_speech_threshold = 2.0
        options.condition_on_previous_text = False
        options.suppress_blank = False
        options.suppress_non_speech = False
        options.without_timestamps = True
        options.max_new_tokens = n_tokens + 1  # the last is sampled and not decoded
        options.filter.suppress = [self._special.eot]
        return options


class CTranslate2Decoder:
    """CTranslate2 with a model of ``write_ctranslate2``; windows are encoded once, before they are first timed.

    Args:
        folder: the model.
        mels: windows, float32 ``[n_mels, 3000]`` each.
        n_threads: for it.
        compute_type: ``int8`` or ``float32``.
    """

    def __init__(self, folder: Path, mels: list[Floats], n_threads: int, compute_type: str = "int8") -> None:
        import ctranslate2

        self._model = ctranslate2.models.Whisper(
            str(folder), device="cpu", compute_type=compute_type, intra_threads=n_threads, inter_threads=1
        )
        n_vocab = 51865 if self._model.is_multilingual else 51864
        _, self._special = _special(n_vocab)
        windows = [np.array(self._model.encode(ctranslate2.StorageView.from_array(mel[None]))) for mel in mels]
        self._features = {n: ctranslate2.StorageView.from_array(np.concatenate(windows[:n])) for n in {1, len(windows)}}

    def ms_per_token(self, n_tokens: int, n_windows: int = 1, beam_size: int = 1) -> float:
        """ms a token of every window."""
        if n_windows not in self._features:
            self._features[n_windows] = self._model.encode(self._view(np.stack(self._mels[:n_windows])))
        return _slope_ms(lambda n: self._decode(n, n_windows, beam_size), n_tokens) / n_windows

    def _decode(self, n_tokens: int, n_windows: int, beam_size: int) -> None:
        results = self._model.generate(
            self._features[n_windows],
            [self._special.prompt] * n_windows,
            beam_size=beam_size,
            max_length=max(2 * n_tokens, len(self._special.prompt) + n_tokens),  # half of it at most is new tokens
            suppress_blank=False,
            suppress_tokens=[self._special.eot],
        )
        _check_lengths([len(each.sequences_ids[0]) for each in results], n_tokens)


def _check_lengths(lengths: list[int], n_tokens: int) -> None:
    """One more or less is how a runtime counts; anything else is other work."""
    if any(abs(n - n_tokens) > 1 for n in lengths):
        raise RuntimeError(f"{n_tokens} tokens were asked for and {lengths} decoded")


# ---- A model for CTranslate2 and faster-whisper ----------------------------------------------------------------------
