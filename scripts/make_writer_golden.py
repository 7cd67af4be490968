"""Writes tests/data/writers/: transcripts and what openai/whisper's own writers make of them.

Run by hand, with openai-whisper installed: ``python scripts/make_writer_golden.py``. The tests compare
``whisperq_edge._writers`` with these files byte by byte and need no openai-whisper.

``cases.json`` holds the transcripts, and the golden files are named ``<transcript>.<options>.<format>``.
"""

from __future__ import annotations

import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any, Optional

from whisper.utils import get_writer

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "data" / "writers"

# name -> the writers' options. They shape vtt and srt of transcripts with words, and nothing else.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "highlight": {"highlight_words": True},
    "width": {"max_line_width": 24},
    "count": {"max_line_count": 2},
    "width-count": {"max_line_width": 24, "max_line_count": 2},
    "width-count-highlight": {"max_line_width": 18, "max_line_count": 1, "highlight_words": True},
    "words-per-line": {"max_words_per_line": 3},
    "width-words-per-line": {"max_line_width": 10, "max_words_per_line": 4},
}


def segment(
    id: int, start: float, end: float, text: str, words: Optional[list[dict[str, Any]]] = None
) -> dict[str, Any]:
    """A segment in openai/whisper's key order."""
    made: dict[str, Any] = {
        "id": id,
        "seek": int(start // 30) * 3000,
        "start": start,
        "end": end,
        "text": text,
        "tokens": [50364, 440, 3460 + id, 50364 + round((end - start) * 50)],
        "temperature": 0.0,
        "avg_logprob": -0.2749346378,
        "compression_ratio": 1.5384615384615385,
        "no_speech_prob": 0.012345678,
    }
    if words is not None:
        made["words"] = words
    return made


def spoken(id: int, start: float, texts: list[str], each_s: float = 0.31, gap_s: float = 0.07) -> dict[str, Any]:
    """A segment whose words follow each other at an even pace."""
    words = []
    at = start
    for text in texts:
        end = round(at + each_s, 2)
        words.append({"word": text, "start": round(at, 2), "end": end, "probability": 0.875})
        at = end + gap_s
    return segment(id, words[0]["start"], words[-1]["end"], "".join(texts), words)


def transcript(language: str, segments: list[dict[str, Any]]) -> dict[str, Any]:
    return {"text": "".join(piece["text"] for piece in segments), "segments": segments, "language": language}


LONG = " And so, my fellow Americans, ask not what your country can do for you, ask what you can do for your country."

TRANSCRIPTS: dict[str, dict[str, Any]] = {
    "empty": transcript("en", []),
    "segments": transcript(
        "en",
        [
            segment(0, 0.0, 2.5, " Hello there."),
            segment(1, 2.5, 3.0005, LONG),
            segment(2, 59.9995, 61.0015, "\tTabs\tinside and  two spaces \n"),
            segment(3, 3599.9994, 3599.9996, ""),
            segment(4, 3661.007, 36000.25, " An arrow --> and another -->--> here"),
            segment(5, 360000.0, 360001.5, " A hundred hours"),
        ],
    ),
    "unicode": transcript(
        "ja",
        [
            segment(0, 0.0, 1.0, "こんにちは、世界。"),
            segment(1, 1.0, 2.0, " Grüße aus Köln – „schön“"),
            segment(2, 2.0, 3.0, " 🎧 \u202bمرحبا\u202c \u00a0"),
        ],
    ),
    "words": transcript(
        "en",
        [
            spoken(0, 0.0, [f" {word}" for word in LONG.split()]),
            spoken(1, 12.0, [" After", " a", " long", " pause", " we", " go", " on."]),
            spoken(2, 13.9, [" A", " supercalifragilisticexpialidocious", " word."], gap_s=0.0),
            segment(3, 20.0, 20.0, "", []),
            spoken(4, 3600.5, [" One", " hour", " --> later,", " <b>bold</b>", " <u>under</u>"], each_s=4.2),
        ],
    ),
    "words-unicode": transcript(
        "zh",
        [
            spoken(0, 0.0, ["你", "好", "，", "世界", "。"], gap_s=0.0),
            spoken(1, 7.5, [" Ça", " va", " ?", "  ", " l'", "été", "\u00a0!"], gap_s=0.0004),
            spoken(2, 9.0, ["\n", " two\nlines", " end\n"]),
        ],
    ),
}


def write(result: dict[str, Any], name: str, option_name: str, format: str) -> None:
    writer = get_writer(format, str(FOLDER))
    writer(result, f"{name}.{option_name}.audio", OPTIONS[option_name])


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.makedirs(FOLDER)
    for name, result in TRANSCRIPTS.items():
        for format in ("txt", "tsv", "json"):
            write(result, name, "plain", format)
        has_words = any("words" in piece for piece in result["segments"])
        for option_name in OPTIONS if has_words else ("plain",):
            for format in ("vtt", "srt"):
                write(result, name, option_name, format)
    made_by = f"openai-whisper {version('openai-whisper')}"
    cases = {"made_by": made_by, "options": OPTIONS, "transcripts": TRANSCRIPTS}
    (FOLDER / "cases.json").write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(list(FOLDER.iterdir()))} files by {made_by} in {FOLDER}")


if __name__ == "__main__":
    main()
