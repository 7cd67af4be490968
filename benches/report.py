"""What a benchmark file found: its tables, the bars they are held against, and the machine they belong to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from interleave import Outcome, Ratio, write_json
from whisperq_edge import _core
from whisperq_edge._system.native import build_info

__all__ = ["Bar", "Report", "disturbances"]

RESULTS = Path(__file__).resolve().parents[1] / ".benchmarks"


@dataclass(frozen=True)
class Bar:
    """A line of the README's table: what is to be reached, and what was."""

    what: str
    bar: float
    aim: float
    ratio: Optional[Ratio] = None
    remark: str = ""

    def __str__(self) -> str:
        if self.ratio is None:
            return f"| {self.what} | {self.bar:.2f} | {self.aim:.2f} | not measured: {self.remark} | |"
        # The whole interval has to be below: a median of few or noisy rounds is luck.
        below = [name for name, limit in (("aim", self.aim), ("bar", self.bar)) if self.ratio.high <= limit]
        reached = below[0] if below else "missed" if self.ratio.low > self.bar else "not certain"
        measured = f"{self.ratio}, {self.ratio.rounds} rounds" + (f"; {self.remark}" if self.remark else "")
        return f"| {self.what} | {self.bar:.2f} | {self.aim:.2f} | {measured} | {reached} |"


@dataclass
class Report:
    """What the tests of a file found, for one table and one file.

    Attributes:
        name: of the benchmark: ``encode`` for ``test_encode.py``.
        machine: what ``interleave.machine`` says.
        shape: of the model.
    """

    name: str
    machine: dict[str, Any]
    shape: str
    bars: list[Bar] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    disturbances: list[str] = field(default_factory=list)

    def text(self) -> str:
        table = ["| what | bar | aim | measured: ratio of medians [95 %] | reached |", "|---|---|---|---|---|"]
        caption = " ".join([self._caption(), *self.disturbances])
        return "\n".join([*self.lines, "", *table, *map(str, self.bars), "", caption])

    def show(self) -> None:
        """Prints it, and writes it to ``.benchmarks``."""
        bars = [
            {"what": each.what, "bar": each.bar, "aim": each.aim, "ratio": each.ratio and each.ratio._asdict()}
            for each in self.bars
        ]
        print(f"\n{self.text()}")
        found = {"machine": self.machine, "shape": self.shape, **self.data, "bars": bars}
        write_json(RESULTS / f"{self.name}.json", found)
        (RESULTS / f"{self.name}.md").write_text(self.text() + "\n", encoding="utf-8")

    def _caption(self) -> str:
        """What belongs to every figure."""
        about = self.machine
        avx512 = "" if about["has_avx512"] or _core.cpu_family() != "x86_64" else ", no AVX-512"
        versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        return (
            f"{about['cpu']}{avx512}, {about['usable_cpus']} CPUs, {about['threads']} threads, kernels {about['isa']},"
            f" whisper.cpp {build_info().whisper_cpp} built for {build_info().ggml_requires[-1] or 'any CPU'},"
            f" {versions}. python -m pytest benches/test_{self.name}.py -s"
        )


def disturbances(what: str, outcome: Outcome) -> list[str]:
    """The load before ``load`` is that of ``encode``, which runs just before it."""
    lines = []
    if outcome.was_busy:
        lines.append(f"Load average before {what}: {outcome.load_before:.1f}; numbers of a loaded machine.")
    if outcome.unsettled:
        lines.append(f"{what}: {outcome.unsettled} turns began while threads of an earlier one were still busy.")
    return lines
