"""The `edge` engine with its native model: tokens, segments and word times out of audio."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whisperq_edge import _core
from whisperq_edge._audio.pcm import to_pcm
from whisperq_edge._convert.convert import convert_model
from whisperq_edge._engines.core_model import CoreModel
from whisperq_edge._engines.edge import EdgeEngine
from whisperq_edge._engines.word_times import WordTiming, steady_words
from whisperq_edge._options import TranscribeOptions
from whisperq_edge._result import EngineResult, Segment

from tests.support.make_model import NANO, write_nano_checkpoint, write_random_model

SAMPLE = NANO.parent / "sample.flac"
SPOKEN = (NANO.parent / "sample.txt").read_text(encoding="utf-8").split()


def engine_of(path: Path) -> EdgeEngine:
    file = _core.read_model_file(path)
    return EdgeEngine(CoreModel(file, n_threads=2), file.vocabulary, n_threads=2)


@pytest.fixture(scope="module")
def nano() -> EdgeEngine:
    return engine_of(NANO)


def run(
    engine: EdgeEngine, samples: Any, should_stop: Any = lambda: False, **given: Any
) -> tuple[list[Segment], EngineResult]:
    options = TranscribeOptions.from_arguments(given)
    engine.check(options)
    segments: list[Segment] = []
    result = engine.transcribe(
        samples,
        options,
        [],
        on_languages=lambda ranking: None,
        on_segment=segments.append,
        on_progress=lambda fraction: None,
        should_stop=should_stop,
    )
    return segments, result


@pytest.fixture(scope="module")
def sample() -> Any:
    return to_pcm(SAMPLE).samples


@pytest.mark.parametrize("beam_size", [1, 5])
@pytest.mark.parametrize("audio_ctx", [None, "auto"])
def test_it_hears_the_sample(nano: EdgeEngine, sample: Any, beam_size: int, audio_ctx: Any) -> None:
    segments, result = run(nano, sample, beam_size=beam_size, audio_ctx=audio_ctx)
    assert "".join(segment.text for segment in segments).split() == SPOKEN
    assert result.stages["encode"].runs == 1 and result.stages["sample"].runs > 20


def test_words_are_the_text_with_times(nano: EdgeEngine, sample: Any) -> None:
    segments, _ = run(nano, sample, word_timestamps=True)
    for segment in segments:
        assert segment.words
        assert "".join(word.word for word in segment.words) == segment.text
        assert all(0 < word.probability <= 1 for word in segment.words)


def test_the_same_bytes_in_and_out(nano: EdgeEngine, sample: Any) -> None:
    again = np.concatenate([sample] * 3)
    first, second = (run(nano, again, temperature=0.8, best_of=3, seed=5)[0] for _ in range(2))
    assert first == second
    results: list[Any] = [None, None]

    def work(i: int) -> None:
        results[i] = run(nano, again, temperature=0.8, best_of=3, seed=5)[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [first, first]


def test_batches_say_the_same_as_one_by_one(nano: EdgeEngine, sample: Any) -> None:
    long = np.concatenate([sample] * 7)
    one, _ = run(nano, long, batch_size=1, temperature=0.0, beam_size=1, word_timestamps=True)
    many, _ = run(nano, long, batch_size=3, temperature=0.0, beam_size=1, word_timestamps=True)
    assert one == many


def test_a_multilingual_model_detects_and_translates(tmp_path: Path) -> None:
    path = tmp_path / "micro.bin"
    write_random_model(path, "micro", "f32")
    segments, result = run(
        engine_of(path), np.zeros(16000, np.float32), max_new_tokens=5, task="translate", temperature=0
    )
    assert len(segments) == 1 or not segments
    assert result.stages["encode"].runs == 2


def test_it_stops(nano: EdgeEngine, sample: Any) -> None:
    asked = []
    long = np.concatenate([sample] * 6)
    _, result = run(nano, long, should_stop=lambda: bool(asked.append(1)) or len(asked) > 40)
    assert result.stopped


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{"beam_size": 1}, {"beam_size": 3}, {"beam_size": 1, "word_timestamps": True}])
def test_long_audio_as_openai_whisper(tmp_path: Path, sample: Any, options: dict[str, Any]) -> None:
    whisper = pytest.importorskip("whisper")
    path = tmp_path / "nano.bin"
    weights = write_nano_checkpoint(tmp_path / "nano.en.pt")
    convert_model(weights, path, type="f32", proof="tensors")
    dice = np.random.RandomState(0)
    parts = [(sample * dice.uniform(0.3, 1), np.zeros(dice.randint(48000))) for _ in range(3)]
    long = np.concatenate([piece for pair in parts for piece in pair]).astype(np.float32)
    ours, _ = run(engine_of(path), long, temperature=0.0, **options)
    given = {name: value for name, value in options.items() if value != 1 or name != "beam_size"}
    theirs = whisper.load_model(str(weights), device="cpu").transcribe(long, fp16=False, temperature=0.0, **given)
    said = [s for s in theirs["segments"] if s["text"]]  # of openai/whisper's some say nothing
    assert [(s.seek, s.start, s.end, s.text, s.tokens) for s in ours] == [
        (s["seek"], s["start"], s["end"], s["text"], s["tokens"]) for s in said
    ]
    if "word_timestamps" in options:
        for mine, other in zip(ours, said):
            raw = [WordTiming(w["word"], [], w["start"], w["end"], w["probability"]) for w in other["words"]]
            expected = steady_words(raw, other["start"], other["end"])
            assert mine.words is not None
            assert [(word.word, word.start, word.end) for word in mine.words] == [
                (word.word, word.start, word.end) for word in expected
            ]
