"""Measures a model: word error rates with intervals, and whether it stays silent where nobody speaks.

    python -m train_nano.evaluate python/whisperq_edge/assets/ggml-nano.en.bin
    whisperq-edge convert nano --to openai -o nano.en.pt
    python -m train_nano.evaluate --backend openai nano.en.pt

Every backend transcribes whole recordings along its default path: greedy, with timestamps, 30 s windows.
"""

import argparse
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import soxr

from .corpora import REPOSITORY, SAMPLE_RATE, add_data_options, read_manifest, read_noise
from .mel_cache import load_audio, read_audio

Transcriber = Callable[[np.ndarray], str]
RESAMPLES = 10_000
DIGIT_STRINGS, DIGITS_PER_STRING = 60, 5


@dataclass(frozen=True)
class Clip:
    name: str
    pcm: np.ndarray
    text: str


# --- backends -----------------------------------------------------------------------------------------------------


def whisperq_edge_backend(path: Path, timestamps: bool, beam_size: int) -> Transcriber:
    import whisperq_edge

    model = whisperq_edge.WhisperModel(path)
    return lambda pcm: model.transcribe(pcm, beam_size=beam_size, without_timestamps=not timestamps).text


def pywhispercpp_backend(path: Path, timestamps: bool, beam_size: int) -> Transcriber:
    from pywhispercpp.model import Model

    options: dict = {"beam_search": {"beam_size": beam_size, "patience": -1.0}} if beam_size > 1 else {}
    model = Model(
        str(path),
        params_sampling_strategy=int(beam_size > 1),
        redirect_whispercpp_logs_to=None,
        print_progress=False,
        no_timestamps=not timestamps,
        **options,
    )
    return lambda pcm: " ".join(segment.text for segment in model.transcribe(pcm))


def openai_backend(path: Path, timestamps: bool, beam_size: int) -> Transcriber:
    import whisper

    model = whisper.load_model(str(path), device="cpu")
    options: dict = {"fp16": False, "without_timestamps": not timestamps}
    if beam_size > 1:
        options["beam_size"] = beam_size
    return lambda pcm: model.transcribe(pcm, **options)["text"]


BACKENDS = {"whisperq_edge": whisperq_edge_backend, "pywhispercpp": pywhispercpp_backend, "openai": openai_backend}


def default_backend() -> str:
    return "whisperq_edge" if importlib.util.find_spec("whisperq_edge") else "pywhispercpp"


# --- what is measured ---------------------------------------------------------------------------------------------


def corpus_clips(data: Path, corpus: str, split: str) -> list[Clip]:
    chosen = [u for u in read_manifest(data / corpus) if u.split == split]
    return [Clip(u.path.name, load_audio(u.path), u.text) for u in chosen]


def digit_strings(data: Path) -> list[Clip]:
    """Strings of test digits: one speaker each, 0.15 to 0.3 s between the recordings. The same strings every time."""
    rng = np.random.default_rng(0)
    digits = [u for u in read_manifest(data / "fsdd") if u.split == "test"]
    speakers = sorted({u.speaker for u in digits})
    clips = []
    for n in range(DIGIT_STRINGS):
        pool = [u for u in digits if u.speaker == speakers[n % len(speakers)]]
        chosen = [pool[i] for i in rng.choice(len(pool), DIGITS_PER_STRING, replace=False)]
        pieces = []
        for u in chosen:
            pcm, rate = read_audio(u.path)
            pieces += [np.zeros(int(rate * rng.uniform(0.15, 0.3)), np.float32), pcm]
        pcm = soxr.resample(np.concatenate(pieces), rate, SAMPLE_RATE)
        clips.append(Clip(f"digits-{n}", pcm.astype(np.float32), " ".join(u.text for u in chosen)))
    return clips


def silent_clips(data: Path) -> list[Clip]:
    rng = np.random.default_rng(0)
    clips = [Clip(f"digital-silence-{s}s", np.zeros(s * SAMPLE_RATE, np.float32), "") for s in (1, 5, 30)]
    for level_db in (-70, -50, -30):
        noise = rng.standard_normal(5 * SAMPLE_RATE) * 10 ** (level_db / 20)
        clips.append(Clip(f"white-noise{level_db}dB", noise.astype(np.float32), ""))
    return clips + [Clip(u.path.name, load_audio(u.path), "") for u in read_noise(data)]


def sample_clip() -> list[Clip]:
    assets = REPOSITORY / "python" / "whisperq_edge" / "assets"
    return [Clip("sample.flac", load_audio(assets / "sample.flac"), (assets / "sample.txt").read_text().strip())]


# --- figures ------------------------------------------------------------------------------------------------------


def normalise(text: str) -> str:
    return " ".join(re.sub(r"[^a-z' ]+", " ", text.lower()).split())


def bootstrap(errors: np.ndarray, words: np.ndarray) -> tuple[float, float]:
    """95 % interval of the word error rate over resampled utterances."""
    picks = np.random.default_rng(0).integers(len(errors), size=(RESAMPLES, len(errors)))
    rates = errors[picks].sum(axis=1) / words[picks].sum(axis=1)
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def word_error_rate(name: str, clips: list[Clip], transcribe: Transcriber, verbose: bool) -> None:
    errors, words = [], []
    for clip in clips:
        heard = normalise(transcribe(clip.pcm))
        measure = jiwer.process_words(clip.text, heard)
        errors.append(measure.substitutions + measure.deletions + measure.insertions)
        words.append(len(clip.text.split()))
        if verbose and errors[-1]:
            print(f"  {clip.name}: {clip.text} -> {heard}")
    low, high = bootstrap(np.array(errors), np.array(words))
    rate = sum(errors) / sum(words)
    print(f"{name}: WER {rate:.1%} [{low:.1%}, {high:.1%}], {sum(errors)} of {sum(words)} words, {len(clips)} clips")


def hallucinations(clips: list[Clip], transcribe: Transcriber) -> None:
    loud = [(clip.name, text) for clip in clips if (text := normalise(transcribe(clip.pcm)))]
    for name, text in loud:
        print(f"  {name}: {text}")
    print(f"silence and noise: {len(loud)} of {len(clips)} clips give text")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("model", type=Path)
    parser.add_argument("--backend", choices=BACKENDS, default=default_backend())
    parser.add_argument("--without-timestamps", action="store_true")
    parser.add_argument("--beam-size", type=int, default=1)
    parser.add_argument("--dev", action="store_true", help="the development split only; leaves the test data alone")
    parser.add_argument("--verbose", action="store_true", help="print every wrong transcript")
    options = parser.parse_args()
    transcribe = BACKENDS[options.backend](options.model, not options.without_timestamps, options.beam_size)
    path = "without timestamps" if options.without_timestamps else "with timestamps"
    print(f"{options.model.name}, {options.backend}, beam {options.beam_size}, {path}")
    if options.dev:
        word_error_rate("an4 dev", corpus_clips(options.data, "an4", "dev"), transcribe, options.verbose)
    else:
        word_error_rate("an4 test", corpus_clips(options.data, "an4", "test"), transcribe, options.verbose)
        word_error_rate("fsdd test, joined", digit_strings(options.data), transcribe, options.verbose)
        word_error_rate("sample clip", sample_clip(), transcribe, verbose=True)
    hallucinations(silent_clips(options.data), transcribe)


if __name__ == "__main__":
    main()
