"""The script that unpacks whisper.cpp: takes the pinned archive and no other, and never leaves half a tree."""

from __future__ import annotations

import importlib.util
import io
import json
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.paths import ROOT

SCRIPT = ROOT / "third_party" / "whisper.cpp" / "vendor.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the sources are not here")


@pytest.fixture(scope="module")
def vendor() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vendor", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def archive(path: Path, names: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


SOURCES = {
    "pkg-1/whisper.cpp/src/whisper.cpp": b"int main;",
    "pkg-1/whisper.cpp/ggml/src/ggml-cpu/ops.cpp": b"x",
    "pkg-1/whisper.cpp/ggml/src/ggml-sycl/big.cpp": b"x",
    "pkg-1/whisper.cpp/examples/main.cpp": b"x",
    "pkg-1/whisper.cpp/../../escape.txt": b"x",
    "pkg-1/setup.py": b"x",
}


def pin_of(vendor: ModuleType, path: Path) -> dict[str, str]:
    return {**vendor.read_pin(), "sha256": vendor.sha256_of(path)}


def test_only_what_is_needed_is_unpacked(vendor: ModuleType, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar.gz", SOURCES)
    pin = pin_of(vendor, path)
    out = tmp_path / "upstream"
    assert vendor.install(path, pin, out) == 2
    files = sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file())
    assert files == [vendor.STAMP, "ggml/src/ggml-cpu/ops.cpp", "src/whisper.cpp"]
    assert not (tmp_path.parent / "escape.txt").exists() and not (tmp_path / "escape.txt").exists()
    assert vendor.is_current(pin, out)


def test_another_archive_is_refused_with_both_hashes(
    vendor: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = archive(tmp_path / "a.tar.gz", SOURCES)
    out = tmp_path / "upstream"
    assert vendor.main(["--archive", str(path), "--destination", str(out)]) == 1
    complaint = capsys.readouterr().err
    assert vendor.read_pin()["sha256"] in complaint and vendor.sha256_of(path) in complaint
    assert not out.exists()


def test_a_failed_run_keeps_what_was_there(vendor: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "upstream"
    out.mkdir()
    (out / "old").write_text("old")
    empty = archive(tmp_path / "b.tar.gz", {"pkg-1/whisper.cpp/LICENSE": b"x"})
    with pytest.raises(vendor.VendorError):
        vendor.install(empty, pin_of(vendor, empty), out)
    assert (out / "old").read_text() == "old"
    assert list(tmp_path.glob(".upstream-*")) == []


def test_the_pin_names_what_the_architecture_says() -> None:
    pin = json.loads((SCRIPT.parent / "pin.json").read_text(encoding="utf-8"))
    assert set(pin) == {"package", "package_version", "whisper_cpp_version", "sha256"}
    assert len(pin["sha256"]) == 64
