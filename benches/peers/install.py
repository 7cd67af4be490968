"""Installs the runtimes that the encoder is compared with, each by itself: one that cannot be had stops no other.

    make peers                                  into .venv, and whisper.cpp built for AVX2 into build/ggml-avx2
    .venv/bin/python benches/peers/install.py --no-avx2

pip's own settings hold (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS): with them torch can be had without CUDA.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--prefer-binary"]


def requirements() -> list[str]:
    lines = (line.split("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def install(what: str, arguments: list[str]) -> bool:
    """Whether pip could; a line says so, with pip's last one where it could not."""
    done = subprocess.run([*PIP, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    errors = done.stderr.strip().splitlines()
    outcome = "installed" if done.returncode == 0 else "could not be installed: " + (errors or ["no reason given"])[-1]
    print(f"{what}: {outcome}", flush=True)
    return done.returncode == 0


def install_ggml_for_avx2() -> bool:
    """The package once more, with a ggml engine for any CPU that has AVX2, where only the benchmark looks for it.

    The build has a folder of its own: in that of the native one it would overwrite what `make run` has built.
    """
    folder = ROOT / "build" / "ggml-avx2"
    return install(
        "the ggml engine for AVX2",
        [
            *("--no-deps", "--upgrade", f"--target={folder}", "."),
            *("-C", "cmake.define.WHISPERQ_NATIVE=OFF", "-C", "build-dir=build/avx2/{wheel_tag}"),
        ],
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-avx2", action="store_true", help="do not build the ggml engine a second time")
    options = parser.parse_args()
    done = [install(requirement, [requirement]) for requirement in requirements()]
    if not options.no_avx2 and platform.machine().lower() in ("x86_64", "amd64"):
        done.append(install_ggml_for_avx2())
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
