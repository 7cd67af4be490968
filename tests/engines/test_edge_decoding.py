"""The edge engine decodes windows and finds the times of tokens: against openai/whisper, and its own invariants."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Optional

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import _core
from whisperq_edge._convert.readers.ggml import open_ggml
from whisperq_edge._convert.readers.rows import floats
from whisperq_edge._errors import InferenceError, InternalError

from tests.support.make_model import Dims, write_random_model
from tests.support.paths import ROOT
from tests.support.scripted_model import EOT, NO_TIMESTAMPS, RULES, SOT, native_options

Floats = npt.NDArray[np.float32]


PROMPT = [SOT, 50259, 50359]
N_CTX = 200  # audio tokens: enough to listen to
SHAPE = Dims(80, 1500, 128, 2, 1, 448, 128, 2, 2, 51865)
HEADS = [(0, 1), (1, 0), (1, 1)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("model") / "micro.bin", SHAPE, "f32", seed=1)


@pytest.fixture(scope="module")
def model(path: Path) -> _core.EdgeModel:
    return _core.EdgeModel(os.fspath(path), "auto", 2)


def mel_of(seed: int, n_frames: int = 3000) -> Floats:
    return np.random.default_rng(seed).standard_normal((80, n_frames)).astype(np.float32)


@pytest.fixture(scope="module")
def audios(model: _core.EdgeModel) -> list[_core.EdgeAudio]:
    return [model.listen(model.encode(mel_of(seed), N_CTX)) for seed in range(4)]


def options(**changes: Any) -> _core.DecodeOptions:
    made = _core.DecodeOptions()
    fields = {
        **RULES,
        "sample_len": 20,
    }
    for name, value in {**fields, **changes}.items():
        setattr(made, name, value)
    return made


def requests(n: int) -> list[_core.WindowRequest]:
    """Prompts of different lengths."""
    before = [[50361, *range(40, 40 + 3 * i)] if i else [] for i in range(n)]
    return [_core.WindowRequest([*text, *PROMPT], len(text), i) for i, text in enumerate(before)]


def as_tuple(result: _core.WindowResult) -> tuple[Any, ...]:
    return (result.tokens, result.sum_logprob, result.avg_logprob, result.no_speech_prob, result.is_complete)


# ---- openai/whisper --------------------------------------------------------------------------------------------------


def openai_model(path: Path) -> Any:
    """openai/whisper's model with the weights of a ggml file."""
    torch = pytest.importorskip("torch")
    whisper_model = pytest.importorskip("whisper.model")
    hparams = _core.read_model_file(path).hparams
    fields = whisper_model.ModelDimensions.__dataclass_fields__
    made = whisper_model.Whisper(whisper_model.ModelDimensions(**{name: hparams[name] for name in fields}))
    weights = {t.name: floats(t).astype(np.float32).reshape(t.shape) for t in open_ggml(path).tensors}
    made.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
    return made.eval()


@pytest.fixture(scope="module")
def openai(path: Path) -> Any:
    return openai_model(path)


@pytest.mark.parametrize("beam_size", [None, 2, 5])
@pytest.mark.parametrize("n_prompt", [0, 30])
def test_the_tokens_are_openais(model: _core.EdgeModel, openai: Any, beam_size: Optional[int], n_prompt: int) -> None:
    torch = pytest.importorskip("torch")
    decoding = pytest.importorskip("whisper.decoding")
    asked = {"beam_size": beam_size, "prompt": list(range(100, 100 + n_prompt)) or None, "sample_len": 24}
    task = decoding.DecodingTask(openai, decoding.DecodingOptions(language="en", fp16=False, **asked))
    mels = [mel_of(seed) for seed in (10, 11)]
    # one at a time: openai/whisper's beam search of a batch fails where torch has scaled_dot_product_attention
    expected = [task.run(torch.from_numpy(mel[None]))[0] for mel in mels]

    audios = [model.listen(model.encode(mel, 1500)) for mel in mels]
    prompts = [_core.WindowRequest(list(task.initial_tokens), task.sot_index)] * 2
    native = options(**{"max_initial_timestamp_index": None, **native_options(task)})
    found, _ = _core.decode_windows(model, audios, prompts, native)
    for ours, theirs in zip(found, expected):
        assert ours.tokens == theirs.tokens
        assert ours.avg_logprob == pytest.approx(theirs.avg_logprob, abs=1e-4)
        assert ours.no_speech_prob == pytest.approx(theirs.no_speech_prob, rel=1e-4)


def test_the_times_of_tokens_are_openais(model: _core.EdgeModel, openai: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of a piece and of several, audio of a whole window and of less."""
    torch = pytest.importorskip("torch")
    timing = pytest.importorskip("whisper.timing")
    tokenizer = pytest.importorskip("whisper.tokenizer").get_tokenizer(True, language="en", task="transcribe")
    paths: list[Any] = []
    their_dtw = timing.dtw
    monkeypatch.setattr(timing, "dtw", lambda cost: paths.append(their_dtw(cost)) or paths[-1])
    rng = np.random.default_rng(5)
    asked = [
        (mel_of(20 + i), rng.integers(0, EOT, n).tolist(), t)
        for i, (n, t) in enumerate(((3, 3000), (31, 900), (90, 77)))
    ]
    words = [timing.find_alignment(openai, tokenizer, text, torch.from_numpy(mel), n) for mel, text, n in asked]

    heads = [(int(layer), int(head)) for layer, head in openai.alignment_heads.indices().T]
    audios = [model.listen(model.encode(mel, 1500)) for mel, _, _ in asked]
    prompts = [_core.AlignRequest(list(tokenizer.sot_sequence), text, n // 2) for _, text, n in asked]
    found, _ = _core.align_windows(model, audios, prompts, heads=heads, eot=EOT, no_timestamps=NO_TIMESTAMPS)
    for ours, (text_indices, time_indices), theirs in zip(found, paths, words):
        assert np.array_equal(ours.text_indices, text_indices)
        assert np.array_equal(ours.time_indices, time_indices)
        ends = np.cumsum([len(word.tokens) for word in theirs])
        for word, end in zip(theirs, ends):
            ours_of_word = ours.probabilities[end - len(word.tokens) : end].mean()
            assert ours_of_word == pytest.approx(word.probability, rel=1e-3)


def test_dtw_and_median_filter_are_openais() -> None:
    torch = pytest.importorskip("torch")
    timing = pytest.importorskip("whisper.timing")
    rng = np.random.default_rng(0)
    for i in range(100):
        cost = rng.standard_normal((rng.integers(1, 30), rng.integers(1, 60)))
        cost = np.round(cost) if i % 2 else cost  # many ties
        for ours, theirs in zip(_core.dtw(cost), timing.dtw(torch.from_numpy(cost))):
            assert np.array_equal(ours, theirs)
    for n in (*range(1, 16), 100):
        x = rng.standard_normal((2, 3, n)).astype(np.float32)
        for width in (1, 3, 5, 7, 9):
            assert np.array_equal(_core.median_filter(x, width), timing.median_filter(torch.from_numpy(x), width))


# ---- Without it ------------------------------------------------------------------------------------------------------


def test_the_median_of_seven_zeros_and_ones() -> None:
    """A network of exchanges that is right on all of these is right on everything (the 0-1 principle)."""
    for bits in range(2**7):
        x = np.array([bits >> i & 1 for i in range(7)], np.float32)
        assert _core.median_filter(x, 7)[3] == np.median(x)


def test_the_cheapest_path() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        cost = rng.standard_normal((rng.integers(1, 9), rng.integers(1, 9)))
        total = np.full(np.add(cost.shape, 1), np.inf)
        total[0, 0] = 0
        for i, j in np.ndindex(cost.shape):
            total[i + 1, j + 1] = cost[i, j] + min(total[i, j], total[i, j + 1], total[i + 1, j])
        text, times = _core.dtw(cost)
        assert cost[text, times].sum() == pytest.approx(total[-1, -1])
        steps = set(zip(np.diff(text).tolist(), np.diff(times).tolist()))
        assert steps <= {(0, 1), (1, 0), (1, 1)}
        assert (text[0], times[0], text[-1], times[-1]) == (0, 0, cost.shape[0] - 1, cost.shape[1] - 1)


@pytest.mark.parametrize("changes", [{}, {"beam_size": 5}, {"temperature": 0.9, "best_of": 3, "seed": 4}], ids=str)
def test_batches_threads_and_calls_change_nothing(
    path: Path, model: _core.EdgeModel, audios: list[_core.EdgeAudio], changes: dict[str, Any]
) -> None:
    asked = requests(len(audios))
    together, _ = _core.decode_windows(model, audios, asked, options(**changes))
    expected = [as_tuple(result) for result in together]
    one_thread = _core.EdgeModel(os.fspath(path), "auto", 1)
    own = [one_thread.listen(one_thread.encode(mel_of(seed), N_CTX)) for seed in range(4)]
    alone = [_core.decode_windows(one_thread, [own[i]], [asked[i]], options(**changes))[0][0] for i in range(4)]
    assert [as_tuple(result) for result in alone] == expected

    found: list[Any] = []

    def decode() -> None:
        found.append(_core.decode_windows(model, audios, asked, options(**changes))[0])

    threads = [threading.Thread(target=decode) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [[as_tuple(result) for result in results] for results in found] == [expected] * 3


def test_samples_are_those_of_another_process(
    path: Path, model: _core.EdgeModel, audios: list[_core.EdgeAudio], tmp_path: Path
) -> None:
    code = (
        "import sys; from tests.engines import test_edge_decoding as t; from whisperq_edge import _core;"
        "model = _core.EdgeModel(sys.argv[1], 'auto', 1); audio = model.listen(model.encode(t.mel_of(0), t.N_CTX));"
        "print(_core.decode_windows(model, [audio], t.requests(1), t.options(temperature=1.0, seed=9))[0][0].tokens)"
    )
    command = [sys.executable, "-c", code, os.fspath(path)]
    other = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    result = _core.decode_windows(model, audios[:1], requests(1), options(temperature=1.0, seed=9))[0][0]
    assert other.strip() == str(result.tokens)


@pytest.mark.parametrize("changes", [{}, {"without_timestamps": True}, {"repetition_penalty": 1.5}], ids=str)
def test_behind_its_own_beginning_an_answer_goes_on_the_same(
    model: _core.EdgeModel, audios: list[_core.EdgeAudio], changes: dict[str, Any]
) -> None:
    """The rules take a prefix for sampled: no timestamp is forced behind it, and times go on from its own."""
    asked, greedy = requests(len(audios)), options(**changes)
    whole = [result.tokens for result in _core.decode_windows(model, audios, asked, greedy)[0]]
    assert all(len(tokens) > 4 for tokens in whole)
    for n in (1, 2, 4):
        begun = [
            _core.WindowRequest([*request.tokens, *tokens[:n]], request.sot_index, request.stream, n)
            for request, tokens in zip(asked, whole)
        ]
        rests = [result.tokens for result in _core.decode_windows(model, audios, begun, greedy)[0]]
        for tokens, rest in zip(whole, rests):
            assert tokens[n:] == rest[: len(tokens) - n]


@pytest.mark.parametrize("n_prefix", [-1, 3])
def test_a_prefix_is_a_part_of_the_prompt(model: _core.EdgeModel, audios: list[_core.EdgeAudio], n_prefix: int) -> None:
    request = _core.WindowRequest([50258, 50259, 50359], 0, 0, n_prefix)
    with pytest.raises(ValueError, match=f"n_prefix of window 0 is {n_prefix}; it has to be from 0 to 2"):
        _core.decode_windows(model, audios[:1], [request], options())


def test_stages_are_counted(model: _core.EdgeModel, audios: list[_core.EdgeAudio]) -> None:
    never_ends = options(suppress_tokens=[EOT], sample_len=5)
    _, stages = _core.decode_windows(model, audios[:1], requests(1), never_ends)
    assert {name: runs for name, (_, runs) in stages.items()} == {"prompt": 3, "decode": 4, "batchd": 0, "sample": 5}
    assert stages["prompt"][0] > 0 and stages["decode"][0] > 0 and stages["batchd"][0] == 0
    _, stages = _core.decode_windows(model, audios, requests(4), never_ends)
    assert stages["batchd"][1] == 4 * 4


def test_nothing_to_decode(model: _core.EdgeModel) -> None:
    assert _core.decode_windows(model, [], [], options())[0] == []
    assert _core.align_windows(model, [], [], heads=HEADS, eot=EOT, no_timestamps=NO_TIMESTAMPS)[0] == []


def test_should_stop_is_asked_and_what_it_raises_comes_out(
    model: _core.EdgeModel, audios: list[_core.EdgeAudio]
) -> None:
    stopped, _ = _core.decode_windows(model, audios, requests(4), options(), should_stop=lambda: True)
    assert [result.is_complete for result in stopped] == [False] * 4

    def refuse() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _core.decode_windows(model, audios, requests(4), options(), should_stop=refuse)
    began, endless = time.monotonic(), options(suppress_tokens=[EOT], sample_len=400, beam_size=20)
    with pytest.raises(KeyboardInterrupt):
        _core.decode_windows(
            model, audios, requests(4), endless, should_stop=lambda: time.monotonic() > began + 0.1 and refuse()
        )
    assert _core.decode_windows(model, audios, requests(4), options())[0][0].is_complete  # it works on


def test_alignment_of_a_batch(model: _core.EdgeModel, audios: list[_core.EdgeAudio]) -> None:
    texts = [[5, 6, 7], [], list(range(100, 180)), [9]]
    asked = [_core.AlignRequest(PROMPT, text, n) for text, n in zip(texts, (N_CTX, N_CTX, 120, 9999))]
    known = {"heads": HEADS, "eot": EOT, "no_timestamps": NO_TIMESTAMPS}
    together, stages = _core.align_windows(model, audios, asked, **known)
    assert stages["prompt"][1] == sum(len(text) + 5 for text in texts if text)
    for i, (result, text) in enumerate(zip(together, texts)):
        assert result.is_complete and len(result.probabilities) == len(text)
        assert ((result.probabilities >= 0) & (result.probabilities <= 1)).all()
        alone = _core.align_windows(model, [audios[i]], [asked[i]], **known)[0][0]
        assert np.array_equal(alone.text_indices, result.text_indices)
        assert np.array_equal(alone.time_indices, result.time_indices)
        assert np.array_equal(alone.probabilities, result.probabilities)
        if text:
            assert result.text_indices[-1] == len(text)  # eot
            assert result.time_indices[-1] == min(asked[i].n_audio_tokens, N_CTX) - 1
    stopped, _ = _core.align_windows(model, audios, asked, **known, should_stop=lambda: True)
    assert not any(result.is_complete for result, text in zip(stopped, texts) if text)


def test_logits_that_are_no_numbers_are_an_error(model: _core.EdgeModel) -> None:
    damaged = [model.listen(np.full((N_CTX, model.hparams["n_audio_state"]), np.nan, np.float32))]
    with pytest.raises(InferenceError, match="not finite numbers"):
        _core.decode_windows(model, damaged, requests(1), options())
    with pytest.raises(InferenceError, match="not finite numbers"):
        _core.align_windows(
            model, damaged, [_core.AlignRequest(PROMPT, [5], 9)], heads=HEADS, eot=EOT, no_timestamps=NO_TIMESTAMPS
        )


def test_who_waits_for_another_thread_can_be_stopped(model: _core.EdgeModel, audios: list[_core.EdgeAudio]) -> None:
    has_turn, may_go_on = threading.Event(), threading.Event()

    def stay() -> bool:
        has_turn.set()
        return not may_go_on.wait(60)

    other = threading.Thread(target=model.encode, args=(mel_of(0), N_CTX, stay))
    other.start()
    assert has_turn.wait(60)
    asked = [0]

    def at_last() -> bool:
        asked[0] += 1
        return asked[0] % 3 == 0

    try:
        features = np.zeros((N_CTX, model.hparams["n_audio_state"]), np.float32)
        assert model.encode(mel_of(0), N_CTX, at_last) is None
        assert model.listen(features, at_last) is None
        assert model.logits(audios[0], PROMPT, 0, at_last) is None
        assert asked[0] == 9
        found, _ = _core.decode_windows(model, audios[:2], requests(2), options(), at_last)
        assert [result.is_complete for result in found] == [False, False]
    finally:
        may_go_on.set()
        other.join()
    assert model.logits(audios[0], PROMPT).shape == (len(PROMPT), model.hparams["n_vocab"])


def test_a_computation_in_the_midst_of_another_one_of_the_same_thread_is_refused(model: _core.EdgeModel) -> None:
    """As a signal handler may ask for: to wait would be for ever."""

    def ask() -> bool:
        model.encode(mel_of(0), N_CTX)
        return False

    with pytest.raises(InferenceError, match="in the midst of a computation"):
        model.encode(mel_of(0), N_CTX, ask)
    assert model.encode(mel_of(0), N_CTX).shape == (N_CTX, model.hparams["n_audio_state"])


def test_sequences_and_audio_are_of_this_model(
    tmp_path: Path, model: _core.EdgeModel, audios: list[_core.EdgeAudio]
) -> None:
    """What only the package calls refuses what would read beyond its memory, too."""
    path = write_random_model(tmp_path / "other.bin", SHAPE._replace(n_text_layer=3), "f32")
    other = _core.EdgeModel(os.fspath(path), "auto", 1)
    theirs = other.listen(other.encode(mel_of(0), N_CTX))
    for wrong in (
        lambda: model.logits(None, [1]),  # type: ignore[arg-type]
        lambda: model.logits(theirs, [1]),
        lambda: _core.decode_windows(model, [theirs], requests(1), options()),
    ):
        with pytest.raises(InternalError, match=r"sequence|audio"):
            wrong()


def test_what_is_impossible_is_named(model: _core.EdgeModel, audios: list[_core.EdgeAudio]) -> None:
    one = audios[:1]
    with pytest.raises(ValueError, match="eot is 60000"):
        _core.decode_windows(model, one, requests(1), options(eot=60000))
    with pytest.raises(ValueError, match="number of requests is 2"):
        _core.decode_windows(model, one, requests(2), options())
    with pytest.raises(ValueError, match="audios is None"):
        _core.decode_windows(model, [None], requests(1), options())  # type: ignore[list-item]
    for request, message in (
        (_core.AlignRequest(PROMPT, [EOT], 9), "text_tokens of window 0 is 50257"),
        (_core.AlignRequest([70000], [5], 9), "sot_sequence of window 0 is 70000"),
        (_core.AlignRequest(PROMPT, [5], 0), "n_audio_tokens of window 0 is 0"),
        (_core.AlignRequest(PROMPT, [5] * 444, 9), "tokens of window 0 is 449"),
    ):
        with pytest.raises(ValueError, match=message):
            _core.align_windows(model, one, [request], heads=HEADS, eot=EOT, no_timestamps=NO_TIMESTAMPS)
    with pytest.raises(ValueError, match="heads are empty"):
        _core.align_windows(model, one, [_core.AlignRequest(PROMPT, [5], 9)], heads=[], eot=EOT, no_timestamps=7)
    for cost in (np.zeros(3), np.zeros((0, 3))):
        with pytest.raises(ValueError, match="cost has to be a matrix"):
            _core.dtw(cost)
    for width in (0, 4, -1):
        with pytest.raises(ValueError, match=f"width is {width}"):
            _core.median_filter(np.zeros(9, np.float32), width)
