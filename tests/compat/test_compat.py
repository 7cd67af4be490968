"""faster-whisper's face."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from whisperq_edge import OptionError, TranscribeOptions, UnsupportedModelError, VadOptions
from whisperq_edge import WhisperModel as native
from whisperq_edge._audio.mono import PcmStream
from whisperq_edge._engines import language
from whisperq_edge.compat import faster_whisper as ours
from whisperq_edge.compat.faster_whisper import BatchedInferencePipeline, WhisperModel, decode_audio


@pytest.fixture(scope="module")
def model() -> Iterator[WhisperModel]:
    model = WhisperModel("nano", device="cpu")
    yield model
    model.model.close()


def test_segments_and_info(model: WhisperModel, sample_path: Path) -> None:
    segments, info = model.transcribe(str(sample_path), beam_size=1, temperature=0)
    assert info.language == "en" and info.language_probability == 1.0
    assert info.duration == info.duration_after_vad > 0
    assert info.transcription_options.beam_size == 1 and info.vad_options is None
    expected = model.model.transcribe(sample_path, beam_size=1, temperature=0).segments
    assert [dataclasses.astuple(segment) for segment in segments] == [dataclasses.astuple(each) for each in expected]


def test_vad(model: WhisperModel, sample_path: Path) -> None:
    segments, info = model.transcribe(sample_path, vad_filter=True, vad_parameters={"threshold": 0.4}, beam_size=1)
    assert info.vad_options is not None and info.vad_options.threshold == 0.4
    assert 0 < info.duration_after_vad <= info.duration
    assert list(segments)


def test_silence(model: WhisperModel) -> None:
    segments, info = model.transcribe(np.zeros(0, np.float32))
    assert list(segments) == [] and info.duration == 0


@pytest.mark.parametrize("vad_filter", [False, True])
def test_silence_is_heard_unless_voices_are_looked_for(model: WhisperModel, vad_filter: bool) -> None:
    segments, info = model.transcribe(np.zeros(32000, np.float32), vad_filter=vad_filter)
    assert list(segments) == [] and info.duration == 2.0
    assert info.duration_after_vad == (0.0 if vad_filter else 2.0)


def test_errors_come_from_the_call(model: WhisperModel, sample_path: Path) -> None:
    with pytest.raises(OptionError):
        model.transcribe(sample_path, suppress_tokens=[99999])


def workers() -> int:
    return sum(thread.name == "whisperq-edge" for thread in threading.enumerate())


def test_closing_the_generator_ends_the_work(model: WhisperModel, sample_path: Path) -> None:
    long: npt.NDArray[np.float32] = np.tile(decode_audio(str(sample_path)), 20)
    segments, _ = model.transcribe(long, beam_size=1, temperature=0)
    assert next(iter(segments)).text
    segments.close()  # type: ignore[attr-defined]
    assert workers() == 0


def test_dropping_the_generator_ends_the_work(model: WhisperModel, sample_path: Path) -> None:
    long: npt.NDArray[np.float32] = np.tile(decode_audio(str(sample_path)), 20)
    segments, _ = model.transcribe(long, beam_size=1, temperature=0)
    del segments
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "whisperq-edge":
            thread.join(timeout=30)
    assert workers() == 0


@pytest.mark.parametrize("clips", [[], (clip for clip in ()), 5])
def test_clips_that_are_none(model: WhisperModel, sample_path: Path, clips: Any) -> None:
    with pytest.raises(OptionError, match="clip_timestamps"):
        BatchedInferencePipeline(model).transcribe(sample_path, clip_timestamps=clips)


def test_a_prompt_may_come_from_a_generator(model: WhisperModel, sample_path: Path) -> None:
    def heard(**prompt: Any) -> list[float]:
        segments, _ = model.transcribe(sample_path, beam_size=1, temperature=0, **prompt)
        return [segment.avg_logprob for segment in segments]

    listed = heard(initial_prompt=[700] * 5)
    assert heard(initial_prompt=(700 for _ in range(5))) == listed != heard()


def test_decode_audio_is_16_khz_only(sample_path: Path) -> None:
    assert decode_audio(str(sample_path)).dtype == np.float32
    with pytest.raises(ValueError, match="16000"):
        decode_audio(str(sample_path), sampling_rate=8000)


def test_left_and_right_of_a_file(sample_path: Path) -> None:
    left, right = decode_audio(str(sample_path), split_stereo=True)
    assert left.tolist() == right.tolist() == decode_audio(str(sample_path)).tolist()


# ---- Arguments of the model ------------------------------------------------------------------------------------------


def test_arguments_that_are_taken(sample_path: Path) -> None:
    model = WhisperModel(
        "nano", "cpu", [0], "default", 1, 4, None, True, files=None, revision=None, use_auth_token=True, engine="edge"
    )
    with model.model:
        assert model.model.cpu_threads == 1 and model.model.engine == "edge"
        segments, _ = model.transcribe(sample_path, beam_size=1, temperature=0)
        assert list(segments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_workers", 0),
        ("num_workers", "two"),
        ("device_index", [0, 1]),
        ("files", {"model.bin": b""}),
        ("revision", "main"),
        ("use_auth_token", "hf_abc"),
        ("inter_threads", 4),
    ],
)
def test_arguments_that_cannot_be_honoured(name: str, value: Any) -> None:
    with pytest.raises(OptionError) as caught:
        WhisperModel("nano", **{name: value})
    assert caught.value.field == name and caught.value.allowed


# Parameters of faster-whisper 1.2.1 and their defaults, in its order. Lists are tuples here.
REQUIRED = inspect.Parameter.empty
THEIR_OPTIONS: dict[str, Any] = {
    "self": REQUIRED,
    "audio": REQUIRED,
    "language": None,
    "task": "transcribe",
    "log_progress": False,
    "beam_size": 5,
    "best_of": 5,
    "patience": 1,
    "length_penalty": 1,
    "repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
    "temperature": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    "compression_ratio_threshold": 2.4,
    "log_prob_threshold": -1.0,
    "no_speech_threshold": 0.6,
    "condition_on_previous_text": True,
    "prompt_reset_on_temperature": 0.5,
    "initial_prompt": None,
    "prefix": None,
    "suppress_blank": True,
    "suppress_tokens": (-1,),
    "without_timestamps": False,
    "max_initial_timestamp": 1.0,
    "word_timestamps": False,
    "prepend_punctuations": "\"'“¿([{-",
    "append_punctuations": "\"'.。,，!！?？:：”)]}、",
    "multilingual": False,
    "vad_filter": False,
    "vad_parameters": None,
    "max_new_tokens": None,
    "chunk_length": None,
    "clip_timestamps": "0",
    "hallucination_silence_threshold": None,
    "batch_size": 8,
    "hotwords": None,
    "language_detection_threshold": 0.5,
    "language_detection_segments": 1,
}
THEIRS: dict[str, dict[str, Any]] = {
    "WhisperModel.__init__": {
        "self": REQUIRED,
        "model_size_or_path": REQUIRED,
        "device": "auto",
        "device_index": 0,
        "compute_type": "default",
        "cpu_threads": 0,
        "num_workers": 1,
        "download_root": None,
        "local_files_only": False,
        "files": None,
        "revision": None,
        "use_auth_token": None,
        "model_kwargs": REQUIRED,
    },
    "WhisperModel.transcribe": {name: value for name, value in THEIR_OPTIONS.items() if name != "batch_size"},
    "WhisperModel.detect_language": {
        "self": REQUIRED,
        "audio": None,
        "features": None,
        "vad_filter": False,
        "vad_parameters": None,
        "language_detection_segments": 1,
        "language_detection_threshold": 0.5,
    },
    "BatchedInferencePipeline.__init__": {"self": REQUIRED, "model": REQUIRED},
    "BatchedInferencePipeline.transcribe": {
        **THEIR_OPTIONS,
        "without_timestamps": True,
        "vad_filter": True,
        "clip_timestamps": None,
    },
    "decode_audio": {"input_file": REQUIRED, "sampling_rate": 16000, "split_stereo": False},
}


@pytest.mark.parametrize("path", sorted(THEIRS))
def test_parameters_and_defaults_are_those_of_faster_whisper(path: str) -> None:
    found = parameters(ours, path)
    assert list(found.items())[: len(THEIRS[path])] == list(THEIRS[path].items())
    unknown = ["unknown"] if path.endswith("transcribe") else []
    assert [*found][len(THEIRS[path]) :] == [*(unknown and OUR_OPTIONS), *unknown]


@pytest.mark.parametrize("path", sorted(THEIRS))
def test_the_table_is_what_faster_whisper_has(path: str) -> None:
    theirs: Any = pytest.importorskip("faster_whisper")
    assert list(parameters(theirs, path).items()) == list(THEIRS[path].items())


OPTIONS = {field.name: field for field in dataclasses.fields(TranscribeOptions)}
OUR_OPTIONS = [name for name in OPTIONS if name not in THEIR_OPTIONS]


@pytest.mark.parametrize(
    ("function", "different"),
    [
        (native.transcribe, {}),
        (WhisperModel.transcribe, {"batch_size": None}),
        (
            BatchedInferencePipeline.transcribe,
            {
                "batch_size": ("int", 8),
                "without_timestamps": ("bool", True),
                "vad_filter": ("bool", True),
                "clip_timestamps": ("Optional[Clips]", None),
            },
        ),
    ],
    ids=["native", "face", "batches"],
)
def test_every_option_is_listed_with_its_type_and_default(function: Any, different: dict[str, Any]) -> None:
    """``TranscribeOptions`` is the only list of options that is written by hand."""
    signature = inspect.signature(function).parameters
    listed = {name: (signature[name].annotation, signature[name].default) for name in OPTIONS if name in signature}
    expected = {name: (field.type, field.default) for name, field in OPTIONS.items()}
    expected.update(different)
    assert listed == {name: pair for name, pair in expected.items() if pair is not None}
    assert signature["unknown"].kind is inspect.Parameter.VAR_KEYWORD


@pytest.mark.parametrize("batched", [False, True])
def test_an_unknown_option_is_refused_with_the_near_names(model: WhisperModel, batched: bool) -> None:
    transcribe: Any = BatchedInferencePipeline(model).transcribe if batched else model.transcribe
    with pytest.raises(OptionError, match="near: beam_size") as caught:
        transcribe("there is no such file.wav", beam_siz=3)
    assert caught.value.field == "beam_siz"


def test_options_may_be_given_by_position(model: WhisperModel, sample_path: Path) -> None:
    segments, info = model.transcribe(sample_path, "en", "transcribe", False, 1, 2)
    assert (info.transcription_options.beam_size, info.transcription_options.best_of) == (1, 2)
    assert list(segments)


def parameters(module: Any, path: str) -> dict[str, Any]:
    """Names and defaults, in order; lists as tuples."""
    found = module
    for name in path.split("."):
        found = getattr(found, name)
    listed = inspect.signature(found).parameters.values()
    return {each.name: tuple(each.default) if isinstance(each.default, list) else each.default for each in listed}


# ---- The language ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["edge", "ggml"])
def test_detect_language(multilingual_path: Path, sample_pcm: npt.NDArray[np.float32], engine: str) -> None:
    model = WhisperModel(multilingual_path, device="cpu", engine=engine, cpu_threads=1)
    with model.model:
        language, probability, ranking = model.detect_language(sample_pcm)
        assert (language, probability) == ranking[0]
        assert sorted(code for code, _ in ranking) == sorted(model.supported_languages)
        assert sum(one for _, one in ranking) == pytest.approx(1, abs=1e-3)
        _, info = model.transcribe(sample_pcm, max_new_tokens=1, beam_size=1, temperature=0)
        assert info.all_language_probs == ranking
        silent, *_ = model.detect_language(np.zeros(16000, np.float32))
        assert silent in model.supported_languages


@pytest.mark.parametrize("engine", ["edge", "ggml"])
@pytest.mark.parametrize(("samples", "options"), [(0, {}), (16000, {"vad_filter": True})], ids=["empty", "silent"])
def test_the_language_of_nothing_is_that_of_silence(
    multilingual_path: Path, caplog: pytest.LogCaptureFixture, engine: str, samples: int, options: dict[str, Any]
) -> None:
    model = WhisperModel(multilingual_path, device="cpu", engine=engine, cpu_threads=1)
    with model.model:
        silent = model.detect_language(np.zeros(16000, np.float32))
        assert "languages are those of silence" not in caplog.text
        assert model.detect_language(np.zeros(samples, np.float32), **options) == silent
    assert "languages are those of silence" in caplog.text


@pytest.mark.parametrize("n_windows", [1, 2])
def test_languages_are_told_by_the_first_windows_which_alone_are_decoded(
    monkeypatch: pytest.MonkeyPatch, multilingual_path: Path, sample_pcm: npt.NDArray[np.float32], n_windows: int
) -> None:
    decoded = 0
    push = PcmStream.push

    def counted(self: Any, block: Any) -> Any:
        nonlocal decoded
        decoded += block.shape[0]
        return push(self, block)

    monkeypatch.setattr(PcmStream, "push", counted)
    stream = io.BytesIO()
    soundfile.write(stream, np.resize(sample_pcm, 3_200_000), 16_000, format="FLAC")
    model = WhisperModel(multilingual_path, device="cpu", engine="edge")
    try:
        model.detect_language(stream.getvalue(), language_detection_segments=n_windows, language_detection_threshold=1)
        assert decoded < (n_windows * 30 + 12) * 16_000
        decoded = 0
        expected = model.model.encode(np.resize(sample_pcm, 480_000), 50)
        decoded = 0
        found = model.model.encode(stream.getvalue(), 50)
        assert decoded < 42 * 16_000 and np.abs(found - expected).max() < 0.05
    finally:
        model.model.close()


def test_languages_that_cannot_be_detected(model: WhisperModel, sample_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="English-only"):
        model.detect_language(sample_path)
    with pytest.raises(OptionError, match="features"):
        model.detect_language(features=np.zeros((80, 3000), np.float32))
    with pytest.raises(OptionError, match="audio"):
        model.detect_language()
    with pytest.raises(OptionError, match="the model is English-only"):
        model.transcribe(sample_path, language="de")


# ---- Batches ---------------------------------------------------------------------------------------------------------


def test_batches(model: WhisperModel, sample_path: Path) -> None:
    segments, info = BatchedInferencePipeline(model).transcribe(sample_path, batch_size=4, beam_size=1, temperature=0)
    options = info.transcription_options
    assert (options.batch_size, options.vad_filter, options.without_timestamps) == (4, True, True)
    alone = {"vad_filter": True, "without_timestamps": True, "beam_size": 1, "temperature": 0}
    found = [dataclasses.astuple(segment) for segment in segments]
    expected = model.model.transcribe(sample_path, batch_size=4, **alone).segments
    assert found and found == [dataclasses.astuple(each) for each in expected]
    assert info.duration_after_vad == info.duration
    assert info.vad_options == VadOptions(min_silence_duration_ms=160, max_speech_duration_s=30)


@pytest.mark.parametrize("clips", [[{"start": 0.5, "end": 4.0}], [0.5, 4.0], "0.5,4.0"])
def test_batches_of_clips(model: WhisperModel, sample_path: Path, clips: Any) -> None:
    segments, info = BatchedInferencePipeline(model).transcribe(sample_path, clip_timestamps=clips, temperature=0)
    found = list(segments)
    assert found and all(0.5 <= segment.start <= segment.end <= 4.0 for segment in found)
    assert info.vad_options is None


def test_batches_of_all_of_the_audio(model: WhisperModel, sample_pcm: npt.NDArray[np.float32]) -> None:
    long = np.tile(sample_pcm, 1 + 45 * 16000 // sample_pcm.size)
    found, _ = BatchedInferencePipeline(model).transcribe(
        long, vad_filter=False, beam_size=1, temperature=0, condition_on_previous_text=False
    )
    segments = list(found)
    assert (segments[0].start, segments[-1].end) == (0, long.size // 160 / 100)
    assert [segment.seek for segment in segments] == sorted({segment.seek for segment in segments})


@pytest.mark.parametrize("clips", ["0", [0], (0.0,), "0.0"])
def test_a_clip_of_all_of_the_audio_is_not_cut_by_voice_detection(
    model: WhisperModel, sample_pcm: npt.NDArray[np.float32], clips: Any
) -> None:
    quick = {"beam_size": 1, "temperature": 0, "condition_on_previous_text": False}
    audio = np.concatenate([np.zeros(16000 * 4, np.float32), sample_pcm, np.zeros(16000 * 4, np.float32), sample_pcm])
    found, info = BatchedInferencePipeline(model).transcribe(audio, clip_timestamps=clips, **quick)
    expected, _ = BatchedInferencePipeline(model).transcribe(audio, vad_filter=False, **quick)
    assert [dataclasses.astuple(segment) for segment in found] == [dataclasses.astuple(each) for each in expected]
    assert info.vad_options is None and not info.transcription_options.vad_filter


def test_batches_need_our_model_and_our_engine(model: WhisperModel, sample_path: Path) -> None:
    with pytest.raises(OptionError, match=r"compat\.faster_whisper"):
        BatchedInferencePipeline(model.model)  # type: ignore[arg-type]
    other = WhisperModel("nano", device="cpu", engine="ggml", cpu_threads=1)
    with other.model, pytest.raises(OptionError, match="batch_size=8"):
        BatchedInferencePipeline(other).transcribe(sample_path)


# ---- One behaviour, alone and in batches -----------------------------------------------------------------------------


def both(model: WhisperModel) -> list[Any]:
    return [model.transcribe, BatchedInferencePipeline(model).transcribe]


def words(segments: Any) -> list[str]:
    return " ".join(segment.text for segment in segments).split()


def test_batches_hear_what_is_heard_alone(model: WhisperModel, sample_path: Path, sample_text: str) -> None:
    for transcribe in both(model):
        segments, info = transcribe(sample_path, without_timestamps=False, beam_size=1, temperature=0)
        assert words(segments) == sample_text.split() and info.language == "en"


def test_a_chunk_without_timestamps_is_a_segment(model: WhisperModel, sample_pcm: npt.NDArray[np.float32]) -> None:
    clips = [{"start": 0.0, "end": 3.0}, {"start": 3.5, "end": 5.0}]
    segments, _ = BatchedInferencePipeline(model).transcribe(sample_pcm, clip_timestamps=clips, beam_size=1)
    assert [(segment.start, segment.end) for segment in segments] == [(0.0, 3.0), (3.5, 5.0)]


def test_words_have_times_that_go_up(model: WhisperModel, sample_path: Path) -> None:
    for transcribe in both(model):
        segments, info = transcribe(sample_path, word_timestamps=True, beam_size=1, temperature=0)
        times = [time for segment in segments for word in segment.words for time in (word.start, word.end)]
        assert times and times == sorted(times) and times[-1] <= info.duration


@pytest.mark.parametrize("vad_filter", [False, True])
@pytest.mark.parametrize("samples", [0, 32000])
def test_nothing_gives_no_segments(model: WhisperModel, samples: int, vad_filter: bool) -> None:
    for transcribe in both(model):
        segments, info = transcribe(np.zeros(samples, np.float32), vad_filter=vad_filter)
        assert list(segments) == [] and info.duration == samples / 16000


def test_hotwords_are_a_hint(model: WhisperModel, sample_path: Path, sample_text: str) -> None:
    for transcribe in both(model):
        segments, info = transcribe(sample_path, hotwords="seven", beam_size=1, temperature=0)
        hinted = list(segments)
        assert info.transcription_options.hotwords == "seven"
        segments, _ = transcribe(sample_path, beam_size=1, temperature=0)
        assert hinted and [one.avg_logprob for one in hinted] != [one.avg_logprob for one in segments]


def test_multilingual_asks_for_the_language_of_every_window(
    multilingual_path: Path, sample_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    detect = language.Language._languages
    monkeypatch.setattr(language.Language, "_languages", lambda *a: (asked.append("language"), detect(*a))[1])
    model = WhisperModel(multilingual_path, device="cpu", engine="edge", cpu_threads=1)
    with model.model:
        for transcribe in both(model):
            for multilingual in (False, True):
                asked.clear()
                options = {"language": "en", "multilingual": multilingual, "max_new_tokens": 1, "vad_filter": False}
                list(transcribe(sample_path, beam_size=1, temperature=0, **options)[0])
                assert bool(asked) == multilingual


def test_multilingual_with_an_english_model_changes_nothing_and_says_so(
    model: WhisperModel, sample_path: Path, sample_text: str, caplog: pytest.LogCaptureFixture
) -> None:
    for transcribe in both(model):
        caplog.clear()
        segments, _ = transcribe(sample_path, multilingual=True, without_timestamps=False, beam_size=1, temperature=0)
        assert words(segments) == sample_text.split()
        assert "multilingual=True changes nothing" in caplog.text


def test_the_two_sides_of_a_stereo_file_are_two_texts(
    model: WhisperModel, sample_pcm: npt.NDArray[np.float32], sample_text: str, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "stereo.wav", np.stack([sample_pcm, np.zeros_like(sample_pcm)], axis=1), 16000)
    left, right = decode_audio(str(tmp_path / "stereo.wav"), split_stereo=True)
    assert words(model.transcribe(left, beam_size=1, temperature=0)[0]) == sample_text.split()
    assert list(model.transcribe(right, beam_size=1, temperature=0)[0]) == []
