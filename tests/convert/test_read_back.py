"""What was written is read back from the disk behind the writer, and compared."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import IO

import pytest
from whisperq_edge._convert import read_back
from whisperq_edge._convert.read_back import ReadBack


def write_in_pieces(path: Path, pieces: list[bytes]) -> None:
    with open(path, "wb") as stream, ReadBack(stream) as reader:
        for piece in pieces:
            stream.write(piece)
            reader.follow()
        reader.finish(hashlib.sha256(b"".join(pieces)).hexdigest())


@pytest.mark.parametrize("n_pieces", [0, 1, 7, 200])
def test_reads_what_was_written(n_pieces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_back, "_STEP_BYTES", 10_000)
    pieces = [os.urandom(4097) for _ in range(n_pieces)]
    write_in_pieces(tmp_path / "file", pieces)
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)


@pytest.mark.parametrize("damaged_byte", [0, 30_000, 199_999])
def test_other_bytes_on_the_disk_are_noticed(
    damaged_byte: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage(file: IO[bytes], begin: int, end: int) -> None:
        if begin <= damaged_byte < end:
            with open(file.name, "r+b") as writable:
                writable.seek(damaged_byte)
                writable.write(b"\x01")

    monkeypatch.setattr(read_back, "_STEP_BYTES", 10_000)
    monkeypatch.setattr(read_back, "_forget", damage)
    with pytest.raises(OSError, match="other bytes"):
        write_in_pieces(tmp_path / "file", [bytes(1000)] * 200)


def test_a_shorter_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_back, "_forget", lambda file, begin, end: os.truncate(file.name, 10))
    with pytest.raises(OSError, match="other bytes"):
        write_in_pieces(tmp_path / "file", [bytes(1000)] * 20)
