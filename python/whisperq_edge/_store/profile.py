"""What ``whisperq-edge tune`` measured on this machine, for ``compute_type="auto"`` and ``cpu_threads=0``.

::

    <cache folder>/tune.json    a list of profiles: a shape, the machine, what was measured, what was chosen

A profile counts for models of its shape, on the machine that it was measured on: the same CPU, kernels, CPUs that the
process may use, quota and version of this package. Any other is left alone, and a line of INFO says why.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

from .. import _core
from .._system.folders import cache_folder
from .._system.json_files import write_json
from .._system.locks import locked
from .._version import __version__
from .cache import PROFILES

__all__ = ["Profile", "Setting", "find_profile", "load_profiles", "machine_key", "shape_key", "store_profile"]

_LOG = logging.getLogger("whisperq_edge")
_MOST_PROFILES = 100
_said: set[str] = set()


@dataclass(frozen=True)
class Setting:
    """A way to run a model, and how long a window of 30 s took.

    Attributes:
        type: of the weights.
        n_threads: of the CPU.
        isa: the kernels; ``auto`` where only the best that the CPU has were measured.
        window_s: median, in seconds.
    """

    type: str
    n_threads: int
    isa: str
    window_s: float

    @property
    def name(self) -> str:
        threads = "1 thread" if self.n_threads == 1 else f"{self.n_threads} threads"
        return f"{self.type} with {threads}" + ("" if self.isa == "auto" else f" on {self.isa}")


@dataclass(frozen=True)
class Profile:
    """What was measured for one shape on one machine.

    Attributes:
        shape: see :func:`shape_key`.
        machine: see :func:`machine_key`.
        allowed: types that could be chosen.
        chosen: one of ``measured``.
        measured: every setting.
        reason: the choice in a line.
    """

    shape: str
    machine: dict[str, Any]
    allowed: tuple[str, ...]
    chosen: Setting
    measured: tuple[Setting, ...]
    reason: str

    def for_type(self, type: str) -> Optional[Setting]:
        """The fastest that was measured for weights of this type; None: none was."""
        if type == self.chosen.type:
            return self.chosen
        of_type = [setting for setting in self.measured if setting.type == type]
        return min(of_type, key=lambda setting: setting.window_s, default=None)

    @classmethod
    def from_dict(cls, document: Any) -> Optional[Profile]:
        """None: it is nothing that we wrote."""
        try:
            return cls(
                shape=str(document["shape"]),
                machine=dict(document["machine"]),
                allowed=tuple(document["allowed"]),
                chosen=Setting(**document["chosen"]),
                measured=tuple(Setting(**row) for row in document["measured"]),
                reason=str(document["reason"]),
            )
        except (KeyError, TypeError, ValueError):
            return None


def shape_key(hparams: Mapping[str, int]) -> str:
    """What speed depends on: states x layers of encoder and decoder. base and base.en share it."""
    return "{n_audio_state}x{n_audio_layer}+{n_text_state}x{n_text_layer}".format_map(hparams)


def machine_key() -> dict[str, Any]:
    """What a profile depends on beside the shape, ready for JSON."""
    return {
        "cpu": _core.cpu_name() or _core.cpu_family(),
        "isa": _core.chosen_isa(),
        "cpus": _core.usable_cpus(),
        "quota": round(_core.cpu_quota(), 3),
        "affinity": _affinity(),
        "version": __version__,
    }


def _affinity() -> str:
    """The CPUs that the process may run on, such as ``0-3,8``; empty where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        return ""
    runs: list[list[int]] = []
    for cpu in sorted(os.sched_getaffinity(0)):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def profiles_path() -> Path:
    return cache_folder() / PROFILES


def load_profiles() -> list[Profile]:
    """All that were stored, on whatever machine; the latest last. Nothing where the file is not ours or damaged."""
    try:
        rows = json.loads(profiles_path().read_bytes())["profiles"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    found = [Profile.from_dict(row) for row in rows] if isinstance(rows, list) else []
    return [profile for profile in found if profile is not None]


def store_profile(profile: Profile) -> Path:
    """Keeps it in place of an earlier one of the same shape and machine; where.

    Raises:
        OSError: the cache cannot be written.
    """
    path = profiles_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock")):  # another process may add its own between our reading and our writing
        others = [p for p in load_profiles() if (p.shape, p.machine) != (profile.shape, profile.machine)]
        write_json(path, {"profiles": [asdict(p) for p in [*others, profile][-_MOST_PROFILES:]]})
    return path


def find_profile(hparams: Mapping[str, int]) -> Optional[Profile]:
    """The profile that counts for a model of these dimensions, here and now; None: there is none."""
    of_shape = [profile for profile in load_profiles() if profile.shape == shape_key(hparams)]
    if not of_shape:
        return None
    machine = machine_key()
    for profile in reversed(of_shape):
        if profile.machine == machine:
            _say_once(f"tuned: {profile.reason}")
            return profile
    then = of_shape[-1].machine
    changed = [
        f"{name} is {machine[name]!r}, was {then.get(name)!r}" for name in machine if machine[name] != then.get(name)
    ]
    _say_once(f"the profile of `whisperq-edge tune` is not used, since {'; '.join(changed)}: tune again")
    return None


def _say_once(line: str) -> None:
    if line not in _said:
        _said.add(line)
        _LOG.info("%s", line)
