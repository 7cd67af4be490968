"""``convert_model``: from what the user named to a file that is whole, verified and proven."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional, Union

from .. import _core
from .._audio.pcm import to_pcm
from .._errors import ConversionError, ModelNotFoundError, OptionError
from .._system.files import atomic_write, sha256_of_files, temporary_beside
from .._system.json_files import write_json
from .._whisper.types import MIXED, TYPES, resolve_type
from .plan import Choice, Recipe, file_type, parse_patterns, plan_types, read_recipe, write_recipe
from .proof import activation_statistics, prove, verdict
from .readers.huggingface import write_huggingface
from .readers.open_source import open_source
from .readers.openai import write_openai
from .readers.source import Source
from .report import Report, file_entry, sidecar_path
from .sensitivity import choose_types, scan
from .writer import TensorCost, write_ggml

__all__ = ["FORMATS", "PROOFS", "convert_model", "parse_size"]

FORMATS = ("ggml", "openai", "safetensors")
PROOFS = ("full", "tensors")

PathLike = Union[str, "os.PathLike[str]"]
OnProgress = Callable[[str, float], None]
Step = Callable[[str], object]
FindSource = Callable[[str, Step], Path]

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: Union[str, int]) -> int:
    """Return the bytes of ``40MB``, ``40 MiB``, ``1.5GB`` or a plain number."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?B?)\s*", str(text), re.IGNORECASE)
    unit = match.group(2).upper() if match else "?"
    if match is None or unit not in _UNITS:
        raise OptionError("target_size", text, "a number with a unit, such as 40MB, 38MiB or 1.5GB")
    return int(float(match.group(1)) * _UNITS[unit])


def _refuse_name(name: str, step: Step) -> Path:
    raise ModelNotFoundError(f"there is no file or folder {name!r}: give one that exists")


def convert_model(
    source: PathLike,
    destination: Optional[PathLike] = None,
    *,
    type: Optional[str] = None,
    to: str = "ggml",
    recipe: Optional[PathLike] = None,
    tensor_types: Sequence[str] = (),
    target_size: Optional[Union[str, int]] = None,
    calibrate: Sequence[Any] = (),
    proof: str = "full",
    min_agreement: Optional[float] = None,
    overwrite: bool = False,
    n_threads: int = 0,
    find: FindSource = _refuse_name,
    on_progress: Optional[OnProgress] = None,
) -> Report:
    """Convert a Whisper model. An error, Ctrl-C or a killed process leaves no half-written file.

    Args:
        source: an OpenAI ``.pt``, a Hugging Face or CTranslate2 folder, a ggml ``.bin``, or a name that ``find`` knows.
        destination: the file (a folder for ``to="safetensors"``). None: ``ggml-<name>-<type>.bin`` in the current
            folder.
        type: the type of the matrices: ``f32 f16 q8_0 q5_1 q5_0 q4_1 q4_0 q6_k q5_k q4_k q3_k q2_k iq4_nl`` or
            ``int8 q8 int5 q5 int4 q4 float16 float32``. Default ``q5_0``, and ``f16`` for ``to`` other than ggml.
        to: ``ggml``, ``openai`` (a ``.pt``) or ``safetensors`` (a folder for transformers).
        recipe: a TOML file with a type and patterns (see ``plan.read_recipe``).
        tensor_types: ``REGEX=TYPE``, after the patterns of the recipe; the last that matches counts.
        target_size: choose types per tensor so that the file is no larger (``"40MB"`` or bytes).
        calibrate: audio (anything ``transcribe`` takes) whose activations weigh the errors of ``target_size``.
        proof: ``full`` (errors of all tensors, and the whole model run before and after) or ``tensors``.
        min_agreement: the least share of decoder tokens that must be the source's; below it there is no file.
        overwrite: replace a file that is there.
        n_threads: 0 takes every CPU that the process may use.
        find: returns the file or folder of a name that is no path here. It gets a function that reports a stage.
            ``_store.locate.find_source`` knows published names and the hub. By default names are refused.
        on_progress: called with a stage (``download scan convert verify proof``) and the fraction of it that is done.

    Raises:
        OptionError: an argument is not possible.
        ModelError: the source is no sound Whisper model (see each subclass), or the result is worse than
            ``min_agreement``.
        OSError: the disk is full, or the folder cannot be written.
    """
    job = _Job(
        to, proof, min_agreement, n_threads or _core.usable_cpus(), on_progress or (lambda stage, fraction: None)
    )
    wanted = _recipe(type, to, recipe, tensor_types)
    if target_size is not None and (tensor_types or recipe or type):
        raise OptionError(
            "target_size", target_size, "alone: it chooses the types that type, recipe and tensor_types give"
        )
    if calibrate and target_size is None:
        raise OptionError("calibrate", list(calibrate), "with target_size: calibration weighs the choice of types")
    budget = None if target_size is None else parse_size(target_size)
    model = job.open(source, find)
    path = Path(os.fspath(destination)) if destination is not None else default_name(source, to, wanted, target_size)
    _check_destination(path, model, to, overwrite)
    if to != "ggml":
        return job.export(model, path, wanted.type)
    with contextlib.ExitStack() as stack:
        reference = _Reference(model, path, job, stack)
        if budget is not None:
            wanted = job.choose(model, budget, calibrate, reference)
        report = job.write(model, path, wanted, reference)
    if budget is not None:
        report.notes.append(f"The types that were chosen are in {_write_recipe(path, wanted)}, for --recipe.")
    return report


@dataclass
class _Job:
    """The settings of one conversion, and its steps."""

    to: str
    proof: str
    min_agreement: Optional[float]
    n_threads: int
    on_progress: OnProgress

    def __post_init__(self) -> None:
        if self.to not in FORMATS:
            raise OptionError("to", self.to, f"one of {', '.join(FORMATS)}")
        if self.proof not in PROOFS:
            raise OptionError("proof", self.proof, f"one of {', '.join(PROOFS)}")
        if self.min_agreement is None:
            return
        if not 0 <= self.min_agreement <= 1:
            raise OptionError("min_agreement", self.min_agreement, "a share from 0 to 1")
        if self.proof != "full" or self.to != "ggml":
            raise OptionError(
                "min_agreement", self.min_agreement, "with to='ggml' and proof='full': only they measure it"
            )

    def step(self, stage: str) -> Callable[[float], None]:
        self.on_progress(stage, 0.0)
        return lambda fraction: self.on_progress(stage, fraction)

    def open(self, source: PathLike, find: FindSource) -> Source:
        path = Path(source).expanduser()
        return open_source(path if path.exists() else find(os.fspath(source), self.step))

    def choose(self, model: Source, budget: int, calibrate: Sequence[Any], reference: _Reference) -> Recipe:
        statistics = None
        if calibrate:
            pcms = [to_pcm(audio).samples for audio in calibrate]
            statistics = activation_statistics(reference.path(), pcms, self.n_threads)
        measured = scan(model, statistics, n_threads=self.n_threads, on_progress=self.step("scan"))
        return choose_types(model, budget, measured)

    def write(self, model: Source, path: Path, recipe: Recipe, reference: _Reference) -> Report:
        plan = plan_types(model, recipe)
        type_name = file_type(plan, model)
        with _source_sha256(model.files) as source_sha256:
            with atomic_write(path, "wb") as stream:
                began = time.perf_counter()
                costs, sha256 = write_ggml(
                    stream, path, model, plan, n_threads=self.n_threads, on_progress=self.step("convert")
                )
                seconds = {"convert": time.perf_counter() - began}
                began = time.perf_counter()
                self.step("verify")
                _core.read_model_file(stream.name)
                seconds["verify"] = time.perf_counter() - began
                report = Report(
                    source=_source_entry(model, source_sha256()),
                    destination=file_entry(path, os.path.getsize(stream.name), sha256, type_name, "ggml"),
                    recipe={"type": recipe.type, "patterns": [list(pattern) for pattern in recipe.patterns]},
                    tensors=costs,
                    seconds=seconds,
                    n_threads=self.n_threads,
                    notes=[*model.notes, *_plan_notes(recipe, plan, type_name)],
                )
                began = time.perf_counter()
                self._prove(report, Path(stream.name), reference, type_name)
                seconds["proof"] = time.perf_counter() - began
            _write_sidecar(report)
        return report

    def _prove(self, report: Report, written: Path, reference: _Reference, type_name: str) -> None:
        """Runs both models, unless there is nothing to compare, and refuses a result that is too far off."""
        if self.proof != "full":
            report.notes.append("The whole model was not run (proof: tensors).")
            return
        reason = _nothing_to_prove(report.tensors, type_name)
        if reason is not None:
            report.notes.append(reason)
            if self.min_agreement is not None and type_name == "f32":
                raise OptionError("min_agreement", self.min_agreement, f"a type that the engine runs; {reason}")
            return
        proof = prove(reference.path(), written, n_threads=self.n_threads, on_progress=self.step("proof"))
        report.proof, report.verdict = proof.to_dict(), verdict(proof)
        if reference.is_temporary:
            report.notes.append("The model was compared with the source held as f16, which is what the engine runs.")
        agreement = proof.top1_agreement
        if self.min_agreement is not None and agreement < self.min_agreement:
            raise ConversionError(
                f"{report.path}: the decoder chose the source's token in {agreement:.4f} of {proof.n_positions}"
                f" positions; min_agreement asks for {self.min_agreement}. No file was written: take a larger type, or"
                " target_size with calibrate."
            )

    def export(self, model: Source, path: Path, type_name: str) -> Report:
        if type_name not in ("f16", "f32"):
            raise OptionError("type", type_name, f"f16 or f32 for to={self.to!r}")
        with _source_sha256(model.files) as source_sha256:
            began = time.perf_counter()
            if self.to == "openai":
                write_openai(model, path, type_name, self.step("convert"))
                files = [path]
            else:
                write_huggingface(model, path, type_name, self.step("convert"))
                files = sorted(file for file in path.iterdir() if file.is_file())
            seconds = {"convert": time.perf_counter() - began}
            n_bytes = sum(file.stat().st_size for file in files)
            report = Report(
                source=_source_entry(model, source_sha256()),
                destination=file_entry(path, n_bytes, sha256_of_files(files), type_name, self.to),
                recipe={"type": type_name, "patterns": []},
                tensors=[],
                seconds=seconds,
                n_threads=1,
                notes=list(model.notes),
            )
        return report


class _Reference:
    """The file that the result is compared with, made when it is first asked for: the source where the engine runs it,
    else the source as f16 in a file that is gone when the conversion ends."""

    def __init__(self, model: Source, destination: Path, job: _Job, stack: contextlib.ExitStack) -> None:
        self._model = model
        self._destination = destination
        self._job = job
        self._stack = stack
        self._path: Optional[Path] = None
        self.is_temporary = not (model.format == "ggml" and model.ftype != "f32")

    def path(self) -> Path:
        if self._path is None:
            self._path = self._write() if self.is_temporary else self._model.path
        return self._path

    def _write(self) -> Path:
        path = self._stack.enter_context(temporary_beside(self._destination))
        with open(path, "r+b") as stream:
            plan = plan_types(self._model, Recipe("f16"))
            write_ggml(stream, path, self._model, plan, n_threads=self._job.n_threads)
        return Path(path)


def _recipe(type_name: Optional[str], to: str, path: Optional[PathLike], tensor_types: Sequence[str]) -> Recipe:
    base = read_recipe(os.fspath(path)) if path is not None else Recipe("q5_0" if to == "ggml" else "f16")
    patterns = (*base.patterns, *parse_patterns(tensor_types))
    if patterns and to != "ggml":
        raise OptionError("tensor_type", str(tensor_types), "with to='ggml': other formats hold one type")
    return Recipe(resolve_type(type_name) if type_name else base.type, patterns)


def default_name(source: PathLike, to: str, recipe: Recipe, target_size: Any) -> Path:
    """``ggml-base.en-q5_0.bin`` for ``openai/whisper-base.en``, ``base.en.pt``, ``ggml-base.en.bin``, ``base.en``."""
    stem = Path(source).name
    for suffix in (".bin", ".pt", ".pth", ".safetensors"):
        stem = stem[: -len(suffix)] if stem.lower().endswith(suffix) else stem
    stem = re.sub(r"^(ggml-|faster-whisper-|whisper-)", "", stem)
    types = "|".join(re.escape(name) for name in [*TYPES, MIXED])
    stem = re.sub(rf"-({types})$", "", stem, flags=re.IGNORECASE)
    if to == "openai":
        return Path(f"{stem}.pt")
    if to == "safetensors":
        return Path(f"whisper-{stem}")
    kind = MIXED if target_size is not None or recipe.patterns else recipe.type
    return Path(f"ggml-{stem}-{kind}.bin" if kind != "f16" else f"ggml-{stem}.bin")


def _check_destination(path: Path, model: Source, to: str, overwrite: bool) -> None:
    if any(path.exists() and file.exists() and path.samefile(file) for file in [model.path, *model.files]):
        raise OptionError("destination", str(path), "another file than the source, which is only read")
    if path.is_dir() and to != "safetensors":
        raise OptionError("destination", str(path), "a file name; this is a folder")
    if path.exists() and not overwrite and to != "safetensors":
        raise OptionError("destination", str(path), "a new name, or overwrite: this file exists")
    if not path.parent.is_dir():
        raise OptionError("destination", str(path), f"a file in a folder that exists; {path.parent} does not")


def _nothing_to_prove(costs: Sequence[TensorCost], type_name: str) -> Optional[str]:
    if type_name == "f32":
        return "The whole model was not run: whisper.cpp does not run f32 files."
    if all(cost.sum_squared_error == 0 for cost in costs):
        return "Every weight is the source's to the bit, so there was nothing to run."
    return None


def _plan_notes(recipe: Recipe, plan: dict[str, Choice], type_name: str) -> list[str]:
    notes = []
    if type_name == MIXED:
        notes.append("The matrices differ in type: whisperq-edge runs this file, whisper.cpp's own programs do not.")
    elif not recipe.patterns and type_name != recipe.type:
        notes.append(next(choice.reason for choice in plan.values() if choice.type == type_name))
    return notes


def _source_entry(model: Source, sha256: str) -> dict[str, Any]:
    n_bytes = sum(file.stat().st_size for file in model.files)
    return file_entry(model.path, n_bytes, sha256, model.ftype, model.format)


def _write_recipe(path: Path, recipe: Recipe) -> Path:
    recipe_path = path.with_name(path.name + ".toml")
    with atomic_write(recipe_path) as stream:
        stream.write(write_recipe(recipe))
    return recipe_path


def _write_sidecar(report: Report) -> None:
    write_json(sidecar_path(report.path), report.to_dict())


# ---- Identity of the source ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _source_sha256(files: Sequence[Path]) -> Iterator[Callable[[], str]]:
    """Hashes the source on a thread of its own while it is being converted."""
    with ThreadPoolExecutor(1, "whisperq-hash") as pool:
        future: Future[str] = pool.submit(sha256_of_files, files)
        yield future.result
