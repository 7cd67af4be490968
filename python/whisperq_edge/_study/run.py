"""Every row of a study on every condition: what is left of the encoder's output, and what is heard."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from .._audio.pcm import to_pcm
from .._convert.readers.open_source import open_source
from .._convert.readers.source import Source
from .._errors import InferenceError, OptionError
from .._eval.data import Dataset, Utterance
from .._eval.journal import Journal
from .._eval.run import System, SystemRun, is_all_heard, run_systems
from .._eval.worker import edge_model, round_activations
from .._model import WhisperModel
from .._store.catalog import find_model
from .._store.locate import locate_model
from .._system.arrays import Floats
from .._system.files import sha256_of_file
from .._system.native import data_file
from .._whisper.dims import is_multilingual
from .._whisper.units import FRAMES_PER_TOKEN, HOP_SAMPLES, WINDOW_SAMPLES
from .noise import Noises, mixed_utterances
from .schemes import Row
from .scope import Scope, WeightNoise, choose_scope, weight_noise, write_rounded

__all__ = ["CLEAN", "Condition", "EncoderNoise", "RowResult", "Study", "StudyModel", "open_model"]

OnProgress = Callable[[str, float], None]

CLEAN = "clean"


@dataclass(frozen=True)
class StudyModel:
    """The model that is studied.

    Attributes:
        name: as it was asked for.
        path: its ggml file.
        sha256: of the file.
        source: its tensors.
        scope: the matrices that are rounded.
        is_multilingual: whether it knows more than English.
    """

    name: str
    path: Path
    sha256: str
    source: Source
    scope: Scope
    is_multilingual: bool


def open_model(name: str, scope: Sequence[str], *, n_threads: int = 0) -> StudyModel:
    """Finds the model as ``WhisperModel`` does.

    Raises:
        OptionError: no such scope.
        ModelError, OSError: as ``WhisperModel`` raises them.
    """
    # A name would mean a file that is quantised already, and it is float weights that are rounded here.
    path = locate_model(name, "f16" if find_model(name) else "default", n_threads=n_threads)
    source = open_source(path)
    chosen = choose_scope(source, scope, path.stat().st_size)
    return StudyModel(name, path, sha256_of_file(path), source, chosen, is_multilingual(source.dims.n_vocab))


@dataclass(frozen=True)
class Condition:
    """Clean or noisy speech.

    Attributes:
        name: ``clean``, ``20 dB``, …
        snr_db: None for clean.
        utterances: to be heard; in the same order in every condition.
        clips: those of them that the encoder is measured on; the same speech in every condition.
    """

    name: str
    snr_db: Optional[float]
    utterances: list[Utterance]
    clips: list[Utterance]


@dataclass(frozen=True)
class EncoderNoise:
    """The encoder's output against the float model's on the same clips, SQNR in dB; None: it is the same.

    Attributes:
        recording: of each clip, over the audio tokens that the recording fills.
        window: of each clip, over all of the window of 30 s.
    """

    recording: list[Optional[float]]
    window: list[Optional[float]]


@dataclass
class RowResult:
    """What is known of a row.

    Attributes:
        row: which.
        bits_per_weight: in the scope, with scales and zero points.
        model_bytes: with the scope in these bits and all else as it is.
        weights: the noise in the weights.
        encoder: by name of the condition.
        run: what was heard in all conditions; None where nothing was.
    """

    row: Row
    bits_per_weight: float
    model_bytes: int
    weights: WeightNoise
    encoder: dict[str, EncoderNoise] = field(default_factory=dict)
    run: Optional[SystemRun] = None


class Study:
    """One model, rows, conditions.

    Args:
        model: of :func:`open_model`.
        rows: the first one is the float model.
        folder: for files that are gone afterwards.
        settings: of :func:`~whisperq_edge._eval.run.run_settings`.
        journal: with the same settings.
        on_progress: told a stage and the fraction of it that is done.
    """

    def __init__(
        self,
        model: StudyModel,
        rows: Sequence[Row],
        folder: Path,
        settings: Mapping[str, Any],
        journal: Journal,
        on_progress: Optional[OnProgress] = None,
    ) -> None:
        if not rows or not rows[0].weights.is_float or not rows[0].activations.is_float:
            raise OptionError(
                "weights", [row.name for row in rows], "the float model first, which all is compared with"
            )
        self._model, self._rows, self._folder = model, list(rows), folder
        self._settings, self._journal = settings, journal
        self._tell: OnProgress = on_progress or (lambda stage, fraction: None)
        self._ranges: dict[str, float] = {}
        self._reference: dict[str, list[Floats]] = {}

    # ---- Conditions --------------------------------------------------------------------------------------------------

    def conditions(
        self, dataset: Optional[Dataset], n_clips: int, noises: Optional[Noises] = None, snrs_db: Sequence[float] = ()
    ) -> list[Condition]:
        """Clean speech, and the same with noise, which is mixed now.

        Args:
            dataset: None takes the clip that ships with the package, of which nothing is counted.
            n_clips: for the encoder, spread evenly over the set.
            noises: needed where there are ratios.
            snrs_db: signal-to-noise ratios.
        """
        if dataset is None:
            sample = data_file("assets/sample.flac")
            utterances = [Utterance("the built-in clip", sample, "")]
        else:
            utterances = dataset.utterances
        n = len(utterances)
        chosen = range(n) if n <= n_clips else [i * n // n_clips for i in range(n_clips)]
        of_ratio = {}
        if snrs_db and noises is not None:
            self._tell("mixing", 0.0)
            of_ratio = mixed_utterances(utterances, noises, snrs_db, self._folder)
            self._tell("mixing", 1.0)
        every = [(CLEAN, None, utterances), *((f"{snr:g} dB", snr, mixed) for snr, mixed in of_ratio.items())]
        return [Condition(name, snr, heard, [heard[i] for i in chosen]) for name, snr, heard in every]

    # ---- Calibration -------------------------------------------------------------------------------------------------

    def calibrate(self, dataset: Dataset) -> dict[str, float]:
        """The largest ``|x|`` that the float model multiplies each matrix of the scope with while it transcribes; where
        the scope is of the encoder alone, while it encodes the first 30 s of each.

        Raises:
            InferenceError: a matrix that nothing went through.
        """
        digest = _digest([*map(_named, dataset.utterances)])
        key = f"{self._model.sha256} {self._model.scope.name}", f"calibration {digest}"
        known = self._journal.utterance(*key)
        if known is None:
            known = {"ranges": self._observed(dataset)}
            self._journal.add_utterance(*key, known)
        self._ranges = {name: float(value) for name, value in known["ranges"].items()}
        return dict(self._ranges)

    def _observed(self, dataset: Dataset) -> dict[str, float]:
        names = self._model.scope.names
        only_encoder = all(name.startswith("encoder.") for name in names)  # whose decoder may be none
        with self._written(self._rows[0]) as path, self._opened(path) as model:
            round_activations(model, {"scheme": "observe", "only": sorted(names)})
            for i, each in enumerate(dataset.utterances):
                if only_encoder:
                    model.encode(each.audio)
                else:
                    model.transcribe(each.audio, **self._settings["options"])
                self._tell("calibrating", (i + 1) / len(dataset.utterances))
            found = {name: float(value) for name, value in edge_model(model).activation_ranges().items()}
        missing = sorted(names - found.keys())
        if missing:
            raise InferenceError(
                f"calibration: nothing went through {missing[0]} in {len(dataset.utterances)} utterances: is there"
                " speech in them?"
            )
        return {name: found[name] for name in sorted(names)}

    # ---- Rows --------------------------------------------------------------------------------------------------------

    def run(self, conditions: Sequence[Condition], *, hears: bool) -> list[RowResult]:
        """Every row on every condition.

        Args:
            conditions: of :meth:`conditions`.
            hears: transcribe the utterances, too.

        Raises:
            OptionError: a static row without :meth:`calibrate`.
            ModelError, InferenceError, OSError: as ``WhisperModel`` and the journal raise them. What was measured until
                then is in the journal.
        """
        static = [row.name for row in self._rows if row.activations.is_static]
        if static and not self._ranges:
            raise OptionError("activations", static[0], "static activations with --calibrate only")
        results: list[RowResult] = []
        for _, same_weights in itertools.groupby(self._rows, key=lambda row: row.weights):
            together = list(same_weights)
            scope, scheme = self._model.scope, together[0].weights
            noise = weight_noise(scope, scheme)
            with self._written(together[0]) as path:
                for row in together:
                    result = RowResult(row, scope.bits_per_weight(scheme), scope.model_bytes(scheme), noise)
                    self._measure(result, path, conditions, len(results))
                    if hears:
                        result.run = self._hear(result, path, conditions, len(results))
                    results.append(result)
                    self._tell("everything", len(results) / len(self._rows))
        return results

    def _written(self, row: Row) -> _WrittenOnce:
        return _WrittenOnce(self._model, row, self._folder, self._settings["threads"])

    def _opened(self, path: _WrittenOnce) -> WhisperModel:
        threads = self._settings["threads"]
        return WhisperModel(path.path, "cpu", compute_type="f32", cpu_threads=threads, engine="edge")

    def _arguments(self, row: Row) -> Optional[dict[str, Any]]:
        return row.activations.arguments(self._model.scope.names, self._ranges)

    def _identity(self, row: Row) -> str:
        calibrated = f" {_digest(self._ranges)}" if row.activations.is_static else ""
        return f"{self._model.sha256} {self._model.scope.name} {row.name}{calibrated}"

    def _system(self, result: RowResult, path: Path) -> System:
        row = result.row
        return System(
            *(row.name, self._model.name, "f32", "edge", path, result.model_bytes, self._model.is_multilingual),
            activations=self._arguments(row),
            identity=self._identity(row),
        )

    # ---- The encoder -------------------------------------------------------------------------------------------------

    def _measure(self, result: RowResult, path: _WrittenOnce, conditions: Sequence[Condition], n_before: int) -> None:
        identity = self._identity(result.row)
        for condition in conditions:
            name = f"encoder {condition.name} {_digest([*map(_named, condition.clips)])}"
            known = self._journal.utterance(identity, name)
            if known is None:
                known = dataclasses.asdict(self._encoder_noise(result.row, path, condition))
                self._journal.add_utterance(identity, name, known)
            result.encoder[condition.name] = EncoderNoise(known["recording"], known["window"])
        self._tell(result.row.name, 0.0)
        self._tell("everything", n_before / len(self._rows))

    def _encoder_noise(self, row: Row, path: _WrittenOnce, condition: Condition) -> EncoderNoise:
        reference = self._reference_of(condition)
        with self._opened(path) as model:
            arguments = self._arguments(row)
            if arguments is not None:
                round_activations(model, arguments)
            recording, window = [], []
            for clip, before in zip(condition.clips, reference):
                after = model.encode(clip.audio)
                n_tokens = _tokens_of(clip.audio)
                recording.append(_sqnr_db(before[:n_tokens], after[:n_tokens]))
                window.append(_sqnr_db(before, after))
        return EncoderNoise(recording, window)

    def _reference_of(self, condition: Condition) -> list[Floats]:
        """What the float model's encoder makes of the clips."""
        if condition.name not in self._reference:
            with self._written(self._rows[0]) as path, self._opened(path) as model:
                self._reference[condition.name] = [model.encode(clip.audio) for clip in condition.clips]
        return self._reference[condition.name]

    # ---- Words -------------------------------------------------------------------------------------------------------

    def _hear(self, result: RowResult, path: _WrittenOnce, conditions: Sequence[Condition], n_before: int) -> SystemRun:
        utterances = [each for condition in conditions for each in condition.utterances]
        name = result.row.name

        def tell(stage: str, fraction: float) -> None:
            if stage == "everything":
                self._tell(stage, (n_before + fraction) / len(self._rows))
            else:
                self._tell(name, fraction)

        system = self._system(result, path.place)
        if not is_all_heard(system, utterances, self._journal):
            system = self._system(result, path.path)
        [run] = run_systems([system], utterances, self._settings, self._journal, on_progress=tell)
        return run


class _WrittenOnce:
    """The file with a row's weights, which is written when its ``path`` is asked for and gone after the ``with`` block.

    Attributes:
        place: where it is or would be.
    """

    def __init__(self, model: StudyModel, row: Row, folder: Path, n_threads: int) -> None:
        self._model, self._row, self._n_threads = model, row, n_threads
        self.place = folder / f"{next(_numbers)}.bin"
        self._is_written = False

    @property
    def path(self) -> Path:
        if not self._is_written:
            write_rounded(
                *(self.place, self._model.source, self._model.scope.names, self._row.weights),
                n_threads=self._n_threads,
            )
            self._is_written = True
        return self.place

    def __enter__(self) -> _WrittenOnce:
        return self

    def __exit__(self, *_: object) -> None:
        self.place.unlink(missing_ok=True)


_numbers: Iterator[int] = itertools.count()


def _named(utterance: Utterance) -> str:
    return f"{utterance.id} {utterance.audio.stat().st_size}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()[:16]


def _tokens_of(clip: Path) -> int:
    """Audio tokens that a recording fills."""
    n_samples = min(to_pcm(clip).samples.size, WINDOW_SAMPLES)
    return max(1, -(-n_samples // (HOP_SAMPLES * FRAMES_PER_TOKEN)))


def _sqnr_db(before: Floats, after: Floats) -> Optional[float]:
    signal, result = before.astype(np.float64), after.astype(np.float64)
    errors = float(np.sum((signal - result) ** 2))
    return None if errors == 0 else round(10 * float(np.log10(max(float(np.sum(signal**2)), 1e-300) / errors)), 4)
