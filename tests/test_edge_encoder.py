"""The edge engine's encoder against numpy in double precision, openai/whisper, and the ggml engine."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import reference_encoder
from make_model import PRESETS, Dims, mel_filters, write_random_model
from whisperq_edge import WhisperModel, _core, log_mel_spectrogram
from whisperq_edge._convert.convert import convert_model
from whisperq_edge._edge import EdgeEncoder
from whisperq_edge._errors import AudioError, OptionError, UnknownIsaError, UnsupportedModelError

Floats = npt.NDArray[np.float32]

ISAS = [isa["name"] for isa in _core.isas() if isa["built"] and isa["supported"]]
BLOCK_TYPES = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
SHORT = 200  # audio tokens: double precision is slow
# Shapes that leave parts of tiles and strips empty: n_state of 64 and 192, 128 mels.
SHAPES = {
    "one head": Dims(80, 1500, 64, 1, 2, 448, 64, 1, 1, 51864),
    "three heads": Dims(128, 1500, 192, 3, 2, 448, 192, 3, 1, 51866),
}


def relative_error(found: Any, expected: Any) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def mel() -> Floats:
    """Like a real one in size and smoothness: values from -1 to 1.5, frames that resemble their neighbours."""
    noise = np.random.default_rng(0).standard_normal((128, 3000 + 20))
    smooth = np.apply_along_axis(lambda row: np.convolve(row, np.ones(21) / 21, "valid"), 1, noise)
    return np.clip(smooth * 1.5 + 0.2, -1.0, 1.5).astype(np.float32)


@pytest.fixture(scope="module", params=SHAPES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "f32.bin"
    return write_random_model(path, SHAPES[request.param], "f32", seed=3)


def mel_for(path: Path, mel: Floats) -> Floats:
    return mel[: _core.read_model_file(path).hparams["n_mels"]]


@pytest.mark.parametrize("isa", ISAS)
def test_f32_is_exact(model: Path, mel: Floats, isa: str) -> None:
    expected = reference_encoder.encode(reference_encoder.weights_of(model), mel_for(model, mel), SHORT)
    found = EdgeEncoder(model, isa, 2).encode(mel_for(model, mel), SHORT)
    assert found.dtype == np.float32 and found.shape == expected.shape
    assert relative_error(found, expected) <= 1e-5


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type_name", ["f16", *BLOCK_TYPES])
def test_types_are_as_good_as_in_the_ggml_engine(
    model: Path, mel: Floats, isa: str, type_name: str, tmp_path: Path
) -> None:
    """Against the f32 model: that of f16 is small, that of block types at most 1.05 times what exact arithmetic on
    the quantised weights has, plus that of inputs in 8 bits (as ggml has it: blocks of 32)."""
    made = convert_model(model, tmp_path / "model.bin", type=type_name, proof="tensors").path
    original = reference_encoder.encode(reference_encoder.weights_of(model), mel_for(model, mel), SHORT)
    found = EdgeEncoder(made, isa, 2).encode(mel_for(model, mel), SHORT)
    error = relative_error(found, original)
    if type_name == "f16":
        assert error <= 2e-3
        return
    of_weights = relative_error(
        reference_encoder.encode(reference_encoder.weights_of(made), mel_for(model, mel), SHORT), original
    )
    of_inputs = 0.008 if type_name == "q8_0" else 0.012
    assert error <= 1.05 * np.hypot(of_weights, of_inputs)


@pytest.mark.parametrize("type_name", BLOCK_TYPES)
def test_no_worse_than_ggml_on_the_same_file(type_name: str, tmp_path: Path, sample_pcm: Floats) -> None:
    """Real shapes (tiny), real audio: both engines hear the same samples."""
    from whisperq_edge._convert.probe import run_probe

    f32 = write_random_model(tmp_path / "f32.bin", "tiny.en", "f32", seed=4)
    made = convert_model(f32, tmp_path / "model.bin", type=type_name, proof="tensors").path
    f16 = convert_model(f32, tmp_path / "f16.bin", type="f16", proof="tensors").path
    pcm = np.zeros(480000, np.float32)
    pcm[: len(sample_pcm)] = sample_pcm
    mel = _core.log_mel_spectrogram(pcm, mel_filters(80))
    expected = EdgeEncoder(f32, "auto", 2).encode(mel)  # to 1e-5, see above
    theirs = run_probe(made, pcm, [[50257]], flash_attention=False).audio_features
    assert relative_error(run_probe(f16, pcm, [[50257]], flash_attention=False).audio_features, expected) < 5e-3
    ours = EdgeEncoder(made, "auto", 2).encode(mel)
    assert relative_error(ours, expected) <= 1.05 * relative_error(theirs, expected)


@pytest.mark.parametrize("shape", ["tiny.en", pytest.param("base", marks=pytest.mark.slow)])
def test_openai_whisper_agrees(shape: str, tmp_path: Path, mel: Floats) -> None:
    torch = pytest.importorskip("torch")
    whisper_model = pytest.importorskip("whisper.model")
    path = write_random_model(tmp_path / "f32.bin", PRESETS[shape], "f32", seed=5)
    weights = {name.removeprefix("encoder."): w for name, w in reference_encoder.weights_of(path).items()}
    dims = PRESETS[shape]
    encoder = whisper_model.AudioEncoder(
        dims.n_mels, dims.n_audio_ctx, dims.n_audio_state, dims.n_audio_head, dims.n_audio_layer
    )
    encoder.load_state_dict({name: torch.from_numpy(w).float() for name, w in weights.items()})
    with torch.no_grad():
        theirs = encoder(torch.from_numpy(mel[None, : dims.n_mels]))[0].numpy()
    assert relative_error(EdgeEncoder(path, "auto", 2).encode(mel[: dims.n_mels]), theirs) <= 1e-5


def test_threads_and_calls_give_the_same_bytes(model: Path, mel: Floats) -> None:
    """However the work is cut and whoever does it: nothing is summed in another order."""
    inputs = mel_for(model, mel)
    expected = EdgeEncoder(model, "auto", 1).encode(inputs, 333)
    encoder = EdgeEncoder(model, "auto", 3)
    found: list[Floats] = []
    threads = [threading.Thread(target=lambda: found.append(encoder.encode(inputs, 333))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(np.array_equal(one, expected) for one in found)


@pytest.mark.parametrize("n_ctx", [1, 2, 7, 64, 101])
def test_fewer_audio_tokens(model: Path, mel: Floats, n_ctx: int) -> None:
    inputs = mel_for(model, mel)
    expected = reference_encoder.encode(reference_encoder.weights_of(model), inputs, n_ctx)
    assert relative_error(EdgeEncoder(model, "auto", 2).encode(inputs, n_ctx), expected) <= 1e-5


def test_mixed_types(model: Path, mel: Floats, tmp_path: Path) -> None:
    patterns = ["query=q4_0", "key=f32", "value=f16", r"mlp\.0=q5_1", r"mlp\.2=q8_0"]
    made = convert_model(model, tmp_path / "mixed.bin", type="q8_0", tensor_types=patterns, proof="tensors").path
    expected = reference_encoder.encode(reference_encoder.weights_of(made), mel_for(model, mel), SHORT)
    assert relative_error(EdgeEncoder(made, "auto", 2).encode(mel_for(model, mel), SHORT), expected) < 0.02


def test_what_is_refused(model: Path, mel: Floats, tmp_path: Path) -> None:
    encoder = EdgeEncoder(model, "auto", 2)
    inputs = mel_for(model, mel)
    for wrong in (inputs[:-1], inputs[0], inputs[:, :0]):
        with pytest.raises(AudioError, match="shape"):
            encoder.encode(wrong)
    broken = inputs.copy()
    broken[3, 4] = np.nan
    with pytest.raises(AudioError, match="NaN"):
        encoder.encode(broken)
    for audio_ctx in (-1, 1501):
        with pytest.raises(OptionError, match="audio_ctx"):
            encoder.encode(inputs, audio_ctx)
    with pytest.raises(UnknownIsaError, match="scalar"):
        EdgeEncoder(model, "mmx")
    k_quant = convert_model(
        write_random_model(tmp_path / "wide.bin", Dims(80, 1500, 256, 4, 1, 448, 256, 4, 1, 51864), "f16"),
        tmp_path / "k.bin",
        type="q4_k",
        proof="tensors",
    ).path
    with pytest.raises(UnsupportedModelError, match="q4_k"):
        EdgeEncoder(k_quant)


def test_the_model_encodes_audio_and_spectrograms(sample_pcm: Floats, sample_path: Path) -> None:
    with WhisperModel("nano", device="cpu") as model:
        features = model.encode(sample_path)
        assert features.shape == (1500, model.dims["n_audio_state"])
        window = np.pad(sample_pcm, (0, 480000 - len(sample_pcm)))
        np.testing.assert_array_equal(model.encode(log_mel_spectrogram(window)), features)
        assert model.encode(sample_path, audio_ctx=100).shape[0] == 100
