"""What the bundled model owes its users, on speech that it was not trained on; docs/nano.md has the figures."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import WhisperModel
from whisperq_edge._audio.pcm import to_pcm

pytestmark = pytest.mark.data

T = TypeVar("T")

QUICK = {"beam_size": 1}


def share(nano: WhisperModel, clips: Sequence[T]) -> Sequence[T]:
    """All clips on our engine, which is the one that runs this model by default. On ggml every fourth: it takes four
    times as long, and says the same of the model."""
    return clips[::4] if nano.engine == "ggml" else clips


class Utterance(NamedTuple):
    path: Path
    speaker: str
    text: str


def utterances(corpus: Path, split: str) -> Iterator[Utterance]:
    with (corpus / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["split"] == split:
                yield Utterance(corpus / row["file"], row["speaker"], row["text"].lower())


def word_error_rate(pairs: list[tuple[str, str]]) -> float:
    jiwer = pytest.importorskip("jiwer")
    said, heard = zip(*((said, " ".join(re.findall(r"[a-z']+", heard.lower()))) for said, heard in pairs))
    return float(jiwer.wer(list(said), list(heard)))


def test_an4(nano: WhisperModel, speech_data: Path) -> None:
    test = list(utterances(speech_data / "an4", "test"))
    assert len(test) == 130
    pairs = [(each.text, nano.transcribe(each.path, **QUICK).text) for each in share(nano, test)]
    assert word_error_rate(pairs) <= 0.25


def digit_string(pool: list[Utterance], rng: np.random.Generator) -> tuple[str, npt.NDArray[np.float32]]:
    """Five digits of one speaker with 0.2 s between them."""
    chosen = [pool[i] for i in rng.choice(len(pool), 5, replace=False)]
    pause = np.zeros(3200, np.float32)
    pieces = [piece for each in chosen for piece in (pause, to_pcm(each.path).samples)]
    return " ".join(each.text for each in chosen), np.concatenate([*pieces, pause])


def test_joined_digits(nano: WhisperModel, speech_data: Path) -> None:
    rng = np.random.default_rng(11)
    digits = list(utterances(speech_data / "fsdd", "test"))
    speakers = sorted({each.speaker for each in digits})
    strings = []
    for i in range(48):
        pool = [each for each in digits if each.speaker == speakers[i % len(speakers)]]
        strings.append(digit_string(pool, rng))
    pairs = [(text, nano.transcribe(samples, **QUICK).text) for text, samples in share(nano, strings)]
    assert word_error_rate(pairs) <= 0.08


def test_noise_has_no_text(nano: WhisperModel, speech_data: Path) -> None:
    clips = sorted((speech_data / "noise").glob("*.opus"))
    assert len(clips) == 50
    assert {clip.name: text for clip in share(nano, clips) if (text := nano.transcribe(clip, **QUICK).text)} == {}
