"""Rounded activations of the edge engine: against numpy, scheme by scheme, and what must not change."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import _core
from whisperq_edge._errors import OptionError, UnsupportedModelError

from tests.support import reference_encoder
from tests.support.arithmetic import relative_error
from tests.support.make_model import Dims, write_random_model

Values = npt.NDArray[Any]  # the arithmetic below is that of their dtype
Round = Callable[[Values], Values]

SHAPE = Dims(80, 1500, 128, 2, 1, 448, 128, 2, 2, 51865)
N_CTX, N_STATE = 100, 128
ENCODER_LAYER = [f"encoder.blocks.0.{name}.weight" for name in
                 ("attn.query", "attn.key", "attn.value", "attn.out", "mlp.0", "mlp.2")]  # fmt: skip
AUDIO_KEYS = [f"decoder.blocks.{layer}.cross_attn.{name}.weight" for layer in (0, 1) for name in ("key", "value")]
EMBEDDING = "decoder.token_embedding.weight"
EOT, NO_SPEECH = 50257, 50362
DYNAMIC = [("tensor", 32), ("token", 32), ("block", 32), ("block", 24)]
PROMPTS = [[50258, 50259, 50359, 50363], [50258], [50258, 50259, 50359, 50363, *range(40, 60)]]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("model") / "f32.bin", SHAPE, "f32", seed=11)


@pytest.fixture(scope="module")
def loaded(path: Path) -> _core.EdgeModel:
    return _core.EdgeModel(os.fspath(path), "auto", 2)


@pytest.fixture
def model(loaded: _core.EdgeModel) -> Iterator[_core.EdgeModel]:
    loaded.round_activations("float")
    yield loaded


@pytest.fixture(scope="module")
def mel() -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).uniform(-1.0, 1.5, (80, 2 * N_CTX)).astype(np.float32)


@pytest.fixture(scope="module")
def features() -> npt.NDArray[np.float32]:
    """As uneven as activations are; a row and a block of zeros; a row whose scale would be no normal float."""
    rng = np.random.default_rng(1)
    made = rng.standard_normal((N_CTX, N_STATE)) * rng.lognormal(0, 1, (N_CTX, 1)) + rng.lognormal(0, 1, (1, N_STATE))
    made[7] = made[8, 32:64] = 0
    made[9] = 1e-38
    return made.astype(np.float32)


def spread(x: Values, least: Values, greatest: Values, symmetric: bool) -> Values:
    """x as codes of 8 bits and back, in the range that ``least`` and ``greatest`` give; both ranges include 0."""
    scale = np.maximum(-least, greatest) / 127 if symmetric else (greatest - least) / 255
    has_scale = scale >= np.finfo(np.float32).tiny
    divisor = np.where(has_scale, scale, 1).astype(x.dtype)
    if symmetric:
        rounded = np.clip(np.rint(x / divisor), -127, 127) * divisor
    else:
        zero_point = np.rint(-least / divisor)
        rounded = (np.clip(np.rint(x / divisor) + zero_point, 0, 255) - zero_point) * divisor
    return np.where(has_scale, rounded, 0).astype(x.dtype)


def in_numpy(scheme: str, block: int, symmetric: bool) -> Round:
    def over(x: Values, axes: tuple[int, ...]) -> Values:
        least, greatest = x.min(axes, keepdims=True, initial=0), x.max(axes, keepdims=True, initial=0)
        return spread(x, least, greatest, symmetric)

    def by_block(x: Values) -> Values:
        return np.hstack([over(part, (1,)) for part in np.split(x, range(block, x.shape[1], block), axis=1)])

    return {"tensor": lambda x: over(x, (0, 1)), "token": lambda x: over(x, (1,)), "block": by_block}[scheme]


# ---- Against numpy ---------------------------------------------------------------------------------------------------


def heard(model: _core.EdgeModel, features: Values) -> Values:
    """Logits, which show what the keys and values of the audio are."""
    return model.logits(model.listen(features), PROMPTS[0])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("scheme", "block"), DYNAMIC)
def test_inputs_are_rounded_as_in_numpy_to_the_bit(
    model: _core.EdgeModel, features: Values, scheme: str, block: int, symmetric: bool
) -> None:
    exact, expected = heard(model, features), heard(model, in_numpy(scheme, block, symmetric)(features))
    model.round_activations(scheme, block, only=AUDIO_KEYS, symmetric=symmetric)
    np.testing.assert_array_equal(heard(model, features), expected)
    assert relative_error(exact, expected) > 1e-5


def test_a_static_range_clips(model: _core.EdgeModel, features: Values) -> None:
    half = np.float32(np.abs(features).max() / 2)
    expected = heard(model, spread(features, -half, half, True))
    model.round_activations("static", ranges=dict.fromkeys(AUDIO_KEYS, half), only=AUDIO_KEYS)
    np.testing.assert_array_equal(heard(model, features), expected)


def encode_in_numpy(path: Path, mel: Values, rounded: Round, only: list[str], patch: pytest.MonkeyPatch) -> Values:
    """The reference encoder, in double precision, with the inputs of some linears rounded."""
    exact = reference_encoder._linear

    def linear(x: Values, weights: dict[str, Values], name: str) -> Values:
        return exact(rounded(x) if f"{name}.weight" in only else x, weights, name)

    patch.setattr(reference_encoder, "_linear", linear)
    return reference_encoder.encode(reference_encoder.weights_of(path), mel, mel.shape[1] // 2)


@pytest.mark.parametrize("scheme", ["tensor", "token", "block"])
@pytest.mark.parametrize("name", ENCODER_LAYER)
def test_each_linear_is_reached(
    path: Path, model: _core.EdgeModel, mel: Values, name: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = model.encode(mel, N_CTX)
    model.round_activations(scheme, only=[name])
    found = model.encode(mel, N_CTX)
    expected = encode_in_numpy(path, mel, in_numpy(scheme, 32, True), [name], monkeypatch)
    effect = relative_error(exact, expected)
    # A value by a tie of the float's and the double's code may fall to either side: one step of one value.
    assert relative_error(found, expected) <= 0.1 * effect
    assert effect > 2e-5


def test_all_of_a_layer(path: Path, model: _core.EdgeModel, mel: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = model.encode(mel, N_CTX)
    model.round_activations("token")
    found = model.encode(mel, N_CTX)
    expected = encode_in_numpy(path, mel, in_numpy("token", 32, True), ENCODER_LAYER, monkeypatch)
    assert relative_error(exact, found) == pytest.approx(relative_error(exact, expected), rel=0.1)
    assert relative_error(found, expected) < 0.5 * relative_error(exact, expected)


def test_convolutions_and_the_vocabulary_are_rounded_if_asked_for(model: _core.EdgeModel, mel: Values) -> None:
    expected = model.encode(in_numpy("tensor", 32, True)(mel), N_CTX)
    model.round_activations("tensor", only=["encoder.conv1.weight"])
    np.testing.assert_array_equal(model.encode(mel, N_CTX), expected)
    found = {}
    for only in ([], ["encoder.conv2.weight"], [EMBEDDING], [EMBEDDING, "encoder.conv2.weight"]):
        model.round_activations("token", only=only)
        found[tuple(only)] = heard(model, model.encode(mel, N_CTX))
    exact = found.pop(())
    effects = [relative_error(one, exact) for one in found.values()]
    assert all(1e-4 < effect < 0.05 for effect in effects) and len(set(effects)) == 3


# ---- What is the same ------------------------------------------------------------------------------------------------


def everything(model: _core.EdgeModel, mel: Values) -> tuple[Values, Values]:
    features = model.encode(mel, N_CTX)
    return features, heard(model, features)


def assert_same(found: tuple[Values, Values], expected: tuple[Values, Values]) -> None:
    for one, other in zip(found, expected):
        np.testing.assert_array_equal(one, other)


def test_float_and_observe_change_no_bit(model: _core.EdgeModel, mel: Values) -> None:
    exact = everything(model, mel)
    for scheme in ("tensor", "observe", "token", "float"):
        model.round_activations(scheme)
        found = everything(model, mel)
        if scheme in ("observe", "float"):
            assert_same(found, exact)
        else:
            assert all(0 < relative_error(one, other) < 0.1 for one, other in zip(found, exact))


def test_a_block_of_a_row_is_a_token(model: _core.EdgeModel, mel: Values) -> None:
    narrow = [name for name in model.linears if "mlp.2" not in name and "conv" not in name]
    model.round_activations("token", only=narrow)
    expected = everything(model, mel)
    for block in (N_STATE, 10**9):
        model.round_activations("block", block, only=narrow)
        assert_same(everything(model, mel), expected)


def test_static_with_the_observed_ranges_is_tensor(model: _core.EdgeModel, mel: Values) -> None:
    """As long as the ranges are those of the same inputs, which rounding itself changes: one linear at a time."""
    model.round_activations("observe")
    everything(model, mel)
    ranges = model.activation_ranges()
    assert list(ranges) == sorted(model.linears)
    for only in (["encoder.conv1.weight"], ENCODER_LAYER[:3], ENCODER_LAYER[-1:], AUDIO_KEYS, [EMBEDDING]):
        model.round_activations("tensor", only=only)
        expected = everything(model, mel)
        model.round_activations("static", ranges=ranges, only=only)
        assert_same(everything(model, mel), expected)
    assert model.activation_ranges() == ranges


def test_ranges_are_of_all_that_was_heard_since(model: _core.EdgeModel, mel: Values, features: Values) -> None:
    model.round_activations("observe", only=AUDIO_KEYS)
    assert model.activation_ranges() == {}
    for factor in (1, 3, 2):
        model.listen(features * np.float32(factor))
    expected = float(np.abs(features * np.float32(3)).max())
    assert model.activation_ranges() == dict.fromkeys(AUDIO_KEYS, expected)
    model.round_activations("observe")
    model.encode(mel, N_CTX)
    ranges = model.activation_ranges()
    assert ranges["encoder.conv1.weight"] == float(np.abs(mel).max())
    assert list(ranges) == sorted(name for name in model.linears if name.startswith("encoder."))
    assert len({ranges[name] for name in ENCODER_LAYER[:3]}) == 1


def test_without_a_choice_it_is_the_layers(model: _core.EdgeModel, mel: Values) -> None:
    assert model.linears[:2] == ["encoder.conv1.weight", "encoder.conv2.weight"] and model.linears[-1] == EMBEDDING
    layers = model.linears[2:-1]
    assert set(ENCODER_LAYER) | set(AUDIO_KEYS) < set(layers) and len(layers) == 6 + 2 * 10
    model.round_activations("block")
    expected = everything(model, mel)
    model.round_activations("block", only=set(layers))
    assert_same(everything(model, mel), expected)


def test_threads_change_no_bit(path: Path, model: _core.EdgeModel, mel: Values) -> None:
    alone = _core.EdgeModel(os.fspath(path), "auto", 1)
    for scheme, block in DYNAMIC:
        for one in (model, alone):
            one.round_activations(scheme, block, only=one.linears)
        assert_same(everything(model, mel), everything(alone, mel))


# ---- The decoder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("scheme", "block"), DYNAMIC)
def test_what_is_decoded_does_not_depend_on_the_batch(
    model: _core.EdgeModel, features: Values, scheme: str, block: int, symmetric: bool
) -> None:
    """Prompts of different lengths over two audios, then some tokens each, and their probabilities to the bit."""
    model.round_activations(scheme, block, only=model.linears, symmetric=symmetric)
    audios = [model.listen(features), model.listen(features[:30])]
    options = _core.DecodeOptions()
    options.eot, options.no_speech, options.without_timestamps, options.sample_len = EOT, NO_SPEECH, True, 3

    def decoded(of: list[int]) -> list[tuple[list[int], float, float]]:
        requests = [_core.WindowRequest(PROMPTS[i], 0) for i in of]
        results, _ = _core.decode_windows(model, [audios[i % 2] for i in of], requests, options)
        return [(result.tokens, result.sum_logprob, result.no_speech_prob) for result in results]

    together = decoded([0, 1, 2])
    assert together == [decoded([i])[0] for i in range(3)] and len(set(map(str, together))) == 3


def test_a_tensor_is_the_rows_of_a_sequence(model: _core.EdgeModel, features: Values) -> None:
    decoder = [name for name in model.linears if name.startswith("decoder.") and name not in AUDIO_KEYS]
    audio = model.listen(features)
    logits = {}
    for scheme in ("float", "tensor", "token"):
        model.round_activations(scheme, only=decoder)
        logits[scheme] = [model.logits(audio, tokens) for tokens in PROMPTS]
    several, one, _ = zip(logits["tensor"], logits["token"])
    assert not np.array_equal(*several)
    np.testing.assert_array_equal(*one)
    for found, exact in zip(logits["tensor"], logits["float"]):
        assert 0 < relative_error(found, exact) < 0.1


# ---- Whatever the call -----------------------------------------------------------------------------------------------


def test_f16_models_too(tmp_path: Path, mel: Values) -> None:
    model = _core.EdgeModel(os.fspath(write_random_model(tmp_path / "f16.bin", SHAPE, "f16", seed=11)), "auto", 2)
    exact = everything(model, mel)
    model.round_activations("token")
    assert all(0 < relative_error(one, other) < 0.1 for one, other in zip(everything(model, mel), exact))


def test_quantised_models_are_refused(tmp_path: Path, mel: Values) -> None:
    model = _core.EdgeModel(os.fspath(write_random_model(tmp_path / "q8.bin", "micro", "q8_0")), "auto", 2)
    exact = model.encode(mel, N_CTX)
    for scheme in ("observe", "tensor"):
        with pytest.raises(UnsupportedModelError, match=r"blocks\.0\.attn\.query\.weight is of type q8_0.*f32 and f16"):
            model.round_activations(scheme)
    model.round_activations("float")
    np.testing.assert_array_equal(model.encode(mel, N_CTX), exact)


@pytest.mark.parametrize(
    ("field", "options", "message"),
    [
        ("scheme", {"scheme": "int8"}, "one of float, observe, tensor, token, block, static"),
        ("block", {"scheme": "block", "block": 0}, "1 or more"),
        ("only", {"scheme": "tensor", "only": ["encoder.blocks.0.attn.query"]}, "EdgeModel.linears"),
        ("only", {"scheme": "tensor", "only": [3]}, "EdgeModel.linears"),
        ("ranges", {"scheme": "static"}, r"encoder\.blocks\.0\.attn\.query\.weight.*scheme='observe'"),
        ("ranges", {"scheme": "static", "ranges": dict.fromkeys(ENCODER_LAYER, 1.0)}, r"decoder\.blocks\.0"),
        ("ranges", {"scheme": "static", "ranges": dict.fromkeys(AUDIO_KEYS, float("nan"))}, "nan"),
        ("ranges", {"scheme": "static", "ranges": dict.fromkeys(AUDIO_KEYS, -1.0)}, "-1.0"),
        ("ranges", {"scheme": "static", "ranges": dict.fromkeys(AUDIO_KEYS, "1")}, "finite number"),
        ("symmetric", {"scheme": "static", "ranges": {}, "symmetric": False}, "True"),
    ],
)
def test_what_is_refused(
    model: _core.EdgeModel, mel: Values, field: str, options: dict[str, Any], message: str
) -> None:
    model.round_activations("token")
    before = model.encode(mel, N_CTX)
    with pytest.raises(OptionError, match=message) as caught:
        model.round_activations(**options)
    assert caught.value.field == field
    np.testing.assert_array_equal(model.encode(mel, N_CTX), before)


def test_a_change_waits_for_the_call_that_runs(model: _core.EdgeModel, mel: Values) -> None:
    """A call that has begun is exact to its end, though another thread asks for rounding meanwhile."""
    exact = model.encode(mel, N_CTX)
    begun, asked = threading.Event(), threading.Event()

    def ask() -> None:
        begun.wait()
        asked.set()
        model.round_activations("tensor")

    def should_stop() -> bool:
        begun.set()
        asked.wait()
        time.sleep(0.05)  # round_activations is under way: it has to wait
        return False

    thread = threading.Thread(target=ask)
    thread.start()
    np.testing.assert_array_equal(model.encode(mel, N_CTX, should_stop), exact)
    thread.join()
    assert relative_error(model.encode(mel, N_CTX), exact) > 1e-4
