"""The edge engine against openai/whisper: golden answers that ship, and the large comparison of docs/parity.md."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import WhisperModel, _core
from whisperq_edge._convert.convert import convert_model
from whisperq_edge._engines.word_times import WordTiming, steady_words

from tests.support.make_model import write_nano_checkpoint, write_random_model
from tests.support.paths import DATA, ROOT
from tests.support.whole_audio import window_mel

Floats = npt.NDArray[np.float32]

GOLDEN = json.loads((DATA / "parity" / "golden.json").read_text(encoding="utf-8"))
WORD_TOLERANCE_S = 0.02
SOT = {"micro": [50258, 50259, 50359], "micro.en": [50257]}


def audio(name: str, sample: Floats) -> Floats:
    """As scripts/measure_parity.py has made it."""
    if name == "faster":
        return np.ascontiguousarray(sample[:-1:2] + sample[1::2]) * np.float32(0.5)
    if name == "backwards":
        return np.ascontiguousarray(sample[::-1])
    if name == "noisy":
        noise = np.random.RandomState(3).standard_normal(sample.size).astype(np.float32)
        return sample + noise * np.float32(0.05)
    if name == "long":
        pauses = [np.zeros(n * 8000, np.float32) for n in (1, 5, 0, 3, 2)]
        return np.concatenate([x for i, p in enumerate(pauses) for x in (sample * np.float32(0.4 + 0.1 * i), p)])
    return sample


@pytest.fixture(scope="module")
def nano_f32(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WhisperModel]:
    folder = tmp_path_factory.mktemp("nano")
    path = folder / "nano.bin"
    convert_model(write_nano_checkpoint(folder / "nano.en.pt"), path, type="f32", proof="tensors")
    with WhisperModel(path, device="cpu", engine="edge", cpu_threads=2) as model:
        yield model


@pytest.mark.parametrize(
    ("name", "i"),
    # the beams of "long" part at a tie: two sums of log probabilities that the order of additions decides between
    [(name, i) for name in GOLDEN["nano"] for i in (0, 1) if (name, i) != ("long", 1)],
)
def test_segments_and_words_are_openais(nano_f32: WhisperModel, sample_pcm: Floats, name: str, i: int) -> None:
    expected = GOLDEN["nano"][name][i]
    transcript = nano_f32.transcribe(
        audio(name, sample_pcm),
        beam_size=expected["beam_size"],
        temperature=0.0,
        word_timestamps=True,
        drop_silence=False,
    )
    fields = ("seek", "start", "end", "text", "tokens")
    found = [[s.seek, s.start, s.end, s.text, list(s.tokens)] for s in transcript]
    said = [segment for segment in expected["segments"] if segment["text"]]  # of openai/whisper's some say nothing
    assert found == [[segment[field] for field in fields] for segment in said]
    for segment, theirs in zip(transcript, said):
        assert segment.words is not None
        assert [word.word for word in segment.words] == [word for word, _, _ in theirs["words"]]
        raw = [WordTiming(word, [], start, end, 1.0) for word, start, end in theirs["words"]]
        # openai/whisper's heuristics can set words outside of their segment; ours are moved into it
        for word, expected_word in zip(segment.words, steady_words(raw, segment.start, segment.end)):
            assert word.start == pytest.approx(expected_word.start, abs=WORD_TOLERANCE_S + 1e-6)
            assert word.end == pytest.approx(expected_word.end, abs=WORD_TOLERANCE_S + 1e-6)


@pytest.mark.parametrize(("preset", "seed"), [("micro", 1), ("micro.en", 2)])
def test_random_weights_find_openais_tokens_and_language(
    tmp_path: Path, sample_pcm: Floats, preset: str, seed: int
) -> None:
    path = write_random_model(tmp_path / "random.bin", preset, "f32", seed)
    model = _core.EdgeModel(os.fspath(path), "auto", 2)
    with WhisperModel(path, device="cpu", engine="edge") as whole:
        for name in GOLDEN["nano"]:
            expected = GOLDEN["random"][f"{preset} {seed} {name}"]
            samples = audio(name, sample_pcm)
            mel = window_mel(samples, 80)
            heard = model.listen(model.encode(mel.padded_window(0, min(3000, mel.n_frames)), 1500))
            request = _core.WindowRequest(SOT[preset], 0)
            for beam_size in (0, 5):
                [result] = _core.decode_windows(model, [heard], [request], options(preset, beam_size))[0]
                assert result.tokens == expected["tokens"][str(beam_size)], (name, beam_size)
            if "language" in expected:
                transcript = whole.transcribe(samples, temperature=0.0, max_new_tokens=1, drop_silence=False)
                assert transcript.language == expected["language"]
                assert transcript.language_probability == pytest.approx(expected["language_probability"], rel=1e-3)


def options(preset: str, beam_size: int) -> _core.DecodeOptions:
    """openai/whisper's defaults, with 16 tokens at most."""
    from whisperq_edge._engines.windows import _decode_options
    from whisperq_edge._options import TranscribeOptions
    from whisperq_edge._whisper.tokenizer import Tokenizer, Vocabulary

    from tests.support.make_model import PRESETS, real_vocabulary

    n_vocab = PRESETS[preset].n_vocab
    tokenizer = Tokenizer(Vocabulary(real_vocabulary(n_vocab), n_vocab), "en", "transcribe")
    chosen = _decode_options(
        TranscribeOptions(beam_size=max(beam_size, 1)), tokenizer, PRESETS[preset]._asdict(), 0.0, 16
    )
    made = _core.DecodeOptions()
    for name in chosen.__dataclass_fields__:
        value = getattr(chosen, name)
        setattr(made, name, list(value) if isinstance(value, tuple) else value)
    return made


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_large_comparison(speech_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/parity.md: everything equal but ties, which are 1 % at most; words within 20 ms on 95 %."""
    pytest.importorskip("whisper")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import measure_parity

    tallies = [*measure_parity.measure_clips(speech_data, tmp_path, 200)]
    tallies += measure_parity.measure_random(speech_data, tmp_path, 200, measure_parity.PRESETS.split(","))
    for tally in tallies:
        assert len(tally.differences) == tally.n_ties <= 0.01 * tally.n, tally
    files = measure_parity.measure_long(speech_data, tmp_path, 20)
    assert all(file.is_equal for file in files), files
    assert sum(file.n_near for file in files) >= 0.95 * sum(file.n_words for file in files)
    n_equal, n, largest = measure_parity.measure_languages(speech_data, tmp_path, 50)
    assert n_equal >= 0.98 * n and largest < 1e-5
    sys.modules.pop("measure_parity")
