"""The `edge` engine behind ``WhisperModel``: it stops at once, keeps what it heard, is shared, forked, and holds its
tongue where there is nothing to hear."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import CancelledError, CancelToken, OptionError, Transcript, WhisperModel
from whisperq_edge.cli import main

from tests.support.cli_runner import cli_runner
from tests.support.make_model import write_random_model
from tests.support.processes import start_interruptible
from tests.support.sanitizers import SANITIZERS, SLOWDOWN, no_threads_in_a_child

Floats = npt.NDArray[np.float32]

RATE = 16000
SOON_S = 0.2 * SLOWDOWN
SIZE = "micro" if SANITIZERS else "base"  # which take about as long
ENDLESS: dict[str, Any] = {"language": "en", "temperature": 0.0, "drop_silence": False}
needs_fork = pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WhisperModel]:
    """Of a size that is used, so that its stages take as long as they do."""
    path = write_random_model(tmp_path_factory.mktemp("models") / "base.bin", SIZE, "q8_0")
    with WhisperModel(path, device="cpu", engine="edge", cpu_threads=2) as model:
        yield model


def contents(transcript: Transcript) -> list[Any]:
    return [segment.to_dict() for segment in transcript]


# ---- Cancellation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_s", [0.02, 0.15, 0.4, 1.2])
@pytest.mark.parametrize("options", [{"beam_size": 1}, {"batch_size": 4, "beam_size": 5}], ids=str)
def test_cancelling_takes_no_time(
    base: WhisperModel, sample_pcm: Floats, after_s: float, options: dict[str, Any]
) -> None:
    """In the spectrogram, the encoder, the decoder: a call ends 0.2 s after the token was cancelled. A busy machine is
    given three tries."""
    audio = np.tile(sample_pcm, 40)
    late_s = []
    for _ in range(3):
        token = CancelToken()
        cancelled_s: list[float] = []
        timer = threading.Timer(after_s, lambda: (cancelled_s.append(time.monotonic()), token.cancel()))  # noqa: B023
        timer.start()
        with pytest.raises(CancelledError) as caught:
            base.transcribe(audio, cancel=token, **ENDLESS, **options)
        late_s.append(time.monotonic() - cancelled_s[0])
        assert caught.value.partial is not None
        if late_s[-1] < SOON_S:
            return
    pytest.fail(f"ended {late_s} s after it was cancelled")


@pytest.mark.parametrize("timeout_s", [0.001, 0.5])
def test_a_timeout_ends_the_call_and_keeps_what_was_heard(
    nano_edge: WhisperModel, sample_pcm: Floats, timeout_s: float
) -> None:
    began_s = time.monotonic()
    with pytest.raises(CancelledError, match=f"timeout_s={timeout_s} went by") as caught:
        nano_edge.transcribe(np.tile(sample_pcm, 400), timeout_s=timeout_s, beam_size=1)
    assert time.monotonic() - began_s < timeout_s + 2 * SLOWDOWN
    assert caught.value.partial is not None
    assert timeout_s < 0.1 or caught.value.partial.timings["total"].ms >= 1000 * timeout_s
    assert nano_edge.transcribe(sample_pcm, timeout_s=120).text


def test_a_timeout_that_is_none(nano_edge: WhisperModel, sample_pcm: Floats) -> None:
    for wrong in (0, -1.0, float("nan"), float("inf"), "5", True):
        with pytest.raises(OptionError, match="timeout_s"):
            nano_edge.transcribe(sample_pcm, timeout_s=wrong)  # type: ignore[arg-type]


def test_the_command_line_ends_a_file_and_tells(sample_path: Path) -> None:
    result = cli_runner().invoke(main, ["transcribe", "-m", "nano", "--timeout", "0.000001", str(sample_path)])
    assert result.exit_code == 1
    assert "went by" in result.stderr


_INTERRUPTED = """
import sys, time
import numpy as np
from whisperq_edge import InterruptedByUser, WhisperModel
from whisperq_edge._audio.pcm import to_pcm
samples = np.tile(to_pcm(sys.argv[1]).samples, 60)
model = WhisperModel(sys.argv[2], device="cpu", engine="edge", cpu_threads=1)
print("begins", flush=True)
try:
    model.transcribe(samples, temperature=0, drop_silence=False, language="en")
except InterruptedByUser as interrupt:
    print("ended", time.time(), interrupt.partial is not None, flush=True)
print("again", len(model.transcribe(samples[:16000], max_new_tokens=3, temperature=0, language="en")), flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("after_s", [0.05, 0.6])
def test_ctrl_c_takes_no_time(base: WhisperModel, sample_path: Path, after_s: float) -> None:
    late_s = []
    for _ in range(3):
        command = [sys.executable, "-c", _INTERRUPTED, str(sample_path), str(base.model_path)]
        with start_interruptible(command) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline().strip() == "begins"
                time.sleep(after_s)
                sent_s = time.time()
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=120)
            finally:
                process.kill()
        assert process.returncode == 0, err
        (word, ended_s, kept), again = out.splitlines()[0].split(), out.splitlines()[1]
        assert (word, kept) == ("ended", "True") and again.startswith("again ")
        late_s.append(float(ended_s) - sent_s)
        if late_s[-1] < SOON_S:
            return
    pytest.fail(f"ended {late_s} s after Ctrl-C")


# ---- Threads and processes -------------------------------------------------------------------------------------------


def test_four_threads_get_what_one_gets(nano_edge: WhisperModel, sample_pcm: Floats) -> None:
    options: list[dict[str, Any]] = [
        {"beam_size": 1},
        {"beam_size": 5, "word_timestamps": True},
        {"batch_size": 2},
        {"temperature": 0.7, "seed": 3},
    ]
    n_times = [2 if "batch_size" in given else 1 for given in options]
    audios = [np.roll(np.tile(sample_pcm, n), 5000 * i) for i, n in enumerate(n_times)]
    alone = [contents(nano_edge.transcribe(audio, **given)) for audio, given in zip(audios, options)]
    found: list[Optional[list[Any]]] = [None] * 4

    def work(i: int) -> None:
        found[i] = contents(nano_edge.transcribe(audios[i], **options[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone


_FORKED = """
import os, sys
from whisperq_edge import WhisperModel
model = WhisperModel("nano", device="cpu", engine="edge", cpu_threads=2)
def hear():
    return [segment.to_dict() for segment in model.transcribe(sys.argv[1], word_timestamps=True)]
expected = hear()
children = []
for leave in (sys.exit, os._exit):
    child = os.fork()
    if child == 0:
        leave(0 if hear() == expected else 1)
    children.append(child)
assert hear() == expected
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
assert hear() == expected
"""


@no_threads_in_a_child
@needs_fork
def test_a_model_that_was_used_works_on_in_both_processes_of_a_fork(sample_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORKED, str(sample_path)],
        capture_output=True,
        text=True,
        timeout=120 * SLOWDOWN,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_model_is_gone_at_once() -> None:
    """Its weights do not wait for the garbage to be collected."""
    model = WhisperModel("nano", device="cpu", engine="edge", cpu_threads=1)
    model.transcribe(np.zeros(RATE, np.float32), language="en", drop_silence=False, max_new_tokens=1)
    engine = weakref.ref(model._engine)
    gc.collect()
    gc.disable()
    try:
        model.close()
        assert engine() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("engine", ["edge", "ggml"])
def test_a_model_may_be_closed_while_it_is_asked_to_encode(sample_path: Path, engine: str) -> None:
    model = WhisperModel("nano", device="cpu", engine=engine, cpu_threads=1)
    expected = model.encode(sample_path)

    class Closing(io.BytesIO):
        def read(self, *arguments: Any) -> bytes:
            model.close()
            return super().read(*arguments)

    assert np.array_equal(model.encode(Closing(sample_path.read_bytes())), expected)
    assert repr(model).endswith("closed)")


# ---- Nothing to hear -------------------------------------------------------------------------------------------------


def pink(n: int) -> Floats:
    spectrum = np.fft.rfft(np.random.default_rng(1).standard_normal(n))
    spectrum[1:] /= np.sqrt(np.arange(1, spectrum.size))
    noise = np.fft.irfft(spectrum, n)
    return (noise / noise.std()).astype(np.float32)


N = 45 * RATE
NOTHING = {
    "zeros": np.zeros(N, np.float32),
    "DC": np.full(N, 0.25, np.float32),
    "white noise at -40 dB": (np.random.default_rng(2).standard_normal(N) * 0.01).astype(np.float32),
    "white noise at -70 dB": (np.random.default_rng(3).standard_normal(N) * 0.0003).astype(np.float32),
    "pink noise at -40 dB": pink(N) * np.float32(0.01),
    "a second of zeros": np.zeros(RATE, np.float32),
    "a second of white noise": (np.random.default_rng(4).standard_normal(RATE) * 0.01).astype(np.float32),
}


@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("name", NOTHING)
def test_silence_has_no_text(
    nano_edge: WhisperModel, micro_edge: WhisperModel, name: str, batch_size: Optional[int]
) -> None:
    for model in (nano_edge, micro_edge):
        transcript = model.transcribe(NOTHING[name], batch_size=batch_size)
        assert transcript.segments == [] and transcript.text == ""
        if batch_size is None:
            [dropped] = transcript.dropped
            assert (dropped.start, dropped.reason) == (0, "silence")
            assert dropped.end == pytest.approx(NOTHING[name].size / RATE, abs=0.02)
