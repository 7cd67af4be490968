"""A model that answers by a script: the same window, prompt and options always give the same tokens.

It stands in for the native model of ``EdgeEngine``, and (in ``scripted_openai``) for openai/whisper's, so that what
both make of the answers can be compared. A window is known by its first frame and its length, which a spectrogram whose
first row counts its frames tells.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional

import numpy as np
import numpy.typing as npt
from whisperq_edge._engines.edge import EdgeEngine
from whisperq_edge._engines.face import AlignRequest, DecodeOptions, WindowRequest
from whisperq_edge._options import TranscribeOptions
from whisperq_edge._result import EngineResult, Segment
from whisperq_edge._whisper.tokenizer import Vocabulary

from tests.support.make_model import real_vocabulary

Floats = npt.NDArray[np.float32]

HPARAMS = {
    "n_vocab": 51865,
    "n_audio_ctx": 1500,
    "n_audio_state": 4,
    "n_audio_head": 1,
    "n_audio_layer": 1,
    "n_text_ctx": 448,
    "n_text_state": 4,
    "n_text_head": 3,
    "n_text_layer": 2,
    "n_mels": 80,
}
HEADS = [(1, 0), (1, 1), (1, 2)]
N_FRAMES = 3000

VOCABULARY = Vocabulary(real_vocabulary(51865), 51865)
TEXTS = (
    " Hello, world.",
    " It's (quite) a test!",
    ' "Yes," he said - and left...',
    " naïve café 日本語 Ёлка",
    " one two three four five six",
    " [music]",
    " ",
    "",
    ".",
    " ha" * 30,
)


def numbered_mel(n_frames: int) -> Floats:
    """A spectrogram whose first row is 1, 2, 3, …: the same for ``EdgeEngine`` and openai/whisper."""
    mel = np.zeros((80, n_frames + N_FRAMES), np.float32)
    mel[0] = np.arange(1, n_frames + N_FRAMES + 1)
    return mel


class NumberedMel:
    """``WindowMel`` over ``numbered_mel``."""

    def __init__(self, samples: Floats, n_mels: int, *_: Any, **__: Any) -> None:
        self.n_frames = samples.size // 160
        self._mel = numbered_mel(self.n_frames)

    def window(self, seek: int, n_frames: int = N_FRAMES) -> Floats:
        return self.padded_window(seek, n_frames)

    def padded_window(self, seek: int, n_frames: int) -> Floats:
        padded = np.zeros((80, N_FRAMES), np.float32)
        padded[:, :n_frames] = self._mel[:, seek : seek + n_frames]
        return padded

    def keep_from(self, seek: int) -> None:
        pass


def window_of(mel: Floats) -> tuple[int, int]:
    """First frame and number of frames."""
    return round(float(mel[0, 0])) - 1, int(np.count_nonzero(mel[0]))


@dataclass(frozen=True)
class Answer:
    tokens: list[int]
    avg_logprob: float
    no_speech_prob: float


class Dice:
    """Random numbers that are the same with every version of Python."""

    def __init__(self, *seed: Any) -> None:
        self._random = random.Random(zlib.crc32(repr(seed).encode()))

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def below(self, n: int) -> int:
        return int(self._random.random() * n)

    def between(self, low: float, high: float) -> float:
        return round(low + (high - low) * self._random.random(), 6)

    def one_of(self, choices: Sequence[Any]) -> Any:
        return choices[self.below(len(choices))]


class Script:
    """What the model says."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.asked: list[tuple[tuple[int, int], float]] = []

    def answer(self, window: tuple[int, int], tokens: Sequence[int], temperature: float, *options: Any) -> Answer:
        self.asked.append((window, temperature))
        dice = Dice(self.seed, window, list(tokens), round(temperature, 6), *options)
        likely = 0.6 if temperature == 0 else 0.8
        return Answer(
            self._tokens(dice, window),
            dice.between(-0.9, 0) if dice.chance(likely) else dice.between(-2, -0.9),
            dice.between(0, 0.55) if dice.chance(0.75) else dice.between(0.55, 1),
        )

    def _tokens(self, dice: Dice, window: tuple[int, int]) -> list[int]:
        first_time = VOCABULARY.special("<|0.00|>")
        kind = dice.below(12)
        if kind == 0:
            return []
        if kind == 1:
            return self._text(dice)
        at = dice.below(40)
        tokens = [first_time + at]
        if kind == 2:
            return tokens
        for _ in range(dice.below(5)):
            at = min(at + dice.below(400) + (0 if dice.chance(0.1) else 1), 1499)
            tokens += [*self._text(dice), first_time + at]
            at = min(at + (dice.below(60) if dice.chance(0.3) else 0), 1499)
            tokens.append(first_time + at)
        if kind <= 6:
            return [*tokens, *self._text(dice), first_time + min(at + 1 + dice.below(200), 1500)]
        if kind == 7 and len(tokens) > 1:
            return tokens
        return tokens + self._text(dice)

    def _text(self, dice: Dice) -> list[int]:
        if dice.chance(0.1):
            return [dice.below(50257) for _ in range(1 + dice.below(8))]
        return [token for _ in range(1 + dice.below(2)) for token in VOCABULARY.encode(dice.one_of(TEXTS))]

    def language_logits(self, window: tuple[int, int]) -> Floats:
        dice = Dice(self.seed, window, "language")
        logits = np.full(51865, -5, np.float32)
        for token in range(50259, 50358):
            logits[token] = dice.between(-3, 3)
        return logits

    def scores(self, window: tuple[int, int], tokens: Sequence[int]) -> Floats:
        """Of the cross attention, ``[n_heads, n_tokens, 1500]``: a ridge that climbs from token to token."""
        seed = Dice(self.seed, window, list(tokens), "scores").below(2**31)
        noise = np.random.RandomState(seed)
        n_audio_tokens = max(window[1] // 2, 1)
        places = np.sort(noise.uniform(0, n_audio_tokens, len(tokens)))
        distance = np.arange(1500)[None, :] - places[:, None]
        ridge = 8 * np.exp(-((distance / 6) ** 2))
        return (ridge[None] + noise.standard_normal((len(HEADS), len(tokens), 1500))).astype(np.float32)

    def logits(self, window: tuple[int, int], tokens: Sequence[int]) -> Floats:
        """``[n_tokens, n_vocab]``: some tokens are likely, some are not."""
        noise = np.random.RandomState(Dice(self.seed, window, list(tokens), "logits").below(2**31))
        logits = np.zeros((len(tokens), 51865), np.float32)
        logits[np.arange(len(tokens) - 1), tokens[1:]] = noise.uniform(5, 14, len(tokens) - 1)
        return logits


@dataclass(frozen=True)
class _Audio:
    window: tuple[int, int]
    n_ctx: int


@dataclass(frozen=True)
class _Aligned:
    text_indices: npt.NDArray[np.int64]
    time_indices: npt.NDArray[np.int64]
    probabilities: list[float]


class ScriptedModel:
    """``NativeModel`` by a script."""

    hparams = HPARAMS

    def __init__(self, script: Script) -> None:
        self._script = script
        self.batches: list[int] = []
        self.contexts: list[int] = []

    def encode(self, mel: Floats, n_ctx: int, should_stop: Any = None) -> Any:
        self.contexts.append(n_ctx)
        return _Audio(window_of(mel), n_ctx)

    def encode_short(self, mel: Floats, n_ctx: int, should_stop: Any = None) -> Any:
        return self.encode(mel, n_ctx)

    def listen(self, audio_features: Any, should_stop: Any = None) -> _Audio:
        return audio_features

    listen_short = listen

    def logits(self, audio: _Audio, tokens: Sequence[int], first: int, should_stop: Any = None) -> Floats:
        return self._script.language_logits(audio.window)[None]

    def decode_windows(
        self,
        audios: Sequence[_Audio],
        requests: Sequence[WindowRequest],
        options: DecodeOptions,
        should_stop: Callable[[], bool],
    ) -> Any:
        self.batches.append(len(audios))
        answers = [self._answer(audio, request, options) for audio, request in zip(audios, requests)]
        return answers, {"decode": (1.0, len(answers))}

    def _answer(self, audio: _Audio, request: WindowRequest, options: DecodeOptions) -> Answer:
        assert request.tokens[request.sot_index] == options.eot + 1
        rules = rules_of(
            options.suppress_tokens,
            options.beam_size or options.best_of,
            options.sample_len,
            options.max_initial_timestamp_index,
            options.suppress_blank,
        )
        return self._script.answer(audio.window, request.tokens, options.temperature, rules)

    def align_windows(
        self,
        audios: Sequence[_Audio],
        requests: Sequence[AlignRequest],
        heads: Sequence[tuple[int, int]],
        should_stop: Callable[[], bool],
    ) -> Any:
        assert list(heads) == HEADS
        return [self._align(audio, request) for audio, request in zip(audios, requests)], {"prompt": (1.0, 1)}

    def _align(self, audio: _Audio, request: AlignRequest) -> _Aligned:
        n_sot = len(request.sot_sequence)
        eot, no_timestamps = VOCABULARY.special("<|endoftext|>"), VOCABULARY.special("<|notimestamps|>")
        tokens = [*request.sot_sequence, no_timestamps, *request.text_tokens, eot]
        scores = self._script.scores(audio.window, tokens)[:, :, : request.n_audio_tokens]
        text_indices, time_indices = dtw(-attention(scores)[n_sot:-1])
        logits = self._script.logits(audio.window, tokens)[n_sot:, :eot].astype(np.float64)
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        rows = np.arange(len(request.text_tokens))
        chosen = weights[rows, request.text_tokens] / weights.sum(axis=-1)[rows]
        return _Aligned(text_indices, time_indices, chosen.tolist())


def rules_of(
    suppressed: Sequence[int], n_group: int, sample_len: int, max_initial: Optional[int], blank: bool
) -> list[Any]:
    """What of the options the model hears, so that options which differ give other answers."""
    return [sorted(suppressed), n_group, sample_len, max_initial, blank]


# ---- openai/whisper's alignment, slow and plain ----------------------------------------------------------------------

Ints = npt.NDArray[np.int64]


def attention(scores: Floats) -> Floats:
    """float32 ``[n_tokens, n_ctx]``: attention over the audio, each moment of it against its mean over the tokens,
    smoothed, and averaged over the heads."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    deviation = weights.std(axis=-2, keepdims=True)
    with np.errstate(invalid="ignore"):  # one audio token: 0 / 0, as in openai/whisper
        weights = (weights - weights.mean(axis=-2, keepdims=True)) / deviation
    averaged: Floats = median_filter(weights, 7).mean(axis=0)
    return averaged


def median_filter(values: Floats, width: int) -> Floats:
    """The median of each value and its neighbours along the last axis, ``width`` (odd) in all; reflected at the ends.
    An axis no longer than half of that stays as it is."""
    half = width // 2
    if values.shape[-1] <= half:
        return values
    padding = [(0, 0)] * (values.ndim - 1) + [(half, half)]
    padded = np.pad(values, padding, mode="reflect")
    neighbours = np.lib.stride_tricks.sliding_window_view(padded, width, axis=-1)
    middle: Floats = np.partition(neighbours, half, axis=-1)[..., half]
    return middle


def dtw(costs: npt.NDArray[np.floating[Any]]) -> tuple[Ints, Ints]:
    """The cheapest way from the first to the last row and column of ``costs`` ``[n_rows, n_columns]``, as row and
    column of each step. Steps go down, right or both; of equal ones right is taken, as openai/whisper does.

    All cells of an anti-diagonal depend on the two before it only, so numpy takes a diagonal at a time.
    """
    n_rows, n_columns = costs.shape
    exact = costs.astype(np.float64)
    # Row i of `sums` and `moves` is row i - 1 of the costs; a diagonal holds its cells by their row.
    moves = np.zeros((n_rows + 1, n_columns + 1), np.int8)
    earlier = np.full(n_rows + 1, np.inf, np.float32)
    last = np.full(n_rows + 1, np.inf, np.float32)
    earlier[0] = 0
    for diagonal in range(2, n_rows + n_columns + 1):
        rows = np.arange(max(1, diagonal - n_columns), min(n_rows, diagonal - 1) + 1)
        columns = diagonal - rows
        both, down, right = earlier[rows - 1], last[rows - 1], last[rows]
        is_both = (both < down) & (both < right)
        is_down = ~is_both & (down < both) & (down < right)
        cheapest = np.where(is_both, both, np.where(is_down, down, right))
        sums = np.full(n_rows + 1, np.inf, np.float32)
        sums[rows] = exact[rows - 1, columns - 1] + cheapest
        moves[rows, columns] = np.where(is_both, 0, np.where(is_down, 1, 2))
        earlier, last = last, sums
    return _walk_back(moves)


def _walk_back(moves: npt.NDArray[np.int8]) -> tuple[Ints, Ints]:
    moves[0, :] = 2
    moves[:, 0] = 1
    row, column = moves.shape[0] - 1, moves.shape[1] - 1
    steps = []
    while row > 0 or column > 0:
        steps.append((row - 1, column - 1))
        move = moves[row, column]
        row -= move != 2
        column -= move != 1
    path = np.array(steps[::-1], np.int64)
    return path[:, 0], path[:, 1]


# ---- Cases -----------------------------------------------------------------------------------------------------------


def transcribe(
    script: Script,
    duration_s: float,
    options: dict[str, Any],
    *,
    model: Optional[ScriptedModel] = None,
    on_languages: Callable[[list[tuple[str, float]]], None] = lambda ranking: None,
    on_progress: Callable[[float], None] = lambda fraction: None,
    should_stop: Callable[[], bool] = lambda: False,
    shortens: bool = False,
    **tools: Any,
) -> tuple[list[Segment], EngineResult]:
    """What ``EdgeEngine`` makes of the script. The caller has put ``NumberedMel`` in place of ``WindowMel``."""
    chosen = TranscribeOptions.from_arguments(options)
    native = model or ScriptedModel(script)
    tools = _in_pieces(round(duration_s * 16000), **tools)
    engine = EdgeEngine(native, real_vocabulary(51865), shortens=shortens, **tools)
    engine.check(chosen)
    segments: list[Segment] = []
    samples = np.zeros(round(duration_s * 16000), np.float32)
    clips = [] if chosen.clip_timestamps == "0" else chosen.clips_s(duration_s)
    result = engine.transcribe(
        samples,
        chosen,
        clips,
        on_languages=on_languages,
        on_segment=segments.append,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    return segments, result


class _Whole:
    """``SpeechStream`` and ``SilenceFinder`` by functions of all of the audio, which answer in the end."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def feed(self, samples: Floats) -> Floats:
        return np.empty(0, np.float32)

    def push(self, samples: Floats, probabilities: Floats) -> None:
        pass

    def finish(self) -> Any:
        return self._answer()


def _in_pieces(n_samples: int, hear_speech: Any = None, find_silence: Any = None) -> dict[str, Any]:
    """The tools of ``EdgeEngine``, of ``(samples, should_stop) -> probabilities`` and ``(samples, probabilities) ->
    [(start, end)]``."""
    samples = np.zeros(n_samples, np.float32)
    tools = {}
    if hear_speech is not None:
        tools["hear_speech"] = lambda: _Whole(lambda: hear_speech(samples, lambda: False))
    if find_silence is not None:
        tools["find_silence"] = lambda: _Whole(lambda: [(a, b, "") for a, b in find_silence(samples, None)])
    return tools


def random_case(seed: int) -> tuple[float, dict[str, Any]]:
    """Seconds of audio and options (those that openai/whisper has too, by faster-whisper's names)."""
    dice = Dice("case", seed)
    duration_s = dice.one_of((0.004, 3.37, 29.99, 30.0, 61.234, 95.0, 140.5))
    options: dict[str, Any] = {
        "language": dice.one_of((None, "en", "de", "ja")),
        "task": "translate" if dice.chance(0.15) else "transcribe",
        "temperature": dice.one_of((0.0, [0.0, 0.4, 0.8], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], 0.7)),
        "compression_ratio_threshold": dice.one_of((2.4, 2.4, None, 1.2)),
        "log_prob_threshold": dice.one_of((-1.0, -1.0, None, -0.5)),
        "no_speech_threshold": dice.one_of((0.6, 0.6, None, 0.3)),
        "condition_on_previous_text": dice.chance(0.8),
        "initial_prompt": dice.one_of((None, None, " A glossary: wug, blick.", "many words " * 60)),
        "without_timestamps": dice.chance(0.1),
        "suppress_blank": dice.chance(0.9),
        "suppress_tokens": dice.one_of(([-1], [-1], [], [5, 6, 7], [-1, 11])),
        "max_initial_timestamp": dice.one_of((1.0, 0.0, 2.0)),
        "max_new_tokens": dice.one_of((None, None, 50)),
        "beam_size": dice.one_of((1, 5)),
        "best_of": dice.one_of((1, 5)),
        "word_timestamps": dice.chance(0.4),
    }
    options["carry_initial_prompt"] = options["initial_prompt"] is not None and dice.chance(0.5)
    if options["word_timestamps"] and dice.chance(0.5):
        options["hallucination_silence_threshold"] = dice.one_of((0.3, 1.0, 2.0))
    if dice.chance(0.3) and duration_s > 20:
        options["clip_timestamps"] = dice.one_of(([5.0], [0.0, 4.0, 8.5, 20.0], "1.5,12.25", [2.0, 3.0, 10.0]))
    return duration_s, options
