"""Two hundred damaged copies of a small model: each is a ``ModelFormatError``, none costs memory or the process.

A flipped bit inside the text of a token or inside a weight leaves a whole file of the same layout. No reader can see
it, and it is not among the damages here.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from whisperq_edge._core import ModelFile, read_model_file
from whisperq_edge._errors import ModelFormatError

from tests.support.arithmetic import flipped
from tests.support.model_layout import HPARAMS, N_FFT_AT, N_MEL_AT, hparam_at, put_i32, tensor_fields, token_offsets
from tests.support.paths import ROOT
from tests.support.sanitizers import SANITIZERS

Copy = tuple[str, bytes]

HUGE = 2**31 - 1
SMALLEST = -(2**31)
N_COPIES = 200
MOST_GROWTH_BYTES = 64 * 2**20


def _flip_in_i32(data: bytes, at: int, rng: random.Random) -> bytes:
    return flipped(data, at + rng.randrange(4), rng.randrange(8))


def _truncated(data: bytes, model: ModelFile, rng: random.Random) -> Iterator[Copy]:
    tensors = [tensor_fields(tensor) for tensor in model.tensors]
    lengths = {0, 1, 4, 47, 48, N_MEL_AT + 2, N_FFT_AT + 4, model.mel_filters_offset + 1000}
    lengths |= {model.vocabulary_offset, model.vocabulary_offset + 4, model.vocabulary_offset + 1001}
    lengths |= {at.n_dims + rng.randrange(12) for at in rng.sample(tensors, 6)}
    lengths |= {at.name + 1 for at in rng.sample(tensors, 3)} | {at.data for at in rng.sample(tensors, 3)}
    lengths |= {rng.randrange(at.data, at.end) for at in rng.sample(tensors, 6)} | {len(data) - 1}
    for length in sorted(lengths):
        yield f"cut to {length} bytes", data[:length]


def _wrong_header(data: bytes, rng: random.Random) -> Iterator[Copy]:
    fields = [("magic", 0), *((name, hparam_at(name)) for name in HPARAMS), ("n_mel", N_MEL_AT), ("n_fft", N_FFT_AT)]
    for name, at in fields:
        yield f"{name} with a flipped bit", _flip_in_i32(data, at, rng)
        for value in (-1, HUGE, SMALLEST):
            yield f"{name} is {value}", put_i32(data, at, value)


def _wrong_vocabulary(data: bytes, model: ModelFile, rng: random.Random) -> Iterator[Copy]:
    for value in (0, model.n_tokens - 1, model.n_tokens + 1, HUGE, SMALLEST):
        yield f"vocabulary of {value}", put_i32(data, model.vocabulary_offset, value)
    for at in rng.sample(token_offsets(model), 25):
        yield f"token length at {at} with a flipped bit", _flip_in_i32(data, at, rng)
    for value in (HUGE, SMALLEST):
        at = rng.choice(token_offsets(model))
        yield f"token length at {at} is {value}", put_i32(data, at, value)


def _wrong_tensors(data: bytes, model: ModelFile, rng: random.Random) -> Iterator[Copy]:
    for tensor in rng.sample(model.tensors, 4):
        at = tensor_fields(tensor)
        for field in ("n_dims", "name_length", "type", "dims"):
            start = getattr(at, field)
            yield f"{field} of {tensor.name} with a flipped bit", _flip_in_i32(data, start, rng)
            yield f"{field} of {tensor.name} is huge", put_i32(data, start, HUGE)
        in_name = at.name + rng.randrange(len(tensor.name))
        yield f"name of {tensor.name} with a flipped bit", flipped(data, in_name, rng.randrange(8))


def _wrong_table(data: bytes, model: ModelFile, rng: random.Random) -> Iterator[Copy]:
    for tensor in rng.sample(model.tensors, 4):
        at = tensor_fields(tensor)
        yield f"{tensor.name} removed", data[: at.n_dims] + data[at.end :]
        yield f"{tensor.name} twice", data[: at.end] + data[at.n_dims :]
        yield f"{tensor.name} again at the end", data + data[at.n_dims : at.end]
    for extra in (b"\0", b"\0" * 11, b"\0" * 12, b"\xff" * 4096):
        yield f"{len(extra)} bytes appended", data + extra


def damaged_copies(data: bytes, model: ModelFile) -> Iterator[Copy]:
    """Name and bytes of each copy, the same ones on every run; what is left up to the count is flipped bits."""
    rng = random.Random(2024)
    n_yielded = 0
    groups = (
        _truncated(data, model, rng),
        _wrong_header(data, rng),
        _wrong_vocabulary(data, model, rng),
        _wrong_tensors(data, model, rng),
        _wrong_table(data, model, rng),
    )
    for group in groups:
        for copy in group:
            yield copy
            n_yielded += 1
    for i in range(n_yielded, N_COPIES):
        at = hparam_at(rng.choice(HPARAMS))
        yield f"header at {at} with a flipped bit ({i})", _flip_in_i32(data, at, rng)


def test_there_are_two_hundred_and_each_is_damaged(micro_en_path: Path) -> None:
    data = micro_en_path.read_bytes()
    names: list[str] = []
    for name, copy in damaged_copies(data, read_model_file(micro_en_path)):
        assert copy != data, name
        names.append(name)
    assert len(names) == len(set(names)) == N_COPIES


def test_the_reader_refuses_each(micro_en_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.bin"
    accepted = []
    for name, copy in damaged_copies(micro_en_path.read_bytes(), read_model_file(micro_en_path)):
        path.write_bytes(copy)
        try:
            read_model_file(path)
        except ModelFormatError as error:
            assert error.path == str(path) and error.offset <= len(copy), name
            assert error.field and error.value and error.allowed, name
        else:
            accepted.append(name)
    assert accepted == []


# Runs in a process of its own, so that one that dies is seen. Says what it is about to open before it does.
_OPEN_EACH = """
import resource, sys
from pathlib import Path
from tests.native.test_damage import damaged_copies
from whisperq_edge import WhisperModel
from whisperq_edge._core import read_model_file
from whisperq_edge._errors import ModelFormatError

def peak_bytes():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak

model, path = Path(sys.argv[1]), Path(sys.argv[2])
data, layout = model.read_bytes(), read_model_file(model)
for name, copy in damaged_copies(data, layout):
    path.write_bytes(copy)
before = peak_bytes()
for name, copy in damaged_copies(data, layout):
    path.write_bytes(copy)
    print("opening", name, flush=True)
    try:
        WhisperModel(path)
    except ModelFormatError:
        print("refused", flush=True)
print("growth", peak_bytes() - before)
"""


def test_whisper_model_refuses_each_and_survives(micro_en_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    run = subprocess.run(
        [sys.executable, "-c", _OPEN_EACH, str(micro_en_path), str(tmp_path / "damaged.bin")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = run.stdout.splitlines()
    assert run.returncode == 0, "\n".join([*lines[-2:], run.stderr[-2000:]])
    outcomes = lines[:-1]
    followed = zip(outcomes, [*outcomes[1:], ""])
    accepted = [line for line, next_line in followed if line != "refused" and next_line != "refused"]
    assert accepted == []
    assert outcomes.count("refused") == N_COPIES
    assert SANITIZERS or int(lines[-1].split()[1]) < MOST_GROWTH_BYTES  # they keep what was freed
