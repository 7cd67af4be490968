"""``whisperq-edge info``: what this machine and this build can do."""

from __future__ import annotations

import platform
from typing import Any

import click

from .. import _core
from .._errors import CpuError
from .._system.native import build_info, load_ggml
from .._system.self_test import known_self_test
from .._version import __version__
from .reports import print_json

__all__ = ["collect", "info_command"]


def collect() -> dict[str, Any]:
    """Everything that ``info`` reports, ready for JSON."""
    build = build_info()
    features = _core.cpu_features()
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "compiler": build.compiler,
        "sanitize": build.sanitize,
        "cpu": {
            "name": _core.cpu_name(),
            "family": _core.cpu_family(),
            "features_found": [name for name, found in features.items() if found],
            "features_missing": [name for name, found in features.items() if not found],
            "threads": _core.usable_cpus(),
        },
        "engines": {"ggml": _ggml(build.ggml_requires, build.whisper_cpp, build.native), "edge": _edge()},
        "default_engine": "edge",
    }


def _ggml(requires: list[str], whisper_cpp: str, native: str) -> dict[str, Any]:
    engine: dict[str, Any] = {"whisper_cpp": whisper_cpp, "native_build": native == "ON", "built_for": requires}
    try:
        engine["devices"] = load_ggml().devices()
        engine["usable"] = True
    except CpuError as error:
        engine["usable"] = False
        engine["reason"] = str(error)
    return engine


def _edge() -> dict[str, Any]:
    isas = _core.isas()
    self_test = known_self_test()
    return {
        "does": ["transcribe", "word times", "detect language", "encode", "detect speech"],
        "isas_built": [isa["name"] for isa in isas if isa["built"]],
        "isas_supported": [isa["name"] for isa in isas if isa["built"] and isa["supported"]],
        "isa": self_test.isa if self_test.is_trusted else "scalar",
        "self_test": self_test._asdict(),
    }


def _lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    cpu, ggml, edge = report["cpu"], report["engines"]["ggml"], report["engines"]["edge"]
    devices = ", ".join(f"{device['name']} ({device['description']})" for device in ggml.get("devices", []))
    return [
        ("whisperq-edge", report["version"]),
        ("Python", f"{report['python']} on {report['platform']}"),
        ("Compiler", report["compiler"] + (f", sanitizers {report['sanitize']}" if report["sanitize"] else "")),
        ("CPU", f"{cpu['name'] or 'unknown'} ({cpu['family']})"),
        ("Features found", " ".join(cpu["features_found"]) or "none of those we know"),
        ("Features missing", " ".join(cpu["features_missing"]) or "none of those we know"),
        ("Threads used", f"{cpu['threads']} (affinity and cgroup quota honoured)"),
        ("Engine ggml", f"whisper.cpp {ggml['whisper_cpp']}, {'usable' if ggml['usable'] else ggml['reason']}"),
        ("  built for", " ".join(ggml["built_for"]) + (" (this very CPU)" if ggml["native_build"] else "")),
        ("  devices", devices or "-"),
        ("Engine edge", f"usable; kernels in use: {edge['isa']}"),
        ("  does", ", ".join(edge["does"])),
        ("  built", " ".join(edge["isas_built"])),
        ("  supported here", " ".join(edge["isas_supported"])),
        ("  self-test", _self_test(edge["self_test"])),
        ("Default engine", report["default_engine"]),
    ]


def _self_test(found: dict[str, Any]) -> str:
    ms = "" if found["ms"] is None else f" in {found['ms']:.1f} ms"
    return f"{found['isa']}: {found['state']}{ms}" + (f": {found['reason']}" if found["reason"] else "")


@click.command("info")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def info_command(as_json: bool) -> None:
    """Show CPU features (found, missing, built for), engines, devices, versions and threads."""
    report = collect()
    if as_json:
        print_json(report)
        return
    for label, value in _lines(report):
        click.echo(f"{label:<18}{value}")
