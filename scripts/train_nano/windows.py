"""Puts training windows together: utterances joined with pauses, gain, noise, and the token sequences they should give.

Everything is a function of (seed, step), so a resumed run sees exactly the batches that an uninterrupted one would.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from .mel_cache import N_MELS, SPEEDS, MelCache, log_mel
from .teacher_cache import TeacherCache
from .vocabulary import (
    EOT,
    NO_SPEECH,
    NO_TIMESTAMPS,
    SOT,
    SOT_PREV,
    TIMESTAMP_BEGIN,
    CompactVocabulary,
    ctc_encode,
    encode,
)

FULL_WINDOW = 3000
MAX_FIRST_TIMESTAMP = 50  # decoding forbids a window's first timestamp to lie after 1.0 s
BLUR = 3  # timestamp targets are spread over this many steps to either side
BLUR_WEIGHTS = np.exp(-0.5 * (np.arange(-BLUR, BLUR + 1) / 0.9) ** 2)
BLUR_WEIGHTS = (BLUR_WEIGHTS / BLUR_WEIGHTS.sum()).astype(np.float32)
MAX_PROMPT = 200
RECOMBINED = 0.5  # share of aligned utterances that are taken apart
SPOKEN_PEAK = 10.0  # mel power of the loudest frame of a piece before the window's gain


@dataclass(frozen=True)
class Recipe:
    """What one stage of training sees."""

    frames: tuple[int, ...] = (300, 400, 500, 600, 800)
    frames_per_batch: int = 6400
    corpora: tuple[tuple[str, float], ...] = (
        ("an4", 0.48),
        ("fsdd", 0.14),
        ("synthetic", 0.16),
        ("speech-commands", 0.10),
        ("speechocean762", 0.12),
    )
    no_speech: float = 0.08
    augment: float = 0.5  # probability of each kind of distortion is scaled by this
    with_timestamps: float = 0.6
    with_prompt: float = 0.15
    cut_off: float = 0.0  # share of windows whose last utterance runs over the end


@dataclass
class Piece:
    utterance: int
    speed: int
    first: int  # cut from here ..
    last: int  # .. to here, in frames of the utterance
    at: int = 0  # first frame in the window

    @property
    def frames(self) -> int:
        return self.last - self.first


@dataclass
class Segment:
    pieces: list[Piece]
    text: str
    begin: int = 0  # speech, frames in the window
    end: int = 0

    @property
    def frames(self) -> int:
        return self.pieces[-1].at + self.pieces[-1].frames


@dataclass
class Window:
    mel: np.ndarray
    teacher: np.ndarray  # row of the teacher's vectors per audio token, -1 where there is none
    inputs: list[int]
    targets: list[list[tuple[int, float]]]  # per input token the wanted next token(s) with weights
    ctc: list[int]
    first_position: int


@dataclass
class Batch:
    mel: np.ndarray
    teacher: np.ndarray
    tokens: np.ndarray
    target_rows: np.ndarray
    target_weights: np.ndarray
    ctc: list[list[int]]
    first_position: np.ndarray


class WindowMaker:
    """`alignments` (see align.py) may be empty; then no utterance is taken apart."""

    def __init__(
        self,
        mels: MelCache,
        teacher: TeacherCache | None,
        vocabulary: CompactVocabulary,
        alignments: dict[int, list[int]],
        seed: int,
    ):
        self.mels, self.teacher, self.vocabulary, self.seed = mels, teacher, vocabulary, seed
        self.alignments = alignments
        self.pools: dict[str, list[int]] = defaultdict(list)
        self.by_speaker: dict[tuple[str, str], list[int]] = defaultdict(list)
        for i, u in enumerate(mels.utterances):
            if u.split != "train":
                continue
            corpus = "speech-commands" if u.corpus.startswith("speech-commands") else u.corpus
            self.pools[corpus].append(i)
            self.by_speaker[corpus, u.speaker].append(i)
        self.aligned: dict[tuple[str, str], list[int]] = defaultdict(list)
        for i in alignments:
            self.aligned[mels.utterances[i].corpus, mels.utterances[i].speaker].append(i)
        self.texts = [u.text for u in mels.utterances if u.text and u.split == "train"]

    # --- segments -------------------------------------------------------------------------------------------------

    def _cut(self, rng: np.random.Generator, utterance: int, margin: int) -> Piece:
        """The utterance with up to `margin` frames around its speech. Cuts are even so that teacher vectors align."""
        speed = int(rng.choice(3, p=(0.25, 0.5, 0.25)))
        begin, end = self.mels.bounds(utterance, speed)
        total = len(self.mels.power(utterance, speed))
        first = max(0, begin - int(rng.integers(0, margin + 1))) & ~1
        return Piece(utterance, speed, first, min(total, end + int(rng.integers(0, margin + 1))))

    def _join(self, rng: np.random.Generator, utterances: list[int], longest_pause: int) -> Segment:
        at, pieces = 0, []
        for i in utterances:
            piece = self._cut(rng, i, margin=4)
            piece.at = at
            pieces.append(piece)
            at += piece.frames + int(rng.integers(0, longest_pause + 1))
            at += at % 2
        return Segment(pieces, " ".join(self.mels.utterances[i].text for i in utterances))

    def _recombine(self, rng: np.random.Generator, utterances: list[int]) -> Segment:
        """A new text from spans of words that one speaker said in different utterances."""
        speed, at, pieces, words = int(rng.choice(3, p=(0.25, 0.5, 0.25))), 0, [], []
        for i in rng.choice(utterances, rng.integers(1, 6)):
            spoken, borders = self.mels.utterances[i].text.split(), self.alignments[int(i)]
            count = min(len(spoken), int(rng.integers(1, 5)))
            start = int(rng.integers(0, len(spoken) - count + 1))
            first, last = (round(borders[k] / SPEEDS[speed]) for k in (start, start + count))
            pieces.append(Piece(int(i), speed, first & ~1, last, at))
            at += pieces[-1].frames + int(rng.integers(0, 12))
            at += at % 2
            words += spoken[start : start + count]
        return Segment(pieces, " ".join(words))

    def _segment(self, rng: np.random.Generator, corpus: str) -> Segment:
        pool = self.pools[corpus]
        seed = int(rng.choice(pool))
        if corpus == "fsdd":
            same = self.by_speaker[corpus, self.mels.utterances[seed].speaker]
            return self._join(rng, list(rng.choice(same, rng.integers(1, 9))), int(rng.integers(5, 38)))
        if corpus == "speech-commands":
            others = list(rng.choice(pool, rng.integers(0, 5)))
            return self._join(rng, [seed, *others], int(rng.integers(0, 30)))
        if seed in self.alignments and rng.random() < RECOMBINED:
            return self._recombine(rng, self.aligned[corpus, self.mels.utterances[seed].speaker])
        piece = self._cut(rng, seed, margin=12 if rng.random() < 0.5 else 200)
        return Segment([piece], self.mels.utterances[seed].text)

    def _place(self, segment: Segment, at: int) -> None:
        for piece in segment.pieces:
            piece.at += at
        head, tail = segment.pieces[0], segment.pieces[-1]
        segment.begin = head.at + max(0, self.mels.bounds(head.utterance, head.speed)[0] - head.first)
        segment.end = tail.at + min(tail.frames, self.mels.bounds(tail.utterance, tail.speed)[1] - tail.first)

    def _segments(self, rng: np.random.Generator, recipe: Recipe, frames: int) -> list[Segment]:
        names, weights = zip(*recipe.corpora)
        probabilities = np.array(weights) / sum(weights)
        cut_off = frames == FULL_WINDOW and rng.random() < recipe.cut_off
        stop = rng.random() * 0.25
        position = int(rng.integers(0, 30)) * (1 if rng.random() < 0.7 else 4) & ~1
        segments: list[Segment] = []
        misses = 0
        while not segments or (misses < 5 and rng.random() > stop):
            segment = self._segment(rng, str(rng.choice(names, p=probabilities)))
            fits = position + segment.frames <= frames
            if not fits and not (cut_off and segments and frames - position > 60):
                misses += 1
                position = 0 if not segments else position  # a first utterance that is too long gets all the room
                continue
            self._place(segment, position)
            if not fits and segment.begin > frames - 30:
                break
            segments.append(segment)
            if not fits:
                break
            # Pauses of one segment stay below 0.4 s, those between segments above it.
            gap = int(rng.integers(20, 60)) if rng.random() < 0.7 else int(rng.integers(60, 260))
            position = (segment.frames + max(0, gap - (segment.frames - segment.end))) & ~1
            position += position % 2
        return segments

    # --- audio ----------------------------------------------------------------------------------------------------

    def _lay(self, rng: np.random.Generator, segments: list[Segment], frames: int) -> tuple[np.ndarray, np.ndarray]:
        power = np.zeros((frames, N_MELS), dtype=np.float32)
        teacher = np.full(frames // 2, -1, dtype=np.int64)
        for piece in (p for s in segments for p in s.pieces if p.at < frames):
            source = self.mels.power(piece.utterance, piece.speed)[piece.first : piece.last][: frames - piece.at]
            gain = SPOKEN_PEAK * 10 ** rng.uniform(-0.5, 0.5) / max(1e-9, float(source.max()))
            power[piece.at : piece.at + len(source)] += source * gain
            if self.teacher is not None and self.teacher.first[piece.utterance] >= 0:
                count = len(source) // 2
                original = (piece.first + 2 * np.arange(count)) * SPEEDS[piece.speed] / 2
                longest = (len(self.mels.power(piece.utterance)) - 1) // 2
                rows = self.teacher.first[piece.utterance] + np.minimum(original.round().astype(np.int64), longest)
                teacher[piece.at // 2 : piece.at // 2 + count] = rows[: frames // 2 - piece.at // 2]
        return power, teacher

    def _noise(self, rng: np.random.Generator, frames: int) -> np.ndarray:
        """Noise over the whole window with a peak of 1."""
        pool = self.pools["noise"] if rng.random() < 0.5 else self.pools["synthetic-noise"]
        source = self.mels.power(int(rng.choice(pool)), int(rng.integers(3)))
        start = int(rng.integers(len(source)))
        noise = np.take(source, np.arange(start, start + frames) % len(source), axis=0)
        return noise / max(1e-9, float(noise.max()))

    def _distort(self, rng: np.random.Generator, power: np.ndarray, amount: float) -> np.ndarray:
        if rng.random() < 0.5 * amount:  # microphone: a smooth curve over frequency
            knots = rng.normal(0, 0.35, 6)
            power = power * (10 ** np.interp(np.arange(N_MELS), np.linspace(0, N_MELS - 1, 6), knots)).astype(
                np.float32
            )
        if rng.random() < 0.5 * amount:  # length of the vocal tract
            source = np.clip(np.arange(N_MELS) * rng.uniform(0.92, 1.08), 0, N_MELS - 1.001)
            low, part = source.astype(int), (source % 1).astype(np.float32)
            power = power[:, low] * (1 - part) + power[:, low + 1] * part
        if rng.random() < 0.08 * amount:  # telephone
            power = power.copy()
            power[:, int(rng.integers(54, 62)) :] *= 1e-6
        power = power * 10 ** rng.uniform(-2.8, 1.0)  # the corpora peak at 10^-2.5 to 10^2
        if rng.random() < 0.5 * amount:
            level = power.max() * 10 ** rng.uniform(-5.0, -1.2)
            power = power + self._noise(rng, len(power)) * level
        return power.astype(np.float32)

    def _mask(self, rng: np.random.Generator, mel: np.ndarray, amount: float) -> np.ndarray:
        """SpecAugment, light: two bands and a few short gaps."""
        floor = mel.min() + 0.3 * (mel.mean() - mel.min())
        if rng.random() < 0.6 * amount:
            for _ in range(2):
                width, low = int(rng.integers(0, 13)), int(rng.integers(0, N_MELS - 12))
                mel[:, low : low + width] = floor
            for _ in range(len(mel) // 150):
                width, start = int(rng.integers(0, 14)), int(rng.integers(len(mel)))
                mel[start : start + width] = floor
        return mel

    def _silence(self, rng: np.random.Generator, frames: int) -> np.ndarray:
        """A window without speech: nothing, noise at any level, noise then padding, or the edge of a recording."""
        power = np.zeros((frames, N_MELS), dtype=np.float32)
        kind = rng.random()
        if kind < 0.12:
            return power
        if kind < 0.35:  # a whole recording of noise, as a user would give it
            clip = self.mels.power(int(rng.choice(self.pools["noise"])), int(rng.integers(3)))[:frames]
            power[: len(clip)] = clip * 10 ** rng.uniform(-1.0, 1.0)
            return power
        level = 10 ** rng.uniform(-7.0, 2.0)
        length = frames if kind < 0.55 else int(rng.integers(10, frames + 1))
        if kind < 0.85:
            power[:length] = self._noise(rng, length) * level
            return power
        utterance = int(rng.choice(self.pools["an4"] + self.pools["speechocean762"]))
        source, (begin, end) = self.mels.power(utterance), self.mels.bounds(utterance)
        edge = source[end + 2 :] if rng.random() < 0.7 else source[: max(0, begin - 2)]
        edge = edge[:frames]
        power[: len(edge)] = edge
        return power

    # --- tokens ---------------------------------------------------------------------------------------------------

    def _prompt(self, rng: np.random.Generator, timestamps: bool) -> list[int]:
        limit = MAX_PROMPT if rng.random() < 0.15 else 40
        tokens: list[int] = []
        clock = 0
        while len(tokens) < limit and (not tokens or rng.random() < 0.75):
            text = encode(self.texts[int(rng.integers(len(self.texts)))])
            if timestamps:
                begin = clock + int(rng.integers(0, 50))
                clock = min(1500, begin + 12 * len(text))
                tokens += [TIMESTAMP_BEGIN + min(1500, begin), *text, TIMESTAMP_BEGIN + clock]
            else:
                tokens += text
        return [SOT_PREV, *tokens[-limit:]]

    def _timestamp_target(self, token: int, lowest: int = 0, highest: int = 1500) -> list[tuple[int, float]]:
        steps = np.clip(token - TIMESTAMP_BEGIN + np.arange(-BLUR, BLUR + 1), lowest, highest)
        return [(TIMESTAMP_BEGIN + int(s), float(w)) for s, w in zip(steps, BLUR_WEIGHTS)]

    def _targets(self, tokens: list[int]) -> list[list[tuple[int, float]]]:
        """For every token the one that follows it; timestamps are blurred."""
        return [self._timestamp_target(t) if t >= TIMESTAMP_BEGIN else [(t, 1.0)] for t in tokens[1:]]

    def _speech_tokens(self, segments: list[Segment], frames: int, timestamps: bool, offset: int) -> list[int]:
        if not timestamps:
            text = [t for s in segments for t in encode(s.text)]
            return [SOT, NO_TIMESTAMPS, *text, EOT]
        tokens = [SOT]
        for i, segment in enumerate(segments):
            begin = segment.begin // 2 + offset
            if i == 0 and offset == 0:
                begin = min(begin, MAX_FIRST_TIMESTAMP)
            tokens.append(TIMESTAMP_BEGIN + begin)
            if segment.frames > frames:  # runs over the end: the next window will have it
                break
            tokens += [*encode(segment.text), TIMESTAMP_BEGIN + min(1500, (segment.end + 1) // 2 + offset)]
        return [*tokens, EOT]

    def _silence_tokens(self, timestamps: bool) -> tuple[list[int], list[list[tuple[int, float]]]]:
        """No speech: 50361 right after sot. A decoder that may not say so is left only <|0.00|> and the end."""
        if timestamps:
            # Weights above 1: these few tokens decide whether the model hallucinates.
            return [SOT, TIMESTAMP_BEGIN], [[(NO_SPEECH, 2.7), (TIMESTAMP_BEGIN, 0.3)], [(EOT, 3.0)]]
        return [SOT, NO_TIMESTAMPS], [[(NO_SPEECH, 3.0)], [(NO_SPEECH, 2.0), (EOT, 1.0)]]

    def _corrupt(self, rng: np.random.Generator, tokens: list[int]) -> list[int]:
        """Wrong words in the decoder's input now and then, so that it trusts the audio more than its own past."""
        ids = self.vocabulary.text_ids
        return [ids[int(rng.integers(len(ids)))] if t < EOT and rng.random() < 0.06 else t for t in tokens]

    # --- windows --------------------------------------------------------------------------------------------------

    def _with_prompt(self, rng: np.random.Generator, recipe: Recipe, tokens: list[int], targets: list) -> tuple:
        if rng.random() >= recipe.with_prompt:
            return tokens, targets
        prompt = self._prompt(rng, timestamps=bool(rng.random() < 0.6))
        return prompt + tokens, [[] for _ in prompt] + targets

    def window(self, rng: np.random.Generator, recipe: Recipe, frames: int) -> Window:
        room = FULL_WINDOW // 2 - frames // 2
        kind = rng.random()
        timestamps = bool(rng.random() < recipe.with_timestamps)
        if kind < recipe.no_speech:
            tokens, targets = self._with_prompt(rng, recipe, *self._silence_tokens(timestamps))
            no_teacher = np.full(frames // 2, -1, dtype=np.int64)
            return Window(log_mel(self._silence(rng, frames)), no_teacher, tokens, targets, [], 0)
        offset = 0 if timestamps and rng.random() < 0.75 else int(rng.integers(0, room + 1))
        segments = self._segments(rng, recipe, frames)
        if any(s.frames > frames for s in segments):  # only timestamps can say that the last utterance is not finished
            timestamps, offset = True, 0
        power, teacher = self._lay(rng, segments, frames)
        mel = self._mask(rng, log_mel(self._distort(rng, power, recipe.augment)), recipe.augment)
        tokens = self._speech_tokens(segments, frames, timestamps, offset)
        targets = self._targets(tokens)
        inputs, targets = self._with_prompt(rng, recipe, self._corrupt(rng, tokens[:-1]), targets)
        whole = [s.text for s in segments if s.frames <= frames]
        return Window(mel, teacher, inputs, targets, ctc_encode(" ".join(whole)), offset)

    def batch(self, step: int, recipe: Recipe) -> Batch:
        rng = np.random.default_rng([self.seed, step])
        frames = int(rng.choice(recipe.frames))
        windows = [self.window(rng, recipe, frames) for _ in range(max(1, recipe.frames_per_batch // frames))]
        return self._collate(windows)

    def _collate(self, windows: list[Window]) -> Batch:
        count, longest = len(windows), max(len(w.inputs) for w in windows)
        tokens = np.zeros((count, longest), dtype=np.int64)
        rows = np.zeros((count, longest, 2 * BLUR + 1), dtype=np.int64)
        weights = np.zeros((count, longest, 2 * BLUR + 1), dtype=np.float32)
        for b, window in enumerate(windows):
            tokens[b, : len(window.inputs)] = self.vocabulary.rows(window.inputs)
            for j, target in enumerate(window.targets):
                if target:
                    ids, shares = zip(*target)
                    rows[b, j, : len(ids)] = self.vocabulary.rows(list(ids))
                    weights[b, j, : len(ids)] = shares
        return Batch(
            mel=np.stack([w.mel.T for w in windows]),
            teacher=np.stack([w.teacher for w in windows]),
            tokens=tokens,
            target_rows=rows,
            target_weights=weights,
            ctc=[w.ctc for w in windows],
            first_position=np.array([w.first_position for w in windows]),
        )
