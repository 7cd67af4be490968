"""``WhisperModel.transcribe`` on the ggml engine, with the bundled model and with random weights."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import (
    AudioError,
    CancelledError,
    CancelToken,
    InferenceError,
    InterruptedByUser,
    ModelNotFoundError,
    OptionError,
    Segment,
    Transcript,
    UnsupportedModelError,
    WhisperModel,
    WhisperqError,
)
from whisperq_edge._convert.convert import convert_model
from whisperq_edge._result import STAGES

from tests.support.make_model import Dims, write_random_model
from tests.support.processes import start_interruptible
from tests.support.sanitizers import not_with_sanitizers

WIDE = Dims(80, 1500, 256, 4, 1, 448, 256, 4, 1, 51864)  # 256 is the least width that a k-quant takes
QUICK: dict[str, Any] = {"beam_size": 1, "temperature": 0.0}
Samples = npt.NDArray[np.float32]


def texts(transcript: Transcript) -> list[str]:
    return [segment.text for segment in transcript]


@pytest.fixture(scope="session")
def heard(nano: WhisperModel, sample_path: Path) -> Transcript:
    """What each engine hears in the sample: several tests read it, none changes it."""
    return nano.transcribe(sample_path, **QUICK)


def test_sample_is_transcribed_right(heard: Transcript, sample_text: str) -> None:
    transcript = heard
    assert transcript.text.split() == sample_text.split()
    assert transcript.language == "en" and transcript.language_probability == 1.0
    assert "".join(texts(transcript)) == transcript.text


def test_default_options_give_the_same_words(nano: WhisperModel, sample_path: Path, sample_text: str) -> None:
    assert nano.transcribe(sample_path).text.split() == sample_text.split()


def test_segments_are_in_order_and_inside_the_audio(heard: Transcript) -> None:
    assert len(heard) >= 2
    at = 0.0
    for i, segment in enumerate(heard):
        assert segment.id == i and segment.seek == 0
        assert at <= segment.start <= segment.end <= heard.duration_s + 0.01
        assert segment.temperature == 0.0 and segment.avg_logprob <= 0 and segment.compression_ratio > 0
        assert 0 <= segment.no_speech_prob < 0.6
        assert segment.words is None
        at = segment.end


def test_long_audio_goes_on_after_30_s(nano: WhisperModel, sample_pcm: Samples, sample_text: str) -> None:
    pause = np.zeros(16000, np.float32)
    transcript = nano.transcribe(np.concatenate([sample_pcm, pause, sample_pcm, pause, sample_pcm]), **QUICK)
    starts = [segment.start for segment in transcript]
    assert starts == sorted(starts)
    assert transcript.segments[-1].end > 2 * sample_pcm.size / 16000
    assert transcript.timings["encode"].runs >= 2


@pytest.mark.parametrize("as_what", ["str", "bytes", "file", "array", "stereo 48 kHz"])
def test_every_kind_of_audio(nano: WhisperModel, sample_path: Path, sample_pcm: Samples, as_what: str) -> None:
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "str": (str(sample_path), {}),
        "bytes": (sample_path.read_bytes(), {}),
        "file": (io.BytesIO(sample_path.read_bytes()), {}),
        "array": (sample_pcm.astype(np.float64), {}),
        "stereo 48 kHz": (np.repeat(np.stack([sample_pcm] * 2, axis=1), 3, axis=0), {"sampling_rate": 48000}),
    }
    audio, more = kinds[as_what]
    transcript = nano.transcribe(audio, **QUICK, **more)
    assert transcript.duration_s == pytest.approx(sample_pcm.size / 16000, abs=0.01)
    assert transcript.text


@pytest.mark.parametrize("n_samples", [0, 1, 159, 1599])
def test_next_to_no_audio_is_an_empty_transcript(nano: WhisperModel, n_samples: int) -> None:
    transcript = nano.transcribe(np.zeros(n_samples, np.float32))
    assert transcript.text == "" and transcript.segments == []


def silences() -> dict[str, Samples]:
    rng = np.random.default_rng(7)
    n = 5 * 16000
    return {
        "digital silence": np.zeros(n, np.float32),
        "dc": np.full(n, 0.1, np.float32),
        "quiet white noise": (0.003 * rng.standard_normal(n)).astype(np.float32),
    }


@pytest.mark.parametrize("kind", sorted(silences()))
def test_silence_has_no_text(nano: WhisperModel, kind: str) -> None:
    assert nano.transcribe(silences()[kind]).text == ""


def test_nan_is_refused_with_its_place(nano: WhisperModel) -> None:
    samples = np.zeros(16000, np.float32)
    samples[8000] = np.nan
    with pytest.raises(AudioError, match="8000"):
        nano.transcribe(samples)


def test_word_timestamps(nano: WhisperModel, sample_path: Path, sample_text: str) -> None:
    transcript = nano.transcribe(sample_path, word_timestamps=True, **QUICK)
    words = [word for segment in transcript for word in segment.words or []]
    assert [word.word.strip() for word in words] == sample_text.split()
    for segment in transcript:
        at = 0.0
        for word in segment.words or []:
            assert at <= word.start <= word.end <= transcript.duration_s + 0.01
            assert 0 <= word.probability <= 1
            at = word.end


def test_without_timestamps(nano: WhisperModel, sample_path: Path) -> None:
    transcript = nano.transcribe(sample_path, without_timestamps=True, **QUICK)
    assert len(transcript) == 1
    assert all(token < 50363 for token in transcript.segments[0].tokens)


def test_segments_start_with_their_timestamp_token(heard: Transcript) -> None:
    for segment in heard:
        assert segment.tokens[0] == 50363 + round(segment.start / 0.02)


def test_vad_filter_keeps_the_times_of_the_whole_audio(
    nano: WhisperModel, sample_pcm: Samples, sample_text: str
) -> None:
    lead_s = 12
    late = np.concatenate([np.zeros(lead_s * 16000, np.float32), sample_pcm])
    transcript = nano.transcribe(late, vad_filter=True, vad_parameters={"min_silence_duration_ms": 500}, **QUICK)
    assert transcript.segments and transcript.segments[0].start >= lead_s - 1
    assert transcript.segments[-1].end <= transcript.duration_s
    assert transcript.timings["vad"].runs == 1 and transcript.timings["vad"].ms > 0


def test_vad_filter_on_silence_decodes_nothing(nano: WhisperModel) -> None:
    transcript = nano.transcribe(np.zeros(80000, np.float32), vad_filter=True)
    assert transcript.segments == [] and transcript.timings["encode"].runs == 0


def test_clip_timestamps_hear_only_their_part(nano: WhisperModel, heard: Transcript, sample_path: Path) -> None:
    part = nano.transcribe(sample_path, clip_timestamps=[heard.segments[1].start - 0.2], **QUICK)
    assert part.segments and part.segments[0].start >= heard.segments[1].start - 0.3
    assert len(part) < len(heard)


@pytest.mark.parametrize("engine", ["edge", "ggml"])
def test_clips_behind_the_audio_are_told(engine: str, sample_pcm: Samples, caplog: pytest.LogCaptureFixture) -> None:
    with WhisperModel("nano", device="cpu", engine=engine, cpu_threads=1) as model:
        for clips, n_late in (([0, 1], 0), ([0, 1, 20, 30], 1), ([100], 1), ([20, 21, 40, 41], 2)):
            caplog.clear()
            model.transcribe(sample_pcm, clip_timestamps=clips, beam_size=1, temperature=0)
            said = [record.getMessage() for record in caplog.records]
            assert len(said) == min(n_late, 1)
            assert not said or f"{n_late} of {len(clips) // 2 or 1} clips lie behind the audio, from " in said[0]


def test_sampling_is_the_same_from_call_to_call(nano: WhisperModel, sample_path: Path) -> None:
    options = {"temperature": 1.0, "best_of": 3}
    first, second = (nano.transcribe(sample_path, **options) for _ in range(2))
    assert [dataclasses.astuple(a) for a in first] == [dataclasses.astuple(b) for b in second]


def test_suppressed_tokens_do_not_appear(nano: WhisperModel, heard: Transcript, sample_path: Path) -> None:
    token = next(token for token in heard.segments[0].tokens if token < 50256)
    without = nano.transcribe(sample_path, suppress_tokens=[-1, token], **QUICK)
    assert all(token not in segment.tokens for segment in without)


def test_no_repeat_ngram_size(nano: WhisperModel, sample_path: Path) -> None:
    transcript = nano.transcribe(sample_path, no_repeat_ngram_size=1, without_timestamps=True, **QUICK)
    tokens = transcript.segments[0].tokens if transcript.segments else []
    assert len(tokens) == len(set(tokens))


def test_timings_sum_to_their_total(nano: WhisperModel, sample_path: Path) -> None:
    before = nano.timings
    transcript = nano.transcribe(sample_path, **QUICK)
    timings = transcript.timings
    assert sum(timings[stage].ms for stage in (*STAGES, "other")) == pytest.approx(timings["total"].ms)
    for stage in ("audio_decode", "mel", "encode", "decode", "sample"):
        assert timings[stage].ms > 0 and timings[stage].runs > 0, stage
    assert timings["encode"].runs == 1
    cumulative = nano.timings
    assert cumulative["load"].runs == 1 and cumulative["load"].ms > 0
    assert cumulative["total"].ms == pytest.approx(before["total"].ms + timings["total"].ms)


@not_with_sanitizers("peak memory: theirs counts too")
def test_reading_timings_does_not_leak(nano: WhisperModel) -> None:
    resource = pytest.importorskip("resource")
    for _ in range(100):
        _ = nano.timings.to_dict()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(10_000):
        _ = nano.timings.to_dict()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024


def test_other_is_small_on_base_shapes(tmp_path: Path, sample_path: Path) -> None:
    path = write_random_model(tmp_path / "base.en.bin", "base.en", "q8_0")
    with WhisperModel(path, device="cpu") as model:
        timings = model.transcribe(sample_path, max_new_tokens=20, **QUICK).timings
    assert timings["other"].ms < 0.05 * timings["total"].ms, timings.table()


def test_callbacks_see_every_segment_and_the_progress(nano: WhisperModel, sample_pcm: Samples) -> None:
    segments, progress = [], []
    transcript = nano.transcribe(
        np.concatenate([sample_pcm] * 3),
        on_segment=segments.append,
        on_progress=lambda fraction, eta_s: progress.append((fraction, eta_s)),
        **QUICK,
    )
    assert segments == transcript.segments
    fractions = [fraction for fraction, _ in progress]
    assert fractions == sorted(fractions) and 0 < fractions[0] and fractions[-1] <= 1
    assert all(eta_s >= 0 for _, eta_s in progress)


def test_an_error_in_a_callback_reaches_the_caller_at_once(nano: WhisperModel, sample_pcm: Samples) -> None:
    heard = []

    def complain(segment: Segment) -> None:
        heard.append(segment)
        raise LookupError("not today")

    samples = np.concatenate([sample_pcm] * 2)
    with pytest.raises(LookupError, match="not today"):
        nano.transcribe(samples, on_segment=complain, **QUICK)
    segments = nano.transcribe(samples, **QUICK).segments
    assert segments[1].seek == segments[0].seek, "a window of several segments, so that there was more to report"
    assert heard == segments[:1]


def test_cancel_keeps_what_was_heard(nano: WhisperModel, sample_pcm: Samples) -> None:
    token = CancelToken()
    with pytest.raises(CancelledError) as caught:
        nano.transcribe(np.concatenate([sample_pcm] * 6), cancel=token, on_segment=lambda _: token.cancel(), **QUICK)
    partial = caught.value.partial
    assert partial is not None and 1 <= len(partial) and partial.text
    assert partial.segments[-1].end < 6 * sample_pcm.size / 16000
    assert nano.transcribe(sample_pcm, **QUICK).text


def test_cancelled_before_it_began(nano: WhisperModel, sample_pcm: Samples) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError) as caught:
        nano.transcribe(sample_pcm, cancel=token)
    assert caught.value.partial is not None and caught.value.partial.segments == []


def test_an_interrupted_call_tells_what_it_dropped(nano_edge: WhisperModel, sample_pcm: Samples) -> None:
    def interrupt(segment: Segment) -> None:
        raise KeyboardInterrupt

    audio = np.concatenate([np.zeros(40 * 16000, np.float32), sample_pcm])
    with pytest.raises(InterruptedByUser) as caught:
        nano_edge.transcribe(audio, on_segment=interrupt, **QUICK)
    assert caught.value.partial is not None
    assert [(part.start, part.reason) for part in caught.value.partial.dropped] == [(0.0, "silence")]
    assert caught.value.partial.timings["encode"].runs == 1


_INTERRUPTED = """
import sys, time
import numpy as np
from whisperq_edge import InterruptedByUser, WhisperModel
from whisperq_edge._audio.pcm import to_pcm
samples = np.tile(to_pcm(sys.argv[1]).samples, 40)
model = WhisperModel("nano", device="cpu")
try:
    model.transcribe(samples, beam_size=1, temperature=0, on_segment=lambda _: print("segment\\n", end="", flush=True))
except KeyboardInterrupt as interrupt:
    assert isinstance(interrupt, InterruptedByUser)
    print("kept", len(interrupt.partial), bool(interrupt.partial.text), flush=True)
    print("again", bool(model.transcribe(samples[:160000], beam_size=1, temperature=0).text), flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_the_call_and_keeps_what_was_heard(sample_path: Path) -> None:
    command = [sys.executable, "-c", _INTERRUPTED, str(sample_path)]
    with start_interruptible(command) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "segment"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    lines = [line for line in out.splitlines() if line != "segment"]
    assert process.returncode == 0, err
    assert lines[0].startswith("kept ") and lines[0].endswith("True")
    assert lines[1] == "again True"


def test_threads_share_a_model(nano: WhisperModel, heard: Transcript, sample_path: Path) -> None:
    results: list[Transcript] = []
    threads = [threading.Thread(target=lambda: results.append(nano.transcribe(sample_path, **QUICK))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.text for result in results] == [heard.text] * 3


def test_the_gil_is_released(nano: WhisperModel, sample_pcm: Samples) -> None:
    ticks = 0
    done = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not done.is_set():
            ticks += 1
            time.sleep(0.001)

    ticker = threading.Thread(target=tick)
    ticker.start()
    nano.transcribe(np.concatenate([sample_pcm] * 3), **QUICK)
    done.set()
    ticker.join()
    assert ticks > 10


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"vad_filter": True}], ids=str)
def test_a_progress_bar_on_a_terminal(
    nano: WhisperModel, sample_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    if options.get("batch_size") and nano.engine == "ggml":
        pytest.skip("whisper.cpp has no batches")
    heard: list[float] = []
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", _Terminal())
        patch.setenv("COLUMNS", "80")
        shown = sys.stderr
        nano.transcribe(
            sample_path, log_progress=True, on_progress=lambda done, left_s: heard.append(done), **QUICK, **options
        )
        assert sys.stderr is shown
    bar = shown.getvalue()  # type: ignore[attr-defined]
    assert sample_path.name in bar and "100%" in bar
    assert heard  # a listener of one's own is told as well


def test_no_progress_bar_where_nobody_looks(
    nano: WhisperModel, sample_pcm: Samples, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nano.transcribe(sample_pcm, log_progress=True, **QUICK)
    assert capfd.readouterr() == ("", "")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", _Terminal())
        nano.transcribe(sample_pcm, **QUICK)
        assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_a_call_that_fails_leaves_no_bar_behind(sample_pcm: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    cancel = CancelToken()
    cancel.cancel()
    with monkeypatch.context() as patch, WhisperModel("nano", device="cpu") as model:
        patch.setattr(sys, "stderr", _Terminal())
        with pytest.raises(CancelledError):
            model.transcribe(sample_pcm, log_progress=True, cancel=cancel)
        shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "100%" not in shown and shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is back


UNSUPPORTED: dict[str, Any] = {
    "patience": 2.0,
    "length_penalty": 0.5,
    "compression_ratio_threshold": 1.8,
    "prompt_reset_on_temperature": 0.3,
    "prefix": "seven",
    "multilingual": True,
    "chunk_length": 15,
    "hallucination_silence_threshold": 2.0,
    "hotwords": "zero",
    "language_detection_threshold": 0.9,
    "language_detection_segments": 3,
    "seed": 1,
    "temperature": (0.0, 0.4),
    "beam_size": 9,
    "best_of": 99,
    "suppress_tokens": [60000],
    "task": "translate",
    "language": "de",
}


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_what_whisper_cpp_cannot_do_is_an_error(sample_pcm: Samples, name: str) -> None:
    with WhisperModel("nano", device="cpu", engine="ggml") as model, pytest.raises(OptionError) as caught:
        model.transcribe(sample_pcm, **{name: UNSUPPORTED[name]})
    assert caught.value.field == name
    assert caught.value.allowed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beam_siz", 3),
        ("beam_size", 0),
        ("beam_size", "five"),
        ("temperature", -0.1),
        ("temperature", ()),
        ("temperature", "hot"),
        ("clip_timestamps", "4,2"),
        ("clip_timestamps", "now"),
        ("language", "klingon"),
        ("task", "sing"),
        ("max_new_tokens", 0),
        ("vad_parameters", {"loudness": 3}),
    ],
)
def test_a_wrong_option_is_named(nano: WhisperModel, sample_pcm: Samples, name: str, value: Any) -> None:
    with pytest.raises(OptionError) as caught:
        nano.transcribe(sample_pcm, **{name: value})
    assert caught.value.field == name


def test_vad_and_clips_do_not_go_together(nano: WhisperModel, sample_pcm: Samples) -> None:
    with pytest.raises(OptionError, match="clip_timestamps"):
        nano.transcribe(sample_pcm, vad_filter=True, clip_timestamps="0,4")


@pytest.mark.parametrize(
    "arguments",
    [
        {"engine": "steam"},
        {"device": "cuda"},
        {"device": "abacus"},
        {"compute_type": "int3"},
        {"compute_type": "float32"},
        {"cpu_threads": -1},
        {"cpu_threads": True},
        {"device_index": -1},
        {"device_index": "a"},
    ],
)
def test_a_wrong_constructor_argument_is_named(arguments: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as caught:
        WhisperModel("nano", **arguments)
    assert caught.value.field in arguments


@pytest.mark.parametrize("name", ["on_segment", "on_progress", "cancel"])
def test_what_cannot_be_called_is_named(nano: WhisperModel, sample_pcm: Samples, name: str) -> None:
    with pytest.raises(OptionError) as caught:
        nano.transcribe(sample_pcm, **{name: 5})
    assert caught.value.field == name


def test_the_type_of_the_file_may_be_insisted_on() -> None:
    with WhisperModel("nano", compute_type="float16", device="cpu") as model:
        assert model.compute_type == "f16"


def test_missing_model() -> None:
    with pytest.raises(ModelNotFoundError, match="nano") as caught:
        WhisperModel("no-such-model.bin")
    assert isinstance(caught.value, FileNotFoundError)


def test_f32_files_are_refused_before_whisper_cpp_asserts(tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "f32.bin", "micro.en", "f32")
    with pytest.raises(UnsupportedModelError, match="f32"):
        WhisperModel(path, engine="ggml")
    with WhisperModel(path) as model:
        assert model.engine == "edge"


def test_the_engine_is_edge_where_it_can_run_the_model(tmp_path: Path) -> None:
    with WhisperModel("nano", device="cpu") as model:
        assert model.engine == "edge" and model.device == "cpu"
    f16 = write_random_model(tmp_path / "f16.bin", WIDE, "f16")
    k_quant = convert_model(f16, tmp_path / "q4_k.bin", type="q4_k", proof="tensors").path
    with WhisperModel(k_quant, device="cpu") as model:
        assert model.engine == "ggml"
    with pytest.raises(UnsupportedModelError, match="q4_k"):
        WhisperModel(k_quant, engine="edge")
    with pytest.raises(OptionError, match="cpu"):
        WhisperModel("nano", device="gpu", engine="edge")


def test_a_closed_model_says_so(sample_pcm: Samples) -> None:
    model = WhisperModel("nano", device="cpu")
    model.close()
    with pytest.raises(InferenceError, match="closed"):
        model.transcribe(sample_pcm)
    assert "closed" in repr(model)


def test_multilingual_models_detect_the_language(multilingual_path: Path, sample_pcm: Samples) -> None:
    with WhisperModel(multilingual_path, device="cpu") as model:
        detected = model.transcribe(sample_pcm, max_new_tokens=5, **QUICK)
        assert detected.language in model.supported_languages
        assert 0 < detected.language_probability < 1
        given = model.transcribe(sample_pcm, language="German", task="translate", max_new_tokens=5, **QUICK)
        assert given.language == "de" and given.language_probability == 1.0
        with pytest.raises(OptionError):
            model.transcribe(sample_pcm, language="yue")


@pytest.mark.parametrize("n_tokens", [1, 2, 7])
def test_a_window_has_as_many_tokens_as_were_asked_for(nano: WhisperModel, sample_pcm: Samples, n_tokens: int) -> None:
    """whisper.cpp has one more than its own ``max_tokens``."""
    eot = 50256
    forced: dict[str, Any] = {"max_new_tokens": n_tokens, "suppress_tokens": [-1, eot], **QUICK}
    transcript = nano.transcribe(sample_pcm, without_timestamps=True, **forced)
    assert [sum(token < eot for token in segment.tokens) for segment in transcript] == [n_tokens]
    for segment in nano.transcribe(sample_pcm, **forced):
        assert len(segment.tokens) <= max(n_tokens, 2)  # a start and an end, at least


def test_previous_text_can_be_left_out(multilingual_path: Path, sample_pcm: Samples) -> None:
    """With random weights the prompt changes the answer, so it shows whether there was one."""
    long = np.tile(sample_pcm, 4)
    options = {"language": "en", "max_new_tokens": 8, "without_timestamps": True, "drop_silence": False, **QUICK}
    with WhisperModel(multilingual_path, device="cpu") as model:
        with_past = model.transcribe(long, **options)
        without_past = model.transcribe(long, condition_on_previous_text=False, **options)
        prompted = model.transcribe(long, initial_prompt=list(range(100, 140)), **options)
    assert with_past.segments[0].tokens == without_past.segments[0].tokens
    assert with_past.segments[1].tokens != without_past.segments[1].tokens
    assert prompted.segments[0].tokens != with_past.segments[0].tokens


@pytest.mark.parametrize("ftype", ["q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_quantised_files_run(tmp_path: Path, sample_pcm: Samples, ftype: str) -> None:
    path = write_random_model(tmp_path / f"{ftype}.bin", "micro.en", ftype)
    with WhisperModel(path, device="cpu") as model:
        assert model.compute_type == ftype
        assert model.transcribe(sample_pcm, max_new_tokens=3, **QUICK).timings["encode"].runs >= 1


def test_every_error_is_ours() -> None:
    for error in (AudioError, CancelledError, InferenceError, ModelNotFoundError, OptionError, UnsupportedModelError):
        assert issubclass(error, WhisperqError)
