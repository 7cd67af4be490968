"""``whisperq-edge inspect MODEL``: what a model file holds, read without loading it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Optional

import click

from .._catalog import resolve_model
from .._core import ModelFile, read_model_file
from .._languages import LANGUAGES

__all__ = ["inspect_command"]

# Dimensions of the published models: (n_vocab, n_mels, n_audio_state, n_audio_layer, n_text_layer). They say what a
# model is shaped like, not who trained it: a fine-tuned base.en has the shape of base.en.
_SHAPES: dict[tuple[int, int, int, int, int], str] = {
    (51864, 80, 384, 4, 4): "tiny.en",
    (51865, 80, 384, 4, 4): "tiny",
    (51864, 80, 512, 6, 6): "base.en",
    (51865, 80, 512, 6, 6): "base",
    (51864, 80, 768, 12, 12): "small.en",
    (51865, 80, 768, 12, 12): "small",
    (51864, 80, 1024, 24, 24): "medium.en",
    (51865, 80, 1024, 24, 24): "medium",
    (51865, 80, 1280, 32, 32): "large-v1 or large-v2",
    (51866, 128, 1280, 32, 32): "large-v3",
    (51866, 128, 1280, 32, 4): "large-v3-turbo",
    (51864, 80, 768, 12, 4): "distil-small.en",
    (51864, 80, 1024, 24, 2): "distil-medium.en",
    (51865, 80, 1280, 32, 2): "distil-large-v2",
    (51866, 128, 1280, 32, 2): "distil-large-v3",
}


def _shape_of(hparams: dict[str, int]) -> Optional[str]:
    if (hparams["n_audio_ctx"], hparams["n_text_ctx"]) != (1500, 448):
        return None
    if {hparams["n_audio_state"] // hparams[name] for name in ("n_audio_head", "n_text_head")} != {64}:
        return None
    n_layers = hparams["n_audio_layer"], hparams["n_text_layer"]
    return _SHAPES.get((hparams["n_vocab"], hparams["n_mels"], hparams["n_audio_state"], *n_layers))


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
        "shape_of": _shape_of(model.hparams),
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


def _print_plain(report: dict[str, Any]) -> None:
    """Columns that stay whole in a pipe or a file."""
    _print_columns(_summary(report))
    for header, rows in ((_TYPE_COLUMNS, _type_rows(report)), (_TENSOR_COLUMNS, _tensor_rows(report))):
        click.echo()
        _print_columns([header, *rows])


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _print_tables(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def table(columns: Iterable[str], rows: Iterable[Sequence[str]], *, header: bool) -> Table:
        result = Table(box=None, show_header=header, header_style="bold", pad_edge=False)
        for column in columns:
            result.add_column(column, justify="right" if column in ("tensors", "parameters", "bytes") else "left")
        for row in rows:
            result.add_row(*map(Text, row))  # Text: a path in brackets is no markup
        return result

    console = Console()
    console.print(table(("", ""), _summary(report), header=False))
    console.print()
    console.print(table(_TYPE_COLUMNS, _type_rows(report), header=True))
    console.print()
    console.print(table(_TENSOR_COLUMNS, _tensor_rows(report), header=True))


@click.command("inspect")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def inspect_command(model: str, as_json: bool) -> None:
    """Show the dimensions, languages, types and tensors of MODEL, a name or the path of a ggml file.

    The whole file is checked; none of its weights is loaded.
    """
    report = _report(read_model_file(resolve_model(model)))
    if as_json:
        click.echo(json.dumps(report, indent=2))
    elif sys.stdout.isatty():
        _print_tables(report)
    else:
        _print_plain(report)
