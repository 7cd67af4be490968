"""Writes tests/data/decoding/cases.json: what openai/whisper decodes with a scripted model.

Run by hand, with openai-whisper installed: ``python scripts/make_decoding_golden.py``.
tests/native/test_decoding.py compares ``csrc/decoding`` with it and needs no openai-whisper. The model and the cases
are those of tests/support/scripted_model.py, with short prompts; each is on a line of its own.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.scripted_model import openai_answer, random_case  # noqa: E402

N_CASES = 40
FIRST_SEED = 1000
MOST_TOKENS = 40  # of a prompt


def main() -> None:
    cases = []
    seed = FIRST_SEED
    while len(cases) < N_CASES:
        case, seed = random_case(seed), seed + 1
        if len(case["options"].get("prompt", [])) > MOST_TOKENS:
            continue
        try:
            cases.append(openai_answer(case))
        except ZeroDivisionError:  # openai/whisper cannot rank an empty answer
            continue
    path = ROOT / "tests" / "data" / "decoding" / "cases.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    path.write_text(f'{{"openai-whisper": "{version("openai-whisper")}", "cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
