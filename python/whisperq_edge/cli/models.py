"""``whisperq-edge models``: every model known by name, with what it takes before anything is downloaded."""

from __future__ import annotations

from typing import Any

import click

from .._store.cache import list_cache
from .._store.catalog import ALIASES, BUNDLED_MODELS, MODELS, CatalogModel
from .._whisper.types import TYPES
from .reports import print_json
from .tables import print_table

__all__ = ["models_command"]

_SHOWN_TYPES = ("f16", "q8_0", "q5_0", "q4_0")
_NOT_RUN = ("f32",)  # by whisper.cpp

_HEADER = (
    "name",
    "parameters",
    "languages",
    "layers",
    *(f"{name} MB" for name in _SHOWN_TYPES),
    "memory MB",
    "here",
    "source",
)
_NUMBERS = ("parameters", "languages", "layers", "memory MB", *(f"{name} MB" for name in _SHOWN_TYPES))


def _report(model: CatalogModel, cached: list[str]) -> dict[str, Any]:
    return {
        "name": model.name,
        "aliases": [alias for alias, name in ALIASES.items() if name == model.name],
        "parameters": model.n_parameters,
        "languages": model.n_languages,
        "dims": model.dims._asdict(),
        "file_bytes": {type: model.file_bytes(type) for type in TYPES},
        "memory_bytes": {type: model.memory_bytes(type) for type in TYPES if type not in _NOT_RUN},
        "hub_id": model.hub_id,
        "bundled": model.name in BUNDLED_MODELS,
        "cached": cached,
    }


def _reports() -> list[dict[str, Any]]:
    entries = list_cache()
    return [
        _report(model, sorted({entry.kind for entry in entries if entry.model == model.name}))
        for model in MODELS.values()
    ]


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.0f}"


def _row(report: dict[str, Any]) -> tuple[str, ...]:
    memory, dims = report["memory_bytes"], report["dims"]
    return (
        ", ".join([report["name"], *report["aliases"]]),
        f"{report['parameters'] / 1e6:.1f} M",
        str(report["languages"]),
        f"{dims['n_audio_layer']}+{dims['n_text_layer']}",
        *(_megabytes(report["file_bytes"][type]) for type in _SHOWN_TYPES),
        f"{_megabytes(memory['q4_0'])}-{_megabytes(memory['f16'])}",
        " ".join([*(["bundled"] if report["bundled"] else []), *report["cached"]]) or "-",
        report["hub_id"] or "-",
    )


@click.command("models")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: all types, and sizes in bytes.")
def models_command(as_json: bool) -> None:
    """List the models known by name: size on disk by type, memory, where they come from, and what is here.

    Layers are those of encoder + decoder. Memory is an estimate of what the engine allocates on a CPU, from q4_0 to
    f16. "here" says what is bundled or in the cache; the rest is downloaded from the Hugging Face hub when it is first
    used: q8_0 (large-v3: q5_0) as a published file, other types as float weights (extra `hub`), which are converted.
    """
    reports = _reports()
    if as_json:
        print_json(reports)
    else:
        print_table(list(map(_row, reports)), _HEADER, right=_NUMBERS)
