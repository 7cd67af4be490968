"""Makes the synthetic part of the training data: digit strings, letter strings and AN4-like phrases by espeak-ng.

    python -m train_nano.synthesize

The sample clip of the wheel is spoken by espeak-ng; without this part the model would never have heard such a voice.
"""

import argparse
import csv
import random
import string
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import soundfile

from .corpora import REPOSITORY, SAMPLE_RATE, add_data_options

sys.path.append(str(REPOSITORY / "scripts"))
from make_sample_clip import SAMPLE_STRINGS, speak

VARIANTS = [""] * 4 + [f"+m{i}" for i in range(1, 8)] + [f"+f{i}" for i in range(1, 5)]
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "oh")
TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
ORDINALS = (
    *("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh"),
    *("twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth"),
    *("twentieth", "thirtieth"),
)
CONTROLS = ("yes", "no", "go", "help", "stop", "start", "repeat", "enter", "erase", "rubout")


def digits(rng: random.Random) -> str:
    return " ".join(rng.choices(DIGITS[:10] if rng.random() < 0.7 else DIGITS, k=rng.randint(1, 8)))


def letters(rng: random.Random) -> str:
    return " ".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, 8)))


def number(rng: random.Random) -> str:
    tens = rng.choice(TENS)
    return rng.choice(
        [tens, f"{tens} {rng.choice(DIGITS[1:10])}", rng.choice(TEENS), f"{rng.choice(DIGITS[1:10])} {tens}"]
    )


def date(rng: random.Random) -> str:
    return f"{rng.choice(MONTHS)} {rng.choice(ORDINALS)} nineteen {rng.choice(TENS)} {rng.choice(DIGITS[1:10])}"


def command(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return rng.choice(CONTROLS)
    verb = rng.choice(["enter", "erase", "rubout"])
    return f"{verb} {letters(rng) if rng.random() < 0.6 else number(rng)} {number(rng)}"


def mixed(rng: random.Random) -> str:
    return f"{letters(rng)} {digits(rng)}"


def texts(count: int, rng: random.Random) -> list[str]:
    makers = [digits] * 6 + [letters] * 7 + [mixed] * 2 + [number, date, command, command]
    chosen: list[str] = []
    while len(chosen) < count:
        text = rng.choice(makers)(rng)
        if text not in SAMPLE_STRINGS:
            chosen.append(text)
    return chosen


def _speak_to(path: Path, text: str, rng: random.Random) -> dict:
    voice = rng.choice(["en-us", "en-us", "en-gb"]) + rng.choice(VARIANTS)
    # Half of the utterances separate their items by commas, which changes the rhythm and the melody.
    spoken = text.replace(" ", " , ") if rng.random() < 0.5 else text
    pcm = speak(spoken, voice, rng.randint(115, 190), rng.randint(25, 75))
    soundfile.write(path, pcm, SAMPLE_RATE, subtype="PCM_16")
    duration_s = round(len(pcm) / SAMPLE_RATE, 3)
    return {"file": path.name, "duration_s": duration_s, "speaker": voice, "split": "train", "text": text}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--count", type=int, default=1600)
    options = parser.parse_args()
    folder = options.cache / "synthetic"
    folder.mkdir(parents=True, exist_ok=True)
    lines = texts(options.count, random.Random(0))
    with ThreadPoolExecutor(2) as pool:
        rows = list(
            pool.map(lambda i: _speak_to(folder / f"{i:05}.flac", lines[i], random.Random(i)), range(len(lines)))
        )
    with open(folder / "manifest.tsv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
