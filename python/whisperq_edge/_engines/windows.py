"""The windows of our engine: how much of one is encoded, with which prompt and at which temperature it is decoded, and
whether its answer is believed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Optional

import numpy as np

from .._options import TranscribeOptions
from .._result import Dropped, compression_ratio
from .._system.arrays import Floats
from .._whisper.tokenizer import Tokenizer
from .._whisper.units import FRAMES_PER_TOKEN, WINDOW_S
from .call import Call
from .evidence import ENOUGH, SUSPECTED_NO_SPEECH, may_be_believed, why_not_believed
from .face import AlignRequest, DecodeOptions, WindowRequest, WindowResult
from .first_pass import FirstPass
from .language import Language
from .longform import Answer, Window, needs_fallback, prefix_tokens, window_tokens
from .short_audio import short_margin
from .word_times import Path, alignment_heads

__all__ = ["Windows"]


class Windows:
    """Decodes the windows of a call; ``decode`` is a ``longform.WindowDecoder``."""

    def __init__(self, call: Call, heard: FirstPass, language: Language) -> None:
        self._call = call
        self._heard = heard
        self._language = language
        self._heads = alignment_heads(call.hparams)
        self._n_speech: dict[int, int] = {}  # windows of speech by the first frame, of what is in hand
        self._short_mels: dict[int, Floats] = {}  # of windows that may be done again: the audio has gone on meanwhile
        self._audios: dict[int, Any] = {}  # of windows that may be decoded again with timestamps, by the first frame

    def decode(self, windows: Sequence[Window]) -> list[Answer]:
        """A ``longform.WindowDecoder``."""
        lengths = [self._call.audio_ctx(window.n_frames) for window in windows]
        full = self._call.n_audio_ctx
        if not windows[0].is_timed:
            self._short_mels, self._n_speech, self._audios = {}, {}, {}
        answers = self._decode_with_fallback(windows, lengths)
        suspects = [i for i, n_ctx in enumerate(lengths) if n_ctx < full and self._is_suspect(windows[i], answers[i])]
        self._call.n_short += sum(n_ctx < full for n_ctx in lengths)
        self._call.n_redone += len(suspects)
        if suspects:
            redone = self._decode_with_fallback([windows[i] for i in suspects], [full] * len(suspects))
            for i, answer in zip(suspects, redone):
                answers[i] = answer
        checked = [self._checked(window, answer) for window, answer in zip(windows, answers)]
        return [self._heard_behind_prefix(window, answer) for window, answer in zip(windows, checked)]

    def _heard_behind_prefix(self, window: Window, answer: Answer) -> Answer:
        """Whisper may take the audio for said with the prefix and say no word behind it. The window is then decoded
        without the prefix, which is put in front of what that gives."""
        prefix = self._prefix(window, answer.tokenizer)
        if not prefix or any(map(str.isalnum, answer.tokenizer.decode(answer.tokens[len(prefix) :]))):
            return answer
        without = replace(window, is_first=False)
        heard = self._checked(without, self._decode_with_fallback([without], [self._call.n_audio_ctx])[0])
        if not heard.is_believed:
            return answer
        text = [token for token in prefix if token < answer.tokenizer.eot]
        begins_with_time = bool(heard.tokens) and heard.tokens[0] >= answer.tokenizer.timestamp_begin
        tokens = (heard.tokens[0], *text, *heard.tokens[1:]) if begins_with_time else (*prefix, *heard.tokens)
        return replace(heard, tokens=tokens, text=answer.tokenizer.decode(tokens).strip())

    def _checked(self, window: Window, answer: Answer) -> Answer:
        """The answer, marked where it is not believed, which is noted as dropped."""
        why = self._why_not_believed(window, answer)
        if why is not None and not window.is_timed:  # text of the first answer stands there
            self._call.dropped.append(Dropped(window.start_s, window.start_s + window.duration_s, why))
        return answer if why is None or not answer.text else replace(answer, is_believed=False)

    def _why_not_believed(self, window: Window, answer: Answer) -> Optional[str]:
        if window.seek not in self._n_speech:
            return None
        return why_not_believed(
            self._n_speech[window.seek],
            answer.text,
            answer.avg_logprob,
            answer.no_speech_prob,
            needs_fallback(answer, self._call.options),
            # A caller who switches one of these off wants text that the model itself doubts.
            believes_doubts=None in (self._call.options.no_speech_threshold, self._call.options.log_prob_threshold),
        )

    def _is_suspect(self, window: Window, answer: Answer) -> bool:
        """Whether the window, of which a part was encoded, is worth encoding in full.

        Where there is little speech, text that is not believed is dropped at once. Text that is believed although the
        model expects no speech is decoded again: short windows move the no-speech probability (docs/silence.md).
        """
        if self._n_speech.get(window.seek, ENOUGH) < ENOUGH:
            if self._why_not_believed(window, answer) is not None:
                return False
            if answer.text and answer.no_speech_prob > SUSPECTED_NO_SPEECH:
                return True
        return self._goes_on(window, answer) or self._looks_wrong(window, answer)

    def _looks_wrong(self, window: Window, answer: Answer) -> bool:
        """Whether hearing a part of the window may have led the model astray: it did not end, repeats itself, or tells
        of times behind all that was encoded."""
        tokens, _ = window_tokens(answer.tokenizer, self._call.options, window, self._call.n_text_ctx)
        # An answer that ends at ``max_new_tokens`` was cut by the caller.
        most = min(self._call.n_text_ctx // 2, self._call.n_text_ctx + 1 - len(tokens))
        times = [token - answer.tokenizer.timestamp_begin for token in answer.tokens]
        limit = self._call.options.compression_ratio_threshold
        n_audio = math.ceil(window.n_frames / FRAMES_PER_TOKEN)
        return (
            len(answer.tokens) - len(self._prefix(window, answer.tokenizer)) >= most
            or (limit is not None and answer.compression_ratio > limit)
            or max(times, default=0) > n_audio + short_margin(n_audio)
        )

    @property
    def _sample_len(self) -> int:
        return self._call.options.max_new_tokens or self._call.n_text_ctx // 2

    def _decode_with_fallback(self, windows: Sequence[Window], lengths: Sequence[int]) -> list[Answer]:
        """openai/whisper's: the windows whose answers look wrong are decoded again, at the next temperature. Short ones
        are not, because their whole window comes first."""
        self._call.check_memory(len(windows), max(lengths))
        audios = [self._audio_of(window, n_ctx) for window, n_ctx in zip(windows, lengths)]
        tokenizers = [self._language.tokenizer_for(audio) for audio in audios]
        answers: dict[int, Answer] = {}
        waiting = list(range(len(windows)))
        for temperature in self._call.options.temperatures:
            requests = [self._request(windows[i], tokenizers[i]) for i in waiting]
            results = self._decode_at(temperature, [audios[i] for i in waiting], requests, windows[0].is_timed)
            for i, result in zip(waiting, results):
                answers[i] = self._answer(windows[i], result, temperature, tokenizers[i], audios[i])
            full = self._call.n_audio_ctx
            waiting = [i for i in waiting if lengths[i] == full and self._goes_on(windows[i], answers[i])]
            if not waiting:
                break
        return [answers[i] for i in range(len(windows))]

    def _goes_on(self, window: Window, answer: Answer) -> bool:
        """Whether the window is worth decoding at the next temperature."""
        n_speech = self._n_speech.get(window.seek, ENOUGH)
        return needs_fallback(answer, self._call.options) and may_be_believed(n_speech, needs_fallback=True)

    def _count_speech(self, window: Window) -> None:
        """Count the windows of speech. Text of a ``prefix`` is not checked, because the caller knows what is said."""
        if not self._heard.checks_text or self._prefix(window, self._language.tokenizer):
            return
        if window.seek not in self._n_speech:
            self._n_speech[window.seek] = self._heard.count_speech(window.seek, window.n_frames)

    def _audio_of(self, window: Window, n_ctx: int) -> Any:
        """The window as the decoder hears it, which is kept where it may be decoded again with timestamps."""
        if window.is_timed:
            return self._audios[window.seek]
        audio = self._hear_window(window, n_ctx)
        if self._call.options.batch_size is not None and self._call.options.without_timestamps:
            self._audios[window.seek] = audio
        return audio

    def _hear_window(self, window: Window, n_ctx: int) -> Any:
        is_short = n_ctx < self._call.n_audio_ctx
        mel = self._short_mels.get(window.seek)
        if mel is None:
            with self._call.clock.timed("mel"):
                mel = self._heard.mel.padded_window(window.seek, window.n_frames)
        self._count_speech(window)
        if is_short:
            self._short_mels[window.seek] = mel
        return self._call.hear(mel, n_ctx)

    def _request(self, window: Window, tokenizer: Tokenizer) -> WindowRequest:
        tokens, sot_index = window_tokens(tokenizer, self._call.options, window, self._call.n_text_ctx)
        return WindowRequest(tokens, sot_index, window.seek, len(self._prefix(window, tokenizer)))

    def _prefix(self, window: Window, tokenizer: Tokenizer) -> tuple[int, ...]:
        return prefix_tokens(tokenizer, self._call.options, window, self._call.n_text_ctx)

    def _decode_at(
        self, temperature: float, audios: Sequence[Any], requests: Sequence[WindowRequest], is_timed: bool
    ) -> Sequence[WindowResult]:
        self._call.go_on()
        asked = replace(self._call.options, without_timestamps=False) if is_timed else self._call.options
        options = _decode_options(asked, self._language.tokenizer, self._call.hparams, temperature, self._sample_len)
        results, stages = self._call.native.decode_windows(audios, requests, options, self._call.should_stop)
        self._call.count(stages)
        return results

    def _answer(
        self, window: Window, result: WindowResult, temperature: float, tokenizer: Tokenizer, audio: Any
    ) -> Answer:
        tokens = (*self._prefix(window, tokenizer), *result.tokens)
        text = tokenizer.decode(tokens).strip()

        def align(sot_sequence: Sequence[int], text_tokens: Sequence[int], n_audio_tokens: int) -> Path:
            request = AlignRequest(list(sot_sequence), list(text_tokens), n_audio_tokens)
            [aligned], stages = self._call.native.align_windows([audio], [request], self._heads, self._call.should_stop)
            self._call.count(stages)
            return Path(np.asarray(aligned.text_indices), np.asarray(aligned.time_indices), aligned.probabilities)

        return Answer(
            tokens=tokens,
            text=text,
            avg_logprob=result.avg_logprob,
            no_speech_prob=result.no_speech_prob,
            compression_ratio=compression_ratio(text),
            temperature=temperature,
            tokenizer=tokenizer,
            align=align,
        )


def _decode_options(
    options: TranscribeOptions, tokenizer: Tokenizer, hparams: Mapping[str, int], temperature: float, sample_len: int
) -> DecodeOptions:
    """Beams at temperature 0, samples above. A ``beam_size`` of 1 is the greedy search (faster-whisper's meaning), and
    a ``length_penalty`` of 1 the mean over the tokens, which is openai/whisper's default."""
    beam_size = options.beam_size if temperature == 0 and options.beam_size > 1 else 0
    precision_s = WINDOW_S / hparams["n_audio_ctx"]
    return DecodeOptions(
        eot=tokenizer.eot,
        no_speech=tokenizer.no_speech,
        no_timestamps=tokenizer.no_timestamps,
        timestamp_begin=tokenizer.timestamp_begin,
        blank=(*tokenizer.encode(" "), tokenizer.eot),
        suppress_tokens=_suppressed(options, tokenizer),
        temperature=temperature,
        beam_size=beam_size,
        best_of=options.best_of if temperature > 0 else 1,
        patience=options.patience if beam_size else None,
        length_penalty=None if options.length_penalty in (None, 1) else options.length_penalty,
        sample_len=sample_len,
        suppress_blank=options.suppress_blank,
        without_timestamps=options.without_timestamps,
        max_initial_timestamp_index=(
            # openai/whisper's: a limit of 0 is none.
            round(options.max_initial_timestamp / precision_s) if options.max_initial_timestamp else None
        ),
        repetition_penalty=options.repetition_penalty,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        seed=options.seed or 0,
    )


def _suppressed(options: TranscribeOptions, tokenizer: Tokenizer) -> tuple[int, ...]:
    """-1 stands for the non-speech symbols. With any token go the special ones that begin a window; without, openai's
    rule is to suppress nothing."""
    given = options.suppress_tokens
    if not given:
        return ()
    tokens = {token for token in given if token >= 0}
    if -1 in given:
        tokens.update(tokenizer.non_speech_tokens)
    tokens.update((tokenizer.transcribe, tokenizer.translate, tokenizer.sot, tokenizer.sot_prev, tokenizer.sot_lm))
    return tuple(sorted({*tokens, tokenizer.no_speech}))
