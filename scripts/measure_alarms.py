"""How often ``whisperq-edge bench --compare`` raises a false alarm, and how often it finds ten percent, in real runs.

    python scripts/measure_alarms.py FOLDER      again until it says that all runs are there

Makes runs of the bundled model into FOLDER until the time is used up: in turn one as it is, and one in which every
transcription sleeps for a tenth of its time. What is there is judged each time: every run against the next one that is
alike, and every slowed one against the one before it. Prints the table of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from whisperq_edge._bench.report import compare_reports, load_report

COMMAND = ["bench", "--model", "nano", "--types", "q8_0", "--engines", "edge", "--tokens", "20"]
FAIL_OVER = 0.05

# Python runs this file when it starts, in the processes that bench starts, too.
SLOWED = """
import time
from whisperq_edge._engines import edge
real = edge.EdgeEngine.transcribe
def late(self, *arguments, **named):
    began = time.perf_counter()
    answer = real(self, *arguments, **named)
    time.sleep({share} * (time.perf_counter() - began))
    return answer
edge.EdgeEngine.transcribe = late
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=60.0, help="no run is begun that might last longer")
    parser.add_argument("--slowdown", type=float, default=0.10)
    parser.add_argument("--rounds", type=int, help="of each run  [default: bench's own]")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    wanted = [
        options.folder / f"{i // 2:02d}-{'slower' if i % 2 else 'as-it-is'}.json" for i in range(2 * options.pairs + 1)
    ]
    make_runs(wanted, options)
    judge(wanted)
    left = sum(not path.exists() for path in wanted)
    print(f"{left} runs are still to be made" if left else "all runs are there")


def make_runs(wanted: list[Path], options: argparse.Namespace) -> None:
    began_s, longest_s = time.monotonic(), 0.0
    for path in wanted:
        if path.exists():
            continue
        run_began_s = time.monotonic()
        if run_began_s - began_s + longest_s > options.seconds:
            return
        run(path, options.slowdown if "slower" in path.name else 0.0, options.rounds)
        longest_s = max(longest_s, time.monotonic() - run_began_s)


def run(path: Path, slowdown: float, rounds: Any) -> None:
    given = [] if rounds is None else ["--rounds", str(rounds)]
    with tempfile.TemporaryDirectory() as folder:
        if slowdown:
            Path(folder, "sitecustomize.py").write_text(SLOWED.format(share=slowdown), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([folder, *sys.path])}
        command = [sys.executable, "-m", "whisperq_edge", *COMMAND, *given, "--save", str(path)]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def judge(wanted: list[Path]) -> None:
    alike = [(later, earlier) for later, earlier in zip(wanted[2::2], wanted[::2])]
    slower = [(later, earlier) for later, earlier in zip(wanted[1::2], wanted[::2])]
    print("| runs | pairs | alarms | estimates | rounds |\n| --- | --- | --- | --- | --- |")
    for name, pairs in (("alike", alike), ("slowed", slower)):
        there = [(load_report(a), load_report(b)) for a, b in pairs if a.exists() and b.exists()]
        if not there:
            continue
        changes = [compare_reports(now, then, FAIL_OVER)[0] for now, then in there]
        values = sorted(each.relative.value for each in changes)
        rounds = [report["settings"]["rounds"] for pair in there for report in pair]
        alarms = sum(each.is_slower for each in changes)
        spread = f"{values[0]:.3f} to {values[-1]:.3f}, median {values[len(values) // 2]:.3f}"
        print(f"| {name} | {len(there)} | {alarms} | {spread} | {min(rounds)} to {max(rounds)} |")


if __name__ == "__main__":
    main()
