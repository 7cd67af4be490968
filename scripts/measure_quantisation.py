"""Measures what each weight type does to the output of OpenAI's real Whisper base encoder on real speech.

    python scripts/measure_quantisation.py --data ../shared/data

makes a ggml file of that encoder and a decoder of random weights, converts it with `whisperq-edge convert` in every way
that docs/quantisation.md speaks of, and compares the encoder's outputs. It writes docs/quantisation.json (the figures),
docs/quantisation.png (the picture) and the tables in docs/quantisation.md. `--render` makes picture and tables again
from the figures that are there. Needs matplotlib, 1 GB of memory and 0.5 GB of disk; five clips took 24 minutes
on a core that others used, too. With openai-whisper installed it also compares with that.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import numpy as np
import numpy.typing as npt
from whisperq_edge import WhisperModel, _core
from whisperq_edge._audio.pcm import to_pcm
from whisperq_edge._convert.convert import convert_model
from whisperq_edge._convert.plan import Recipe, plan_types, write_recipe
from whisperq_edge._convert.proof import activation_statistics
from whisperq_edge._convert.readers.open_source import open_source
from whisperq_edge._convert.readers.source import Source, SourceTensor, check_tensors, rows_of
from whisperq_edge._convert.report import GROUPS, Report, versions
from whisperq_edge._convert.sensitivity import Sensitivity, choose_types, scan
from whisperq_edge._convert.writer import ggml_bytes, stored_bytes, write_ggml
from whisperq_edge._store.catalog import MODELS
from whisperq_edge._system.markdown import markdown_table
from whisperq_edge._system.native import build_info
from whisperq_edge._whisper.mel_filters import mel_filters
from whisperq_edge._whisper.shapes import expected_shapes
from whisperq_edge._whisper.types import TYPES
from whisperq_edge._whisper.units import SAMPLE_RATE, TOKENS_PER_S
from whisperq_edge._whisper.vocabulary import known_vocabulary

Floats = npt.NDArray[np.float32]

REPOSITORY = Path(__file__).resolve().parents[1]
DIMS = MODELS["base"].dims
WINDOW_SAMPLES = 30 * SAMPLE_RATE

BLOCK_TYPES = ("q8_0", "q6_k", "q5_1", "q5_0", "q5_k", "q4_1", "q4_0", "q4_k", "iq4_nl", "q3_k", "q2_k")
ALIASED = ("q8_0", "q5_0", "q4_0")  # what int8, int5 and int4 mean
SINGLE = ("q8_0", "q4_0")  # types that one layer, or one kind of matrix, is quantised to
BUDGETS = ("q3_k", "q4_0", "q5_0", "q8_0")
NOISE_DB = (20, 10, 0)
BY_HAND = {  # more bits, as many in both, where the parts say that they matter; all else q4_k
    "layer 0 in `q8_0`": r"^encoder\.blocks\.0\.=q8_0",
    "`value` and `out` in `q8_0`": r"^encoder\..*attn\.(value|out)=q8_0",
}
MODULES = {
    "query": r"attn\.query",
    "key": r"attn\.key",
    "value": r"attn\.value",
    "out": r"attn\.out",
    "mlp.0": r"mlp\.0",
    "mlp.2": r"mlp\.2",
}
N_RESAMPLES = 10_000

SCALES = {
    "f32": "none",
    "f16": "none",
    "q8_0": "one f16",
    "q6_k": "8-bit per 16, f16 per 256",
    "q5_1": "f16 scale, f16 minimum",
    "q5_0": "one f16",
    "q5_k": "6-bit scale and minimum per 32, two f16 per 256",
    "q4_1": "f16 scale, f16 minimum",
    "q4_0": "one f16",
    "q4_k": "6-bit scale and minimum per 32, two f16 per 256",
    "iq4_nl": "one f16; 16 uneven levels",
    "q3_k": "6-bit per 16, f16 per 256",
    "q2_k": "4-bit scale and minimum per 16, two f16 per 256",
}


# ---- The model -------------------------------------------------------------------------------------------------------


def huggingface_name(name: str) -> str:
    """The name in the npz of one of openai/whisper's encoder tensors."""
    name = name.removeprefix("encoder.")
    for pattern, replacement in (
        (r"^blocks\.", "layers."),
        (r"^positional_embedding$", "embed_positions.weight"),
        (r"^ln_post\.", "layer_norm."),
        (r"attn\.(query|key|value)\.", lambda match: f"self_attn.{match.group(1)[0]}_proj."),
        (r"attn\.out\.", "self_attn.out_proj."),
        (r"attn_ln\.", "self_attn_layer_norm."),
        (r"mlp\.0\.", "fc1."),
        (r"mlp\.2\.", "fc2."),
        (r"mlp_ln\.", "final_layer_norm."),
    ):
        name = re.sub(pattern, replacement, name)
    return name.replace(".", "_") + "_fp16"


def random_values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Of the decoder: values that keep activations of size one from layer to layer."""
    if name.endswith("bias"):
        return np.zeros(shape, np.float32)
    if name.endswith("ln.weight"):
        return np.ones(shape, np.float32)
    return rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))


def write_model(path: Path, npz: Path, seed: int = 0) -> Path:
    """An f16 ggml file of base's shapes: the real encoder, and a decoder that knows nothing."""
    rng = np.random.default_rng(seed)
    tensors = []
    with np.load(npz) as arrays:
        left = set(arrays.files)
        for name, shape in expected_shapes(DIMS).items():
            if name.startswith("encoder."):
                left.remove(huggingface_name(name))
                values = arrays[huggingface_name(name)].astype(np.float32)
            else:
                values = random_values(name, shape, rng)
            tensors.append(SourceTensor(name, values.shape, "f32", rows_of(values), where=(str(npz), 0)))
    if left:
        raise SystemExit(f"{npz}: arrays that no encoder of base has: {', '.join(sorted(left))}")
    source = check_tensors(
        Source(npz, "npz", [npz], DIMS, tensors, known_vocabulary(DIMS.n_vocab), mel_filters(DIMS.n_mels))
    )
    with open(path, "w+b") as stream:
        write_ggml(stream, path, source, plan_types(source, Recipe("f16")))
    return path


# ---- The speech ------------------------------------------------------------------------------------------------------


class Clip(NamedTuple):
    """Files below the data folder; several are joined with pauses of 0.2 s."""

    corpus: str
    speaker: str
    files: tuple[str, ...]

    def pcm(self, data: Path) -> Floats:
        """At most 30 s."""
        pause = np.zeros(SAMPLE_RATE // 5, np.float32)
        pieces = [piece for file in self.files for piece in (pause, to_pcm(data / self.corpus / file).samples)]
        return np.concatenate(pieces[1:])[:WINDOW_SAMPLES]


def choose_clips(data: Path) -> tuple[list[Clip], list[Clip]]:
    """20 clips to measure on and 5 to calibrate with, each by another speaker. The same ones every time."""
    rng = np.random.default_rng(2511)
    libri = _clips(data, "librispeech-train-clean-100", "train-clean-100", 14, 1, rng)
    census_test, census_train = _clips(data, "an4", "test", 4, 1, rng), _clips(data, "an4", "train", 2, 1, rng)
    read = _clips(data, "speechocean762", "train", 6, 1, rng)
    digits = _clips(data, "fsdd", "train", 2, 10, rng)
    words = _clips(data, "speech-commands-9words", "test", 2, 5, rng)
    return [*libri[:8], *census_test, *read[:4], *digits, *words], [*libri[8:11], census_train[0], read[4]]


def _clips(data: Path, corpus: str, split: str, n: int, n_files: int, rng: np.random.Generator) -> list[Clip]:
    files_of: dict[str, list[str]] = {}
    with (data / corpus / "manifest.tsv").open(encoding="utf-8", newline="") as manifest:
        for row in csv.DictReader(manifest, delimiter="\t"):
            if row["split"] == split:
                files_of.setdefault(row["speaker"], []).append(row["file"])
    speakers = sorted(speaker for speaker, files in files_of.items() if len(files) >= n_files)
    chosen = [speakers[i] for i in rng.permutation(len(speakers))[:n]]
    return [
        Clip(corpus, speaker, tuple(rng.choice(sorted(files_of[speaker]), n_files, replace=False).tolist()))
        for speaker in chosen
    ]


def choose_noises(data: Path, n: int) -> list[str]:
    """Files of the noise corpus: its classes in turns."""
    by_class: dict[str, list[str]] = {}
    for path in sorted((data / "noise").glob("*.opus")):
        by_class.setdefault(path.name.split("_")[0], []).append(path.name)
    classes = [by_class[name] for name in sorted(by_class)]
    return [classes[i % len(classes)][i // len(classes)] for i in range(n)]


def add_noise(speech: Floats, noise: Floats, snr_db: float) -> Floats:
    """The noise goes on as long as the recording, again from its start where it is shorter."""
    noise = np.resize(noise, speech.shape)
    power = [float(np.mean(np.square(signal, dtype=np.float64))) for signal in (speech, noise)]
    mixed = speech + noise * np.float32(np.sqrt(power[0] / power[1] / 10 ** (snr_db / 10)))
    return (mixed * np.float32(min(1.0, 0.99 / np.abs(mixed).max()))).astype(np.float32)


# ---- Outputs and distances -------------------------------------------------------------------------------------------


def encoder_outputs(
    model: Path, pcms: Iterable[Floats], n_threads: int, flash_attention: bool = False, audio_ctx: int = 0
) -> list[Floats]:
    """Of each clip, padded to 30 s as usual: ``[1500, 512]``, or the first ``audio_ctx`` tokens' window.

    Without whisper.cpp's fused attention, which leaves the padding of the keys unmasked and so is not openai/whisper's.
    """
    start_of_transcript = [[50258]]  # the probe wants something for the decoder
    with WhisperModel(
        model, device="cpu", cpu_threads=n_threads, engine="ggml", flash_attention=flash_attention
    ) as loaded:
        engine: Any = loaded._running_engine()._engine
        options = {"n_threads": n_threads, "audio_ctx": audio_ctx}
        return [engine.probe(pcm, start_of_transcript, **options)["audio_features"] for pcm in pcms]


def distance(reference: Floats, output: Floats, n_tokens: int) -> dict[str, float]:
    """SQNR and cosine over the whole window, and SQNR over the part that the recording fills."""
    before, after = reference.astype(np.float64), output.astype(np.float64)
    cosine = float((before * after).sum() / np.sqrt((before**2).sum() * (after**2).sum()))
    part = slice(0, n_tokens)
    return {
        "sqnr_db": _sqnr_db(before, after),
        "cosine": cosine,
        "recording_sqnr_db": _sqnr_db(before[part], after[part]),
    }


def _sqnr_db(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> float:
    return float(10 * np.log10((before**2).sum() / ((before - after) ** 2).sum()))


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean over clips with its 95 % bootstrap interval."""
    array = np.asarray(values, np.float64)
    picks = np.random.default_rng(95).integers(0, len(array), (N_RESAMPLES, len(array)))
    low, high = np.percentile(array[picks].mean(axis=1), [2.5, 97.5])
    return {"mean": _rounded(array.mean()), "low": _rounded(low), "high": _rounded(high)}


def _rounded(value: float) -> float:
    """Enough digits for dB and for cosines near 1."""
    return round(float(value), 7)


def summary(distances: Sequence[dict[str, float]]) -> dict[str, Any]:
    found: dict[str, Any] = {key: interval([each[key] for each in distances]) for key in distances[0]}
    return {**found, "clips_sqnr_db": [round(each["sqnr_db"], 3) for each in distances]}


def gain(after: Sequence[dict[str, float]], before: Sequence[dict[str, float]], key: str = "sqnr_db") -> dict[str, Any]:
    """Differences in dB of the same clips."""
    return interval([a[key] - b[key] for a, b in zip(after, before)])


def few(clips: list[Any]) -> list[Any]:
    """Every second clip, for what needs many files."""
    return clips[::2]


class Bench:
    """The reference file, the clips, and what the reference makes of them."""

    def __init__(self, folder: Path, data: Path, clips: Sequence[Clip], n_threads: int) -> None:
        self.folder = folder
        self.n_threads = n_threads
        self.n_runs = 0
        self.model = write_model(folder / "ggml-base.bin", data / "whisper-base-encoder" / "encoder_f16.npz")
        self.pcms = [clip.pcm(data) for clip in clips]
        self.n_tokens = [-(-len(pcm) * TOKENS_PER_S // SAMPLE_RATE) for pcm in self.pcms]
        self.reference = self.outputs(self.model)

    def outputs(self, model: Path, pcms: Optional[list[Floats]] = None, flash_attention: bool = False) -> list[Floats]:
        pcms = self.pcms if pcms is None else pcms
        self.n_runs += len(pcms)
        return encoder_outputs(model, pcms, self.n_threads, flash_attention)

    def references(self) -> Iterator[tuple[Floats, Floats, int]]:
        """Each clip, what the reference makes of it, and how much of that the recording fills."""
        return zip(self.pcms, self.reference, self.n_tokens)

    def distances(self, outputs: Sequence[Floats], reference: Optional[list[Floats]] = None) -> list[dict[str, float]]:
        return [distance(*each) for each in zip(reference or self.reference, outputs, self.n_tokens)]

    def convert(self, source: Optional[Path] = None, **options: Any) -> tuple[Path, Report]:
        """The command's own way. One file at a time: each takes the place of the one before."""
        path = self.folder / ("converted.bin" if source is None else "converted-again.bin")
        report = convert_model(
            source or self.model, path, proof="tensors", overwrite=True, n_threads=self.n_threads, **options
        )
        return path, report

    def measured(self, path: Path) -> list[dict[str, float]]:
        """What a converted file does to the few clips."""
        outputs = self.outputs(path, few(self.pcms))
        return [distance(*each) for each in zip(few(self.reference), outputs, few(self.n_tokens))]


# ---- What is measured ------------------------------------------------------------------------------------------------


def measure_types(bench: Bench, noisy: dict[int, list[Floats]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Every type for all matrices; and the noisy clips for those that the aliases mean."""
    references = {snr_db: bench.outputs(bench.model, pcms) for snr_db, pcms in noisy.items()}
    rows: list[dict[str, Any]] = [_size_of("f16", bench.model)]
    in_noise = {}
    fused = bench.outputs(bench.model, flash_attention=True)
    for type_name in BLOCK_TYPES:
        say(f"all matrices in {type_name}")
        path, report = bench.convert(type=type_name)
        clean = bench.distances(bench.outputs(path))
        if type_name in ALIASED:
            in_noise[type_name] = _measure_noise(bench, path, noisy, references, clean)
        rows.append(
            {
                **_size_of(type_name, path),
                "weight_sqnr_db": weights_by_module(report),
                **summary(clean),
                **(_apart(bench, path, fused) if type_name in ALIASED else {}),
            }
        )
    return rows, in_noise


def _size_of(type_name: str, path: Path) -> dict[str, Any]:
    n_bytes = path.stat().st_size
    return {
        "type": type_name,
        "bits_per_weight": TYPES[type_name].bits_per_value,
        "bytes": n_bytes,
        "file_bits_per_weight": round(8 * n_bytes / MODELS["base"].n_parameters, 3),
    }


def _apart(bench: Bench, path: Path, fused: list[Floats]) -> dict[str, Any]:
    """The quantised weights written out as f16, so that activations stay f16 too; and both models with fused attention,
    as ``convert`` compares them."""
    again, _ = bench.convert(path, type="f16")
    weights_only = bench.distances(bench.outputs(again))
    with_fused = bench.distances(bench.outputs(path, flash_attention=True), fused)
    return {
        "weights_only_sqnr_db": interval([each["sqnr_db"] for each in weights_only]),
        "fused_sqnr_db": interval([each["sqnr_db"] for each in with_fused]),
    }


def measure_yardsticks(bench: Bench, npz: Path) -> dict[str, Any]:
    """How far the f16 file is from the same weights in float32 arithmetic, and from itself with fused attention."""
    say("f16 with fused attention")
    found = {"fused": summary(bench.distances(bench.outputs(bench.model, flash_attention=True)))}
    try:
        import torch
        import whisper
    except ImportError:
        say("openai-whisper is not installed: its float32 is left out")
        return found
    say(f"openai-whisper {whisper.__version__} in float32")
    torch.set_num_threads(bench.n_threads)
    encoder = float32_encoder(npz)
    found["float32"] = summary([distance(encoder(pcm), *rest) for pcm, *rest in bench.references()])
    return found


def float32_encoder(npz: Path) -> Callable[[Floats], Floats]:
    """openai/whisper's own encoder with these weights: from a clip to its output."""
    import torch
    import whisper

    encoder = whisper.model.AudioEncoder(*DIMS[:5])
    with np.load(npz) as arrays:
        names = {name: huggingface_name(f"encoder.{name}") for name in encoder.state_dict()}
        encoder.load_state_dict({name: torch.from_numpy(arrays[names[name]]).float() for name in names})

    def output(pcm: Floats) -> Floats:
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(torch.from_numpy(pcm)), DIMS.n_mels)
        with torch.no_grad():
            features: Floats = encoder(mel[None])[0].numpy()
        return features

    return output


def _measure_noise(
    bench: Bench,
    path: Path,
    noisy: dict[int, list[Floats]],
    references: dict[int, list[Floats]],
    clean: list[dict[str, float]],
) -> dict[str, Any]:
    key = "recording_sqnr_db"
    found = {"clean": {"sqnr_db": interval([each[key] for each in clean])}}
    for snr_db, pcms in noisy.items():
        distances = bench.distances(bench.outputs(path, pcms), references[snr_db])
        found[str(snr_db)] = {
            "sqnr_db": interval([each[key] for each in distances]),
            "change_db": gain(distances, clean, key),
            "window_change_db": gain(distances, clean),
        }
    return found


def weights_by_module(report: Report) -> dict[str, list[float]]:
    """SQNR in dB of the encoder's matrices: of each kind, layer by layer."""
    by_name = {cost.name: cost.sqnr_db for cost in report.tensors}
    suffixes = {module: pattern.replace("\\", "") for module, pattern in MODULES.items()}
    return {
        module: [round(by_name[f"encoder.blocks.{layer}.{suffix}.weight"], 3) for layer in range(DIMS.n_audio_layer)]
        for module, suffix in suffixes.items()
    }


def measure_parts(bench: Bench) -> tuple[dict[str, Any], dict[str, Any]]:
    """One layer quantised and all else f16; then one kind of matrix in all layers."""
    layers: dict[str, Any] = {}
    modules: dict[str, Any] = {}
    for type_name in SINGLE:
        for layer in range(DIMS.n_audio_layer):
            say(f"layer {layer} in {type_name}")
            found = bench.measured(_only(bench, rf"^encoder\.blocks\.{layer}\.", type_name))
            layers.setdefault(type_name, []).append(summary(found)["sqnr_db"])
        for module, pattern in MODULES.items():
            say(f"{module} in {type_name}")
            found = bench.measured(_only(bench, rf"^encoder\..*{pattern}", type_name))
            modules.setdefault(type_name, {})[module] = summary(found)["sqnr_db"]
    return layers, modules


def _only(bench: Bench, pattern: str, type_name: str) -> Path:
    return bench.convert(type="f16", tensor_types=[f"{pattern}={type_name}"])[0]


def measure_budgets(bench: Bench, calibration: list[Floats], types: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Types per matrix that together take no more bytes than all of the encoder's in one type."""
    source = open_source(bench.model)
    encoder = dataclasses.replace(source, tensors=[t for t in source.tensors if t.name.startswith("encoder.")])
    say("scan without calibration")
    plain = scan(encoder, n_threads=bench.n_threads)
    say(f"scan with calibration on {len(calibration)} clips")
    statistics = activation_statistics(bench.model, calibration, bench.n_threads)
    calibrated = scan(encoder, statistics, n_threads=bench.n_threads)
    rows = []
    for budget in BUDGETS:
        bits = TYPES[budget].bits_per_value
        row: dict[str, Any] = {"budget": budget, "bits_per_weight": bits, "best_uniform": _best_uniform(types, bits)}
        uniform = few(next(each["clips_sqnr_db"] for each in types if each["type"] == row["best_uniform"]))
        seen = {}
        for name, measured in (("plain", plain), ("calibrated", calibrated)):
            say(f"{bits:g} bits, {name}")
            recipe = encoder_recipe(source, budget, measured)
            seen[name] = [each["sqnr_db"] for each in bench.measured(bench.convert(recipe=_saved(bench, recipe))[0])]
            row[name] = {
                "types": _counts(source, recipe),
                "sqnr_db": interval(seen[name]),
                "gain_db": interval([a - b for a, b in zip(seen[name], uniform)]),
            }
        row["calibration_gain_db"] = interval([a - b for a, b in zip(seen["calibrated"], seen["plain"])])
        rows.append(row)
    return rows


def measure_by_hand(bench: Bench) -> dict[str, Any]:
    found = {}
    for name, tensor_type in BY_HAND.items():
        say(f"q4_k, but {name}")
        path, report = bench.convert(type="q4_k", tensor_types=[tensor_type])
        costs = [cost for cost in report.tensors if cost.name.startswith("encoder.") and TYPES[cost.type].is_quantized]
        bits = 8 * sum(cost.n_bytes for cost in costs) / sum(int(np.prod(cost.shape)) for cost in costs)
        found[name] = {"bits_per_weight": round(bits, 4), "sqnr_db": summary(bench.measured(path))["sqnr_db"]}
    return found


def _best_uniform(types: list[dict[str, Any]], bits: float) -> str:
    """The type that does best among those that take no more."""
    fitting = [row for row in types if row["type"] in BLOCK_TYPES and row["bits_per_weight"] <= bits]
    return str(max(fitting, key=lambda row: row["sqnr_db"]["mean"])["type"])


def encoder_recipe(source: Source, budget: str, measured: Sequence[Sensitivity]) -> Recipe:
    """What ``--target-size`` chooses for the encoder when it may spend there what ``budget`` would. The decoder, random
    as it is, stays f16."""
    matrices = [tensor for tensor in source.tensors if tensor.is_matrix]
    without = ggml_bytes(source, plan_types(source, Recipe("f16"))) - sum(
        stored_bytes(tensor.n_values, "f16") for tensor in matrices
    )
    spent = sum(stored_bytes(tensor.n_values, budget) for tensor in matrices if tensor.name.startswith("encoder."))
    chosen = choose_types(source, without + spent, measured)
    return Recipe(chosen.type, (*chosen.patterns, (r"^decoder\.", "f16")))


def _saved(bench: Bench, recipe: Recipe) -> Path:
    path = bench.folder / "recipe.toml"
    path.write_text(write_recipe(recipe), encoding="utf-8")
    return path


def _counts(source: Source, recipe: Recipe) -> dict[str, int]:
    """How many of the encoder's matrices have each type, the largest type first."""
    plan = plan_types(source, recipe)
    chosen = [plan[t.name].type for t in source.tensors if t.is_matrix and t.name.startswith("encoder.")]
    return {name: chosen.count(name) for name in sorted(set(chosen), key=lambda name: -TYPES[name].bits_per_value)}


def measure(data: Path, n_clips: int, n_threads: int) -> dict[str, Any]:
    clips, calibration = choose_clips(data)
    clips = clips[:: max(1, len(clips) // n_clips)][:n_clips]
    noises = choose_noises(data, len(clips))
    with tempfile.TemporaryDirectory(prefix="whisperq-quantisation-") as folder:
        say(f"f16 on {len(clips)} clips")
        bench = Bench(Path(folder), data, clips, n_threads)
        noise_pcms = [to_pcm(data / "noise" / name).samples for name in noises]
        noisy = {
            snr_db: [add_noise(speech, noise, snr_db) for speech, noise in zip(bench.pcms, noise_pcms)]
            for snr_db in NOISE_DB
        }
        yardsticks = measure_yardsticks(bench, data / "whisper-base-encoder" / "encoder_f16.npz")
        types, in_noise = measure_types(bench, noisy)
        layers, modules = measure_parts(bench)
        by_hand = measure_by_hand(bench)
        budgets = measure_budgets(bench, [clip.pcm(data) for clip in calibration], types)
    return {
        "command": "python scripts/measure_quantisation.py --data ../shared/data",
        "n_clips": len(clips),
        "n_encoder_runs": bench.n_runs,
        "n_resamples": N_RESAMPLES,
        "machine": {
            "cpu": _core.cpu_name() or _core.cpu_family(),
            "n_threads": n_threads,
            "system": f"{platform.system()} {platform.machine()}",
            "isa": build_info().ggml_requires,
            "compiler": build_info().compiler,
        },
        "versions": {**versions(), "python": platform.python_version(), "numpy": np.__version__},
        "clips": [
            {**clip._asdict(), "seconds": round(len(pcm) / SAMPLE_RATE, 2), "noise": noise}
            for clip, pcm, noise in zip(clips, bench.pcms, noises)
        ],
        "calibration": [clip._asdict() for clip in calibration],
        "yardsticks": yardsticks,
        "types": types,
        "noise": in_noise,
        "one_layer": layers,
        "one_module": modules,
        "by_hand": by_hand,
        "budgets": budgets,
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- Tables ----------------------------------------------------------------------------------------------------------


def tables(data: dict[str, Any]) -> dict[str, str]:
    """The Markdown of every table in docs/quantisation.md, by name."""
    return {
        "schemes": schemes_table(),
        "types": types_table(data),
        "yardsticks": yardsticks_table(data),
        "parts": parts_table(data),
        "by_hand": by_hand_table(data),
        "budgets": budgets_table(data),
        "noise": noise_table(data),
        "conditions": conditions(data),
    }


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return markdown_table(header, rows)


def _db(value: dict[str, float]) -> str:
    return f"{value['mean']:.1f} ({value['low']:.1f} to {value['high']:.1f})"


def _change(value: dict[str, float]) -> str:
    return f"{value['mean']:+.2f} ({value['low']:+.2f} to {value['high']:+.2f})"


def schemes_table() -> str:
    rows = []
    for name in ("f16", *BLOCK_TYPES):
        mb, mib = ((MODELS["base"].file_bytes(name) / unit) for unit in (1e6, 2**20))
        english = MODELS["base.en"].file_bytes(name) / 2**20
        group = symmetric = "-"
        if name in GROUPS:
            n_values, has_zero = GROUPS[name]
            group, symmetric = str(n_values), "yes" if has_zero else "no"
        bits = f"{TYPES[name].bits_per_value:g}"
        rows.append((f"`{name}`", bits, group, symmetric, SCALES[name], f"{mb:.2f}", f"{mib:.2f}", f"{english:.2f}"))
    header = ("type", "bits per weight", "group", "symmetric", "scales", "base, MB", "base, MiB", "base.en, MiB")
    return _table(header, rows)


def types_table(data: dict[str, Any]) -> str:
    rows = []
    for row in data["types"]:
        name, bits = f"`{row['type']}`", f"{row['bits_per_weight']:g}"
        if row["type"] == "f16":
            rows.append((name, bits, "exact", "the reference", "1", "", ""))
            continue
        weights = [db for layers in row["weight_sqnr_db"].values() for db in layers]
        apart = (_db(row[key]) if key in row else "" for key in ("weights_only_sqnr_db", "fused_sqnr_db"))
        weight, cosine = f"{np.mean(weights):.1f} ({min(weights):.1f})", f"{row['cosine']['mean']:.6f}"
        rows.append((name, bits, weight, _db(row["sqnr_db"]), cosine, *apart))
    header = (
        "type",
        "bits per weight",
        "weights, dB: mean (worst)",
        "encoder output, dB",
        "cosine",
        "f16 activations, dB",
        "fused attention, dB",
    )
    return _table(header, rows)


def yardsticks_table(data: dict[str, Any]) -> str:
    names = {"float32": "float32 arithmetic (openai/whisper)", "fused": "whisper.cpp's fused attention"}
    rows = [
        (what, *(_db(data["yardsticks"][name][key]) for key in ("sqnr_db", "recording_sqnr_db")))
        for name, what in names.items()
        if name in data["yardsticks"]
    ]
    return _table(("the same f16 weights with", "whole window, dB", "recording only, dB"), rows)


def parts_table(data: dict[str, Any]) -> str:
    parts = [
        *((f"layer {i}", [data["one_layer"][name][i] for name in SINGLE]) for i in range(DIMS.n_audio_layer)),
        *((f"all `{module}`", [data["one_module"][name][module] for name in SINGLE]) for module in MODULES),
        ("all", [everything_in(data, name) for name in SINGLE]),
    ]
    rows = [(part, *(_db(value) for value in values)) for part, values in parts]
    return _table(("quantised", *(f"`{name}`, dB" for name in SINGLE)), rows)


def by_hand_table(data: dict[str, Any]) -> str:
    rows = [
        (f"all in `{name}`", f"{TYPES[name].bits_per_value:g}", _db(everything_in(data, name)))
        for name in ("q4_k", "q5_0", "q5_k")
    ]
    for name, found in data["by_hand"].items():
        rows.insert(-2, (f"`q4_k`, {name}", f"{found['bits_per_weight']:.2f}", _db(found["sqnr_db"])))
    return _table(("encoder's matrices", "bits per weight", "encoder output, dB"), rows)


def everything_in(data: dict[str, Any], type_name: str) -> dict[str, float]:
    """All matrices in one type, on the clips that parts and budgets were measured on."""
    return interval(few(next(row["clips_sqnr_db"] for row in data["types"] if row["type"] == type_name)))


def budgets_table(data: dict[str, Any]) -> str:
    rows = []
    for row in data["budgets"]:
        uniform = everything_in(data, row["best_uniform"])
        rows.append(
            (
                f"{row['bits_per_weight']:g} (`{row['budget']}`)",
                f"`{row['best_uniform']}` {_db(uniform)}",
                *(f"{_db(row[name]['sqnr_db'])}" for name in ("plain", "calibrated")),
                *(_change(row[name]["gain_db"]) for name in ("plain", "calibrated")),
            )
        )
    header = (
        "bits per weight",
        "best uniform type, dB",
        "scan, dB",
        "scan and calibration, dB",
        "scan's gain, dB",
        "with calibration, dB",
    )
    return _table(header, rows)


def noise_table(data: dict[str, Any]) -> str:
    rows = []
    for name, found in data["noise"].items():
        changes = (_change(found[str(snr_db)]["change_db"]) for snr_db in NOISE_DB)
        rows.append((f"`{name}`", _db(found["clean"]["sqnr_db"]), *changes))
    return _table(("type", "as recorded, dB", *(f"at {snr_db} dB" for snr_db in NOISE_DB)), rows)


def conditions(data: dict[str, Any]) -> str:
    machine, used = data["machine"], data["versions"]
    threads = f"{machine['n_threads']} thread{'s' if machine['n_threads'] > 1 else ''}"
    return (
        f"{data['n_encoder_runs']} runs of the encoder: {data['n_clips']} clips of as many speakers, each once per"
        f" file, every second one for parts and budgets."
        f" {machine['cpu']}, {threads}, ggml built for {machine['isa'][-1]} and below"
        f" ({machine['compiler']}), {machine['system']}. whisperq-edge {used['whisperq_edge']}, whisper.cpp"
        f" {used['whisper_cpp']}, quantiser {used['quantizer']}, Python {used['python']}, numpy {used['numpy']}."
    )


def with_tables(text: str, rendered: dict[str, str]) -> str:
    """The page with what lies between its ``<!-- NAME -->`` and ``<!-- /NAME -->`` marks replaced."""
    for name, table in rendered.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not marks.search(text):
            raise SystemExit(f"docs/quantisation.md has no <!-- {name} --> ... <!-- /{name} -->")
        text = marks.sub(lambda match, table=table: f"{match.group(1)}{table}\n{match.group(2)}", text)
    return text


# ---- Picture ---------------------------------------------------------------------------------------------------------


def draw(data: dict[str, Any], path: Path) -> None:
    """Shades of grey, markers and line styles only: it has to survive a printer."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("the picture needs matplotlib: python -m pip install matplotlib") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(12, 8), layout="constrained")
    grid = figure.add_gridspec(2, 6, height_ratios=[1, 1.35])
    for i, name in enumerate(ALIASED):
        _draw_weights(figure.add_subplot(grid[0, 2 * i : 2 * i + 2]), data, name)
    _draw_layers(figure.add_subplot(grid[1, 0:2]), data)
    _draw_modules(figure.add_subplot(grid[1, 2:4]), data)
    _draw_sizes(figure.add_subplot(grid[1, 4:6]), data)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def _draw_weights(axes: Any, data: dict[str, Any], type_name: str) -> None:
    """A kind of matrix a row, a layer a column. Darker is worse, on the same scale around each type's mean."""
    by_module = next(row["weight_sqnr_db"] for row in data["types"] if row["type"] == type_name)
    values = np.array([by_module[module] for module in MODULES])
    middle = float(values.mean())
    axes.imshow(values, cmap="gray", vmin=middle - 3.5, vmax=middle + 1.2, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value < middle - 1.2 else "black"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(values.shape[1]))
    axes.set_yticks(range(len(MODULES)), list(MODULES))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("encoder layer")
    axes.set_title(f"SQNR of the weights in {type_name}, dB (mean {middle:.1f})", fontsize=10)


_MARKS = {"q8_0": ("o", "-", "black"), "q4_0": ("s", "--", "0.35")}


def _errors(values: Sequence[dict[str, float]]) -> tuple[list[float], list[list[float]]]:
    means = [value["mean"] for value in values]
    return means, [[v["mean"] - v["low"] for v in values], [v["high"] - v["mean"] for v in values]]


def _draw_parts(
    axes: Any, data: dict[str, Any], parts: dict[str, list[dict[str, float]]], ticks: list[str], joined: bool
) -> None:
    for name, values in parts.items():
        marker, line, colour = _MARKS[name]
        means, errors = _errors(values)
        axes.errorbar(
            *(range(len(means)), means, errors),
            marker=marker,
            linestyle=line if joined else "none",
            color=colour,
            capsize=3,
            label=f"only this in {name}",
        )
        everything = everything_in(data, name)["mean"]
        axes.axhline(everything, color=colour, linestyle=":", linewidth=1)
        axes.text(len(means) - 0.55, everything - 0.4, f"all in {name}", ha="right", va="top", color=colour, fontsize=8)
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_xlim(-0.5, len(ticks) - 0.5)
    axes.set_ylim(10, 60)
    axes.set_ylabel("SQNR of the encoder's output, dB")
    axes.grid(axis="y", color="0.9")
    axes.legend(frameon=False, fontsize=8, loc="upper right", ncols=2)


def _draw_layers(axes: Any, data: dict[str, Any]) -> None:
    _draw_parts(axes, data, data["one_layer"], [str(i) for i in range(DIMS.n_audio_layer)], joined=True)
    axes.set_xlabel("encoder layer")
    axes.set_title("One layer quantised, all else f16", fontsize=10)


def _draw_modules(axes: Any, data: dict[str, Any]) -> None:
    values = {name: [found[module] for module in MODULES] for name, found in data["one_module"].items()}
    _draw_parts(axes, data, values, list(MODULES), joined=False)
    axes.set_xlabel("kind of matrix")
    axes.set_title("One kind of matrix quantised in all layers", fontsize=10)


_LABELS_LEFT = ("q4_k", "q4_0", "q3_k")


def _draw_sizes(axes: Any, data: dict[str, Any]) -> None:
    rows = [row for row in data["types"] if row["type"] in BLOCK_TYPES]
    bits = [row["bits_per_weight"] for row in rows]
    means, errors = _errors([everything_in(data, row["type"]) for row in rows])
    axes.errorbar(bits, means, errors, marker="o", linestyle="none", color="black", capsize=3, label="one type for all")
    for row, mean in zip(rows, means):
        left = row["type"] in _LABELS_LEFT
        axes.annotate(
            *(row["type"], (row["bits_per_weight"], mean)),
            xytext=(-7, 4) if left else (7, 3 if row["type"] == "q5_k" else -9),
            ha="right" if left else "left",
            textcoords="offset points",
            fontsize=8,
        )
    chosen = [row["calibrated"]["sqnr_db"]["mean"] for row in data["budgets"]]
    axes.plot(
        *([row["bits_per_weight"] for row in data["budgets"]], chosen),
        marker="D",
        linestyle="--",
        color="0.45",
        markerfacecolor="white",
        label="types per matrix: scan and calibration",
    )
    for marker, (name, found) in zip(("^", "v"), data["by_hand"].items()):
        axes.plot(
            *(found["bits_per_weight"], found["sqnr_db"]["mean"]),
            marker=marker,
            markersize=8,
            linestyle="none",
            color="0.45",
            markeredgecolor="black",
            label=f"q4_k, {name.replace('`', '')}",
        )
    axes.set_xlim(2, 9.5)
    axes.set_xlabel("bits per weight of the encoder's matrices")
    axes.set_ylabel("SQNR of the encoder's output, dB")
    axes.grid(color="0.9")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.set_title("What bits buy", fontsize=10)


# ---- The program -----------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data", help="the speech corpora")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs", help="folder of quantisation.{json,png,md}")
    parser.add_argument("--clips", type=int, default=5, help="1 to 20; 5 hold four corpora")
    parser.add_argument("--threads", type=int, default=1, help="one does not wait for others on a busy machine")
    parser.add_argument("--render", action="store_true", help="only make the picture and the tables again")
    options = parser.parse_args()
    for variable in ("WHISPERQ_COMPUTE_TYPE", "WL_COMPUTE_TYPE"):
        os.environ.pop(variable, None)  # would load each file as another type than it has
    figures = options.out / "quantisation.json"
    if not options.render:
        found = measure(options.data, options.clips, options.threads)
        figures.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    data = json.loads(figures.read_text(encoding="utf-8"))
    draw(data, options.out / "quantisation.png")
    page = options.out / "quantisation.md"
    if page.exists():
        page.write_text(with_tables(page.read_text(encoding="utf-8"), tables(data)), encoding="utf-8")


if __name__ == "__main__":
    main()
