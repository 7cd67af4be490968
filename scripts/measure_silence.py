"""How often a model gives text where nobody speaks, and what the check of its text costs where somebody does.

    python scripts/measure_silence.py wordless DATA MODEL OUT.jsonl     decode clips without words, once
    python scripts/measure_silence.py speech DATA MODEL OUT.jsonl       decode speech that the check might drop
    python scripts/measure_silence.py score FILE.jsonl ...              the tables of docs/silence.md

DATA is a folder of corpora, each with a ``manifest.tsv`` (file, duration_s, speaker, split, text). All is decoded with
``drop_silence=False`` and written with what the check goes by, so that rules are compared without decoding again.
``score`` applies the check of ``whisperq_edge._engines.evidence`` to what was written. ``wordless --checked`` decodes
with the check, as by default.

Speech is decoded only where the check could drop it, because elsewhere text with and without the check is the same.
Both commands go on where the file ends. ``sox`` makes some of the sounds.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
import numpy.typing as npt
from whisperq_edge import WhisperModel
from whisperq_edge._audio.pcm import to_pcm
from whisperq_edge._audio.silence import SilenceScan
from whisperq_edge._audio.speech import speech_stream
from whisperq_edge._engines.evidence import ENOUGH, loud_windows_of_speech, why_not_believed, windows_of_speech
from whisperq_edge._eval.normalise import normaliser
from whisperq_edge._eval.statistics import bootstrap_rate, rate_interval
from whisperq_edge._eval.words import score as word_score

Floats = npt.NDArray[np.float32]
RATE = 16_000
CONDITIONS = ("clean", "-40 dB", "white 0 dB", "noise 0 dB", "below 1 kHz")
STRINGS = "fsdd in strings"
CORPORA = (
    "an4",
    "fsdd",
    STRINGS,
    "speechocean762",
    "speech-commands-9words",
    "speech-commands-30words",
    "librispeech-train-clean-100",
)
WORDS_PER_S = 2.7
HUMAN = ("baby-cry", "person-sneeze")


class Clip:
    """A sound, and what was said in it."""

    def __init__(self, group: str, kind: str, name: str, samples: Floats, said: Optional[str] = None) -> None:
        self.group, self.kind, self.name, self.samples, self.said = group, kind, name, samples, said


# ---- Clips without words ---------------------------------------------------------------------------------------------


def wordless(data: Path) -> Iterator[Clip]:
    """The clips of the corpus ``noise`` and made ones, half of which set thresholds, then kinds that set none."""
    for path in recorded_noises(data):
        yield Clip("noise", path.name.split("_")[0], path.name, to_pcm(str(path)).samples)
    for level_db in (-10, -20, -30, -40, -50, -60):
        for kind, slope in (("white", 0.0), ("pink", 0.5), ("brown", 1.0)):
            yield Clip("made", kind, f"{kind} {level_db} dB", at_level(coloured(5, slope, level_db), level_db))
    for level_db in (-10, -30, -50):
        for hz in (50, 60, 440, 1000):
            yield Clip("made", "tone", f"{hz} Hz {level_db} dB", at_level(tone(5, hz), level_db))
        hum = tone(5, 50) + 0.5 * tone(5, 100) + 0.3 * tone(5, 150) + 0.2 * tone(5, 250)
        yield Clip("made", "hum", f"hum {level_db} dB", at_level(hum, level_db))
    for seconds in (1, 5, 30):
        yield Clip("made", "digital silence", f"{seconds} s", np.zeros(seconds * RATE, np.float32))
    yield from babble(data)
    yield from melodies()
    for kind, name, arguments in SOX:
        yield Clip("unseen", kind, name, by_sox(arguments))


def recorded_noises(data: Path) -> list[Path]:
    return sorted((data / "noise").glob("*.opus"))


def coloured(seconds: float, slope: float, seed: int) -> Floats:
    """Noise whose amplitude falls with the frequency to the power of ``slope``."""
    spectrum = np.fft.rfft(np.random.default_rng(abs(seed)).standard_normal(int(seconds * RATE)))
    return np.fft.irfft(spectrum / np.maximum(np.arange(spectrum.size), 20) ** slope).astype(np.float32)


def tone(seconds: float, hz: float) -> Floats:
    return np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


def at_level(samples: Floats, level_db: float) -> Floats:
    """The samples with this RMS, in dB of full scale."""
    return (samples * (10 ** (level_db / 20) / max(rms(samples), 1e-9))).astype(np.float32).clip(-1, 1)


def rms(samples: Floats) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def babble(data: Path) -> Iterator[Clip]:
    """Many talkers at once, no word of whom stands out."""
    corpus = data / "librispeech-train-clean-100"
    files = [row["file"] for row in rows(corpus)]
    for n_talkers in (8, 16, 32):
        for seed in range(3):
            chosen = np.random.default_rng(seed).choice(len(files), n_talkers, replace=False)
            talkers = [np.resize(to_pcm(str(corpus / files[i])).samples, 8 * RATE) for i in chosen]
            mixed = np.sum([at_level(talker, -20) for talker in talkers], axis=0)
            yield Clip("unseen", "babble", f"{n_talkers} talkers {seed}", at_level(mixed, -20))


MELODY = ["C4", "E4", "G4", "C5", "B4", "G4", "A4", "F4", "D4", "G3", "C4", "E4"]
CHORD = "synth 5 {0} G2 {0} B2 {0} D3 {0} G3 {0} D4 {0} G4 delay 0 .05 .1 .15 .2 .25 remix - fade 0 5 .1 norm -3"
SOX = [
    ("tones", "A3 sine", "synth 5 sine 220 norm -6"),
    ("tones", "sweep up", "synth 8 sine 100:4000 norm -6"),
    ("tones", "sweep down", "synth 8 sine 3000:150 norm -12"),
    ("tones", "siren", "synth 4 sine 500:1500 sine 1500:500 remix - repeat 2 norm -6"),
    ("tones", "square", "synth 5 square 300 norm -12"),
    ("tones", "sawtooth", "synth 5 sawtooth 150 norm -12"),
    ("tones", "triangle", "synth 5 triangle 520 tremolo 5 80 norm -6"),
    ("tones", "dial tone", "synth 5 sine 350 sine 440 remix - norm -12"),
    ("tones", "busy signal", "synth 0.5 sine 480 sine 620 remix - pad 0 0.5 repeat 9 norm -12"),
    ("tones", "beeps", "synth 0.1 sine 1000 pad 0 0.9 repeat 9 norm -6"),
    ("tones", "ringing", "synth 2 sine 440 sine 480 remix - tremolo 20 60 pad 0 3 repeat 2 norm -6"),
    ("tones", "fifths", "synth 6 sine 196 sine 294 sine 440 remix - tremolo 2 40 norm -9"),
    ("music", "plucked chord", CHORD.format("pluck")),
    ("music", "organ chord", CHORD.format("sine")),
    ("music", "reed chord", CHORD.format("sawtooth") + " lowpass 1500"),
    ("music", "strummed twice", CHORD.format("pluck") + " repeat 2 reverb 50"),
    ("music", "bass", "synth 0.4 pluck E2 repeat 20 norm -6"),
    ("music", "plucked high", "synth 0.3 pluck A5 repeat 20 reverb 60 norm -6"),
    ("music", "pulse", "synth 0.25 square 110 fade 0 0.25 0.2 repeat 24 lowpass 900 norm -9"),
    ("music", "vibrato", "synth 6 sine 440 synth 6 sine fmod 5 norm -6"),
    ("music", "drum", "synth 0.2 brownnoise fade 0 0.2 0.18 pad 0 0.3 repeat 15 norm -3"),
    ("music", "cymbal", "synth 0.15 whitenoise highpass 5000 fade 0 0.15 0.14 pad 0 0.1 repeat 25 norm -9"),
    ("noises", "white quiet", "synth 8 whitenoise vol 0.01"),
    ("noises", "white loud", "synth 8 whitenoise norm -3"),
    ("noises", "pink", "synth 8 pinknoise norm -10"),
    ("noises", "brown", "synth 8 brownnoise norm -10"),
    ("noises", "triangular", "synth 8 tpdfnoise norm -20"),
    ("noises", "wind", "synth 10 brownnoise tremolo 0.3 90 lowpass 600 norm -6"),
    ("noises", "surf", "synth 12 pinknoise tremolo 0.15 95 norm -6"),
    ("noises", "train", "synth 10 whitenoise band -n 1200 200 tremolo 20 10 norm -10"),
    ("noises", "engine", "synth 8 sawtooth 45 synth 8 brownnoise mix overdrive 10 lowpass 500 norm -8"),
    ("noises", "clicks", "synth 0.005 whitenoise pad 0 0.7 repeat 12 norm -3"),
    ("noises", "steam", "synth 6 whitenoise highpass 3000 fade 1 6 2 norm -12"),
    ("noises", "rumble", "synth 8 brownnoise lowpass 120 norm -6"),
    ("noises", "flanged", "synth 8 pinknoise flanger norm -12"),
    ("noises", "ventilator", "synth 8 pinknoise bandreject 800 300 tremolo 12 30 norm -20"),
    ("noises", "knocks", "synth 0.04 brownnoise pad 0 0.25 repeat 3 pad 0 1.5 repeat 3 norm -3"),
    ("noises", "hiss on hum", "synth 8 sine 50 synth 8 whitenoise mix vol 0.05"),
]


def by_sox(arguments: str) -> Floats:
    command = ["sox", "-R", "-n", "-r", "16000", "-t", "f32", "-c", "1", "-", *arguments.split()]
    raw = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    return np.frombuffer(raw, np.float32).clip(-1, 1)


def melodies() -> Iterator[Clip]:
    """Tunes of plucked and of sung-like tones, one note after the other."""
    for sort in ("pluck", "triangle", "sine"):
        notes = [by_sox(f"synth 0.4 {sort} {note} fade 0.01 0.4 0.1 norm -6") for note in MELODY]
        yield Clip("unseen", "music", f"tune {sort}", np.concatenate(notes))


# ---- Speech ----------------------------------------------------------------------------------------------------------


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def spoken(data: Path, corpus: str, most: int) -> Iterator[Clip]:
    """Up to that many utterances, evenly spread over the manifest; of AN4 those of the test split first."""
    if corpus == STRINGS:
        yield from strings(data, most)
        return
    chosen = rows(data / corpus)
    if corpus == "an4":
        chosen = [row for row in chosen if row["split"] == "test"] + [row for row in chosen if row["split"] != "test"]
        chosen = chosen[:most]
    else:
        chosen = [chosen[i] for i in np.linspace(0, len(chosen) - 1, min(most, len(chosen))).astype(int)]
    for row in chosen:
        samples = to_pcm(str(data / corpus / row["file"])).samples
        yield Clip("speech", corpus, row["file"], samples, row["text"])


def strings(data: Path, most: int) -> Iterator[Clip]:
    """Five digits of one speaker each, with 0.2 s between them."""
    by_speaker: dict[str, list[dict[str, str]]] = {}
    for row in rows(data / "fsdd"):
        by_speaker.setdefault(row["speaker"], []).append(row)
    rng = np.random.default_rng(0)
    for i in range(most):
        speaker = sorted(by_speaker)[i % len(by_speaker)]
        chosen = [by_speaker[speaker][j] for j in rng.integers(0, len(by_speaker[speaker]), 5)]
        digits = [to_pcm(str(data / "fsdd" / row["file"])).samples for row in chosen]
        joined = np.concatenate([np.concatenate([digit, np.zeros(RATE // 5, np.float32)]) for digit in digits])
        yield Clip("speech", STRINGS, f"{i}", joined, " ".join(row["text"] for row in chosen))


def in_condition(clip: Clip, condition: str, noises: list[Floats]) -> Floats:
    rng = np.random.default_rng(sum(clip.name.encode()))
    samples = clip.samples
    if condition == "-40 dB":
        return samples * np.float32(0.01)
    if condition == "white 0 dB":
        return with_noise(samples, rng.standard_normal(samples.size).astype(np.float32))
    if condition == "noise 0 dB":
        return with_noise(samples, np.resize(noises[int(rng.integers(len(noises)))], samples.size))
    if condition == "below 1 kHz":
        return below(samples, 1000)
    return samples


def with_noise(samples: Floats, noise: Floats) -> Floats:
    """As much noise as speech, no louder than full scale together."""
    mixed = samples + noise * np.float32(rms(samples) / max(rms(noise), 1e-9))
    return (mixed / max(1.0, float(np.abs(mixed).max()))).astype(np.float32)


def below(samples: Floats, hz: float) -> Floats:
    """A low-pass filter of 511 taps (Hamming)."""
    taps = np.sinc(2 * hz / RATE * np.arange(-255, 256)) * np.hamming(511)
    return np.convolve(samples, taps / taps.sum())[255 : 255 + samples.size].astype(np.float32)


# ---- Decoding, once --------------------------------------------------------------------------------------------------


def speech_probabilities(samples: Floats) -> Floats:
    stream = speech_stream()
    return np.concatenate([stream.feed(samples), stream.finish()])


def heard(clip: Clip, condition: str, samples: Floats) -> dict[str, Any]:
    """What the check goes by, beside the text."""
    probabilities = speech_probabilities(samples)
    silence = SilenceScan()
    silence.push(samples, probabilities)
    return {
        "group": clip.group,
        "kind": clip.kind,
        "name": clip.name,
        "condition": condition,
        "said": clip.said,
        "duration_s": samples.size / RATE,
        "most_likely": round(float(probabilities.max(initial=0)), 3),
        "n_speech": windows_of_speech(probabilities),
        "n_loud": loud_windows_of_speech(samples, speech_probabilities),
        "silent": [[start, end] for start, end, _ in silence.finish()],
    }


def decode(
    kept: dict[str, Any], samples: Floats, model: WhisperModel, beam_size: int, drop_silence: Optional[bool] = False
) -> dict[str, Any]:
    """``kept`` with what was decoded. The language of speech is given, that of other sounds is not."""
    language = "en" if kept["said"] is not None else None
    transcript = model.transcribe(samples, language=language, drop_silence=drop_silence, **search(beam_size))
    kept["dropped"] = [[part.start, part.end, part.reason] for part in transcript.dropped]
    kept["beam_size"], kept["checked"] = beam_size, drop_silence is not False
    kept["language"] = transcript.language
    kept["segments"] = [{**segment.to_dict(), "tokens": len(segment.tokens)} for segment in transcript.segments]
    return kept


def search(beam_size: int) -> dict[str, Any]:
    """Beams, or the quickest way to an answer: greedy, one sample at each higher temperature."""
    return {"beam_size": beam_size, "best_of": 5 if beam_size > 1 else 1}


def decode_wordless(options: argparse.Namespace) -> None:
    model = WhisperModel(options.model, cpu_threads=1)
    done = already(options.out)
    for clip in wordless(options.data):
        if (clip.kind, clip.name, "as it is") not in done:
            kept = heard(clip, "as it is", clip.samples)
            drops = None if options.checked else False
            append(options.out, decode(kept, clip.samples, model, options.beam_size, drops))


def already(out: Path) -> set[tuple[str, str, str]]:
    if not out.exists():
        return set()
    entries = map(json.loads, out.read_text().splitlines())
    return {(entry["kind"], entry["name"], entry["condition"]) for entry in entries}


def append(out: Path, entry: dict[str, Any]) -> None:
    with out.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def decode_speech(options: argparse.Namespace) -> None:
    model = WhisperModel(options.model, cpu_threads=1)
    noises = [to_pcm(str(path)).samples for path in recorded_noises(options.data)]
    done = already(options.out)
    for corpus in options.corpora:
        for clip in spoken(options.data, corpus, options.most):
            for condition in options.conditions:
                if (clip.kind, clip.name, condition) not in done:
                    samples = in_condition(clip, condition, noises)
                    kept = heard(clip, condition, samples)
                    if not is_certain(kept, options.certain):
                        decode(kept, samples, model, options.beam_size)
                    append(options.out, kept)


def is_certain(kept: dict[str, Any], n_windows: int) -> bool:
    """Whether the check does not drop the text, because so many windows are more likely speech than not."""
    return max(kept["n_speech"], kept["n_loud"]) >= n_windows


# ---- Tables ----------------------------------------------------------------------------------------------------------


def checked_text(entry: dict[str, Any]) -> str:
    """The text that the check leaves of a clip that was decoded without it. Segments of one window share an answer."""
    answers: dict[int, list[dict[str, Any]]] = {}
    for segment in entry["segments"]:
        answers.setdefault(segment["seek"], []).append(segment)
    n_windows = max(entry["n_speech"], entry["n_loud"])
    if n_windows < ENOUGH and lies_in_silence(entry):
        return ""
    return "".join(
        text for segments in answers.values() if (text := text_of(segments)) and is_believed(n_windows, segments)
    )


def text_of(segments: list[dict[str, Any]]) -> str:
    return "".join(segment["text"] for segment in segments)


def is_believed(n_windows: int, segments: list[dict[str, Any]]) -> bool:
    first = segments[0]
    failed = first["temperature"] > 0 or first["avg_logprob"] < -1 or first["compression_ratio"] > 2.4
    text, logprob, no_speech = text_of(segments).strip(), first["avg_logprob"], first["no_speech_prob"]
    return why_not_believed(n_windows, text, logprob, no_speech, failed) is None


def lies_in_silence(entry: dict[str, Any]) -> bool:
    return any(start == 0 and end >= entry["duration_s"] * RATE - 160 for start, end in entry["silent"])


def score(options: argparse.Namespace) -> None:
    for path in options.files:
        entries = list(map(json.loads, path.read_text().splitlines()))
        print(f"\n{path.name}")
        score_wordless([entry for entry in entries if entry["said"] is None])
        score_speech([entry for entry in entries if entry["said"] is not None])


def score_wordless(entries: list[dict[str, Any]]) -> None:
    """Clips with text without and with the check, by kind, and of the two halves."""
    counts: dict[str, list[int]] = {}
    for i, entry in enumerate(entries):
        is_human = entry["kind"] in HUMAN
        half = (
            "unseen kinds" if entry["group"] == "unseen" else ("half that sets" if i % 2 == 0 else "half that scores")
        )
        wholes = ["human cries"] if is_human else ["all but human cries", half]
        text = text_of(entry["segments"]).strip()
        is_checked = entry.get("checked", False)
        before = bool(text) or (is_checked and any(reason != "silence" for _, _, reason in entry["dropped"]))
        after = bool(text) if is_checked else bool(checked_text(entry).strip())
        for name in (entry["kind"], *wholes):
            row = counts.setdefault(name, [0, 0, 0])
            row[0], row[1], row[2] = row[0] + 1, row[1] + before, row[2] + after
    for name, (n, before, after) in counts.items():
        print(f"| {name} | {n} | {before} | {after} |")


def score_speech(entries: list[dict[str, Any]]) -> None:
    """The change of the word error rate by the check, for each corpus and condition."""
    normalise = normaliser("english")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in entries:
        groups.setdefault((entry["kind"], entry["condition"]), []).append(entry)
        groups.setdefault(("all", "all"), []).append(entry)
    for (corpus, condition), group in groups.items():
        changes, words, lost = [], [], 0
        for entry in group:
            change, n_words, is_lost = change_of(entry, normalise)
            changes.append(change)
            words.append(n_words)
            lost += is_lost
        interval = rate_interval(changes, words, signed=True)
        plain = bootstrap_rate(changes, words, signed=True) if any(changes) else None
        more = "nothing changed" if plain is None else f"{100 * plain.low:+.2f} to {100 * plain.high:+.2f}"
        decoded = sum("segments" in entry for entry in group)
        low, high = 100 * interval.low, 100 * interval.high
        print(
            f"| {corpus} | {condition} | {len(group)} | {sum(words):.0f} | {decoded} | {lost} |"
            f" {sum(change > 0 for change in changes)} | {sum(change < 0 for change in changes)} |"
            f" {100 * sum(changes) / sum(words):+.2f} | {more} | {low:+.2f} to {high:+.2f} |"
        )


def change_of(entry: dict[str, Any], normalise: Callable[[str], str]) -> tuple[int, float, bool]:
    """Errors more with the check than without, words that were said, and whether all text was lost. Where nobody wrote
    down what was said, the text without the check counts as that."""
    said = normalise(entry["said"])
    if "segments" not in entry:
        return 0, len(entry["said"].split()) or entry["duration_s"] * WORDS_PER_S, False
    before, after = text_of(entry["segments"]), checked_text(entry)
    reference = said or normalise(before)
    change = errors(reference, normalise(after)) - errors(reference, normalise(before))
    return change, len((entry["said"] or reference).split()), bool(before.strip()) and not after.strip()


def errors(reference: str, heard: str) -> int:
    return word_score(reference, heard).errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run in (("wordless", decode_wordless), ("speech", decode_speech)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("data", type=Path)
        command.add_argument("model")
        command.add_argument("out", type=Path)
        command.add_argument("--beam-size", type=int, default=5)
        command.add_argument("--checked", action="store_true", help="wordless: with the check")
        command.add_argument("--most", type=int, default=500, help="utterances of a corpus")
        command.add_argument("--corpora", nargs="+", default=CORPORA)
        command.add_argument("--conditions", nargs="+", default=CONDITIONS)
        command.add_argument("--certain", type=int, default=ENOUGH, help="windows of speech (32 ms) that settle it")
    command = commands.add_parser("score")
    command.set_defaults(run=score)
    command.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
