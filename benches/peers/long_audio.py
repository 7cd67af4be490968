"""Long audio through one engine, in a process of its own: how long it takes, and the most memory it ever held.

    python long_audio.py ENGINE MODEL SECONDS TOKENS THREADS BATCH

ENGINE is ``edge``, ``ggml`` or ``faster-whisper`` and MODEL what it opens. The audio is noise, cut into windows of 30 s
for everyone, so that no voice detector has a say in how many there are; a random model that may say nothing but text
gives TOKENS tokens in each. BATCH windows are decoded together; 0: window after window. It prints JSON.
SECONDS as ``file:PATH`` reads the audio of a file, as users have it, instead of an array.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Union

import numpy as np
import numpy.typing as npt

__all__ = ["Heard", "noise", "transcribe_elsewhere"]

RATE = 16_000
WINDOW_S = 30
N_VOCAB = 51_865  # of the multilingual models

Floats = npt.NDArray[np.float32]
Audio = Union[Floats, str]


class Heard(NamedTuple):
    """What a process says of its work.

    Attributes:
        ms: of the transcription, without loading.
        n_tokens: it decoded.
        peak_mb: the largest resident set the process ever had, of 10^6 bytes.
        before_mb: the same before it heard anything: the interpreter, the libraries, the model, the array of samples.
    """

    ms: float
    n_tokens: int
    peak_mb: float
    before_mb: float


def transcribe_elsewhere(
    engine: str, model: Path, audio: Union[int, Path], n_tokens: int, n_threads: int, batch_size: int
) -> Heard:
    """Runs this file. ``audio``: seconds of noise, or a file."""
    heard = f"file:{audio}" if isinstance(audio, Path) else str(audio)
    arguments = [engine, str(model), heard, str(n_tokens), str(n_threads), str(batch_size)]
    answer = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return Heard(**json.loads(answer.stdout.splitlines()[-1]))


def noise(seconds: int) -> Iterator[Floats]:
    """Pieces of up to 30 s: nothing but the whole is ever large."""
    draw = np.random.default_rng(0).standard_normal
    for start in range(0, seconds, WINDOW_S):
        yield np.float32(0.05) * draw(min(WINDOW_S, seconds - start) * RATE, np.float32)


class Job(NamedTuple):
    audio: Audio
    seconds: float
    n_tokens: int
    n_threads: int
    batch_size: int


def _edge(model: str, job: Job) -> Callable[[], int]:
    return _ours("edge", model, job, {"drop_silence": False, "batch_size": job.batch_size or None})


def _ggml(model: str, job: Job) -> Callable[[], int]:
    return _ours("ggml", model, job, {})


def _ours(engine: str, model: str, job: Job, more: dict[str, Any]) -> Callable[[], int]:
    from whisperq_edge import WhisperModel

    opened = WhisperModel(model, device="cpu", engine=engine, cpu_threads=job.n_threads)
    options = {**more, "clip_timestamps": [edge for pair in _windows(job) for edge in pair]} if job.batch_size else more

    def run() -> int:
        # Whole windows, as every other system encodes them.
        heard = opened.transcribe(job.audio, "en", audio_ctx=1500, **_common(job), **options)
        return sum(len(segment.tokens) for segment in heard.segments)

    return run


def _faster_whisper(model: str, job: Job) -> Callable[[], int]:
    import faster_whisper

    opened = faster_whisper.WhisperModel(model, device="cpu", compute_type="int8", cpu_threads=job.n_threads)
    # CTranslate2 spends at most half of the length that faster-whisper asks for (prompt and new tokens) on new tokens.
    options = {**_common(job), "max_new_tokens": 2 * job.n_tokens - 4}

    def run() -> int:
        if job.batch_size:
            clips = [{"start": start, "end": end} for start, end in _windows(job)]
            pipeline = faster_whisper.BatchedInferencePipeline(opened)
            more: dict[str, Any] = {"batch_size": job.batch_size, "vad_filter": False, "clip_timestamps": clips}
            segments, _ = pipeline.transcribe(job.audio, language="en", **options, **more)
        else:
            segments, _ = opened.transcribe(job.audio, language="en", **options)
        return sum(len(segment.tokens) for segment in segments)

    return run


def _common(job: Job) -> dict[str, Any]:
    """Options by the names that both packages have."""
    return {
        "beam_size": 1,
        "best_of": 1,
        "temperature": 0.0,
        "compression_ratio_threshold": None,
        "log_prob_threshold": None,
        "no_speech_threshold": None,
        "condition_on_previous_text": False,
        "without_timestamps": True,
        "suppress_blank": False,
        "suppress_tokens": _all_but_text(),
        "max_new_tokens": job.n_tokens,
    }


def _all_but_text() -> list[int]:
    """The end of text, timestamps and other special tokens, and tokens of white space.

    Everyone drops a segment that has no other, and its tokens with it.
    """
    from whisperq_edge._whisper.vocabulary import known_vocabulary

    words = known_vocabulary(N_VOCAB)
    return [token for token in range(N_VOCAB) if token >= len(words) or not words[token].strip()]


def _windows(job: Job) -> list[tuple[float, float]]:
    edges = np.arange(0, job.seconds, WINDOW_S).tolist()
    return list(zip(edges, [*edges[1:], job.seconds]))


ENGINES: dict[str, Callable[[str, Job], Callable[[], int]]] = {
    "edge": _edge,
    "ggml": _ggml,
    "faster-whisper": _faster_whisper,
}


def _peak_mb() -> float:
    """Of this process so far. Linux keeps ``ru_maxrss`` of the process that started it, too; ``VmHWM`` is its own."""
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _audio(given: str) -> tuple[Audio, float]:
    if given.startswith("file:"):
        import soundfile

        path = given[len("file:") :]
        return path, soundfile.info(path).duration
    samples = np.empty(int(given) * RATE, np.float32)
    at = 0
    for piece in noise(int(given)):
        samples[at : at + len(piece)] = piece
        at += len(piece)
    return samples, float(given)


def main(arguments: Optional[list[str]] = None) -> None:
    engine, model, audio, *numbers = arguments or sys.argv[1:]
    samples, seconds = _audio(audio)
    run = ENGINES[engine](model, Job(samples, seconds, *map(int, numbers)))
    before_mb = _peak_mb()
    began = time.perf_counter()
    n_tokens = run()
    ms = 1000 * (time.perf_counter() - began)
    print(json.dumps(Heard(ms, n_tokens, _peak_mb(), before_mb)._asdict()))


if __name__ == "__main__":
    main()
