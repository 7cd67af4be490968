"""The machine that figures belong to: what it is, and what it did while they were measured."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Optional

from .. import _core
from .._system.native import build_info
from .._system.self_test import trusted_isa
from .._version import __version__

__all__ = ["Watch", "card_differences", "machine_card", "package_version"]

_SAME = ("cpu", "family", "system", "usable_cpus", "edge_isa", "ggml_built_for", "governor", "numpy", "sanitize")
"""What has to agree for two runs to be compared. Our own version is not among it: that is what one wants to compare.
numpy is, because the yardstick runs on it."""


def machine_card() -> dict[str, Any]:
    """What the machine and the build are, ready for JSON; None where the system does not tell."""
    build = build_info()
    return {
        "cpu": _core.cpu_name() or None,
        "family": _core.cpu_family(),
        "system": f"{platform.system()} {platform.machine()}",
        "usable_cpus": _core.usable_cpus(),
        "edge_isa": trusted_isa(),
        "ggml_built_for": " ".join(build.ggml_requires),
        "governor": _governor(),
        "whisperq_edge": __version__,
        "whisper_cpp": build.whisper_cpp,
        "compiler": build.compiler,
        "sanitize": build.sanitize,
        "python": platform.python_version(),
        "numpy": metadata.version("numpy"),
        "platform": platform.platform(),
    }


def card_differences(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    """What keeps two runs from being compared, in words."""
    return [
        f"{name} is {now.get(name)!r}, then {then.get(name)!r}" for name in _SAME if now.get(name) != then.get(name)
    ]


def package_version(package: str) -> Optional[str]:
    """None: it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


class Watch:
    """What the machine did between two moments."""

    def __init__(self) -> None:
        self._ticks = _cpu_ticks()
        self._load, self._temperature = _load_average(), _temperature_c()

    def conditions(self) -> dict[str, Any]:
        """Since the watch was made: steal in percent of all CPU time, load averages of a minute, the temperature of
        the warmest sensor in °C; None where the system does not tell."""
        return {
            "steal_percent": _steal_percent(self._ticks, _cpu_ticks()),
            "load_before": self._load,
            "load_after": _load_average(),
            "temperature_before_c": self._temperature,
            "temperature_after_c": _temperature_c(),
        }


def _governor() -> Optional[str]:
    return _line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"))


def _load_average() -> Optional[float]:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _cpu_ticks() -> Optional[list[int]]:
    """Of all CPUs: user, nice, system, idle, iowait, irq, softirq, steal. Guests are counted in user already."""
    line = _line(Path("/proc/stat")) if sys.platform == "linux" else None
    return None if line is None else [int(value) for value in line.split()[1:9]]


def _steal_percent(before: Optional[list[int]], after: Optional[list[int]]) -> Optional[float]:
    """Time in which the hypervisor ran somebody else although we had work."""
    if before is None or after is None or len(before) < 8:
        return None
    spent = [b - a for a, b in zip(before, after)]
    return round(100 * spent[7] / sum(spent), 2) if sum(spent) > 0 else 0.0


def _temperature_c() -> Optional[float]:
    readings = [_line(path) for path in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    values = [int(text) / 1000 for text in readings if text and text.lstrip("-").isdigit()]
    return max(values, default=None)


def _line(path: Path) -> Optional[str]:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.readline().strip()
    except (OSError, UnicodeDecodeError):
        return None
