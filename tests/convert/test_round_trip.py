"""Round trips through ggml: what comes back is what went in, to the bit, at f16; and the answers of the original."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whisperq_edge._convert.convert import convert_model
from whisperq_edge._convert.readers.ggml import open_ggml
from whisperq_edge._convert.readers.huggingface import write_huggingface
from whisperq_edge._convert.readers.openai import write_openai

from tests.support.make_model import PRESETS, write_random_model

MICRO = ("micro.en", "micro")
SMALL = ("tiny", "base")
LARGE = ("small", "large-v3", "large-v3-turbo")


def _shapes() -> list[Any]:
    return [*MICRO, *SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]


def _convert(source: Path, destination: Path, **options: Any) -> Path:
    return convert_model(source, destination, proof="tensors", **options).path


def _needs_disk(folder: Path, shape: str) -> None:
    needed = {"large-v3": 11e9, "large-v3-turbo": 6e9, "small": 2e9}.get(shape, 1e9)
    if shutil.disk_usage(folder).free < needed:
        pytest.skip(f"needs {needed / 1e9:.0f} GB of disk")


def _same(a: Path, b: Path) -> bool:
    if a.stat().st_size != b.stat().st_size:
        return False
    with open(a, "rb") as first, open(b, "rb") as second:
        while block := first.read(1 << 22):
            if block != second.read(1 << 22):
                return False
    return True


@pytest.mark.parametrize("shape", _shapes())
def test_openai_to_ggml_to_openai(shape: str, tmp_path: Path) -> None:
    _needs_disk(tmp_path, shape)
    seed = write_random_model(tmp_path / "seed.bin", PRESETS[shape], "f16", seed=5)
    write_openai(open_ggml(seed), tmp_path / "one.pt", "f16")
    seed.unlink()
    ggml = _convert(tmp_path / "one.pt", tmp_path / "two.bin", type="f16")
    _convert(ggml, tmp_path / "three.pt", to="openai")
    assert _same(tmp_path / "one.pt", tmp_path / "three.pt")


@pytest.mark.parametrize("shape", _shapes())
def test_huggingface_to_ggml_to_huggingface(shape: str, tmp_path: Path) -> None:
    _needs_disk(tmp_path, shape)
    seed = write_random_model(tmp_path / "seed.bin", PRESETS[shape], "f16", seed=6)
    write_huggingface(open_ggml(seed), tmp_path / "one", "f16")
    seed.unlink()
    ggml = _convert(tmp_path / "one", tmp_path / "two.bin", type="f16")
    _convert(ggml, tmp_path / "three", to="safetensors")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert "model.safetensors" in names and "config.json" in names
    assert names == sorted(path.name for path in (tmp_path / "three").iterdir())
    for name in ("model.safetensors", "config.json"):
        assert _same(tmp_path / "one" / name, tmp_path / "three" / name), name


def test_every_format_gives_the_same_ggml_file(tmp_path: Path) -> None:
    """The way does not show: ggml, .pt and folder of the same weights are the same q5_0 file, but for the order."""
    seed = write_random_model(tmp_path / "seed.bin", PRESETS["micro"], "f16", seed=7)
    write_openai(open_ggml(seed), tmp_path / "model.pt", "f16")
    write_huggingface(open_ggml(seed), tmp_path / "folder", "f16")
    through_pt = _convert(tmp_path / "model.pt", tmp_path / "pt.bin", type="q5_0")
    through_folder = _convert(tmp_path / "folder", tmp_path / "hf.bin", type="q5_0")
    by_name = [{t.name: t.read_rows(0, t.n_rows) for t in open_ggml(p).tensors} for p in (through_pt, through_folder)]
    assert by_name[0] == by_name[1]


@pytest.mark.parametrize("shape", ["micro.en", pytest.param("tiny.en", marks=pytest.mark.slow)])
def test_the_engine_answers_as_openai_does_on_the_source(shape: str, tmp_path: Path, sample_pcm: Any) -> None:
    """An OpenAI checkpoint in torch (float32 arithmetic) and, converted to f16, in our engine: the same logits.

    Tolerance: weights are f16 in both. whisper.cpp rounds activations to f16 (2^-11 relative) before each product and
    once more after; over the 10 products in a row of a one-layer encoder and decoder (28 for four layers) that adds up
    to about sqrt(products) * 2^-11 of the logits' size, and a factor of four is left for sums that cancel.
    """
    torch = pytest.importorskip("torch")
    whisper = pytest.importorskip("whisper")
    from whisperq_edge._convert.probe import run_probe

    seed = write_random_model(tmp_path / "seed.bin", PRESETS[shape], "f16", seed=8)
    write_openai(open_ggml(seed), tmp_path / "model.pt", "f16")
    ggml = _convert(tmp_path / "model.pt", tmp_path / "model.bin", type="f16")

    original = whisper.load_model(str(tmp_path / "model.pt"), device="cpu").float()
    sequence = [50257, 50362, *np.random.default_rng(9).integers(0, 50000, 30).tolist()]
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(sample_pcm))[None]
    with torch.no_grad():
        features = original.encoder(mel)
        theirs = original.decoder(torch.tensor([sequence]), features)[0].numpy()
    ours = run_probe(ggml, sample_pcm, [sequence], n_threads=1, flash_attention=False)

    products = 10 if shape == "micro.en" else 28
    tolerance = 4 * np.sqrt(products) * 2**-11
    for name, mine, other in (
        ("features", ours.audio_features, features[0].numpy()),
        ("logits", ours.logits[0], theirs),
    ):
        error = np.linalg.norm(mine - other) / np.linalg.norm(other)
        assert error <= tolerance, f"{name}: relative error {error:.2e}, tolerance {tolerance:.2e}"
