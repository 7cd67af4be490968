"""Memory: what the `edge` engine takes, what this process can get, and the error when it is not enough.

What native code takes is its own account (``_core.edge_memory``, csrc/edge/memory.h): the functions that reserve memory
are those that tell how much. Python's share is small and about the same for every model; it was measured.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable, NamedTuple, Optional

from .. import _core
from .._errors import OutOfMemoryError
from .._whisper.units import FRAMES_PER_WINDOW, WINDOW_SAMPLES
from .short_audio import is_quantised, whole_steps
from .word_times import alignment_heads

__all__ = ["Available", "BatchCheck", "MemoryPlan", "available_memory", "check_fits", "check_model_fits", "plan_memory"]

_MEL_FRAMES = 3 * FRAMES_PER_WINDOW  # of 30 s and the padding behind them, and the window that the encoder gets
_F32_BYTES = 4
_SOT_TOKENS = 3  # <|startoftranscript|>, language, task
_MORE_ALIGNED = 2  # <|notimestamps|> and <|endoftext|>, which are aligned with the text
# Vocabulary, tokenizer and modules that the first transcription loads (tests/convert/test_plan.py).
_PYTHON_BYTES = 18_000_000
_KEPT = ("encoder", "decoder", "machine", "silence")  # by a model, once it has worked
_PASSING = ("learning", "logits", "alignment")  # one after the other
_UNLIMITED = 1 << 60  # cgroup v1 writes its largest number of pages


# ---- What a model takes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a model takes while it transcribes.

    Attributes:
        type: of its matrices.
        weights: as the kernels hold them, from loading on.
        caches: keys and values of the audio and of the tokens. With beams at most: they share what they have in common.
        buffers: work memory of encoder, decoder and threads; for short audio, what the model makes of silence; logits,
            or the scores that word times are read from.
        audio: samples of a window, its spectrogram and its features.
        python: vocabulary, tokenizer and modules; the same for every model.
    """

    type: str
    weights: int
    caches: int
    buffers: int
    audio: int
    python: int

    @property
    def total(self) -> int:
        return self.weights + self.caches + self.buffers + self.audio + self.python

    def to_dict(self) -> dict[str, object]:
        return {**asdict(self), "total": self.total}


def plan_memory(
    file: _core.ModelFile,
    *,
    isa: str = "auto",
    n_threads: int = 0,
    audio_ctx: int = 0,
    batch_size: int = 1,
    beam_size: int = 1,
    n_prompt_tokens: Optional[int] = None,
    n_tokens: Optional[int] = None,
    word_timestamps: bool = False,
) -> MemoryPlan:
    """What a model takes on the `edge` engine. Nothing is allocated and no weight is read.

    Args:
        file: of ``_core.read_model_file``, or of ``_core.describe_model`` where there is no file.
        isa: the kernels.
        n_threads: 0 takes every CPU that the process may use.
        audio_ctx: audio tokens of a window; 0: all. Fewer are those of short audio, in steps of 32. Quantised models
            have what they need for such in any case, since a recording ends with one.
        batch_size: windows that are decoded together.
        beam_size: sequences of a window.
        n_prompt_tokens: tokens that a window begins with. None: the most there are, with the text before for a window
            alone.
        n_tokens: of a sequence in the end, prompt included. None: the most.
        word_timestamps: windows are aligned, one after the other.

    Raises:
        UnsupportedModelError: a type that the engine has no kernels for.
    """
    dims = file.hparams
    half = dims["n_text_ctx"] // 2
    n_ctx = whole_steps(audio_ctx, dims["n_audio_ctx"]) if audio_ctx else dims["n_audio_ctx"]
    n_prompt = n_prompt_tokens or (half + 4 if batch_size == 1 else 4)
    needs = _core.edge_memory(
        file,
        isa=isa,
        n_threads=n_threads or _core.usable_cpus(),
        n_ctx=n_ctx,
        with_silence=n_ctx < dims["n_audio_ctx"] or is_quantised(file.ftype),
        n_windows=batch_size,
        n_sequences=beam_size,
        n_prompt_tokens=n_prompt,
        n_prompt_logits=min(n_prompt, 4),
        n_tokens=n_tokens or min(n_prompt + half, dims["n_text_ctx"]),
        n_align_tokens=min((n_tokens or half + _SOT_TOKENS) + _MORE_ALIGNED, dims["n_text_ctx"]),
        n_align_heads=len(alignment_heads(dims)) if word_timestamps else 0,
    )
    features = n_ctx * dims["n_audio_state"]
    audio = WINDOW_SAMPLES + _MEL_FRAMES * dims["n_mels"] + features
    return MemoryPlan(
        type=file.ftype,
        weights=needs["weights"],
        caches=needs["audio_caches"] + needs["self_caches"],
        buffers=sum(needs[name] for name in _KEPT) + max(needs[name] for name in _PASSING),
        audio=audio * _F32_BYTES,
        python=_PYTHON_BYTES,
    )


# ---- What there is ---------------------------------------------------------------------------------------------------


class Available(NamedTuple):
    """Bytes that this process can still get, and what sets the limit, in words."""

    n_bytes: int
    limit: str


def check_model_fits(file: _core.ModelFile, isa: str, n_threads: int) -> None:
    """Raises ``OutOfMemoryError`` for a model whose weights are more than this process can get."""
    needs = _core.edge_memory(file, isa=isa or "auto", n_threads=max(n_threads, 1), n_ctx=1)
    check_fits(f"the model {file.path}", needs["weights"])


def check_fits(what: str, n_bytes: int, available: Optional[Available] = None) -> None:
    """Raises before memory is allocated that there is not.

    Args:
        what: that takes it, for the message.
        n_bytes: that it takes.
        available: None asks the system; where that does not tell, everything fits.

    Raises:
        OutOfMemoryError: with both sizes.
    """
    available = available or available_memory()
    if available is not None and n_bytes > available.n_bytes:
        raise OutOfMemoryError(what, n_bytes, available.n_bytes, available.limit)


def available_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> Optional[Available]:
    """The least of what the machine has free (swap included), what the cgroup's limit leaves, file cache that can be
    dropped not counted, and what RLIMIT_AS leaves. None: not Linux, or nothing can be read.

    Args:
        proc, cgroup: where these file systems are.
    """
    if sys.platform != "linux":
        return None
    found = [*_machine(proc), *_groups(proc, cgroup), *_address_space(proc)]
    return min(found, key=lambda each: each.n_bytes, default=None)


def _machine(proc: Path) -> Iterator[Available]:
    rows = _table(proc / "meminfo")
    if "MemAvailable:" in rows:
        n_kib = rows["MemAvailable:"] + rows.get("SwapFree:", 0)
        yield Available(n_kib * 1024, "memory and swap that the machine has free")


class _Names(NamedTuple):
    """Files of a cgroup that has a limit for memory, and the rows of its statistics that are file cache."""

    limit: str
    usage: str
    cache: tuple[str, ...]


_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_V2 = _Names("memory.max", "memory.current", ("inactive_file", "active_file"))


def _groups(proc: Path, root: Path) -> Iterator[Available]:
    """Of this process's group and of every group above it. Lines are ``id:controllers:path``; v2 has no controllers."""
    for line in _text(proc / "self" / "cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) < 3:
            continue
        path = parts[2].strip("/")
        if parts[1] == "":
            yield from _up(root, path, _V2)
        elif "memory" in parts[1].split(","):
            yield from _up(root / "memory", path, _V1)


def _up(root: Path, path: str, names: _Names) -> Iterator[Available]:
    """In a container the path may be that outside of it: then its parents are missing, and the root is the container's
    own group."""
    folder = root / path
    for group in (folder, *folder.parents):
        limit, usage = _number(group / names.limit), _number(group / names.usage)
        if limit is not None and usage is not None and limit < _UNLIMITED:
            rows = _table(group / "memory.stat")
            used = max(usage - sum(rows.get(name, 0) for name in names.cache), 0)
            yield Available(max(limit - used, 0), "the memory limit of its cgroup")
        if group == root:
            return


def _address_space(proc: Path) -> Iterator[Available]:
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _text(proc / "self" / "statm").split()
    if limit != resource.RLIM_INFINITY and pages:
        used = int(pages[0]) * os.sysconf("SC_PAGE_SIZE")
        yield Available(max(limit - used, 0), "RLIMIT_AS (ulimit -v)")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> Optional[int]:
    """None: there is no such file, or it holds a word such as ``max``."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _table(path: Path) -> dict[str, int]:
    """Rows of a name and a number."""
    rows = {}
    for line in _text(path).splitlines():
        with contextlib.suppress(ValueError, IndexError):
            name, value = line.split()[:2]
            rows[name] = int(value)
    return rows


# ---- What is still to be taken ---------------------------------------------------------------------------------------


class BatchCheck:
    """Whether a batch, or the alignment of windows, fits; asked before it begins.

    Only what it is certain to take counts: a page of tokens for each window, no more, since how long a text becomes and
    how much its beams share is not known before.

    Args:
        file: of the model.
        isa, n_threads: that it runs on.
        held: tells the work memory that it has already (``EdgeModel.memory``).
    """

    def __init__(self, file: _core.ModelFile, isa: str, n_threads: int, held: Callable[[], Mapping[str, int]]) -> None:
        self._file, self._isa, self._n_threads, self._held = file, isa, n_threads, held
        self._needs: dict[tuple[int, ...], dict[str, int]] = {}

    def __call__(self, n_windows: int, n_ctx: int) -> None:
        """Raises ``OutOfMemoryError`` when ``n_windows`` of ``n_ctx`` audio tokens do not fit."""
        key = (n_windows, n_ctx)
        if key not in self._needs:
            self._needs[key] = _core.edge_memory(
                self._file,
                isa=self._isa,
                n_threads=self._n_threads,
                n_ctx=n_ctx,
                with_silence=n_ctx < self._file.hparams["n_audio_ctx"],
                n_windows=n_windows,
            )
        needs = self._needs[key]
        n_bytes = needs["audio_caches"] + needs["self_caches"] + needs["logits"] + self._missing(needs)
        windows = "a window" if n_windows == 1 else f"a batch of {n_windows} windows"
        check_fits(f"{windows} of {self._file.path}", n_bytes)

    def alignment(self, n_windows: int, n_ctx: int, n_tokens: int, n_heads: int) -> None:
        """Raises ``OutOfMemoryError`` when the word times of ``n_windows`` of up to ``n_tokens`` tokens do not fit."""
        key = (n_windows, n_ctx, n_tokens, n_heads)
        if key not in self._needs:
            self._needs[key] = _core.edge_memory(
                self._file,
                isa=self._isa,
                n_threads=self._n_threads,
                n_ctx=n_ctx,
                n_windows=n_windows,
                n_tokens=n_tokens,
                n_align_windows=n_windows,
                n_align_tokens=n_tokens,
                n_align_heads=n_heads,
            )
        needs = self._needs[key]
        n_bytes = needs["self_caches"] + needs["alignment"] + self._missing(needs)
        windows = "a window" if n_windows == 1 else f"{n_windows} windows"
        check_fits(f"word times for {windows} of {self._file.path}", n_bytes)

    def _missing(self, needs: Mapping[str, int]) -> int:
        """Bytes of work memory that the model does not have yet."""
        held = self._held()
        learning = 0 if held["silence"] else needs["learning"]
        return learning + sum(max(needs[name] - held[name], 0) for name in _KEPT)
