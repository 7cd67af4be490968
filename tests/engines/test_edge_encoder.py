"""The edge engine's encoder against numpy in double precision, openai/whisper, and the ggml engine."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import WhisperModel, _core, log_mel_spectrogram
from whisperq_edge._convert.convert import convert_model
from whisperq_edge._engines.core_model import CoreModel
from whisperq_edge._errors import AudioError, InternalError, OptionError, UnknownIsaError, UnsupportedModelError
from whisperq_edge._system.native import load_ggml

from tests.support import reference_encoder
from tests.support.arithmetic import relative_error
from tests.support.instruction_sets import each_isa, runnable_isas
from tests.support.make_model import PRESETS, Dims, mel_filters, write_random_model
from tests.support.sanitizers import not_with_sanitizers

Floats = npt.NDArray[np.float32]

ISAS = runnable_isas()
BLOCK_TYPES = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
SHORT = 200  # audio tokens: double precision is slow
# Shapes that leave parts of tiles and strips empty: n_state of 64 and 192, 128 mels.
SHAPES = {
    "one head": Dims(80, 1500, 64, 1, 2, 448, 64, 1, 1, 51864),
    "three heads": Dims(128, 1500, 192, 3, 2, 448, 192, 3, 1, 51866),
}


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


def encoder_of(path: Path, isa: str = "auto", n_threads: int = 2) -> CoreModel:
    return CoreModel(_core.read_model_file(path), isa, n_threads)


def mel_for(path: Path, mel: Floats) -> Floats:
    return mel[: _core.read_model_file(path).hparams["n_mels"]]


@pytest.mark.parametrize("isa", each_isa())
def test_f32_is_exact(model: Path, mel: Floats, isa: str) -> None:
    expected = reference_encoder.encode(reference_encoder.weights_of(model), mel_for(model, mel), SHORT)
    found = encoder_of(model, isa, 2).encode_checked(mel_for(model, mel), SHORT)
    assert found.dtype == np.float32 and found.shape == expected.shape
    assert relative_error(found, expected) <= 1e-5


@pytest.mark.parametrize("isa", each_isa())
@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_weights_that_are_no_numbers_do_no_harm(value: float, isa: str, mel: Floats, tmp_path: Path) -> None:
    """One bias of the MLP, so that a value that no integer stands for is quantised beside others."""
    path = write_random_model(tmp_path / "model.bin", SHAPES["one head"], "q8_0")
    bias = next(t for t in _core.read_model_file(path).tensors if t.name == "encoder.blocks.1.mlp.0.bias")
    with path.open("r+b") as file:
        file.seek(bias.offset + 4 * 5)
        file.write(np.array([value], "<f4").tobytes())
    assert encoder_of(path, isa, 2).encode_checked(mel_for(path, mel), SHORT).shape == (SHORT, 64)


@pytest.mark.parametrize("isa", each_isa())
def test_f16_is_close(model: Path, mel: Floats, isa: str, tmp_path: Path) -> None:
    made = convert_model(model, tmp_path / "model.bin", type="f16", proof="tensors").path
    expected = reference_encoder.encode(reference_encoder.weights_of(model), mel_for(model, mel), SHORT)
    assert relative_error(encoder_of(made, isa, 2).encode_checked(mel_for(model, mel), SHORT), expected) <= 2e-3


# ---- The ggml engine -------------------------------------------------------------------------------------------------


class Window(NamedTuple):
    """A model in f32, 30 s, and what exact arithmetic makes of them."""

    model: Path
    pcm: Floats
    mel: Floats
    expected: npt.NDArray[np.float64]
    isas: list[str]


def slow(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow)


LARGE_V3_OF_TWO_LAYERS = Dims(128, 1500, 1280, 20, 2, 448, 1280, 20, 1, 51866)
HEARD = {
    "micro": PRESETS["micro"],
    "three heads": SHAPES["three heads"],
    **{name: PRESETS[name] for name in ("tiny", "base", "small")},
    "large-v3 of two layers": LARGE_V3_OF_TWO_LAYERS,
}


@pytest.fixture(scope="module", params=[name if name in ("micro", "three heads") else slow(name) for name in HEARD])
def window(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sample_pcm: Floats) -> Window:
    dims = HEARD[request.param]
    path = write_random_model(tmp_path_factory.mktemp("heard") / "f32.bin", dims, "f32", seed=4)
    pcm = np.zeros(480000, np.float32)
    pcm[: len(sample_pcm)] = sample_pcm
    mel = _core.log_mel_spectrogram(pcm, mel_filters(dims.n_mels))
    expected = reference_encoder.encode(reference_encoder.weights_of(path), mel, dims.n_audio_ctx)
    # What the kernels of each ISA are worth shows on small models; on large ones the best shows what it adds up to.
    return Window(path, pcm, mel, expected, ISAS if dims.n_audio_state < 384 else ISAS[-1:])


def heard_by_ggml(path: Path, pcm: Floats) -> Floats:
    from whisperq_edge._convert.probe import run_probe

    # The decoder gets any token. Fused attention leaves padding unmasked: it is off by more than q8_0 is.
    return run_probe(path, pcm, [[50257]], n_threads=1, flash_attention=False).audio_features


def test_f32_is_exact_on_a_window(window: Window) -> None:
    for isa in window.isas:
        error = relative_error(encoder_of(window.model, isa, 2).encode_checked(window.mel), window.expected)
        print(f"{isa}: {error:.1e}")
        assert error <= 1e-5, isa


def test_the_ggml_engine_hears_the_same(window: Window, tmp_path: Path) -> None:
    """Or its errors would be no measure of ours."""
    f16 = convert_model(window.model, tmp_path / "f16.bin", type="f16", proof="tensors").path
    assert relative_error(heard_by_ggml(f16, window.pcm), window.expected) < 5e-3


@pytest.mark.parametrize("type_name", BLOCK_TYPES)
def test_types_are_as_good_as_in_the_ggml_engine(window: Window, type_name: str, tmp_path: Path) -> None:
    """The errors of both engines on the same file, each against the f32 model in exact arithmetic."""
    made = convert_model(window.model, tmp_path / "model.bin", type=type_name, proof="tensors").path
    theirs = relative_error(heard_by_ggml(made, window.pcm), window.expected)
    for isa in window.isas:
        ours = relative_error(encoder_of(made, isa, 2).encode_checked(window.mel), window.expected)
        print(f"{isa}: {ours:.5f}, ggml: {theirs:.5f}, ratio {ours / theirs:.3f}")
        assert ours <= 1.05 * theirs, isa


# ---- openai/whisper --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["tiny.en", *map(slow, ("tiny", "base", "small"))])
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
    inputs = mel[: dims.n_mels]
    with torch.no_grad():
        theirs = encoder(torch.from_numpy(inputs[None]))[0].numpy()
    f16 = convert_model(path, tmp_path / "f16.bin", type="f16", proof="tensors").path
    for file, most in ((path, 1e-5), (f16, 2e-3)):
        error = relative_error(encoder_of(file, "auto", 2).encode_checked(inputs), theirs)
        print(f"{shape} {file.stem}: {error:.1e}")
        assert error <= most, file.stem


# ---- Whatever the call -----------------------------------------------------------------------------------------------


def test_threads_and_calls_give_the_same_bytes(model: Path, mel: Floats) -> None:
    """However the work is cut and whoever does it: nothing is summed in another order."""
    inputs = mel_for(model, mel)
    expected = encoder_of(model, "auto", 1).encode_checked(inputs, 333)
    encoder = encoder_of(model, "auto", 3)
    found: list[Floats] = []
    threads = [threading.Thread(target=lambda: found.append(encoder.encode_checked(inputs, 333))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(np.array_equal(one, expected) for one in found)


@pytest.mark.parametrize("n_ctx", [1, 2, 7, 64, 101])
def test_fewer_audio_tokens(model: Path, mel: Floats, n_ctx: int) -> None:
    inputs = mel_for(model, mel)
    expected = reference_encoder.encode(reference_encoder.weights_of(model), inputs, n_ctx)
    assert relative_error(encoder_of(model, "auto", 2).encode_checked(inputs, n_ctx), expected) <= 1e-5


@pytest.mark.parametrize("isa", each_isa())
@pytest.mark.parametrize("n_ctx", [32, 160])
def test_short_audio_is_encoded_with_pools_of_silence_behind_it(model: Path, mel: Floats, n_ctx: int, isa: str) -> None:
    inputs = mel_for(model, mel)
    expected = reference_encoder.encode_short(reference_encoder.weights_of(model), inputs, n_ctx)
    native = _core.EdgeModel(str(model), isa, 2)
    assert native.learn_silence()
    found = native.encode_short(inputs, n_ctx)
    assert found is not None and found.shape == expected.shape
    assert relative_error(found, expected) <= 1e-5


@pytest.mark.parametrize("isa", each_isa())
@pytest.mark.parametrize("type", ["f16", "q8_0"])
def test_the_decoder_hears_silence_behind_short_audio(tmp_path: Path, mel: Floats, type: str, isa: str) -> None:
    """What it would hear of the whole window, if the features of its end were those of a silent window."""
    path = write_random_model(tmp_path / "model.bin", "micro", type)
    native = _core.EdgeModel(str(path), isa, 2)
    native.learn_silence()
    inputs, most = mel_for(path, mel), native.hparams["n_audio_ctx"]
    own = native.encode_short(inputs, 160)
    silent = native.encode(np.full((len(inputs), 2 * most), reference_encoder.SILENCE, np.float32), most)
    heard = native.listen_short(own)
    expected = native.listen(np.vstack([own, silent[160:]]))
    assert heard.n_ctx == most and heard.n_bytes == expected.n_bytes
    of_heard, of_expected, of_own = (
        native.logits(audio, [50258, 50363, 11, 12, 13]) for audio in (heard, expected, native.listen(own))
    )
    assert relative_error(of_heard, of_expected) <= 1e-5 < 1e-3 <= relative_error(of_own, of_expected)


def test_silence_is_learned_once(model: Path, mel: Floats) -> None:
    """Whatever was encoded before, and in whichever process: the same bytes."""
    inputs = mel_for(model, mel)
    native = _core.EdgeModel(str(model), "auto", 2)
    assert native.silence == []
    with pytest.raises(InternalError, match="before silence was learned"):
        native.encode_short(inputs, 64)
    assert not native.learn_silence(lambda: True) and native.silence == []
    assert native.learn_silence()
    first = native.encode_short(inputs, 64)
    native.encode(inputs[:, 500:], 700)
    assert np.array_equal(native.encode_short(inputs, 64), first)
    other = _core.EdgeModel(str(model), "auto", 2)
    other.set_silence(b"".join(part.tobytes() for part in native.silence))
    assert np.array_equal(other.encode_short(inputs, 64), first)
    with pytest.raises(ValueError, match="bytes, not 3"):
        other.set_silence(b"abc")


def test_mixed_types(model: Path, mel: Floats, tmp_path: Path) -> None:
    patterns = ["query=q4_0", "key=f32", "value=f16", r"mlp\.0=q5_1", r"mlp\.2=q8_0"]
    made = convert_model(model, tmp_path / "mixed.bin", type="q8_0", tensor_types=patterns, proof="tensors").path
    expected = reference_encoder.encode(reference_encoder.weights_of(made), mel_for(model, mel), SHORT)
    assert relative_error(encoder_of(made, "auto", 2).encode_checked(mel_for(model, mel), SHORT), expected) < 0.02


def test_what_is_refused(model: Path, mel: Floats, tmp_path: Path) -> None:
    encoder = encoder_of(model, "auto", 2)
    inputs = mel_for(model, mel)
    for wrong in (inputs[:-1], inputs[0], inputs[:, :0]):
        with pytest.raises(AudioError, match="shape"):
            encoder.encode_checked(wrong)
    broken = inputs.copy()
    broken[3, 4] = np.nan
    with pytest.raises(AudioError, match="NaN"):
        encoder.encode_checked(broken)
    for audio_ctx in (-1, 1501):
        with pytest.raises(OptionError, match="audio_ctx"):
            encoder.encode_checked(inputs, audio_ctx)
    with pytest.raises(UnknownIsaError, match="scalar"):
        encoder_of(model, "mmx")
    k_quant = convert_model(
        write_random_model(tmp_path / "wide.bin", Dims(80, 1500, 256, 4, 1, 448, 256, 4, 1, 51864), "f16"),
        tmp_path / "k.bin",
        type="q4_k",
        proof="tensors",
    ).path
    with pytest.raises(UnsupportedModelError, match="q4_k"):
        encoder_of(k_quant)


def test_the_model_encodes_audio_and_spectrograms(sample_pcm: Floats, sample_path: Path) -> None:
    with WhisperModel("nano", device="cpu") as model:
        features = model.encode(sample_path)
        assert features.shape == (1500, model.dims["n_audio_state"])
        window = np.pad(sample_pcm, (0, 480000 - len(sample_pcm)))
        np.testing.assert_array_equal(model.encode(log_mel_spectrogram(window)), features)
        assert model.encode(sample_path, audio_ctx=100).shape[0] == 100


@pytest.mark.parametrize("audio_ctx", [1, 250, 700, 1499])
def test_fewer_audio_tokens_are_those_of_whisper_cpp(audio_ctx: int, tmp_path: Path, sample_pcm: Floats) -> None:
    """Its ``audio_ctx``, on an f16 model: the same computation, to what f16 operands leave of it in whisper.cpp."""
    path = write_random_model(tmp_path / "f16.bin", "micro", "f16", seed=6)
    window = np.pad(sample_pcm, (0, 480000 - len(sample_pcm)))
    theirs = load_ggml().Engine(str(path), False, 0, False).probe(window, [], n_threads=2, audio_ctx=audio_ctx)
    ours = encoder_of(path, "auto", 2).encode_checked(log_mel_spectrogram(window), audio_ctx)
    assert ours.shape == theirs["audio_features"].shape == (audio_ctx, ours.shape[1])
    assert relative_error(ours, theirs["audio_features"]) < 5e-3


_PEAK = """
import sys
import numpy as np
from whisperq_edge import _core
from whisperq_edge._system.process import peak_rss_bytes
file_bytes = _core.read_model_file(sys.argv[1]).file_bytes
model = _core.EdgeModel(sys.argv[1], "auto", 2)
model.encode(np.zeros((80, 3000), np.float32), 1500)
print(file_bytes, peak_rss_bytes())
"""


@not_with_sanitizers("peak memory: theirs counts too")
@pytest.mark.parametrize("type_name", ["q8_0", "q5_0", "q4_0"])
@pytest.mark.parametrize("shape", ["tiny", pytest.param("small", marks=pytest.mark.slow)])
def test_memory_is_little_more_than_the_file(shape: str, type_name: str, tmp_path: Path) -> None:
    """Peak RSS of a process with Python and numpy that loads a model and encodes a window."""
    path = write_random_model(tmp_path / "model.bin", shape, type_name)
    done = subprocess.run([sys.executable, "-c", _PEAK, str(path)], capture_output=True, text=True, check=True)
    file_bytes, peak_bytes = map(int, done.stdout.split())
    assert peak_bytes <= 1.15 * file_bytes + 60e6
