"""``whisperq-edge eval DATA``: word error rates of several models and types, and whether they differ."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, Optional

import click
from click.core import ParameterSource

from .._errors import OptionError
from .._eval.counts import compare_counts, read_counts
from .._eval.data import Dataset, load_dataset
from .._eval.journal import Journal, journal_path
from .._eval.normalise import choose_normaliser, load_extra, normaliser
from .._eval.page import render_page
from .._eval.report import (
    ACCURACY_HEADER,
    COMPARISON_HEADER,
    SPEED_HEADER,
    accuracy_rows,
    bounds,
    comparison_rows,
    make_report,
    percent,
    speed_rows,
    what_can_be_seen,
)
from .._eval.run import System, choose_systems, run_settings, run_systems
from .._model import DEVICES
from .._options import TranscribeOptions
from .._system.files import atomic_write
from .reports import (
    DEFAULT_MODEL,
    MODEL_VARIABLE,
    keeps_journal,
    language_or_none,
    print_json,
    save_report,
    split_list,
)
from .tables import print_table, stage_progress

__all__ = ["eval_command"]

_NUMBERS = (
    *("MB", "WER %", "95 %", "errors", "S", "D", "I", "CER %", "RTF", "p50 ms", "p95 ms", "load ms", "peak MB"),
    *("points", "by speaker", "p", "p corrected", "changed", "words"),
)


@click.command("eval")
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option(
    "--counts",
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="Instead of DATA: judge a table of (name, errors, words), where only totals are known.",
)
@click.option(
    "--models",
    "-m",
    envvar=MODEL_VARIABLE,
    default=DEFAULT_MODEL,
    show_envvar=True,
    show_default=True,
    help="Names or paths, comma-separated.",
)
@click.option(
    "--types", "-t", help="Types of the weights, comma-separated, such as f16,q8_0,q5_0; made once in the cache."
)
@click.option("--engines", default="auto", show_default=True, help="Engines, comma-separated.")
@click.option("--baseline", help="The system to compare with, by its name in the table.  [default: the first]")
@click.option("--split", help="Only rows of a manifest with this value in the column `split`.")
@click.option("--limit", type=int, metavar="N", help="So many utterances, spread evenly over the set.")
@click.option("--language", "-l", help="Code or English name; without it, or with auto, the language is detected.")
@click.option("--beam-size", type=int, help="Beams at temperature 0; 1 is greedy.  [default: 5]")
@click.option(
    "--temperature", type=float, help="Only this one, no fallback.  [default: 0, then up to 1.0 in steps of 0.2]"
)
@click.option(
    "--audio-ctx",
    type=click.Choice(["auto", "1500"]),
    help="auto: encode short audio only as far as it goes; 1500: whole windows.  [default: auto for quantised models]",
)
@click.option("--threads", type=int, default=0, help="CPU threads; 0: all that this process may use.")
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@click.option(
    "--normaliser",
    type=click.Choice(["auto", "english", "basic", "none"]),
    default="auto",
    show_default=True,
    help="How texts are made comparable. auto: openai/whisper's for English, its basic one otherwise. Mind that the"
    " English one writes spelt numbers as figures: `one two three` is the one word 123.",
)
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.json", help="All results."
)
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.html", help="One page, with plots."
)
@click.option("--resume", is_flag=True, help="Go on where a run with the same --output ended, and keep its results.")
@click.option("--overwrite", is_flag=True, help="Replace --output and its journal if they exist.")
@click.option("--worst", type=int, default=10, show_default=True, help="Worst utterances to list per system.")
@click.option("--seed", type=int, default=0, show_default=True, help="The seed of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def eval_command(data: Optional[Path], counts: Optional[Path], **options: Any) -> None:
    """Measure word error rates on DATA, and say which differences can be claimed.

    DATA is a manifest (tsv, csv, jsonl: columns for audio, text and, where known, speaker), a LibriSpeech folder, or a
    folder of audio files with a .txt beside each. Needs the extra `eval`.

    With --output, every transcript is kept in FILE.json.journal at once; --resume goes on from there,
    also with more models, types or utterances.
    """
    if (data is None) == (counts is None):
        raise click.UsageError("give either DATA or --counts FILE.csv")
    if counts is not None:
        _judge_counts(counts, options)
    elif data is not None:
        sys.exit(1 if _measure(data, options) else 0)


# ---- Only totals -----------------------------------------------------------------------------------------------------


_OF_COUNTS = ("baseline", "output", "overwrite", "as_json")


def _judge_counts(path: Path, options: dict[str, Any]) -> None:
    context = click.get_current_context()
    for name, value in options.items():
        is_given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if is_given and name not in _OF_COUNTS:
            raise OptionError(name, value, "not together with --counts, which transcribes nothing")
    report = compare_counts(read_counts(path), options["baseline"])
    if options["output"] is not None:
        _write_json(options["output"], report, options["overwrite"])
    if options["as_json"]:
        print_json(report)
        return
    rows = [
        (each["name"], str(each["errors"]), str(each["words"]), percent(each["rate"]), bounds(each["interval"]))
        for each in report["systems"]
    ]
    print_table(rows, ("system", "errors", "words", "WER %", "95 %"), right=_NUMBERS)
    click.echo()
    for each in report["comparisons"]:
        click.echo(each["verdict"])
    click.echo(f"\n{report['verdict']}")


# ---- A run -----------------------------------------------------------------------------------------------------------


def _measure(data: Path, options: dict[str, Any]) -> bool:
    """True when an utterance failed."""
    output = options["output"]
    options["language"] = language_or_none(options["language"])
    _check_places(options)
    load_extra("jiwer", "jiwer")  # missing packages are told before, not after, hours of work
    names = ("language", "beam_size", "temperature", "audio_ctx")
    given = {name: options[name] for name in names if options[name] is not None}
    language = TranscribeOptions.from_arguments(given).language
    dataset = load_dataset(data, split=options["split"], limit=options["limit"])
    with stage_progress() as advance:
        systems = choose_systems(
            split_list(options["models"]),
            split_list(options["types"] or ""),
            split_list(options["engines"]),
            n_threads=options["threads"],
            on_progress=advance,
        )
        kind = choose_normaliser(options["normaliser"], language, _languages(systems))
        normalise = normaliser(kind, language)
        _check_baseline(options["baseline"], systems)
        _announce(dataset, what_can_be_seen(dataset, normalise, len(systems)))
        settings = run_settings(given, options["device"], options["threads"])
        place = None if output is None else journal_path(output)
        with (
            keeps_journal(place),
            Journal(place, settings, resume=options["resume"], overwrite=options["overwrite"]) as journal,
        ):
            runs = run_systems(systems, dataset.utterances, settings, journal, on_progress=advance)
    report = make_report(
        dataset,
        runs,
        normalise,
        baseline=options["baseline"],
        settings=settings,
        about={"command": shlex.join(["whisperq-edge", *sys.argv[1:]]), "normaliser": kind},
        seed=options["seed"],
        n_worst=options["worst"],
    )
    _deliver(report, options)
    return bool(report["failures"])


def _languages(systems: list[System]) -> set[str]:
    return {"other" if each.is_multilingual else "en" for each in systems}


def _check_places(options: dict[str, Any]) -> None:
    """What would be noticed after hours otherwise."""
    output = options["output"]
    if options["resume"] and output is None:
        raise OptionError("resume", True, "with --output only: the journal of a run lies beside its output")
    if options["resume"] and options["overwrite"]:
        raise OptionError("resume", True, "not together with --overwrite, which begins anew")
    for place in (output, options["html"]):
        if place is not None and not place.absolute().parent.is_dir():
            raise OptionError("output", str(place), "a file in a folder that exists")
    if output is not None and output.exists() and not (options["resume"] or options["overwrite"]):
        raise OptionError("output", str(output), "it exists: --resume adds to that run, --overwrite begins anew")


def _check_baseline(baseline: Optional[str], systems: list[System]) -> None:
    names = [each.name for each in systems]
    if baseline is not None and baseline not in names:
        raise OptionError("baseline", baseline, f"one of {', '.join(names)}")


def _announce(dataset: Dataset, what_can_be_seen: str) -> None:
    n = len(dataset.utterances)
    part = f"{n} of {dataset.n_all} utterances" if n < dataset.n_all else f"{n} utterances"
    click.echo(f"{dataset.path} ({dataset.layout}): {part}. {what_can_be_seen}", err=True)


def _deliver(report: dict[str, Any], options: dict[str, Any]) -> None:
    if options["output"] is not None:
        _write_json(options["output"], report, overwrite=True)
    if options["html"] is not None:
        with atomic_write(options["html"]) as stream:
            stream.write(render_page(report))
    for each in report["failures"]:
        click.echo(f"whisperq-edge: {each['system']}: {each['utterance']}: {each['reason']}", err=True)
    if options["as_json"]:
        print_json(report)
    else:
        _print_report(report)


def _write_json(path: Path, report: dict[str, Any], overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise OptionError("output", str(path), "it exists: --overwrite replaces it")
    save_report(report, path)


def _print_report(report: dict[str, Any]) -> None:
    print_table(accuracy_rows(report), ACCURACY_HEADER, right=_NUMBERS)
    click.echo()
    print_table(speed_rows(report), SPEED_HEADER, right=_NUMBERS)
    if report["comparisons"]:
        click.echo()
        header = [name.format(baseline=report["baseline"]) for name in COMPARISON_HEADER]
        print_table(comparison_rows(report), header, right=_NUMBERS)
    for each in report["systems"]:
        _print_misheard(each)
    click.echo()
    for line in (*(each["verdict"] for each in report["comparisons"]), report["verdict"], *report["notes"]):
        click.echo(line)


def _print_misheard(system: dict[str, Any]) -> None:
    shown = [f"{c['said'] or '+'} > {c['heard'] or '-'} ({c['count']})" for c in system["confusions"][:8]]
    if shown:
        title = "most frequent errors (reference > transcript; + inserted, - left out)"
        click.echo(f"\n{system['name']}, {title}: {', '.join(shown)}")
