"""A model looked at from inside, in a process of its own: the encoder's output, the decoder's logits on given tokens,
load time, speed and peak memory, and the sizes of the values that each weight matrix is multiplied with.

The own process makes the peak memory the model's alone, and keeps a model that ends the process from ending ours.
``_workers/probe`` is that process. Samples go to it, and arrays come back, as files in the folder of its task.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import numpy.typing as npt

from .. import _core
from .._audio.pcm import to_pcm
from .._errors import AudioError, InferenceError, OptionError
from .._system.arrays import Doubles, Floats
from .._system.worker import Worker
from .._whisper.units import WINDOW_SAMPLES

__all__ = ["ProbeResult", "probe_statistics", "run_probe"]


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
    with _child(model, [pcm], n_threads, flash_attention, request) as (answer, arrays):
        features, logits = np.empty((0, 0), np.float32), []
        if keep_results:
            features = _finite(arrays["audio_features"], model, "the encoder's output")
            for i in range(len(answer["sequences"])):
                logits.append(_finite(arrays[f"logits_{i}"], model, "the decoder's output"))
        return ProbeResult(audio_features=features, logits=logits, **answer)


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
        raise AudioError("there are no samples to calibrate with")
    with _child(model, windows, n_threads, flash_attention, {"operation": "statistics"}) as (answer, arrays):
        return {
            name: (n_vectors, _finite(arrays[name], model, f"the input of {name}"))
            for name, n_vectors in answer["n_vectors"].items()
        }


@contextmanager
def _child(
    model: Union[str, os.PathLike[str]],
    pcms: Sequence[Floats],
    n_threads: int,
    flash_attention: bool,
    request: dict[str, Any],
) -> Iterator[tuple[dict[str, Any], Any]]:
    """The answer of a process that did as asked, and its arrays, which are read when they are looked at."""
    path = os.path.abspath(os.fspath(model))
    windows = [to_pcm(pcm).samples[:WINDOW_SAMPLES] for pcm in pcms]

    def put_samples(folder: Path) -> None:
        for i, window in enumerate(windows):
            np.save(folder / f"pcm_{i}.npy", window)

    task = {
        **request,
        "model": path,
        "n_pcms": len(pcms),
        "n_threads": n_threads or _core.usable_cpus(),
        "flash_attention": flash_attention,
    }
    with Worker("whisperq_edge._workers.probe", task, path, prepare=put_samples) as worker:
        answer = worker.answer()
        with np.load(worker.folder / "arrays.npz") as arrays:
            yield answer, arrays


def _finite(values: npt.NDArray[Any], model: Union[str, os.PathLike[str]], what: str) -> npt.NDArray[Any]:
    if not np.isfinite(values).all():
        index = int(np.argmin(np.isfinite(values)))
        raise InferenceError(
            f"{os.fspath(model)}: {what} holds {values.flat[index]} at value {index} of {values.size}:"
            " the weights are damaged or too large for their type"
        )
    return values
