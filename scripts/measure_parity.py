"""The edge engine beside openai/whisper (torch, float32, one thread) with the same weights: docs/parity.md.

    pip install openai-whisper
    python scripts/measure_parity.py --data ../shared/data                     every part; prints tables
    python scripts/measure_parity.py --data ../shared/data --parts long,language --n 5
    python scripts/measure_parity.py --data ../shared/data --parts random --presets base,base.en --n 40
    python scripts/measure_parity.py --golden                                  writes tests/data/parity/golden.json

Each side makes its own spectrogram of the same samples. Where tokens differ, openai/whisper's own search runs once more
over *our* logits. If it then finds our tokens, the rules are the same and the order of float additions has decided: the
case is counted as a tie when our logits are within ``TIE`` of openai/whisper's along the common tokens. All else is a
real difference.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
import numpy.typing as npt
import torch
import whisper
from whisper.decoding import DecodingOptions, DecodingTask
from whisperq_edge import WhisperModel, _core
from whisperq_edge._audio.pcm import to_pcm
from whisperq_edge._audio.window_mel import LoudestMel, WindowMel
from whisperq_edge._convert.convert import convert_model
from whisperq_edge._convert.readers.ggml import open_ggml
from whisperq_edge._convert.readers.rows import floats
from whisperq_edge._whisper.units import FRAMES_PER_WINDOW

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.make_model import write_nano_checkpoint, write_random_model  # noqa: E402
from tests.support.scripted_model import native_options  # noqa: E402

Floats = npt.NDArray[np.float32]

GOLDEN = ROOT / "tests" / "data" / "parity" / "golden.json"
TIE = 1e-3
WORD_TOLERANCE_S = 0.02
SAMPLES_PER_WINDOW = 480000

# Clips by corpus, of 200.
MIX = {
    "an4": 60,
    "librispeech-train-clean-100": 40,
    "speechocean762": 40,
    "fsdd": 20,
    "speech-commands-30words": 20,
    "speech-commands-9words": 10,
    "noise": 10,
}
PRESETS = "micro,micro.en,tiny,micro,micro.en,tiny.en"


# ---- Audio -----------------------------------------------------------------------------------------------------------


def choose_files(data: Path, n: int) -> list[Path]:
    """Files of every corpus in the shares of ``MIX``, spread evenly over each, one corpus after the other in turns."""
    chosen = []
    for corpus, share in MIX.items():
        files = _files_of(data / corpus)
        n_corpus = max(1, round(share * n / sum(MIX.values())))
        chosen += [((i + 0.5) / n_corpus, files[i * len(files) // n_corpus]) for i in range(n_corpus)]
    return [path for _, path in sorted(chosen, key=lambda entry: entry[0])][:n]


def _files_of(corpus: Path) -> list[Path]:
    manifest = corpus / "manifest.tsv"
    if not manifest.exists():
        return sorted(corpus.glob("*.opus"))
    with manifest.open(encoding="utf-8", newline="") as rows:
        return [corpus / row["file"] for row in csv.DictReader(rows, delimiter="\t")]


def join_long(data: Path, seed: int) -> Floats:
    """Two to four minutes of speech: clips in any order, at any level, with pauses of up to 3 s between them."""
    rng = np.random.RandomState(seed)
    wanted = rng.randint(120, 240) * 16000
    files = [path for path in choose_files(data, 200) if path.parent.name != "noise"]
    pieces: list[Floats] = []
    n_samples = 0
    while n_samples < wanted:
        clip = to_pcm(files[rng.randint(len(files))]).samples
        pieces += [clip * np.float32(rng.uniform(0.3, 1)), np.zeros(rng.randint(48000), np.float32)]
        n_samples += pieces[-1].size + pieces[-2].size
    return np.concatenate(pieces)


def with_noise(samples: Floats, seed: int) -> Floats:
    noise = np.random.RandomState(seed).standard_normal(samples.size).astype(np.float32)
    return samples + noise * np.float32(0.05)


# ---- The two models --------------------------------------------------------------------------------------------------


@dataclass
class Pair:
    """openai/whisper's model and ours with the same weights."""

    name: str
    path: Path
    openai: Any
    ours: _core.EdgeModel

    @classmethod
    def of(cls, name: str, path: Path) -> Pair:
        """From a ggml file of float32."""
        hparams = _core.read_model_file(path).hparams
        dims = whisper.model.ModelDimensions(
            **{key: hparams[key] for key in whisper.model.ModelDimensions.__dataclass_fields__}
        )
        made = whisper.model.Whisper(dims)
        weights = {t.name: floats(t).astype(np.float32).reshape(t.shape) for t in open_ggml(path).tensors}
        made.load_state_dict({key: torch.from_numpy(values) for key, values in weights.items()})
        return cls(name, path, made.eval(), _core.EdgeModel(os.fspath(path), "auto", 1))

    def listen(self, samples: Floats) -> _core.EdgeAudio:
        """The first window, from our spectrogram."""
        n_mels = self.openai.dims.n_mels
        loudest = LoudestMel(n_mels, n_threads=1)
        loudest.push(samples)
        loudest.finish()
        mel = WindowMel(samples, n_mels, loudest, n_threads=1)
        return self.listen_mel(mel.padded_window(0, min(mel.n_frames, FRAMES_PER_WINDOW)))

    def listen_mel(self, mel: Floats) -> _core.EdgeAudio:
        return self.ours.listen(self.ours.encode(mel, 1500))


def nano_pair(folder: Path) -> Pair:
    path = folder / "nano-f32.bin"
    if not path.exists():
        convert_model(write_nano_checkpoint(folder / "nano.en.pt"), path, type="f32", proof="tensors")
    return Pair.of("nano", path)


def random_pair(folder: Path, preset: str, seed: int) -> Pair:
    path = folder / f"{preset}-{seed}.bin"
    if not path.exists():
        write_random_model(path, preset, "f32", seed)
    return Pair.of(f"{preset} seed {seed}", path)


def their_mel(samples: Floats, n_mels: int) -> Any:
    """The first window, as ``transcribe()`` cuts it."""
    mel = whisper.audio.log_mel_spectrogram(samples, n_mels, padding=SAMPLES_PER_WINDOW)
    n_frames = min(mel.shape[-1] - FRAMES_PER_WINDOW, FRAMES_PER_WINDOW)
    return whisper.audio.pad_or_trim(mel[:, :n_frames], FRAMES_PER_WINDOW)


# ---- One window ------------------------------------------------------------------------------------------------------


@dataclass
class Difference:
    """Where two answers part.

    Attributes:
        step: the first token that differs, counted from 0 behind the prompt.
        tokens: (ours, openai/whisper's); -1 for the end of text.
        our_logits, their_logits: of these two tokens at this step, each side's.
        largest_gap: between the logits of the two sides, up to and with this step, over all tokens.
        is_rule_equal: openai/whisper's search over our logits finds our tokens.
    """

    case: str
    step: int
    tokens: tuple[int, int]
    our_logits: tuple[float, float]
    their_logits: tuple[float, float]
    largest_gap: float
    is_rule_equal: bool

    @property
    def is_tie(self) -> bool:
        return self.is_rule_equal and self.largest_gap <= TIE


class _OurLogits:
    """Stands in for openai/whisper's ``PyTorchInference``: its search, our logits."""

    def __init__(self, pair: Pair, audio: _core.EdgeAudio) -> None:
        self._pair = pair
        self._audio = audio
        self._is_first = True

    def logits(self, tokens: Any, audio_features: Any) -> Any:
        first = 0 if self._is_first else tokens.shape[1] - 1
        self._is_first = False
        return torch.from_numpy(np.stack([self._pair.ours.logits(self._audio, row, first) for row in tokens.tolist()]))

    def rearrange_kv_cache(self, source_indices: Any) -> None:
        pass

    def cleanup_caching(self) -> None:
        pass


def compare_window(
    pair: Pair, case: str, mel: Any, audio: _core.EdgeAudio, options: DecodingOptions
) -> Optional[Difference]:
    """Decodes openai/whisper's spectrogram there and ``audio`` here. None: the tokens are equal."""
    task = DecodingTask(pair.openai, options)
    features = pair.openai.encoder(mel[None])
    [theirs] = task.run(features)
    request = _core.WindowRequest(list(task.initial_tokens), task.sot_index)
    [ours] = _core.decode_windows(pair.ours, [audio], [request], native(task))[0]
    if ours.tokens == theirs.tokens:
        return None
    return _explain(pair, case, task, features, audio, ours.tokens, theirs.tokens)


def native(task: DecodingTask) -> _core.DecodeOptions:
    made = _core.DecodeOptions()
    for name, value in native_options(task).items():
        setattr(made, name, value)
    return made


def _explain(
    pair: Pair,
    case: str,
    task: DecodingTask,
    features: Any,
    audio: _core.EdgeAudio,
    ours: Sequence[int],
    theirs: Sequence[int],
) -> Difference:
    step = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    eot = task.tokenizer.eot
    pair_of_tokens = [tokens[step] if step < len(tokens) else eot for tokens in (ours, theirs)]
    forced = [*task.initial_tokens, *ours[:step]]
    our_rows = pair.ours.logits(audio, forced, 0)
    with torch.no_grad():
        their_rows = pair.openai.decoder(torch.tensor([forced]), features)[0].numpy()
    again = DecodingTask(pair.openai, task.options)
    again.inference = again.decoder.inference = _OurLogits(pair, audio)
    return Difference(
        case,
        step,
        (pair_of_tokens[0] if pair_of_tokens[0] != eot else -1, pair_of_tokens[1] if pair_of_tokens[1] != eot else -1),
        (float(our_rows[-1, pair_of_tokens[0]]), float(our_rows[-1, pair_of_tokens[1]])),
        (float(their_rows[-1, pair_of_tokens[0]]), float(their_rows[-1, pair_of_tokens[1]])),
        float(np.abs(our_rows - their_rows).max()),
        again.run(features)[0].tokens == list(ours),
    )


@dataclass
class Tally:
    """Cases of one kind, and the differences among them."""

    name: str
    n: int = 0
    differences: list[Difference] = field(default_factory=list)

    def add(self, difference: Optional[Difference]) -> None:
        self.n += 1
        if difference is not None:
            self.differences.append(difference)

    @property
    def n_ties(self) -> int:
        return sum(difference.is_tie for difference in self.differences)

    def row(self) -> str:
        n_different = len(self.differences)
        return f"| {self.name} | {self.n} | {self.n - n_different} | {self.n_ties} | {n_different - self.n_ties} |"


def show(tallies: Sequence[Tally]) -> None:
    print("\n| cases | n | equal | ties | other |\n|---|---|---|---|---|")
    for tally in tallies:
        print(tally.row())
    for tally in tallies:
        for difference in tally.differences:
            print(json.dumps({**asdict(difference), "is_tie": difference.is_tie}))
    sys.stdout.flush()


# ---- (a) real clips, (b) random weights ------------------------------------------------------------------------------


def measure_clips(data: Path, folder: Path, n: int) -> list[Tally]:
    """nano on the first 30 s of real clips."""
    pair = nano_pair(folder)
    tallies = [Tally("nano, greedy"), Tally("nano, 5 beams")]
    for path in choose_files(data, n):
        samples = to_pcm(path).samples
        mel, audio = their_mel(samples, 80), pair.listen(samples)
        for tally, beam_size in zip(tallies, (None, 5)):
            options = DecodingOptions(language="en", fp16=False, beam_size=beam_size)
            tally.add(compare_window(pair, f"{path.parent.name}/{path.name} {tally.name}", mel, audio, options))
    return tallies


def random_options(i: int, n_vocab: int) -> dict[str, Any]:
    """Options that walk through the rules. Random weights rarely end a text, so it is cut."""
    rng = np.random.RandomState(i)
    is_multilingual = n_vocab >= 51865
    return {
        "language": ["en", "de", "ja"][i % 3] if is_multilingual else "en",
        "task": "translate" if is_multilingual and i % 4 == 1 else "transcribe",
        "prompt": rng.randint(0, 50000, rng.randint(1, 60)).tolist() if i % 3 == 1 else None,
        "without_timestamps": i % 5 == 4,
        "suppress_blank": i % 7 != 6,
        "max_initial_timestamp": [1.0, None, 0.3][i % 3],
        "sample_len": [12, 24, 48][i % 3],
        "fp16": False,
    }


def measure_random(data: Path, folder: Path, n: int, presets: Sequence[str]) -> list[Tally]:
    """Random weights on real clips, every second one with noise: greedy and 5 beams."""
    tallies = [Tally("random weights, greedy"), Tally("random weights, 5 beams")]
    files = choose_files(data, 200)
    n_each = 5  # cases with one set of weights
    for i in range(n):
        if i % n_each == 0:
            preset, seed = presets[i // n_each % len(presets)], i // n_each
            pair = random_pair(folder, preset, seed)
        samples = to_pcm(files[i % len(files)]).samples
        samples = with_noise(samples, i) if i % 2 else samples
        mel, audio = their_mel(samples, 80), pair.listen(samples)
        given = random_options(i, pair.openai.dims.n_vocab)
        for tally, beam_size in zip(tallies, (None, 5)):
            patience = [None, 2.0][i % 2] if beam_size else None
            penalty = [None, 0.6][i // 2 % 2]
            options = DecodingOptions(**given, beam_size=beam_size, patience=patience, length_penalty=penalty)
            tally.add(compare_window(pair, f"{pair.name} case {i} {tally.name}", mel, audio, options))
        if i % n_each == n_each - 1:
            pair.path.unlink()
    return tallies


# ---- (c) long audio --------------------------------------------------------------------------------------------------


@dataclass
class LongResult:
    """One long file, ours and openai/whisper's. ``n_near``: words that begin and end within 20 ms of theirs."""

    name: str
    duration_s: float
    n_segments: int
    is_equal: bool
    n_words: int
    n_near: int
    first: str = ""
    difference: Optional[Difference] = None


def measure_long(data: Path, folder: Path, n: int) -> list[LongResult]:
    """``transcribe()`` with word times at temperature 0, of nano, every fourth file with 5 beams."""
    pair = nano_pair(folder)
    results = []
    for seed in range(n):
        beam_size = 5 if seed % 4 == 3 else 1
        results.append(compare_long(pair, f"file {seed}, {beam_size} beams", join_long(data, seed), beam_size))
        print(results[-1], flush=True)
    return results


def compare_long(pair: Pair, name: str, samples: Floats, beam_size: int = 1, **options: Any) -> LongResult:
    """Segments (seek, times, text, tokens) of the two; the first difference in words, and its reason."""
    windows: list[tuple[Any, Any, Any]] = []
    recorded = _recording(pair.openai, windows)
    given = {"temperature": 0.0, "word_timestamps": True, "condition_on_previous_text": True}
    theirs = recorded.transcribe(
        samples,
        fp16=False,
        beam_size=beam_size if beam_size > 1 else None,
        sample_len=options.get("max_new_tokens"),
        **given,
    )["segments"]
    del pair.openai.decode
    heard: list[tuple[Any, Any, Any]] = []
    with WhisperModel(pair.path, engine="edge", cpu_threads=1) as model:
        _record(model, heard)
        ours = model.transcribe(
            samples, beam_size=beam_size, drop_silence=False, language=options.pop("language", None), **given, **options
        ).segments
    mine = [(s.seek, s.start, s.end, s.text, list(s.tokens)) for s in ours]
    other = [(s["seek"], s["start"], s["end"], s["text"], list(s["tokens"])) for s in theirs]
    result = LongResult(name, samples.size / 16000, len(other), mine == other, 0, 0)
    for a, b in zip(ours, theirs):
        if a.text == b["text"]:
            for word, raw in zip(a.words or (), b["words"]):
                result.n_words += 1
                near = max(abs(word.start - raw["start"]), abs(word.end - raw["end"])) <= WORD_TOLERANCE_S + 1e-6
                result.n_near += int(word.word == raw["word"] and near)
    if mine != other:
        i = next((i for i, (a, b) in enumerate(zip(mine, other)) if a != b), min(len(mine), len(other)))
        result.first = f"segment {i}: ours {mine[i : i + 1]}, openai/whisper's {other[i : i + 1]}"
        result.difference = _first_window(pair, name, windows, heard)
    return result


def _recording(model: Any, windows: list[tuple[Any, Any, Any]]) -> Any:
    decode = type(model).decode

    def recorded(mel: Any, options: DecodingOptions) -> Any:
        answer = decode(model, mel, options)
        windows.append((mel, options, answer))
        return answer

    model.decode = recorded
    return model


def _record(model: WhisperModel, heard: list[tuple[Any, Any, Any]]) -> None:
    native_model: Any = model._running_engine()._native  # type: ignore[union-attr]
    decode = native_model.decode_windows

    def recorded(audios: Any, requests: Any, options: Any, should_stop: Any) -> Any:
        answer = decode(audios, requests, options, should_stop)
        heard.extend(zip(audios, requests, answer[0]))
        return answer

    native_model.decode_windows = recorded


def _first_window(
    pair: Pair, name: str, windows: Sequence[tuple[Any, Any, Any]], heard: Sequence[tuple[Any, Any, Any]]
) -> Optional[Difference]:
    """The first window whose tokens differ though its prompt does not. None: only times do."""
    for i, ((mel, options, theirs), (audio, request, ours)) in enumerate(zip(windows, heard)):
        task = DecodingTask(pair.openai, options)
        if list(task.initial_tokens) != list(request.tokens):
            print(f"{name}: window {i}: prompts differ, {task.initial_tokens} and {request.tokens}")
            return None
        if list(ours.tokens) != list(theirs.tokens):
            with torch.no_grad():
                features = pair.openai.encoder(mel[None])
            return _explain(pair, f"{name}, window {i}", task, features, audio, ours.tokens, theirs.tokens)
    return None


# ---- (d) languages ---------------------------------------------------------------------------------------------------


def measure_languages(data: Path, folder: Path, n: int) -> tuple[int, int, float]:
    """How often both detect the same language, of how many; and the largest difference of a probability."""
    n_equal, largest = 0, 0.0
    for i, path in enumerate(choose_files(data, n)):
        if i % 10 == 0:
            pair = random_pair(folder, ("micro", "tiny")[i // 10 % 2], 100 + i)
            model = WhisperModel(pair.path, engine="edge", cpu_threads=1)
        samples = to_pcm(path).samples
        mel = whisper.audio.log_mel_spectrogram(samples, 80, padding=SAMPLES_PER_WINDOW)
        _, probabilities = whisper.detect_language(pair.openai, whisper.pad_or_trim(mel, FRAMES_PER_WINDOW))
        rankings: list[list[tuple[str, float]]] = []
        model._transcribe(
            samples,
            {"max_new_tokens": 1, "beam_size": 1, "temperature": 0.0, "drop_silence": False},
            on_start=lambda ranking, _, into=rankings: into.append(ranking),
        )
        n_equal += rankings[0][0][0] == max(probabilities, key=probabilities.get)
        largest = max(largest, *(abs(p - probabilities[code]) for code, p in rankings[0]))
    return n_equal, n, largest


# ---- Golden data -----------------------------------------------------------------------------------------------------


def golden_audio() -> Iterator[tuple[str, Floats]]:
    """Made from the bundled sample, so that nothing else is needed."""
    sample = to_pcm(ROOT / "python" / "whisperq_edge" / "assets" / "sample.flac").samples
    yield "sample", sample
    yield "faster", np.ascontiguousarray(sample[:-1:2] + sample[1::2]) * np.float32(0.5)
    yield "backwards", np.ascontiguousarray(sample[::-1])
    yield "noisy", with_noise(sample, 3)
    pauses = [np.zeros(n * 8000, np.float32) for n in (1, 5, 0, 3, 2)]
    yield "long", np.concatenate([x for i, p in enumerate(pauses) for x in (sample * np.float32(0.4 + 0.1 * i), p)])


GOLDEN_RANDOM = (("micro", 1), ("micro.en", 2))


def golden() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        nano = nano_pair(Path(folder))
        randoms = [random_pair(Path(folder), *which) for which in GOLDEN_RANDOM]
        cases: dict[str, Any] = {"nano": {}, "random": {}}
        for name, samples in golden_audio():
            cases["nano"][name] = _golden_of_nano(nano.openai, samples)
            for pair, which in zip(randoms, GOLDEN_RANDOM):
                cases["random"][f"{which[0]} {which[1]} {name}"] = _golden_of_random(pair.openai, samples)
    return cases


def _golden_of_nano(model: Any, samples: Floats) -> list[dict[str, Any]]:
    segments = []
    for beam_size in (None, 5):
        found = model.transcribe(samples, temperature=0.0, word_timestamps=True, fp16=False, beam_size=beam_size)
        segments.append(
            [
                {
                    **{key: s[key] for key in ("seek", "start", "end", "text", "tokens")},
                    "words": [[w["word"], float(w["start"]), float(w["end"])] for w in s["words"]],
                }
                for s in found["segments"]
            ]
        )
    return [{"beam_size": size, "segments": found} for size, found in zip((1, 5), segments)]


def _golden_of_random(model: Any, samples: Floats) -> dict[str, Any]:
    mel = their_mel(samples, model.dims.n_mels)
    tokens = {
        str(beam_size): model.decode(
            mel, DecodingOptions(language="en", fp16=False, beam_size=beam_size or None, sample_len=16)
        ).tokens
        for beam_size in (0, 5)
    }
    if not model.is_multilingual:
        return {"tokens": tokens}
    whole = whisper.audio.log_mel_spectrogram(samples, model.dims.n_mels, padding=SAMPLES_PER_WINDOW)
    _, probabilities = whisper.detect_language(model, whisper.pad_or_trim(whole, FRAMES_PER_WINDOW))
    code = max(probabilities, key=probabilities.get)
    return {"tokens": tokens, "language": code, "language_probability": probabilities[code]}


# ---- Main ------------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder with the corpora")
    parser.add_argument("--parts", default="clips,random,long,language")
    parser.add_argument("--n", type=int, help="cases of each part instead of 200, 200, 20 and 50")
    parser.add_argument("--presets", default=PRESETS, help="shapes of the random part, of tests/support/make_model.py")
    parser.add_argument("--golden", action="store_true", help="write tests/data/parity/golden.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if given.golden:
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(json.dumps(golden(), ensure_ascii=False) + "\n", encoding="utf-8")
        return
    if given.data is None:
        parser.error("--data is needed, the folder with the corpora")
    parts = given.parts.split(",")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "clips" in parts:
            show(measure_clips(given.data, folder, given.n or 200))
        if "random" in parts:
            show(measure_random(given.data, folder, given.n or 200, given.presets.split(",")))
        if "long" in parts:
            show_long(measure_long(given.data, folder, given.n or 20))
        if "language" in parts:
            n_equal, n, largest = measure_languages(given.data, folder, given.n or 50)
            print(f"language: {n_equal} of {n} equal, probabilities within {largest:.2g}")


def show_long(results: Sequence[LongResult]) -> None:
    n_words, n_near = sum(r.n_words for r in results), sum(r.n_near for r in results)
    print(f"\n{len(results)} files, {sum(r.duration_s for r in results) / 60:.1f} min,", end=" ")
    print(f"{sum(r.n_segments for r in results)} segments; {sum(r.is_equal for r in results)} files equal")
    print(f"words within 20 ms: {n_near} of {n_words} ({100 * n_near / max(n_words, 1):.2f} %)")
    for result in results:
        if not result.is_equal:
            print(result.name, result.first, result.difference and asdict(result.difference))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
