"""Measures the axes of arXiv 2511.08093 on the bundled model and on OpenAI's real Whisper base encoder.

    python scripts/measure_study.py --data ../shared/data

runs `whisperq-edge study` three times: nano on AN4's test split with every row of the table on clean speech, some of
the rows in noise, and the encoder of base (a random decoder stands in for the one that is not at hand) on LibriSpeech,
SQNR only. It writes docs/study.json (the figures), docs/study.png and docs/study-noise.png (the pictures) and the
tables in docs/quantisation.md. `--render` makes pictures and tables again from the figures that are there. Needs the
extras `eval` and `plot`, 1 GB of memory and 0.7 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure_quantisation import with_tables, write_model
from whisperq_edge._study.plot import draw_study
from whisperq_edge._study.report import (
    AXES_HEADER,
    axes_rows,
    noise_header,
    noise_rows,
    table_header,
    table_rows,
)
from whisperq_edge._system.markdown import markdown_table

REPOSITORY = Path(__file__).resolve().parents[1]

WORDS = (
    *("--data", "an4", "--split", "test", "--calibrate", "an4", "--calibrate-split", "train"),
    *("--beam-size", "1", "--temperature", "0", "--normaliser", "basic"),
)
IN_NOISE = (
    *("--noise", "noise", "--snr", "20,10,0", "--rows"),
    "int8-sym-channel,int4-sym-group32,int3-sym-group32,nf4-group64,float/dynamic-tensor,float/static",
)
LIBRISPEECH = "librispeech-train-clean-100"
BASE = (
    *("--data", LIBRISPEECH, "--limit", "5", "--clips", "5", "--no-wer", "--scope", "encoder"),
    *("--calibrate", "librispeech-calibration", "--calibrate-limit", "8", "--rows"),
    "float/dynamic-block32,float/dynamic-token,float/dynamic-tensor,float/static,int8-sym-tensor,int8-sym-channel,"
    "int8-sym-channel/static,int4-sym-channel,int4-sym-group32,int4-asym-group32,int3-sym-group32,nf4-group64,fp8-channel",
)


def measure(data: Path, folder: Path) -> dict[str, Any]:
    """The three reports. ``folder`` keeps the journals: what is there is not measured again."""
    base = folder / "ggml-base.bin"
    if not base.exists():
        write_model(base, data / "whisper-base-encoder" / "encoder_f16.npz")
    return {
        "nano": study(data, folder, "nano", WORDS),
        "noise": study(data, folder, "nano", (*WORDS, *IN_NOISE)),
        "base": study(data, folder, str(base), BASE),
    }


def study(data: Path, folder: Path, model: str, arguments: Sequence[str]) -> dict[str, Any]:
    output = folder / f"{Path(model).stem}.json"
    prepared = [_place(data, folder, argument) for argument in arguments]
    command = [sys.executable, "-m", "whisperq_edge", "study", model, *prepared, "--output", str(output), "--resume"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    report: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    report["utterances"] = {}  # in the journal
    report["model"]["name"] = Path(model).name
    if report["data"]:
        report["data"]["path"] = Path(report["data"]["path"]).name
    report["command"] = " ".join(["whisperq-edge study", Path(model).name, *arguments])
    return report


def _short(value: Any) -> Any:
    """Six digits of every number."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _short(each) for name, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, list) else value


def _place(data: Path, folder: Path, argument: str) -> str:
    if argument == "librispeech-calibration":
        return str(_calibration(data, folder))
    return str(data / argument) if (data / argument).is_dir() else argument


def _calibration(data: Path, folder: Path) -> Path:
    """A manifest of LibriSpeech without the five utterances that are measured on."""
    header, *rows = (data / LIBRISPEECH / "manifest.tsv").read_text(encoding="utf-8").splitlines()
    measured = {i * len(rows) // 5 for i in range(5)}  # as `--limit` chooses
    file = header.split("\t").index("file")
    kept = [row.split("\t") for i, row in enumerate(rows) if i not in measured]
    lines = ["file\ttext", *(f"{data.resolve() / LIBRISPEECH / cells[file]}\t" for cells in kept)]
    path = folder / "calibration.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Text between the marks of the page."""
    nano, noise, base = found["nano"], found["noise"], found["base"]
    return {
        "study_nano": _table(table_header(nano), table_rows(nano)),
        "study_axes": _table(AXES_HEADER, axes_rows(nano)),
        "study_noise": _table(noise_header(noise), noise_rows(noise)),
        "study_base": _table(table_header(base), table_rows(base)),
    }


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data", help="the speech corpora")
    parser.add_argument(
        "--out", type=Path, default=REPOSITORY / "docs", help="folder of study.json, the pictures and the page"
    )
    parser.add_argument("--work", type=Path, help="folder that keeps what was measured, to go on after an interruption")
    parser.add_argument("--render", action="store_true", help="only make the pictures and the tables again")
    options = parser.parse_args()
    for variable in ("WHISPERQ_COMPUTE_TYPE", "WL_COMPUTE_TYPE"):
        os.environ.pop(variable, None)  # would load each file as another type than it has
    figures = options.out / "study.json"
    if not options.render:
        with tempfile.TemporaryDirectory(prefix="whisperq-study-") as folder:
            found = measure(options.data.resolve(), options.work or Path(folder))
        figures.write_text(
            json.dumps(_short(found), ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8"
        )
    found = json.loads(figures.read_text(encoding="utf-8"))
    draw_study(found["nano"], options.out / "study.png")
    draw_study(found["noise"], options.out / "study-noise.png")
    page = options.out / "quantisation.md"
    page.write_text(with_tables(page.read_text(encoding="utf-8"), tables(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
