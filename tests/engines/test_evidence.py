"""Text is checked against the voice detector: what is believed, and what the transcript says about the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import WhisperModel
from whisperq_edge._engines.evidence import ENOUGH, LONG, SpeechMarks, loud_windows_of_speech, why_not_believed
from whisperq_edge.cli import main

from tests.support.cli_runner import cli_runner
from tests.support.scripted_windows import VOCABULARY, Answer, Script, transcribe
from tests.support.whole_audio import speech_probabilities

pytestmark = pytest.mark.usefixtures("numbered_mel")

Floats = npt.NDArray[np.float32]
RATE = 16_000
TIME = VOCABULARY.special("<|0.00|>")


def why(n_windows: int, text: str, avg_logprob: float = -0.6, no_speech_prob: float = 0.35) -> Optional[str]:
    return why_not_believed(n_windows, text, avg_logprob, no_speech_prob, needs_fallback=avg_logprob < -1)


# ---- The rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["You", ". . . .", "Thank you for watching!", "♪ ♪"])
def test_where_nothing_is_heard_text_is_not_believed(text: str) -> None:
    assert why(0, text) == f"no speech heard: {text}"


def test_a_sure_model_is_believed_where_nothing_is_heard() -> None:
    assert why(0, "down", avg_logprob=-0.26, no_speech_prob=0.09) is None
    assert why(0, "down", avg_logprob=-0.26, no_speech_prob=0.94) is not None
    assert why(0, ". . .", avg_logprob=-0.26, no_speech_prob=0.09) is not None


@pytest.mark.parametrize("text", ["up", "8", "٣", "是", "да", "Thank you.", "no no"])
def test_a_word_is_believed_where_little_is_heard(text: str) -> None:
    assert why(1, text) is None


@pytest.mark.parametrize(
    ("text", "avg_logprob", "reason"),
    [
        (". . . .", -0.6, "only 0.06 s of speech heard, no letter or digit: . . . ."),
        ("♪♪", -0.6, "only 0.06 s of speech heard, no letter or digit: ♪♪"),
        ("AHHH! Ahhh! AHHH!", -0.6, "only 0.06 s of speech heard, the same words again and again: AHHH! Ahhh! AHHH!"),
        ("Wow.", -1.79, "only 0.06 s of speech heard, the model was unsure (average log-probability -1.79): Wow."),
    ],
)
def test_nonsense_is_not_believed_where_little_is_heard(text: str, avg_logprob: float, reason: str) -> None:
    assert why(2, text, avg_logprob) == reason
    assert why(ENOUGH, text, avg_logprob) is None


def test_long_babble_is_not_believed() -> None:
    """A short word in noise may be as unlikely."""
    assert why(LONG, "Who knows", avg_logprob=-2.9) == "the model was unsure (average log-probability -2.90): Who knows"
    assert why(LONG - 1, "Who knows", avg_logprob=-2.9) is None
    assert why_not_believed(LONG, "Who knows", -2.9, 0.1, needs_fallback=True, believes_doubts=True) is None


def test_a_model_that_is_unsure_and_expects_no_speech_is_not_believed() -> None:
    reason = "the model was unsure and expects no speech (probability 0.56): Applause."
    assert why(200, "Applause.", avg_logprob=-2.34, no_speech_prob=0.56) == reason
    assert why(200, "Applause.", avg_logprob=-1.34, no_speech_prob=0.3) is None
    assert why(200, "Applause.", avg_logprob=-0.9, no_speech_prob=0.56) is None


def test_no_text_is_no_reason() -> None:
    assert why(0, "") is None


def test_a_long_text_is_shortened_in_the_reason() -> None:
    assert why(0, "la " * 100) == f"no speech heard: {'la ' * 20}…"


# ---- What the detector hears -----------------------------------------------------------------------------------------


def test_quiet_speech_is_heard_when_it_is_loud(sample_pcm: Floats) -> None:
    quiet = sample_pcm[: 2 * RATE] * np.float32(0.001) + np.float32(0.1)
    assert loud_windows_of_speech(quiet, speech_probabilities) >= ENOUGH


@pytest.mark.parametrize("seconds", [0.5, 5])
@pytest.mark.parametrize("kind", ["nothing", "an offset", "white noise", "hum"])
def test_sounds_without_speech_are_heard_as_such(kind: str, seconds: float) -> None:
    times = np.arange(int(seconds * RATE)) / RATE
    sounds = {
        "nothing": np.zeros(times.size),
        "an offset": np.full(times.size, 0.1),
        "white noise": np.random.default_rng(0).standard_normal(times.size) * 0.01,
        "hum": np.sin(2 * np.pi * 50 * times) + 0.3 * np.sin(2 * np.pi * 150 * times),
    }
    assert loud_windows_of_speech(sounds[kind].astype(np.float32), speech_probabilities) == 0


def test_a_click_does_not_set_the_level() -> None:
    quiet = np.full(5 * RATE, 0.001, np.float32) * np.sign(np.sin(np.arange(5 * RATE))).astype(np.float32)
    quiet[100:110] = 0.9
    heard: list[Floats] = []

    def detect(samples: Floats) -> Floats:
        heard.append(samples)
        return np.zeros(1, np.float32)

    loud_windows_of_speech(quiet, detect)
    assert np.median(np.abs(heard[0])) > 0.5 and np.abs(heard[0]).max() == 1


def test_short_audio_is_played_twice_and_the_better_time_counts() -> None:
    noise = np.random.default_rng(0).standard_normal(RATE // 2).astype(np.float32)

    def detect(samples: Floats) -> Floats:
        assert samples.size == RATE
        return np.repeat(np.array([0, 1], np.float32), [20, 12])

    assert loud_windows_of_speech(noise, detect) == 12


def test_marks_come_in_pieces() -> None:
    probabilities = np.tile(np.array([0.9, 0.2, 0.5, 0.49], np.float32), 100)
    marks = SpeechMarks()
    for piece in np.split(probabilities, [3, 3, 110]):
        marks.push(piece)
    assert marks.count(0, 400 * 512) == 200
    assert marks.count(0, 1) == 1
    assert marks.count(512, 1024) == 0
    assert marks.count(390 * 512, 10**9) == 5


# ---- The engine ------------------------------------------------------------------------------------------------------


class Saying(Script):
    """Says the same in every window, with the tokens that it was asked with kept."""

    def __init__(self, text: str, avg_logprob: float = -0.8, no_speech_prob: float = 0.3, end: int = 1500) -> None:
        super().__init__(0)
        self._answer = Answer([TIME, *VOCABULARY.encode(text), TIME + end], avg_logprob, no_speech_prob)
        self.prompts: list[list[int]] = []

    def answer(self, window: tuple[int, int], tokens: Any, temperature: float, *options: Any) -> Answer:
        self.asked.append((window, temperature))
        self.prompts.append(list(tokens))
        return self._answer


def hearing(*spans_s: tuple[float, float]) -> dict[str, Any]:
    """A detector that hears speech there. The samples are zeros, in which a second hearing finds nothing."""

    def probabilities(samples: Floats, should_stop: Any) -> Floats:
        found = np.zeros(-(-samples.size // 512), np.float32)
        for start_s, end_s in spans_s:
            found[int(start_s * RATE / 512) : int(end_s * RATE / 512)] = 1
        return found

    return {"hear_speech": probabilities, "find_silence": lambda samples, probabilities: []}


BATCHES: dict[str, Any] = {"batch_size": 2, "clip_timestamps": [0, 30, 30, 60, 60, 90]}


@pytest.mark.parametrize("options", [{}, BATCHES], ids=["windows", "batches"])
def test_text_of_a_window_without_speech_is_dropped_with_the_reason(options: dict[str, Any]) -> None:
    script = Saying(" You")
    segments, result = transcribe(script, 90, {"language": "en", **options}, **hearing((2, 10), (70, 80)))
    assert [(segment.start, segment.text) for segment in segments] == [(0.0, " You"), (60.0, " You")]
    assert [(part.start, part.end, part.reason) for part in result.dropped] == [(30.0, 60.0, "no speech heard: You")]


def test_dropped_text_prompts_nothing() -> None:
    script = Saying(" You")
    transcribe(script, 60, {"language": "en"}, **hearing())
    assert all(VOCABULARY.special("<|startofprev|>") not in tokens for tokens in script.prompts)


@pytest.mark.parametrize("options", [{"drop_silence": False}, {"vad_filter": True}, {"prefix": "You"}])
def test_text_is_believed_on_demand(options: dict[str, Any]) -> None:
    segments, result = transcribe(Saying(" You"), 30, {"language": "en", **options}, **hearing())
    begun = " You" if "prefix" in options else ""
    assert [segment.text for segment in segments] == [begun + " You"] and result.dropped == ()


@pytest.mark.parametrize("options", [{"no_speech_threshold": None}, {"log_prob_threshold": None}])
def test_doubted_text_is_believed_where_speech_is_heard_and_the_thresholds_are_off(options: dict[str, Any]) -> None:
    script = Saying(" You", avg_logprob=-1.5, no_speech_prob=0.5)
    segments, result = transcribe(script, 30, {"language": "en", "temperature": 0.0, **options}, **hearing((1, 20)))
    assert [segment.text for segment in segments] == [" You"] and result.dropped == ()
    assert why_not_believed(100, "You", -1.5, 0.5, True) is not None


@pytest.mark.parametrize("options", [{"prefix": " "}, {"prefix": "Hello", "audio_ctx": "auto"}], ids=str)
def test_text_beside_a_prefix_is_checked(options: dict[str, Any]) -> None:
    """A blank prefix is none. Where nothing follows the prefix, the window is decoded again without it, and checked."""
    segments, result = transcribe(Saying(" ..."), 5, {"language": "en", **options}, **hearing())
    assert [segment.text for segment in segments] in ([], [" Hello ..."])
    assert [part.reason for part in result.dropped] == ["no speech heard: ..."]


def test_speech_without_text_is_told() -> None:
    _, result = transcribe(Saying(""), 30, {"language": "en"}, **hearing((1, 20)))
    assert [part.reason for part in result.dropped] == ["no text for 19.0 s of speech"]


def test_a_window_without_speech_is_not_decoded_at_higher_temperatures() -> None:
    for spans_s, temperatures in (((), [0.0]), (((1, 20),), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])):
        script = Saying(" You", avg_logprob=-3.0)
        transcribe(script, 30, {"language": "en"}, **hearing(*spans_s))
        assert [temperature for _, temperature in script.asked] == temperatures


@pytest.mark.parametrize(
    ("speech_s", "no_speech_prob", "avg_logprob", "n_encoded"),
    [
        (0.1, 0.5, -0.8, 2),  # believed, though the model expects no speech: the whole window decides
        (0.1, 0.4, -0.8, 1),
        (0.1, 0.5, -1.2, 1),  # dropped at once
        (1.0, 0.5, -0.8, 1),  # enough speech
    ],
)
def test_the_whole_window_decides_where_little_speech_is_not_expected(
    speech_s: float, no_speech_prob: float, avg_logprob: float, n_encoded: int
) -> None:
    script = Saying(" You", avg_logprob, no_speech_prob, end=250)
    options = {"language": "en", "audio_ctx": "auto", "temperature": 0.0, "log_prob_threshold": None}
    transcribe(script, 5, options, **hearing((1, 1 + speech_s)))
    assert len(script.asked) == n_encoded


def test_silence_and_dropped_text_stay_apart_and_in_order() -> None:
    tools = {**hearing(), "find_silence": lambda samples, probabilities: [(30 * RATE, 60 * RATE)]}
    options = {"language": "en", "batch_size": 4, "clip_timestamps": BATCHES["clip_timestamps"]}
    _, result = transcribe(Saying(" You"), 90, options, **tools)
    reasons = [part.reason for part in result.dropped]
    assert reasons == ["no speech heard: You", "silence", "no speech heard: You"]


class AllSilent:
    """A ``SilenceFinder`` that takes everything for silence."""

    def push(self, samples: Floats, probabilities: Floats) -> None:
        pass

    def finish(self) -> list[tuple[int, int, str]]:
        return [(0, 30 * RATE, "quiet steady noise")]


def test_short_audio_is_decoded_after_all_if_it_is_speech_when_loud(
    monkeypatch: pytest.MonkeyPatch, sample_pcm: Floats
) -> None:
    monkeypatch.undo()
    with WhisperModel("nano", device="cpu", engine="edge") as nano:
        monkeypatch.setattr(nano._engine, "_find_silence", AllSilent)
        heard = nano.transcribe(sample_pcm * np.float32(0.01), beam_size=1, temperature=0.0)
        nothing = nano.transcribe(np.zeros(RATE, np.float32), beam_size=1, temperature=0.0)
    assert heard.text and heard.dropped == ()
    assert nothing.text == "" and [part.reason for part in nothing.dropped] == ["silence"]


# ---- The command -----------------------------------------------------------------------------------------------------


def test_the_command_says_what_was_dropped_and_why(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "silence.wav", [0.0] * RATE, RATE)
    result = cli_runner().invoke(main, ["transcribe", "-m", "nano", "--verbose", "true", str(tmp_path / "silence.wav")])
    assert result.exit_code == 0 and "[00:00.000 --> 00:01.000] (dropped, silence)" in result.stderr
