"""What runs against what: every type on every engine with every number of threads, and the peers beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from .._core import read_model_file, usable_cpus
from .._errors import OptionError
from .._model import ENGINES
from .._store.catalog import shape_of
from .._store.locate import locate_model
from .._system.native import build_info
from .._whisper.types import resolve_type
from .peers import PEERS, prepare_peer
from .random_model import random_dims, write_random

__all__ = ["RANDOM", "BenchSystem", "choose_bench_systems"]

RANDOM = "random:"
"""Before the name of a shape: a model with random weights."""

_MOST_THREADS = 512
OnProgress = Callable[[str, float], None]


@dataclass(frozen=True)
class BenchSystem:
    """A model in a type, what runs it, and on how many threads.

    Attributes:
        name: the shortest that tells the systems of a run apart, such as ``q5_0 edge``.
        kind: of the worker's task: ``whisperq-edge``, or a peer.
        version: of what runs it.
        model: file or folder.
        engine: of ``whisperq-edge``; else the peer's name.
        type: of the matrices.
        n_threads: that it may use.
        n_bytes: of the model on the disk.
        n_vocab: of the model.
        shape: the published models of these dimensions, or the dimensions.
        isa: the kernels of ``edge``; ``auto`` takes what this process would.
    """

    name: str
    kind: str
    version: str
    model: Path
    engine: str
    type: str
    n_threads: int
    n_bytes: int
    n_vocab: int
    shape: str
    isa: str = "auto"


def choose_bench_systems(
    model: str,
    types: Sequence[str],
    engines: Sequence[str],
    threads: Sequence[int],
    peers: Sequence[str],
    folder: Path,
    on_progress: Optional[OnProgress] = None,
    *,
    beam_size: int = 1,
) -> tuple[list[BenchSystem], list[tuple[str, str]]]:
    """The systems in the order of the options, and (name, reason) of the peers that are left out.

    Args:
        model: a name or path, as ``WhisperModel`` takes it, or ``random:`` and the name of a shape.
        types: none: the model as it is; f16 where its weights are random.
        engines: names.
        threads: numbers; 0 is every CPU that the process may use.
        peers: keys of ``PEERS``. They get the weights of the first type.
        folder: where random models and those of peers are written to.
        on_progress: told ("preparing", fraction), and what is fetched.
        beam_size: that all shall decode with; a peer that cannot is left out.

    Raises:
        OptionError: a value that is not possible, or one that is there twice.
        ModelError, OSError: as ``WhisperModel`` raises them.
    """
    wanted = [resolve_type(type, "types") for type in types]
    for field, values, allowed in (("engines", engines, ENGINES), ("vs", peers, tuple(PEERS))):
        for value in values:
            if value not in allowed:
                raise OptionError(field, value, f"one of {', '.join(allowed)}")
    counts = [_checked_threads(n) for n in threads]
    for field, given in (("types", wanted), ("engines", engines), ("threads", counts), ("vs", peers)):
        if len(set(given)) < len(given):
            raise OptionError(field, ",".join(map(str, given)), "each one once")
    files = []
    for i, type in enumerate(wanted or ["default"]):
        files.append(_file(model, type, folder, on_progress))
        if on_progress is not None:
            on_progress("preparing", (i + 1) / max(len(wanted), 1))
    ours = [
        _ours(path, engine, n, len(engines) > 1, len(counts) > 1)
        for path in files
        for engine in engines
        for n in counts
    ]
    if len({each.name for each in ours}) < len(ours):
        raise OptionError("types", ",".join(types), "types that differ for this model: some of them fall back to one")
    theirs, skipped = _peers(peers, files[0], ours[0], counts, folder, beam_size)
    return [*ours, *theirs], skipped


def _checked_threads(n: int) -> int:
    if not 0 <= n <= _MOST_THREADS:
        raise OptionError("threads", n, f"0 (automatic) to {_MOST_THREADS}")
    return n or usable_cpus()


def _file(model: str, type: str, folder: Path, on_progress: Optional[OnProgress]) -> Path:
    if not model.startswith(RANDOM):
        return locate_model(model, type, on_progress=on_progress)
    shape, type = model[len(RANDOM) :], "f16" if type == "default" else type
    random_dims(shape)  # an unknown one is told before anything is written
    path = folder / f"random-{shape.replace('/', '-')}-{type}.bin"
    write_random(path, shape, type)
    return path


def _ours(path: Path, engine: str, n_threads: int, several_engines: bool, several_threads: bool) -> BenchSystem:
    file = read_model_file(path)
    parts = (file.ftype, engine if several_engines else "", f"{n_threads}t" if several_threads else "")
    return BenchSystem(
        name=" ".join(part for part in parts if part),
        kind="whisperq-edge",
        version=build_info().version,
        model=path,
        engine=engine,
        type=file.ftype,
        n_threads=n_threads,
        n_bytes=path.stat().st_size,
        n_vocab=file.hparams["n_vocab"],
        shape=shape_of(file.hparams) or " ".join(f"{name}={value}" for name, value in file.hparams.items()),
    )


def _peers(
    peers: Sequence[str], model: Path, like: BenchSystem, counts: Sequence[int], folder: Path, beam_size: int
) -> tuple[list[BenchSystem], list[tuple[str, str]]]:
    found, skipped = [], []
    for peer in peers:
        models, reason = prepare_peer(peer, model, folder, beam_size)
        if not models:
            skipped.append((peer, reason))
        for each in models:
            for n in counts:
                name = f"{each.name} {n}t" if len(counts) > 1 else each.name
                n_bytes = sum(file.stat().st_size for file in _files(each.path))
                found.append(
                    BenchSystem(
                        *(name, each.kind, each.version, each.path, peer, each.type, n, n_bytes),
                        n_vocab=like.n_vocab,
                        shape=like.shape,
                    )
                )
    return found, skipped


def _files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
