"""The options of a transcription: what is refused, by name and before any work, and what is taken."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import OptionError, VadOptions, WhisperModel, _options
from whisperq_edge._options import TranscribeOptions

Samples = npt.NDArray[np.float32]

SEVERAL: dict[str, list[Any]] = {
    "language": [5, True, ["en"], ""],
    "task": ["sing", None, 5, ["transcribe"], np.array(["transcribe", "translate"])],
    "beam_size": [0, 1025, 2000, 2**70, 2.5, float("inf"), float("nan"), "five", None, True, np.float32(5.5), [5]],
    "best_of": [0, 1025, 5000, 1.5, None, False],
    "patience": [0, 0.01, -1, 1e300, float("nan"), float("inf"), "a", None, True, 205],
    "length_penalty": ["a", float("nan"), True],
    "repetition_penalty": [0, -1, 1e-46, 1e39, 10**400, float("inf"), float("nan"), "a", None],
    "no_repeat_ngram_size": [-1, 1.5, 2**31, None, True],
    "temperature": [-0.1, 10.1, 1e-320, float("nan"), "hot", "0", None, True, (), [0.0, None], [[0.0]], 1j],
    "compression_ratio_threshold": ["x", float("nan"), True],
    "log_prob_threshold": ["x", float("nan"), 10**400],
    "no_speech_threshold": ["x", [0.6]],
    "condition_on_previous_text": [None, "no", 2, 1.0],
    "prompt_reset_on_temperature": [None, "x", float("nan")],
    "initial_prompt": [5, ["a"], [1.5], [True], [-1], [2**31], b"text", {1: 2}, np.array([0.5]), np.zeros((2, 2), int)],
    "prefix": [5, ["a"]],
    "suppress_blank": ["False", None],
    "suppress_tokens": [5, ["a"], "-1", [-2], [2**31], [1.5], [None]],
    "without_timestamps": ["no"],
    "max_initial_timestamp": [-1, 1e300, float("nan"), float("inf"), "1", None],
    "word_timestamps": [2],
    "prepend_punctuations": [None, 5],
    "append_punctuations": [None, ["."]],
    "multilingual": ["en"],
    "vad_filter": [None, "auto"],
    "max_new_tokens": [0, 3.5, 2**31, "7", False],
    "chunk_length": [0, 1.5, 20.5, "30"],
    "clip_timestamps": [None, 5, "now", "4,2", [4, 2], "nan", "-1", [-1.0], ["1"], [None], np.array([[0, 1.0]]), b"0"],
    "hallucination_silence_threshold": ["x", -1, float("nan")],
    "hotwords": [5, ["a"]],
    "language_detection_threshold": ["x"],
    "language_detection_segments": [0, 1.5, None],
    "log_progress": [None],
    "carry_initial_prompt": ["yes"],
    "seed": [-1, 2**64, "a", 1.5, True],
    "batch_size": [0, 2.5, 2**63, "8"],
    "audio_ctx": ["short", 5, np.array([1, 2])],
    "drop_silence": [-1, "no"],
}
REFUSED = [(name, value) for name, values in SEVERAL.items() for value in values]


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=[f"{name}-{i}" for i, (name, _) in enumerate(REFUSED)])
def test_what_is_refused_is_named(name: str, value: Any) -> None:
    with pytest.raises(OptionError) as caught:
        TranscribeOptions.from_arguments({name: value})
    assert caught.value.field == name and caught.value.allowed
    assert "\n" not in str(caught.value)


def test_every_option_has_a_rule_that_takes_its_default() -> None:
    fields = dataclasses.fields(TranscribeOptions)
    assert [field.name for field in fields] == list(_options._RULES)
    defaults = {field.name: field.default for field in fields}
    assert TranscribeOptions.from_arguments(defaults) == TranscribeOptions() == TranscribeOptions.from_arguments({})


PLAIN: dict[str, list[tuple[Any, Any]]] = {
    "language": [("German", "de"), (None, None)],
    "beam_size": [(np.int64(3), 3), (np.array(3), 3), (1024, 1024), (5.0, 5), (np.float32(5), 5)],
    "patience": [(np.float32(2), 2.0), (Fraction(1, 2), 0.5), (0.2, 0.2), (204, 204.0)],
    "length_penalty": [(None, None), (np.float64(0.5), 0.5), (0, 0.0)],
    "temperature": [
        (0, 0.0),
        (np.float64(0.25), 0.25),
        (np.array([0.0, 0.5]), (0.0, 0.5)),
        ([0, 1], (0.0, 1.0)),
        ((i / 2 for i in range(3)), (0.0, 0.5, 1.0)),
        (1e-37, 1e-37),
    ],
    "log_prob_threshold": [(None, None), (np.float32(-1.5), -1.5), (-math.inf, -math.inf)],
    "no_speech_threshold": [(math.inf, math.inf)],
    "initial_prompt": [
        ("text", "text"),
        (None, None),
        (range(3), (0, 1, 2)),
        (np.array([5, 6], np.int32), (5, 6)),
        ((i for i in (7, np.uint16(8))), (7, 8)),
    ],
    "suppress_tokens": [(None, None), ([], ()), (np.array([-1, 7]), (-1, 7)), (iter([3]), (3,))],
    "word_timestamps": [(np.bool_(True), True), (1, True), (np.int64(0), False)],
    "chunk_length": [(30.0, 30)],
    "max_initial_timestamp": [(0, 0.0), (30, 30.0)],
    "max_new_tokens": [(None, None), (np.uint8(7), 7)],
    "clip_timestamps": [
        ("1.5,12.25", "1.5,12.25"),
        ("", ""),
        (np.array([0, 1.0]), (0.0, 1.0)),
        ([1, np.int64(2), 2], (1.0, 2.0, 2.0)),
        ((i for i in (0, 3)), (0.0, 3.0)),
    ],
    "seed": [(2**64 - 1, 2**64 - 1), (np.uint64(2**63), 2**63), (0, 0), (None, None)],
    "batch_size": [(np.int32(8), 8)],
    "drop_silence": [(None, None), (np.bool_(False), False)],
}
TAKEN = [(name, given, plain) for name, pairs in PLAIN.items() for given, plain in pairs]


@pytest.mark.parametrize(("name", "given", "plain"), TAKEN, ids=[f"{case[0]}-{i}" for i, case in enumerate(TAKEN)])
def test_what_is_taken_becomes_plain(name: str, given: Any, plain: Any) -> None:
    value = getattr(TranscribeOptions.from_arguments({name: given}), name)
    assert value == plain and type(value) is type(plain)
    if isinstance(plain, tuple):
        assert [type(item) for item in value] == [type(item) for item in plain]


@pytest.mark.parametrize(
    "others",
    [{}, {"vad_filter": False}, {"batch_size": 2, "clip_timestamps": "0,4"}, {"clip_timestamps": [1.0]}],
    ids=str,
)
def test_parameters_of_a_detector_that_does_not_listen_are_refused(others: dict[str, Any]) -> None:
    for parameters in ({"threshold": 0.4}, {}, VadOptions()):
        with pytest.raises(OptionError, match="vad_filter=True, or with a batch_size") as caught:
            TranscribeOptions.from_arguments({"vad_parameters": parameters, **others})
        assert caught.value.field == "vad_parameters"


@pytest.mark.parametrize(
    "others", [{"vad_filter": True}, {"batch_size": 2}, {"batch_size": 2, "vad_filter": True}], ids=str
)
def test_parameters_of_a_detector_that_listens_are_taken(others: dict[str, Any]) -> None:
    given = {"threshold": 0.4}
    assert TranscribeOptions.from_arguments({"vad_parameters": given, **others}).vad_parameters == given


def test_patience_matters_where_there_are_beams() -> None:
    """``check`` in csrc/decoding/decode_options.cpp is asked for a patience with beams only."""
    for beamless in ({"beam_size": 1}, {"temperature": [0.2, 0.4]}):
        assert TranscribeOptions.from_arguments({"patience": 0.01, **beamless}).patience == 0.01
    for beam_size, patience in ((5, 0.1), (1024, 1.001), (2, 513)):  # 0.5 is rounded to even, as C++ does
        with pytest.raises(OptionError, match=f"beam_size={beam_size}") as caught:
            TranscribeOptions.from_arguments({"beam_size": beam_size, "patience": patience})
        assert caught.value.field == "patience"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beam_size", 2000),
        ("best_of", 5000),
        ("patience", 0.01),
        ("repetition_penalty", 1e39),
        ("temperature", 1e-320),
        ("seed", -1),
        ("batch_size", 2.5),
        ("max_new_tokens", 3.5),
        ("initial_prompt", ["a"]),
        ("hotwords", 5),
        ("clip_timestamps", None),
    ],
)
def test_a_wrong_option_is_found_before_the_audio_is_opened(nano: WhisperModel, name: str, value: Any) -> None:
    with pytest.raises(OptionError) as caught:
        nano.transcribe("there is no such file.wav", **{name: value})
    assert caught.value.field == name


@pytest.mark.parametrize(
    "options",
    [
        {"beam_size": np.int64(2), "seed": np.uint64(2**64 - 1), "patience": np.float32(1.5)},
        {"temperature": np.array([0.0, 0.5]), "best_of": np.int16(2), "log_prob_threshold": 0.0},
        {"temperature": 1.2e-38, "best_of": 2, "seed": 2**64 - 1},
        {"initial_prompt": (token for token in (100, 101)), "suppress_tokens": np.array([-1, 11])},
        {"clip_timestamps": np.array([0, 1.0]), "max_initial_timestamp": 1_000_000, "no_repeat_ngram_size": 2**31 - 1},
        {"clip_timestamps": (second for second in (0, 1)), "prompt_reset_on_temperature": 1},
        {"batch_size": np.int64(2), "chunk_length": np.int8(10), "word_timestamps": np.bool_(True)},
    ],
)
def test_odd_values_that_are_right_are_understood_by_native_code(sample_pcm: Samples, options: dict[str, Any]) -> None:
    short = {"beam_size": 1, "max_new_tokens": 5, "drop_silence": False}
    with WhisperModel("nano", device="cpu", engine="edge") as model:
        transcript = model.transcribe(sample_pcm, **{**short, **options})
    assert transcript.segments


@pytest.mark.parametrize("beam_size", [2, 1024])
def test_the_bounds_are_those_of_native_code(sample_pcm: Samples, beam_size: int) -> None:
    """What is allowed here and no more would be a ``ValueError`` of native code."""
    most = {"beam_size": beam_size, "patience": 1024 / beam_size, "repetition_penalty": 3.4e38, "max_new_tokens": 1}
    with WhisperModel("nano", device="cpu", engine="edge") as model:
        transcript = model.transcribe(
            sample_pcm[:16000], temperature=0.0, drop_silence=False, audio_ctx="auto", without_timestamps=True, **most
        )
    assert sum(len(segment.tokens) for segment in transcript.segments) == 1
