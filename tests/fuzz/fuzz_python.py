"""Fuzzes one Python reader with atheris: ``fuzz_python.py TARGET [libFuzzer options] [folders of inputs]``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(include=["whisperq_edge._convert"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name, *options = sys.argv[1:]
    target = TARGETS[name]
    # A merge runs the first word again, through the shell.
    program = " ".join(map(shlex.quote, [sys.executable, str(Path(__file__).resolve()), name]))

    def test_one_input(data: bytes) -> None:
        target.run(data)

    atheris.Setup([program, f"-max_len={target.longest_input}", *options], test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
