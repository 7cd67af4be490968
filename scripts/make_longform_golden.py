"""Writes tests/data/longform/: what openai/whisper's tokenizer and ``transcribe()`` make of known input.

The tests of the tokenizer and of the window loop compare with it, so that they run where openai-whisper is not
installed. ``transcribe()`` runs over a scripted model (tests/support/scripted_windows.py): no weights and no audio are
needed.

    pip install openai-whisper
    python scripts/make_longform_golden.py
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

FOLDER = ROOT / "tests" / "data" / "longform"

# Of the first 300 cases: few and small ones that together take every line of the window loop and of the word times.
CASES = (15, 27, 29, 44, 53, 61, 70, 125, 144, 188, 192, 210, 291)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    write(FOLDER / "tokenizer.json", tokenizer_golden())
    write(FOLDER / "segments.json", [segments_golden(seed) for seed in CASES])


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=None) + "\n", encoding="utf-8")
    print(path.relative_to(ROOT), path.stat().st_size, "bytes")


def tokenizer_golden() -> list[dict[str, Any]]:
    from whisper.tokenizer import get_tokenizer

    from tests.support.tokenizer_texts import MODELS, TEXTS, describe

    golden = []
    for n_vocab, language, task in MODELS:
        multilingual, n_languages = n_vocab >= 51865, 100 if n_vocab == 51866 else 99
        tokenizer = get_tokenizer(multilingual, num_languages=n_languages, language=language, task=task)
        described = describe(tokenizer, tokenizer.encoding.encode_ordinary, TEXTS)
        golden.append({"n_vocab": n_vocab, "language": language, "task": task, **described})
    return golden


def segments_golden(seed: int) -> dict[str, Any]:
    from tests.support import scripted_openai
    from tests.support.scripted_windows import Script, random_case

    warnings.simplefilter("ignore")
    duration_s, options = random_case(seed)
    result = scripted_openai.transcribe(Script(seed), duration_s, options)
    return {"seed": seed, "language": result["language"], "segments": result["segments"]}


if __name__ == "__main__":
    main()
