"""A model looked at from inside, in a process of its own: the encoder's output, the decoder's logits on given tokens,
load time, speed and peak memory, and the sizes of the values that each weight matrix is multiplied with.

The own process makes the peak memory the model's alone, and keeps a model that ends the process from ending ours.
``python -m whisperq_edge._convert.probe FOLDER`` is that process: it reads ``request.json`` and the arrays beside it,
writes ``outcome.json`` and ``arrays.npz`` there, and prints nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import numpy.typing as npt

from .. import _core, _errors
from .._audio.pcm import SAMPLE_RATE, to_pcm
from .._errors import InferenceError, OptionError
from .._system.process import INTERRUPTED, child_environment, death, described, peak_rss_bytes, restored
from .._whisper.languages import LANGUAGES

__all__ = ["ProbeResult", "end_of_text", "probe_statistics", "prompt_tokens", "run_probe"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

WINDOW_SAMPLES = 30 * SAMPLE_RATE
TIMED_TOKENS = 32
_LAST_WORDS_BYTES = 2000


@dataclass(frozen=True)
class ProbeResult:
    """What one process saw of one model.

    Attributes:
        sequences: the token ids that the decoder was given.
        audio_features: the encoder's output, float32 ``[n_audio_ctx, n_audio_state]``; empty without ``keep_results``.
        logits: of each sequence, float32 ``[n_tokens, n_vocab]``; empty without ``keep_results``.
        load_ms: checking and loading the file.
        encode_ms: the encoder on 30 s, of each repeat; the mel spectrogram is not part of it.
        decode_ms_per_token: the decoder, one token at a time as in transcription, of each repeat.
        peak_rss_bytes: most memory that the process held while it loaded, encoded and decoded token by token, or None
            where the system does not tell.
        start_rss_bytes: what it held before it loaded the model: Python and its modules.
        n_threads: that computed.
    """

    sequences: list[list[int]]
    audio_features: Floats
    logits: list[Floats]
    load_ms: float
    encode_ms: list[float]
    decode_ms_per_token: list[float]
    peak_rss_bytes: Optional[int]
    start_rss_bytes: Optional[int]
    n_threads: int


def prompt_tokens(n_vocab: int, language: str = "en") -> list[int]:
    """What transcription without timestamps begins with: ``sot``, the language and ``transcribe`` where the model has
    them, ``notimestamps``.

    Args:
        n_vocab: 51864 (English only) or more.
        language: code of the text's language; without effect for an English model.
    """
    multilingual = n_vocab >= 51865
    n_languages = n_vocab - 51765 - (1 if multilingual else 0)
    sot = end_of_text(n_vocab) + 1
    transcribe = sot + n_languages + 2  # after the languages and `translate`
    no_timestamps = transcribe + 4  # after `startoflm`, `startofprev` and `nospeech`
    if not multilingual:
        return [sot, no_timestamps]
    index = list(LANGUAGES).index(language)
    if index >= n_languages:
        raise OptionError("language", language, f"one of the first {n_languages} that Whisper learnt")
    return [sot, sot + 1 + index, transcribe, no_timestamps]


def end_of_text(n_vocab: int) -> int:
    """The token ``eot``; the ids below it are text."""
    return 50257 if n_vocab >= 51865 else 50256


# --- the process that asks --------------------------------------------------------------------------------------------


def run_probe(
    model: Union[str, os.PathLike[str]],
    pcm: Floats,
    sequences: Union[Sequence[Sequence[int]], Sequence[str]],
    n_threads: int = 0,
    repeats: int = 1,
    *,
    keep_results: bool = True,
    flash_attention: bool = True,
) -> ProbeResult:
    """Loads a model in a process of its own and runs it on the CPU.

    Args:
        model: a ggml file.
        pcm: float32, 16 kHz mono; the first 30 s are heard.
        sequences: token ids of each sequence, 1 to ``n_text_ctx`` of them; or texts, which become what transcription
            would write: :func:`prompt_tokens` and the text's tokens, cut to ``n_text_ctx``. At least one.
        n_threads: 0 takes every CPU that affinity and cgroup quota leave to the process.
        repeats: how often the encoder and the decoder (on the first sequence's first 32 tokens, one by one) are timed.
        keep_results: give the encoder's output and the logits, from a further run.
        flash_attention: whisper.cpp's fused attention, as in ``WhisperModel``.

    Raises:
        AudioError: samples that are none.
        ModelNotFoundError, ModelFormatError, UnsupportedModelError: the file cannot be run.
        InferenceError: a token or a number of tokens that the model does not have, values that are no numbers, or a
            process that died.
    """
    if not sequences:
        raise OptionError("sequences", sequences, "at least one")
    request = {
        "operation": "probe",
        "sequences": [text if isinstance(text, str) else [int(token) for token in text] for text in sequences],
        "repeats": repeats,
        "keep_results": keep_results,
    }
    with _child(model, [pcm], n_threads, flash_attention, request) as (outcome, arrays):
        features, logits = np.empty((0, 0), np.float32), []
        if keep_results:
            features = _finite(arrays["audio_features"], model, "the encoder's output")
            for i in range(len(outcome["sequences"])):
                logits.append(_finite(arrays[f"logits_{i}"], model, "the decoder's output"))
        return ProbeResult(audio_features=features, logits=logits, **outcome)


def probe_statistics(
    model: Union[str, os.PathLike[str]], pcms: Sequence[Floats], n_threads: int = 0, *, flash_attention: bool = True
) -> dict[str, tuple[int, Doubles]]:
    """Transcribes audio greedily, and adds up what the weight matrices are multiplied with on the way.

    Args:
        model: a ggml file.
        pcms: float32, 16 kHz mono each; cut into windows of 30 s.
        n_threads, flash_attention: as in :func:`run_probe`.

    Returns:
        By name of the matrix: the number of vectors, and the sum of their squares, float64 ``[row size]``.

    Raises:
        as :func:`run_probe`.
    """
    windows = [pcm[at : at + WINDOW_SAMPLES] for pcm in pcms for at in range(0, len(pcm), WINDOW_SAMPLES)]
    if not windows:
        raise _errors.AudioError("there are no samples to calibrate with")
    with _child(model, windows, n_threads, flash_attention, {"operation": "statistics"}) as (outcome, arrays):
        return {
            name: (n_vectors, _finite(arrays[name], model, f"the input of {name}"))
            for name, n_vectors in outcome["n_vectors"].items()
        }


@contextmanager
def _child(
    model: Union[str, os.PathLike[str]],
    pcms: Sequence[Floats],
    n_threads: int,
    flash_attention: bool,
    request: dict[str, Any],
) -> Iterator[tuple[dict[str, Any], Any]]:
    """The outcome of a process that did as asked, and its arrays, which are read when they are looked at."""
    path = os.path.abspath(os.fspath(model))
    with tempfile.TemporaryDirectory(prefix="whisperq-probe-") as name:
        folder = Path(name)
        for i, pcm in enumerate(pcms):
            np.save(folder / f"pcm_{i}.npy", to_pcm(pcm).samples[:WINDOW_SAMPLES])
        complete = {
            **request,
            "model": path,
            "n_pcms": len(pcms),
            "n_threads": n_threads or _core.usable_cpus(),
            "flash_attention": flash_attention,
            "parent": os.getpid(),
        }
        (folder / "request.json").write_text(json.dumps(complete), encoding="utf-8")
        outcome = _outcome(folder, path, *_run(folder))
        with np.load(folder / "arrays.npz") as arrays:
            yield outcome, arrays


def _run(folder: Path) -> tuple[int, str]:
    """Exit code and last words of the process. It ends when we are interrupted."""
    if not sys.executable:
        raise InferenceError("the proof runs in a process of its own, and where this Python's program is is not known")
    command = [sys.executable, "-m", "whisperq_edge._convert.probe", str(folder)]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=folder,  # where no modules are
        env=child_environment(),
    ) as process:
        try:
            _, stderr = process.communicate()
        except BaseException:
            process.kill()
            raise
    return process.returncode, stderr[-_LAST_WORDS_BYTES:].decode("utf-8", "replace").strip()


def _outcome(folder: Path, model: str, code: int, last_words: str) -> dict[str, Any]:
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    try:
        outcome: dict[str, Any] = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        raise InferenceError(death(model, code, last_words)) from None
    if "error" in outcome:
        raise restored(outcome["error"], outcome["arguments"])
    return outcome


def _finite(values: npt.NDArray[Any], model: Union[str, os.PathLike[str]], what: str) -> npt.NDArray[Any]:
    if not np.isfinite(values).all():
        index = int(np.argmin(np.isfinite(values)))
        raise InferenceError(
            f"{os.fspath(model)}: {what} holds {values.flat[index]} at value {index} of {values.size}:"
            " the weights are damaged or too large for their type"
        )
    return values


# --- the process that is asked ----------------------------------------------------------------------------------------


def main(folder: Path) -> int:
    """Does what ``request.json`` asks for; the exit code."""
    try:
        outcome = _answer(folder, json.loads((folder / "request.json").read_text(encoding="utf-8")))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        outcome = described(error)
    if folder.exists():
        (folder / "outcome.json").write_text(json.dumps(outcome), encoding="utf-8")
    return 0


def _answer(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    try:
        probe = _Probe(folder, request)
        return probe.statistics() if request["operation"] == "statistics" else probe.run()
    except _errors.CancelledError:  # our parent is gone, and with it the one who would have cleaned up
        shutil.rmtree(folder, ignore_errors=True)
        raise


class _Probe:
    def __init__(self, folder: Path, request: dict[str, Any]) -> None:
        from .._model import WhisperModel

        self._folder = folder
        self._request = request
        self._n_threads: int = request["n_threads"]
        self._start_rss_bytes = peak_rss_bytes()
        _core.read_model_file(request["model"])  # what is no ggml file would be converted into the cache
        self._model = WhisperModel(
            request["model"],
            device="cpu",
            cpu_threads=self._n_threads,
            engine="ggml",
            flash_attention=request["flash_attention"],
        )
        running: Any = self._model._running_engine()
        self._native: Any = running._engine
        self._n_vocab = self._model.dims["n_vocab"]
        self._n_text_ctx = self._model.dims["n_text_ctx"]

    def run(self) -> dict[str, Any]:
        pcm = self._pcm(0)
        sequences = [self._tokens(sequence) for sequence in self._request["sequences"]]
        timed = sequences[0][:TIMED_TOKENS]
        encode_ms, decode_ms, peak_bytes = [], [], None
        for _ in range(self._request["repeats"]):
            seen = self._probe(pcm, [timed], tokens_per_call=1)
            encode_ms.append(seen["encode_ms"])
            decode_ms.append(seen["decode_ms"] / len(timed))
            peak_bytes = peak_bytes or peak_rss_bytes()  # before the logits of many tokens add to it
        arrays = {}
        if self._request["keep_results"]:
            seen = self._probe(pcm, sequences)
            arrays = {f"logits_{i}": logits for i, logits in enumerate(seen["logits"])}
            arrays["audio_features"] = seen["audio_features"]
        np.savez(self._folder / "arrays.npz", **arrays)
        return {
            "sequences": sequences,
            "load_ms": self._model.timings["load"].ms,
            "encode_ms": encode_ms,
            "decode_ms_per_token": decode_ms,
            "peak_rss_bytes": peak_bytes,
            "start_rss_bytes": self._start_rss_bytes,
            "n_threads": self._n_threads,
        }

    def statistics(self) -> dict[str, Any]:
        sums: dict[str, Doubles] = {}
        n_vectors: dict[str, int] = {}
        for i in range(self._request["n_pcms"]):
            pcm = self._pcm(i)
            seen = self._probe(pcm, [self._transcribed(pcm)], statistics=True)
            for name, (count, squares) in seen["statistics"].items():
                sums[name] = sums.get(name, 0.0) + squares
                n_vectors[name] = n_vectors.get(name, 0) + count
        arrays: dict[str, Any] = {**sums}
        np.savez(self._folder / "arrays.npz", **arrays)
        return {"n_vectors": n_vectors}

    def _probe(self, pcm: Floats, sequences: list[list[int]], **options: Any) -> Any:
        return self._native.probe(pcm, sequences, n_threads=self._n_threads, should_stop=self._orphaned, **options)

    def _orphaned(self) -> bool:
        """Whether the process that asked has died (a shell or init has become our parent)."""
        return os.name == "posix" and os.getppid() != self._request["parent"]

    def _pcm(self, i: int) -> Floats:
        samples: Floats = np.load(self._folder / f"pcm_{i}.npy")
        return samples

    def _tokens(self, sequence: Union[str, list[int]]) -> list[int]:
        if not isinstance(sequence, str):
            return sequence
        return [*prompt_tokens(self._n_vocab), *self._native.tokenize(f" {sequence}")][: self._n_text_ctx]

    def _transcribed(self, pcm: Floats) -> list[int]:
        """What the model itself makes of the audio, whatever it thinks of it, as a sequence for the decoder."""
        transcript = self._model.transcribe(
            pcm,
            beam_size=1,
            temperature=0.0,
            log_prob_threshold=None,
            no_speech_threshold=None,
            compression_ratio_threshold=None,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        end = end_of_text(self._n_vocab)
        text = [token for segment in transcript for token in segment.tokens if token < end]
        return [*prompt_tokens(self._n_vocab, transcript.language), *text, end][: self._n_text_ctx]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
