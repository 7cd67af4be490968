"""The whole-model proof: what a conversion changed in what the model computes, and in what it costs to run.

Both models run in processes of their own, in turns, so that a machine that grows warm or busy does so for both. They
hear the same audio and are forced through the same tokens; nothing is sampled.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional, Union

import numpy as np

from .. import _core
from .._audio.pcm import to_pcm
from .._errors import OptionError
from .._system.arrays import Doubles, Floats
from .._system.native import build_info, data_file
from .._whisper.dims import prompt_tokens
from .probe import ProbeResult, probe_statistics, run_probe
from .report import versions

__all__ = ["SENTENCES", "Measurement", "Proof", "Side", "activation_statistics", "proof_rows", "prove", "verdict"]

PathLike = Union[str, "os.PathLike[str]"]

# Our own words, of several kinds: narration, numbers, names, speech, lists, abbreviations.
SENTENCES = (
    "The harbour was quiet that morning, and only the baker on the corner had already opened his shop. He swept the"
    " steps, looked at the sky, and said that the rain would hold off until the evening.",
    "In 1987 the bridge carried 4,250 cars a day; by 2016 it was more than 31,000, and the repairs cost 12.5 million.",
    '"Did you call Dr. Okafor?" asked Maria. "Twice," said Henrik, "but nobody answered, so I\'ve left a message."',
    "Please bring two pencils, a ruler, some clean paper, your library card, and if you can, a small lamp.",
    "A neural network with fewer bits per weight needs less memory, yet it has to keep the differences that matter"
    " between words that sound almost alike, such as their, there and they're.",
    "Well, um, I think we turned left at the church, then right, and then, oh, we were completely lost in the fog.",
)

_Z_95 = 1.959963984540054  # of the normal distribution, two-sided
_ROWS_AT_A_TIME = 16  # float64 rows of n_vocab values
_SAME_DIMS = ("n_audio_ctx", "n_audio_state", "n_text_ctx", "n_text_state", "n_vocab", "n_mels")


@dataclass(frozen=True)
class Measurement:
    """A figure that was measured several times, each time by a new process and without a run to warm it up.

    Attributes:
        median: of the runs.
        least, most: of them.
        runs: how many.
    """

    median: float
    least: float
    most: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Measurement:
        return cls(statistics.median(values), min(values), max(values), len(values))

    def to_dict(self) -> dict[str, Any]:
        return {name: round(value, 4) for name, value in vars(self).items()}


@dataclass(frozen=True)
class Side:
    """One of the two models.

    Attributes:
        type: of its matrices.
        file_bytes: of its file.
        load_ms: checking and loading the file.
        encode_ms: the encoder on 30 s, without the mel spectrogram.
        decode_ms_per_token: the decoder, one token at a time.
        peak_rss_bytes: most memory the process held while it did these, or None where the system does not tell.
        start_rss_bytes: what of it was there before the model: Python and its modules.
    """

    type: str
    file_bytes: int
    load_ms: Measurement
    encode_ms: Measurement
    decode_ms_per_token: Measurement
    peak_rss_bytes: Optional[int]
    start_rss_bytes: Optional[int]

    def to_dict(self) -> dict[str, Any]:
        return {
            "type": self.type,
            "bytes": self.file_bytes,
            "mb": round(self.file_bytes / 1e6, 2),
            "mib": round(self.file_bytes / 2**20, 2),
            "load_ms": self.load_ms.to_dict(),
            "encode_ms": self.encode_ms.to_dict(),
            "decode_ms_per_token": self.decode_ms_per_token.to_dict(),
            "peak_rss_bytes": self.peak_rss_bytes,
            "start_rss_bytes": self.start_rss_bytes,
        }


@dataclass(frozen=True)
class Proof:
    """What a conversion changed.

    Attributes:
        reference, result: cost of running the model before and after.
        ratio: bytes of the reference's file over those of the result's.
        n_clips: audio clips that were heard, of each the first 30 s.
        n_audio_tokens: encoder outputs (20 ms each) that were compared.
        encoder_cosine: of all of them as one vector.
        encoder_sqnr_db: energy of the reference over that of the difference, in dB; infinite when they are equal.
        worst_cosine, worst_sqnr_db: of the 20 ms where it is least.
        n_positions: decoder positions that were compared: those that predict text and its end.
        n_agreed: where both models' most likely token is the same one.
        agreement_interval: 95 % Wilson interval of ``top1_agreement``. It takes the positions for independent, which
            those of one text are only in part.
        mean_kl_nats, max_kl_nats: KL(reference || result) of the decoder's distributions, over the positions.
        flash_attention: whether whisper.cpp's fused attention was on.
        n_threads: that computed.
    """

    reference: Side
    result: Side
    n_clips: int
    n_audio_tokens: int
    encoder_cosine: float
    encoder_sqnr_db: float
    worst_cosine: float
    worst_sqnr_db: float
    n_positions: int
    n_agreed: int
    mean_kl_nats: float
    max_kl_nats: float
    flash_attention: bool
    n_threads: int

    @property
    def ratio(self) -> float:
        return self.reference.file_bytes / self.result.file_bytes

    @property
    def top1_agreement(self) -> float:
        return self.n_agreed / self.n_positions

    @property
    def agreement_interval(self) -> tuple[float, float]:
        return wilson_interval(self.n_agreed, self.n_positions)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON. An infinite SQNR, that of equal outputs, is null."""
        low, high = self.agreement_interval
        return {
            "reference": self.reference.to_dict(),
            "result": self.result.to_dict(),
            "ratio": round(self.ratio, 4),
            "encoder": {
                "n_clips": self.n_clips,
                "n_audio_tokens": self.n_audio_tokens,
                "cosine": self.encoder_cosine,
                "sqnr_db": _finite_or_none(self.encoder_sqnr_db),
                "worst_cosine": self.worst_cosine,
                "worst_sqnr_db": _finite_or_none(self.worst_sqnr_db),
            },
            "decoder": {
                "n_positions": self.n_positions,
                "n_agreed": self.n_agreed,
                "top1_agreement": self.top1_agreement,
                "agreement_interval_95": [low, high],
                "mean_kl_nats": self.mean_kl_nats,
                "max_kl_nats": self.max_kl_nats,
            },
            "engine": {
                "name": "ggml",
                "isa": build_info().ggml_requires,
                "flash_attention": self.flash_attention,
                "n_threads": self.n_threads,
                "compiler": build_info().compiler,
            },
            "versions": {**versions(), "python": platform.python_version(), "numpy": np.__version__},
            "machine": {"cpu": _core.cpu_name() or _core.cpu_family(), "system": platform.platform(terse=True)},
        }


def prove(
    reference: PathLike,
    result: PathLike,
    *,
    pcm: Optional[Sequence[Floats]] = None,
    n_threads: int = 0,
    repeats: int = 3,
    flash_attention: bool = True,
    on_progress: Optional[Callable[[float], None]] = None,
) -> Proof:
    """Runs both models and compares them.

    Args:
        reference: ggml file of the model before.
        result: ggml file of the model after.
        pcm: audio clips, float32, 16 kHz mono; of each the first 30 s are heard. None: the clip that ships with the
            package, whose words are then among the texts.
        n_threads: 0 takes every CPU that affinity and cgroup quota leave to the process.
        repeats: least number of timed runs of each model, in turns. There are as many as clips at least.
        flash_attention: whisper.cpp's fused attention; True is what ``WhisperModel`` does.
        on_progress: called with the fraction that is done.

    Raises:
        OptionError: models of different dimensions, no clip, or no repeat.
        AudioError: samples that are none.
        ModelNotFoundError, ModelFormatError, UnsupportedModelError: a file that cannot be run.
        InferenceError: a model whose outputs are no numbers, or a process that died.
    """
    if repeats < 1:
        raise OptionError("repeats", repeats, "1 or more")
    if pcm is not None and not pcm:
        raise OptionError("pcm", [], "at least one clip, or None for the one that ships with the package")
    n_vocab = _check_same_dims(reference, result)
    clips = list(pcm) if pcm is not None else [to_pcm(data_file("assets/sample.flac")).samples]
    texts = list(SENTENCES) if pcm is not None else [_sample_text(), *SENTENCES]
    rounds = _Rounds((reference, result), clips, texts, n_threads, max(repeats, len(clips)), flash_attention)
    comparison = _Comparison(len(prompt_tokens(n_vocab)))
    for before, after in rounds.run(on_progress or (lambda fraction: None)):
        comparison.add(before, after)
    first, second = rounds.sides()
    return Proof(
        reference=first,
        result=second,
        n_clips=len(clips),
        flash_attention=flash_attention,
        n_threads=n_threads or _core.usable_cpus(),
        **comparison.figures(),
    )


def activation_statistics(
    model: PathLike, pcms: Sequence[Floats], n_threads: int = 0, *, flash_attention: bool = True
) -> dict[str, Doubles]:
    """How large the values are that each weight matrix is multiplied with while the model transcribes audio.

    The decoder is forced through the model's own greedy transcript.

    Args:
        model: a ggml file.
        pcms: float32, 16 kHz mono each; all of it is heard, in windows of 30 s.
        n_threads: 0 takes every CPU that affinity and cgroup quota leave to the process.
        flash_attention: whisper.cpp's fused attention.

    Returns:
        By name of the matrix: mean square of each input column, float64 ``[row size]``. Convolutions are left out.

    Raises:
        as :func:`prove`.
    """
    sums = probe_statistics(model, pcms, n_threads, flash_attention=flash_attention)
    return {name: sum_squares / n_vectors for name, (n_vectors, sum_squares) in sums.items()}


def verdict(proof: Proof) -> str:
    """One sentence that says no more than was seen."""
    low, high = proof.agreement_interval
    interval = f"95 % interval {_floor_percent(low)} to {100 * high:.1f} %"
    heard = f"{proof.n_clips} clip{'s' if proof.n_clips > 1 else ''}"
    if proof.encoder_sqnr_db == float("inf") and proof.max_kl_nats == 0:
        return f"No difference was seen: both models gave the same numbers on {heard} and {proof.n_positions} tokens."
    sqnr = "output equal" if np.isinf(proof.encoder_sqnr_db) else f"SQNR {proof.encoder_sqnr_db:.1f} dB"
    more = f"mean KL {proof.mean_kl_nats:.2g} nats, encoder {sqnr}, on {heard}"
    n_differ = proof.n_positions - proof.n_agreed
    if n_differ == 0:
        return (
            f"No difference was seen in {proof.n_positions} tokens: the decoder's first choice is the same everywhere"
            f" ({interval}; {more})."
        )
    return (
        f"The decoder's first choice differs in {n_differ} of {proof.n_positions} tokens: agreement"
        f" {100 * proof.top1_agreement:.1f} % ({interval}; {more})."
    )


def proof_rows(proof: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """:meth:`Proof.to_dict` as a table: what, before, after, how it was measured."""
    before, after, n_threads = proof["reference"], proof["result"], proof["engine"]["n_threads"]
    encoder, decoder = proof["encoder"], proof["decoder"]
    low, high = decoder["agreement_interval_95"]
    agreed = f"{decoder['n_agreed']} of {decoder['n_positions']} tokens"
    interval = f"95 %: {_floor_percent(low)} to {100 * high:.1f} %"
    heard = f"{encoder['n_audio_tokens']} x 20 ms of {encoder['n_clips']} clip(s)"
    worst_db = _decibels(encoder["worst_sqnr_db"])
    return [
        ("size, MB", f"{before['mb']:.2f}", f"{after['mb']:.2f}", f"ratio {proof['ratio']:.2f}"),
        ("size, MiB", f"{before['mib']:.2f}", f"{after['mib']:.2f}", f"{before['type']} -> {after['type']}"),
        _timing("load, ms", before["load_ms"], after["load_ms"], n_threads),
        _timing("encode 30 s, ms", before["encode_ms"], after["encode_ms"], n_threads),
        _timing("decode, ms per token", before["decode_ms_per_token"], after["decode_ms_per_token"], n_threads),
        ("peak memory, MB", _megabytes(before), _megabytes(after), "whole process, load to decode"),
        ("encoder cosine", "1", f"{encoder['cosine']:.6f}", f"worst {encoder['worst_cosine']:.6f}; {heard}"),
        ("encoder SQNR, dB", "-", _decibels(encoder["sqnr_db"]), f"worst {worst_db}"),
        ("decoder top-1 agreement", "1", f"{decoder['top1_agreement']:.4f}", f"{agreed}, {interval}"),
        ("decoder mean KL, nats", "0", f"{decoder['mean_kl_nats']:.3g}", f"largest {decoder['max_kl_nats']:.3g}"),
    ]


def wilson_interval(n_agreed: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927): unlike the normal one it never leaves [0, 1], and it has a width
    when all agree."""
    share, z2 = n_agreed / n, _Z_95**2
    centre = share + z2 / (2 * n)
    half = _Z_95 * float(np.sqrt(share * (1 - share) / n + z2 / (4 * n * n)))
    low, high = (centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n)
    return (0.0 if n_agreed == 0 else max(low, 0.0), 1.0 if n_agreed == n else min(high, 1.0))


class _Rounds:
    """Both models, one after the other, again and again; the first rounds give outputs to compare, one clip each."""

    def __init__(
        self,
        models: tuple[PathLike, PathLike],
        clips: list[Floats],
        texts: list[str],
        n_threads: int,
        n_rounds: int,
        flash_attention: bool,
    ) -> None:
        self._models = models
        self._clips = clips
        self._sequences: Union[list[str], list[list[int]]] = texts
        self._n_threads = n_threads
        self._n_rounds = n_rounds
        self._flash_attention = flash_attention
        self._seen: tuple[list[ProbeResult], list[ProbeResult]] = ([], [])

    def run(self, on_progress: Callable[[float], None]) -> Iterator[tuple[ProbeResult, ProbeResult]]:
        for i in range(self._n_rounds):
            compared = i < len(self._clips)
            pair = []
            for side, model in enumerate(self._models):
                seen = run_probe(
                    model,
                    self._clips[min(i, len(self._clips) - 1)],
                    self._sequences,
                    self._n_threads,
                    keep_results=compared,
                    flash_attention=self._flash_attention,
                )
                self._sequences = seen.sequences  # the reference's tokens, for both
                self._seen[side].append(_without_results(seen))
                pair.append(seen)
                on_progress((2 * i + side + 1) / (2 * self._n_rounds))
            if compared:
                yield pair[0], pair[1]

    def sides(self) -> tuple[Side, Side]:
        first, second = (_side(model, seen) for model, seen in zip(self._models, self._seen))
        return first, second


def _without_results(seen: ProbeResult) -> ProbeResult:
    """The figures; the arrays are large."""
    return ProbeResult(**{**vars(seen), "audio_features": np.empty((0, 0), np.float32), "logits": []})


def _side(model: PathLike, seen: list[ProbeResult]) -> Side:
    file = _core.read_model_file(model)
    peaks = [one.peak_rss_bytes for one in seen if one.peak_rss_bytes is not None]
    starts = [one.start_rss_bytes for one in seen if one.start_rss_bytes is not None]
    return Side(
        type=file.ftype,
        file_bytes=file.file_bytes,
        load_ms=Measurement.of([one.load_ms for one in seen]),
        encode_ms=Measurement.of([ms for one in seen for ms in one.encode_ms]),
        decode_ms_per_token=Measurement.of([ms for one in seen for ms in one.decode_ms_per_token]),
        peak_rss_bytes=max(peaks) if peaks else None,
        start_rss_bytes=max(starts) if starts else None,
    )


class _Comparison:
    """Sums over all clips, in double precision."""

    def __init__(self, n_prompt: int) -> None:
        self._first_position = n_prompt - 1  # the prompt's last token predicts the first of the text
        self._dot = self._squares = self._result_squares = self._error_squares = 0.0
        self._n_audio_tokens = 0
        self._worst_cosine, self._worst_sqnr_db = 1.0, float("inf")
        self._n_agreed = 0
        self._kl: list[Doubles] = []

    def add(self, reference: ProbeResult, result: ProbeResult) -> None:
        self._add_features(reference.audio_features.astype(np.float64), result.audio_features.astype(np.float64))
        for before, after in zip(reference.logits, result.logits):
            for at in range(self._first_position, len(before), _ROWS_AT_A_TIME):
                rows = slice(at, at + _ROWS_AT_A_TIME)
                self._n_agreed += int((before[rows].argmax(axis=1) == after[rows].argmax(axis=1)).sum())
                self._kl.append(_kl(before[rows].astype(np.float64), after[rows].astype(np.float64)))

    def _add_features(self, before: Doubles, after: Doubles) -> None:
        dot, squares = (before * after).sum(axis=1), (before * before).sum(axis=1)
        result_squares, error_squares = (after * after).sum(axis=1), ((before - after) ** 2).sum(axis=1)
        self._n_audio_tokens += len(before)
        self._dot += float(dot.sum())
        self._squares += float(squares.sum())
        self._result_squares += float(result_squares.sum())
        self._error_squares += float(error_squares.sum())
        each = zip(dot, squares, result_squares, error_squares)
        cosines, sqnrs = zip(*((_cosine(d, s, r), _sqnr_db(s, e)) for d, s, r, e in each))
        self._worst_cosine = min(self._worst_cosine, *cosines)
        self._worst_sqnr_db = min(self._worst_sqnr_db, *sqnrs)

    def figures(self) -> dict[str, Any]:
        kl = np.concatenate(self._kl)
        return {
            "n_audio_tokens": self._n_audio_tokens,
            "encoder_cosine": _cosine(self._dot, self._squares, self._result_squares),
            "encoder_sqnr_db": _sqnr_db(self._squares, self._error_squares),
            "worst_cosine": self._worst_cosine,
            "worst_sqnr_db": self._worst_sqnr_db,
            "n_positions": len(kl),
            "n_agreed": self._n_agreed,
            "mean_kl_nats": float(kl.mean()),
            "max_kl_nats": float(kl.max()),
        }


def _cosine(dot: float, squares: float, result_squares: float) -> float:
    if squares == 0 or result_squares == 0:
        return 1.0 if squares == result_squares else 0.0
    return min(1.0, float(dot / np.sqrt(squares * result_squares)))


def _sqnr_db(squares: float, error_squares: float) -> float:
    if error_squares == 0:
        return float("inf")
    return float(10 * np.log10(max(squares, np.finfo(np.float64).tiny) / error_squares))


def _kl(before: Doubles, after: Doubles) -> Doubles:
    """KL(before || after) of each row of logits, in nats."""
    log_p, log_q = _log_softmax(before), _log_softmax(after)
    divergence: Doubles = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=1), 0.0)  # below 0: rounding only
    return divergence


def _log_softmax(logits: Doubles) -> Doubles:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p: Doubles = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_p


def _check_same_dims(reference: PathLike, result: PathLike) -> int:
    """``n_vocab`` of both."""
    before, after = (_core.read_model_file(path).hparams for path in (reference, result))
    for name in _SAME_DIMS:
        if before[name] != after[name]:
            raise OptionError(
                "result",
                os.fspath(result),
                f"a conversion of {os.fspath(reference)}; {name} is {after[name]} there and {before[name]} here",
            )
    return before["n_vocab"]


def _sample_text() -> str:
    return data_file("assets/sample.txt").read_text(encoding="utf-8").strip()


def _finite_or_none(value: float) -> Optional[float]:
    return value if np.isfinite(value) else None


def _floor_percent(share: float) -> str:
    """Rounded down: a lower bound must not be made better."""
    return f"{np.floor(1000 * share) / 10:.1f}"


def _timing(label: str, before: dict[str, Any], after: dict[str, Any], n_threads: int) -> tuple[str, str, str, str]:
    """Medians, and the least of both: where they are far apart, the machine was busy with something else."""
    least = f"least {before['least']:.1f} and {after['least']:.1f}"
    how = f"median of {before['runs']} ({least}), {n_threads} threads"
    return label, f"{before['median']:.1f}", f"{after['median']:.1f}", how


def _megabytes(side: dict[str, Any]) -> str:
    return "-" if side["peak_rss_bytes"] is None else f"{side['peak_rss_bytes'] / 1e6:.1f}"


def _decibels(value: Optional[float]) -> str:
    return "equal" if value is None else f"{value:.1f}"
