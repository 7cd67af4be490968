"""openai/whisper's ``transcribe()`` over a script: the oracle for ``EdgeEngine``. Needs torch and openai-whisper."""

from __future__ import annotations

import importlib
import types
from collections.abc import Sequence
from typing import Any, Callable, Optional
from unittest import mock

import numpy as np
import torch
from whisper.decoding import DecodingOptions, DecodingResult, DecodingTask
from whisper.model import ModelDimensions
from whisper.tokenizer import get_tokenizer
from whisper.utils import compression_ratio

from tests.support.scripted_windows import HEADS, HPARAMS, Script, numbered_mel, rules_of, window_of

_TRANSCRIBE = importlib.import_module("whisper.transcribe")
_NAMES = {"log_prob_threshold": "logprob_threshold", "max_new_tokens": "sample_len"}


class _Block:
    """A layer of which openai/whisper wants the cross attention's scores."""

    def __init__(self) -> None:
        self.cross_attn = self
        self.attn = types.SimpleNamespace(key=None, value=None)
        self.hook: Optional[Callable[..., Any]] = None

    def register_forward_hook(self, hook: Callable[..., Any]) -> Any:
        self.hook = hook
        return types.SimpleNamespace(remove=lambda: None)


class OpenaiModel:
    """openai/whisper's ``Whisper``, as far as ``transcribe`` looks."""

    device = torch.device("cpu")
    is_multilingual = True
    num_languages = 99

    def __init__(self, script: Script) -> None:
        self._script = script
        self.dims = ModelDimensions(**HPARAMS)
        self.decoder = types.SimpleNamespace(blocks=[_Block() for _ in range(HPARAMS["n_text_layer"])])
        heads = torch.zeros(HPARAMS["n_text_layer"], HPARAMS["n_text_head"], dtype=torch.bool)
        for layer, head in HEADS:
            heads[layer, head] = True
        self.alignment_heads = heads.to_sparse()

    def detect_language(self, mel: Any) -> tuple[None, dict[str, float]]:
        logits = self._script.language_logits(window_of(mel.numpy())).astype(np.float64)
        tokenizer = get_tokenizer(True, num_languages=99)
        tokens = sorted(tokenizer.all_language_tokens)
        weights = np.exp(logits[tokens])
        codes = [tokenizer.decode([token]).strip("<|>") for token in tokens]
        return None, dict(zip(codes, weights / weights.sum()))

    def decode(self, mel: Any, options: DecodingOptions) -> DecodingResult:
        task = DecodingTask(self, options)
        limit = options.max_initial_timestamp
        rules = rules_of(
            task._get_suppress_tokens() if options.suppress_tokens else (),
            task.n_group,
            task.sample_len,
            round(limit / 0.02) if limit else None,
            options.suppress_blank,
        )
        answer = self._script.answer(window_of(mel.numpy()), task.initial_tokens, options.temperature, rules)
        text = task.tokenizer.decode(answer.tokens).strip()
        return DecodingResult(
            audio_features=mel,
            language=options.language,
            tokens=answer.tokens,
            text=text,
            avg_logprob=answer.avg_logprob,
            no_speech_prob=answer.no_speech_prob,
            temperature=options.temperature,
            compression_ratio=compression_ratio(text),
        )

    def __call__(self, mel: Any, tokens: Any) -> Any:
        window, ids = window_of(mel[0].numpy()), tokens[0].tolist()
        scores = torch.from_numpy(self._script.scores(window, ids))
        every = torch.zeros(HPARAMS["n_text_layer"], HPARAMS["n_text_head"], *scores.shape[1:])
        for (layer, head), row in zip(HEADS, scores):
            every[layer, head] = row
        for block, of_layer in zip(self.decoder.blocks, every):
            assert block.hook is not None
            block.hook(None, None, (None, of_layer[None]))
        return torch.from_numpy(self._script.logits(window, ids))[None]


def transcribe(script: Script, duration_s: float, options: dict[str, Any]) -> dict[str, Any]:
    """openai/whisper's answer. ``options`` by faster-whisper's names."""
    given = {_NAMES.get(name, name): value for name, value in options.items()}
    for name in ("beam_size", "best_of"):
        if given.get(name) == 1:
            del given[name]
    suppressed: Sequence[int] = given.get("suppress_tokens", [-1])
    given["suppress_tokens"] = list(suppressed)
    given["task"] = given.get("task", "transcribe")
    n_frames = round(duration_s * 16000) // 160
    mel = torch.from_numpy(numbered_mel(n_frames))
    with mock.patch.object(_TRANSCRIBE, "log_mel_spectrogram", lambda audio, n_mels, padding: mel):
        return _TRANSCRIBE.transcribe(OpenaiModel(script), np.zeros(1, np.float32), fp16=False, **given)
