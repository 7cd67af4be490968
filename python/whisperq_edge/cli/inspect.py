"""``whisperq-edge inspect MODEL``: what a model file holds, read without loading it."""

from __future__ import annotations

from typing import Any

import click

from .._core import ModelFile, read_model_file
from .._store.catalog import resolve_model, shape_of
from .._whisper.languages import LANGUAGES
from .reports import print_json
from .tables import print_table

__all__ = ["inspect_command"]


def _languages(model: ModelFile) -> list[str]:
    return list(LANGUAGES)[: model.n_languages] if model.is_multilingual else ["en"]


def _by_type(model: ModelFile) -> dict[str, dict[str, int]]:
    types: dict[str, dict[str, int]] = {}
    for tensor in model.tensors:
        row = types.setdefault(tensor.type, {"tensors": 0, "parameters": 0, "bytes": 0})
        row["tensors"] += 1
        row["parameters"] += tensor.n_values
        row["bytes"] += tensor.n_bytes
    return types


def _report(model: ModelFile) -> dict[str, Any]:
    types = _by_type(model)
    return {
        "path": model.path,
        "shape_of": shape_of(model.hparams),
        "ftype": model.ftype,
        "file_bytes": model.file_bytes,
        "parameters": sum(row["parameters"] for row in types.values()),
        "dims": model.hparams,
        "multilingual": model.is_multilingual,
        "languages": _languages(model),
        "vocabulary_tokens": model.n_tokens,
        "types": types,
        "tensors": [
            {"name": t.name, "type": t.type, "dims": list(t.dims), "offset": t.offset, "bytes": t.n_bytes}
            for t in model.tensors
        ],
    }


def _summary(report: dict[str, Any]) -> list[tuple[str, str]]:
    file_bytes, languages = report["file_bytes"], report["languages"]
    spoken = f"{len(languages)}: {' '.join(languages)}" if report["multilingual"] else "English only"
    return [
        ("file", report["path"]),
        ("size", f"{file_bytes / 1e6:.1f} MB ({file_bytes / 2**20:.1f} MiB, {file_bytes} bytes)"),
        ("shape of", report["shape_of"] or "no published model"),
        ("ftype", report["ftype"]),
        ("parameters", f"{report['parameters'] / 1e6:.1f} million"),
        ("languages", spoken),
        ("vocabulary", f"{report['vocabulary_tokens']} tokens in the file, {report['dims']['n_vocab']} in the model"),
        *((name, str(value)) for name, value in report["dims"].items()),
    ]


_TYPE_COLUMNS = ("type", "tensors", "parameters", "bytes")
_TENSOR_COLUMNS = ("tensor", "type", "dims", "bytes")


def _type_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (name, str(row["tensors"]), str(row["parameters"]), str(row["bytes"])) for name, row in report["types"].items()
    ]


def _tensor_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (tensor["name"], tensor["type"], " x ".join(map(str, tensor["dims"])), str(tensor["bytes"]))
        for tensor in report["tensors"]
    ]


def _print_report(report: dict[str, Any]) -> None:
    print_table(_summary(report))
    for header, rows in ((_TYPE_COLUMNS, _type_rows(report)), (_TENSOR_COLUMNS, _tensor_rows(report))):
        click.echo()
        print_table(rows, header, right=("tensors", "parameters", "bytes"))


@click.command("inspect")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def inspect_command(model: str, as_json: bool) -> None:
    """Show the dimensions, languages, types and tensors of MODEL, a name or the path of a ggml file.

    The whole file is checked; none of its weights is loaded.
    """
    report = _report(read_model_file(resolve_model(model)))
    if as_json:
        print_json(report)
    else:
        _print_report(report)
