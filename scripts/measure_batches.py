"""Text of long files in batches beside the same model's text window by window: docs/benchmarks.md, "Batches".

    pip install 'whisperq-edge[eval]'
    python scripts/measure_batches.py ggml-base-q8_0.bin --data ../shared/data
    python scripts/measure_batches.py ggml-base-q8_0.bin --data ../shared/data --files 4 --modes timestamps-1

Each file is made of utterances of one corpus. Those of LibriSpeech are joined without a pause, since pauses would end
windows where segments end, and hide what batches lose. Those of speechocean762 have pauses of 0.6 s. Words are
normalised as openai/whisper does. Modes "alone" are no batches: they are the sequential loop without the text before,
which a batch does not have either. "Runs" are places where the batch lacks three or more words in a row that the
sequential text has. "WER" is against what was said, where the corpus tells.
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
from typing import Any

import jiwer
import numpy as np
import numpy.typing as npt
from whisperq_edge import Transcript, WhisperModel
from whisperq_edge._audio.pcm import to_pcm
from whisperq_edge._eval.normalise import normaliser
from whisperq_edge._whisper.units import SAMPLE_RATE

Floats = npt.NDArray[np.float32]

MODES: dict[str, dict[str, Any]] = {
    "timestamps-1": {"beam_size": 1},
    "text-1": {"beam_size": 1, "without_timestamps": True},
    "timestamps-5": {"beam_size": 5},
    "text-5": {"beam_size": 5, "without_timestamps": True},
    # The sequential loop itself, without the text before: what a batch can be expected to reach.
    "alone-1": {"beam_size": 1, "batch_size": None, "condition_on_previous_text": False},
    "alone-5": {"beam_size": 5, "batch_size": None, "condition_on_previous_text": False},
}
PAUSES_S = {"librispeech-train-clean-100": 0.0, "speechocean762": 0.6}
CORPORA = tuple(PAUSES_S)
MINUTES = (3.0, 4.0, 5.0, 6.5, 10.0)


@dataclass
class Row:
    """Words of one file in one mode, the batch against the sequential text, and both against what was said."""

    file: str
    mode: str
    words: int
    batch_words: int
    substitutions: int
    deletions: int
    insertions: int
    runs: list[str]
    said_words: int
    sequential_errors: int
    batch_errors: int
    sequential_s: float
    batch_s: float
    sequential_windows: int
    batch_windows: int


def trimmed(samples: Floats) -> Floats:
    """The utterance without the silence around it: blocks of 10 ms less than 35 dB below the loudest."""
    blocks = samples[: samples.size // 160 * 160].reshape(-1, 160)
    levels = np.sqrt((blocks.astype(np.float64) ** 2).mean(axis=1))
    loud = np.flatnonzero(levels > levels.max() * 10 ** (-35 / 20))
    return samples[loud[0] * 160 : (loud[-1] + 1) * 160]


def long_files(data: Path, n_files: int) -> Iterator[tuple[str, Floats, str]]:
    """Name, samples and text of files of ``MINUTES`` in turn, the corpora in turn; the same ones every time."""
    draw = random.Random(7)
    names = {}
    for corpus in CORPORA:
        with (data / corpus / "manifest.tsv").open(encoding="utf-8") as manifest:
            names[corpus] = list(csv.DictReader(manifest, delimiter="\t"))
        draw.shuffle(names[corpus])
    for i in range(n_files):
        corpus, minutes = CORPORA[i % len(CORPORA)], MINUTES[i // len(CORPORA) % len(MINUTES)]
        parts: list[Floats] = []
        texts: list[str] = []
        while sum(part.size for part in parts) < minutes * 60 * SAMPLE_RATE:
            utterance = names[corpus].pop()
            parts.append(trimmed(to_pcm(data / corpus / utterance["file"]).samples))
            parts.append(np.zeros(round(PAUSES_S[corpus] * SAMPLE_RATE), np.float32))
            texts.append(utterance["text"])
        yield f"{corpus} {minutes:g} min", np.concatenate(parts), " ".join(texts).strip()


def errors_in(heard: str, said: str) -> int:
    output = jiwer.process_words(said, heard)
    return int(output.substitutions + output.deletions + output.insertions)


@dataclass(frozen=True)
class Timed:
    transcript: Transcript
    seconds: float


def timed(model: WhisperModel, samples: Floats, **options: Any) -> Timed:
    began_s = time.perf_counter()
    transcript = model.transcribe(samples, language="en", **options)
    return Timed(transcript, time.perf_counter() - began_s)


def compared(name: str, mode: str, alone_timed: Timed, batch_timed: Timed, said_text: str, words: Any) -> Row:
    alone, batch = alone_timed.transcript, batch_timed.transcript
    reference, heard, truth = words(alone.text), words(batch.text), words(said_text)
    output = jiwer.process_words(reference, heard)
    said = output.references[0]
    runs = [
        " ".join(said[chunk.ref_start_idx : chunk.ref_end_idx])
        for chunk in output.alignments[0]
        if chunk.type == "delete" and chunk.ref_end_idx - chunk.ref_start_idx >= 3
    ]
    return Row(
        name,
        mode,
        len(reference.split()),
        len(heard.split()),
        output.substitutions,
        output.deletions,
        output.insertions,
        runs,
        len(truth.split()),
        errors_in(reference, truth) if truth else 0,
        errors_in(heard, truth) if truth else 0,
        alone_timed.seconds,
        batch_timed.seconds,
        alone.timings["encode"].runs,
        batch.timings["encode"].runs,
    )


def print_row(row: Row) -> None:
    wer = ""
    if row.said_words:
        wer = (
            f"  WER {100 * row.sequential_errors / row.said_words:.2f} {100 * row.batch_errors / row.said_words:.2f} %"
        )
    print(
        f"{row.file:36} {row.mode:13} words {row.words:5} {row.batch_words:5}"
        f"  sub {row.substitutions:3} del {row.deletions:3} ins {row.insertions:3}  runs {len(row.runs)}{wer}"
        f"  windows {row.sequential_windows:3} {row.batch_windows:3}  time x {row.batch_s / row.sequential_s:.2f}",
        flush=True,
    )
    for run in row.runs:
        print(f"    lost: {run}", flush=True)


def print_total(mode: str, rows: Sequence[Row]) -> None:
    n_words, n_said = sum(row.words for row in rows), max(sum(row.said_words for row in rows), 1)
    differing = sum(row.substitutions + row.deletions + row.insertions for row in rows)
    print(
        f"{mode}: {100 * differing / n_words:.2f} % of {n_words} words differ,"
        f" {sum(len(row.runs) for row in rows)} runs;"
        f" WER {100 * sum(row.sequential_errors for row in rows) / n_said:.2f} and"
        f" {100 * sum(row.batch_errors for row in rows) / n_said:.2f} % of {n_said} words;"
        f" time x {sum(row.batch_s for row in rows) / sum(row.sequential_s for row in rows):.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--files", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    words = normaliser("english")
    rows: list[Row] = []
    for path in arguments.models:
        with WhisperModel(path) as model:
            print(path)
            files = list(long_files(arguments.data, arguments.files))[arguments.first :]
            mine: list[Row] = []
            for name, samples, said in files:
                sequential: dict[int, Timed] = {}
                for mode in arguments.modes.split(","):
                    # The reference has timestamps always: without them, the sequential loop goes on amid words.
                    n_beams = MODES[mode]["beam_size"]
                    if n_beams not in sequential:
                        sequential[n_beams] = timed(model, samples, beam_size=n_beams)
                    batch = timed(model, samples, **{"batch_size": arguments.batch_size, **MODES[mode]})
                    mine.append(compared(name, mode, sequential[n_beams], batch, said, words))
                    print_row(mine[-1])
            for mode in arguments.modes.split(","):
                print_total(mode, [row for row in mine if row.mode == mode])
            rows += mine
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
