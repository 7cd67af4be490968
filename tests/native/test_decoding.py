"""csrc/decoding with a scripted model, by tests/cpp/check_decoding, against openai/whisper's decoding."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest

from tests.support import scripted_model
from tests.support.instruction_sets import isa_names, runnable_isas, why_not
from tests.support.native_programs import EMULATED, as_cpu, build, needs_qemu_x86, not_under_qemu
from tests.support.paths import DATA, TESTS
from tests.support.scripted_model import EOT, RULES, SOT, Case, case_lines

GOLDEN = DATA / "decoding" / "cases.json"

pytestmark = pytest.mark.skipif(
    os.name != "posix" or not (TESTS / "cpp" / "check_decoding.cpp").is_file(),
    reason="needs POSIX and the sources",
)

OPTIONS: Case = {
    **RULES,
    "sample_len": 24,
}
MODEL: Case = {"seed": 7, "n_text_ctx": 448, "peak": 9.0, "eot_per_token": 0.25, "n_prompt": 3}
PROMPT = [SOT, 50259, 50359]
BEAM: Case = {"beam_size": 5}
WARM: Case = {"temperature": 0.8, "best_of": 3, "seed": 11}


@pytest.fixture(scope="module")
def program() -> Path:
    return build("host") / "check_decoding"


@dataclass
class Window:
    tokens: list[int]
    sum_logprob: float
    avg_logprob: float
    no_speech_prob: float
    is_complete: bool


@dataclass
class Answer:
    windows: list[Window]
    runs: list[int]  # prompt, decode, batchd, sample
    error: str


def read_answers(text: str) -> list[Answer]:
    answers, windows = [], []
    for line in text.splitlines():
        word, *values = line.split()
        if word == "window":
            complete, no_speech, total, mean, *tokens = values
            found = Window(list(map(int, tokens)), float(total), float(mean), float(no_speech), complete == "1")
            windows.append(found)
        else:
            error = line.removeprefix("error ") if word == "error" else ""
            answers.append(Answer(windows, [] if error else list(map(int, values)), error))
            windows = []
    return answers


def decode_all(program: Path, lines: list[str]) -> list[Answer]:
    done = subprocess.run([str(program), "cases"], input="".join(lines), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = read_answers(done.stdout)
    assert len(answers) == len(lines)
    return answers


def decode(
    program: Path,
    options: Optional[Case] = None,
    windows: Optional[list[tuple[int, int, list[int]]]] = None,
    model: Optional[Case] = None,
    isa: Optional[str] = None,
) -> Answer:
    asked = case_lines({**MODEL, **(model or {})}, {**OPTIONS, **(options or {})}, windows or [(0, 0, PROMPT)], isa)
    return decode_all(program, [asked])[0]


def golden_lines(case: Case) -> str:
    sot_index, tokens = case["window"]
    return case_lines(case["model"], case["native"], [(sot_index, 0, tokens)])


# torch adds the exponentials of a row in float32, in lanes: 8 with AVX2. Each addition rounds by 2**-24 at most. So its
# softmax may be 3.9e-4 off. With torch 2.13 and AVX2 it is 2.7e-5 off in one of the 200 cases, at a probability of
# 2.8e-7. Ours is within 2e-6 of float64 in all of them.
TORCH_SUM = scripted_model.N_VOCAB / 8 * 2**-24

# A log-probability down to -32 is two float32 differences, each rounded by 2**-20 at most. The logarithm of the sum of
# exponentials in them is 1e-6 off and rounded by 2**-21.
OUR_LOGPROB = 2 * 2**-20 + 2**-21 + 1e-6


def no_speech_of(expected: Case) -> float:
    """Return the probability of no speech by float64, of the same logits."""
    sot_index, tokens = expected["window"]
    logits = scripted_model.scripted_logits(expected["model"], tokens[: sot_index + 1]).astype(np.float64)
    weights = np.exp(logits - logits.max())
    return float(weights[expected["native"]["no_speech"]] / weights.sum())


def assert_same(found: Answer, expected: Case) -> None:
    assert not found.error
    window = found.windows[0]
    assert window.tokens == expected["tokens"]
    # float32 sums of up to some 25 log-probabilities, which torch sums in an order of its own
    assert window.avg_logprob == pytest.approx(expected["avg_logprob"], abs=2e-5)
    exact = no_speech_of(expected)
    assert expected["no_speech_prob"] == pytest.approx(exact, rel=TORCH_SUM)
    assert window.no_speech_prob == pytest.approx(exact, rel=OUR_LOGPROB)
    assert window.is_complete


# ---- openai/whisper --------------------------------------------------------------------------------------------------


def test_the_answers_are_openais(program: Path) -> None:
    cases = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]
    assert len(cases) >= 40
    for found, expected in zip(decode_all(program, [golden_lines(case) for case in cases]), cases):
        assert_same(found, expected)


def test_the_answers_are_openais_on_200_random_cases(program: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("whisper")
    expected = []
    for seed in range(200):
        try:
            expected.append(scripted_model.openai_answer(scripted_model.random_case(seed)))
        except ZeroDivisionError:  # openai/whisper cannot rank an empty answer
            continue
    assert len(expected) >= 190
    for found, case in zip(decode_all(program, [golden_lines(case) for case in expected]), expected):
        assert_same(found, case)


def test_every_sample_is_one_that_openai_allows_and_scores(program: Path) -> None:
    """Random numbers are our own; what openai/whisper's rules and log-probabilities make of the tokens is not."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("whisper")
    case: Case = {"model": {**MODEL, "n_prompt": 3}, "options": {"sample_len": 24}}
    task = scripted_model.openai_task(case)
    native = {**scripted_model.native_options(task), "temperature": 0.9}
    windows = [(0, stream, list(task.initial_tokens)) for stream in range(6)]
    for window in decode(program, native, windows, case["model"]).windows:
        tokens, total = list(task.initial_tokens), 0.0
        ends_itself = len(window.tokens) < 24
        for token in [*window.tokens, *([EOT] if ends_itself else [])]:
            logits = torch.from_numpy(scripted_model.scripted_logits(case["model"], tokens))[None]
            for rule in task.logit_filters:
                rule.apply(logits, torch.tensor([tokens]))
            total += float(logits.log_softmax(-1)[0, token])
            tokens.append(token)
        assert window.sum_logprob == pytest.approx(total, abs=1e-3)


# ---- Batches and samples ---------------------------------------------------------------------------------------------

MIXED = [
    (0, 1, PROMPT),
    (4, 2, [50361, 5, 6, 7, *PROMPT]),
    (0, 3, [*PROMPT, 400, 500]),
    (2, 4, [50361, 9, *PROMPT, *range(100, 130)]),  # so much prefix that no_speech is asked for in a pass of its own
    (0, 5, PROMPT),
]


@pytest.mark.parametrize("options", [{}, BEAM, {**BEAM, "patience": 2.0}, WARM], ids=str)
def test_a_window_is_the_same_in_every_batch(program: Path, options: Case) -> None:
    together = decode(program, options, MIXED).windows
    assert together == [decode(program, options, [window]).windows[0] for window in MIXED]
    assert len({len(window.tokens) for window in together}) > 1  # they end on their own
    assert together[:3] == decode(program, options, MIXED[2::-1]).windows[::-1]


def test_samples_are_those_of_seed_window_and_temperature(program: Path) -> None:
    windows = [(0, stream, PROMPT) for stream in (0, 1, 2**40)]
    found = decode(program, WARM, windows).windows
    assert found == decode(program, WARM, windows).windows
    assert len({tuple(window.tokens) for window in found}) == 3
    for change in ({"seed": 12}, {"seed": 11 + 2**32}, {"temperature": 0.81}):
        assert [w.tokens for w in decode(program, {**WARM, **change}, windows).windows] != [w.tokens for w in found]


def test_next_to_no_temperature_is_greedy(program: Path) -> None:
    """One over it is infinite."""
    windows = [(0, stream, PROMPT) for stream in range(3)]
    greedy = decode(program, {}, windows).windows
    assert [w.tokens for w in decode(program, {"temperature": 2e-39}, windows).windows] == [w.tokens for w in greedy]


def test_samples_come_as_often_as_they_are_likely(program: Path) -> None:
    """The first tokens of 600 windows, against the probability of each that one in fifty should have."""
    n, temperature = 600, 1.3
    options = {"temperature": temperature, "sample_len": 1, "without_timestamps": True, "suppress_blank": False}
    model = {"peak": 12.0}
    windows = decode(program, {**options, "suppress_tokens": []}, [(0, i, PROMPT) for i in range(n)], model).windows
    tokens = [window.tokens[0] if window.tokens else EOT for window in windows]
    logits = scripted_model.scripted_logits({**MODEL, **model}, PROMPT).astype(np.float64) / temperature
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    likely = np.flatnonzero(probabilities > 0.02)
    assert len(likely) >= 3
    for token in likely:
        p = probabilities[token]
        assert abs(tokens.count(int(token)) - n * p) < 4.5 * np.sqrt(n * p * (1 - p))


def test_the_best_of_several_samples_is_taken(program: Path) -> None:
    windows = [(0, stream, PROMPT) for stream in range(8)]

    def scores(best_of: int) -> list[float]:
        found = decode(program, {**WARM, "best_of": best_of}, windows).windows
        return [window.sum_logprob / max(1, len(window.tokens)) for window in found]

    one, five = scores(1), scores(5)  # the first of the five is the one
    assert all(b >= a for a, b in zip(one, five)) and five != one


def runnable(*command: object) -> list[str]:
    """Return the instruction sets that check_decoding can run, as it says itself."""
    return subprocess.run([*map(str, command), "isas"], capture_output=True, text=True, check=True).stdout.split()


def test_the_program_runs_the_isas_that_we_run(program: Path) -> None:
    assert runnable(program) == runnable_isas()


@pytest.mark.parametrize("options", [{}, BEAM, WARM], ids=str)
def test_every_isa_gives_the_same_tokens(program: Path, options: Case) -> None:
    answers = [decode(program, options, MIXED, isa=isa).windows for isa in runnable(program)]
    for other in answers[1:]:
        assert [window.tokens for window in other] == [window.tokens for window in answers[0]]


def test_an_isa_that_the_cpu_lacks_is_refused(program: Path) -> None:
    missing = [name for name in isa_names() if name not in runnable(program)]
    assert missing
    for name in missing:
        asked = case_lines(MODEL, OPTIONS, [(0, 0, PROMPT)], name)
        done = subprocess.run([program, "cases"], input=asked, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(why_not(name))


@not_under_qemu
@needs_qemu_x86
@pytest.mark.parametrize("cpu", EMULATED)
def test_another_cpu_gives_the_same_tokens(program: Path, cpu: str) -> None:
    command = as_cpu(cpu, program)
    isas = runnable(*command)
    assert isas[-1] == EMULATED[cpu]
    ways = [{**OPTIONS, "sample_len": 5, **options} for options in ({}, {"beam_size": 2}, WARM)]  # emulators are slow
    cases = [case_lines(MODEL, options, MIXED[:1], isa) for options in ways for isa in isas]
    done = subprocess.run(
        [*map(str, command), "cases"], input="".join(cases), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answers = read_answers(done.stdout)
    assert len(answers) == len(cases)
    expected = decode_all(program, [case_lines(MODEL, options, MIXED[:1]) for options in ways])
    for i, found in enumerate(answers):
        assert [w.tokens for w in found.windows] == [w.tokens for w in expected[i // len(isas)].windows]


@not_under_qemu
@needs_qemu_x86
@pytest.mark.parametrize("cpu", EMULATED)
def test_the_arithmetic_of_another_cpu_is_right(program: Path, cpu: str) -> None:
    done = subprocess.run([*map(str, as_cpu(cpu, program)), "math"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["baseline", "avx2"][: 2 if EMULATED[cpu] == "avx2" else 1]


@not_under_qemu
@needs_qemu_x86
@pytest.mark.parametrize("cpu", EMULATED)
def test_another_cpu_refuses_what_it_lacks(program: Path, cpu: str) -> None:
    asked = case_lines(MODEL, OPTIONS, [(0, 0, PROMPT)], "avx512vnni")
    command = [*map(str, as_cpu(cpu, program)), "cases"]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the ISA is avx512vnni, but this CPU (or its OS) lacks " in done.stderr


# ---- faster-whisper's penalties --------------------------------------------------------------------------------------


def greedy(options: Case, filter_logits: Any) -> list[int]:
    """Greedy decoding without times: ``filter_logits`` changes the logits, given what was sampled."""
    sampled: list[int] = []
    while len(sampled) < OPTIONS["sample_len"]:
        logits = scripted_model.scripted_logits(MODEL, [*PROMPT, *sampled])
        filter_logits(logits, sampled)
        logits[OPTIONS["suppress_tokens"]] = -np.inf
        if not sampled:
            logits[OPTIONS["blank"]] = -np.inf
        token = int(logits.argmax())
        if token == EOT:
            break
        sampled.append(token)
    return sampled


def test_a_repetition_penalty_is_ctranslate2s(program: Path) -> None:
    def penalise(logits: Any, sampled: list[int]) -> None:
        for token in set(sampled):
            logits[token] = logits[token] * np.float32(0.5) if logits[token] < 0 else logits[token] / np.float32(0.5)

    # a penalty below 1 rewards: the likeliest token so far comes again and again
    options = {"repetition_penalty": 0.5, "without_timestamps": True}
    found = decode(program, options).windows[0].tokens
    assert found == greedy(options, penalise)
    assert found != decode(program, {"without_timestamps": True}).windows[0].tokens


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_ngram_comes_twice(program: Path, n: int) -> None:
    """With a reward for repetition, which makes n-grams come again."""
    rewarded = {
        "repetition_penalty": 0.25,
        "without_timestamps": True,
        "suppress_tokens": [*OPTIONS["suppress_tokens"], EOT],
    }

    def ngrams(options: Case) -> list[tuple[int, ...]]:
        tokens = decode(program, options).windows[0].tokens
        assert len(tokens) == OPTIONS["sample_len"]
        return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]

    free, bound = ngrams(rewarded), ngrams({**rewarded, "no_repeat_ngram_size": n})
    assert len(set(free)) < len(free)
    assert len(set(bound)) == len(bound)


# ---- Ends, stages, errors --------------------------------------------------------------------------------------------


def test_a_sequence_may_fill_the_context(program: Path) -> None:
    """And is asked for one token more, as in openai/whisper; the scripted model refuses a token behind the context."""
    options = {"suppress_tokens": [*OPTIONS["suppress_tokens"], EOT], "sample_len": 40}
    model = {"n_text_ctx": 20}
    for more in ({}, BEAM, WARM):
        window = decode(program, {**options, **more}, model=model).windows[0]
        assert len(window.tokens) == 20 - len(PROMPT) + 1 and window.is_complete
    full = decode(program, options, [(0, 0, PROMPT * 6 + PROMPT[:2])], model).windows[0]
    assert len(full.tokens) == 1


def test_an_empty_answer(program: Path) -> None:
    found = decode(
        program, {**BEAM, "suppress_blank": False, "without_timestamps": True}, model={"eot_per_token": -90.0}
    )
    assert len(found.windows[0].tokens) == OPTIONS["sample_len"]
    only_eot = [token for token in range(51865) if token != EOT]
    for options in ({}, WARM):
        silent = {**options, "suppress_blank": False, "without_timestamps": True, "suppress_tokens": only_eot}
        window = decode(program, silent).windows[0]
        assert (window.tokens, window.sum_logprob) == ([], 0)


def test_stages_count_what_ran(program: Path) -> None:
    answer = decode(program, {"suppress_tokens": [EOT], "sample_len": 10})
    assert answer.runs == [3, 9, 0, 10]  # the prompt gives the first token
    answer = decode(program, {**BEAM, "suppress_tokens": [EOT], "sample_len": 10})
    assert answer.runs == [3, 0, 9 * 5, 1 + 9 * 5]
    answer = decode(program, {"suppress_tokens": [EOT], "sample_len": 10}, MIXED)
    assert answer.runs == [sum(len(tokens) for _, _, tokens in MIXED), 0, 9 * 5, 10 * 5]


def test_decoding_stops_between_steps(program: Path) -> None:
    lines = case_lines(MODEL, {**OPTIONS, "suppress_tokens": [EOT]}, MIXED)
    for n_asked, n_sampled in ((0, 0), (1, 5), (4, 20)):
        answer = decode_all(program, [f"stop_after {n_asked}\n{lines}"])[0]
        assert [window.is_complete for window in answer.windows] == [False] * 5
        assert answer.runs[3] == n_sampled


@pytest.mark.parametrize("options", [{}, BEAM, WARM], ids=str)
@pytest.mark.parametrize("length", [3, 6])
def test_logits_that_are_no_numbers_are_an_error(program: Path, options: Case, length: int) -> None:
    assert decode(program, options, model={"nan_at_length": length}).error.startswith("inference the decoder computed")


def test_nothing_left_to_sample_is_an_error(program: Path) -> None:
    everything = {"suppress_tokens": list(range(51865))}
    assert decode(program, everything).error.startswith("inference no token is left")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"eot": 51865}, "eot is 51865"),
        ({"eot": -1}, "eot is -1"),
        ({"timestamp_begin": 7}, "timestamp_begin is 7"),
        ({"suppress_tokens": [5, -3]}, "suppress_tokens is -3"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"beam_size": -1}, "beam_size is -1"),
        ({"beam_size": 3, "best_of": 2}, "best_of is 2"),
        ({"best_of": 2}, "best_of is 2"),
        ({"patience": 1.0}, "patience is 1.0"),
        ({"beam_size": 1, "patience": 0.5}, "patience is 0.5"),
        ({"length_penalty": 1.5}, "length_penalty is 1.5"),
        ({"sample_len": -4}, "sample_len is -4"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1"),
    ],
    ids=str,
)
def test_an_impossible_option_is_named(program: Path, options: Case, field: str) -> None:
    assert field in decode(program, options).error


@pytest.mark.parametrize(
    ("window", "field"),
    [
        ((0, 0, []), "tokens of window 0 is 0"),
        ((0, 0, [SOT] * 449), "tokens of window 0 is 449"),
        ((0, 0, [51865]), "tokens of window 0 is 51865"),
        ((3, 0, PROMPT), "sot_index of window 0 is 3"),
        ((-1, 0, PROMPT), "sot_index of window 0 is -1"),
    ],
    ids=str,
)
def test_an_impossible_prompt_is_named(program: Path, window: tuple[int, int, list[int]], field: str) -> None:
    assert field in decode(program, windows=[window]).error


def test_arithmetic(program: Path) -> None:
    done = subprocess.run([str(program), "math"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "baseline" in done.stdout
