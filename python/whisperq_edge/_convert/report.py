"""What a conversion cost, as data: the sidecar, ``--json`` and the tables on the terminal are made of this."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from .. import _core
from .._system.native import build_info, load_ggml
from .._version import __version__
from .._whisper.types import TYPES
from .writer import TensorCost

__all__ = ["GROUPS", "Report", "sidecar_path"]

GROUPS = {
    "q8_0": (32, True),
    "q5_1": (32, False),
    "q5_0": (32, True),
    "q4_1": (32, False),
    "q4_0": (32, True),
    "q6_k": (16, True),
    "q5_k": (32, False),
    "q4_k": (32, False),
    "q3_k": (16, True),
    "q2_k": (16, False),
    "iq4_nl": (32, False),
}
"""Of a block type: how many values share a scale, and whether zero is always one of the values (not where an offset
moves it, or no level is there). A k-quant's block of 256 is divided again."""


def sidecar_path(destination: Path) -> Path:
    """Where the report lies beside the model."""
    return destination.with_name(destination.name + ".json")


def _tensor_row(cost: TensorCost) -> dict[str, Any]:
    group, symmetric = GROUPS.get(cost.type, (None, None))
    return {
        "name": cost.name,
        "shape": list(cost.shape),
        "source_type": cost.source_type,
        "type": cost.type,
        "quantised": TYPES[cost.type].block_size > 1,
        "reason": cost.reason,
        "group": group,
        "symmetric": symmetric,
        "sqnr_db": cost.sqnr_db,
        "max_error": cost.max_error,
        "source_bytes": cost.source_bytes,
        "bytes": cost.n_bytes,
    }


@dataclass
class Report:
    """A finished conversion.

    Attributes:
        source, destination: ``path``, ``sha256``, ``bytes``, type and format.
        recipe: type and patterns as they were asked for or found.
        tensors: one :class:`TensorCost` each, in the order of the file.
        proof: of the whole model (``Proof.to_dict``), or None with the reason in ``notes``.
        seconds: ``convert`` (reading, quantising, writing), ``verify`` and ``proof``.
        notes: sentences.
    """

    source: dict[str, Any]
    destination: dict[str, Any]
    recipe: dict[str, Any]
    tensors: list[TensorCost]
    seconds: dict[str, float]
    n_threads: int
    proof: Optional[dict[str, Any]] = None
    verdict: Optional[str] = None
    notes: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return Path(self.destination["path"])

    @property
    def sha256(self) -> str:
        return str(self.destination["sha256"])

    @property
    def megabytes_per_second(self) -> float:
        """Bytes of the source that were converted in a second, in MB; proof and verification aside."""
        return float(self.source["bytes"] / 1e6 / max(self.seconds["convert"], 1e-9))

    def to_dict(self) -> dict[str, Any]:
        before, after = self.source["bytes"], self.destination["bytes"]
        return {
            "sha256": self.sha256,
            "source_sha256": self.source["sha256"],
            "type": self.destination["type"],
            "source": self.source,
            "destination": self.destination,
            "ratio": before / after if after else None,
            "recipe": self.recipe,
            "proof": self.proof,
            "verdict": self.verdict,
            "notes": self.notes,
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
            "mb_per_s": round(self.megabytes_per_second, 1),
            "n_threads": self.n_threads,
            "versions": versions(),
            "machine": {"cpu": _core.cpu_name() or _core.cpu_family(), "system": platform.platform(terse=True)},
            "tensors": [_tensor_row(cost) for cost in self.tensors],
        }


def versions() -> dict[str, str]:
    return {
        "whisperq_edge": __version__,
        "whisper_cpp": build_info().whisper_cpp,
        "quantizer": str(load_ggml().quantizer_version),
    }


def file_entry(path: Path, n_bytes: int, sha256: str, type_name: str, format_name: str) -> dict[str, Any]:
    return {
        "path": str(path),
        "format": format_name,
        "type": type_name,
        "bytes": n_bytes,
        "mb": round(n_bytes / 1e6, 2),
        "mib": round(n_bytes / 2**20, 2),
        "sha256": sha256,
    }
