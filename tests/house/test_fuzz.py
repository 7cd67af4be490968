"""The corpus of the fuzzers through every Python reader, without the fuzzer; ``make fuzz`` does the rest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NoReturn

import pytest

from tests.fuzz import targets
from tests.fuzz.pieces import CUT, DROP, ERASE, HOLE, INSERT, REPEAT, REPLACE, SWAP, Piece, edit_all, write
from tests.fuzz.run import NATIVE, PYTHON
from tests.fuzz.seeds import SEEDS
from tests.fuzz.targets import TARGETS
from tests.support.paths import TESTS

CORPUS = TESTS / "fuzz" / "corpus"
MOST_CORPUS_BYTES = 1 << 19


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_the_corpus_holds_nothing_that_a_reader_trips_over(target: str) -> None:
    """Any error but a ModelError comes out of ``run``. Only what its name calls whole may be read."""
    paths = sorted((CORPUS / target).iterdir())
    assert paths
    for path in paths:
        is_read = TARGETS[target].run(path.read_bytes())
        is_by_hand = not re.fullmatch(r"[0-9a-f]{40}", path.name)  # what a fuzzer found is named by its sha1
        assert not is_by_hand or is_read == path.name.startswith("whole"), path.name


def test_each_target_reaches_the_end_of_its_reader() -> None:
    for target in TARGETS:
        assert any(path.name.startswith("whole") for path in (CORPUS / target).iterdir()), target


def test_the_seeds_are_those_of_the_script() -> None:
    assert set(SEEDS) == {NATIVE, *PYTHON} == {NATIVE, *TARGETS}
    for target, make in SEEDS.items():
        for name, data in make().items():
            assert (CORPUS / target / name).read_bytes() == data, f"run tests/fuzz/seeds.py: {target}/{name} is old"


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < MOST_CORPUS_BYTES


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), KeyError("x"), OSError("x")])
def test_what_is_no_model_error_is_a_finding(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(targets, "read_pickle", fail)
    with pytest.raises(type(error)):
        TARGETS["pickle"].run(b"")


def test_what_breaks_a_terminal_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise targets.ModelFormatError("model.pt", 0, "name", "\x1b[2J", "text")

    monkeypatch.setattr(targets, "read_pickle", fail)
    with pytest.raises(AssertionError, match="terminal"):
        TARGETS["pickle"].run(b"")


def test_edits(tmp_path: Path) -> None:
    """What fuzz_model_file.cpp does with the same bytes, operation by operation."""
    pieces = [Piece(b"abcd", 2), Piece(b"efgh"), Piece(b"ij", 1)]

    def after(operation: int, piece: int, offset: int, data: bytes) -> bytes:
        script = bytes([operation, piece, offset, 0, len(data)]) + data
        write(tmp_path / "file", edit_all(pieces, script))
        return (tmp_path / "file").read_bytes()

    assert after(REPLACE, 1, 3, b"XYZ") == b"abcd\0\0efgXij\0"
    assert after(INSERT, 1, 1, b"XYZ") == b"abcd\0\0eXYZfghij\0"
    assert after(ERASE, 0, 1, b"??") == b"ad\0\0efghij\0"
    assert after(HOLE, 4, 0, b"\3\0") == b"abcd\0\0efgh\0\0\0ij\0"  # 4 is 1, of three pieces
    assert after(DROP, 0, 0, b"") == b"efghij\0"
    assert after(REPEAT, 2, 0, b"") == b"abcd\0\0efghij\0ij\0"
    assert after(SWAP, 0, 2, b"") == b"ij\0efghabcd\0\0"
    assert after(CUT, 1, 2, b"") == b"abcd\0\0ef"
    assert edit_all(pieces, b"") == pieces
