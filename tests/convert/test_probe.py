"""A model looked at from inside: the native probe, and the process of its own that runs it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import (
    AudioError,
    CancelledError,
    InferenceError,
    ModelFormatError,
    ModelNotFoundError,
    OptionError,
    UnsupportedModelError,
    WhisperModel,
    _core,
)
from whisperq_edge._convert.probe import probe_statistics, run_probe
from whisperq_edge._system.native import data_file, load_ggml
from whisperq_edge._whisper.dims import end_of_text, prompt_tokens

from tests.support import make_model
from tests.support.make_model import PRESETS, Dims, tensor_shapes, write_random_model
from tests.support.processes import children_of, is_running, start_interruptible, wait_for
from tests.support.sanitizers import not_with_sanitizers

Floats = npt.NDArray[np.float32]

PROMPT = [50258, 50259, 50359, 50363]  # of `micro`
TOKENS = [*PROMPT, 440, 2068, 7586, 21831, 35308, 287, 1353, 13, 50257]
NANO = data_file("assets/ggml-nano.en.bin")

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def sqnr_db(expected: Floats, found: Floats) -> float:
    expected, found = expected.astype(np.float64), found.astype(np.float64)
    error = float(((expected - found) ** 2).sum())
    return float("inf") if error == 0 else 10 * float(np.log10((expected**2).sum() / error))


def weights_of(dims: Dims, ftype: str = "f16", seed: int = 0) -> dict[str, Floats]:
    """What ``write_random_model`` wrote for these arguments, as the model holds it."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in tensor_shapes(dims):
        values = make_model._random_values(name, shape, rng)
        if make_model._type_of(name, shape, ftype) == "f16":
            values = values.astype(np.float16).astype(np.float32)
        weights[name] = values.reshape(shape[0]) if shape[-1] == 1 else values
    return weights


@pytest.fixture(scope="module")
def engine(multilingual_path: Path) -> Any:
    """Without fused attention, which looks at padding, too."""
    return load_ggml().Engine(str(multilingual_path), False, 0, False)


@pytest.fixture(scope="module")
def seen(engine: Any, sample_pcm: Floats) -> dict[str, Any]:
    found: dict[str, Any] = engine.probe(sample_pcm, [TOKENS], n_threads=1, statistics=True)
    return found


# --- the native probe -------------------------------------------------------------------------------------------------


def test_shapes_types_and_times(seen: dict[str, Any]) -> None:
    assert seen["audio_features"].shape == (1500, 64) and seen["audio_features"].dtype == np.float32
    [logits] = seen["logits"]
    assert logits.shape == (len(TOKENS), 51865) and logits.dtype == np.float32
    assert np.isfinite(logits).all() and seen["encode_ms"] > 0 and seen["decode_ms"] > 0


def test_the_layer_norm_at_the_encoders_end_shows_the_layout(seen: dict[str, Any]) -> None:
    features = seen["audio_features"].astype(np.float64)
    assert np.abs(features.mean(axis=1)).max() < 1e-5
    assert np.abs(features.var(axis=1) - 1).max() < 1e-3


def test_a_prefix_gives_the_first_rows(engine: Any, seen: dict[str, Any], sample_pcm: Floats) -> None:
    again = engine.probe(sample_pcm, [TOKENS[:6], TOKENS], n_threads=1)
    assert sqnr_db(seen["logits"][0][:6], again["logits"][0]) > 60
    assert np.array_equal(seen["logits"][0], again["logits"][1]), "one sequence must not see another"
    assert np.array_equal(seen["audio_features"], again["audio_features"]), "statistics must not change anything"


@pytest.mark.parametrize("tokens_per_call", [1, 5])
def test_steps_give_what_the_whole_gives(
    engine: Any, seen: dict[str, Any], sample_pcm: Floats, tokens_per_call: int
) -> None:
    steps = engine.probe(sample_pcm, [TOKENS], n_threads=1, tokens_per_call=tokens_per_call)
    # The same products in another order: float32 sums, rounded to f16 on the way to the next layer.
    assert sqnr_db(seen["logits"][0], steps["logits"][0]) > 60


def test_the_last_logits_choose_what_transcription_writes(sample_pcm: Floats) -> None:
    """Forced through its own greedy transcript, a model chooses it again, token by token."""
    with WhisperModel("nano", device="cpu", engine="ggml", cpu_threads=1) as nano:
        transcript = nano.transcribe(sample_pcm, beam_size=1, temperature=0.0, without_timestamps=True)
    text = [token for segment in transcript for token in segment.tokens if token < 50256]
    sequence = [50257, 50362, *text]
    native = load_ggml().Engine(str(NANO), False, 0, True)
    logits = native.probe(sample_pcm, [sequence], n_threads=1)["logits"][0]
    chosen = logits[1:, :50257].argmax(axis=1)  # text and its end: timestamps are off
    assert len(text) > 10 and list(chosen[:-1]) == text


def test_as_many_tokens_as_the_model_takes(engine: Any, sample_pcm: Floats) -> None:
    tokens = [*PROMPT, *range(444)]
    [logits] = engine.probe(sample_pcm, [tokens], n_threads=1)["logits"]
    assert logits.shape == (448, 51865) and np.isfinite(logits).all()


def test_thirty_seconds_are_heard(engine: Any, sample_pcm: Floats) -> None:
    long = np.tile(sample_pcm, 4)
    heard, cut = (
        engine.probe(pcm, [], n_threads=1)["audio_features"] for pcm in (long, np.ascontiguousarray(long[: 30 * 16000]))
    )
    assert np.array_equal(heard, cut)


@pytest.mark.parametrize("n_samples", [1, 200])
def test_the_shortest_audio(engine: Any, n_samples: int) -> None:
    assert np.isfinite(engine.probe(np.zeros(n_samples, np.float32), [], n_threads=1)["audio_features"]).all()


@pytest.mark.parametrize(
    ("sequences", "more", "message"),
    [
        ([[]], {}, "sequences.0. has 0 tokens; .* 1 to 448"),
        ([PROMPT, [0] * 449], {}, "sequences.1. has 449 tokens"),
        ([[50258, -1]], {}, r"sequences\[0\]\[1\] is -1; .* 0 to 51864"),
        ([[51865]], {}, "is 51865"),
        ([PROMPT], {"n_threads": 0}, "n_threads is 0; 1 to 512"),
        ([PROMPT], {"n_threads": 513}, "n_threads is 513"),
        ([PROMPT], {"tokens_per_call": -1}, "tokens_per_call is -1"),
    ],
)
def test_what_whisper_cpp_would_die_of_is_refused(
    engine: Any, sample_pcm: Floats, sequences: list[list[int]], more: dict[str, int], message: str
) -> None:
    with pytest.raises(InferenceError, match=message):
        engine.probe(sample_pcm, sequences, **{"n_threads": 1, **more})


@pytest.mark.parametrize("samples", [np.empty(0, np.float32), np.zeros((2, 100), np.float32)])
def test_samples_that_are_none(engine: Any, samples: Floats) -> None:
    with pytest.raises(AudioError):
        engine.probe(samples, [PROMPT], n_threads=1)


def test_it_stops_when_told(engine: Any, sample_pcm: Floats) -> None:
    with pytest.raises(CancelledError):
        engine.probe(sample_pcm, [TOKENS], n_threads=1, should_stop=lambda: True)

    def fails() -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        engine.probe(sample_pcm, [TOKENS], n_threads=1, should_stop=fails)


# --- statistics -------------------------------------------------------------------------------------------------------


def test_every_matrix_of_the_layers_is_counted(seen: dict[str, Any]) -> None:
    matrices = {
        name: shape[-1]
        for name, shape in tensor_shapes(PRESETS["micro"])
        if len(shape) == 2 and shape[-1] > 1 and not name.endswith("positional_embedding")
    }
    found = seen["statistics"]
    assert {name: len(sums) for name, (_, sums) in found.items()} == matrices
    for name, (n_vectors, sums) in found.items():
        by_audio = name.startswith("encoder") or ".cross_attn.key" in name or ".cross_attn.value" in name
        assert n_vectors == (1500 if by_audio else len(TOKENS)), name
        assert sums.dtype == np.float64 and (sums > 0).all(), name


@pytest.mark.parametrize("attention", ["encoder.blocks.0.attn", "decoder.blocks.0.attn"])
def test_query_key_and_value_have_one_input(seen: dict[str, Any], attention: str) -> None:
    query, key, value = (seen["statistics"][f"{attention}.{name}.weight"][1] for name in ("query", "key", "value"))
    assert np.array_equal(query, key) and np.array_equal(query, value)


def test_the_decoders_first_input_is_as_numpy_computes_it(seen: dict[str, Any]) -> None:
    weights = weights_of(PRESETS["micro"])
    embedded = (
        weights["decoder.token_embedding.weight"][TOKENS] + weights["decoder.positional_embedding"][: len(TOKENS)]
    )
    centred = embedded.astype(np.float64) - embedded.mean(axis=1, keepdims=True, dtype=np.float64)
    normed = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)  # weight 1 and bias 0
    _, sums = seen["statistics"]["decoder.blocks.0.attn.query.weight"]
    np.testing.assert_allclose(sums, (normed**2).sum(axis=0), rtol=1e-4)


def test_cross_attention_takes_the_encoders_output(seen: dict[str, Any]) -> None:
    _, sums = seen["statistics"]["decoder.blocks.0.cross_attn.key.weight"]
    np.testing.assert_allclose(sums, (seen["audio_features"].astype(np.float64) ** 2).sum(axis=0), rtol=1e-9)


def test_the_last_input_solves_for_the_logits(seen: dict[str, Any]) -> None:
    """logits = embedding @ x, 51865 equations for the 64 values of each x."""
    embedding = weights_of(PRESETS["micro"])["decoder.token_embedding.weight"].astype(np.float64)
    x = np.linalg.lstsq(embedding, seen["logits"][0].T.astype(np.float64), rcond=None)[0].T
    _, sums = seen["statistics"]["decoder.token_embedding.weight"]
    np.testing.assert_allclose(sums, (x**2).sum(axis=0), rtol=1e-3)


def test_fused_attention_hides_no_matrix(multilingual_path: Path, seen: dict[str, Any], sample_pcm: Floats) -> None:
    fused = load_ggml().Engine(str(multilingual_path), False, 0, True)
    found = fused.probe(sample_pcm, [TOKENS], n_threads=1, statistics=True)["statistics"]
    assert {name: n for name, (n, _) in found.items()} == {name: n for name, (n, _) in seen["statistics"].items()}
    before_any_attention = "encoder.blocks.0.attn.query.weight"
    np.testing.assert_allclose(found[before_any_attention][1], seen["statistics"][before_any_attention][1], rtol=1e-9)


def test_quantised_matrices_are_counted_too(seen: dict[str, Any], sample_pcm: Floats, tmp_path: Path) -> None:
    """Their kernels quantise the input and may repack the weights; what goes in is the same at the first layer."""
    path = write_random_model(tmp_path / "q4_0.bin", "micro", "q4_0")
    quantised = load_ggml().Engine(str(path), False, 0, False)
    found = quantised.probe(sample_pcm, [TOKENS], n_threads=1, statistics=True)["statistics"]
    assert found.keys() == seen["statistics"].keys()
    first = "encoder.blocks.0.attn.query.weight"
    np.testing.assert_allclose(found[first][1], seen["statistics"][first][1], rtol=1e-9)


# --- against openai/whisper -------------------------------------------------------------------------------------------


def least_sqnr_db(n_roundings: int) -> float:
    """ggml rounds what goes into each f16 product to f16; openai/whisper in float32 does not. Rounding to 11 bits has
    an SQNR of 74.3 dB (uniform error of +-2^-11 on a mantissa in [1, 2), log-uniform), and in layers that keep
    activations at size one, independent roundings add their power. 3 dB are left for GELU, which ggml looks up in a
    table of f16, and for the mel spectrogram, whose FFT upstream computes in float32 with tables of sines."""
    return 74.3 - 10 * float(np.log10(n_roundings)) - 3


@pytest.mark.parametrize("preset", ["micro", "tiny.en"])
def test_it_computes_what_openai_whisper_does(preset: str, sample_pcm: Floats, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    whisper = pytest.importorskip("whisper")
    dims = PRESETS[preset]
    oracle = whisper.model.Whisper(whisper.model.ModelDimensions(**dims._asdict())).float().eval()
    oracle.load_state_dict({name: torch.from_numpy(values) for name, values in weights_of(dims).items()})
    tokens = [*prompt_tokens(dims.n_vocab), 440, 2068, 7586, 21831, 35308, 287, 1353, 13, end_of_text(dims.n_vocab)]
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(sample_pcm), n_mels=dims.n_mels)
    with torch.no_grad():
        expected_features = oracle.encoder(mel[None])
        expected_logits = oracle.decoder(torch.tensor([tokens]), expected_features)[0].numpy()

    path = write_random_model(tmp_path / "model.bin", preset, "f16")
    native = load_ggml().Engine(str(path), False, 0, False)
    found = native.probe(sample_pcm, [tokens], n_threads=2)

    # Products with a rounded input: two convolutions; query/key/value, scores, values, out, two of the MLP; and the
    # decoder's three more of cross-attention and the one with the embedding.
    n_encoder = 2 + 6 * dims.n_audio_layer
    n_decoder = 1 + 9 * dims.n_text_layer
    assert sqnr_db(expected_features[0].numpy(), found["audio_features"]) > least_sqnr_db(n_encoder)
    assert sqnr_db(expected_logits, found["logits"][0]) > least_sqnr_db(n_encoder + n_decoder)


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_prompts() -> None:
    assert prompt_tokens(51864) == prompt_tokens(51864, "de") == [50257, 50362]
    assert prompt_tokens(51865) == PROMPT
    assert prompt_tokens(51865, "de") == [50258, 50261, 50359, 50363]
    assert prompt_tokens(51866) == [50258, 50259, 50360, 50364]
    with pytest.raises(OptionError, match="yue"):
        prompt_tokens(51865, "yue")


@pytest.mark.parametrize("n_vocab", [51864, 51865, 51866])
def test_prompts_are_openais(n_vocab: int) -> None:
    tokenizer = pytest.importorskip("whisper.tokenizer")
    theirs = tokenizer.get_tokenizer(
        n_vocab > 51864, num_languages=n_vocab - 51765 - (n_vocab > 51864), language="en", task="transcribe"
    )
    ours = prompt_tokens(n_vocab)
    assert tuple(ours) == theirs.sot_sequence_including_notimestamps or n_vocab == 51864
    assert (ours[0], ours[-1], end_of_text(n_vocab)) == (theirs.sot, theirs.no_timestamps, theirs.eot)


# --- the process of its own -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def child(multilingual_path: Path, sample_pcm: Floats) -> Any:
    return run_probe(multilingual_path, sample_pcm, [TOKENS, PROMPT], 1, 2, flash_attention=False)


def test_a_process_gives_what_the_engine_gives(child: Any, seen: dict[str, Any]) -> None:
    assert np.array_equal(child.audio_features, seen["audio_features"])
    assert np.array_equal(child.logits[0], seen["logits"][0])
    assert child.logits[1].shape == (len(PROMPT), 51865)
    assert child.sequences == [TOKENS, PROMPT] and child.n_threads == 1


def test_figures_of_a_process(child: Any) -> None:
    assert child.load_ms > 0 and len(child.encode_ms) == len(child.decode_ms_per_token) == 2
    assert min(child.encode_ms) > 0 and min(child.decode_ms_per_token) > 0


@not_with_sanitizers("peak memory: theirs counts too")
@linux_only
def test_memory_is_the_processs_own(child: Any, multilingual_path: Path, sample_pcm: Floats) -> None:
    ballast = np.ones(60_000_000, np.float32)  # ours, not the other process's
    again = run_probe(multilingual_path, sample_pcm, [PROMPT], 1, 1, keep_results=False)
    assert 0 < again.start_rss_bytes < again.peak_rss_bytes < ballast.nbytes
    assert again.peak_rss_bytes - again.start_rss_bytes > multilingual_path.stat().st_size
    assert again.logits == [] and again.audio_features.size == 0


def test_texts_become_what_transcription_would_write(sample_pcm: Floats) -> None:
    one = run_probe(NANO, sample_pcm, ["the quick brown fox", "word " * 600], 1, 1, keep_results=False)
    assert one.sequences[0] == [50257, 50362, 262, 2068, 7586, 21831]
    assert len(one.sequences[1]) == 448


def test_the_file_is_run_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, multilingual_path: Path, sample_pcm: Floats, child: Any
) -> None:
    for name in ("WHISPERQ_COMPUTE_TYPE", "WL_COMPUTE_TYPE"):
        monkeypatch.setenv(name, "q4_0")
    monkeypatch.setenv("WHISPERQ_CACHE", str(tmp_path))
    again = run_probe(multilingual_path, sample_pcm, [TOKENS], 1, 1, flash_attention=False)
    assert np.array_equal(again.audio_features, child.audio_features) and list(tmp_path.iterdir()) == []


def test_it_prints_nothing(capfd: pytest.CaptureFixture[str], multilingual_path: Path, sample_pcm: Floats) -> None:
    run_probe(multilingual_path, sample_pcm, [PROMPT], 1, 1, keep_results=False)
    assert capfd.readouterr() == ("", "")


def damaged(folder: Path, source: Path) -> Path:
    path = folder / "damaged.bin"
    path.write_bytes(source.read_bytes()[:-1000])
    return path


def with_nan(folder: Path, source: Path) -> Path:
    path = Path(shutil.copy(source, folder / "nan.bin"))
    [tensor] = [one for one in _core.read_model_file(path).tensors if one.name == "encoder.ln_post.weight"]
    with open(path, "r+b") as file:
        file.seek(tensor.offset)
        file.write(np.float32("nan").tobytes())
    return path


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda folder, source: folder / "absent.bin", ModelNotFoundError, "absent"),
        (damaged, ModelFormatError, "at byte"),
        (lambda folder, source: Path(shutil.copy(__file__, folder / "model.pt")), ModelFormatError, "magic"),
        (lambda folder, source: write_random_model(folder / "f32.bin", "micro", "f32"), UnsupportedModelError, "f32"),
        pytest.param(
            with_nan,
            InferenceError,
            "nan.bin: .* holds nan at value 0",
            marks=not_with_sanitizers("whisper.cpp is built with its assertions, of which one ends the process"),
        ),
    ],
    ids=["absent", "damaged", "no ggml", "f32", "nan"],
)
def test_models_that_cannot_be_run(
    make: Callable[[Path, Path], Path],
    error: type[Exception],
    message: str,
    tmp_path: Path,
    multilingual_path: Path,
    sample_pcm: Floats,
) -> None:
    with pytest.raises(error, match=message):
        run_probe(make(tmp_path, multilingual_path), sample_pcm, [PROMPT], 1)


def test_a_format_error_keeps_its_fields(tmp_path: Path, multilingual_path: Path, sample_pcm: Floats) -> None:
    path = damaged(tmp_path, multilingual_path)
    with pytest.raises(ModelFormatError) as caught:
        run_probe(path, sample_pcm, [PROMPT], 1)
    assert caught.value.path == str(path) and caught.value.offset > 0 and caught.value.field


def test_wrong_arguments(multilingual_path: Path, sample_pcm: Floats) -> None:
    with pytest.raises(InferenceError, match="is 51865"):
        run_probe(multilingual_path, sample_pcm, [[51865]], 1)
    with pytest.raises(OptionError, match="sequences"):
        run_probe(multilingual_path, sample_pcm, [], 1)
    with pytest.raises(AudioError):
        run_probe(multilingual_path, np.full(100, np.nan, np.float32), [PROMPT], 1)
    with pytest.raises(AudioError):
        probe_statistics(multilingual_path, [], 1)


@pytest.mark.skipif(os.name != "posix", reason="a shell script stands in for Python")
def test_a_process_that_dies_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, multilingual_path: Path, sample_pcm: Floats
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho last words >&2\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(InferenceError, match=r"by signal 9.*memory.*last words"):
        run_probe(multilingual_path, sample_pcm, [PROMPT], 1)


ENDLESS = """
import sys, tempfile
import numpy as np
from whisperq_edge._convert.probe import run_probe
tempfile.tempdir = sys.argv[2]
run_probe(sys.argv[1], np.zeros(16000, np.float32), [[50258] * 400], 1, 10**6)
"""


@pytest.fixture
def endless(multilingual_path: Path, tmp_path: Path) -> Iterator[Any]:
    process = start_interruptible([sys.executable, "-c", ENDLESS, str(multilingual_path), str(tmp_path)])
    [child] = wait_for(lambda: children_of(process.pid))
    # It has loaded the model when it holds more than Python does.
    wait_for(lambda: int(Path(f"/proc/{child}/statm").read_text().split()[1]) * 4096 > 50e6)
    try:
        yield process, child
    finally:
        process.kill()
        process.communicate()


@linux_only
def test_ctrl_c_ends_the_process_too(endless: Any, tmp_path: Path) -> None:
    process, child = endless
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in stderr
    wait_for(lambda: not is_running(child), 5)
    assert list(tmp_path.iterdir()) == []


@linux_only
def test_a_process_without_its_parent_ends_and_cleans_up(endless: Any, tmp_path: Path) -> None:
    process, child = endless
    process.kill()
    process.wait()
    wait_for(lambda: not is_running(child), 10)
    assert list(tmp_path.iterdir()) == []
