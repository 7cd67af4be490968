"""``whisperq-edge convert SOURCE``: any Whisper model in, a small one out, with the proof."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Optional

import click

from .._convert.convert import convert_model
from .._convert.proof import proof_rows
from .._convert.report import Report
from .._store.locate import find_source
from .reports import print_json
from .tables import print_table, stage_progress

__all__ = ["convert_command"]

_NUMBERS = ("tensors", "MB before", "MB after", "SQNR dB", "worst dB", "max error", "before", "after", "bytes", "runs")


def _number(value: Optional[float], digits: int = 2) -> str:
    return "exact" if value is None else f"{value:.{digits}f}"


def _summary(report: Report) -> list[tuple[str, str]]:
    data = report.to_dict()
    source, made = data["source"], data["destination"]
    return [
        ("source", f"{source['path']} ({source['format']}, {source['type']})"),
        ("written", made["path"]),
        ("type", made["type"]),
        ("size", f"{made['mb']:.2f} MB ({made['mib']:.2f} MiB), {100 / data['ratio']:.1f} % of {source['mb']:.2f} MB"),
        ("time", f"{report.seconds['convert']:.2f} s, {data['mb_per_s']:.0f} MB/s on {data['n_threads']} threads"),
        ("sha256", made["sha256"]),
    ]


def _by_type(report: Report) -> list[tuple[str, ...]]:
    """One row for each (type before, type after, why)."""
    groups: dict[tuple[str, str, str], list[Any]] = {}
    for cost in report.tensors:
        groups.setdefault((cost.source_type, cost.type, cost.reason), []).append(cost)
    rows: list[tuple[str, ...]] = []
    for (before, after, reason), costs in groups.items():
        errors = [cost.sqnr_db for cost in costs if cost.sqnr_db is not None]
        mean = sum(errors) / len(errors) if errors else None
        n_before, n_after = (sum(getattr(cost, name) for cost in costs) for name in ("source_bytes", "n_bytes"))
        rows.append(
            (
                *(f"{before} -> {after}", str(len(costs)), f"{n_before / 1e6:.2f}", f"{n_after / 1e6:.2f}"),
                *(_number(mean), _number(min(errors) if errors else None)),
                *(f"{max(cost.max_error for cost in costs):.2g}", reason),
            )
        )
    return rows


_TYPE_HEADER = ("type", "tensors", "MB before", "MB after", "SQNR dB", "worst dB", "max error", "why")
_TENSOR_HEADER = ("tensor", "type", "group", "symmetric", "SQNR dB", "max error", "bytes")


def _tensor_rows(report: Report) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for tensor in report.to_dict()["tensors"]:
        group = str(tensor["group"]) if tensor["quantised"] else "-"
        symmetric = {True: "yes", False: "no", None: "-"}[tensor["symmetric"]]
        rows.append(
            (
                *(tensor["name"], f"{tensor['source_type']} -> {tensor['type']}", group, symmetric),
                *(_number(tensor["sqnr_db"]), f"{tensor['max_error']:.2g}", str(tensor["bytes"])),
            )
        )
    return rows


def _print_report(report: Report, all_tensors: bool) -> None:
    print_table(_summary(report))
    if report.tensors:
        click.echo()
        print_table(_by_type(report), _TYPE_HEADER, right=_NUMBERS)
    if report.tensors and all_tensors:
        click.echo()
        print_table(_tensor_rows(report), _TENSOR_HEADER, right=(*_NUMBERS, "group"))
    if report.proof is not None:
        click.echo()
        print_table(proof_rows(report.proof), ("whole model", "before", "after", "how"), right=_NUMBERS)
    for line in [*([report.verdict] if report.verdict else []), *report.notes]:
        click.echo(f"\n{line}")


@click.command("convert")
@click.argument("source")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Where to. Default: ggml-<name>-<type>.bin in this folder."
)
@click.option(
    "-t",
    "--type",
    "type_name",
    help="f32 f16 q8_0 q5_1 q5_0 q4_1 q4_0 q6_k q5_k q4_k q3_k q2_k iq4_nl, or int8 q8 int5 q5 int4 q4 float16 float32."
    " Default: q5_0; f16 with --to openai or safetensors.",
)
@click.option(
    "--to", type=click.Choice(["ggml", "openai", "safetensors"]), default="ggml", show_default=True, help="The format."
)
@click.option(
    "--tensor-type",
    "tensor_types",
    multiple=True,
    metavar="REGEX=TYPE",
    help="Another type for the tensors whose names match. May be repeated; the last that matches counts.",
)
@click.option("--recipe", type=click.Path(path_type=Path), metavar="FILE.toml", help="Types from a file.")
@click.option(
    "--target-size",
    metavar="SIZE",
    help="Choose the types so that the file is no larger, such as 40MB or 38MiB. Writes the recipe beside the model.",
)
@click.option(
    "--calibrate",
    multiple=True,
    metavar="AUDIO",
    help="Speech whose activations weigh the errors of --target-size. May be repeated.",
)
@click.option(
    "--proof",
    type=click.Choice(["full", "tensors"]),
    default="full",
    show_default=True,
    help="full runs the model before and after; tensors only measures the weights.",
)
@click.option(
    "--min-agreement",
    type=float,
    metavar="SHARE",
    help="Fail, and write nothing, when the decoder's tokens agree with the source's less often than this (0 to 1).",
)
@click.option("--overwrite", is_flag=True, help="Replace the output file if it exists.")
@click.option("--threads", type=int, default=0, help="0: every CPU that the process may use.")
@click.option("--revision", help="The branch, tag or commit of a model on the hub.")
@click.option("--tensors", "all_tensors", is_flag=True, help="Print a line for every tensor.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def convert_command(
    source: str,
    output: Optional[Path],
    type_name: Optional[str],
    tensor_types: tuple[str, ...],
    threads: int,
    revision: Optional[str],
    all_tensors: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Convert SOURCE into a small model file, and report what that cost.

    SOURCE is an OpenAI .pt, a Hugging Face or CTranslate2 folder, a ggml .bin, a published name such as base.en, or a
    hub id such as openai/whisper-base.en. The report is also written beside the model, as <file>.json.
    """
    with stage_progress() as advance:
        report = convert_model(
            source,
            output,
            type=type_name,
            tensor_types=tensor_types,
            n_threads=threads,
            find=functools.partial(find_source, revision=revision),
            on_progress=advance,
            **options,
        )
    if as_json:
        print_json(report.to_dict())
    else:
        _print_report(report, all_tensors)
