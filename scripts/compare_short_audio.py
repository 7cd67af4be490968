"""Short audio encoded as far as it goes, beside the same model's whole windows: docs/short-audio.md.

    pip install 'whisperq-edge[eval]'
    python scripts/compare_short_audio.py ggml-base-q8_0.bin --data ../shared/data --out base.jsonl --most 1000
    python scripts/compare_short_audio.py ggml-base-q8_0.bin --float ggml-base-f16.bin --data ../shared/data \
        --out base.jsonl --most 150

Each utterance is transcribed in both ways, one after the other. A line for each goes to the journal `--out`, so that a
run goes on where it was stopped; without models in it, the summary is of what the journal has. `--float` adds the whole
window of an unquantised model, for the share of texts that quantising alone changes.

`--spoken FOLDER` compares the languages that are detected in its files (`de-1.wav`), and no text.

Corpora: an4, speechocean762, LibriSpeech (train-clean-100: its words are not known, texts are only compared) and
speech-commands-9words. Words are normalised as openai/whisper does. Intervals are paired, 95 %, and by speaker in
brackets where speakers are known.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
from whisperq_edge import WhisperModel
from whisperq_edge._audio.pcm import to_pcm
from whisperq_edge._eval.normalise import normaliser
from whisperq_edge._eval.statistics import compare
from whisperq_edge._eval.words import score

CORPORA = ("an4", "speechocean762", "librispeech-train-clean-100", "speech-commands-9words")
WAYS: dict[str, dict[str, Any]] = {"whole": {"audio_ctx": 1500}, "short": {"audio_ctx": "auto"}}
LOOP = 2.4  # openai/whisper's threshold of the compression ratio


@dataclass(frozen=True)
class Utterance:
    corpus: str
    path: Path
    seconds: float
    speaker: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.corpus}/{self.path.name}"


def utterances(data: Path, most: int) -> Iterator[Utterance]:
    """The corpora in turn, so that a run which is stopped has some of each."""
    of_corpora = []
    for corpus in CORPORA:
        with open(data / corpus / "manifest.tsv", encoding="utf-8") as manifest:
            rows = list(csv.DictReader(manifest, delimiter="\t"))
        random.Random(17).shuffle(rows)
        share = most // 5 if corpus == "speech-commands-9words" else most
        of_corpora.append(
            [
                Utterance(corpus, data / corpus / row["file"], float(row["duration_s"]), row["speaker"], row["text"])
                for row in rows[:share]
            ]
        )
    for i in range(max(map(len, of_corpora))):
        for found in of_corpora:
            if i < len(found):
                yield found[i]


def heard(model: WhisperModel, samples: Any, beam_size: int, **options: Any) -> dict[str, Any]:
    began_s = time.perf_counter()
    transcript = model.transcribe(samples, language="en", beam_size=beam_size, **options)
    segments = transcript.segments
    return {
        "text": transcript.text,
        "seconds": round(time.perf_counter() - began_s, 4),
        "compression": max((segment.compression_ratio for segment in segments), default=0.0),
        "logprob": segments[0].avg_logprob if segments else None,
        "no_speech": segments[0].no_speech_prob if segments else None,
        "short": transcript.n_short_windows,
        "redone": transcript.n_redone_windows,
    }


def measure(args: argparse.Namespace, journal: dict[str, dict[str, Any]]) -> None:
    ways = dict.fromkeys(WAYS, WhisperModel(args.model, cpu_threads=args.threads))
    if args.float:
        ways["float"] = WhisperModel(args.float, cpu_threads=args.threads)
    with open(args.out, "a", encoding="utf-8") as out:
        for each in utterances(args.data, args.most):
            row = journal.setdefault(each.name, {"name": each.name, **asdict(each), "path": each.path.name})
            missing = [way for way in ways if way not in row]
            if not missing:
                continue
            samples = to_pcm(str(each.path)).samples
            for way in missing:
                row[way] = heard(ways[way], samples, args.beam_size, **WAYS.get(way, {"audio_ctx": 1500}))
            out.write(json.dumps(row) + "\n")
            out.flush()


def compare_languages(args: argparse.Namespace) -> None:
    files = sorted(args.spoken.glob("*.wav"))
    with WhisperModel(args.model, cpu_threads=args.threads) as model:
        found = {
            way: [model.transcribe(file, max_new_tokens=1, temperature=0.0, **options).language for file in files]
            for way, options in WAYS.items()
        }
    differing = [
        f"{file.name}: {whole}, {short}"
        for file, whole, short in zip(files, found["whole"], found["short"])
        if whole != short
    ]
    right = [sum(file.name.split("-")[0] == code for file, code in zip(files, found[way])) for way in WAYS]
    n_same = len(files) - len(differing)
    print(f"{len(files)} files: the same language in {n_same}; as named in {right[0]}, {right[1]}")
    print(*differing, sep="\n")


# ---- The summary -----------------------------------------------------------------------------------------------------


def print_summary(rows: Sequence[dict[str, Any]]) -> None:
    words = normaliser("english")
    for row in rows:
        for way in ("whole", "short", "float"):
            if way in row:
                row[way]["words"] = words(row[way]["text"])
    for corpus in (*CORPORA, None):
        of_corpus = [row for row in rows if corpus in (row["corpus"], None)]
        if of_corpus:
            print_rows(corpus or "all", of_corpus, words)
    for least, below in ((0, 2), (2, 5), (5, 10), (10, 30)):
        print_times(f"{least} to {below} s", [row for row in rows if least <= row["seconds"] < below])


def print_rows(name: str, rows: Sequence[dict[str, Any]], words: Any) -> None:
    n_same = sum(row["whole"]["words"] == row["short"]["words"] for row in rows)
    loops = [sum(row[way]["compression"] > LOOP for row in rows) for way in WAYS]
    new_loops = sum(row["short"]["compression"] > LOOP >= row["whole"]["compression"] for row in rows)
    print(
        f"{name}: {len(rows)} utterances; same text {100 * n_same / len(rows):.1f} %{_same_as_float(rows)};"
        f" loops {loops[0]}, {loops[1]} ({new_loops} new); short windows {sum(row['short']['short'] for row in rows)},"
        f" done again {sum(row['short']['redone'] for row in rows)}"
    )
    print_errors([row for row in rows if row["text"]], words)
    print_confidence(rows)


def _same_as_float(rows: Sequence[dict[str, Any]]) -> str:
    both = [row for row in rows if "float" in row]
    if not both:
        return ""
    share = 100 * sum(row["float"]["words"] == row["whole"]["words"] for row in both) / len(both)
    own = 100 * sum(row["short"]["words"] == row["whole"]["words"] for row in both) / len(both)
    return f" (of {len(both)}: {own:.1f} %, and {share:.1f} % of an unquantised model's whole windows)"


def print_errors(rows: Sequence[dict[str, Any]], words: Any) -> None:
    if not rows:
        return
    scores = {way: [score(words(row["text"]), row[way]["words"]) for row in rows] for way in WAYS}
    errors = {way: [each.substitutions + each.deletions + each.insertions for each in scores[way]] for way in WAYS}
    n_words = [each.words for each in scores["whole"]]
    found = compare(errors["short"], errors["whole"], n_words, [f"{row['corpus']} {row['speaker']}" for row in rows])
    by_speaker = found.speaker_interval
    brackets = f" [{100 * by_speaker.low:+.2f} to {100 * by_speaker.high:+.2f}]" if by_speaker else ""
    rates = [100 * sum(errors[way]) / sum(n_words) for way in WAYS]
    inserted = [sum(each.insertions for each in scores[way]) for way in WAYS]
    print(
        f"    WER {rates[0]:.2f} and {rates[1]:.2f} % of {sum(n_words)} words: {100 * found.rate:+.2f} points,"
        f" {100 * found.interval.low:+.2f} to {100 * found.interval.high:+.2f}{brackets};"
        f" inserted {inserted[0]}, {inserted[1]}"
    )


def print_confidence(rows: Sequence[dict[str, Any]]) -> None:
    """How log-probability and no-speech probability move where the text is the same."""
    same = [row for row in rows if row["whole"]["words"] == row["short"]["words"] and row["whole"]["words"]]
    for field in ("logprob", "no_speech"):
        moved = np.array([row["short"][field] - row["whole"][field] for row in same])
        if moved.size:
            print(
                f"    {field}: {moved.mean():+.3f} on average, 95 % within {np.quantile(moved, 0.025):+.3f} to"
                f" {np.quantile(moved, 0.975):+.3f} ({moved.size} equal texts)"
            )


def print_times(name: str, rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    ratios = [row["short"]["seconds"] / row["whole"]["seconds"] for row in rows]
    sums = [sum(row[way]["seconds"] for row in rows) for way in WAYS]
    print(
        f"{name}: {len(rows)} utterances; time x {sums[1] / sums[0]:.3f} in all, median of the ratios"
        f" {np.median(ratios):.3f}"
    )


def read_journal(path: Path) -> dict[str, dict[str, Any]]:
    """The last line of an utterance holds."""
    if not path.exists():
        return {}
    with open(path, encoding="utf-8") as lines:
        return {row["name"]: row for row in map(json.loads, lines)}


def main(arguments: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--float", help="the same model, not quantised")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--spoken", type=Path, help="a folder of files in several languages")
    parser.add_argument("--out", type=Path, default=Path("short-audio.jsonl"))
    parser.add_argument("--most", type=int, default=1000, help="utterances of a corpus; of commands a fifth")
    parser.add_argument("--beam-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args(arguments)
    if args.spoken:
        return compare_languages(args)
    journal = read_journal(args.out)
    if args.model:
        measure(args, journal)
    print_summary([row for row in journal.values() if all(way in row for way in WAYS)])


if __name__ == "__main__":
    main()
