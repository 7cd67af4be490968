"""Memory: the plan against what a process takes, what there is to take, and the error in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whisperq_edge import OutOfMemoryError, WhisperModel, WhisperqError, _core
from whisperq_edge._bench.random_model import random_dims, write_random
from whisperq_edge._engines.memory import Available, BatchCheck, available_memory, check_fits, plan_memory
from whisperq_edge._engines.word_times import alignment_heads
from whisperq_edge.cli import main

from tests.support.cli_runner import cli_runner
from tests.support.make_model import write_random_model

TYPES = ("f32", "f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
not_sanitized = pytest.mark.skipif(
    bool(os.environ.get("LD_PRELOAD")), reason="sanitizers take memory and address space of their own"
)


# ---- One account -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("n_threads", [1, 3])
def test_the_plan_is_what_the_engine_allocates(tmp_path: Path, type: str, n_threads: int) -> None:
    """To the byte: of the file, and of a model that is only described."""
    path = write_random_model(tmp_path / "m.bin", "micro", type)
    file = _core.read_model_file(path)
    work: dict[str, Any] = {"n_threads": n_threads, "n_ctx": 1500, "n_prompt_tokens": 5, "n_prompt_logits": 5}
    needs = _core.edge_memory(file, **work)
    assert needs == _core.edge_memory(_core.describe_model(file.hparams, type), **work)
    model = _core.EdgeModel(path, "auto", n_threads)
    audio = model.listen(model.encode(np.zeros((80, 3000), np.float32), 1500))
    model.logits(audio, [1, 2, 3, 4, 5], 0)
    assert model.memory == {name: needs[name] for name in ("weights", "encoder", "decoder", "machine", "silence")}
    assert audio.n_bytes == needs["audio_caches"]


def test_the_account_of_short_audio_has_what_it_takes(tmp_path: Path) -> None:
    """What was learned of silence stays, and the window that it was learned from is gone."""
    path = str(write_random_model(tmp_path / "model.bin", "micro", "q8_0"))
    file = _core.read_model_file(path)
    needs = _core.edge_memory(file, n_threads=2, n_ctx=160, with_silence=True)
    model = _core.EdgeModel(path, "auto", 2)
    assert model.memory["silence"] == 0
    model.learn_silence()
    audio = model.listen_short(model.encode_short(np.zeros((80, 3000), np.float32), 160))
    model.logits(audio, [1])
    assert model.memory == {name: needs[name] for name in ("weights", "encoder", "decoder", "machine", "silence")}
    assert sum(part.nbytes for part in model.silence) == needs["silence"]
    assert needs["learning"] == 4 * file.hparams["n_audio_ctx"] * file.hparams["n_audio_state"]
    assert audio.n_ctx == 1500 and audio.n_bytes == needs["audio_caches"]
    with pytest.raises(ValueError, match="multiple of 32"):
        _core.edge_memory(file, n_threads=2, n_ctx=100, with_silence=True)


def test_silence_is_learned_once_in_what_is_still_to_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    file = _core.describe_model(random_dims("base")._asdict(), "q8_0")
    needs = _core.edge_memory(file, n_threads=1, n_ctx=160, with_silence=True)
    asked: list[int] = []
    monkeypatch.setattr("whisperq_edge._engines.memory.check_fits", lambda what, n_bytes: asked.append(n_bytes))
    held = dict.fromkeys(("encoder", "decoder", "machine", "silence"), 0)
    check = BatchCheck(file, "auto", 1, lambda: held)
    check(1, 160)
    held["silence"] = needs["silence"]
    check(1, 160)
    assert asked[0] - asked[1] == needs["silence"] + needs["learning"] > 0


def test_the_plan_follows_the_work() -> None:
    file = _core.describe_model(random_dims("base")._asdict(), "q8_0")
    one = plan_memory(file, n_threads=2)
    assert plan_memory(file, n_threads=2, batch_size=8).caches > 4 * one.caches
    assert plan_memory(file, n_threads=2, beam_size=5).caches > one.caches
    short = plan_memory(file, n_threads=2, audio_ctx=500)
    assert short.caches == one.caches and short.total < one.total  # the features are fewer, silence is there in both
    f16 = _core.describe_model(random_dims("base")._asdict(), "f16")
    assert plan_memory(f16, n_threads=2, audio_ctx=500).buffers > plan_memory(f16, n_threads=2).buffers  # only here
    assert plan_memory(file, n_threads=8).buffers > one.buffers
    assert one.total == one.weights + one.caches + one.buffers + one.audio + one.python
    assert one.weights == plan_memory(file, n_threads=8, batch_size=4).weights


def test_word_times_are_in_the_plan() -> None:
    file = _core.describe_model(random_dims("base")._asdict(), "q8_0")
    without, with_words = (plan_memory(file, n_threads=2, word_timestamps=words) for words in (False, True))
    assert with_words.buffers > without.buffers and with_words.caches == without.caches
    n_heads, n_tokens, n_ctx, n_vocab = len(alignment_heads(file.hparams)), 229, 1500, file.hparams["n_vocab"]
    scores = 4 * n_heads * n_ctx * (n_tokens + 32) + 4 * 32 * n_vocab  # of all tokens, and of 32 with their logits
    needs = _core.edge_memory(file, n_threads=2, n_ctx=n_ctx, n_align_tokens=n_tokens, n_align_heads=n_heads)
    assert needs["alignment"] == scores
    assert _core.edge_memory(file, n_threads=2, n_ctx=n_ctx)["alignment"] == 0


def test_word_times_of_many_windows_are_taken_in_groups() -> None:
    file = _core.describe_model(random_dims("base")._asdict(), "q8_0")

    def alignment(n_windows: int) -> int:
        work = {"n_threads": 1, "n_ctx": 1500, "n_align_windows": n_windows, "n_align_tokens": 448, "n_align_heads": 20}
        return _core.edge_memory(file, **work)["alignment"]

    assert alignment(4) > 1.9 * alignment(2)
    assert alignment(100) == alignment(6)  # 54 MB of scores each: five are 256 MB and more
    few = {"n_threads": 1, "n_ctx": 1500, "n_align_tokens": 5, "n_align_heads": 1}
    assert _core.edge_memory(file, **few)["alignment"] == 4 * (2 * 5 * 1500 + 5 * file.hparams["n_vocab"])


def test_word_times_that_do_not_fit_are_an_error(monkeypatch: pytest.MonkeyPatch, sample_path: Path) -> None:
    options: dict[str, Any] = {"beam_size": 1, "temperature": 0.0, "language": "en"}
    with WhisperModel("nano", device="cpu", engine="edge", cpu_threads=1) as model:
        assert model.transcribe(sample_path, **options).text
        check = BatchCheck.alignment
        asked: list[tuple[int, ...]] = []

        def with_little(self: BatchCheck, *given: int) -> None:
            asked.append(given)
            with monkeypatch.context() as patch:
                patch.setattr("whisperq_edge._engines.memory.available_memory", lambda: Available(1_000_000, "a limit"))
                check(self, *given)

        monkeypatch.setattr(BatchCheck, "alignment", with_little)
        assert model.transcribe(sample_path, **options).text and asked == []
        with pytest.raises(OutOfMemoryError, match=r"word times for a window of .* needs? .*1\.0 MB more \(a limit\)"):
            model.transcribe(sample_path, word_timestamps=True, **options)
        n_windows, n_ctx, n_tokens, n_heads = asked[0]
        assert n_windows == 1 and n_ctx == 1500 and n_tokens > 5
        assert n_heads == len(alignment_heads(model.dims))


def test_what_cannot_be_planned() -> None:
    dims = random_dims("tiny")._asdict()
    with pytest.raises(WhisperqError, match="no kernels"):
        plan_memory(_core.describe_model({**dims, "n_audio_state": 512, "n_text_state": 512}, "q4_k"))
    with pytest.raises(ValueError, match="n_mels"):
        _core.describe_model({**dims, "n_mels": 0}, "f16")
    with pytest.raises(ValueError, match="from 1 on"):
        _core.edge_memory(_core.describe_model(dims, "f16"), n_threads=1, n_ctx=0)


_MEASURED = """
import json, sys
import numpy as np
from whisperq_edge import WhisperModel
from whisperq_edge._bench.worker import forced_tokens
from whisperq_edge._system.process import peak_rss_bytes

def now():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))

path, n_tokens, n_threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
before = now()
samples = (np.random.default_rng(0).standard_normal(528000, np.float32) * 0.1).astype(np.float32)
model = WhisperModel(path, device="cpu", engine="edge", cpu_threads=n_threads)
eot = 50257 if model.is_multilingual else 50256
options = forced_tokens(n_tokens, eot, model.dims["n_vocab"])
options.update(language="en", beam_size=1, temperature=0.0, drop_silence=False, no_speech_threshold=None)
options["condition_on_previous_text"] = False
model.transcribe(samples, word_timestamps=bool(sys.argv[4:]), **options)
print(json.dumps(peak_rss_bytes() - before))
"""


def growth_bytes(path: Path, n_tokens: int, n_threads: int, word_timestamps: bool = False) -> int:
    """Of the resident memory of a process that loads a model and transcribes a whole window and a short one."""
    command = [sys.executable, "-c", _MEASURED, str(path), str(n_tokens), str(n_threads)]
    command += ["words"] if word_timestamps else []
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    assert run.returncode == 0, run.stderr
    return int(json.loads(run.stdout))


def _environment() -> dict[str, str]:
    """With large blocks given back when they are freed. glibc otherwise keeps some: 4 to 7 MB behind the scores of word
    times, more in one run than in the next. The plan counts what is taken."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}


@linux_only
@not_sanitized
@pytest.mark.parametrize(
    ("shape", "type"),
    [
        *[(shape, type) for shape in ("tiny", "base") for type in ("f16", "q8_0", "q4_0")],
        *[
            pytest.param(shape, type, marks=pytest.mark.slow)
            for shape in ("small", "medium")
            for type in ("f16", "q8_0", "q4_0")
        ],
    ],
)
def test_the_plan_is_what_a_process_takes(tmp_path: Path, shape: str, type: str) -> None:
    """Within 5 %: weights, caches, buffers, audio and Python's share."""
    path, n_tokens = tmp_path / "m.bin", 40
    write_random(path, shape, type)
    try:
        plan = plan_memory(_core.read_model_file(path), n_threads=2, n_prompt_tokens=4, n_tokens=4 + n_tokens)
        grown = growth_bytes(path, n_tokens, 2)
    finally:
        path.unlink()
    print(f"{shape} {type}: planned {plan.total / 1e6:.1f} MB, took {grown / 1e6:.1f}: {plan.total / grown - 1:+.1%}")
    assert plan.total == pytest.approx(grown, rel=0.05)


@linux_only
@not_sanitized
def test_the_plan_is_what_a_process_takes_with_word_times(tmp_path: Path) -> None:
    """With so many tokens that the scores are a tenth of all and more."""
    path, n_tokens = tmp_path / "m.bin", 200
    write_random(path, "base", "q4_0")
    file = _core.read_model_file(path)
    work: dict[str, Any] = {"n_threads": 2, "n_prompt_tokens": 4, "n_tokens": 4 + n_tokens}
    without, with_words = (plan_memory(file, word_timestamps=words, **work) for words in (False, True))
    grown = growth_bytes(path, n_tokens, 2, word_timestamps=True)
    print(f"planned {without.total / 1e6:.1f} and {with_words.total / 1e6:.1f} MB, took {grown / 1e6:.1f}")
    assert with_words.total == pytest.approx(grown, rel=0.05)


# ---- What there is ---------------------------------------------------------------------------------------------------


def system(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


MEMINFO = "MemTotal:       8000 kB\nMemFree:  100 kB\nMemAvailable:    3000 kB\nSwapFree:        500 kB\nnonsense\n"


@linux_only
def test_available_memory_is_the_least_of_all_limits(tmp_path: Path) -> None:
    proc = system(tmp_path / "proc", {"meminfo": MEMINFO, "self/cgroup": "0::/a/b\n"})
    cgroup = tmp_path / "cgroup"
    assert available_memory(proc, cgroup) == (3500 * 1024, "memory and swap that the machine has free")
    system(cgroup, {"a/b/memory.max": "max\n", "a/b/memory.current": "5\n"})
    assert available_memory(proc, cgroup) == (3500 * 1024, "memory and swap that the machine has free")
    stat = "anon 1\ninactive_file 300000\nactive_file 200000\nfile 900000\n"
    system(cgroup, {"a/memory.max": "2000000\n", "a/memory.current": "1700000\n", "a/memory.stat": stat})
    assert available_memory(proc, cgroup) == (800000, "the memory limit of its cgroup")


@linux_only
def test_available_memory_of_cgroup_v1(tmp_path: Path) -> None:
    unlimited = "9223372036854771712\n"
    proc = system(tmp_path / "proc", {"meminfo": MEMINFO, "self/cgroup": "9:name=x:/\n4:cpu,memory:/docker/abc\n"})
    root = system(
        tmp_path / "cgroup",
        {
            # The path is that outside of the container: only the root, the container's own group, is there.
            "memory/memory.limit_in_bytes": "1000000\n",
            "memory/memory.usage_in_bytes": "900000\n",
            "memory/memory.stat": "cache 1\ntotal_inactive_file 100000\ntotal_active_file 50000\n",
        },
    )
    assert available_memory(proc, root) == (250000, "the memory limit of its cgroup")
    system(root, {"memory/memory.limit_in_bytes": unlimited})
    found = available_memory(proc, root)
    assert found is not None and found.n_bytes == 3500 * 1024


@linux_only
def test_available_memory_where_nothing_tells(tmp_path: Path) -> None:
    assert available_memory(tmp_path, tmp_path) is None
    found = available_memory()
    assert found is not None and found.n_bytes > 0


def test_what_does_not_fit_is_an_error_with_both_sizes() -> None:
    check_fits("it", 5_000_000, Available(5_000_000, "a limit"))
    with pytest.raises(OutOfMemoryError, match=r"it needs 5\.0 MB of memory.*4\.9 MB more \(a limit\)") as caught:
        check_fits("it", 5_000_000, Available(4_900_000, "a limit"))
    error = caught.value
    assert isinstance(error, MemoryError) and isinstance(error, WhisperqError)
    assert (error.what, error.n_bytes, error.available) == ("it", 5_000_000, 4_900_000)
    again = type(error)(*error.__reduce__()[1])
    assert str(again) == str(error)


# ---- Before it is allocated ------------------------------------------------------------------------------------------

_LIMITED = """
import resource, sys
import numpy as np
from whisperq_edge import OutOfMemoryError, WhisperModel, _core

def used():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()

def leave(n_bytes):
    resource.setrlimit(resource.RLIMIT_AS, (used() + n_bytes, resource.RLIM_INFINITY))

path, samples = sys.argv[1], np.zeros(480000, np.float32)
options = dict(language="en", beam_size=1, temperature=0.0, drop_silence=False, max_new_tokens=3)
small = WhisperModel("nano", device="cpu", engine="edge", cpu_threads=1)
small.transcribe(samples[:16000], **options)
leave(20_000_000)
try:
    WhisperModel(path, device="cpu", engine="edge", cpu_threads=1)
except OutOfMemoryError as error:
    print("load:", error, flush=True)
print("still:", small.transcribe(samples[:16000], **options).duration_s)
leave(2_000_000_000)
model = WhisperModel(path, device="cpu", engine="edge", cpu_threads=1)
leave(10_000_000)
try:
    model.transcribe(samples, **options)
except OutOfMemoryError as error:
    print("batch:", error, flush=True)
except MemoryError as error:
    print("other:", error, flush=True)
leave(2_000_000_000)
print("again:", model.transcribe(samples, **options).duration_s)

native = _core.EdgeModel(path, "auto", 1)
features = native.encode(np.zeros((80, 3000), np.float32), 1500)
leave(1_000_000)
try:
    held = [native.listen(features) for _ in range(100)]
except MemoryError as error:
    print("native:", type(error).__name__, flush=True)
leave(2_000_000_000)
print("and again:", native.listen(features).n_ctx)
"""


@linux_only
@not_sanitized
def test_memory_that_is_not_there_is_an_error_and_leaves_everything_usable(tmp_path: Path) -> None:
    path = tmp_path / "tiny.bin"
    write_random(path, "tiny", "q8_0")
    command = [sys.executable, "-c", _LIMITED, str(path)]
    environment = {**_environment(), "MALLOC_ARENA_MAX": "1"}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["load", "still", "batch", "again", "native", "and again"], lines
    assert f"the model {path} needs 44.0 MB of memory" in lines[0] and "RLIMIT_AS" in lines[0]
    assert f"a window of {path} needs" in lines[2]
    assert lines[1] == "still: 1.0" and lines[3] == "again: 30.0" and lines[5] == "and again: 1500"


def test_a_model_that_does_not_fit_ends_the_command_with_a_line(
    monkeypatch: pytest.MonkeyPatch, sample_path: Path
) -> None:
    monkeypatch.setattr("whisperq_edge._engines.memory.available_memory", lambda: Available(1_000_000, "a limit"))
    with pytest.raises(MemoryError):
        WhisperModel("nano", device="cpu", engine="edge")
    result = cli_runner().invoke(main, ["transcribe", "-m", "nano", "--engine", "edge", str(sample_path)])
    assert result.exit_code == 1 and "this process can get 1.0 MB more (a limit)" in result.stderr


# ---- whisperq-edge plan ----------------------------------------------------------------------------------------------


def planned(*arguments: str) -> dict[str, Any]:
    result = cli_runner().invoke(main, ["plan", "--json", *arguments])
    assert result.exit_code == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def test_plan_of_names_and_files(tmp_path: Path) -> None:
    base = planned("base")
    assert [plan["type"] for plan in base["plans"]] == ["f16", "q8_0", "q5_0", "q4_0"]
    totals = [plan["total"] for plan in base["plans"]]
    assert totals == sorted(totals, reverse=True)
    path = write_random_model(tmp_path / "m.bin", "micro", "q5_1")
    assert [plan["type"] for plan in planned(str(path))["plans"]] == ["q5_1"]
    assert [plan["type"] for plan in planned(str(path), "--types", "int8,q5_1")["plans"]] == ["q8_0", "q5_1"]
    assert planned("nano")["plans"][0]["weights"] < 40e6
    assert planned("large-v3", "--types", "q8_0")["plans"][0]["weights"] > 1.6e9


def test_plan_of_an_openai_checkpoint(tmp_path: Path) -> None:
    torch_files = pytest.importorskip("torch_files")
    assert torch_files is not None
    micro = write_random_model(tmp_path / "m.bin", "micro", "f16")
    result = cli_runner().invoke(main, ["convert", str(micro), "--to", "openai", "-o", str(tmp_path / "m.pt")])
    assert result.exit_code == 0, result.stderr
    assert planned(str(tmp_path / "m.pt"), "-t", "f16")["plans"] == planned(str(micro))["plans"]


def test_plan_with_word_times() -> None:
    [without], [with_words] = (planned("base", "-t", "q8_0", *more)["plans"] for more in ([], ["--word-timestamps"]))
    assert with_words["buffers"] > without["buffers"] and with_words["total"] > without["total"]


def test_plan_as_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whisperq_edge.cli.plan.available_memory", lambda: Available(150_000_000, "a limit"))
    result = cli_runner().invoke(main, ["plan", "base", "--threads", "2", "--beam-size", "1"])
    assert result.exit_code == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0][:2] == ["type", "weights"]
    assert {row[0]: row[-1] for row in rows[1:5]} == {"f16": "no", "q8_0": "no", "q5_0": "yes", "q4_0": "yes"}
    assert result.stdout.splitlines()[-1] == "Available now: 150 MB (a limit)."


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nothing-of-this-name"], 3, "there is no model"),
        (["base", "--types", "q9"], 2, "--types q9 is"),
        (["base", "--types", "q4_k"], 3, "no kernels"),
        (["base", "--batch-size", "0"], 2, "batch-size"),
    ],
)
def test_plan_refuses(arguments: list[str], code: int, says: str) -> None:
    result = cli_runner().invoke(main, ["plan", *arguments])
    assert (result.exit_code, says in result.stderr) == (code, True), result.stderr
