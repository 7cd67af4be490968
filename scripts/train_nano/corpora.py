"""The corpora: where they lie, what is in them, and which utterances may be trained on."""

import argparse
import csv
import os
from dataclasses import dataclass
from pathlib import Path

SAMPLE_RATE = 16_000
REPOSITORY = Path(__file__).resolve().parents[2]
LABELLED = ("an4", "fsdd", "speechocean762", "speech-commands-9words", "speech-commands-30words")

# Cut from AN4's training speakers for choices made during training; the official test split is only ever measured.
AN4_DEV_SPEAKERS = frozenset({"fejs", "fsrb", "mcen", "mjda", "mrcb", "mtos"})


@dataclass(frozen=True)
class Utterance:
    corpus: str
    path: Path
    speaker: str
    split: str  # train, dev, test
    text: str  # lower case, words separated by single spaces; empty where there is no transcript


def add_data_options(parser: argparse.ArgumentParser) -> None:
    data = os.environ.get("NANO_DATA", REPOSITORY.parent / "shared" / "data")
    cache = os.environ.get("NANO_CACHE", REPOSITORY / "build" / "nano")
    parser.add_argument("--data", type=Path, default=Path(data), help="corpora (or $NANO_DATA)")
    parser.add_argument("--cache", type=Path, default=Path(cache), help="features, checkpoints (or $NANO_CACHE)")


def _split(corpus: str, row: dict) -> str:
    if corpus == "an4" and row["speaker"] in AN4_DEV_SPEAKERS:
        return "dev"
    return row["split"] if row["split"] in ("dev", "test") else "train"


def read_manifest(folder: Path) -> list[Utterance]:
    with open(folder / "manifest.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [
        Utterance(
            folder.name,
            folder / row["file"],
            row["speaker"],
            _split(folder.name, row),
            " ".join((row["text"] or "").lower().split()),
        )
        for row in rows
    ]


def read_noise(data: Path) -> list[Utterance]:
    return [Utterance("noise", path, "", "train", "") for path in sorted((data / "noise").glob("*.opus"))]


def read_all(data: Path, cache: Path) -> list[Utterance]:
    """Every utterance of every corpus in a fixed order; the caches are indexed by the position in this list."""
    utterances = [u for corpus in LABELLED for u in read_manifest(data / corpus)]
    return utterances + read_manifest(cache / "synthetic") + read_noise(data)
