"""What a model makes of silence, remembered from one process to the next."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whisperq_edge import _core
from whisperq_edge._engines.core_model import CoreModel
from whisperq_edge._system.arrays import Floats

from tests.support.make_model import write_random_model


def go_on() -> bool:
    return False


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    return write_random_model(tmp_path / "model.bin", "micro", "q8_0", seed=7)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WHISPERQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("silence-*.bin"))


def features(path: Path) -> Floats:
    model = CoreModel(_core.read_model_file(path), n_threads=1)
    mel = np.zeros((80, 400), np.float32)
    found = model.encode_short(mel, 64, go_on)
    assert found is not None and model.listen_short(found, go_on).n_ctx == 1500
    return found


def count_learning(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows whenever a model encodes a silent window."""
    learned: list[int] = []
    original = _core.EdgeModel.learn_silence

    def learn(model: Any, should_stop: Any = None) -> bool:
        learned.append(1)
        return original(model, should_stop)

    monkeypatch.setattr(_core.EdgeModel, "learn_silence", learn)
    return learned


def test_the_next_process_finds_it(model_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learned = count_learning(monkeypatch)
    first = features(model_path)
    assert len(kept(folder)) == 1 and len(learned) == 1
    assert np.array_equal(features(model_path), first)
    assert len(learned) == 1


@pytest.mark.parametrize("damage", ["cut", "one bit", "empty", "of another model"])
def test_a_damaged_file_is_not_believed(
    model_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, damage: str, tmp_path: Path
) -> None:
    first = features(model_path)
    [path] = kept(folder)
    whole = path.read_bytes()
    if damage == "of another model":
        features(write_random_model(tmp_path / "other.bin", "tiny", "q8_0"))
        [other] = [each for each in kept(folder) if each != path]
        path.write_bytes(other.read_bytes())
    else:
        changed = bytes([whole[1000] ^ 1])
        path.write_bytes(
            {"cut": whole[:-1], "one bit": whole[:1000] + changed + whole[1001:], "empty": b""}[damage],
        )
    learned = count_learning(monkeypatch)
    assert np.array_equal(features(model_path), first)
    assert len(learned) == 1 and path.read_bytes() == whole


def test_another_model_at_the_same_place_is_another_key(model_path: Path, folder: Path) -> None:
    first, status = features(model_path), model_path.stat()
    write_random_model(model_path, "micro", "q8_0", seed=8)
    os.utime(model_path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert model_path.stat().st_size == status.st_size
    assert not np.array_equal(features(model_path), first) and len(kept(folder)) == 2


def test_where_nothing_can_be_written_each_model_learns(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("WHISPERQ_CACHE", str(tmp_path / "file" / "cache"))
    learned = count_learning(monkeypatch)
    assert np.array_equal(features(model_path), features(model_path))
    assert len(learned) == 2


def test_a_stop_leaves_nothing(model_path: Path, folder: Path) -> None:
    model = CoreModel(_core.read_model_file(model_path), n_threads=1)
    mel = np.zeros((80, 400), np.float32)
    assert model.encode_short(mel, 64, lambda: True) is None
    assert kept(folder) == []
    assert model.encode_short(mel, 64, go_on) is not None
